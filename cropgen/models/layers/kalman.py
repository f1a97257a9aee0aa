"""Exact inference in linear Gaussian state space models whose matrices change with time, and with missing dates.

    z_t = A_t z_{t−1} + b_t + w_t,   w_t ~ N(0, diag Q),      a_t = C_t z_t + v_t,   v_t ~ N(0, diag R)

The filter goes step by step, so that A_t, b_t and C_t may depend on what was observed before; covariances are updated
in Joseph's form and kept symmetric. Every function takes leading axes (…) of independent chains, broadcast.

References:
    A New Approach to Linear Filtering and Prediction Problems, Kalman, 1960;
    Maximum Likelihood Estimates of Linear Dynamic Systems, Rauch, Tung and Striebel, 1965;
    Filtering for Stochastic Processes with Applications to Guidance, Bucy and Joseph, 1968.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Belief(NamedTuple):
    """A Gaussian: mean (…, Z) and covariance (…, Z, Z)."""

    mean: Tensor
    cov: Tensor


def apply(matrix: Tensor, vector: Tensor) -> Tensor:
    """(…, M) matrix (…, M, N) times vector (…, N)."""
    return (matrix @ vector[..., None])[..., 0]


def symmetric(cov: Tensor) -> Tensor:
    """The symmetric part."""
    return 0.5 * (cov + cov.mT)


def predict(belief: Belief, transition: Tensor, control: Tensor, noise: Tensor) -> Belief:
    """p(z_t | a_<t) from p(z_{t−1} | a_<t).

    Arguments:
        transition: (…, Z, Z) A_t.
        control: (…, Z) b_t.
        noise: (…, Z) the diagonal of Q.
    """
    cov = symmetric(transition @ belief.cov @ transition.mT) + torch.diag_embed(noise)
    return Belief(apply(transition, belief.mean) + control, cov)


def expect(belief: Belief, emission: Tensor, noise: Tensor) -> Belief:
    """p(a_t | a_<t) from p(z_t | a_<t).

    Arguments:
        emission: (…, A, Z) C_t.
        noise: (…, A) the diagonal of R.
    """
    cov = symmetric(emission @ belief.cov @ emission.mT) + torch.diag_embed(noise)
    return Belief(apply(emission, belief.mean), cov)


def update(belief: Belief, emission: Tensor, noise: Tensor, a: Tensor) -> Belief:
    """p(z_t | a_≤t) from p(z_t | a_<t) and a_t (…, A); the other arguments as in `expect`."""
    expected = expect(belief, emission, noise)
    gain = torch.linalg.solve(expected.cov, emission @ belief.cov).mT
    kept = torch.eye(belief.cov.shape[-1], dtype=belief.cov.dtype, device=belief.cov.device) - gain @ emission
    cov = symmetric(kept @ belief.cov @ kept.mT + (gain * noise[..., None, :]) @ gain.mT)
    return Belief(belief.mean + apply(gain, a - expected.mean), cov)


def choose(mask: Tensor, seen: Belief, unseen: Belief) -> Belief:
    """One belief where mask (…) is 1, the other where it is 0."""
    mean = torch.where(mask[..., None] > 0, seen.mean, unseen.mean)
    return Belief(mean, torch.where(mask[..., None, None] > 0, seen.cov, unseen.cov))


def smooth(filtered: list[Belief], predicted: list[Belief], transition: list[Tensor]) -> list[Belief]:
    """p(z_t | a_1…T) of each date, backwards from the last.

    Arguments:
        filtered: p(z_t | a_≤t).
        predicted: p(z_t | a_<t).
        transition: (…, Z, Z) A_t.
    """
    later = filtered[-1]
    found = [later]
    for t in range(len(filtered) - 2, -1, -1):
        now, ahead = filtered[t], predicted[t + 1]
        gain = torch.linalg.solve(ahead.cov, transition[t + 1] @ now.cov).mT
        mean = now.mean + apply(gain, later.mean - ahead.mean)
        later = Belief(mean, symmetric(now.cov + gain @ (later.cov - ahead.cov) @ gain.mT))
        found.append(later)
    return found[::-1]
