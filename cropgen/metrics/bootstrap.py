"""Intervals of scores by resampling: parcels one by one, or the spatial blocks they lie in.

Neighbouring parcels share soil, weather and farmer, so their errors come together; resampling whole blocks keeps that
dependence and gives wider, honester intervals. Any score that is a function of confusion counts is resampled without
touching rows again:

    parcels   a resample of N rows is a multinomial draw over the distinct (true, predicted…) tuples;
    blocks    a resample of G blocks is a multinomial weighting of the G per-block confusion matrices.

Several classifiers of the same rows are resampled with the same draws, so differences are paired. The ground is many
blocks and is resampled; the trainings are a few seeds, of which resamples would say too little, and are judged by
Student's t (`over_seeds`).

References:
    Bootstrap Methods: Another Look at the Jackknife, Efron, 1979;
    The Jackknife and the Bootstrap for General Stationary Observations, Künsch, 1989.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cropgen.core.errors import DataError

if TYPE_CHECKING:
    from scipy.sparse import csr_array

Score = Callable[[np.ndarray], np.ndarray]
"""(...) scores of counts (..., K, K), which classes that never occur do not change."""
REPLICATES = 1000
LEVEL = 0.95
_MOST_WEIGHTS = 4_000_000
_MOST_CELLS = 4_000_000
_ROUNDING = 1e-12


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
) -> Iterator[list[np.ndarray]]:
    """Resampled confusion matrices of one or more classifiers of the same rows, as many at a time as fit in memory.

    Arguments:
        true: (N,) classes 0..K−1.
        predictions: arrays (N,), one per classifier.
        classes: K.
        groups: (N,) any labels of the blocks that are resampled whole; None resamples rows.

    Yields:
        Portions of the replicates: for each classifier (R', K, K) counts, the R' adding up to `replicates`; a replicate
        used the same draw for all of them, and the portions decide nothing but the memory.

    Raises:
        DataError: there is no row.
    """
    if len(true) == 0:
        raise DataError("no test row to resample", hint="test on rows that carry labels")
    keys, counts = _units(true, predictions, groups)
    total = int(counts.sum())
    share = np.ones(len(keys)) if groups is not None else 1 / counts[keys]
    tables = [_table(keys, len(counts), true, predicted, classes, share) for predicted in predictions]
    for size in _portions(replicates, max(len(counts), classes * classes), _MOST_WEIGHTS):
        draws = generator.multinomial(total, counts / total, size=size).astype(np.float64)
        yield [np.rint(draws @ table).astype(np.int64).reshape(size, classes, classes) for table in tables]


def _table(
    unit: np.ndarray, units: int, true: np.ndarray, predicted: np.ndarray, classes: int, share: np.ndarray
) -> csr_array:
    """(U, K·K) confusion counts of each unit, a row counting as often as its share says; few of them are not 0."""
    from scipy.sparse import csr_array

    cell = true.astype(np.int64) * classes + predicted
    return csr_array((share, (unit, cell)), shape=(units, classes * classes))


def _units(
    true: np.ndarray, predictions: Sequence[np.ndarray], groups: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Unit of each row (N,), and how often a unit is drawn in expectation (U,): 1 a block, or the rows of a tuple."""
    if groups is not None:
        _, keys = np.unique(groups, return_inverse=True)
        return keys, np.ones(keys.max() + 1, np.int64)
    _, keys, counts = np.unique(np.stack([true, *predictions]), axis=1, return_inverse=True, return_counts=True)
    return keys.ravel(), counts


@dataclass(frozen=True)
class Trial:
    """The answers of classifiers to the same N rows under one seed.

    Arguments:
        seed: of the training; trials of one seed are drawn together.
        true: (N,) classes 0..K−1.
        predictions: arrays (N,), one per classifier, the same classifiers in every trial.
        unit: (N,) any labels of the ground each row lies on, with one meaning over all trials.
    """

    seed: int
    true: np.ndarray
    predictions: tuple[np.ndarray, ...]
    unit: np.ndarray


@dataclass(frozen=True)
class _Counts:
    """Confusion counts (U, K·K) of each of P classifiers on the U units of one trial, and the places of these units."""

    place: np.ndarray
    tables: tuple[csr_array, ...]
    classes: int

    def scores(self, score: Score, weights: np.ndarray) -> np.ndarray:
        """(P, R) scores where units count as often as the weights (R, all units) say; NaN where none does."""
        parts = []
        for weight in self._at_once(weights):
            found = [self._scored(score, weight @ table) for table in self.tables]
            parts.append(np.where(weight.any(1), np.stack(found), np.nan))
        return np.concatenate(parts, axis=1)

    def swapped_difference(self, score: Score, swap: np.ndarray) -> np.ndarray:
        """(1, R) score of the first classifier minus that of the second, answers swapped where `swap` (R, all)."""
        first, second = self.tables
        parts = []
        for here in self._at_once(swap):
            moved = here @ (second - first)
            parts.append(self._scored(score, first.sum(0) + moved) - self._scored(score, second.sum(0) - moved))
        return np.concatenate(parts)[None]

    def _at_once(self, weights: np.ndarray) -> Iterator[np.ndarray]:
        """Portions (R', U) of weights (R, all units), so that their confusion counts fit in memory."""
        start = 0
        for size in _portions(len(weights), self.classes**2, _MOST_CELLS):
            yield weights[start : start + size][:, self.place].astype(float)
            start += size

    def _scored(self, score: Score, cells: np.ndarray) -> np.ndarray:
        """(…) score of confusion counts (…, K·K)."""
        return score(np.rint(cells).reshape(*cells.shape[:-1], self.classes, self.classes))


@dataclass(frozen=True)
class Averaged:
    """Scores of P classifiers averaged over S seeds.

    Arguments:
        value: (P,) on the ground as it is.
        of_seed: (P, S) of each seed alone.
        replicates: (P, R) on ground drawn again, all seeds on the same; draw r is the same for all classifiers.
    """

    value: np.ndarray
    of_seed: np.ndarray
    replicates: np.ndarray


def averaged_scores(
    trials: Sequence[Trial], classes: int, score: Score, generator: np.random.Generator, *, replicates: int = REPLICATES
) -> Averaged:
    """The score of each classifier averaged over seeds, and its replicates over the ground.

    A replicate draws the units of ground with replacement, and every seed meets the same: test sets of different seeds
    share parcels, so they are no independent evidence about the ground. Trials of one seed are averaged first.

    Raises:
        DataError: there is no trial.
    """
    counts, units, seed = _tabulate(trials, classes)
    whole = [c.scores(score, np.ones((1, units))) for c in counts]
    of_seed = [_weighted_mean(whole, (seed == s)[:, None]) for s in range(seed.max() + 1)]
    share = (1 / np.bincount(seed)[seed])[:, None]
    parts = []
    for size in _portions(replicates, units, _MOST_WEIGHTS):
        ground = generator.multinomial(units, np.full(units, 1 / units), size=size)
        parts.append(_weighted_mean([c.scores(score, ground) for c in counts], share))
    return Averaged(_weighted_mean(whole, share)[:, 0], np.concatenate(of_seed, 1), np.concatenate(parts, 1))


def over_seeds(ground: Interval, of_seed: np.ndarray, level: float = LEVEL) -> Interval:
    """The interval of a mean over seeds that another seed and other ground could have given.

    With [l, u] the interval of the mean x over the ground, and h = t_{S−1} s / √S the half width over S seeds,

        [x − √((x − l)² + h²), x + √((u − x)² + h²)]

    One seed says nothing about the others: its interval is that of the ground.

    Arguments:
        of_seed: (S,) the score by seed.

    Reference: Construction of Confidence Limits about Effect Measures: A General Approach, Zou and Donner, 2008.
    """
    from scipy.special import stdtrit

    if len(of_seed) < 2:
        return ground
    quantile = float(stdtrit(len(of_seed) - 1, (1 + level) / 2))
    half = quantile * float(np.std(of_seed, ddof=1)) / len(of_seed) ** 0.5
    below, above = np.hypot((ground.value - ground.low, ground.high - ground.value), half)
    return Interval(ground.value, float(ground.value - below), float(ground.value + above))


def paired_difference(
    trials: Sequence[Trial], classes: int, score: Score, generator: np.random.Generator, *, level: float = LEVEL
) -> Interval:
    """Score of the first classifier minus that of the second, with an interval over seeds and ground."""
    found = averaged_scores(trials, classes, score, generator)
    ground = interval(float(found.value[0] - found.value[1]), found.replicates[0] - found.replicates[1], level)
    return over_seeds(ground, found.of_seed[0] - found.of_seed[1], level)


def permutation_p_value(
    trials: Sequence[Trial], classes: int, score: Score, generator: np.random.Generator, *, replicates: int = REPLICATES
) -> float:
    """How often a difference at least as large arises where the two classifiers are one: a two-sided paired test.

    If they answered equally well, swapping their answers on a unit of ground, in all trials, would change nothing but
    chance. p = (1 + #{swaps with |difference| ≥ observed}) / (1 + swaps).

    Reference: Permutation, Parametric and Bootstrap Tests of Hypotheses, Good, 2005.
    """
    counts, units, seed = _tabulate(trials, classes)
    share = (1 / np.bincount(seed)[seed])[:, None]

    def differences(swap: np.ndarray) -> np.ndarray:
        return _weighted_mean([c.swapped_difference(score, swap) for c in counts], share)[0]

    observed = abs(differences(np.zeros((1, units), bool))[0])
    extreme = 0
    for size in _portions(replicates, units, _MOST_WEIGHTS):
        found = differences(generator.integers(0, 2, (size, units)).astype(bool))
        extreme += int((np.abs(found) >= observed - _ROUNDING).sum())
    return (1 + extreme) / (1 + replicates)


def _portions(replicates: int, width: int, most: int) -> list[int]:
    """Replicates made at a time where each takes `width` numbers, so that few more than `most` are in memory."""
    size = max(1, min(replicates, most // width))
    return [min(size, replicates - start) for start in range(0, replicates, size)]


def _weighted_mean(parts: Sequence[np.ndarray], weight: np.ndarray) -> np.ndarray:
    """(P, R) mean of T score arrays (P, R) with weights (T, R) or (T, 1), over those that are numbers; 0 of none."""
    stacked = np.stack(parts)
    known = np.isfinite(stacked) * weight[:, None]
    total = known.sum(0)
    return np.divide((np.nan_to_num(stacked) * known).sum(0), total, out=np.zeros(total.shape), where=total > 0)


def _tabulate(trials: Sequence[Trial], classes: int) -> tuple[list[_Counts], int, np.ndarray]:
    """Counts of each trial, the number of units over all, and the position of each trial's seed.

    The counts are over the classes that occur in any trial: a legend may hold many more.
    """
    if not trials or any(len(t.true) == 0 for t in trials):
        raise DataError("no test row to resample", hint="test on rows that carry labels")
    labels, where = np.unique(np.concatenate([t.unit for t in trials]), return_inverse=True)
    pieces = np.split(where, np.cumsum([len(t.true) for t in trials])[:-1])
    met = np.zeros(classes, bool)
    for trial in trials:
        met[np.concatenate([trial.true, *trial.predictions])] = True
    position, counts = np.cumsum(met) - 1, []
    for trial, unit in zip(trials, pieces, strict=True):
        place, local = np.unique(unit, return_inverse=True)
        once, known = np.ones(len(local)), int(met.sum())
        tables = [
            _table(local, len(place), position[trial.true], position[predicted], known, once)
            for predicted in trial.predictions
        ]
        counts.append(_Counts(place, tuple(tables), known))
    return counts, len(labels), np.unique([t.seed for t in trials], return_inverse=True)[1]
