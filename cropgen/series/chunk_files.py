"""Which chunk files the arrays of a store must have.

A shard is written with as many dates as the longest row of the store has by then, so the chunks of later dates are
there from the rows on at which the store grew to them. Its attributes say where that was, in `growth`: pairs of a first
row and the dates that are written from it on. Of a store that does not say so its files tell: chunks of later dates
that any array has for some rows, every array must have for these and for all later rows, and for the last row it must
have all. What a killed writer left beside its chunks, under names that are no numbers, is none of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

Growth = list[list[int]]


def grown(growth: Growth, first: int, dates: int) -> Growth:
    """The growth after rows from `first` on were written with `dates` dates."""
    return growth if growth and growth[-1][1] >= dates else [*growth, [first, dates]]


def growth_of_files(path: Path, chunks: Mapping[str, Sequence[int]], rows: int, dates: int) -> Growth:
    """The growth of a store, as far as the chunks that are there tell it.

    Arguments:
        chunks: array with dates → shape of its chunks.
        rows, dates: of the store.
    """
    found = [(rows - 1, dates)]
    for name, (height, width, *_) in chunks.items():
        for file in (path / name / "c").glob("*/*"):
            if not file.name.isdecimal():
                continue
            row, date = int(file.parent.name) * height, int(file.name) * width
            if row < rows and date < dates:
                found.append((min(row + height, rows) - 1, date + 1))
    growth: Growth = []
    for last, held in sorted(found):
        growth = grown(growth, last, held)
    return growth


def missing_chunk(folder: Path, chunks: Sequence[int], rows: slice | np.ndarray, growth: Growth) -> str | None:
    """The first chunk that rows of an array need and that is not there, as `0/1/0`.

    Arguments:
        folder: of the array.
        chunks: shape of its chunks.
        rows: a unit slice or ascending positions.
        growth: of the store; empty where all dates are in one chunk.
    """
    size = chunks[0]
    if isinstance(rows, slice):
        touched = np.arange(rows.start // size, -(-rows.stop // size)) if rows.stop > rows.start else np.array([])
    else:
        touched = np.unique(rows // size)
    for position in touched.astype(int).tolist():
        dates = max((held for first, held in growth if first < (position + 1) * size), default=1)
        for later in range(-(-dates // chunks[1]) if len(chunks) > 1 else 1):
            parts = [position, later, *[0] * len(chunks)][: len(chunks)]
            if not folder.joinpath("c", *map(str, parts)).is_file():
                return "/".join(map(str, parts))
    return None
