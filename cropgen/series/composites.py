"""Composites: the observations of each period of the season as one, on a grid that all parcels of a year share.

Periods count from 1 January of a row's year; those of the autumn before are negative. `10D` cuts the time line every
ten days, `month` at the first of each. Of the clear observations of a period and parcel

    mean       the mean of each band
    median     the median of each band, the mean of the two middle values where their number is even
    max-ndvi   all bands of the observation with the greatest (NIR − red) / (NIR + red), the earliest of equals

A composite is dated at the middle of its period. A period without a clear observation stays missing; nothing is
interpolated here. Pixel counts of what was merged add up; where the source has none, observations are counted.

Reference: Characteristics of maximum-value composite images from temporal AVHRR data, B. N. Holben, 1986 (max-ndvi).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cropgen.core.errors import DataError, UsageError
from cropgen.series.calendar import slot_of
from cropgen.series.schema import ParcelSeries

Statistic = Literal["mean", "median", "max-ndvi"]
MONTH = "month"
_DAYS = re.compile(r"([1-9]\d{0,2})[dD]")
_RED, _NIR, _NDVI = "B04", ("B08", "B8A"), "NDVI"


@dataclass(frozen=True)
class Periods:
    """A run of equal periods of the season.

    Arguments:
        days: length; None is a calendar month.
        first: the earliest period, 0 begins on 1 January of the row's year.
        count: how many there are.
    """

    days: int | None
    first: int = 0
    count: int = 0

    @classmethod
    def parse(cls, text: str) -> Periods:
        """Read `10D` (any number of days) or `month`; which periods there are is left open.

        Raises:
            UsageError: it is neither.
        """
        if text == MONTH:
            return cls(None)
        if (found := _DAYS.fullmatch(text)) is None:
            raise UsageError(f"composite {text!r}: expected a number of days or month", hint="--composite 5D|10D|month")
        return cls(int(found[1]))

    def spanning(self, parts: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Periods:
        """These periods from the first to the last clear date.

        Arguments:
            parts: mask (N, T), day (N, T) and year (N,) of the rows, in parts.

        Raises:
            DataError: there is no clear date.
        """
        first, last = None, None
        for mask, day, year in parts:
            seen = self.of(day, year)[mask]
            if len(seen):
                first = int(seen.min()) if first is None else min(first, int(seen.min()))
                last = int(seen.max()) if last is None else max(last, int(seen.max()))
        if first is None or last is None:
            raise DataError("no clear date in the series", hint="check the clear classes and the cloud mask")
        return replace(self, first=first, count=last - first + 1)

    def of(self, day: np.ndarray, year: np.ndarray) -> np.ndarray:
        """Period (N, T) int64 of each date, relative to 1 January of the row's year (N,)."""
        if self.days is None:
            return slot_of("month", day, year)
        return (day.astype(np.int64) - _new_year(year)[:, None]) // self.days

    def middles(self, year: np.ndarray) -> np.ndarray:
        """(N, count) int32: the day in the middle of each period, the earlier of two."""
        wanted = np.arange(self.first, self.first + self.count + 1)
        if self.days is None:
            months = (year.astype(np.int64) - 1970)[:, None] * 12 + wanted
            starts = months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64)
        else:
            starts = _new_year(year)[:, None] + wanted * self.days
        return ((starts[:, :-1] + starts[:, 1:] - 1) // 2).astype(np.int32)


def _new_year(year: np.ndarray) -> np.ndarray:
    return (year.astype(np.int64) - 1970).astype("datetime64[Y]").astype("datetime64[D]").astype(np.int64)


def require_bands(bands: tuple[str, ...], statistic: Statistic) -> None:
    """Check that a statistic can be had of these bands.

    Raises:
        UsageError: max-ndvi without red and near infrared.
    """
    if statistic == "max-ndvi" and _NDVI not in bands and not (_RED in bands and any(b in bands for b in _NIR)):
        raise UsageError(
            f"max-ndvi needs {_RED} and {' or '.join(_NIR)}, or {_NDVI}; the series has {', '.join(bands)}",
            hint="use --statistic mean or median",
        )


def composite(series: ParcelSeries, periods: Periods, statistic: Statistic) -> ParcelSeries:
    """The series with one value per period.

    Arguments:
        periods: those of the whole store; dates outside them are left out.
    """
    stack, counts = _stacked(series, periods)
    if statistic == "mean":
        values = _mean(stack)
    elif statistic == "median":
        values = _median(stack)
    else:
        values, counts = _greatest(stack, counts, series.bands)
    seen = np.isfinite(values)
    mask: np.ndarray = np.asarray(seen.any(-1))
    year = series.year
    return ParcelSeries.build(
        bands=series.bands,
        values=values,
        mask=mask,
        day=periods.middles(year),
        parcel_id=series.parcel_id,
        year=year,
        region=series.region,
        label=series.label,
        lon=series.lon,
        lat=series.lat,
        band_mask=None if series.band_mask is None else seen,
        pixels=np.where(mask, counts.sum(-1), 0),
    )


def _stacked(series: ParcelSeries, periods: Periods) -> tuple[np.ndarray, np.ndarray]:
    """Observations (N, G, K, C) float64 of each period in order of time, NaN where there is none, and pixels (N, G, K).

    K is the greatest number of observations in a period.
    """
    place = periods.of(series.day, series.year) - periods.first
    rows, dates = np.nonzero(series.mask & (place >= 0) & (place < periods.count))
    cell = rows * periods.count + place[rows, dates]
    order = np.argsort(cell, kind="stable")
    rows, dates, cell = rows[order], dates[order], cell[order]
    begins = np.flatnonzero(np.diff(cell, prepend=-1))
    rank = np.arange(len(cell)) - np.repeat(begins, np.diff(np.append(begins, len(cell))))
    deepest = int(rank.max(initial=0)) + 1
    cells = len(series) * periods.count
    stack = np.full((cells, deepest, len(series.bands)), np.nan)
    counts = np.zeros((cells, deepest), np.int64)
    found = series.values[rows, dates].astype(np.float64)
    if series.band_mask is not None:
        found[~series.band_mask[rows, dates]] = np.nan
    stack[cell, rank] = found
    counts[cell, rank] = 1 if series.pixels is None else series.pixels[rows, dates]
    grid = (len(series), periods.count, deepest)
    return stack.reshape(*grid, -1), counts.reshape(grid)


def _mean(stack: np.ndarray) -> np.ndarray:
    seen = np.isfinite(stack)
    number = seen.sum(2)
    total = np.where(seen, stack, 0).sum(2)
    return np.where(number > 0, total / np.maximum(number, 1), np.nan)


def _median(stack: np.ndarray) -> np.ndarray:
    ordered = np.sort(stack, axis=2)
    number = np.isfinite(stack).sum(2, keepdims=True)
    low, high = np.maximum(number - 1, 0) // 2, number // 2
    high = np.minimum(high, stack.shape[2] - 1)
    middle = np.take_along_axis(ordered, low, 2) + np.take_along_axis(ordered, high, 2)
    return np.where(number[:, :, 0] > 0, middle[:, :, 0] / 2, np.nan)


def _greatest(stack: np.ndarray, counts: np.ndarray, bands: tuple[str, ...]) -> tuple[np.ndarray, np.ndarray]:
    """The observation of greatest NDVI in each period, and its pixels; those whose NDVI is not known do not count."""
    if _NDVI in bands:
        index = stack[..., bands.index(_NDVI)]
    else:
        red = stack[..., bands.index(_RED)]
        nir = stack[..., bands.index(next(b for b in _NIR if b in bands))]
        total = nir + red
        index = np.divide(nir - red, total, out=np.full_like(total, np.nan), where=total != 0)
    known = np.where(np.isfinite(index), index, -np.inf)
    best = known.argmax(2)[..., None]
    none = np.isneginf(np.take_along_axis(known, best, 2))
    values = np.take_along_axis(stack, best[..., None], 2)[:, :, 0]
    return np.where(none, np.nan, values), np.where(none, 0, np.take_along_axis(counts, best, 2))
