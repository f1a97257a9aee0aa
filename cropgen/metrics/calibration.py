"""How far probabilities can be believed: proper scores, calibration errors and the reliability table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from cropgen.core.errors import DataError

BINS = 15
_LOG_TEMPERATURES = (-4.0, 5.0)
_IMAGINED_ROWS = 10


def _checked(log_posterior: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    log_posterior, true = np.asarray(log_posterior, float), np.asarray(true)
    if log_posterior.ndim != 2 or true.shape != log_posterior.shape[:1] or len(true) == 0:
        raise DataError(
            f"expected log-probabilities (rows, classes) and a class per row, got {log_posterior.shape} "
            f"and {true.shape}"
        )
    return log_posterior, true


def negative_log_likelihood(log_posterior: np.ndarray, true: np.ndarray) -> float:
    """Mean −log p(true class), nats per row.

    Arguments:
        log_posterior: (N, K) normalised log-probabilities.
        true: (N,) classes 0..K−1.
    """
    log_posterior, true = _checked(log_posterior, true)
    return float(-log_posterior[np.arange(len(true)), true].mean())


def temper(log_posterior: np.ndarray, temperature: float) -> np.ndarray:
    """(N, K) log softmax(log p / T): surer below T = 1, less sure above, with the same order of classes."""
    from scipy.special import log_softmax

    return np.asarray(log_softmax(np.asarray(log_posterior, float) / temperature, axis=1))


def best_temperature(log_posterior: np.ndarray, true: np.ndarray) -> float:
    """The single T between e^−4 and e^5 with the least −log p(true class) on the rows and on ten that are imagined.

    To be found on validation rows and used on others. Log-probabilities must be finite. With q = softmax(log p / T) it
    minimises, over the N rows,

        Σ_i −log q_i(true class) + (10 / N) Σ_i Σ_k −p_ik log q_ik,

    which is convex in 1 / T. The second sum is ten rows more, spread over those there are, on which the classes come
    true as often as they are stated: the conjugate prior of 1 / T, least at T = 1. Without it, rows that are all right
    would have no best T but 0. Where all rows state the same error of two classes, the error after it is
    (mistakes + 10 · stated) / (N + 10); with many rows the ten do not count.

    References: On Calibration of Modern Neural Networks, Guo, Pleiss, Sun and Weinberger, 2017; Conjugate Priors for
    Exponential Families, Diaconis and Ylvisaker, 1979.
    """
    from scipy.optimize import minimize_scalar

    log_posterior, true = _checked(log_posterior, true)
    target = _IMAGINED_ROWS / len(true) * np.exp(temper(log_posterior, 1))
    target[np.arange(len(true)), true] += 1
    found: Any = minimize_scalar(
        lambda log_t: -(target * temper(log_posterior, np.exp(log_t))).sum(1).mean(),
        bounds=_LOG_TEMPERATURES, method="bounded", options={"xatol": 1e-4},
    )  # fmt: skip
    return float(np.exp(found.x))


def brier_score(log_posterior: np.ndarray, true: np.ndarray) -> float:
    """Mean Σ_k (p_k − [k = true])², between 0 and 2.

    Reference: Verification of Forecasts Expressed in Terms of Probability, Brier, 1950.
    """
    log_posterior, true = _checked(log_posterior, true)
    error = np.exp(log_posterior)
    error[np.arange(len(true)), true] -= 1
    return float((error**2).sum(1).mean())


@dataclass(frozen=True)
class Reliability:
    """Stated and observed frequency in equal-width bins of probability, each (bins,).

    Arguments:
        edge: upper edges; bin b holds probabilities in (edge[b−1], edge[b]], the first one also 0.
        count: rows in each bin.
        confidence: mean stated probability, 0 in an empty bin.
        accuracy: share that came true, 0 in an empty bin.
    """

    edge: np.ndarray
    count: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def error(self) -> float:
        """Σ_b (n_b / N) |accuracy_b − confidence_b|."""
        total = max(int(self.count.sum()), 1)
        return float((self.count * np.abs(self.accuracy - self.confidence)).sum() / total)

    def to_json(self) -> dict[str, Any]:
        """The columns as lists, six decimals."""
        return {name: np.round(column, 6).tolist() for name, column in asdict(self).items()}


def reliability_table(probability: np.ndarray, correct: np.ndarray, bins: int = BINS) -> Reliability:
    """Bin stated probabilities (N,) against what came true (N,) bool."""
    edge = np.linspace(0, 1, bins + 1)[1:]
    position = np.clip(np.searchsorted(edge, probability, side="left"), 0, bins - 1)
    count = np.bincount(position, minlength=bins)
    filled = np.maximum(count, 1)
    return Reliability(
        edge=edge,
        count=count,
        confidence=np.bincount(position, weights=probability, minlength=bins) / filled,
        accuracy=np.bincount(position, weights=np.asarray(correct, float), minlength=bins) / filled,
    )


def top_label_reliability(log_posterior: np.ndarray, true: np.ndarray, bins: int = BINS) -> Reliability:
    """Reliability of the probability of the class that is answered."""
    log_posterior, true = _checked(log_posterior, true)
    answer = log_posterior.argmax(1)
    probability = np.exp(log_posterior[np.arange(len(true)), answer])
    return reliability_table(probability, answer == true, bins)


def expected_calibration_error(log_posterior: np.ndarray, true: np.ndarray, bins: int = BINS) -> float:
    """Mean gap between stated and observed accuracy of the answered class over equal-width bins.

    Reference: On Calibration of Modern Neural Networks, Guo, Pleiss, Sun and Weinberger, 2017.
    """
    return top_label_reliability(log_posterior, true, bins).error


def classwise_calibration_error(log_posterior: np.ndarray, true: np.ndarray, bins: int = BINS) -> float:
    """The same gap for the probability of each class on all rows, averaged over the K classes.

    Reference: Beyond temperature scaling: Obtaining well-calibrated multiclass probabilities with Dirichlet
    calibration, Kull et al., 2019.
    """
    log_posterior, true = _checked(log_posterior, true)
    probability = np.exp(log_posterior)
    gaps = [reliability_table(probability[:, k], true == k, bins).error for k in range(probability.shape[1])]
    return float(np.mean(gaps))
