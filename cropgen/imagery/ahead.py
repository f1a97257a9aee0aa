"""Cells of the first acquisition, read while the pixels of the parcels are still being found.

Finding pixels leaves a core idle now and then. It reads the bands meanwhile, in the order in which they will be asked
for, as many cells as a bounded room holds. What was not read in time is read when it is asked for, as always.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from cropgen.core.errors import DataError
from cropgen.imagery.pixels import CELL_COLUMNS, CELL_ROWS
from cropgen.imagery.scene import Acquisition, Grid, Layer, Window

_ROOM = 192 << 20
_Key = tuple[str, int, int]


class Ahead:
    """Reads the cells of one acquisition ahead.

    Arguments:
        acquisition: whose bands are read.
        windows: of each grid of the bands, the part that holds all parcels.
    """

    def __init__(self, acquisition: Acquisition, bands: Sequence[str], windows: Mapping[Grid, Window]) -> None:
        self.acquisition = acquisition
        self._pool = ThreadPoolExecutor(1)
        self._room = _ROOM
        self._blocks: dict[_Key, tuple[Window, Future[np.ndarray | None]]] = {}
        for grid, window in windows.items():
            for cell in _cells(window):
                for band in bands:
                    layer = acquisition.layers[band]
                    if layer.grid == grid:
                        self._blocks[_key(band, cell)] = cell, self._pool.submit(self._read, layer, cell)

    def _read(self, layer: Layer, cell: Window) -> np.ndarray | None:
        """The values of a cell; None where there is no room, or they cannot be read: whoever asks for them is told."""
        if self._room <= 0:
            return None
        try:
            values = layer.read(cell)
        except DataError:
            return None
        self._room -= values.nbytes
        return values

    def take(self, band: str, window: Window) -> np.ndarray | None:
        """The values of a window of a band where they were read; they are not kept."""
        cell, block = self._blocks.pop(_key(band, window), (None, None))
        if cell is None or block is None or block.cancel() or not _holds(cell, window):
            return None
        values = block.result()
        if values is None:
            return None
        top, left = window.top - cell.top, window.left - cell.left
        return values[top : top + window.shape[0], left : left + window.shape[1]]

    def close(self) -> None:
        """Let go of what was read."""
        self._pool.shutdown(cancel_futures=True)
        self._blocks.clear()


@contextmanager
def reading_ahead() -> Iterator[list[Ahead]]:
    """A place for readers, which end with it."""
    readers: list[Ahead] = []
    try:
        yield readers
    finally:
        for reader in readers:
            reader.close()


@dataclass(frozen=True)
class _AheadLayer:
    """A layer whose cells may have been read before."""

    layer: Layer
    band: str
    ahead: Ahead

    @property
    def grid(self) -> Grid:
        return self.layer.grid

    @property
    def scale(self) -> float | None:
        return self.layer.scale

    @property
    def offset(self) -> float:
        return self.layer.offset

    @property
    def nodata(self) -> float | None:
        return self.layer.nodata

    def read(self, window: Window) -> np.ndarray:
        values = self.ahead.take(self.band, window)
        return self.layer.read(window) if values is None else values


def with_ahead(acquisition: Acquisition, bands: Sequence[str], readers: Sequence[Ahead]) -> Acquisition:
    """The acquisition, its bands read ahead where a reader is at it."""
    reader = next((reader for reader in readers if reader.acquisition is acquisition), None)
    if reader is None:
        return acquisition
    layers = {band: _AheadLayer(acquisition.layers[band], band, reader) for band in bands}
    return replace(acquisition, layers=MappingProxyType({**acquisition.layers, **layers}))


def _cells(window: Window) -> Iterator[Window]:
    """The cells of a window, from north to south."""
    for top in range(window.top - window.top % CELL_ROWS, window.bottom, CELL_ROWS):
        for left in range(window.left - window.left % CELL_COLUMNS, window.right, CELL_COLUMNS):
            yield Window(
                max(top, window.top), min(top + CELL_ROWS, window.bottom),
                max(left, window.left), min(left + CELL_COLUMNS, window.right),
            )  # fmt: skip


def _key(band: str, window: Window) -> _Key:
    return band, window.top // CELL_ROWS, window.left // CELL_COLUMNS


def _holds(cell: Window, window: Window) -> bool:
    rows = cell.top <= window.top and window.bottom <= cell.bottom
    return rows and cell.left <= window.left and window.right <= cell.right
