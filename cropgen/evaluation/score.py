"""From a model's answers on test parcels to a score sheet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from cropgen.evaluation.document import Detail
from cropgen.metrics.bootstrap import confusion_replicates, interval
from cropgen.metrics.calibration import (
    brier_score,
    classwise_calibration_error,
    negative_log_likelihood,
    top_label_reliability,
)
from cropgen.metrics.classification import class_scores, confusion_matrix, kappa, macro_f1, overall_accuracy
from cropgen.metrics.novelty import auroc

MIN_BLOCKS = 10
_FLOOR = -30.0


@dataclass(frozen=True)
class Answers:
    """What a model said about M labelled test parcels.

    Arguments:
        rows: (M,) rows of the store.
        true: (M,) positions in the legend of the store.
        log_posterior: (M, K) normalised log-probabilities of the model's classes.
        classes: (K,) positions of the model's classes in the legend of the store.
        block: (M,) spatial block of each parcel.
        novelty: (M,) higher means less like the training parcels.
        novelty_score: what `novelty` was computed from.
    """

    rows: np.ndarray
    true: np.ndarray
    log_posterior: np.ndarray
    classes: np.ndarray
    block: np.ndarray
    novelty: np.ndarray
    novelty_score: Literal["likelihood", "entropy"]

    @property
    def in_legend(self) -> np.ndarray:
        """(M,) bool: the true class is one the model knows."""
        return np.isin(self.true, self.classes)

    def take(self, keep: np.ndarray) -> Answers:
        """The parcels of a boolean or index array."""
        return Answers(
            self.rows[keep], self.true[keep], self.log_posterior[keep], self.classes, self.block[keep],
            self.novelty[keep], self.novelty_score,
        )  # fmt: skip


def score(answers: Answers, facts: dict[str, Any], seed: int) -> tuple[dict[str, Any], Detail]:
    """Score the parcels whose class the model knows, and how well it singles out the others.

    A probability below e^−30 counts as e^−30 in the log score, so one certain mistake costs 30 nats and not infinity.

    Arguments:
        answers: at least one parcel of a known class.
        facts: kept in the detail.
        seed: of the bootstrap.

    Returns:
        The scores of a `Row` by name, and the detail.
    """
    known = answers.take(answers.in_legend)
    position = np.searchsorted(known.classes, known.true)
    log_posterior = np.maximum(known.log_posterior, _FLOOR)
    predicted = known.log_posterior.argmax(1)
    confusion = confusion_matrix(position, predicted, len(known.classes))
    per_class = class_scores(confusion)
    reliability = top_label_reliability(log_posterior, position)
    outside = int((~answers.in_legend).sum())
    scores: dict[str, Any] = {
        "n_test": len(position),
        "n_out_of_legend": outside,
        "kappa": float(kappa(confusion)),
        "nll": negative_log_likelihood(log_posterior, position),
        "brier": brier_score(log_posterior, position),
        "ece": reliability.error,
        "classwise_ece": classwise_calibration_error(log_posterior, position),
        "auroc_out_of_legend": auroc(answers.novelty, ~answers.in_legend),
        "novelty_score": answers.novelty_score if outside else None,
        **_intervals(position, predicted, confusion, known.block, seed),
    }
    detail = Detail(
        classes=tuple(known.classes.tolist()),
        confusion=tuple(map(tuple, confusion.tolist())),
        precision=tuple(per_class.precision.round(6).tolist()),
        recall=tuple(per_class.recall.round(6).tolist()),
        f1=tuple(per_class.f1.round(6).tolist()),
        support=tuple(per_class.support.tolist()),
        reliability=reliability.to_json(),
        facts=facts,
    )
    return scores, detail


def resampling_unit(block: np.ndarray) -> np.ndarray | None:
    """The blocks (N,) to resample, or None for single parcels where fewer than 10 blocks are left."""
    return block if len(np.unique(block)) >= MIN_BLOCKS else None


def _intervals(
    true: np.ndarray, predicted: np.ndarray, confusion: np.ndarray, block: np.ndarray, seed: int
) -> dict[str, Any]:
    """Macro-F1 and accuracy with 95 % bootstrap intervals."""
    groups = resampling_unit(block)
    generator = np.random.default_rng(seed)
    (resampled,) = confusion_replicates(true, [predicted], len(confusion), generator, groups=groups)
    found: dict[str, Any] = {"interval_unit": "parcel" if groups is None else "block"}
    for name, measure in (("macro_f1", macro_f1), ("accuracy", overall_accuracy)):
        around = interval(float(measure(confusion)), measure(resampled))
        found |= {name: around.value, f"{name}_low": around.low, f"{name}_high": around.high}
    return found
