"""Estimating class means and one tied covariance from labelled and unlabelled seasons.

Every M-step needs the within-class scatter W = Σ_i Σ_y r_iy (x_i − μ_y)(x_i − μ_y)ᵀ = XᵀX − Σ_y N_y μ_y μ_yᵀ, and XᵀX
does not change, so it is formed once. Every E-step needs only V⁻¹ μ_y, because the quadratic term is the same for every
class. All arithmetic is in double precision.

References:
    Maximum Likelihood from Incomplete Data via the EM Algorithm, Dempster, Laird and Rubin, 1977.
    A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices, Ledoit and Wolf, 2004.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

_MOST_RESIDUALS = 3000
_LEAST_SHRINKAGE = 1e-3
_STRAYS = 0.05
_TINY = 1e-300


@dataclass(frozen=True)
class Rows:
    """Complete seasons x (N, D), float64, with what the iterations reuse."""

    x: Tensor

    def __len__(self) -> int:
        return self.x.shape[0]

    @cached_property
    def scatter(self) -> Tensor:
        """(D, D) XᵀX."""
        return self.x.T @ self.x

    @cached_property
    def square_norm(self) -> Tensor:
        """(N,) |x|²."""
        return self.x.square().sum(1)


@dataclass(frozen=True)
class Weighted:
    """Rows, their class shares (N, K) and the weight of each row."""

    rows: Rows
    share: Tensor
    weight: float = 1.0


@dataclass(frozen=True)
class Estimate:
    """Class means (K, D), tied covariance (D, D) and log prior (K,)."""

    means: Tensor
    cov: Tensor
    log_prior: Tensor

    def log_joint(self, x: Tensor) -> Tensor:
        """(N, K) log p(x, y) of complete seasons x (N, D), standardised units."""
        chol = torch.linalg.cholesky(self.cov)
        return self._linear(x, chol) + self._common(x, chol)[:, None]

    def posterior(self, x: Tensor) -> Tensor:
        """(N, K) p(y | x)."""
        return torch.softmax(self._linear(x, torch.linalg.cholesky(self.cov)), -1)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """(N,) log p(x), in nats."""
        return torch.logsumexp(self.log_joint(x), -1)

    def surprise(self, labelled: Weighted) -> float:
        """Mean of −log p(y | x) over labelled rows, in nats."""
        return -float((labelled.share * self.posterior(labelled.rows.x).clamp(min=_TINY).log()).sum(1).mean())

    def _linear(self, x: Tensor, chol: Tensor) -> Tensor:
        direction = torch.cholesky_solve(self.means.T, chol)
        return x @ direction - 0.5 * (self.means.T * direction).sum(0) + self.log_prior

    def _common(self, x: Tensor, chol: Tensor) -> Tensor:
        quadratic = torch.linalg.solve_triangular(chol, x.T, upper=False).square().sum(0)
        constant = chol.diagonal().log().sum() + 0.5 * x.shape[1] * math.log(2 * math.pi)
        return -0.5 * quadratic - constant


def ledoit_wolf(cov: Tensor, fourth: float, count: float) -> Tensor:
    """(1 − s) cov + s (tr cov / D) I with the intensity s that minimises the expected squared error.

    Arguments:
        cov: (D, D) mean outer product of the residuals.
        fourth: mean of |residual|⁴.
        count: number of residuals the intensity is estimated for.
    """
    size = cov.shape[0]
    mean = cov.trace() / size
    if mean <= 0:
        return torch.eye(size, dtype=cov.dtype)
    square = cov.square().sum()
    distance = (square - size * mean**2) / size
    error = (fourth - square) / (size * count)
    shrinkage = 1.0 if distance <= 0 else min(float(error / distance), 1.0)
    shrinkage = max(shrinkage, _LEAST_SHRINKAGE)
    return (1 - shrinkage) * cov + shrinkage * mean * torch.eye(size, dtype=cov.dtype)


def block_autoregression(cov: Tensor, bands: int, lag: int) -> Tensor:
    """The covariance of the vector autoregression of order `lag` that agrees with `cov` on neighbouring dates.

    Each date of `bands` values is regressed on the `lag` dates before it, with coefficients A_t and residual
    covariance Q_t taken from `cov`; the result is the covariance of the process these define.
    """
    size = cov.shape[0]
    factor = torch.zeros_like(cov)
    coefficients = torch.zeros_like(cov)
    for begin in range(0, size, bands):
        now, past = slice(begin, begin + bands), slice(max(0, begin - lag * bands), begin)
        innovation = cov[now, now]
        if begin:
            weights = torch.linalg.solve(cov[past, past], cov[past, now]).T
            coefficients[now, past] = weights
            innovation = innovation - weights @ cov[past, now]
        factor[now, now] = torch.linalg.cholesky(innovation)
    identity = torch.eye(size, dtype=cov.dtype)
    root = torch.linalg.solve_triangular(identity - coefficients, factor, upper=False, unitriangular=True)
    return root @ root.T


def maximise(parts: list[Weighted], log_prior: Tensor) -> Estimate:
    """The M-step: class means, and the tied covariance with Ledoit-Wolf shrinkage."""
    number = sum_of([p.weight * p.share.sum(0) for p in parts])
    means = sum_of([p.weight * p.share.T @ p.rows.x for p in parts]) / number[:, None]
    within = sum_of([p.weight * p.rows.scatter for p in parts]) - (means.T * number) @ means
    fourth = sum_of([p.weight * _fourth_power(p, means) for p in parts])
    total = float(number.sum())
    cov = ledoit_wolf(0.5 * (within + within.T) / total, float(fourth) / total, min(total, _MOST_RESIDUALS))
    return Estimate(means, cov, log_prior)


def sum_of(terms: list[Tensor]) -> Tensor:
    """The sum of tensors of one shape."""
    return torch.stack(terms).sum(0)


def _fourth_power(part: Weighted, means: Tensor) -> Tensor:
    """Σ_i Σ_y r_iy |x_i − μ_y|⁴."""
    distance = part.rows.square_norm[:, None] - 2 * part.rows.x @ means.T + means.square().sum(1)
    return (part.share * distance.square()).sum()


def expectation_maximisation(
    labelled: Weighted, unlabelled: Rows, weight: float, start: Estimate, steps: int
) -> Estimate:
    """EM from `start`: labelled rows keep their class, unlabelled ones are shared by p(y | x).

    Arguments:
        labelled: labelled rows with one-hot shares.
        unlabelled: complete rows without class.
        weight: weight of an unlabelled row.
        start: means, covariance and prior of the first E-step; the prior stays.
        steps: number of E- and M-steps.
    """
    estimate = start
    for _ in range(steps):
        inferred = Weighted(unlabelled, estimate.posterior(unlabelled.x), weight)
        estimate = maximise([labelled, inferred], start.log_prior)
    return estimate


def log_likelihood(labelled: Weighted, unlabelled: Rows, weight: float, estimate: Estimate) -> float:
    """What EM climbs: Σ log p(x, y) of the labelled rows and Σ log p(x) of the others, weighted, in nats."""
    known = (labelled.share * estimate.log_joint(labelled.rows.x)).sum() * labelled.weight
    return float(known + weight * estimate.log_likelihood(unlabelled.x).sum())


def give_strays(labelled: Weighted, unlabelled: Rows, weight: float, end: Estimate, receiver: int) -> Estimate:
    """A further start for EM: the unlabelled rows that `end` explains worst are given to one class.

    A class of few labels and many forms can end without the forms its labels do not show; they then stand out as
    unlikely rows inside other classes, which is where a split-and-merge step would cut.

    Arguments:
        labelled, unlabelled, weight: as for `expectation_maximisation`.
        end: where EM arrived.
        receiver: position of the class that gets them.

    Reference:
        SMEM Algorithm for Mixture Models, Ueda, Nakano, Ghahramani and Hinton, 2000.
    """
    log_likelihood = end.log_likelihood(unlabelled.x)
    strays = log_likelihood.argsort()[: math.ceil(_STRAYS * len(unlabelled))]
    share = end.posterior(unlabelled.x)
    share[strays] = 0
    share[strays, receiver] = 1
    return maximise([labelled, Weighted(unlabelled, share, weight)], end.log_prior)
