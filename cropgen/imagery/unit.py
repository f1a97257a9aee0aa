"""A unit of work: one acquisition over the parcels of one season, its statistics kept in the work folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cropgen.core.files import atomic_output
from cropgen.core.growing import load_array
from cropgen.imagery.pixel_sample import PixelSample
from cropgen.imagery.pixels import TilePixels
from cropgen.imagery.sample_values import SampleValues
from cropgen.imagery.scene import Acquisition
from cropgen.imagery.zonal import Reading, write_statistics

_ROWS = "rows.npy"
_PIXELS, _CLEAR = "pixels.npy", "clear.npy"


@dataclass(frozen=True)
class Unit:
    """One acquisition and what is to be computed of it.

    Arguments:
        tile: the pixels of the parcels on its grids.
        folder: for the result.
        threads: cells read side by side.
        sample: the pixels that pixel sets are made of; None where none are wanted.
    """

    acquisition: Acquisition
    tile: TilePixels
    reading: Reading
    folder: Path
    threads: int = 1
    sample: PixelSample | None = None

    @property
    def done(self) -> bool:
        """Whether the result is there and whole; a crash of the system may leave less than was written."""
        try:
            kept = (self.rows(), *(self.pixels() if self.sample is not None else ()))
            return all(len(part) == len(self.tile.members) for part in kept)
        except (OSError, ValueError, EOFError):
            return False

    def rows(self) -> np.ndarray:
        """(P,) records of weight (G,) by grid and values (S·C,), as `write_statistics`, for the members of the tile."""
        return load_array(self.folder / _ROWS)

    def pixels(self) -> tuple[np.ndarray, np.ndarray]:
        """Values (P, S, C) int16 and clear (P, S) of the sample, as `SampleValues`, for the members of the tile."""
        return load_array(self.folder / _PIXELS), load_array(self.folder / _CLEAR)


def aggregate_unit(unit: Unit) -> None:
    """Compute a unit and keep its result.

    Raises:
        CorruptInputError: a layer cannot be read.
        CropgenError: the result cannot be written.
    """
    with atomic_output(unit.folder) as part:
        part.mkdir()
        reading, sample = unit.reading, None
        if unit.sample is not None:
            finest = unit.tile.grids[unit.tile.finest]
            sample = SampleValues(unit.sample.read(), finest, reading.bands, reading.calibration, reading.nodata)
        write_statistics(part / _ROWS, unit.acquisition, unit.tile, reading, unit.threads, sample)
        if sample is not None:
            for name, content in zip((_PIXELS, _CLEAR), sample.result(), strict=True):
                np.save(part / name, content)
