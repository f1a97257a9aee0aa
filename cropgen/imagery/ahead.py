"""Cells of the first acquisition, read while parcels are still being read and their pixels found.

Both leave a core idle now and then. It reads the bands meanwhile, in the order in which they will be asked for, as many
cells as a bounded room holds. Where the parcels lie is known from what their file says of itself, or once they are
read. What was not read in time is read when it is asked for, as always.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Self

import numpy as np
from pyproj import CRS

from cropgen.core.errors import DataError
from cropgen.imagery.panels import PANEL_COLUMNS, is_narrow, read_at_once, stretches
from cropgen.imagery.parcels import box_on
from cropgen.imagery.pixels import CELL_COLUMNS, CELL_ROWS
from cropgen.imagery.scene import Acquisition, Grid, Layer, Window
from cropgen.series.polygon_file import Box

_ROOM = 256 << 20
_Key = tuple[str, int, int]


class Ahead:
    """Reads the cells of one acquisition ahead.

    Arguments:
        acquisition: whose bands are read.
        windows: of each grid of the bands, the part that holds all parcels.
    """

    def __init__(self, acquisition: Acquisition, bands: Sequence[str], windows: Mapping[Grid, Window]) -> None:
        self.acquisition, self.bands = acquisition, tuple(bands)
        self._pool = ThreadPoolExecutor(1)
        self._room = _ROOM
        self._blocks: dict[_Key, tuple[Window, Future[np.ndarray | None]]] = {}
        for grid, window in windows.items():
            for cell in _cells(window):
                for band in bands:
                    layer = acquisition.layers[band]
                    if layer.grid == grid:
                        for part in read_at_once(layer, cell):
                            self._blocks[self._key(band, part)] = part, self._pool.submit(self._read, layer, part)

    def _read(self, layer: Layer, part: Window) -> np.ndarray | None:
        """The values of a part of a cell; None where there is no room, or they cannot be read, which whoever asks for
        them is told."""
        if self._room <= 0:
            return None
        try:
            values = layer.read(part)
        except DataError:
            return None
        self._room -= values.nbytes
        return values

    def take(self, band: str, window: Window) -> np.ndarray | None:
        """The values of a window of a band where they were read; they are not kept."""
        part, block = self._blocks.pop(self._key(band, window), (None, None))
        if part is None or block is None or block.cancel() or not _holds(part, window):
            return None
        values = block.result()
        if values is None:
            return None
        top, left = window.top - part.top, window.left - part.left
        return values[top : top + window.shape[0], left : left + window.shape[1]]

    def _key(self, band: str, window: Window) -> _Key:
        """Of all windows of a band that lie in what is read at once."""
        columns = PANEL_COLUMNS if is_narrow(self.acquisition.layers[band]) else CELL_COLUMNS
        return band, window.top // CELL_ROWS, window.left // columns

    def close(self) -> None:
        """Let go of what was read."""
        self._pool.shutdown(cancel_futures=True)
        self._blocks.clear()


class Lookahead:
    """Reads one acquisition ahead at a time, until it is closed.

    Arguments:
        wanted: whether anything is to be read ahead.
    """

    def __init__(self, *, wanted: bool) -> None:
        self._wanted = wanted
        self._reader: Ahead | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, acquisitions: Iterable[Acquisition], bands: Sequence[str], system: CRS, box: Box) -> None:
        """Begin to read the first of some acquisitions that shows parcels, unless that is being done.

        Arguments:
            box: around the parcels, in their coordinate system.
        """
        for acquisition in acquisitions if self._wanted else ():
            grids = dict.fromkeys(acquisition.layers[band].grid for band in bands)
            windows = {grid: grid.window(box_on(grid, system, box)) for grid in grids}
            if all(0 not in window.shape for window in windows.values()):
                if self._reader is None or self._reader.acquisition is not acquisition:
                    self.close()
                    self._reader = Ahead(acquisition, bands, windows)
                return

    def close(self) -> None:
        """Let go of what was read."""
        if self._reader is not None:
            self._reader.close()

    def at(self, acquisition: Acquisition) -> Acquisition:
        """The acquisition, its bands read ahead where it is the one."""
        reader = self._reader
        if reader is None or reader.acquisition is not acquisition:
            return acquisition
        layers = {band: _AheadLayer(acquisition.layers[band], band, reader) for band in reader.bands}
        return replace(acquisition, layers=MappingProxyType({**acquisition.layers, **layers}))


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

    @property
    def narrow(self) -> bool:
        return is_narrow(self.layer)

    def read(self, window: Window) -> np.ndarray:
        values = self.ahead.take(self.band, window)
        return self.layer.read(window) if values is None else values


def _cells(window: Window) -> Iterator[Window]:
    """The cells of a window, from north to south."""
    for top in range(window.top - window.top % CELL_ROWS, window.bottom, CELL_ROWS):
        rows = max(top, window.top), min(top + CELL_ROWS, window.bottom)
        yield from stretches(Window(*rows, window.left, window.right), CELL_COLUMNS)


def _holds(part: Window, window: Window) -> bool:
    rows = part.top <= window.top and window.bottom <= part.bottom
    return rows and part.left <= window.left and window.right <= part.right
