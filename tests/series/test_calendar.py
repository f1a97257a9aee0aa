"""Calendars bin and never interpolate."""

from __future__ import annotations

import datetime as dt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropgen.core.errors import DataError, UsageError
from cropgen.series.calendar import KINDS, Calendar, bin_to_grid, slot_of
from cropgen.series.schema import ParcelSeries


def days(*dates: str) -> np.ndarray:
    return np.array([dates], dtype="datetime64[D]").astype(np.int32)


def series_on(day: np.ndarray, year: int = 2021) -> ParcelSeries:
    n, t = day.shape
    values = np.tile(np.arange(1, t + 1, dtype=float)[None, :, None], (n, 1, 1)) / 10
    return ParcelSeries.build(
        bands=("NDVI",), values=values, mask=np.ones((n, t), bool), day=day, parcel_id=np.arange(n).astype(str),
        year=year,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("dekad", [-1, 0, 0, 1, 2, 2, 3, 35]),
        ("month", [-1, 0, 0, 0, 0, 0, 1, 11]),
        ("half-month", [-1, 0, 0, 0, 1, 1, 2, 23]),
        ("pentad", [-1, 0, 1, 2, 4, 5, 6, 71]),
        ("16-day", [-1, 0, 0, 0, 1, 1, 1, 22]),
    ],
)
def test_slots_by_hand(kind: str, expected: list[int]) -> None:
    day = days(
        "2020-12-31", "2021-01-01", "2021-01-10", "2021-01-11", "2021-01-21", "2021-01-31", "2021-02-01", "2021-12-31"
    )
    np.testing.assert_array_equal(slot_of(kind, day, np.array([2021])), [expected])  # type: ignore[arg-type]


@given(
    date=st.dates(dt.date(1990, 1, 1), dt.date(2040, 12, 31)),
    step=st.integers(1, 400),
    kind=st.sampled_from(KINDS),
)
def test_slots_never_go_back(date: dt.date, step: int, kind: str) -> None:
    day = np.array([[date.toordinal(), date.toordinal() + step]]) - dt.date(1970, 1, 1).toordinal()
    slots = slot_of(kind, day, np.array([date.year]))[0]  # type: ignore[arg-type]
    assert slots[1] >= slots[0] >= 0


@pytest.mark.parametrize("kind", KINDS)
def test_start_days_begin_their_slots(kind: str) -> None:
    calendar = Calendar(kind, -3, 26)  # type: ignore[arg-type]
    new_year = np.datetime64("2022-01-01", "D").astype(int)
    slots = slot_of(calendar.kind, (new_year + calendar.start_days())[None], np.array([2022]))[0]
    before = slot_of(calendar.kind, (new_year + calendar.start_days() - 1)[None], np.array([2022]))[0]
    np.testing.assert_array_equal(slots, np.arange(-3, 23))
    np.testing.assert_array_equal(before, np.arange(-4, 22))


def test_averages_within_a_slot_and_leaves_the_rest_missing() -> None:
    series = series_on(days("2021-01-02", "2021-01-08", "2021-02-01", "2021-07-01"))
    values, mask = bin_to_grid(series, Calendar("dekad", 0, 4))
    np.testing.assert_allclose(values[0, :, 0], [0.15, 0, 0, 0.3], rtol=1e-6)
    np.testing.assert_array_equal(mask[0], [True, False, False, True])


def test_fitted_spans_the_season_and_chooses_by_occupancy() -> None:
    dekads = np.array([[f"2021-{m:02d}-{d:02d}" for m in range(1, 13) for d in (5, 15, 25)]], dtype="datetime64[D]")
    assert Calendar.fitted(series_on(dekads.astype(int))) == Calendar("dekad", 0, 36)
    modis = np.datetime64("2021-01-01", "D").astype(int) + 16 * np.arange(23)[None]
    assert Calendar.fitted(series_on(modis)) == Calendar("16-day", 0, 23)
    monthly = days(*[f"2021-{m:02d}-15" for m in range(3, 11)])
    assert Calendar.fitted(series_on(monthly)) == Calendar("month", 2, 8)
    winter = days("2020-10-15", "2020-11-15", "2020-12-15", "2021-01-15", "2021-02-15")
    assert Calendar.fitted(series_on(winter), "month") == Calendar("month", -3, 5)
    with pytest.raises(UsageError, match="unknown calendar"):
        Calendar.fitted(series_on(monthly), "weekly")


def test_no_clear_date_is_said() -> None:
    series = ParcelSeries.build(
        bands=("NDVI",), values=np.zeros((1, 2, 1)), mask=np.zeros((1, 2)), day=np.zeros((1, 2)), parcel_id=["a"],
        year=2021,
    )  # fmt: skip
    with pytest.raises(DataError, match="no clear date"):
        Calendar.fitted(series)
