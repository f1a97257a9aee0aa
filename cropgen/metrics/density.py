"""How well a density predicts values: the continuous ranked probability score, and bits per observed value.

The CRPS of a predictive distribution F for the value x that came true is

    CRPS(F, x) = E|X − x| − ½ E|X − X'|,     X, X' ~ F independent,

in the unit of x; for a certain prediction it is the absolute error. For Σ_i w_i N(μ_i, σ_i²) it is

    Σ_i w_i A(x − μ_i, σ_i²) − ½ Σ_i Σ_j w_i w_j A(μ_i − μ_j, σ_i² + σ_j²),   A(m, s²) = 2 s φ(m/s) + m (2 Φ(m/s) − 1).

Bits: sensors deliver reflectance in whole steps of q = 10⁻⁴, and the probability of a step is q times the density, so
n observed values of log-likelihood L nats per unit of reflectance take −(L + n ln q) / (n ln 2) bits each to transmit.
One value is one band of one slot of the model's calendar; fewer bits are better, and log2(10⁴) ≈ 13.3 bits is the
uniform density on 0–1. A model that gives a lower bound of L gives an upper bound of the bits.

References:
    Strictly Proper Scoring Rules, Prediction, and Estimation, Gneiting and Raftery, 2007;
    The continuous ranked probability score for circular variables and its application to mesoscale forecast ensemble
    verification, Grimit, Gneiting, Berrocal and Johnson, 2006;
    A note on the evaluation of generative models, Theis, van den Oord and Bethge, 2016.
"""

from __future__ import annotations

import numpy as np

QUANTUM = 1e-4


def _expected_distance(mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """A(m, s²) = E|Y| for Y ~ N(m, s²); |m| where s is 0."""
    from scipy.special import ndtr

    deviation = np.sqrt(variance)
    z = np.divide(mean, deviation, out=np.zeros(np.broadcast(mean, deviation).shape), where=deviation > 0)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.where(deviation > 0, 2 * deviation * density + mean * (2 * ndtr(z) - 1), np.abs(mean))


def crps_mixture(value: np.ndarray, weight: np.ndarray, mean: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """CRPS of Gaussian mixtures.

    Arguments:
        value: (...) what came true.
        weight: (..., M) weights of the M components, each set of them summing to 1.
        mean, variance: (..., M), in the unit of `value` and its square.

    Returns:
        (...) scores in the unit of `value`.
    """
    value, weight, mean, variance = (np.asarray(a, float) for a in (value, weight, mean, variance))
    distance = (weight * _expected_distance(value[..., None] - mean, variance)).sum(-1)
    between = _expected_distance(
        mean[..., :, None] - mean[..., None, :], variance[..., :, None] + variance[..., None, :]
    )
    return distance - 0.5 * (weight[..., :, None] * weight[..., None, :] * between).sum((-2, -1))


def crps_samples(value: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """CRPS of the distribution that S equally likely samples (..., S) make up, for values (...).

    With sorted samples, E|X − X'| = 2/S² Σ_i (2i − S − 1) x_(i).
    """
    ordered = np.sort(np.asarray(samples, float), -1)
    count = ordered.shape[-1]
    rank = 2 * np.arange(1, count + 1) - count - 1
    distance = np.abs(ordered - np.asarray(value, float)[..., None]).mean(-1)
    return distance - (rank * ordered).sum(-1) / count**2


def bits_per_value(log_likelihood: np.ndarray, values: np.ndarray, quantum: float = QUANTUM) -> float | None:
    """Bits per observed value over N rows, pooled; None where nothing was observed.

    Arguments:
        log_likelihood: (N,) nats, density per unit of reflectance.
        values: (N,) observed values of each row; rows without any are left out.
        quantum: step of the sensor.
    """
    seen = np.asarray(values) > 0
    count = float(np.asarray(values, float)[seen].sum())
    if count == 0:
        return None
    total = float(np.asarray(log_likelihood, float)[seen].sum())
    return -(total / count + float(np.log(quantum))) / float(np.log(2))
