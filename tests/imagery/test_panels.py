"""Panels pick what the whole cell holds at the pixels of its runs; runs are cut without losing a pixel."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from cropgen.imagery import panels as module
from cropgen.imagery.panels import cut, pixels_of, read_at_once
from cropgen.imagery.scanline import RUN, make_runs
from cropgen.imagery.scene import Grid, Window

ROWS, COLUMNS, PANEL = 6, 40, 8
VALUES = np.arange(ROWS * COLUMNS, dtype=np.uint16).reshape(ROWS, COLUMNS)


@dataclass
class Raster:
    """A layer that says what was read of it."""

    narrow: bool
    grid: Grid = field(default_factory=lambda: Grid("", (10.0, 0.0, 0.0, 0.0, -10.0, 0.0), (ROWS, COLUMNS)))
    scale: float | None = 1.0
    offset: float = 0.0
    nodata: float | None = None
    asked: list[Window] = field(default_factory=list)

    def read(self, window: Window) -> np.ndarray:
        self.asked.append(window)
        return VALUES[window.top : window.bottom, window.left : window.right]


@st.composite
def some_runs(draw) -> np.ndarray:
    """Runs by parcel, row and column, not yet cut."""
    count = draw(st.integers(0, 12))
    row = np.array(draw(st.lists(st.integers(0, ROWS - 1), min_size=count, max_size=count)), int)
    left = np.array(draw(st.lists(st.integers(0, COLUMNS - 1), min_size=count, max_size=count)), int)
    width = np.array([draw(st.integers(1, COLUMNS - first)) for first in left.tolist()], int)
    runs = make_runs(np.arange(count) // 3, row, left, width, 0.5)
    return runs[np.lexsort((left, row, runs["parcel"]))]


def pixels_one_by_one(runs: np.ndarray) -> list[tuple[int, int, int]]:
    """(parcel, row, column) of every pixel, run after run."""
    return [
        (int(run["parcel"]), int(run["row"]), column)
        for run in runs
        for column in range(int(run["left"]), int(run["left"]) + int(run["width"]))
    ]


@given(some_runs(), st.integers(1, 50))
def test_cutting_keeps_every_pixel_in_its_place_and_no_run_crosses(runs, columns):
    parts = cut(runs, columns)
    assert pixels_one_by_one(parts) == pixels_one_by_one(runs)
    assert (parts["left"] // columns == (parts["left"] + parts["width"] - 1) // columns).all()
    assert (parts["weight"] == np.float32(0.5)).all()


@given(some_runs(), st.booleans(), st.integers(0, 3), st.integers(0, 3))
def test_every_run_finds_its_values_whichever_way_the_raster_is_read(runs, narrow, less_west, less_east):
    columns = max(int((runs["left"] + runs["width"]).max(initial=1)), COLUMNS - less_east)
    window = Window(0, ROWS, min(int(runs["left"].min(initial=COLUMNS - 1)), less_west), columns)
    layer = Raster(narrow)
    before, module.PANEL_COLUMNS = module.PANEL_COLUMNS, PANEL
    try:
        parts = cut(runs, PANEL)
        pixels = pixels_of(parts, window)
        read, looked_up = pixels.read(layer, window), pixels.of(VALUES[:, window.left : window.right], window)
    finally:
        module.PANEL_COLUMNS = before
    np.testing.assert_array_equal(read, looked_up)
    assert len(pixels) == parts["width"].sum()
    for start, which in zip(pixels.start.tolist(), pixels.order.tolist(), strict=True):
        run = parts[which]
        first = int(run["row"]) * COLUMNS + int(run["left"])
        assert read[start : start + run["width"]].tolist() == list(range(first, first + int(run["width"])))
    touched = np.unique(parts["left"] // PANEL)
    assert [asked.left // PANEL for asked in layer.asked] == (touched.tolist() if narrow else [window.left // PANEL])


def test_a_cell_without_runs_has_no_pixels():
    assert len(pixels_of(np.zeros(0, RUN), Window(0, 3, 0, 3))) == 0
    assert pixels_of(np.zeros(0, RUN), Window(0, 3, 0, 3)).read(Raster(narrow=True), Window(0, 3, 0, 3)).size == 0


def test_a_cell_is_read_by_panels_or_at_once(monkeypatch):
    monkeypatch.setattr(module, "PANEL_COLUMNS", PANEL)
    cell = Window(2, 5, 3, 20)
    assert list(read_at_once(Raster(narrow=False), cell)) == [cell]
    parts = [(part.left, part.right) for part in read_at_once(Raster(narrow=True), cell)]
    assert parts == [(3, 8), (8, 16), (16, 20)]
