"""Paired differences: what it costs to meet another year or region, and what one model gains over another.

Both sides answer the same test parcels and are resampled with the same draws. Differences of the cells of one seed are
averaged draw by draw; the ends of the interval are averaged over seeds, because the splits of different seeds share
parcels and are no independent evidence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from cropgen.evaluation.document import Contrast
from cropgen.evaluation.score import resampling_unit
from cropgen.metrics.bootstrap import confusion_replicates, interval
from cropgen.metrics.classification import confusion_matrix, macro_f1


@dataclass(frozen=True)
class Sheet:
    """The answers of one training on one held-out test set.

    Arguments:
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


def contrasts(sheets: list[Sheet], classes: int) -> tuple[Contrast, ...]:
    """Every contrast the sheets allow.

    `shift`: macro-F1 of a model trained elsewhere minus the same model trained on the test year or region.
    `model`: macro-F1 of each model minus that of the first one named, over all cells.

    Arguments:
        sheets: answers on held-out parcels.
        classes: size of the store's legend.
    """
    found = []
    models = list(dict.fromkeys(s.model for s in sheets))
    for labels in dict.fromkeys(s.labels for s in sheets):
        of = {(s.model, s.train, s.test, s.seed): s for s in sheets if s.labels == labels}
        for model in models:
            shifted = [(s, of[model, s.test, s.test, s.seed]) for s in of.values()
                       if s.model == model and s.train != s.test and (model, s.test, s.test, s.seed) in of]  # fmt: skip
            found += _contrast("shift", model, model, labels, shifted, classes)
            if model != models[0]:
                compared = [(s, of[models[0], s.train, s.test, s.seed]) for s in of.values()
                            if s.model == model and (models[0], s.train, s.test, s.seed) in of]  # fmt: skip
                found += _contrast("model", model, models[0], labels, compared, classes)
    return tuple(found)


def _contrast(
    what: Literal["shift", "model"],
    model: str,
    against: str,
    labels: str,
    pairs: list[tuple[Sheet, Sheet]],
    classes: int,
) -> Iterable[Contrast]:
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
    cells = sum(map(len, by_seed.values()))
    yield Contrast(
        what=what, model=model, against=against, labels=labels, difference=value, low=low, high=high, cells=cells
    )


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
