"""Quantiles of weighted pixels, parcel by parcel, all parcels at once.

With values x₁ ≤ … ≤ xₙ of weights w₁ … wₙ, value k stands at s_k = (k − 1) w_k + (n − 1) Σ_{i<k} w_i; the q-quantile is
read at q s_n, linearly between its neighbours. Equal weights give the usual quantile at (n − 1) q.

Reference: exactextract, Daniel Baston, 2018–2026, whose weighted quantiles are the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def quantiles(values: np.ndarray, weight: np.ndarray, group: np.ndarray, shares: Sequence[float]) -> np.ndarray:
    """Quantiles of every group.

    Arguments:
        values: (M,) numbers without NaN.
        weight: (M,) positive weights.
        group: (M,) int, ascending; the G distinct groups are given in that order.
        shares: quantiles as shares, 0 to 1.

    Returns:
        (G, len(shares)) float64.
    """
    if not len(values):
        return np.zeros((0, len(shares)))
    order = np.lexsort((values, group))
    x, w = values[order].astype(np.float64), weight[order].astype(np.float64)
    start = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
    length = np.diff(np.append(start, len(x)))
    rank = np.arange(len(x)) - np.repeat(start, length)
    sums = np.cumsum(w)
    before = sums - w - np.repeat(sums[start] - w[start], length)
    place = rank * w + np.repeat(length - 1, length) * before
    last = start + length - 1
    found = np.empty((len(start), len(shares)))
    for column, share in enumerate(shares):
        found[:, column] = _read_at(x, place, start, last, share * place[last])
    return found


def _read_at(x: np.ndarray, place: np.ndarray, start: np.ndarray, last: np.ndarray, sought: np.ndarray) -> np.ndarray:
    """`x` at the places sought, by bisection within start … last of each group at once."""
    low, high = start.copy(), last.copy()
    while (high - low > 1).any():
        middle = (low + high) // 2
        below = place[middle] <= sought
        low, high = np.where(below & (high - low > 1), middle, low), np.where(~below & (high - low > 1), middle, high)
    span = place[high] - place[low]
    share = np.divide(sought - place[low], span, out=np.zeros(len(x[low])), where=span > 0)
    return x[low] + np.clip(share, 0, 1) * (x[high] - x[low])
