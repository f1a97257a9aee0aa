"""A series store as it is looked at: classes merged or left out, the season cut short, pixel sets read along. Read
only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from cropgen.series.legend import UNKNOWN, Legend
from cropgen.series.pixel_sets import require_pixel_sets
from cropgen.series.schema import ParcelSeries
from cropgen.series.season import SeasonEnd
from cropgen.series.store import SeriesStore


class SeriesView(SeriesStore):
    """A store whose labels are positions in another legend, whose later observations are masked, whose rows come with
    their pixel sets.

    Arguments:
        base: the store, or another view of it.
        classes: a legend, and for each class of the store's legend its position there, −1 where it is left out.
        until: the last day that is seen.
        inside: bands whose pixel sets are read with every row.
    """

    def __init__(
        self, base: SeriesStore, *, classes: tuple[Legend, np.ndarray] | None = None, until: SeasonEnd | None = None,
        inside: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__(base.path, base._attributes)
        self._base = base
        self._until = until
        self._inside = tuple(inside)
        self.legend, self._place = (base.legend, None) if classes is None else classes

    def fingerprint(self) -> str:
        return self._base.fingerprint()

    def read(self, rows: slice | np.ndarray | None = None, *, pixel_bands: Sequence[str] = ()) -> ParcelSeries:
        series = self._base.read(rows, pixel_bands=pixel_bands or self._inside)
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


def with_pixel_sets(store: SeriesStore, bands: Sequence[str] = ()) -> SeriesView:
    """The store with the pixel sets of bands read along with every row.

    Arguments:
        bands: empty: every band that has pixel sets.

    Raises:
        SchemaError: there are no pixel sets of these bands.
    """
    require_pixel_sets(store.pixel_bands, bands, str(store.path))
    return SeriesView(store, inside=bands or store.pixel_bands)


def _relabelled(place: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Labels (…) sent through `place` (K,); unknown ones stay unknown."""
    return np.append(place, UNKNOWN)[label].astype(np.int32)
