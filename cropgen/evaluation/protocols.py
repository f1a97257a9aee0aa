"""Which parcels are learnt from and which are tested on.

Every protocol first holds out spatial blocks: their parcels are never learnt from, in no year, labelled or not, so
neither a parcel nor its neighbours can leak. A parcel belongs to one block in all years; parcels without a position
are blocks of their own.

    holdout                 train: all rows outside the held-out blocks; test: all rows inside
    blocks                  the blocks are dealt into parts of about equally many labels; each part is held out once
    cross-year              for each training year A and test year B; train: rows of A outside the held-out blocks;
                            test: rows of B inside. The held-out blocks are the same in every cell, so a column of the
                            matrix scores different trainings on the same parcels and the diagonal is comparable with
                            the rest. Off the diagonal every parcel of B is scored too, as scope "all": what a new
                            season would see.
    cross-region            the same with regions
    leave-one-year-out      for each year B; train: rows of all other years outside the held-out blocks; test: rows of B
                            inside, and every parcel of B as scope "all"
    leave-one-region-out    the same with regions
    out-of-legend           for each crop; train: rows of all other crops outside the held-out blocks, test: all rows
                            inside, where parcels of the crop left out ought to look strange
    label-curve, early-season, ablation    holdout over label shares, ends of the season, or options

Where the target's unlabelled parcels may be learnt from, they are the rows of the test year or region outside the
held-out blocks: never a parcel that is tested on, nor a neighbour in its block.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from cropgen.core.errors import DataError, UsageError
from cropgen.core.run import fingerprint
from cropgen.evaluation.document import Scope
from cropgen.series.legend import UNKNOWN
from cropgen.series.splits import held_out_blocks, parcel_blocks

EVERYTHING = "all"
LABEL_CURVE = ("1%", "5%", "10%", "25%", "50%", "100%")
_DEAL_STREAM = 0xDEA1


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
        train: what is learnt from: a year, a region, or what is left out.
        seed: the split's seed.
        block: (N,) int, spatial block of each row.
        open_rows: (N,) bool: the only rows that may be learnt from, with or without labels.
        learnt: the fields of a recipe's data section that name the training set: years, regions, or none.
        target: (M,) rows of the test year or region that may be learnt from without labels; None: none may.
        validation: (M,) rows a published protocol keeps for choices; None: none.
        official: the split is a published one, to be taken as it is: neighbours, or one parcel in two years, may be on
            both sides.
    """

    train: str
    seed: int
    block: np.ndarray
    open_rows: np.ndarray
    learnt: dict[str, tuple[Any, ...]]
    tests: tuple[TestSet, ...]
    target: np.ndarray | None = None
    validation: np.ndarray | None = None
    official: bool = False

    def digest(self) -> str:
        """Hex SHA-256 of every row of the fold and what it is for."""
        parts = [self.block, self.open_rows, self.target, self.validation, *(test.rows for test in self.tests)]
        names = [self.train, self.seed, self.learnt, [(test.name, test.scope) for test in self.tests]]
        digest = hashlib.sha256(fingerprint(names).encode())
        for part in parts:
            digest.update(b"none" if part is None else f"{part.dtype}{part.shape}".encode() + part.tobytes())
        return digest.hexdigest()


@dataclass(frozen=True)
class Ground:
    """What the folds of one seed are cut from.

    Arguments:
        index: the store's index (N rows).
        used: (N,) bool, rows the evaluation is about.
        seed: decides the grid of blocks and the draw.
        share: share of the used labelled rows whose blocks are held out.
        block_km: side of the blocks.
        parts: number of parts of `blocks`.
        names: names of the classes of the store's legend.
    """

    index: pd.DataFrame
    used: np.ndarray
    seed: int
    share: float = 0.3
    block_km: float = 1.0
    parts: int = 5
    names: Sequence[str] = ()

    @cached_property
    def block(self) -> np.ndarray:
        return parcel_blocks(self.index, self.block_km, self.seed)

    @cached_property
    def shut(self) -> np.ndarray:
        """(N,) bool: rows of the held-out blocks, which are drawn among those of the used rows."""
        labelled = self.index["label"].to_numpy() > UNKNOWN
        held = held_out_blocks(self.block[self.used], labelled[self.used], self.share, self.seed, self.block_km)
        return np.isin(self.block, held)

    def axis(self, column: str, protocol: str) -> tuple[np.ndarray, list[str]]:
        """The year or region of each row as text, and the names that occur among the used rows.

        Raises:
            DataError: there are fewer than two.
        """
        axis = self.index[column].astype(str).to_numpy()
        names = sorted(set(axis[self.used]))
        if len(names) < 2:
            raise DataError(
                f"{protocol} needs at least two {column}s, got {', '.join(names)}",
                hint="use --protocol holdout, or add data",
            )
        return axis, names

    def fold(self, train: str, tests: Sequence[TestSet], open_rows: np.ndarray | None = None, **changes: Any) -> Fold:
        """A fold that may learn from all rows outside the held-out blocks, or from `open_rows`."""
        open_rows = ~self.shut if open_rows is None else open_rows
        return Fold(train, self.seed, self.block, open_rows, changes.pop("learnt", {}), tuple(tests), **changes)


def folds(protocol: str, ground: Ground, *, target: bool = False) -> Iterator[Fold]:
    """The folds of a protocol for one seed.

    Arguments:
        target: give every fold the unlabelled rows of its test year or region; those where training and test are of
            one year or region have none and are left out.

    Raises:
        UsageError: the protocol is unknown, or has no target.
        DataError: there is nothing to compare: no row, one block, or fewer than two years or regions.
    """
    if protocol not in PROTOCOLS:
        raise UsageError(f"unknown protocol {protocol!r}", hint=f"one of {', '.join(PROTOCOLS)}")
    if not ground.used.any():
        raise DataError("no parcel left to evaluate on", hint="check --years and --regions; see cropgen info")
    make, has_target = PROTOCOLS[protocol]
    if target and not has_target:
        raise UsageError(
            f"{protocol} has no other year or region whose unlabelled parcels could be learnt from",
            hint="use --unlabelled-target with cross-year, cross-region, leave-one-year-out or leave-one-region-out",
        )
    yield from make(protocol, ground, target)


def _held_out(protocol: str, ground: Ground, target: bool) -> Iterator[Fold]:
    rows = np.flatnonzero(ground.used & ground.shut)
    yield ground.fold(EVERYTHING, [TestSet(EVERYTHING, "held-out", rows)])


def _blocks(protocol: str, ground: Ground, target: bool) -> Iterator[Fold]:
    """Blocks go in a seeded order, the heaviest first, to the part with the fewest labels, then blocks, so far."""
    labelled = (ground.index["label"].to_numpy() > UNKNOWN) & ground.used
    held = np.unique(ground.block[ground.used])
    if len(held) < ground.parts:
        raise DataError(
            f"the parcels lie in {len(held)} blocks of {ground.block_km:g} km, too few for {ground.parts} parts",
            hint="choose smaller blocks (--block-km) or fewer --parts",
        )
    weight = np.bincount(ground.block[labelled], minlength=int(ground.block.max()) + 1)[held]
    order = np.random.default_rng([ground.seed, _DEAL_STREAM]).permutation(len(held))
    part, load, size = np.zeros(len(held), np.int64), np.zeros(ground.parts), np.zeros(ground.parts)
    for place in order[np.argsort(-weight[order], kind="stable")]:
        part[place] = np.lexsort((size, load))[0]
        load[part[place]] += weight[place]
        size[part[place]] += 1
    for number in range(ground.parts):
        shut = np.isin(ground.block, held[part == number])
        name = f"part {number + 1} of {ground.parts}"
        yield ground.fold(name, [TestSet(name, "held-out", np.flatnonzero(ground.used & shut))], open_rows=~shut)


def _cross(protocol: str, ground: Ground, target: bool) -> Iterator[Fold]:
    column = protocol.removeprefix("cross-")
    axis, names = ground.axis(column, protocol)
    for train in names:
        learnt = _learnt(column, [train])
        others = [name for name in names if name != train]
        if target:
            for name in others:
                yield ground.fold(train, [_inside(ground, axis, name)], learnt=learnt, target=_near(ground, axis, name))
        else:
            tests = [_inside(ground, axis, name) for name in names]
            yield ground.fold(train, tests + [_whole(ground, axis, name) for name in others], learnt=learnt)


def _leave_one_out(protocol: str, ground: Ground, target: bool) -> Iterator[Fold]:
    column = protocol.removeprefix("leave-one-").removesuffix("-out")
    axis, names = ground.axis(column, protocol)
    for name in names:
        train, learnt = f"all but {name}", _learnt(column, [other for other in names if other != name])
        inside = _inside(ground, axis, name)
        if target:
            yield ground.fold(train, [inside], learnt=learnt, target=_near(ground, axis, name))
        else:
            yield ground.fold(train, [inside, _whole(ground, axis, name)], learnt=learnt)


def _out_of_legend(protocol: str, ground: Ground, target: bool) -> Iterator[Fold]:
    label = ground.index["label"].to_numpy()
    inside = TestSet(EVERYTHING, "held-out", np.flatnonzero(ground.used & ground.shut))
    learnt, tested = np.unique(label[ground.used & ~ground.shut]), np.unique(label[inside.rows])
    crops = [int(k) for k in np.intersect1d(learnt, tested) if k > UNKNOWN]
    if len(learnt[learnt > UNKNOWN]) < 3 or not crops:
        raise DataError(
            f"{protocol} needs three crops to learn and one that is tested too, got {len(crops)}",
            hint="choose smaller blocks (--block-km), or add data",
        )
    for crop in crops:
        open_rows = ~ground.shut & (label != crop)
        yield ground.fold(f"without {ground.names[crop]}", [inside], open_rows=open_rows)


def _learnt(column: str, names: Sequence[str]) -> dict[str, tuple[Any, ...]]:
    return {"years": tuple(int(n) for n in names)} if column == "year" else {"regions": tuple(names)}


def _inside(ground: Ground, axis: np.ndarray, name: str) -> TestSet:
    return TestSet(name, "held-out", np.flatnonzero(ground.used & ground.shut & (axis == name)))


def _whole(ground: Ground, axis: np.ndarray, name: str) -> TestSet:
    return TestSet(name, "all", np.flatnonzero(ground.used & (axis == name)))


def _near(ground: Ground, axis: np.ndarray, name: str) -> np.ndarray:
    return np.flatnonzero(ground.used & ~ground.shut & (axis == name))


_Maker = Callable[[str, Ground, bool], Iterator[Fold]]
PROTOCOLS: dict[str, tuple[_Maker, bool]] = {
    "holdout": (_held_out, False),
    "blocks": (_blocks, False),
    "cross-year": (_cross, True),
    "cross-region": (_cross, True),
    "leave-one-year-out": (_leave_one_out, True),
    "leave-one-region-out": (_leave_one_out, True),
    "label-curve": (_held_out, False),
    "early-season": (_held_out, False),
    "out-of-legend": (_out_of_legend, False),
    "ablation": (_held_out, False),
}
