"""A series store as a protocol sees it: classes merged or left out, the season cut short. Read only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cropgen.series.legend import UNKNOWN, Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.season import SeasonEnd
from cropgen.series.store import SeriesStore


class SeriesView(SeriesStore):
    """A store whose labels are positions in another legend and whose later observations are masked.

    Arguments:
        base: the store, or another view of it.
        classes: a legend, and for each class of the store's legend its position there, −1 where it is left out.
        until: the last day that is seen.
    """

    def __init__(
        self, base: SeriesStore, *, classes: tuple[Legend, np.ndarray] | None = None, until: SeasonEnd | None = None
    ) -> None:
        super().__init__(base.path, base._attributes)
        self._base = base
        self._until = until
        self.legend, self._place = (base.legend, None) if classes is None else classes

    def fingerprint(self) -> str:
        return self._base.fingerprint()

    def read(self, rows: slice | np.ndarray | None = None) -> ParcelSeries:
        series = self._base.read(rows)
        if self._place is not None:
            series = replace(series, label=_relabelled(self._place, series.label))
        return series if self._until is None else self._until.cut(series)

    def _read_field(self, name: str, rows: slice | np.ndarray | None) -> np.ndarray:
        if name == "clear_dates" and self._until is not None and len(self):
            parts = self.chunks() if rows is None else [rows]
            return np.concatenate([self._clear_until(part, self._until) for part in parts])
        content = self._base._read_field(name, rows)
        return content if name != "label" or self._place is None else _relabelled(self._place, content)

    def _clear_until(self, rows: slice | np.ndarray, until: SeasonEnd) -> np.ndarray:
        mask, day, year = (self._base._read_field(name, rows) for name in ("mask", "day", "year"))
        return (mask & (day <= until.last_day(year)[:, None])).sum(1).astype(np.int32)


def _relabelled(place: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Labels (…) sent through `place` (K,); unknown ones stay unknown."""
    return np.append(place, UNKNOWN)[label].astype(np.int32)
