"""The posterior of a tied Gaussian with heavy tails: about seasons that lie far from every class it is less sure.

Each season has a precision u of its own, of mean 1, which makes its density a Student-t of ν degrees of freedom:

    x | y, u ~ N(μ_y, s V / u),   u ~ Gamma(ν/2, ν/2),   hence   x | y ~ t_ν(μ_y, s V)
    log p(x | y) = −(ν + d)/2 log(1 + m_y / (ν s)) + const,      p(y | x) ∝ (π_y p(x | y))^β

with m_y the squared Mahalanobis distance to class y and d the number of observed values. The margins of a Gaussian
between classes grow with the distance from all of them, so that it is surest of the seasons it knows least, such as
those of another year; here one standard of distance is worth (ν + d) / (ν + m / s) of what it is there.

No label is needed: ν and s are the likeliest for seasons learnt from, their classes summed out, and β makes the
posterior of these as much like the Gaussian's as it can be, in cross-entropy. So seasons like those learnt from keep
their posterior, and with ν → ∞ all do.

References:
    Robust Statistical Modeling Using the t Distribution, Lange, Little and Taylor, 1989;
    Robust Mixture Modelling Using the t Distribution, Peel and McLachlan, 2000.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cropgen.models.layers.innovations import TiedGaussian, Whitened, tempered
from cropgen.series.batches import Batch

_FREEDOMS = torch.logspace(3, 0, 19, dtype=torch.float64)
_FACTORS = torch.logspace(-1, 1, 41, dtype=torch.float64)
_STEPS = 12
_ROWS_AT_ONCE = 2048
_LEAST_SPREAD = 1e-6


class HeavyTails(nn.Module):
    """Degrees of freedom ν, spread s and inverse temperature β; until `learn`, ν = ∞: the Gaussian's own posterior.

    Attributes:
        freedom: () ν.
        spread: () s, the scale matrix in units of the tied covariance.
        beta: () β.
    """

    freedom: Tensor
    spread: Tensor
    beta: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("freedom", torch.tensor(math.inf))
        self.register_buffer("spread", torch.tensor(1.0))
        self.register_buffer("beta", torch.tensor(1.0))

    def learn(self, gaussian: TiedGaussian, batch: Batch) -> None:
        """Fit to seasons, whose classes are not looked at; without any clear date nothing changes."""
        x, m = gaussian.grid(batch)
        x, m = x[m.any(1)], m[m.any(1)]
        if not len(x):
            return
        whitened = [gaussian.whiten(*part) for part in _parts(x, m)]
        distance = torch.cat([square_distance(white) for white in whitened]).double()
        observed = torch.cat([white.observed for white in whitened]).double()
        log_prior = gaussian.log_prior.double()
        freedom, spread = fit_tails(distance, observed, log_prior)
        self.freedom.fill_(freedom)
        self.spread.fill_(spread)
        plain = tempered(log_prior - 0.5 * distance, gaussian.beta.double()).exp()
        joint = student_log_density(distance, observed, freedom, spread) + log_prior
        self.beta.fill_(match_beta(plain, joint, float(gaussian.beta)))

    def log_posterior(self, gaussian: TiedGaussian, batch: Batch) -> Tensor:
        """(B, K) log p(y | x) of the Student-t around the Gaussian's means; log π without any clear date."""
        x, m = gaussian.grid(batch)
        if self.freedom.isinf():
            return torch.cat([gaussian.log_posterior(*part) for part in _parts(x, m)])
        answers = []
        for part in _parts(x, m):
            white = gaussian.whiten(*part)
            freedom, spread = float(self.freedom), float(self.spread)
            density = student_log_density(square_distance(white), white.observed, freedom, spread)
            answers.append(tempered(density + gaussian.log_prior, self.beta))
        return torch.where(m.any(1)[:, None], torch.cat(answers), gaussian.log_prior)


def square_distance(white: Whitened) -> Tensor:
    """(B, K) squared Mahalanobis distance of seasons to the classes, by their observed values."""
    return (white.e[:, None] - white.offset).square().sum(-1)


def student_log_density(distance: Tensor, observed: Tensor, freedom: float, spread: float) -> Tensor:
    """(N, K) log t_ν(x; μ_y, s V) + ½ log|V|, of squared distances (N, K) by d (N,) values."""
    size = observed[:, None]
    constant = torch.lgamma((freedom + size) / 2) - math.lgamma(freedom / 2)
    scale = 0.5 * size * math.log(math.pi * freedom * spread)
    return constant - scale - 0.5 * (freedom + size) * torch.log1p(distance / (freedom * spread))


def fit_tails(distance: Tensor, observed: Tensor, log_prior: Tensor) -> tuple[float, float]:
    """ν, from 1 to 1,000, and s of greatest likelihood Σ_n log Σ_y π_y t_ν(x_n; μ_y, s V).

    For each ν of a grid, downwards, EM over classes and precisions goes on with s = Σ r_ny u_ny m_ny / Σ d_n, where r
    is the posterior of the classes and u = (ν + d) / (ν + m/s) the expected precision.

    Arguments:
        distance: (N, K) squared Mahalanobis distances m.
        observed: (N,) numbers of observed values d.
        log_prior: (K,) log π.
    """
    best, spread = (-math.inf, math.inf, 1.0), 1.0
    for freedom in _FREEDOMS.tolist():
        for _ in range(_STEPS):
            share = torch.softmax(student_log_density(distance, observed, freedom, spread) + log_prior, -1)
            precision = (freedom + observed[:, None]) / (freedom + distance / spread)
            spread = max(float((share * precision * distance).sum() / observed.sum()), _LEAST_SPREAD)
        joint = student_log_density(distance, observed, freedom, spread) + log_prior
        best = max(best, (float(torch.logsumexp(joint, -1).sum()), freedom, spread))
    return best[1], best[2]


def match_beta(target: Tensor, log_joint: Tensor, start: float) -> float:
    """The β, from a tenth to ten times `start`, whose tempered posterior has the least cross-entropy to `target`.

    Arguments:
        target: (N, K) probabilities.
        log_joint: (N, K) log p(x, y).
        start: about where to look.
    """
    betas = (start * _FACTORS).tolist()
    losses = [-(target * tempered(log_joint, beta)).sum(-1).mean() for beta in betas]
    return betas[int(torch.stack(losses).argmin())]


def _parts(x: Tensor, m: Tensor) -> zip[tuple[Tensor, Tensor]]:
    return zip(x.split(_ROWS_AT_ONCE), m.split(_ROWS_AT_ONCE), strict=True)
