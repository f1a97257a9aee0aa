"""Parts of a cell that are read one after another, so that what was read is still in the processor's cache when the
pixels of the parcels are picked from it.

A panel is some columns of a cell. Where a raster's blocks are no wider it is decoded panel by panel, those without a
pixel of a parcel not at all, and the memory of one serves the next; of any other raster a cell is decoded at once and
its panels are cut from it. What is picked is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cropgen.imagery.scene import Layer, Window

PANEL_COLUMNS = 1024
_PIXELS_AT_A_TIME = 1 << 14


class Panel(NamedTuple):
    """Some columns of a cell, and which of its pixels they hold."""

    window: Window
    pixels: slice


@dataclass(frozen=True)
class CellPixels:
    """The pixels of the runs of a cell, panel by panel, in the order of the raster.

    Arguments:
        position: (M,) int32 in the window of their panel.
        start: (R,) where each run begins among them.
        order: (R,) which of the runs of the cell it is.
        panels: those with pixels, from west to east.
    """

    position: np.ndarray
    start: np.ndarray
    order: np.ndarray
    panels: tuple[Panel, ...]

    def __len__(self) -> int:
        return len(self.position)

    def of(self, whole: np.ndarray, window: Window) -> np.ndarray:
        """(M,) what a window that holds all panels has at the pixels."""
        left = window.left
        return self._picked(lambda w: whole[:, w.left - left : w.right - left], whole.dtype)

    def read(self, layer: Layer, window: Window) -> np.ndarray:
        """(M,) the stored values of a layer.

        Arguments:
            window: of the cell.

        Raises:
            CorruptInputError: they cannot be read.
        """
        return self._picked(layer.read) if is_narrow(layer) else self.of(layer.read(window), window)

    def _picked(self, read: Callable[[Window], np.ndarray], dtype: np.dtype | None = None) -> np.ndarray:
        """Take the pixels panel by panel, some at a time: numpy widens positions before it uses them.

        All positions are within bounds; "wrap" is the mode that looks least for others.
        """
        found = np.empty(len(self), dtype)
        for number, panel in enumerate(self.panels):
            values = read(panel.window).ravel()
            if number == 0 and values.dtype != found.dtype:
                found = np.empty(len(self), values.dtype)
            for first in range(panel.pixels.start, panel.pixels.stop, _PIXELS_AT_A_TIME):
                part = slice(first, min(first + _PIXELS_AT_A_TIME, panel.pixels.stop))
                values.take(self.position[part], out=found[part], mode="wrap")
        return found


def is_narrow(layer: Layer) -> bool:
    """Whether a panel is read in less time than a wider window."""
    return bool(getattr(layer, "narrow", False))


def read_at_once(layer: Layer, cell: Window) -> Iterator[Window]:
    """The windows in which a cell of a layer is read: its panels, or all of it."""
    yield from stretches(cell, PANEL_COLUMNS) if is_narrow(layer) else (cell,)


def stretches(window: Window, columns: int) -> Iterator[Window]:
    """The parts of a window that end where a stretch of so many columns does, from west to east."""
    for left in range(window.left - window.left % columns, window.right, columns):
        yield Window(window.top, window.bottom, max(left, window.left), min(left + columns, window.right))


def pixels_of(runs: np.ndarray, window: Window) -> CellPixels:
    """The pixels of the runs in the window of a cell; no run crosses from a panel into the next."""
    number, row = runs["left"] // PANEL_COLUMNS, runs["row"].astype(np.intp) - window.top
    key = (number * np.intp(window.shape[0]) + row) * PANEL_COLUMNS + runs["left"] % PANEL_COLUMNS
    order = np.argsort(key, kind="stable")
    number, row, width = number[order], row[order], runs["width"].astype(np.intp)[order]
    west = np.maximum(number * PANEL_COLUMNS, window.left)
    east = np.minimum((number + 1) * PANEL_COLUMNS, window.right)
    start = np.cumsum(width) - width
    first = row * (east - west) + runs["left"][order] - west
    position = np.repeat((first - start).astype(np.int32), width)
    position += np.arange(len(position), dtype=np.int32)
    opens = np.flatnonzero(np.concatenate([[True], number[1:] != number[:-1]])) if len(runs) else np.zeros(0, np.intp)
    ends = np.append(start[opens[1:]], len(position)) if len(runs) else opens
    panels = tuple(
        Panel(Window(window.top, window.bottom, left, right), slice(begin, end))
        for left, right, begin, end in zip(
            *(c.tolist() for c in (west[opens], east[opens], start[opens], ends)), strict=True
        )
    )
    return CellPixels(position, start, order, panels)


def cut(runs: np.ndarray, columns: int) -> np.ndarray:
    """Runs cut where another stretch of so many columns begins, each replaced by its parts from west to east."""
    first, last = runs["left"] // columns, (runs["left"] + runs["width"] - 1) // columns
    parts = last - first + 1
    if (parts == 1).all():
        return runs
    place = np.repeat(np.arange(len(runs)), parts)
    begin = (first[place] + np.arange(len(place)) - np.repeat(np.cumsum(parts) - parts, parts)) * columns
    pieces = runs[place]
    left = np.maximum(pieces["left"], begin)
    pieces["width"] = np.minimum(pieces["left"] + pieces["width"], begin + columns) - left
    pieces["left"] = left
    return pieces
