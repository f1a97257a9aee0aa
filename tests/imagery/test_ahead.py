"""What is read ahead is what would have been read, once; what is not is left to whoever asks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from pyproj import CRS

from cropgen.core.errors import CorruptInputError
from cropgen.imagery import ahead as module
from cropgen.imagery.ahead import Ahead, Lookahead
from cropgen.imagery.scene import Acquisition, Grid, Window

ROWS, COLUMNS = 2100, 40
UTM = CRS.from_epsg(32631)
GRID = Grid(UTM.to_wkt(), (10.0, 0.0, 0.0, 0.0, -10.0, 21_000.0), (ROWS, COLUMNS))
VALUES = np.arange(ROWS * COLUMNS, dtype=np.uint16).reshape(ROWS, COLUMNS)


@dataclass
class Counted:
    """A layer that says what was read of it."""

    grid: Grid = GRID
    scale: float | None = 1.0
    offset: float = 0.0
    nodata: float | None = None
    damaged_from: int = ROWS
    narrow: bool = False
    asked: list[tuple[Window, str]] = field(default_factory=list)

    def read(self, window: Window) -> np.ndarray:
        self.asked.append((window, threading.current_thread().name))
        if window.bottom > self.damaged_from:
            raise CorruptInputError("damaged", hint="fetch it again")
        return VALUES[window.top : window.bottom, window.left : window.right]


EVERYTHING = (0.0, 0.0, 400.0, 21_000.0)


def whole() -> Window:
    return Window(0, ROWS, 0, COLUMNS)


def wait(reader: Ahead | None) -> None:
    assert reader is not None
    reader._pool.shutdown()


def test_windows_of_cells_come_from_what_was_read(monkeypatch):
    layer = Counted()
    acquisition = Acquisition("a", 1, {"B04": layer})
    with Lookahead(wanted=True) as ahead:
        ahead.begin([acquisition], ["B04"], UTM, EVERYTHING)
        wait(ahead._reader)
        assert [window.top for window, _ in layer.asked] == [0, 1024, 2048]
        seen = ahead.at(acquisition)
        assert ahead.at(Acquisition("a", 1, {"B04": layer})).layers["B04"] is layer
        for window in (Window(1030, 2000, 3, 30), Window(1030, 2000, 3, 30), Window(1000, 1030, 0, 40), whole()):
            expected = VALUES[window.top : window.bottom, window.left : window.right]
            np.testing.assert_array_equal(seen.layers["B04"].read(window), expected)
    assert len(layer.asked) == 3 + 3


@pytest.mark.parametrize("narrow", [False, True])
def test_parcels_further_east_than_the_first_find_what_was_read_of_their_cell(monkeypatch, narrow):
    monkeypatch.setattr(module, "PANEL_COLUMNS", 16)
    monkeypatch.setattr("cropgen.imagery.panels.PANEL_COLUMNS", 16)
    layer = Counted(narrow=narrow)
    acquisition = Acquisition("a", 1, {"B04": layer})
    with Lookahead(wanted=True) as ahead:
        ahead.begin([acquisition], ["B04"], UTM, EVERYTHING)
        wait(ahead._reader)
        before = len(layer.asked)
        window = Window(7, 90, 20, 30)
        np.testing.assert_array_equal(ahead.at(acquisition).layers["B04"].read(window), VALUES[7:90, 20:30])
    assert before == (9 if narrow else 3)
    assert len(layer.asked) == before


def test_no_more_is_read_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(module, "_ROOM", 1)
    layer = Counted()
    reader = Ahead(Acquisition("a", 1, {"B04": layer}), ["B04"], {GRID: whole()})
    wait(reader)
    assert len(layer.asked) == 1
    assert reader.take("B04", Window(1024, 1100, 0, 5)) is None
    assert reader.take("B04", Window(0, 2, 0, 2)).tolist() == VALUES[:2, :2].tolist()


def test_what_cannot_be_read_is_told_to_whoever_asks():
    layer = Counted(damaged_from=1500)
    acquisition = Acquisition("a", 1, {"B04": layer})
    with Lookahead(wanted=True) as ahead:
        ahead.begin([acquisition], ["B04"], UTM, EVERYTHING)
        seen = ahead.at(acquisition).layers["B04"]
        assert seen.read(Window(0, 9, 0, 9)).shape == (9, 9)
        with pytest.raises(CorruptInputError, match="damaged"):
            seen.read(Window(1024, 2000, 0, 9))


def test_only_the_rows_of_the_parcels_are_read_and_nothing_after_the_end():
    layer = Counted()
    reader = Ahead(Acquisition("a", 1, {"B04": layer}), ["B04"], {GRID: Window(900, 1100, 5, 9)})
    wait(reader)
    assert [window for window, _ in layer.asked] == [Window(900, 1024, 5, 9), Window(1024, 1100, 5, 9)]
    reader.close()
    assert reader.take("B04", Window(900, 1000, 5, 9)) is None


def test_the_first_acquisition_that_shows_parcels_is_read_and_another_instead_when_that_turns_out_to_be_first():
    below = replace(GRID, transform=(10.0, 0.0, 0.0, 0.0, -10.0, 0.0))
    layers = [Counted(below), Counted(), Counted()]
    far, near, later = (Acquisition(str(number), 1, {"B04": layer}) for number, layer in enumerate(layers))
    with Lookahead(wanted=True) as ahead:
        ahead.begin([far, near, later], ["B04"], UTM, (0.0, 20_000.0, 400.0, 21_000.0))
        first = ahead._reader
        wait(first)
        assert [window for window, _ in layers[1].asked] == [Window(0, 100, 0, COLUMNS)]
        ahead.begin([near, later], ["B04"], UTM, EVERYTHING)
        assert ahead._reader is first
        assert ahead.at(near).layers["B04"].read(whole()).shape == (ROWS, COLUMNS)
        ahead.begin([later], ["B04"], UTM, EVERYTHING)
        assert ahead.at(near) is near
        wait(ahead._reader)
        assert len(layers[2].asked) == 3
    assert not layers[0].asked


def test_nothing_is_read_ahead_where_it_is_not_wanted():
    layer = Counted()
    acquisition = Acquisition("a", 1, {"B04": layer})
    with Lookahead(wanted=False) as ahead:
        ahead.begin([acquisition], ["B04"], UTM, EVERYTHING)
        assert ahead.at(acquisition) is acquisition
    assert not layer.asked
