"""The values of the sampled pixels at one acquisition, picked out of the cells that are read for the statistics.

A pixel of the finest grid is clear as the masks say at its centre, and where every band of reflectances has data there;
of a coarser band it takes the pixel under its centre, which may lie beyond those of the parcel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from cropgen.imagery.masks import is_valid
from cropgen.imagery.pixel_sample import NOTHING, inside_bands
from cropgen.imagery.pixels import CELL_COLUMNS, CELL_ROWS, Cell
from cropgen.imagery.scanline import RUN
from cropgen.imagery.scene import Grid, Layer, Window
from cropgen.series.pixel_sets import to_units

_FAR = 1 << 20


class Picked(NamedTuple):
    """Sampled pixels (M,) of a cell: their places among all, and rows and columns of the cell's grid."""

    place: np.ndarray
    row: np.ndarray
    column: np.ndarray

    def of(self, values: np.ndarray, window: Window) -> np.ndarray:
        """What stands at the pixels in the values (rows, columns) of a window."""
        return values[self.row - window.top, self.column - window.left]


class SampleValues:
    """The values of a sample, filled in cell by cell; cells may be filled in by several threads.

    Arguments:
        sample: (P, S) `pixel_sample.SAMPLE` on the finest grid.
        finest: the finest grid.
        bands: those read; reflectances are kept.
        calibration: band → (scale, offset).
        nodata: stored value that means missing, besides those of the layers.
    """

    def __init__(
        self,
        sample: np.ndarray,
        finest: Grid,
        bands: Sequence[str],
        calibration: Mapping[str, tuple[float, float]],
        nodata: float | None,
    ) -> None:
        self._shape = sample.shape
        flat = sample.ravel()
        self._there = np.flatnonzero(flat["hash"] != NOTHING)
        self._row, self._column = flat["row"][self._there], flat["column"][self._there]
        self._finest = finest
        self._bands = inside_bands(bands)
        self._calibration = calibration
        self._nodata = nodata
        self._clear = np.zeros(len(flat), bool)
        self._valid = np.zeros((len(flat), len(self._bands)), bool)
        self._values = np.zeros((len(flat), len(self._bands)), np.int16)

    def bands_of(self, bands: Sequence[str]) -> list[str]:
        """Those of some bands that are kept."""
        return [band for band in bands if band in self._bands]

    def over(self, cells: Sequence[Cell], grid: Grid) -> list[tuple[Cell, Picked | None]]:
        """The cells of a grid with the sampled pixels in each, widened where these lie beyond; cells without runs that
        hold only such pixels are added. From north to south."""
        row, column = self._row, self._column
        if grid != self._finest:
            row, column = self._finest.rows_in(grid)[row], self._finest.columns_in(grid)[column]
        inside = np.flatnonzero((row >= 0) & (column >= 0))
        where = (row[inside] // CELL_ROWS).astype(np.int64) * _FAR + column[inside] // CELL_COLUMNS
        order = np.argsort(where, kind="stable")
        begins = np.flatnonzero(np.diff(where[order], prepend=-1))
        found = {int(where[part[0]]): inside[part] for part in np.split(order, begins[1:]) if len(part)}
        picked = {key: Picked(self._there[at], row[at], column[at]) for key, at in found.items()}
        held = {_key(cell.window): cell for cell in cells}
        joined = ((key, held.get(key), picked.get(key)) for key in sorted(held.keys() | picked.keys()))
        return [(_widened(cell, pixels), pixels) for _, cell, pixels in joined]

    def see(self, picked: Picked, clear: np.ndarray | None, window: Window, grid: Grid) -> None:
        """Take what the masks say of the pixels of a cell of the finest grid; None: all are clear."""
        if grid == self._finest:
            self._clear[picked.place] = True if clear is None else picked.of(clear, window)

    def wanted(self, picked: Picked) -> bool:
        """Whether a pixel is clear; to be asked when the finest grid is done."""
        return bool(self._clear[picked.place].any())

    def take(self, picked: Picked, band: str, layer: Layer, stored: np.ndarray, window: Window) -> None:
        """Take the values of a band from what is stored in the window of a cell; other bands are let pass."""
        if band not in self._bands:
            return
        number, values = self._bands.index(band), picked.of(stored, window)
        valid = is_valid(values, layer.nodata) & is_valid(values, self._nodata)
        scale, offset = self._calibration[band]
        self._values[picked.place, number] = to_units(np.where(valid, values, 0) * scale + offset)
        self._valid[picked.place, number] = valid

    def result(self) -> tuple[np.ndarray, np.ndarray]:
        """Values (P, S, C) int16 in ten-thousandths of reflectance, and (P, S) bool: clear, valid in every band."""
        clear = self._clear & self._valid.all(1)
        values = np.where(clear[:, None], self._values, 0).astype(np.int16)
        return values.reshape(*self._shape, -1), clear.reshape(self._shape)


def _key(window: Window) -> int:
    return window.top // CELL_ROWS * _FAR + window.left // CELL_COLUMNS


def _widened(cell: Cell | None, picked: Picked | None) -> Cell:
    """A cell, of no runs where there is none, whose window holds its runs and some pixels."""
    sides = [] if cell is None else [(cell.window.top, cell.window.bottom, cell.window.left, cell.window.right)]
    if picked is not None:
        row, column = picked.row, picked.column
        sides.append((int(row.min()), int(row.max()) + 1, int(column.min()), int(column.max()) + 1))
    top, bottom, left, right = zip(*sides, strict=True)
    return Cell(Window(min(top), max(bottom), min(left), max(right)), np.zeros(0, RUN) if cell is None else cell.runs)
