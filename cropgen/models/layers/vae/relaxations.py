"""Categorical latents that a gradient can pass through, and the exact sums that need none.

    concrete           x = softmax((log α + G) / λ), G Gumbel noise; the argmax is distributed as α whatever λ
    straight-through   the one-hot argmax of x, with the gradient of x: biased
    igr                x = softmax₊₊(μ + σ ε; λ) on n − 1 numbers, Gaussian noise sent onto the simplex
    exact              Σ_k q_k (…): no draw, no bias, n evaluations

A bound whose draws are relaxed must score them by densities on the simplex, or it is no bound.

References:
    Categorical Reparameterization with Gumbel-Softmax, Jang, Gu and Poole, 2017;
    The Concrete Distribution, Maddison, Mnih and Teh, 2017;
    Invertible Gaussian Reparameterization, Potapczynski, Loaiza-Ganem and Cunningham, 2020.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from cropgen.models.layers.vae.posteriors import gaussian_log_prob

Relaxation = Literal["concrete", "straight-through", "igr", "exact"]


def gumbel_noise(like: Tensor, generator: torch.Generator) -> Tensor:
    """Gumbel noise in the shape and type and on the device of a tensor."""
    u = torch.rand(like.shape, generator=generator, device=generator.device, dtype=like.dtype)
    edge = torch.finfo(like.dtype)
    return -(-u.clamp(edge.tiny, 1 - edge.eps).log()).log().to(like.device)


def log_concrete(logits: Tensor, temperature: float, noise: Tensor) -> Tensor:
    """(…, n) log x of a draw; log α may be unnormalised. In logarithms, as entries of x underflow where λ is small."""
    return torch.log_softmax((logits + noise) / temperature, -1)


def concrete_log_density(log_x: Tensor, logits: Tensor, temperature: float) -> Tensor:
    """(…) log p(x) on the simplex, with respect to dx_1 … dx_{n−1}.

    log (n−1)! + (n−1) log λ + Σ_k (log α_k − (λ+1) log x_k) − n log Σ_i α_i x_i^{−λ}
    """
    count = log_x.shape[-1]
    normaliser = torch.logsumexp(logits - temperature * log_x, -1)
    entries = (logits - (temperature + 1) * log_x).sum(-1)
    return math.lgamma(count) + (count - 1) * math.log(temperature) + entries - count * normaliser


def straight_through(soft: Tensor) -> Tensor:
    """(…, n) the one-hot argmax, with the gradient of `soft`."""
    hard = functional.one_hot(soft.argmax(-1), soft.shape[-1]).to(soft.dtype)
    return hard + soft - soft.detach()


def log_igr(mean: Tensor, log_std: Tensor, temperature: float, noise: Tensor) -> Tensor:
    """(…, n) log x of y = μ + σ ε (…, n − 1): x_k ∝ e^{y_k / λ} for k < n, x_n ∝ 1."""
    y = (mean + log_std.exp() * noise) / temperature
    return torch.log_softmax(functional.pad(y, (0, 1)), -1)


def igr_log_density(log_x: Tensor, mean: Tensor, log_std: Tensor, temperature: float) -> Tensor:
    """(…) log p(x) on the simplex, with respect to dx_1 … dx_{n−1}.

    y_k = λ log(x_k / x_n), and det dx/dy = λ^{−(n−1)} Π_{k≤n} x_k. As the map is invertible and has no parameters, the
    divergence of two such densities of one temperature is that of their Gaussians.
    """
    y = temperature * (log_x[..., :-1] - log_x[..., -1:])
    log_det = log_x.sum(-1) - (log_x.shape[-1] - 1) * math.log(temperature)
    return gaussian_log_prob(y, mean, log_std) - log_det


def categorical_kl(logits: Tensor, to_logits: Tensor) -> Tensor:
    """(…) KL of two categoricals, in nats; a class without mass adds nothing."""
    log_q, log_p = torch.log_softmax(logits, -1), torch.log_softmax(to_logits, -1)
    return torch.xlogy(log_q.exp(), log_q.exp()).sum(-1) - (log_q.exp() * log_p).sum(-1)


def exact_elbo(log_joint: Tensor, logits: Tensor) -> Tensor:
    """(…) Σ_k q_k (log p(x, k) − log q_k) for log p(x, k) and the logits of q, both (…, n).

    Its maximum over q is `torch.logsumexp(log_joint, -1)`, the exact log p(x), at q = p(k | x).
    """
    log_q = torch.log_softmax(logits, -1)
    return (log_q.exp() * (log_joint - log_q)).sum(-1)
