"""How well a score tells parcels of crops outside the legend from parcels of crops inside it."""

from __future__ import annotations

import numpy as np


def auroc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a positive row scores above a negative one; a tie counts half.

    Computed from ranks: (R⁺ − n⁺(n⁺ + 1)/2) / (n⁺ n⁻), R⁺ the sum of the mid-ranks of the positives.

    Arguments:
        score: (N,) higher means more likely positive.
        positive: (N,) bool.

    Returns:
        A value in 0–1, or None when one of the two kinds of row is absent.

    Reference: The Meaning and Use of the Area under a Receiver Operating Characteristic (ROC) Curve, Hanley and
    McNeil, 1982.
    """
    positive = np.asarray(positive, bool)
    inside, outside = int((~positive).sum()), int(positive.sum())
    if inside == 0 or outside == 0:
        return None
    _, position, count = np.unique(np.asarray(score, float), return_inverse=True, return_counts=True)
    mid_rank = np.cumsum(count) - (count - 1) / 2
    rank_sum = mid_rank[position][positive].sum()
    return float((rank_sum - outside * (outside + 1) / 2) / (inside * outside))


def aupr(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Average precision: Σ_i (recall_i − recall_{i−1}) precision_i over the distinct scores, highest first.

    Unlike the AUROC it depends on the share of positives, which is its value for a score that knows nothing.

    Arguments:
        score: (N,) higher means more likely positive.
        positive: (N,) bool.

    Returns:
        A value in 0–1, or None when one of the two kinds of row is absent.

    Reference: The Relationship Between Precision-Recall and ROC Curves, Davis and Goadrich, 2006.
    """
    positive = np.asarray(positive, bool)
    if positive.all() or not positive.any():
        return None
    _, level = np.unique(-np.asarray(score, float), return_inverse=True)
    found = np.cumsum(np.bincount(level, weights=positive))
    precision = found / np.cumsum(np.bincount(level))
    return float((np.diff(found, prepend=0) * precision).sum() / found[-1])
