"""A unit of work: one acquisition over the parcels of one season, its statistics kept in the work folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cropgen.core.files import atomic_output
from cropgen.imagery.pixels import TilePixels
from cropgen.imagery.scene import Acquisition
from cropgen.imagery.zonal import Reading, parcel_statistics

_ROWS = "rows.npy"


@dataclass(frozen=True)
class Unit:
    """One acquisition and what is to be computed of it.

    Arguments:
        tile: the pixels of the parcels on its grids.
        folder: for the result; it is there when and only when the unit is done.
        threads: cells read side by side.
    """

    acquisition: Acquisition
    tile: TilePixels
    reading: Reading
    folder: Path
    threads: int = 1

    @property
    def done(self) -> bool:
        return (self.folder / _ROWS).is_file()

    def rows(self) -> np.ndarray:
        """(P,) records of weight (G,) by grid and values (S·C,), as `ParcelStatistics`, for the members of the tile."""
        return np.load(self.folder / _ROWS, mmap_mode="r")


def aggregate_unit(unit: Unit) -> None:
    """Compute a unit and keep its result.

    Raises:
        CorruptInputError: a layer cannot be read.
        CropgenError: the result cannot be written.
    """
    weight, values = parcel_statistics(unit.acquisition, unit.tile, unit.reading, unit.threads)
    kind = [("weight", "<f8", weight.shape[1:]), ("values", "<f4", values.shape[1:])]
    rows = np.zeros(len(weight), np.dtype(kind))
    rows["weight"], rows["values"] = weight, values
    with atomic_output(unit.folder) as part:
        part.mkdir()
        np.save(part / _ROWS, rows)
