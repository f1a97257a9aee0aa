"""How often the parcels of a store were clearly observed: per parcel, per month, per region and year.

Only dates are read, in parts, and kept as counts: memory does not grow with the number of parcels. Values that a
transform filled in are not observations and do not count.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cropgen.core.progress import Reporter, Silent
from cropgen.series.store import SeriesStore

_PART = 16_384
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_LONGEST = 800


@dataclass(frozen=True)
class Seen:
    """Which dates of some rows were clearly observed.

    Arguments:
        rows: their place in the store.
        clear: (N, T) bool.
        day: (N, T) int32, days since 1970-01-01.
        year: (N,) int16.
        region: (N,) text.
        filled: clear dates of the store that were filled in, not observed.
    """

    rows: slice
    clear: np.ndarray
    day: np.ndarray
    year: np.ndarray
    region: np.ndarray
    filled: int

    @property
    def dates(self) -> np.ndarray:
        """(N,) int64: clear dates of each row."""
        return self.clear.sum(1)

    @property
    def months(self) -> np.ndarray:
        """(N, 12) int64: clear dates of each row in each month of the calendar."""
        month = self.day.astype("datetime64[D]").astype("datetime64[M]").astype(np.int64) % 12
        cell = np.arange(len(self.clear))[:, None] * 12 + month
        return np.bincount(cell[self.clear], minlength=12 * len(self.clear)).reshape(-1, 12)

    @property
    def longest_gap(self) -> np.ndarray:
        """(N,) int64: most days between two clear dates that follow each other; 0 where there are fewer than two."""
        if self.day.shape[1] < 2:
            return np.zeros(len(self.day), np.int64)
        never = np.iinfo(np.int64).min // 2
        day = self.day.astype(np.int64)
        last = np.maximum.accumulate(np.where(self.clear, day, never), axis=1)[:, :-1]
        gap = np.where(self.clear[:, 1:] & (last > never), day[:, 1:] - last, 0)
        return gap.max(1)


def seen_dates(store: SeriesStore, part: int = _PART) -> Iterator[Seen]:
    """The clear dates of a store, in parts of consecutive rows; no value is read."""
    whole = store.dataset()
    steps = store.source.get("transforms", ())
    filled = "pixels" in whole and any(step.get("interpolate", "none") != "none" for step in steps)
    names = ["mask", "day", "year", "region", *(["pixels"] if filled else [])]
    for rows in store.chunks(part):
        held = whole[names].isel(parcel=rows)
        mask = held["mask"].to_numpy()
        clear = mask & (held["pixels"].to_numpy() > 0) if filled else mask
        region = np.asarray(held["region"].to_numpy().tolist(), dtype=np.str_)
        yield Seen(rows, clear, held["day"].to_numpy(), held["year"].to_numpy(), region, int((mask & ~clear).sum()))


@dataclass
class _Tally:
    """Counts over the rows of a group."""

    dates: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    gaps: np.ndarray = field(default_factory=lambda: np.zeros(_LONGEST, np.int64))
    months: np.ndarray = field(default_factory=lambda: np.zeros(12, np.int64))

    def add(self, dates: np.ndarray, gaps: np.ndarray, months: np.ndarray) -> None:
        number = max(len(self.dates), int(dates.max(initial=0)) + 1)
        self.dates = np.bincount(dates, minlength=number) + np.pad(self.dates, (0, number - len(self.dates)))
        self.gaps += np.bincount(np.minimum(gaps, _LONGEST - 1), minlength=_LONGEST)
        self.months += months.sum(0)

    def document(self) -> dict[str, Any]:
        rows = int(self.dates.sum())
        return {
            "rows": rows,
            "unseen": int(self.dates[0]) if rows else 0,
            "quantiles": _quantiles(self.dates),
            "longest_gap": _quantiles(self.gaps).get("0.5"),
            "months": {str(m + 1): float(self.months[m] / max(rows, 1)) for m in range(12)},
        }


def _quantiles(counts: np.ndarray) -> dict[str, int]:
    """The least number that a share of the rows does not exceed, of counts (M,) of rows by number."""
    total = np.cumsum(counts)
    if not len(counts) or not total[-1]:
        return {}
    return {f"{q:g}": int(np.searchsorted(total, max(q * total[-1], 1))) for q in _QUANTILES}


def coverage(store: SeriesStore, report: Reporter | None = None) -> dict[str, Any]:
    """Clear dates of a store, in one pass over its dates.

    Returns:
        A JSON-able document of all rows and of each of `region_years` (with its region and year): rows, `unseen` (rows
        without a clear date), `quantiles` of clear dates per parcel, `longest_gap` (median over parcels of the most
        days between two clear dates), `months` (mean clear dates per parcel); and `filled`, dates that a transform
        filled in, which do not count.
    """
    whole, groups, filled = _Tally(), {}, 0
    with (report or Silent()).task("reading dates", len(store)) as task:
        for seen in seen_dates(store) if len(store) else ():
            dates, gaps, months = seen.dates, seen.longest_gap, seen.months
            whole.add(dates, gaps, months)
            filled += seen.filled
            keys, which = np.unique(np.stack([seen.region, seen.year.astype(np.str_)]), axis=1, return_inverse=True)
            for number, (region, year) in enumerate(keys.T.tolist()):
                rows = which.reshape(-1) == number
                groups.setdefault((region, int(year)), _Tally()).add(dates[rows], gaps[rows], months[rows])
            task.advance(seen.rows.stop - seen.rows.start)
    listed = [{"region": region, "year": year, **tally.document()} for (region, year), tally in sorted(groups.items())]
    return {**whole.document(), "filled": filled, "region_years": listed}
