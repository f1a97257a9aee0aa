"""The last day of a season that is seen: what makes a prediction an early one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cropgen.core.errors import UsageError
from cropgen.series.schema import ParcelSeries


@dataclass(frozen=True)
class SeasonEnd:
    """The last day whose observations are used: a day of a month, then a number of days, in the year of a row.

    Arguments:
        month, day: of the year of the row, from 1.
        later: days after it.
    """

    month: int
    day: int
    later: int = 0

    @classmethod
    def parse(cls, text: str) -> SeasonEnd:
        """Read `MM-DD`, or a number of days after 1 January.

        Raises:
            UsageError: it is neither.
        """
        plain = text.strip()
        if plain.removeprefix("-").isdecimal() and str(int(plain)) == plain:
            return cls(1, 1, int(plain))
        try:
            date = np.datetime64(f"2000-{plain}", "D")
            month, day = str(date)[5:].split("-")
            if plain != f"{month}-{day}":
                raise ValueError(plain)
        except ValueError as error:
            raise UsageError(
                f"expected a day as MM-DD or days after 1 January, got {text!r}", hint="for example --until 06-30"
            ) from error
        return cls(int(month), int(day))

    def last_day(self, year: np.ndarray) -> np.ndarray:
        """(N,) int64, days since 1970-01-01 of the last day used, for rows of year (N,)."""
        months = (year.astype(np.int64) - 1970) * 12 + self.month - 1
        return months.astype("datetime64[M]").astype("datetime64[D]").astype(np.int64) + self.day - 1 + self.later

    def cut(self, series: ParcelSeries) -> ParcelSeries:
        """The series with every later observation masked."""
        mask = series.mask & (series.day <= self.last_day(series.year)[:, None])
        band_mask = None if series.band_mask is None else series.band_mask & mask[..., None]
        sets = None if series.pixel_sets is None else series.pixel_sets.within(mask)
        return replace(
            series, mask=mask, values=series.values * mask[..., None], band_mask=band_mask, pixel_sets=sets
        )  # fmt: skip
