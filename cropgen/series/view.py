"""A series store as a protocol sees it: classes merged or left out, the season cut short. Read only."""

from __future__ import annotations

from typing import Self

import numpy as np

from cropgen.series.legend import UNKNOWN, Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.season import SeasonEnd
from cropgen.series.store import SeriesStore


class SeriesView(SeriesStore):
    """A store whose labels are positions in another legend and whose later observations are masked."""

    _place: np.ndarray | None = None
    _until: SeasonEnd | None = None

    @classmethod
    def of(
        cls, store: SeriesStore, *, classes: tuple[Legend, np.ndarray] | None = None, until: SeasonEnd | None = None
    ) -> Self:
        """A view of a store, or of a view.

        Arguments:
            classes: a legend, and for each class of the store's legend its position there, −1 where it is left out.
            until: the last day that is seen.
        """
        view = cls.open(store.path)
        view.legend = store.legend
        if isinstance(store, SeriesView):
            view._place, view._until = store._place, store._until
        if classes is not None:
            view.legend, place = classes
            view._place = place if view._place is None else _relabelled(place, view._place)
        view._until = until or view._until
        return view

    def read(self, rows: slice | np.ndarray | None = None) -> ParcelSeries:
        series = super().read(rows)
        return series if self._until is None else self._until.cut(series)

    def _read_field(self, name: str, rows: slice | np.ndarray | None) -> np.ndarray:
        if name == "clear_dates" and self._until is not None and len(self):
            parts = self.chunks() if rows is None else [rows]
            return np.concatenate([self._clear_until(part, self._until) for part in parts])
        content = super()._read_field(name, rows)
        return content if name != "label" or self._place is None else _relabelled(self._place, content)

    def _clear_until(self, rows: slice | np.ndarray, until: SeasonEnd) -> np.ndarray:
        mask, day, year = (super(SeriesView, self)._read_field(name, rows) for name in ("mask", "day", "year"))
        return (mask & (day <= until.last_day(year)[:, None])).sum(1).astype(np.int32)


def _relabelled(place: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Labels (…) sent through `place` (K,); unknown ones stay unknown."""
    return np.append(place, UNKNOWN)[label].astype(np.int32)
