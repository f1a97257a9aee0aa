"""What is read ahead is what would have been read, once; what is not is left to whoever asks."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from cropgen.core.errors import CorruptInputError
from cropgen.imagery import ahead as module
from cropgen.imagery.ahead import Ahead, reading_ahead, with_ahead
from cropgen.imagery.scene import Acquisition, Grid, Window

ROWS, COLUMNS = 2100, 40
GRID = Grid("EPSG:32631", (10.0, 0.0, 0.0, 0.0, -10.0, 21_000.0), (ROWS, COLUMNS))
VALUES = np.arange(ROWS * COLUMNS, dtype=np.uint16).reshape(ROWS, COLUMNS)


@dataclass
class Counted:
    """A layer that says what was read of it."""

    grid: Grid = GRID
    scale: float | None = 1.0
    offset: float = 0.0
    nodata: float | None = None
    damaged_from: int = ROWS
    asked: list[tuple[Window, str]] = field(default_factory=list)

    def read(self, window: Window) -> np.ndarray:
        self.asked.append((window, threading.current_thread().name))
        if window.bottom > self.damaged_from:
            raise CorruptInputError("damaged", hint="fetch it again")
        return VALUES[window.top : window.bottom, window.left : window.right]


def whole() -> Window:
    return Window(0, ROWS, 0, COLUMNS)


def wait(reader: Ahead) -> None:
    reader._pool.shutdown()


def test_windows_of_cells_come_from_what_was_read(monkeypatch):
    layer = Counted()
    acquisition = Acquisition("a", 1, {"B04": layer})
    with reading_ahead() as readers:
        readers.append(Ahead(acquisition, ["B04"], {GRID: whole()}))
        wait(readers[0])
        assert [window.top for window, _ in layer.asked] == [0, 1024, 2048]
        seen = with_ahead(acquisition, ["B04"], readers)
        assert with_ahead(Acquisition("a", 1, {"B04": layer}), ["B04"], readers).layers["B04"] is layer
        for window in (Window(1030, 2000, 3, 30), Window(1030, 2000, 3, 30), Window(1000, 1030, 0, 40), whole()):
            expected = VALUES[window.top : window.bottom, window.left : window.right]
            np.testing.assert_array_equal(seen.layers["B04"].read(window), expected)
    assert len(layer.asked) == 3 + 3


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
    with reading_ahead() as readers:
        readers.append(Ahead(acquisition, ["B04"], {GRID: whole()}))
        seen = with_ahead(acquisition, ["B04"], readers).layers["B04"]
        assert seen.read(Window(0, 9, 0, 9)).shape == (9, 9)
        with pytest.raises(CorruptInputError, match="damaged"):
            seen.read(Window(1024, 2000, 0, 9))


def test_only_the_rows_of_the_parcels_are_read_and_nothing_after_the_end():
    layer = Counted()
    with reading_ahead() as readers:
        readers.append(Ahead(Acquisition("a", 1, {"B04": layer}), ["B04"], {GRID: Window(900, 1100, 5, 9)}))
        wait(readers[0])
    assert [window for window, _ in layer.asked] == [Window(900, 1024, 5, 9), Window(1024, 1100, 5, 9)]
    assert readers[0].take("B04", Window(900, 1000, 5, 9)) is None
