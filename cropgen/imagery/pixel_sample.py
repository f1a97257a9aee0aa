"""The sample of pixels behind pixel sets: which pixels of a parcel, chosen once, and their values at a date.

A pixel is known by its place in the lattice of its grid, (i, j) = (easting, northing) by pixel size, and drawn by

    h(parcel id, i, j),   a mixing of 64 bits: the S pixels of least h are the sample, in the order of h.

So the sample is uniform, and the same whatever tile, order or number of parcels it is taken from. By coverage, pixels
that are covered to less than a half stay out where a parcel has others.

Pixels are those of the finest grid; a coarser band gives the value of its pixel under the fine pixel's centre.

Reference: Fast Splittable Pseudorandom Number Generators, Steele, Lea and Flood, 2014 (the mixing function).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cropgen.core.errors import UsageError
from cropgen.core.files import atomic_output, remove
from cropgen.core.growing import load_array
from cropgen.core.run import fingerprint
from cropgen.imagery.ledger import WorkFolder
from cropgen.imagery.pixels import TilePixels
from cropgen.imagery.scene import Grid
from cropgen.series.bands import is_reflectance

NOTHING = np.iinfo(np.uint64).max
"""The hash of a place without a pixel."""
SAMPLE = np.dtype([("hash", "<u8"), ("row", "<i4"), ("column", "<i4")])
Grids = tuple[Grid, ...]
_FILE = "sample.npy"
_LEAST_COVER = 0.5


@dataclass(frozen=True)
class PixelSample:
    """The chosen pixels of the parcels of a tile, kept in a folder."""

    folder: Path

    def read(self) -> np.ndarray:
        """(P, S) SAMPLE of each member of the tile, by hash; rows and columns are those of the finest grid."""
        return load_array(self.folder / _FILE)

    def holds(self, parcels: int) -> bool:
        """Whether it is there and whole; a crash of the system may leave less than was written."""
        try:
            return len(self.read()) == parcels
        except (OSError, ValueError, EOFError):
            return False


def check_inside(bands: Sequence[str], size: int) -> None:
    """Refuse pixel sets of bands that are no reflectances.

    Raises:
        UsageError: pixel sets are wanted and there is none.
    """
    if size and not inside_bands(bands):
        raise UsageError(
            f"pixel sets hold reflectances, got the bands {', '.join(bands)}", hint="leave out --pixels, or add bands"
        )


def keep_samples(
    tiles: Mapping[Grids, TilePixels], ids_of: Callable[[np.ndarray], np.ndarray], size: int, work: WorkFolder
) -> dict[Grids, PixelSample]:
    """The sample of every tile, taken from the work folder where it is there; none where the size is 0.

    Arguments:
        ids_of: gives the parcel ids of some ranks.
        size: S.
    """
    kept: dict[Grids, PixelSample] = {}
    for grids, tile in tiles.items() if size else ():
        ids = ids_of(tile.members).tolist()
        sample = PixelSample(work.tile(fingerprint("sample", tile.folder.name, ids, size)[:32]))
        if not sample.holds(len(ids)):
            remove(sample.folder)
            write_sample(sample.folder, tile, ids, size)
        kept[grids] = sample
    return kept


def write_sample(folder: Path, tile: TilePixels, parcel_id: Sequence[str], size: int) -> None:
    """Choose the pixels of every parcel of a tile and keep them.

    Arguments:
        parcel_id: of each member of the tile.
        size: S.
    """
    grid = tile.grids[tile.finest]
    key = np.array([int.from_bytes(hashlib.sha256(p.encode()).digest()[:8], "big") for p in parcel_id], np.uint64)
    chosen = np.zeros((len(key), size), SAMPLE)
    chosen["hash"] = NOTHING
    for parcel, row, column in _pixels(tile, len(key)):
        owner, rows = np.unique(parcel, return_inverse=True)
        found = np.zeros(len(parcel), SAMPLE)
        found["hash"], found["row"], found["column"] = _hashed(key[parcel], grid, row, column), row, column
        chosen[owner] = _least(chosen[owner], found, rows, size)
    with atomic_output(folder) as part:
        part.mkdir()
        np.save(part / _FILE, chosen)


def _pixels(tile: TilePixels, parcels: int) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Parcel, row and column of every pixel of the finest grid that may be drawn, cell by cell."""
    cells = tile.cells(tile.finest)
    whole = np.zeros(parcels, bool)
    for cell in cells:
        whole[cell.runs["parcel"][cell.runs["weight"] >= _LEAST_COVER]] = True
    for cell in cells:
        runs = cell.runs[(cell.runs["weight"] >= _LEAST_COVER) | ~whole[cell.runs["parcel"]]]
        width = runs["width"].astype(np.int64)
        along = np.arange(int(width.sum())) - np.repeat(np.cumsum(width) - width, width)
        yield np.repeat(runs["parcel"], width), np.repeat(runs["row"], width), np.repeat(runs["left"], width) + along


def _hashed(key: np.ndarray, grid: Grid, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """(M,) uint64 h of pixels of a grid, never `NOTHING`."""
    a, _, c, _, e, f = grid.transform
    i = np.floor((c + a * (column + 0.5)) / a).astype(np.int64)
    j = np.floor((f + e * (row + 0.5)) / -e).astype(np.int64)
    return np.minimum(_mixed(_mixed(_mixed(key) ^ i.astype(np.uint64)) ^ j.astype(np.uint64)), NOTHING - np.uint64(1))


def _mixed(bits: np.ndarray) -> np.ndarray:
    """uint64 in, uint64 out, one to one; products are taken modulo 2⁶⁴."""
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def _least(known: np.ndarray, found: np.ndarray, owner: np.ndarray, size: int) -> np.ndarray:
    """(Q, S) SAMPLE: the least of those known (Q, S) and those found (M,) of each owner (M,)."""
    every = np.concatenate([known.ravel(), found])
    whose = np.concatenate([np.repeat(np.arange(len(known)), size), owner])
    order = np.lexsort((every["hash"], whose))
    place = np.arange(len(order)) - np.searchsorted(whose[order], whose[order])
    kept = order[place < size]
    return every[kept].reshape(len(known), size)


def inside_bands(bands: Sequence[str]) -> tuple[str, ...]:
    """The bands that pixel sets are kept of: reflectances."""
    return tuple(band for band in bands if is_reflectance(band))
