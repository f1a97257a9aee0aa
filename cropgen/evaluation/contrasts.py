"""Paired differences: what it costs to meet another year or region, and what one model gains over another.

Both sides answer the same test parcels and are resampled with the same draws. Differences of the cells of one seed are
averaged draw by draw; the ends of the interval are averaged over seeds, because the splits of different seeds share
parcels and are no independent evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cropgen.evaluation.document import Contrast
from cropgen.evaluation.score import resampling_unit
from cropgen.metrics.bootstrap import confusion_replicates, interval
from cropgen.metrics.classification import confusion_matrix, macro_f1

_What = Literal["shift", "model", "target", "prefix"]
_Key = tuple[tuple[str, str, bool, bool], tuple[str, str], tuple[str, str, int]]


@dataclass(frozen=True)
class Sheet:
    """The answers of one training on one held-out test set.

    Arguments:
        until, cut, target: as `until`, `cut` and `target_unlabelled` of a row of the document.
        rows: (M,) ascending rows of the store.
        true, predicted: (M,) positions in the legend of the store.
        block: (M,) spatial blocks.
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
    block: np.ndarray
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


def contrasts(sheets: list[Sheet], classes: int) -> tuple[Contrast, ...]:
    """Every contrast the sheets allow; see `cropgen.evaluation.document.Contrast`.

    Arguments:
        sheets: answers on held-out parcels.
        classes: size of the store's legend.
    """
    found: list[Contrast] = []
    by_cell = {(s.setting, s.who, s.cell): s for s in sheets}
    groups: dict[tuple[Any, ...], list[Sheet]] = {}
    for sheet in sheets:
        groups.setdefault((sheet.setting, sheet.who), []).append(sheet)
    for mine in groups.values():
        for what, other in _OTHER_SIDE.items():
            keys = [(s, other(s, sheets[0].who)) for s in mine]
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
    by_seed: dict[int, list[tuple[float, np.ndarray]]] = {}
    for first, second in pairs:
        difference = _difference(first, second, classes)
        if difference is not None:
            by_seed.setdefault(first.seed, []).append(difference)
    if not by_seed:
        return
    intervals = [
        interval(float(np.mean([v for v, _ in cells])), np.mean([r for _, r in cells], axis=0))
        for cells in by_seed.values()
    ]
    value, low, high = (float(np.mean([getattr(i, end) for i in intervals])) for end in ("value", "low", "high"))
    first, second = pairs[0]
    yield Contrast(
        what=what, model=first.model, variant=first.variant, against=second.model, against_variant=second.variant,
        labels=first.labels, until=first.until, cut=first.cut, target_unlabelled=first.target,
        difference=value, low=low, high=high, cells=sum(map(len, by_seed.values())),
    )  # fmt: skip


def _difference(first: Sheet, second: Sheet, classes: int) -> tuple[float, np.ndarray] | None:
    """Macro-F1 difference and its replicates on the parcels whose class both models know."""
    keep = np.isin(first.true, np.intersect1d(first.classes, second.classes))
    if not keep.any():
        return None
    true, block = first.true[keep], first.block[keep]
    answers = [first.predicted[keep], second.predicted[keep]]
    one, two = confusion_replicates(
        true, answers, classes, np.random.default_rng(first.seed), groups=resampling_unit(block)
    )
    here, there = (float(macro_f1(confusion_matrix(true, a, classes))) for a in answers)
    return here - there, macro_f1(one) - macro_f1(two)
