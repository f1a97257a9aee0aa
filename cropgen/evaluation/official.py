"""Folds of the protocols that a data set was published with."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd

from cropgen.core.errors import UsageError
from cropgen.evaluation.protocols import Fold, TestSet
from cropgen.series.official import OfficialProtocol, Side, official_rows
from cropgen.series.splits import parcel_blocks
from cropgen.series.store import SeriesStore


def official_folds(
    store: SeriesStore, protocol: OfficialProtocol, index: pd.DataFrame, block_km: float, seed: int, *,
    target: bool = False,
) -> Iterator[Fold]:  # fmt: skip
    """The one fold of a published protocol; seeds draw labels, weights and the blocks of intervals, not the split.

    Arguments:
        target: give the rows of the test years and regions that are neither tested on nor kept for choices, unlabelled.

    Raises:
        DataError, SchemaError, MissingInputError: see `cropgen.series.official`.
        UsageError: a target is asked for and every row of the test years and regions is tested on.
    """
    rows = official_rows(store, protocol, index)
    open_rows = np.zeros(len(index), bool)
    open_rows[rows.train] = True
    free = np.flatnonzero(protocol.test.keep(index, protocol.name))
    free = np.setdiff1d(free, np.concatenate([rows.test, rows.validation, rows.train]))
    if target and not len(free):
        raise UsageError(
            f"{protocol.name}: every parcel of {side_name(protocol.test, 'test')} is tested on or learnt from with its "
            f"label",
            hint="leave out --unlabelled-target",
        )
    yield Fold(
        side_name(protocol.train, "train"), seed, parcel_blocks(index, block_km, seed), open_rows, {},
        (TestSet(side_name(protocol.test, "test"), "held-out", rows.test),), free if target else None,
        rows.validation if len(rows.validation) else None, official=True,
    )  # fmt: skip


def side_name(side: Side, role: str) -> str:
    """What a table calls a side: its regions and years, or its role where it names none."""
    parts = ["+".join(side.regions), "+".join(map(str, side.years))]
    return " ".join(part for part in parts if part) or role
