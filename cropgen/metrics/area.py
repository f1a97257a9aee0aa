"""How much land each crop covers: map areas corrected for the errors of the map, with standard errors.

The strata are the classes of the map. Of stratum i, which has the share W_i of the area, n_i units were checked on the
ground and n_ij of them are of class j. With p_ij = W_i n_ij / n_i

    area of class j        p_·j = Σ_i p_ij
    its standard error     sqrt(Σ_i (W_i p_ij − p_ij²) / (n_i − 1))
    user's accuracy        U_i = p_ii / p_i·,   variance U_i (1 − U_i) / (n_i − 1)
    producer's accuracy    P_j = p_jj / p_·j
    overall accuracy       O = Σ_j p_jj,        variance Σ_i W_i² U_i (1 − U_i) / (n_i − 1)

The checked units must be a random sample of each stratum.

Reference: Good practices for estimating area and assessing accuracy of land change, Olofsson, Foody, Herold, Stehman,
Woodcock and Wulder, 2014, equations 1–11.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cropgen.core.errors import DataError


@dataclass(frozen=True)
class AreaEstimate:
    """Shares of the area by class, and accuracies weighted by area, each (K,) but the overall ones.

    Arguments:
        mapped: W, the share the map gives to each class.
        adjusted: the share estimated from the ground.
        standard_error: of `adjusted`; a stratum with a single checked unit adds nothing to it.
        users, producers: accuracies; NaN where the class is not mapped, or not found.
        users_error, producers_error: their standard errors.
        overall, overall_error: accuracy and its standard error.
    """

    mapped: np.ndarray
    adjusted: np.ndarray
    standard_error: np.ndarray
    users: np.ndarray
    users_error: np.ndarray
    producers: np.ndarray
    producers_error: np.ndarray
    overall: float
    overall_error: float


def adjusted_area(counts: np.ndarray, mapped_area: np.ndarray) -> AreaEstimate:
    """Error-adjusted shares of the area.

    Arguments:
        counts: (K, K) checked units, class of the map in rows, class on the ground in columns.
        mapped_area: (K,) area of each class of the map, any unit.

    Raises:
        DataError: shapes differ, nothing is mapped, or a mapped class was not checked.
    """
    counts, mapped_area = np.asarray(counts, float), np.asarray(mapped_area, float)
    if counts.ndim != 2 or counts.shape != (len(mapped_area),) * 2 or mapped_area.sum() <= 0:
        raise DataError(f"expected (K, K) counts and K mapped areas, got {counts.shape} and {mapped_area.shape}")
    checked = counts.sum(1)
    if (checked[mapped_area > 0] == 0).any():
        missing = int(np.flatnonzero((mapped_area > 0) & (checked == 0))[0])
        raise DataError(f"no unit of mapped class {missing} was checked", hint="sample every class of the map")
    weight = mapped_area / mapped_area.sum()
    within = _divide(counts, checked[:, None], 0.0)
    share = weight[:, None] * within
    adjusted, degrees = share.sum(0), np.maximum(checked - 1, 1)
    spread = within * (1 - within) / degrees[:, None]
    correct = np.diagonal(within)
    users_variance = np.diagonal(spread)
    producers = _divide(np.diagonal(share), adjusted, np.nan)
    return AreaEstimate(
        mapped=weight,
        adjusted=adjusted,
        standard_error=np.sqrt((weight[:, None] ** 2 * spread).sum(0)),
        users=np.where(weight > 0, correct, np.nan),
        users_error=np.where(weight > 0, np.sqrt(users_variance), np.nan),
        producers=producers,
        producers_error=np.sqrt(_producers_variance(weight, spread, adjusted, producers)),
        overall=float((weight * correct).sum()),
        overall_error=float(np.sqrt((weight**2 * users_variance).sum())),
    )


def _producers_variance(
    weight: np.ndarray, spread: np.ndarray, adjusted: np.ndarray, producers: np.ndarray
) -> np.ndarray:
    """V(P_j) = [W_j² (1 − P_j)² V(U_j) + P_j² Σ_{i≠j} W_i² p̂(1 − p̂)/(n_i − 1)] / p_·j², equation 7 in shares."""
    all_strata = weight[:, None] ** 2 * spread
    own = np.diagonal(all_strata)
    return _divide((1 - producers) ** 2 * own + producers**2 * (all_strata.sum(0) - own), adjusted**2, np.nan)


def _divide(numerator: np.ndarray, denominator: np.ndarray, otherwise: float) -> np.ndarray:
    """numerator / denominator, `otherwise` where the denominator is 0."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    return np.divide(numerator, denominator, out=np.full(shape, otherwise), where=denominator != 0)
