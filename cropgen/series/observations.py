"""Loose observations, gathered in any order, packed into the container."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Observations:
    """M observations of N parcel seasons.

    Arguments:
        row: (M,) int64, which parcel season.
        day: (M,) int32, days since 1970-01-01.
        values: (M, C) float32.
    """

    row: np.ndarray
    day: np.ndarray
    values: np.ndarray

    def __len__(self) -> int:
        return len(self.row)

    def keep(self, which: np.ndarray) -> Observations:
        """The observations selected by a boolean array."""
        return self if which.all() else Observations(self.row[which], self.day[which], self.values[which])

    def merged(self) -> tuple[Observations, int]:
        """Sorted by season and day, with several observations of one season and day averaged.

        Returns:
            the observations and how many were merged into another.
        """
        order = np.lexsort((self.day, self.row))
        row, day, values = self.row[order], self.day[order], self.values[order]
        first = np.ones(len(row), bool)
        first[1:] = (row[1:] != row[:-1]) | (day[1:] != day[:-1])
        repeated = int(len(row) - first.sum())
        if not repeated:
            return Observations(row, day, values), 0
        start = np.flatnonzero(first)
        count = np.diff(np.append(start, len(row)))
        mean = np.add.reduceat(values.astype(np.float64), start, axis=0) / count[:, None]
        return Observations(row[start], day[start], mean.astype(np.float32)), repeated


@dataclass(frozen=True)
class Packed:
    """Rows `rows` of the container: values (n, T, C), mask (n, T), day (n, T); padding is masked and at the end."""

    rows: slice
    values: np.ndarray
    mask: np.ndarray
    day: np.ndarray


def pack(observations: Observations, seasons: int, shard: int) -> Iterator[Packed]:
    """Cut sorted observations into padded blocks of at most `shard` parcel seasons.

    Arguments:
        observations: as `merged` returns them.
        seasons: N.
    """
    start_of = np.searchsorted(observations.row, np.arange(seasons + 1))
    for first in range(0, seasons, shard):
        rows = slice(first, min(first + shard, seasons))
        part = slice(start_of[rows.start], start_of[rows.stop])
        count = np.diff(start_of[rows.start : rows.stop + 1])
        row = observations.row[part] - first
        place = np.arange(part.start, part.stop) - start_of[first + row]
        shape = (len(count), max(int(count.max(initial=0)), 1))
        values = np.zeros((*shape, observations.values.shape[1]), np.float32)
        mask = np.zeros(shape, bool)
        day = np.zeros(shape, np.int32)
        values[row, place] = observations.values[part]
        mask[row, place] = True
        day[row, place] = observations.day[part]
        last = day[np.arange(len(count)), np.maximum(count - 1, 0)]
        yield Packed(rows, values, mask, np.where(mask, day, last[:, None]))
