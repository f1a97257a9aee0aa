"""The latent chain of a dynamical variational auto-encoder, step by step: the specification every other kernel meets.

Per date t, from z_{t−1} and, where there is a recurrent cell, its state h_{t−1}:

    cell         h_t = cell(h_{t−1}, Σᵢ xᵢ_t Wᵢ + z_{t−1} W + b),   s_t = h_t;   without one s_t = z_{t−1}
    transition   (u_t, a_t) = out_p(tanh(Σᵢ xᵢ_t Wᵢ + s_t W + b))
                 μ_t = r_t z_{t−1} + u_t,         λ_t = λ₀_t + 3 tanh(a_t / 3)
    inference    (d_t, c_t) = out_q(tanh(Σⱼ xⱼ_t Wⱼ + s_t W' + b'))
                 δ_t = m_t d_t,                   ρ_t = m_t 3 tanh(c_t / 3)
    sample       z_t = μ_t + δ_t + exp((λ_t + ρ_t) / 2) ε_t

so p(z_t | ·) = N(μ_t, e^λ_t) and q(z_t | ·) = N(μ_t + δ_t, e^(λ_t + ρ_t)). Where m_t = 0 the inference is the
transition: a date without an observation costs nothing and lets time pass.

Variants, each a field of `Chain`, `Head` or `ChainInputs`:

    gated transition    μ_t = (1 − g_t) r_t z_{t−1} A + g_t u_t,   g_t = σ(γ_t) a third output of the transition
    direct inference    δ_t = m_t (d_t − μ_t),   ρ_t = m_t (λ₀_t + 3 tanh(c_t / 3) − λ_t): q does not build on p
    combining head      Σⱼ xⱼ_t Wⱼ + tanh(s_t W + b) in place of tanh(Σⱼ xⱼ_t Wⱼ + s_t W + b)
    gaps Δ_t            r_t = r^Δ_t,   λ₀_t = λ₀ + log((1 − r^2Δ_t) / (1 − r²)): the same process over Δ_t steps;
                        without them r_t = r and λ₀_t = λ₀

    DKF, DMM      no cell; DMM: gated transition, combining head
    SRNN, RFN     no cell; the recurrent network over x_{<t} is an input of the transition
    VRNN          cell over (x_{t−1}, z_{t−1}), r = 0
    RVAE          cell over z_{t−1}, r = 0, a transition without hidden units
    DSAE          cell over z_{t−1}, r = 0; v of the season is an input of the inference; the original one is direct
    STORN, KVAE   need no chain: nothing sampled feeds back into the inference; Kalman's filter walks

The inference of all of them builds on p unless the option `residual` is false: then it is direct.

References:
    Sequential Neural Models with Stochastic Layers, Fraccaro, Sønderby, Paquet and Winther, 2016;
    Structured Inference Networks for Nonlinear State Space Models, Krishnan, Shalit and Sontag, 2017;
    A Recurrent Latent Variable Model for Sequential Data, Chung, Kastner, Dinh, Goel, Courville and Bengio, 2015;
    A Recurrent Variational Autoencoder for Speech Enhancement, Leglaive, Alameda-Pineda, Girin and Horaud, 2020.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

LOG_VARIANCE_REACH = 3.0
_SHORTEST_GAP = 0.01


class Head(NamedTuple):
    """Weights of one perceptron of E hidden units, for Z latent dimensions and a state s of S dimensions.

    Arguments:
        inputs: one (Fᵢ, E) matrix per input tensor.
        state: (S, E); S is Z, or H where the chain has a cell.
        bias: (E,).
        out: (E, 2Z); the first Z columns give the shift, the next the change of log-variance. A gated transition has
            Z columns more, for the gate.
        out_bias: (2Z,) or (3Z,).
        combine: whether the inputs are added to tanh(s W + b), in place of being added inside of it.
    """

    inputs: tuple[Tensor, ...]
    state: Tensor
    bias: Tensor
    out: Tensor
    out_bias: Tensor
    combine: bool = False


class Cell(NamedTuple):
    """A recurrent cell of H units: a GRU (gates reset, update, new) or an LSTM (in, forget, new, out), as PyTorch's.

    Arguments:
        inputs: one (Fᵢ, 3H or 4H) matrix per input tensor.
        latent: (Z, 3H or 4H), of z_{t−1}.
        hidden: (H, 3H or 4H), of h_{t−1}.
        bias: (3H or 4H,).
        hidden_bias: (H,) added to h_{t−1}'s share of the new gate; of a GRU only.
        initial: (..., H) h₀, or (..., 2H) (h₀, c₀) of an LSTM.
    """

    inputs: tuple[Tensor, ...]
    latent: Tensor
    hidden: Tensor
    bias: Tensor
    hidden_bias: Tensor | None
    initial: Tensor

    @property
    def gates(self) -> int:
        """3 of a GRU, 4 of an LSTM."""
        return self.hidden.shape[1] // self.hidden.shape[0]


class Chain(NamedTuple):
    """Everything that defines the chain.

    Arguments:
        transition: weights of p.
        inference: weights of q.
        initial: (..., Z) z₀.
        retention: r, the share of z_{t−1} that is kept, 0 ≤ r < 1.
        log_variance: λ₀, log-variance of the transition where its perceptron gives 0.
        cell: the recurrent cell whose state the perceptrons see; None: they see z_{t−1}.
        linear: (Z, Z) A of the gated transition; None: no gate.
        direct: whether the inference is direct.
    """

    transition: Head
    inference: Head
    initial: Tensor
    retention: float
    log_variance: float
    cell: Cell | None = None
    linear: Tensor | None = None
    direct: bool = False


class ChainInputs(NamedTuple):
    """What the chain runs over; the axes between time and features broadcast against each other.

    Arguments:
        transition: (T, ..., Fᵢ) per matrix of `Chain.transition.inputs`.
        inference: (T, ..., Fⱼ) per matrix of `Chain.inference.inputs`.
        mask: (T, ..., 1), 1 at observed dates and 0 elsewhere, in the values' type.
        noise: (T, ..., Z) standard normal draws ε.
        cell: (T, ..., Fᵢ) per matrix of `Chain.cell.inputs`.
        gap: (T, ..., 1) Δ, steps since the date before, at least 0.01; None: 1 everywhere.
    """

    transition: tuple[Tensor, ...]
    inference: tuple[Tensor, ...]
    mask: Tensor
    noise: Tensor
    cell: tuple[Tensor, ...] = ()
    gap: Tensor | None = None


class ChainPath(NamedTuple):
    """What the chain went through, each (T, ..., Z).

    Arguments:
        z: sampled states.
        transition_log_variance: λ.
        shift: δ.
        log_ratio: ρ.
        state: (T, ..., H) h of a GRU, (T, ..., 2H) (h, c) of an LSTM; None without a cell.
    """

    z: Tensor
    transition_log_variance: Tensor
    shift: Tensor
    log_ratio: Tensor
    state: Tensor | None = None


def bounded(change: Tensor) -> Tensor:
    """A change of log-variance held within ±3, the identity near 0."""
    return LOG_VARIANCE_REACH * torch.tanh(change / LOG_VARIANCE_REACH)


def leading_shape(inputs: ChainInputs) -> torch.Size:
    """The axes between time and features, all inputs broadcast together."""
    everything = (*inputs.transition, *inputs.inference, *inputs.cell, inputs.mask, inputs.noise)
    if inputs.gap is not None:
        everything = (*everything, inputs.gap)
    return torch.broadcast_shapes(*(tensor.shape[1:-1] for tensor in everything))


def passing(chain: Chain, gap: Tensor) -> tuple[Tensor, Tensor]:
    """r_t and λ₀_t over gaps Δ, each as `gap`."""
    gap = gap.clamp(min=_SHORTEST_GAP)
    keep = torch.as_tensor(chain.retention, dtype=gap.dtype, device=gap.device) ** gap
    return keep, chain.log_variance + torch.log((1 - keep.square()) / (1 - chain.retention**2))


def _at(inputs: tuple[Tensor, ...], t: int, lead: torch.Size) -> list[Tensor]:
    return [(x[t] if x.shape[0] > 1 else x[0]).expand(*lead, x.shape[-1]) for x in inputs]


def _perceive(head: Head, seen: list[Tensor], state: Tensor) -> Tensor:
    if head.combine:
        hidden = torch.tanh(state @ head.state + head.bias)
        for x, weight in zip(seen, head.inputs, strict=True):
            hidden = hidden + x @ weight
    else:
        hidden = torch.tanh(torch.cat([*seen, state], -1) @ torch.cat([*head.inputs, head.state]) + head.bias)
    return hidden @ head.out + head.out_bias


def cell_step(cell: Cell, gates: Tensor, before: Tensor) -> Tensor:
    """The cell's state after one step.

    Arguments:
        gates: (..., 3H or 4H) share of the gates that does not come from the state, biases included.
        before: (..., H) or (..., 2H) state.
    """
    size = cell.hidden.shape[0]
    h = before[..., :size]
    inner = h @ cell.hidden
    if cell.gates == 4:
        enter, forget, new, leave = (gates + inner).chunk(4, -1)
        memory = torch.sigmoid(forget) * before[..., size:] + torch.sigmoid(enter) * torch.tanh(new)
        return torch.cat([torch.sigmoid(leave) * torch.tanh(memory), memory], -1)
    outer_both, outer_new = gates.split([2 * size, size], -1)
    inner_both, inner_new = inner.split([2 * size, size], -1)
    reset, update = torch.sigmoid(outer_both + inner_both).chunk(2, -1)
    if cell.hidden_bias is not None:
        inner_new = inner_new + cell.hidden_bias
    new = torch.tanh(outer_new + reset * inner_new)
    return (1 - update) * new + update * h


def _transition(chain: Chain, out: Tensor, z: Tensor, keep: Tensor | float) -> tuple[Tensor, Tensor]:
    """μ and the change of log-variance."""
    width = z.shape[-1]
    drift, change = out[..., :width], bounded(out[..., width : 2 * width])
    if chain.linear is None:
        return keep * z + drift, change
    gate = torch.sigmoid(out[..., 2 * width :])
    return (1 - gate) * ((keep * z) @ chain.linear) + gate * drift, change


def run_chain(chain: Chain, inputs: ChainInputs) -> ChainPath:
    """Run the chain with everything computed inside the loop over dates.

    Inputs whose time axis has length 1 are the same at every date. Any floating type; differentiable in all tensors.
    """
    lead = leading_shape(inputs)
    z = chain.initial.expand(*lead, chain.initial.shape[-1])
    cell, state, seen = chain.cell, None, z
    if cell is not None:
        state = cell.initial.expand(*lead, cell.initial.shape[-1])
    path: list[tuple[Tensor, ...]] = []
    for t in range(len(inputs.noise)):
        keep, base = chain.retention, chain.log_variance
        if inputs.gap is not None:
            keep, base = passing(chain, inputs.gap[t])
        if cell is not None and state is not None:
            weight = torch.cat([*cell.inputs, cell.latent])
            state = cell_step(cell, torch.cat([*_at(inputs.cell, t, lead), z], -1) @ weight + cell.bias, state)
            seen = state[..., : cell.hidden.shape[0]]
        else:
            seen = z
        out = _perceive(chain.transition, _at(inputs.transition, t, lead), seen)
        mean, change = _transition(chain, out, z, keep)
        correction, ratio = _perceive(chain.inference, _at(inputs.inference, t, lead), seen).chunk(2, -1)
        ratio, mask = bounded(ratio), inputs.mask[t]
        log_variance = base + change
        if chain.direct:
            correction, ratio = correction - mean, base + ratio - log_variance
        shift, log_ratio = mask * correction, mask * ratio
        z = mean + shift + torch.exp((log_variance + log_ratio) / 2) * inputs.noise[t]
        path.append(
            (z, log_variance, shift, log_ratio) if state is None else (z, log_variance, shift, log_ratio, state)
        )
    return ChainPath(*(torch.stack(parts) for parts in zip(*path, strict=True)))


def run_cell(cell: Cell, inputs: tuple[Tensor, ...], mask: Tensor | None = None, *, reverse: bool = False) -> Tensor:
    """The cell alone, without a latent state: (T, ..., H) its h at every date.

    Arguments:
        cell: `latent` is not used.
        inputs: (T, ..., Fᵢ) per matrix of `Cell.inputs`.
        mask: (T, ..., 1); where it is 0 the state is carried over unchanged. None: 1 everywhere.
        reverse: whether the walk begins at the last date.
    """
    tensors = inputs if mask is None else (*inputs, mask)
    lead = torch.broadcast_shapes(*(tensor.shape[1:-1] for tensor in tensors))
    state = cell.initial.expand(*lead, cell.initial.shape[-1])
    steps = max(len(tensor) for tensor in tensors)
    states = [state] * steps
    for t in reversed(range(steps)) if reverse else range(steps):
        gates = torch.cat(_at(inputs, t, lead), -1) @ torch.cat(cell.inputs) + cell.bias
        after = cell_step(cell, gates, state)
        state = after if mask is None else mask[t] * after + (1 - mask[t]) * state
        states[t] = state
    return torch.stack(states)[..., : len(cell.hidden)]
