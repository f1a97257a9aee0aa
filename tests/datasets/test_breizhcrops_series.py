"""What csv files and h5 arrays become, against a plain reading row by row."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.core.errors import CorruptInputError
from cropgen.datasets.breizhcrops import padded
from cropgen.datasets.breizhcrops_series import LEVELS, CsvSeries, Observations, days_of

COLUMNS = ("B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12")
DAY = 86_400

Row = tuple[int, float, float | None]
parcels = st.lists(
    st.lists(st.tuples(st.integers(17_000, 17_006), st.sampled_from([0.0, 512.0, 1024.0]), st.none() | st.floats(1, 9)),
             max_size=8),
    min_size=1, max_size=6,
)  # fmt: skip


class Memory:
    """Members in memory, every second file with other columns first and other line ends, some with a blank line."""

    def __init__(self, content: Sequence[list[Row]]) -> None:
        self.names = [f"x/{number}.csv" for number in range(len(content))]
        self._content = content

    def read(self, position: int) -> bytes:
        shuffled = position % 2 == 1
        names = ["QA60", *COLUMNS, "doa", "id"] if shuffled else ["", "doa", *COLUMNS, "QA60"]
        lines = [",".join(names)]
        for day, flag, value in self._content[position]:
            cells = {c: repr(value * 100 + i) if value else "" for i, c in enumerate(COLUMNS)}
            cells |= {"doa": str(np.datetime64(day, "D")), "QA60": repr(flag), "": "image", "id": "7"}
            lines.append(",".join(cells[name] for name in names))
        text = "\n".join(lines) + ("\n", "", "\n\n")[position % 3]
        return (text.replace("\n", "\r\n") if shuffled else text).encode()

    def __enter__(self) -> Memory:
        return self

    def __exit__(self, *raised: object) -> None:
        """Nothing is held."""


def plainly(rows: list[Row]) -> list[tuple[int, float, float]]:
    """The first whole row of each day, by day."""
    found: dict[int, tuple[float, float]] = {}
    for day, flag, value in rows:
        if value is not None:
            found.setdefault(day, (flag, value))
    return [(day, *found[day]) for day in sorted(found)]


@given(parcels)
@settings(max_examples=60, deadline=None)
def test_csv_files_are_read_as_row_by_row(content: list[list[Row]]) -> None:
    memory = Memory(content)
    read = CsvSeries(None, memory, LEVELS["L1C"]).read([*memory.names, "x/none.csv"])  # type: ignore[arg-type]
    expected = [plainly(rows) for rows in content]
    assert read.length.tolist() == [*map(len, expected), 0]
    flat = [row for rows in expected for row in rows]
    assert read.day.tolist() == [day for day, _, _ in flat]
    np.testing.assert_allclose(read.flagged, [flag / 1024 for _, flag, _ in flat])
    values = np.asarray([[value * 100 + i for i in range(13)] for _, _, value in flat]).reshape(-1, 13)
    np.testing.assert_allclose(read.values, values)

    reflectance, mask, day = padded(read, 0.5)
    kept = [rows for rows in expected if rows]
    assert reflectance.shape[:2] == mask.shape == day.shape == (len(kept), max(map(len, kept), default=0))
    for row, rows in enumerate(kept):
        assert mask[row].tolist() == [flag <= 512 for _, flag, _ in rows] + [False] * (mask.shape[1] - len(rows))
        assert day[row].tolist() == [d for d, _, _ in rows] + [rows[-1][0]] * (mask.shape[1] - len(rows))
        np.testing.assert_allclose(reflectance[row, : len(rows), 0], [v * 0.01 for _, _, v in rows], rtol=1e-6)
        assert not reflectance[row, len(rows) :].any()


@pytest.mark.parametrize("unit", [1, 1000, 1_000_000, 1_000_000_000])
@given(days=st.lists(st.integers(11_000, 25_000), min_size=1, max_size=20))
@settings(max_examples=20, deadline=None)
def test_days_of_any_unit(unit: int, days: list[int]) -> None:
    stamps = np.asarray(days, np.float64) * DAY * unit
    assert days_of(stamps, "here").tolist() == days


@pytest.mark.parametrize("stamp", [17_000.0, -1.0, float("nan")])
def test_other_units_are_told(stamp: float) -> None:
    with pytest.raises(CorruptInputError, match="date of acquisition"):
        days_of(np.asarray([stamp]), "here")


def test_nothing_is_nothing() -> None:
    empty = Observations(np.zeros((0, 13)), np.zeros(0), np.zeros(0, np.int64), np.zeros(2, np.int64))
    values, mask, day = padded(empty, 0.1)
    assert (values.shape, mask.shape, day.shape) == ((0, 0, 13), (0, 0), (0, 0))
    assert days_of(np.zeros(0), "here").tolist() == []
