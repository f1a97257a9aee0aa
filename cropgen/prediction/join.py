"""Which row of a series store belongs to a parcel: by parcel id and year, through an index of 16 bytes a row.

Keys are 64-bit hashes of id and year, sorted; a hit is confirmed by comparing the id itself, so a collision of hashes
never assigns a foreign series.
"""

from __future__ import annotations

import numpy as np

from cropgen.core.errors import DataError
from cropgen.core.progress import Reporter
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

_CHUNK = 1 << 17
_FNV = np.uint64(0x100000001B3)
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def parcel_keys(parcel_id: np.ndarray, year: np.ndarray) -> np.ndarray:
    """(N,) uint64 hashes of ids (text) and years: FNV-1a over code points, then a finaliser that mixes all bits."""
    text = np.ascontiguousarray(parcel_id, dtype=np.str_)
    points = text.view(np.uint32).reshape(len(text), -1).astype(np.uint64) if len(text) else np.zeros((0, 0), np.uint64)
    key = year.astype(np.int64).astype(np.uint64) * _GOLDEN
    for column in points.T:
        key = np.where(column > 0, (key ^ column) * _FNV, key)
    key = (key ^ (key >> np.uint64(33))) * _GOLDEN
    return key ^ (key >> np.uint64(29))


class RowIndex:
    """Finds the rows of a store by parcel id and year."""

    def __init__(self, store: SeriesStore, report: Reporter) -> None:
        """Index every row.

        Raises:
            DataError: two rows have the same id and year.
        """
        self._store = store
        keys = np.empty(len(store), np.uint64)
        with report.task("indexing parcels", len(store)) as task:
            for rows in store.chunks(_CHUNK):
                keys[rows] = parcel_keys(store.column("parcel_id", rows), store.column("year", rows))
                task.advance(rows.stop - rows.start)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        self._refuse_repeats()

    def find(self, parcel_id: np.ndarray, year: np.ndarray) -> np.ndarray:
        """(N,) int64 candidate row of each parcel, −1 where there is none; `confirmed` settles the rest."""
        keys = parcel_keys(parcel_id, year)
        place = np.minimum(np.searchsorted(self._keys, keys), max(len(self._keys) - 1, 0))
        if not len(self._keys):
            return np.full(len(keys), -1, np.int64)
        return np.where(self._keys[place] == keys, self._order[place], -1)

    def _refuse_repeats(self) -> None:
        again = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        if len(again):
            row = self._order[again[:1]]
            name, year = self._store.column("parcel_id", row)[0], self._store.column("year", row)[0]
            raise DataError(
                f"{self._store.path}: {len(again)} parcels occur twice in a year, for example {name} in {year}",
                hint="give every parcel an id of its own when the series is made",
            )


def confirmed(series: ParcelSeries, parcel_id: np.ndarray, year: np.ndarray) -> np.ndarray:
    """(N,) bool: true where a row read from the store is the parcel that was looked for."""
    return (series.parcel_id == parcel_id) & (series.year == year)
