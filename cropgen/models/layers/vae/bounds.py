"""Bounds of log p(x) and estimators of their gradient, as functions of S draws of the latent.

With weights w_s = p(x, z_s) / q(z_s | x), z_s ~ q, and shares w̃_s = w_s / Σ_r w_r,

    ELBO = E log w_1  ≤  L_S = E log 1/S Σ_s w_s  ≤  log p(x)

Every function gives one number a row: its value is the bound of that row, never averaged over rows before the
logarithm, and its gradient estimates the gradient of a bound, both to be maximised. "Unbiased" is said of that bound
itself; in a loss that is not linear in it, such as log Σ_y exp J_y, only draws with their whole gradient (`elbo`,
`iwae`, `jvi`) give the gradient of the loss at the draw.

    elbo    E log w                     draws with a gradient
    stl     E log w                     without the score ∇_φ log q, whose mean is 0; exact where q is the posterior
    iwae    L_S                         draws with a gradient: Σ_s w̃_s ∇ log w_s
    dreg    L_S                         in φ, Σ_s w̃_s² ∂ log w_s/∂z ∂z/∂φ: reparameterised twice, unbiased
    jvi     L_S with its bias removed   jackknife; no bound any more
    nvil    E log w                     draws without a gradient; a baseline
    vimco   L_S                         draws without a gradient; every draw's baseline is made of the others
    wake    θ: L_S; φ: −KL(p(z|x) ‖ q)  draws without a gradient
    sleep   φ: −KL(p(z|x) ‖ q)          x and z drawn from the model; θ learns by L_S beside it

References:
    Auto-Encoding Variational Bayes, Kingma and Welling, 2014 (elbo);
    Sticking the Landing, Roeder, Wu and Duvenaud, 2017 (stl);
    Importance Weighted Autoencoders, Burda, Grosse and Salakhutdinov, 2016 (iwae);
    Doubly Reparameterized Gradient Estimators for Monte Carlo Objectives, Tucker, Lawson, Gu and Maddison, 2019 (dreg);
    Debiasing Evidence Approximations, Nowozin, 2018 (jvi);
    Neural Variational Inference and Learning in Belief Networks, Mnih and Gregor, 2014 (nvil);
    Variational Inference for Monte Carlo Objectives, Mnih and Rezende, 2016 (vimco);
    Reweighted Wake-Sleep, Bornschein and Bengio, 2015 (wake, sleep).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import torch
from torch import Tensor, nn

from cropgen.core.errors import UsageError

Estimator = Literal["elbo", "stl", "iwae", "dreg", "jvi", "vimco", "wake"]


@dataclass(frozen=True)
class Draws:
    """S draws of the latent of every row, and what model and recognition network say of them.

    Arguments:
        z: (S, …, Z) draws; those of `vimco`, `nvil` and `wake` carry no gradient.
        log_joint: (S, …) log p(x, z_s).
        log_q: (S, …) log q(z_s | x).
        log_q_held: (S, …) the same with the parameters of q held, so that a gradient reaches them through z_s alone;
            None where the posterior cannot tell.
    """

    z: Tensor
    log_joint: Tensor
    log_q: Tensor
    log_q_held: Tensor | None = None

    @property
    def log_weight(self) -> Tensor:
        """(S, …) log w_s."""
        return self.log_joint - self.log_q


def log_mean_exp(log_weight: Tensor) -> Tensor:
    """(S, …) → (…) log 1/S Σ_s w_s."""
    return torch.logsumexp(log_weight, 0) - math.log(len(log_weight))


def elbo(draws: Draws) -> Tensor:
    """(…) mean of log w_s."""
    return draws.log_weight.mean(0)


def stl(draws: Draws) -> Tensor:
    """(…) the ELBO; its gradient sees the parameters of q through the draws alone.

    Raises:
        UsageError: the posterior cannot hold its parameters.
    """
    return (draws.log_joint - _held(draws, "stl")).mean(0)


def iwae(draws: Draws) -> Tensor:
    """(…) importance-weighted bound L_S."""
    return log_mean_exp(draws.log_weight)


def dreg(draws: Draws) -> Tensor:
    """(…) L_S; shares weigh the gradient of the model once and that of the draws twice.

    The gradient that reaches `draws.z` is multiplied by the shares, so these draws serve this bound alone.

    Raises:
        UsageError: the posterior cannot hold its parameters.
    """
    log_weight = draws.log_joint - _held(draws, "dreg")
    share = torch.softmax(log_weight.detach(), 0)
    if draws.z.requires_grad:
        draws.z.register_hook(lambda gradient: gradient * share[..., None])
    return _with_gradient_of((share * log_weight).sum(0), log_mean_exp(log_weight))


def jvi(draws: Draws, order: int = 1) -> Tensor:
    """(…) Σ_j c_j L̄_{S−j}, c_j = (−1)^j (S−j)^m / ((m−j)! j!), L̄_{S−j} the mean over subsets of S−j draws.

    The bias falls from O(1/S) to O(1/S^{m+1}); the value may exceed log p(x).

    Arguments:
        order: m; 0 is L_S.

    Raises:
        UsageError: fewer than m + 1 draws.
    """
    log_weight, count = draws.log_weight, len(draws.log_weight)
    _at_least(count, order + 1, f"jvi of order {order}")
    total = torch.zeros_like(log_weight[0])
    for left_out in range(order + 1):
        size = count - left_out
        kept = torch.tensor(list(combinations(range(count), size)), device=log_weight.device)
        mean = log_mean_exp(log_weight[kept].transpose(0, 1)).mean(0)
        factor = (-1) ** left_out * size**order / (math.factorial(order - left_out) * math.factorial(left_out))
        total = total + factor * mean
    return total


def vimco(draws: Draws) -> Tensor:
    """(…) L_S; draw s learns by how much L_S exceeds L_S with w_s replaced by the geometric mean of the others.

    Raises:
        UsageError: fewer than two draws, or draws with a gradient.
    """
    _without_gradient(draws, "vimco")
    log_weight, count = draws.log_weight, len(draws.log_weight)
    _at_least(count, 2, "vimco")
    bound, known = log_mean_exp(log_weight), log_weight.detach()
    others = (known.sum(0) - known) / (count - 1)
    own = torch.eye(count, dtype=torch.bool, device=known.device).reshape(count, count, *[1] * (known.dim() - 1))
    without = log_mean_exp(torch.where(own, others[None], known[:, None]))
    return bound + _score(bound.detach() - without, draws.log_q).sum(0)


def nvil(draws: Draws, baseline: Tensor, scale: Tensor | float = 1.0) -> Tensor:
    """(…) the ELBO; every draw learns from (log w_s − baseline) / scale.

    Arguments:
        baseline: (…) or (S, …), of the row but not of the draw, else the gradient is biased.
        scale: () or (…); other than 1 it changes the length of the gradient of q.

    Raises:
        UsageError: draws with a gradient.
    """
    _without_gradient(draws, "nvil")
    log_weight = draws.log_weight
    signal = (log_weight - baseline).detach() / scale
    return (log_weight + _score(signal, draws.log_q)).mean(0)


def wake(draws: Draws) -> Tensor:
    """(…) L_S; its gradient is Σ_s w̃_s (∇ log p(x, z_s) + ∇ log q(z_s | x)), so that q goes to where the weights are.

    Raises:
        UsageError: draws with a gradient.
    """
    _without_gradient(draws, "wake")
    log_weight = draws.log_weight.detach()
    share = torch.softmax(log_weight, 0)
    return _with_gradient_of((share * (draws.log_joint + draws.log_q)).sum(0), log_mean_exp(log_weight))


def sleep(log_q: Tensor) -> Tensor:
    """(…) mean of log q(z_s | x_s) (S, …) of seasons and latents that the model has drawn itself."""
    return log_q.mean(0)


# Those that need nothing but the draws; `nvil` takes a baseline and `sleep` what the model has drawn.
ESTIMATORS: dict[Estimator, Callable[[Draws], Tensor]] = {
    "elbo": elbo,
    "stl": stl,
    "iwae": iwae,
    "dreg": dreg,
    "jvi": jvi,
    "vimco": vimco,
    "wake": wake,
}


class Baseline(nn.Module):
    """Baseline of `nvil`: b(f) + running mean of the signal, and its running standard deviation as the scale.

    Arguments:
        width: W, of the features f of a row.
        hidden: width of the hidden layer.
        momentum: share of a new mini-batch in the running statistics.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, width: int, hidden: int = 64, momentum: float = 0.2) -> None:
        super().__init__()
        self.momentum = momentum
        self.net = nn.Sequential(nn.Linear(width, hidden), nn.Tanh(), nn.Linear(hidden, 1))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("variance", torch.ones(()))

    @property
    def scale(self) -> Tensor:
        """() at least 1, so that small signals are not enlarged."""
        return self.variance.sqrt().clamp(min=1)

    def forward(self, features: Tensor) -> Tensor:
        """(…, W) → (…)."""
        return self.net(features)[..., 0] + self.mean

    def loss(self, log_weight: Tensor, baseline: Tensor) -> Tensor:
        """() mean squared error of the baseline of the draws (S, …); the running statistics follow."""
        signal = log_weight.detach()
        with torch.no_grad():
            centred = signal - baseline + self.mean
            self.mean.lerp_(centred.mean(), self.momentum)
            self.variance.lerp_((signal - baseline).square().mean(), self.momentum)
        return (signal - baseline).square().mean()


def _with_gradient_of(surrogate: Tensor, value: Tensor) -> Tensor:
    return value.detach() + (surrogate - surrogate.detach())


def _score(signal: Tensor, log_q: Tensor) -> Tensor:
    """0, with the gradient signal · ∇ log q."""
    return signal * (log_q - log_q.detach())


def _held(draws: Draws, name: str) -> Tensor:
    if draws.log_q_held is None:
        raise UsageError(
            f"estimator {name}: expected a posterior that can hold its parameters, got one of a flow",
            hint="take posterior=diagonal, or estimator elbo or iwae",
        )
    return draws.log_q_held


def _at_least(count: int, least: int, name: str) -> None:
    if count < least:
        raise UsageError(f"estimator {name}: expected at least {least} samples, got {count}", hint="raise samples")


def _without_gradient(draws: Draws, name: str) -> None:
    if draws.z.requires_grad:
        raise UsageError(
            f"estimator {name}: expected draws without a gradient, got reparameterised ones",
            hint="detach the draws before model and posterior score them, or take elbo, stl, iwae or dreg",
        )
