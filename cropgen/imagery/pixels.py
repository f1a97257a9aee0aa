"""The pixels of all parcels on the grids of one tile: found once, kept on disk, used for every date and band.

This is a parcel-id raster in sparse form: runs of pixels with their parcel and weight, by cell. A cell is a block of
rows and columns of a grid that begins where the blocks of tiled rasters begin. It is read at once, so neither the scene
nor the parcels decide how much memory a date takes.

    members.npy     (P,) rank of each parcel that meets the tile: its position in the output
    facts.npy       (P,) whole pixels of the parcel in all (weight, on the finest grid, inside the tile or not), those
                    inside, whether it lies whole inside, and whether it took the fall-back of small parcels
    runs-<g>.npy    RUN of grid g by cell, parcel (position in `members`), row and column
    cells-<g>.npy   CELL of grid g
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import gcd
from pathlib import Path
from typing import NamedTuple

import numpy as np
import shapely

from cropgen.core.files import atomic_output
from cropgen.core.growing import GrowingArray, load_array
from cropgen.core.threads import in_order
from cropgen.imagery.coverage import runs_of_coverage
from cropgen.imagery.panels import PANEL_COLUMNS, CellPixels, cut, pixels_of
from cropgen.imagery.scanline import RUN, runs_of_centres, runs_of_touched
from cropgen.imagery.scene import Grid, Window

CELL_ROWS = 1024
CELL_COLUMNS = 11 * PANEL_COLUMNS
CELL = np.dtype([(name, "<i8") for name in ("top", "bottom", "left", "right", "first", "last")])
"""The window that holds the runs `first` ≤ i < `last`."""
_HEADER = 4096
_ROUNDING = 1e-4
FACTS = np.dtype([("total", "<f8"), ("inside", "<f8"), ("whole", "?"), ("coarse", "?")])


@dataclass(frozen=True)
class ParcelShapes:
    """P parcels in one coordinate system.

    Arguments:
        rank: (P,) their positions in the output, ascending.
        outline: (P,) polygons.
        inner: (P,) outlines after the inward buffer; empty where nothing is left.
    """

    rank: np.ndarray
    outline: np.ndarray
    inner: np.ndarray

    def __len__(self) -> int:
        return len(self.outline)


class FoundPixels(NamedTuple):
    """Pixels of P parcels on one grid: RUN with those outside the grid; (P,) weight in all; (P,) bool coarse."""

    runs: np.ndarray
    total: np.ndarray
    coarse: np.ndarray


def find_pixels(grid: Grid, shapes: ParcelShapes, method: str) -> FoundPixels:
    """The pixels of parcels on a grid by one of two methods.

    centre: a pixel whose centre lies in the inner polygon; a parcel without any takes the pixels whose centre lies in
    its outline; without any, all pixels its outline touches. coverage: every pixel by the share of it that the inner
    polygon covers, or the outline where nothing is left of the inner one.
    """
    if method == "coverage":
        coarse = shapely.is_empty(shapes.inner)
        chosen = np.where(coarse, shapes.outline, shapes.inner)
        return FoundPixels(runs_of_coverage(chosen, grid), shapely.area(chosen) / _pixel_area(grid), coarse)
    runs = runs_of_centres(shapes.inner, grid)
    coarse = _weight_of(runs, len(shapes)) == 0
    if coarse.any():
        outline = shapes.outline.copy()
        outline[~coarse] = shapely.Polygon()
        wide = runs_of_centres(outline, grid)
        none = np.flatnonzero(coarse & (_weight_of(wide, len(shapes)) == 0)).tolist()
        touched = [runs_of_touched(shapes.outline[p], p, grid) for p in none]
        runs = np.concatenate([runs, wide, *touched])
        runs = runs[np.argsort(runs["parcel"], kind="stable")]
    return FoundPixels(runs, _weight_of(runs, len(shapes)), coarse)


def _pixel_area(grid: Grid) -> float:
    return -grid.transform[0] * grid.transform[4]


def _weight_of(runs: np.ndarray, parcels: int) -> np.ndarray:
    """(P,) float64: pixels of each parcel by weight."""
    return np.bincount(runs["parcel"], weights=runs["width"] * runs["weight"].astype(np.float64), minlength=parcels)


def clipped(runs: np.ndarray, grid: Grid) -> np.ndarray:
    """The runs inside a grid, cut where a column of cells or panels ends."""
    rows, columns = grid.shape
    inside = within(runs[(runs["row"] >= 0) & (runs["row"] < rows)], 0, columns)
    return cut(inside, gcd(CELL_COLUMNS, PANEL_COLUMNS))


def within(runs: np.ndarray, left: int, right: int) -> np.ndarray:
    """The parts of runs between two columns."""
    start = np.maximum(runs["left"], left)
    stop = np.minimum(runs["left"] + runs["width"], right)
    cut = runs[stop > start]
    cut["left"], cut["width"] = start[stop > start], (stop - start)[stop > start]
    return cut


def without(runs: np.ndarray, window: Window) -> np.ndarray:
    """Runs less the pixels of a window."""
    crossing = (runs["row"] >= window.top) & (runs["row"] < window.bottom)
    inside, far = runs[crossing], np.iinfo(np.int32)
    kept = [runs[~crossing], within(inside, far.min, window.left), within(inside, window.right, far.max)]
    return np.concatenate(kept)


class Cell(NamedTuple):
    """A window of a grid and the runs in it; `parcel` and `start` begin each parcel's stretch of runs."""

    window: Window
    runs: np.ndarray

    def pixels(self) -> CellPixels:
        """The pixels of the runs."""
        return pixels_of(self.runs, self.window)

    def parcels(self) -> tuple[np.ndarray, np.ndarray]:
        """(Q,) parcels of the cell, ascending, and (Q,) where the runs of each begin."""
        owner = self.runs["parcel"]
        start = np.flatnonzero(np.concatenate([[True], owner[1:] != owner[:-1]]))
        return owner[start], start


@dataclass(frozen=True)
class TilePixels:
    """The pixels of parcels on the grids of a tile, kept in a folder.

    Arguments:
        folder: what `write_pixels` wrote.
        grids: of the bands, in the order in which the runs are numbered.
    """

    folder: Path
    grids: tuple[Grid, ...]

    @property
    def finest(self) -> int:
        """The number of the finest grid."""
        return min(range(len(self.grids)), key=lambda g: self.grids[g].pixel_size)

    @property
    def members(self) -> np.ndarray:
        """(P,) ranks of the parcels, ascending."""
        return _load(self.folder / "members.npy")

    @property
    def facts(self) -> np.ndarray:
        """(P,) FACTS."""
        return _load(self.folder / "facts.npy")

    def cells(self, grid: int) -> list[Cell]:
        """The cells of a grid that hold pixels, from north to south."""
        runs = _load(self.folder / f"runs-{grid}.npy")
        return [
            Cell(Window(top, bottom, left, right), runs[first:last])
            for top, bottom, left, right, first, last in _load(self.folder / f"cells-{grid}.npy").tolist()
        ]


def write_pixels(
    folder: Path, grids: Sequence[Grid], parcels: Iterable[Callable[[], ParcelShapes]], method: str, threads: int = 1
) -> None:
    """Find the pixels of parcels on the grids of a tile and keep them.

    Arguments:
        parcels: give the parcels in parts with ascending ranks, in the coordinate system of the grids; each thread
            holds one part at a time.
    """
    with _writing(folder, len(grids)) as writer:
        for members, facts, runs in in_order(lambda part: _find_part(grids, part(), method), parcels, threads):
            known = writer.add(members, facts)
            for number, found in enumerate(runs):
                found["parcel"] += known
                writer.runs[number].add(found)


def _find_part(
    grids: Sequence[Grid], shapes: ParcelShapes, method: str
) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Ranks, FACTS, and by grid the runs inside it, of some parcels."""
    facts, runs = np.zeros(len(shapes), FACTS), []
    finest = min(grids, key=lambda g: g.pixel_size)
    for grid in grids:
        found = find_pixels(grid, shapes, method)
        runs.append(clipped(found.runs, grid))
        weight = _weight_of(runs[-1], len(shapes))
        facts["coarse"] |= found.coarse & (weight > 0)
        if grid is finest:
            facts["total"], facts["inside"] = found.total, weight
    facts["whole"] = facts["inside"] >= facts["total"] * (1 - _ROUNDING)
    facts["total"][facts["whole"]] = facts["inside"][facts["whole"]]
    return shapes.rank, facts, runs


def write_owned(folder: Path, tile: TilePixels, split: np.ndarray, taken: Sequence[Sequence[Window]]) -> None:
    """Keep the pixels of a tile less those that other tiles hold of parcels which no tile holds whole.

    Arguments:
        split: (P,) bool, those parcels.
        taken: windows of each grid that belong to other tiles.
    """
    facts = np.array(tile.facts)
    facts["inside"] = 0.0
    with _writing(folder, len(taken)) as writer:
        for number, windows in enumerate(taken):
            for cell in tile.cells(number):
                shared, rest = cell.runs[split[cell.runs["parcel"]]], cell.runs[~split[cell.runs["parcel"]]]
                for window in windows:
                    shared = without(shared, window)
                both = np.concatenate([rest, shared])
                writer.runs[number].add(both[np.lexsort((both["left"], both["row"], both["parcel"]))])
                if number == tile.finest:
                    facts["inside"] += _weight_of(both, len(facts))
        writer.add(tile.members, facts)


class _PixelWriter:
    """Writes what a tile holds.

    Arguments:
        folder: is there.
        grids: how many there are.
    """

    def __init__(self, folder: Path, grids: int) -> None:
        self._members = GrowingArray(folder / "members.npy", np.dtype("<i8"))
        self._facts = GrowingArray(folder / "facts.npy", FACTS)
        self.runs = [_RunWriter(folder, number) for number in range(grids)]

    def add(self, members: np.ndarray, facts: np.ndarray) -> int:
        """Add parcels; how many there were before."""
        known = len(self._members)
        self._members.append(members)
        self._facts.append(facts)
        return known

    def close(self, *, whole: bool) -> None:
        """Close the files; runs are put in order where everything was added."""
        self._members.close()
        self._facts.close()
        for runs in self.runs:
            runs.close(whole=whole)


@contextmanager
def _writing(folder: Path, grids: int) -> Iterator[_PixelWriter]:
    """A writer for a tile's folder, which is there when all is written."""
    with atomic_output(folder) as part:
        part.mkdir()
        writer, whole = _PixelWriter(part, grids), False
        try:
            yield writer
            whole = True
        finally:
            writer.close(whole=whole)


class _RunWriter:
    """Writes the runs of one grid: as they come, and ordered by cell in the end."""

    def __init__(self, folder: Path, number: int) -> None:
        self._runs, self._cells = folder / f"runs-{number}.npy", folder / f"cells-{number}.npy"
        self._loose = folder / f"loose-{number}.npy"
        self._stream = GrowingArray(self._loose, RUN)
        self._stretches: dict[tuple[int, int], list[np.ndarray]] = {}

    def add(self, runs: np.ndarray) -> None:
        """Add runs of ascending parcels, all of them after those added before that lie in the same cell."""
        ordered, cells = _by_cell(runs)
        for cell in cells:
            cell["first"] += len(self._stream)
            cell["last"] += len(self._stream)
            place = int(cell["top"]) // CELL_ROWS, int(cell["left"]) // CELL_COLUMNS
            self._stretches.setdefault(place, []).append(cell)
        self._stream.append(ordered)

    def close(self, *, whole: bool) -> None:
        self._stream.close()
        if whole:
            self._put_in_order()
        self._loose.unlink()

    def _put_in_order(self) -> None:
        loose = _load(self._loose)
        cells = np.zeros(len(self._stretches), CELL)
        with GrowingArray(self._runs, RUN) as ordered:
            for number, (_, stretches) in enumerate(sorted(self._stretches.items(), key=lambda item: item[0])):
                first = len(ordered)
                for stretch in stretches:
                    ordered.append(loose[stretch["first"] : stretch["last"]])
                every = np.array(stretches, CELL)
                sides = every["top"].min(), every["bottom"].max(), every["left"].min(), every["right"].max()
                cells[number] = (*sides, first, len(ordered))
        np.save(self._cells, cells)


def _by_cell(runs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Runs ordered by cell, and the (Q,) CELL of them."""
    across = int(runs["left"].max(initial=0)) // CELL_COLUMNS + 1
    cell = (runs["row"] // CELL_ROWS) * across + runs["left"] // CELL_COLUMNS
    order = np.argsort(cell.astype(np.uint16) if cell.max(initial=0) < 1 << 16 else cell, kind="stable")
    runs, cell = runs[order], cell[order]
    first = np.flatnonzero(np.concatenate([[True], cell[1:] != cell[:-1]])) if len(cell) else np.zeros(0, np.intp)
    cells = np.zeros(len(first), CELL)
    if len(first):
        cells["first"], cells["last"] = first, np.append(first[1:], len(runs))
        cells["top"] = np.minimum.reduceat(runs["row"], first)
        cells["bottom"] = np.maximum.reduceat(runs["row"], first) + 1
        cells["left"] = np.minimum.reduceat(runs["left"], first)
        cells["right"] = np.maximum.reduceat(runs["left"] + runs["width"], first)
    return runs, cells


def _load(path: Path) -> np.ndarray:
    """An array of a tile; empty ones cannot be mapped and are read."""
    return load_array(path, "r" if path.stat().st_size > _HEADER else None)
