"""Which parcels are learnt from and which are tested on.

Every protocol first holds out spatial blocks: their parcels are never learnt from, in no year, labelled or not, so
neither a parcel nor its neighbours can leak. A parcel belongs to one block in all years; parcels without a position
are blocks of their own.

    holdout        train: all rows outside the held-out blocks; test: all rows inside
    cross-year     for each training year A and test year B; train: rows of A outside the held-out blocks;
                   test: rows of B inside. The held-out blocks are the same in every cell, so a column of the matrix
                   scores different trainings on the same parcels and the diagonal is comparable with the rest.
                   Off the diagonal every parcel of B is scored too, as scope "all": what a new season would see.
    cross-region   the same with regions
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd

from cropgen.core.errors import DataError
from cropgen.evaluation.document import Scope
from cropgen.series.splits import holdout, parcel_blocks

Protocol = Literal["holdout", "cross-year", "cross-region"]
_AXIS = {"cross-year": "year", "cross-region": "region"}
EVERYTHING = "all"


@dataclass(frozen=True)
class TestSet:
    """Rows a training is tested on.

    Arguments:
        name: the year or region.
        scope: "held-out": rows of the held-out blocks; "all": every row.
        rows: (M,) ascending rows of the store.
    """

    __test__ = False  # not a pytest class

    name: str
    scope: Scope
    rows: np.ndarray


@dataclass(frozen=True)
class Fold:
    """One training set and the sets it is tested on.

    Arguments:
        train: the year or region learnt from.
        seed: the split's seed.
        block: (N,) int, spatial block of each row.
        open_rows: (N,) bool, rows outside the held-out blocks: the only ones that may be learnt from.
        learnt: the fields of a recipe's data section that name the training set: years, regions, or none.
    """

    train: str
    seed: int
    block: np.ndarray
    open_rows: np.ndarray
    learnt: dict[str, tuple[Any, ...]]
    tests: tuple[TestSet, ...]


def folds(
    protocol: Protocol, index: pd.DataFrame, used: np.ndarray, share: float, block_km: float, seed: int
) -> Iterator[Fold]:
    """The folds of a protocol for one seed.

    Arguments:
        index: the store's index (N rows).
        used: (N,) bool, rows the evaluation is about.
        share: share of the labelled rows whose blocks are held out.
        block_km: side of the blocks.

    Raises:
        DataError: there is nothing to compare: no row, one block, or fewer than two years or regions.
    """
    if not used.any():
        raise DataError("no parcel left to evaluate on", hint="check --years and --regions; see cropgen info")
    block = parcel_blocks(index, block_km, seed)
    split = holdout(index.loc[used], share, seed, block_km)
    shut = np.isin(block, np.unique(block[np.flatnonzero(used)[split.test]]))
    if protocol == "holdout":
        tests = [TestSet(EVERYTHING, "held-out", np.flatnonzero(used & shut))]
        yield Fold(EVERYTHING, seed, block, ~shut, {}, tuple(tests))
        return
    axis = index[_AXIS[protocol]].astype(str).to_numpy()
    names = sorted(set(axis[used]))
    if len(names) < 2:
        raise DataError(
            f"{protocol} needs at least two {_AXIS[protocol]}s, got {', '.join(names)}",
            hint="use --protocol holdout, or add data",
        )
    for train in names:
        tests = [TestSet(name, "held-out", np.flatnonzero(used & shut & (axis == name))) for name in names]
        tests += [TestSet(name, "all", np.flatnonzero(used & (axis == name))) for name in names if name != train]
        learnt: dict[str, tuple[Any, ...]] = (
            {"years": (int(train),)} if protocol == "cross-year" else {"regions": (train,)}
        )
        yield Fold(train, seed, block, ~shut, learnt, tuple(tests))
