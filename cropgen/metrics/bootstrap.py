"""Intervals of scores by resampling: parcels one by one, or the spatial blocks they lie in.

Neighbouring parcels share soil, weather and farmer, so their errors come together; resampling whole blocks keeps that
dependence and gives wider, honester intervals. Any score that is a function of confusion counts is resampled without
touching rows again:

    parcels   a resample of N rows is a multinomial draw over the distinct (true, predicted…) tuples;
    blocks    a resample of G blocks is a multinomial weighting of the G per-block confusion matrices.

Several classifiers of the same rows are resampled with the same draws, so differences are paired.

Reference: Bootstrap Methods: Another Look at the Jackknife, Efron, 1979; The Jackknife and the Bootstrap for General
Stationary Observations, Künsch, 1989.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from cropgen.core.errors import DataError
from cropgen.metrics.classification import confusion_matrix

Score = Callable[[np.ndarray], np.ndarray]
REPLICATES = 1000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A score with a percentile interval."""

    value: float
    low: float
    high: float


def interval(value: float, replicates: np.ndarray, level: float = LEVEL) -> Interval:
    """The percentile interval of replicates (R,) around the score of the rows as they are."""
    tail = (1 - level) / 2
    low, high = np.quantile(replicates, (tail, 1 - tail))
    return Interval(float(value), float(low), float(high))


def confusion_replicates(
    true: np.ndarray,
    predictions: Sequence[np.ndarray],
    classes: int,
    generator: np.random.Generator,
    *,
    groups: np.ndarray | None = None,
    replicates: int = REPLICATES,
) -> list[np.ndarray]:
    """Resampled confusion matrices of one or more classifiers of the same rows.

    Arguments:
        true: (N,) classes 0..K−1.
        predictions: arrays (N,), one per classifier.
        classes: K.
        groups: (N,) any labels of the blocks that are resampled whole; None resamples rows.

    Returns:
        For each classifier (R, K, K) counts; replicate r used the same draw for all of them.

    Raises:
        DataError: there is no row.
    """
    if len(true) == 0:
        raise DataError("no test row to resample", hint="test on rows that carry labels")
    keys, counts = _units(true, predictions, groups)
    total = int(counts.sum())
    draws = generator.multinomial(total, counts / total, size=replicates).astype(np.float64)
    resampled = []
    for predicted in predictions:
        cell = true.astype(np.int64) * classes + predicted
        per_unit = np.zeros((len(counts), classes * classes))
        np.add.at(per_unit, (keys, cell), 1)
        if groups is None:
            per_unit /= counts[:, None]
        resampled.append(np.rint(draws @ per_unit).astype(np.int64).reshape(replicates, classes, classes))
    return resampled


def _units(
    true: np.ndarray, predictions: Sequence[np.ndarray], groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Unit of each row (N,), and how often a unit is drawn in expectation (U,): 1 a block, or the rows of a tuple."""
    if groups is not None:
        _, keys = np.unique(groups, return_inverse=True)
        return keys, np.ones(keys.max() + 1, np.int64)
    _, keys, counts = np.unique(np.stack([true, *predictions]), axis=1, return_inverse=True, return_counts=True)
    return keys.ravel(), counts


def score_interval(
    score: Score,
    true: np.ndarray,
    predicted: np.ndarray,
    classes: int,
    generator: np.random.Generator,
    *,
    groups: np.ndarray | None = None,
    replicates: int = REPLICATES,
    level: float = LEVEL,
) -> Interval:
    """The interval of a score of confusion counts, such as `macro_f1`."""
    (resampled,) = confusion_replicates(true, [predicted], classes, generator, groups=groups, replicates=replicates)
    return interval(float(score(confusion_matrix(true, predicted, classes))), score(resampled), level)


def paired_difference(
    score: Score,
    true: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    classes: int,
    generator: np.random.Generator,
    *,
    groups: np.ndarray | None = None,
    replicates: int = REPLICATES,
    level: float = LEVEL,
) -> Interval:
    """The interval of score(first) − score(second) for two classifiers of the same rows."""
    one, two = confusion_replicates(true, [first, second], classes, generator, groups=groups, replicates=replicates)
    value = score(confusion_matrix(true, first, classes)) - score(confusion_matrix(true, second, classes))
    return interval(float(value), score(one) - score(two), level)
