"""The statistics of a parcel's pixels, their names, and what becomes of them where a parcel is seen in parts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cropgen.core.errors import UsageError

_QUANTILE = re.compile(r"p(\d{1,2}|100)")


@dataclass(frozen=True)
class Statistic:
    """One statistic.

    Arguments:
        name: mean, std, count, median, or pNN for the NN-th percentile.
        share: of a quantile, 0 to 1; None for others.
    """

    name: str
    share: float | None = None

    @classmethod
    def named(cls, name: str) -> Statistic:
        """The statistic of a name.

        Raises:
            UsageError: there is none.
        """
        if name in ("mean", "std", "count"):
            return cls(name)
        if name == "median":
            return cls(name, 0.5)
        if found := _QUANTILE.fullmatch(name):
            return cls(name, int(found.group(1)) / 100)
        raise UsageError(f"unknown statistic {name!r}", hint="choose among mean, std, median, count, and p10, p90, …")

    def band(self, name: str) -> str:
        """The name of its band in the container: that of the band itself for the mean."""
        return name if self.name == "mean" else f"{name}_{self.name}"


def statistics_of(names: Sequence[str]) -> tuple[Statistic, ...]:
    """The mean, which is always there, and the statistics of some names, each once.

    Raises:
        UsageError: a name is unknown.
    """
    return tuple(Statistic.named(name) for name in dict.fromkeys(("mean", *names)))


def combined(statistics: Sequence[Statistic], values: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The statistics of parcels seen in parts, from those of the parts.

    Means, counts and standard deviations are those of all pixels together; quantiles are the means of the parts'
    quantiles by weight.

    Arguments:
        statistics: S of them, the mean first.
        values: (K, P, S, C) statistics of K parts.
        weight: (K, P, C) clear pixels behind them; 0 where a part saw nothing.

    Returns:
        (P, S, C); NaN where no part saw anything.
    """
    total = weight.sum(0)
    parts = np.where(weight[:, :, None] > 0, values, 0.0).astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = (parts * weight[:, :, None]).sum(0) / total[:, None]
        for s, statistic in enumerate(statistics):
            if statistic.name == "count":
                found[:, s] = np.where(total > 0, total, np.nan)
            elif statistic.name == "std":
                square = parts[:, :, s] ** 2 + (parts[:, :, 0] - found[None, :, 0]) ** 2
                found[:, s] = np.sqrt((square * weight).sum(0) / total)
    return found
