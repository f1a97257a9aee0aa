"""Scores of hard classifications, all computed from the confusion matrix.

Every score takes counts (..., K, K) with the true class in rows, so it applies to one matrix or to a stack of
bootstrap replicates alike. Averages over classes run over the classes that are present among the true labels: a class
that the test rows do not hold has no recall to speak of; rows answered with it count against the recall of their true
class.

Reference: A systematic analysis of performance measures for classification tasks, Sokolova and Lapalme, 2009.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cropgen.core.errors import DataError


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, classes: int) -> np.ndarray:
    """Count pairs of true and predicted class.

    Arguments:
        true: (N,) int classes 0..K−1.
        predicted: (N,) int classes 0..K−1.
        classes: K.

    Returns:
        (K, K) int64 counts, true class in rows.

    Raises:
        DataError: lengths differ, or a class is outside 0..K−1.
    """
    true, predicted = np.asarray(true), np.asarray(predicted)
    if true.shape != predicted.shape or true.ndim != 1:
        raise DataError(f"true and predicted classes must be two equal lists, got {true.shape} and {predicted.shape}")
    for name, values in (("true", true), ("predicted", predicted)):
        if len(values) and (values.min() < 0 or values.max() >= classes):
            raise DataError(f"{name} classes must lie in 0..{classes - 1}, got {values.min()}..{values.max()}")
    cells = true.astype(np.int64) * classes + predicted
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, 0 where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.zeros(np.shape(numerator), float), where=denominator > 0)


@dataclass(frozen=True)
class ClassScores:
    """Scores per class, each (..., K).

    precision = tp / (tp + fp), recall = tp / (tp + fn), F1 = 2 tp / (2 tp + fp + fn); 0 where undefined.
    """

    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    support: np.ndarray


def class_scores(confusion: np.ndarray) -> ClassScores:
    """Precision, recall, F1 and support of every class of (..., K, K) counts."""
    hits = np.diagonal(confusion, axis1=-2, axis2=-1).astype(float)
    support, answers = confusion.sum(-1), confusion.sum(-2)
    return ClassScores(
        precision=_ratio(hits, answers),
        recall=_ratio(hits, support),
        f1=_ratio(2 * hits, support + answers),
        support=support,
    )


def _mean_over_present(scores: np.ndarray, support: np.ndarray) -> np.ndarray:
    present = support > 0
    return _ratio((scores * present).sum(-1), present.sum(-1))


def macro_f1(confusion: np.ndarray) -> np.ndarray:
    """(...) mean F1 over the classes present among the true labels; 0 without any row."""
    scores = class_scores(confusion)
    return _mean_over_present(scores.f1, scores.support)


def balanced_accuracy(confusion: np.ndarray) -> np.ndarray:
    """(...) mean recall over the classes present among the true labels."""
    scores = class_scores(confusion)
    return _mean_over_present(scores.recall, scores.support)


def equal_priors(confusion: np.ndarray) -> np.ndarray:
    """(..., K, K) the confusion expected where every class present among the true labels is equally frequent.

    Rows are divided by their sums, so each holds 1 or, for an absent class, 0. Scores of it do not depend on how often
    the crops occur, so years and regions of different crop shares can be compared.
    """
    return _ratio(confusion, confusion.sum(-1, keepdims=True))


def overall_accuracy(confusion: np.ndarray) -> np.ndarray:
    """(...) share of rows on the diagonal; 0 without any row."""
    return _ratio(np.trace(confusion, axis1=-2, axis2=-1), confusion.sum((-2, -1)))


def kappa(confusion: np.ndarray) -> np.ndarray:
    """(...) agreement beyond chance, (p_o − p_e) / (1 − p_e) with p_e = Σ_k p_k· p_·k; 0 where p_e = 1.

    Reference: A Coefficient of Agreement for Nominal Scales, Cohen, 1960.
    """
    total = confusion.sum((-2, -1))
    chance = _ratio((confusion.sum(-1) * confusion.sum(-2)).sum(-1).astype(float), total.astype(float) ** 2)
    return _ratio(overall_accuracy(confusion) - chance, 1 - chance)
