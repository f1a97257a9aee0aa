"""Paired differences: what it costs to meet another year or region, and what one model gains over another.

Both sides answer the same test parcels, of classes that both know. Differences of the cells of one seed are averaged
first. Intervals draw the blocks of ground again, the same for every seed, since the splits of different seeds share
parcels and are no independent evidence about the ground, and are widened by Student's t over the seeds. The p-value
swaps the answers of both sides block by block.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cropgen.evaluation.document import Contrast
from cropgen.evaluation.score import MIN_BLOCKS
from cropgen.metrics.bootstrap import Trial, paired_difference, permutation_p_value
from cropgen.metrics.classification import macro_f1

_STREAM = 0xC047
_What = Literal["shift", "model", "target", "prefix"]
_Key = tuple[tuple[str, str, bool, bool], tuple[str, str], tuple[str, str, int]]


@dataclass(frozen=True)
class Sheet:
    """The answers of one training on one held-out test set.

    Arguments:
        until, cut, target: as `until`, `cut` and `target_unlabelled` of a row of the document.
        rows: (M,) ascending rows of the store.
        true, predicted: (M,) positions in the legend of the store.
        ground: (M,) spatial blocks of one grid for all seeds.
        classes: (K,) positions of the classes the model knows.
    """

    train: str
    test: str
    labels: str
    seed: int
    model: str
    rows: np.ndarray
    true: np.ndarray
    predicted: np.ndarray
    ground: np.ndarray
    classes: np.ndarray
    variant: str = ""
    until: str = ""
    cut: bool = False
    target: bool = False

    @property
    def who(self) -> tuple[str, str]:
        return self.model, self.variant

    @property
    def cell(self) -> tuple[str, str, int]:
        return self.train, self.test, self.seed

    @property
    def setting(self) -> tuple[str, str, bool, bool]:
        """What a contrast holds fixed."""
        return self.labels, self.until, self.cut, self.target


def contrasts(sheets: list[Sheet], classes: int, models: Sequence[tuple[str, str]] = ()) -> tuple[Contrast, ...]:
    """Every contrast the sheets allow; see `cropgen.evaluation.document.Contrast`.

    Arguments:
        sheets: answers on held-out parcels.
        classes: size of the store's legend.
        models: models and variants as named; the others are compared with the first that has answers. None named: the
            order of the sheets.
    """
    found: list[Contrast] = []
    answered = [s.who for s in sheets]
    first = next((who for who in (*models, *answered) if who in answered), ("", ""))
    by_cell = {(s.setting, s.who, s.cell): s for s in sheets}
    groups: dict[tuple[Any, ...], list[Sheet]] = {}
    for sheet in sheets:
        groups.setdefault((sheet.setting, sheet.who), []).append(sheet)
    for mine in groups.values():
        for what, other in _OTHER_SIDE.items():
            keys = [(s, other(s, first)) for s in mine]
            found += _contrast(what, [(s, by_cell[key]) for s, key in keys if key in by_cell], classes)
    return tuple(found)


def _same_domain(sheet: Sheet, first: tuple[str, str]) -> _Key | None:
    here = sheet.target or sheet.train == sheet.test
    return None if here else (sheet.setting, sheet.who, (sheet.test, sheet.test, sheet.seed))


def _first_model(sheet: Sheet, first: tuple[str, str]) -> _Key | None:
    return None if sheet.who == first else (sheet.setting, first, sheet.cell)


def _without_target(sheet: Sheet, first: tuple[str, str]) -> _Key | None:
    return ((*sheet.setting[:3], False), sheet.who, sheet.cell) if sheet.target else None


def _trained_as_short(sheet: Sheet, first: tuple[str, str]) -> _Key | None:
    return ((sheet.labels, sheet.until, False, sheet.target), sheet.who, sheet.cell) if sheet.cut else None


_OTHER_SIDE: dict[_What, Callable[[Sheet, tuple[str, str]], _Key | None]] = {
    "shift": _same_domain, "model": _first_model, "target": _without_target, "prefix": _trained_as_short,
}  # fmt: skip


def _contrast(what: _What, pairs: list[tuple[Sheet, Sheet]], classes: int) -> Iterable[Contrast]:
    known = [(s, o, np.isin(s.true, np.intersect1d(s.classes, o.classes))) for s, o in pairs]
    kept = [(s, o, keep) for s, o, keep in known if keep.any()]
    if not kept:
        return
    ground = np.unique(np.concatenate([s.ground[keep] for s, _, keep in kept]))
    by_parcel = len(ground) < MIN_BLOCKS
    trials = [
        Trial(s.seed, s.true[keep], (s.predicted[keep], o.predicted[keep]), (s.rows if by_parcel else s.ground)[keep])
        for s, o, keep in kept
    ]
    around = paired_difference(trials, classes, macro_f1, np.random.default_rng(_STREAM))
    p_value = permutation_p_value(trials, classes, macro_f1, np.random.default_rng(_STREAM))
    first, second = pairs[0]
    yield Contrast(
        what=what, model=first.model, variant=first.variant, against=second.model, against_variant=second.variant,
        labels=first.labels, until=first.until, cut=first.cut, target_unlabelled=first.target,
        difference=around.value, low=around.low, high=around.high, p_value=p_value, cells=len(trials),
        seeds=len({t.seed for t in trials}), interval_unit="parcel" if by_parcel else "block",
    )  # fmt: skip
