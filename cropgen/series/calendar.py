"""Calendars: the fixed grids on which models with one value per period live.

A calendar divides the year of a parcel into slots; slot 0 begins on 1 January of the row's `year`, slots of the autumn
before are negative. Raw dates are binned, never interpolated: the observations of a slot are averaged, and a slot
without any is missing.

    kind        slots a year   boundaries
    pentad      72             days 1, 6, 11, 16, 21, 26 of each month
    dekad       36             days 1, 11, 21 of each month
    half-month  24             days 1, 16 of each month
    16-day      23             every 16 days from 1 January (MODIS composites)
    month       12             day 1 of each month
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np

from cropgen.core.errors import DataError, UsageError
from cropgen.series.schema import ParcelSeries

Kind = Literal["pentad", "dekad", "half-month", "16-day", "month"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_MONTH_STARTS: dict[str, tuple[int, ...]] = {
    "pentad": (1, 6, 11, 16, 21, 26),
    "dekad": (1, 11, 21),
    "half-month": (1, 16),
    "month": (1,),
}
_SLOTS_PER_YEAR = {"pentad": 72, "dekad": 36, "half-month": 24, "16-day": 23, "month": 12}
_MIN_OCCUPANCY = 0.6


def slot_of(kind: Kind, day: np.ndarray, year: np.ndarray) -> np.ndarray:
    """Slot of each date relative to 1 January of `year`.

    Arguments:
        day: (N, T) int, days since 1970-01-01.
        year: (N,) int, the row's year.

    Returns:
        (N, T) int64 slots; negative before 1 January of `year`.
    """
    date = day.astype("datetime64[D]")
    calendar_year = date.astype("datetime64[Y]")
    years_apart = calendar_year.astype(np.int64) + 1970 - year.astype(np.int64)[:, None]
    if kind == "16-day":
        within = (date - calendar_year.astype("datetime64[D]")).astype(np.int64) // 16
    else:
        month = date.astype("datetime64[M]")
        starts = np.asarray(_MONTH_STARTS[kind])
        day_of_month = (date - month.astype("datetime64[D]")).astype(np.int64) + 1
        month_of_year = (month - calendar_year.astype("datetime64[M]")).astype(np.int64)
        within = month_of_year * len(starts) + np.searchsorted(starts, day_of_month, side="right") - 1
    return years_apart * _SLOTS_PER_YEAR[kind] + within


@dataclass(frozen=True)
class Calendar:
    """A run of `count` slots of one kind, beginning at slot `first`."""

    kind: Kind
    first: int
    count: int

    def slots(self, day: np.ndarray, year: np.ndarray) -> np.ndarray:
        """Position (N, T) int64 of each date in this calendar; −1 outside it."""
        position = slot_of(self.kind, day, year) - self.first
        return np.where((position >= 0) & (position < self.count), position, -1)

    def start_days(self) -> np.ndarray:
        """(count,) int: the day after 1 January of the year on which each slot begins (in a non-leap year)."""
        per_year = _SLOTS_PER_YEAR[self.kind]
        index = np.arange(self.first, self.first + self.count)
        turns, within = np.divmod(index, per_year)
        if self.kind == "16-day":
            return turns * 365 + within * 16
        starts = np.asarray(_MONTH_STARTS[self.kind])
        month, part = np.divmod(within, len(starts))
        month_days = np.asarray([0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334])
        return turns * 365 + month_days[month] + starts[part] - 1

    @property
    def slot_days(self) -> float:
        """Mean length of a slot in days."""
        return 365.25 / _SLOTS_PER_YEAR[self.kind]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Calendar:
        return cls(**document)

    @classmethod
    def fitted(cls, series: ParcelSeries, kind: str = "auto") -> Calendar:
        """The calendar that spans the dates of `series` on which every band was observed.

        `auto` picks the kind in which a row occupies the most slots, among those where at least 60 % of the slots of
        a row are occupied on average (the coarsest kind where none is); of equal ones the coarser.

        Raises:
            DataError: there is no such date.
            UsageError: `kind` is not a calendar.
        """
        if not series.complete.any():
            if series.mask.any():
                raise DataError(
                    f"no date has all of the bands {', '.join(series.bands)}",
                    hint="choose bands that occur together with --bands, or composites of them: cropgen transform",
                )
            raise DataError("no clear date in the series", hint="check the clear classes and the cloud mask")
        if kind == "auto":
            spans = [cls._span(series, k) for k in KINDS]
            good = [(c, filled) for c, filled in spans if filled >= _MIN_OCCUPANCY * c.count]
            if not good:
                return spans[-1][0]
            return max(good, key=lambda pair: (round(pair[1], 1), -pair[0].count))[0]
        for known in KINDS:
            if kind == known:
                return cls._span(series, known)[0]
        raise UsageError(f"unknown calendar {kind!r}", hint=f"one of auto, {', '.join(KINDS)}")

    @classmethod
    def _span(cls, series: ParcelSeries, kind: Kind) -> tuple[Calendar, float]:
        slots = slot_of(kind, series.day, series.year)
        seen = series.complete
        first = int(slots[seen].min())
        count = int(slots[seen].max()) - first + 1
        occupied = np.zeros((len(series), count), bool)
        rows, dates = np.nonzero(seen)
        occupied[rows, slots[rows, dates] - first] = True
        return cls(kind, first, count), float(occupied.sum(1).mean())


def bin_to_grid(series: ParcelSeries, calendar: Calendar) -> tuple[np.ndarray, np.ndarray]:
    """Average the observations of each slot that have every band.

    Returns:
        values (N, G, C) float32, 0 where missing, and mask (N, G) bool, true where a slot holds an observation.
    """
    n, _, bands = series.values.shape
    slots = calendar.slots(series.day, series.year)
    rows, dates = np.nonzero(series.complete & (slots >= 0))
    cell = rows * calendar.count + slots[rows, dates]
    count = np.bincount(cell, minlength=n * calendar.count)
    total = np.stack(
        [np.bincount(cell, weights=series.values[rows, dates, c], minlength=n * calendar.count) for c in range(bands)],
        axis=-1,
    )
    values = total / np.maximum(count, 1)[:, None]
    grid = (n, calendar.count)
    return values.reshape(*grid, bands).astype(np.float32), count.reshape(grid) > 0
