"""The latent chain of a dynamical variational auto-encoder, step by step: the specification every other kernel meets.

Per date t, with z₀ given, a one-layer perceptron each for the transition p and the inference q:

    transition   (u_t, a_t) = out_p(tanh(Σᵢ xᵢ_t Wᵢ + z_{t−1} W + b))
                 μ_t = r z_{t−1} + u_t,           λ_t = λ₀ + 3 tanh(a_t / 3)
    inference    (d_t, c_t) = out_q(tanh(Σⱼ xⱼ_t Wⱼ + z_{t−1} W' + b'))
                 δ_t = m_t d_t,                   ρ_t = m_t 3 tanh(c_t / 3)
    sample       z_t = μ_t + δ_t + exp((λ_t + ρ_t) / 2) ε_t

so p(z_t | z_{t−1}) = N(μ_t, e^λ_t) and q(z_t | z_{t−1}, ·) = N(μ_t + δ_t, e^(λ_t + ρ_t)). Where m_t = 0 the inference
is the transition: a date without an observation costs nothing and lets time pass.

Reference: Sequential Neural Models with Stochastic Layers, Fraccaro, Sønderby, Paquet and Winther, 2016.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LOG_VARIANCE_REACH = 3.0


class Head(NamedTuple):
    """Weights of one perceptron of E hidden units, for Z latent dimensions.

    Arguments:
        inputs: one (Fᵢ, E) matrix per input tensor.
        state: (Z, E).
        bias: (E,).
        out: (E, 2Z); the first Z columns give the shift, the others the change of log-variance.
        out_bias: (2Z,).
    """

    inputs: tuple[Tensor, ...]
    state: Tensor
    bias: Tensor
    out: Tensor
    out_bias: Tensor


class Chain(NamedTuple):
    """Everything that defines the chain.

    Arguments:
        transition: weights of p.
        inference: weights of q.
        initial: (Z,) z₀.
        retention: r, the share of z_{t−1} that is kept.
        log_variance: λ₀, log-variance of the transition where its perceptron gives 0.
    """

    transition: Head
    inference: Head
    initial: Tensor
    retention: float
    log_variance: float


class ChainInputs(NamedTuple):
    """What the chain runs over; the axes between time and features broadcast against each other.

    Arguments:
        transition: (T, ..., Fᵢ) per matrix of `Chain.transition.inputs`.
        inference: (T, ..., Fⱼ) per matrix of `Chain.inference.inputs`.
        mask: (T, ..., 1), 1 at observed dates and 0 elsewhere, in the values' type.
        noise: (T, ..., Z) standard normal draws ε.
    """

    transition: tuple[Tensor, ...]
    inference: tuple[Tensor, ...]
    mask: Tensor
    noise: Tensor


class ChainPath(NamedTuple):
    """What the chain went through, each (T, ..., Z).

    Arguments:
        z: sampled states.
        transition_log_variance: λ.
        shift: δ.
        log_ratio: ρ.
    """

    z: Tensor
    transition_log_variance: Tensor
    shift: Tensor
    log_ratio: Tensor


def bounded(change: Tensor) -> Tensor:
    """A change of log-variance held within ±3, the identity near 0."""
    return LOG_VARIANCE_REACH * torch.tanh(change / LOG_VARIANCE_REACH)


def leading_shape(inputs: ChainInputs) -> torch.Size:
    """The axes between time and features, all inputs broadcast together."""
    everything = (*inputs.transition, *inputs.inference, inputs.mask, inputs.noise)
    return torch.broadcast_shapes(*(tensor.shape[1:-1] for tensor in everything))


def _step(head: Head, inputs: tuple[Tensor, ...], t: int, z: Tensor) -> tuple[Tensor, Tensor]:
    seen = [(x[t] if x.shape[0] > 1 else x[0]).expand(*z.shape[:-1], x.shape[-1]) for x in inputs]
    weight = torch.cat([*head.inputs, head.state])
    hidden = torch.tanh(torch.cat([*seen, z], -1) @ weight + head.bias)
    shift, change = (hidden @ head.out + head.out_bias).chunk(2, -1)
    return shift, bounded(change)


def run_chain(chain: Chain, inputs: ChainInputs) -> ChainPath:
    """Run the chain with everything computed inside the loop over dates.

    Inputs whose time axis has length 1 are the same at every date. Any floating type; differentiable in all tensors.
    """
    steps = inputs.noise.shape[0]
    z = chain.initial.expand(*leading_shape(inputs), chain.initial.shape[-1])
    path: list[tuple[Tensor, ...]] = []
    for t in range(steps):
        drift, change = _step(chain.transition, inputs.transition, t, z)
        correction, ratio = _step(chain.inference, inputs.inference, t, z)
        mask = inputs.mask[t]
        log_variance = chain.log_variance + change
        shift, log_ratio = mask * correction, mask * ratio
        mean = chain.retention * z + drift + shift
        z = mean + torch.exp((log_variance + log_ratio) / 2) * inputs.noise[t]
        path.append((z, log_variance, shift, log_ratio))
    return ChainPath(*(torch.stack(parts) for parts in zip(*path, strict=True)))
