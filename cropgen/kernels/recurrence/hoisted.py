"""The latent chain with everything that does not depend on z_{t−1} computed once for all dates.

The input halves of the perceptrons and of the cell's gates are one matrix product over T·rows before the loop; inside
it the two perceptrons share one product with the state and one block-diagonal product to their outputs. The backward
pass is written out: it walks the dates in reverse for the gradients of the states alone, and the gradients of the
weights are one matrix product over T·rows after the walk. The mathematics is that of `reference`, to rounding.

With the path's symbols, A = tanh(a/3), R = tanh(c/3) and G the gradient of z_t from the path and from date t+1,

    ∂λ += G ½ e^((λ+ρ)/2) ε,  ∂ρ likewise,  ∂(u, a, d, c) = (G, (1 − A²) ∂λ, m (∂δ + G), m (1 − R²) ∂ρ),
    ∂pre = (1 − hidden²) ∂(u, a, d, c) outᵀ,   G_{t−1} += r G + ∂pre stateᵀ.

The direct inference takes m (∂δ + G) from ∂μ and m ∂ρ from ∂λ; the gate has ∂γ = ∂μ (u − r z A) g (1 − g).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from cropgen.kernels.recurrence import hoisted_cell, hoisted_walk
from cropgen.kernels.recurrence.hoisted_cell import CellTensors, State
from cropgen.kernels.recurrence.reference import (
    LOG_VARIANCE_REACH,
    Cell,
    Chain,
    ChainInputs,
    ChainPath,
    leading_shape,
    passing,
)


class _Facts(NamedTuple):
    """What is no tensor."""

    retention: float
    log_variance: float
    direct: bool


class _Tensors(NamedTuple):
    """What the walk runs over, in the order of the arguments of `_Walk`.

    Arguments:
        hoisted: (T, ..., E) pre-activations of all hidden units, broadcast over rows.
        added: (T, ..., E) inputs of combining heads, 0 at the others' units; None where there are none.
        state: (Z or H, E).
        out: (E, 4Z or 5Z) u, a, (γ), d, c, block-diagonal.
        out_bias: (4Z or 5Z,).
        initial: (..., Z).
        linear: (Z, Z) of a gated transition.
        mask, noise: as `ChainInputs`.
        keep, base: (T, ..., 1) r and λ₀ over gaps; None where they are the chain's.
        gates, latent, hidden, hidden_bias, cell_initial: as `CellTensors`; None without a cell.
    """

    hoisted: Tensor
    added: Tensor | None
    state: Tensor
    out: Tensor
    out_bias: Tensor
    initial: Tensor
    linear: Tensor | None
    mask: Tensor
    noise: Tensor
    keep: Tensor | None = None
    base: Tensor | None = None
    gates: Tensor | None = None
    latent: Tensor | None = None
    hidden: Tensor | None = None
    hidden_bias: Tensor | None = None
    cell_initial: Tensor | None = None

    @property
    def cell(self) -> CellTensors | None:
        if self.gates is None or self.latent is None or self.hidden is None or self.cell_initial is None:
            return None
        return CellTensors(self.gates, self.latent, self.hidden, self.hidden_bias, self.cell_initial)


class _Trace(NamedTuple):
    """What the forward pass leaves for the backward pass, besides the path: tanh of the hidden units, A and R, the
    gated transition's u and g."""

    squashed: Tensor
    saturation: Tensor
    ahead: Tensor
    drift: Tensor | None
    gate: Tensor | None


def _room(x: _Tensors) -> tuple[_Trace, ChainPath]:
    """Empty tensors for the trace and the path."""
    steps, lead, width = len(x.noise), x.initial.shape[:-1], x.initial.shape[-1]

    def empty(*shape: int) -> Tensor:
        return x.state.new_empty(shape)

    z, variance, shift, ratio, saturation, ahead = (empty(steps, *lead, width) for _ in range(6))
    drift, gate = (empty(steps, *lead, width) if x.linear is not None else None for _ in range(2))
    cell = x.cell
    states = None if cell is None else empty(steps, *cell.initial.shape)
    trace = _Trace(empty(steps, *lead, x.state.shape[1]), saturation, ahead, drift, gate)
    return trace, ChainPath(z, variance, shift, ratio, states)


_DATED = ("hoisted", "added", "mask", "noise", "keep", "base", "gates")


def _by_date(parts: Any, *names: str) -> Any:
    """A tuple of tensors with some of them (all, when none is named) taken apart into their dates once for the loop."""
    chosen = {name: getattr(parts, name) for name in names or parts._fields}
    return parts._replace(**{name: part.unbind(0) for name, part in chosen.items() if part is not None})


def _advance(x: _Tensors, facts: _Facts, t: int, seen: Tensor, before: Tensor, trace: _Trace, path: ChainPath) -> None:
    """One date: fills the trace and the path at t from z_{t−1} and the state that the perceptrons see."""
    saturation, ahead, variance, shift, ratio = (
        part[t] for part in (trace.saturation, trace.ahead, path.transition_log_variance, path.shift, path.log_ratio)
    )
    mask, hidden = x.mask[t], torch.tanh(x.hoisted[t] + seen @ x.state, out=trace.squashed[t])
    if x.added is not None:
        hidden = hidden + x.added[t]
    drift, change, *gate, correction, relative = (hidden @ x.out + x.out_bias).split(before.shape[-1], -1)
    torch.tanh(change / LOG_VARIANCE_REACH, out=saturation)
    torch.tanh(relative / LOG_VARIANCE_REACH, out=ahead)
    base = facts.log_variance if x.base is None else x.base[t]
    torch.add(saturation * LOG_VARIANCE_REACH, base, out=variance)
    torch.mul(mask * LOG_VARIANCE_REACH, ahead - saturation if facts.direct else ahead, out=ratio)
    spread = torch.exp((variance + ratio) / 2) * x.noise[t]
    if x.linear is None and x.keep is None and not facts.direct:
        torch.mul(mask, correction, out=shift)
        torch.add(drift + shift + spread, before, alpha=facts.retention, out=path.z[t])
        return
    kept = before * (facts.retention if x.keep is None else x.keep[t])
    if x.linear is None or trace.gate is None or trace.drift is None:
        mean = kept + drift
    else:
        share = torch.sigmoid(gate[0], out=trace.gate[t])
        mean = torch.lerp(kept @ x.linear, trace.drift[t].copy_(drift), share)
    torch.mul(mask, correction - mean if facts.direct else correction, out=shift)
    torch.add(mean + shift, spread, out=path.z[t])


def _memory(x: _Tensors) -> tuple[Tensor, ...]:
    """Room for the gates of each date by itself: small tensors are found in memory again by the next pass."""
    if x.hidden is None:
        return ()
    size = (*x.initial.shape[:-1], hoisted_cell.memory_width(x.hidden))
    return tuple(x.state.new_empty(size) for _ in x.noise)


def _remember(cell: CellTensors, t: int, z: Tensor, before: Tensor, memory: Tensor, after: Tensor) -> Tensor:
    """The cell's state after date t, from z_{t−1} and the state before; fills the date's `memory` and `after`."""
    torch.add(cell.gates[t], z @ cell.latent, out=memory[..., : cell.hidden.shape[1]])
    past, present = (State.split(part, len(cell.hidden)) for part in (before, after))
    hoisted_cell.step(cell.hidden, cell.hidden_bias, past, memory.flatten(0, -2), present)
    return after


class _Walk(torch.autograd.Function):
    """The loop over dates, from hoisted pre-activations to the path."""

    @staticmethod
    def forward(ctx: Any, facts: _Facts, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        x = _Tensors(*tensors)  # pyright: ignore[reportArgumentType]
        trace, path = _room(x)
        each, tracing, walked = _by_date(x, *_DATED), _by_date(trace), _by_date(path)
        before, cell, state, memory = x.initial, each.cell, x.cell_initial, _memory(x)
        for t in range(len(x.noise)):
            seen = before
            if cell is not None and state is not None:
                state = _remember(cell, t, before, state, memory[t], walked.state[t])
                seen = state[..., : cell.hidden.shape[0]]
            _advance(each, facts, t, seen, before, tracing, walked)
            before = walked.z[t]
        ctx.facts = facts
        ctx.save_for_backward(*x, *trace, *path, *memory)
        return tuple(part for part in path if part is not None)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        first = len(_Tensors._fields)
        second = first + len(_Trace._fields)
        third = second + len(ChainPath._fields)
        x, trace, path = _Tensors(*saved[:first]), _Trace(*saved[first:second]), ChainPath(*saved[second:third])
        return None, *_Return(x, ctx.facts, trace, path, saved[third:]).gradients(ChainPath(*gradients))


class _Return:
    """The walk back over the dates: gradients of the states in the loop, of everything else after it."""

    def __init__(self, x: _Tensors, facts: _Facts, trace: _Trace, path: ChainPath, memory: tuple[Tensor, ...]) -> None:
        self.x, self.facts, self.trace, self.memory = x, facts, trace, memory
        self.past = self.seen = torch.cat([x.initial[None], path.z[:-1]])
        self.half = (torch.exp((path.transition_log_variance + path.log_ratio) / 2) * x.noise / 2).unbind(0)
        self.slope = (1 - trace.saturation.square()).unbind(0)
        self.slope_ahead = (1 - trace.ahead.square()).unbind(0)
        self.squashed = trace.squashed.unbind(0)
        self.each, self.back_out, self.back_state = _by_date(x, *_DATED), x.out.T, x.state.T
        lead = trace.squashed.shape[:-1]
        self.of_hoisted = torch.empty_like(trace.squashed)
        self.of_added = None if x.added is None else torch.empty_like(trace.squashed)
        self.of_out = x.out.new_empty(*lead, x.out.shape[1])
        self.out_by_date, self.hoisted_by_date = self.of_out.unbind(0), self.of_hoisted.unbind(0)
        if x.linear is not None and trace.gate is not None and trace.drift is not None:
            self.kept = self.past * (facts.retention if x.keep is None else x.keep)
            self.gate_slope = trace.gate * (1 - trace.gate) * (trace.drift - self.kept @ x.linear)
            self.of_linear = torch.empty_like(self.past)
        self.cell = x.cell
        if self.cell is not None and path.state is not None:
            self.seen = path.state[..., : self.cell.hidden.shape[0]]
            self.past_state = torch.cat([self.cell.initial[None], path.state[:-1]])
            self.past_by_date = self.past_state.unbind(0)
            self.of_outer = x.out.new_empty(*lead, self.cell.hidden.shape[1])
            self.of_inner = self.of_outer if self.cell.is_lstm else torch.empty_like(self.of_outer)
            self.outer_by_date, self.inner_by_date = self.of_outer.unbind(0), self.of_inner.unbind(0)

    def gradients(self, of: ChainPath) -> tuple[Tensor | None, ...]:
        """Gradients in the order of `_Tensors`, from those of the path."""
        carried, carried_state, of = torch.zeros_like(self.x.initial), None, _by_date(of)
        for t in reversed(range(len(self.x.noise))):
            kept, of_seen = self._date(t, of, carried)
            if self.cell is None or of.state is None:
                carried = kept + of_seen
                continue
            of_state = of.state[t].clone() if carried_state is None else of.state[t] + carried_state
            of_state[..., : of_seen.shape[-1]] += of_seen
            of_before = self._recall(self.cell, t, of_state)
            carried_state = torch.cat([part for part in of_before if part is not None], -1).view(of_state.shape)
            carried = kept + self.outer_by_date[t] @ self.cell.latent.T
        return self._after(carried, carried_state)

    def _recall(self, cell: CellTensors, t: int, of_state: Tensor) -> State:
        """Gradient of the cell's state before date t; fills that of the gates."""
        of_after, before = (State.split(part, len(cell.hidden)) for part in (of_state, self.past_by_date[t]))
        memory, *of_gates = (part[t].flatten(0, -2) for part in (self.memory, self.outer_by_date, self.inner_by_date))
        return hoisted_cell.step_back(cell.hidden, of_after, memory, before, *of_gates)

    def _date(self, t: int, of: ChainPath, carried: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients that date t sends to z_{t−1} past the perceptrons, and to what these see."""
        x, mask, of_out, of_hoisted = self.each, self.each.mask[t], self.out_by_date[t], self.hoisted_by_date[t]
        total = of.z[t] + carried
        through = total * self.half[t]
        of_variance, of_shift = of.transition_log_variance[t] + through, mask * (of.shift[t] + total)
        of_ratio, of_mean, gate = mask * (of.log_ratio[t] + through), total, []
        if self.facts.direct:
            of_mean, of_variance = total - of_shift, of_variance - of_ratio
        of_drift, retention = of_mean, self.facts.retention if x.keep is None else x.keep[t]
        kept = retention * of_mean
        if x.linear is not None and self.trace.gate is not None:
            share = self.trace.gate[t]
            of_drift, gate = share * of_mean, [self.gate_slope[t] * of_mean]
            kept = retention * (torch.sub(of_mean, of_drift, out=self.of_linear[t]) @ x.linear.T)
        of_variance, of_ratio = of_variance * self.slope[t], of_ratio * self.slope_ahead[t]
        torch.cat([of_drift, of_variance, *gate, of_shift, of_ratio], -1, out=of_out)
        of_hidden = of_out @ self.back_out
        if self.of_added is not None:
            self.of_added[t] = of_hidden
        torch.mul(of_hidden, 1 - self.squashed[t].square(), out=of_hoisted)
        return kept, of_hoisted @ self.back_state

    def _after(self, of_initial: Tensor, of_cell_initial: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients in the order of `_Tensors`; those of the weights are matrix products over T·rows."""
        x, flat_out, hidden = self.x, self.of_out.flatten(0, -2), self.trace.squashed
        of_added = of_linear = None
        of_cell: tuple[Tensor | None, ...] = (None,) * 5
        if x.added is not None and self.of_added is not None:
            hidden, of_added = hidden + x.added, self.of_added.sum_to_size(x.added.shape)
        if x.linear is not None:
            of_linear = self.kept.flatten(0, -2).T @ self.of_linear.flatten(0, -2)
        if self.cell is not None:
            of_gates = self.of_outer.sum_to_size(self.cell.gates.shape)
            of_cell = (of_gates, *self._of_cell_weights(self.cell), of_cell_initial)
        of_state = self.seen.flatten(0, -2).T @ self.of_hoisted.flatten(0, -2)
        of_weight, of_bias = hidden.flatten(0, -2).T @ flat_out, flat_out.sum(0)
        of_hoisted = self.of_hoisted.sum_to_size(x.hoisted.shape)
        unlearnt = (None,) * 4
        return of_hoisted, of_added, of_state, of_weight, of_bias, of_initial, of_linear, *unlearnt, *of_cell

    def _of_cell_weights(self, cell: CellTensors) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients of `latent`, `hidden` and `hidden_bias`: matrix products over T·rows."""
        size = len(cell.hidden)
        outer, inner = self.of_outer.flatten(0, -2), self.of_inner.flatten(0, -2)
        of_hidden = self.past_state[..., :size].flatten(0, -2).T @ inner
        of_bias = None if cell.hidden_bias is None else inner[:, 2 * size :].sum(0)
        return self.past.flatten(0, -2).T @ outer, of_hidden, of_bias


def share_of_inputs(weights: tuple[Tensor, ...], inputs: tuple[Tensor, ...], bias: Tensor, axes: int) -> Tensor:
    """(T or 1, ..., E) share of the inputs and the bias; small terms are added up before they are broadcast."""
    total = bias if inputs else bias.view(*[1] * axes, -1)
    for x, weight in sorted(zip(inputs, weights, strict=True), key=lambda pair: pair[0].numel()):
        if total.ndim == 1:
            total = functional.linear(x, weight.T, total)
        elif total.shape[:-1] == x.shape[:-1]:
            total = torch.addmm(total.flatten(0, -2), x.flatten(0, -2), weight).view(total.shape)
        else:
            total = total + x @ weight
    return total


def side_by_side(parts: list[Tensor]) -> Tensor:
    """Parts (T or 1, ..., ·), broadcast against each other, in one tensor."""
    shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], -1)


def pre_activations(chain: Chain, inputs: ChainInputs) -> tuple[Tensor, Tensor | None]:
    """(T, ..., E_p + E_q) what both perceptrons add inside their hidden units, and what combining ones add after."""
    steps, axes = len(inputs.noise), inputs.noise.ndim - 1
    inside, after = [], []
    for head, seen in ((chain.transition, inputs.transition), (chain.inference, inputs.inference)):
        nothing = head.bias.new_zeros([1] * axes + [len(head.bias)])
        if head.combine:
            inside.append(head.bias.expand_as(nothing))
            after.append(share_of_inputs(head.inputs, seen, torch.zeros_like(head.bias), axes))
        else:
            inside.append(share_of_inputs(head.inputs, seen, head.bias, axes))
            after.append(nothing)
    combining = chain.transition.combine or chain.inference.combine
    joined = [side_by_side(parts) for parts in ((inside, after) if combining else (inside,))]
    hoisted, *added = [part.expand(steps, *part.shape[1:]) for part in joined]
    return hoisted, added[0] if added else None


def cell_gates(cell: Cell, inputs: tuple[Tensor, ...], steps: int, axes: int) -> Tensor:
    """(T, ..., 3H or 4H) share of the inputs and of the bias."""
    share = share_of_inputs(cell.inputs, inputs, cell.bias, axes)
    return share.expand(steps, *share.shape[1:])


def run_chain(chain: Chain, inputs: ChainInputs) -> ChainPath:
    """Run the chain; arguments and answer as `reference.run_chain`, but mask, noise and gap get no gradient."""
    lead, cell = leading_shape(inputs), chain.cell
    hoisted, added = pre_activations(chain, inputs)
    keep, base = (None, None) if inputs.gap is None else passing(chain, inputs.gap)
    tensors = _Tensors(
        hoisted,
        added,
        state=torch.cat([chain.transition.state, chain.inference.state], -1),
        out=torch.block_diag(chain.transition.out, chain.inference.out),
        out_bias=torch.cat([chain.transition.out_bias, chain.inference.out_bias]),
        initial=chain.initial.expand(*lead, chain.initial.shape[-1]),
        linear=chain.linear,
        mask=inputs.mask,
        noise=inputs.noise,
        keep=keep,
        base=base,
    )
    if cell is not None:
        tensors = tensors._replace(
            gates=cell_gates(cell, inputs.cell, len(inputs.noise), len(lead) + 1),
            latent=cell.latent,
            hidden=cell.hidden,
            hidden_bias=cell.hidden_bias,
            cell_initial=cell.initial.expand(*lead, cell.initial.shape[-1]),
        )
    facts = _Facts(chain.retention, chain.log_variance, chain.direct)
    return ChainPath(*_Walk.apply(facts, *tensors))


def run_cell(cell: Cell, inputs: tuple[Tensor, ...], mask: Tensor | None = None, *, reverse: bool = False) -> Tensor:
    """The cell alone; arguments and answer as `reference.run_cell`, but the mask gets no gradient."""
    tensors = inputs if mask is None else (*inputs, mask)
    lead = torch.broadcast_shapes(*(tensor.shape[1:-1] for tensor in tensors))
    steps = max(len(tensor) for tensor in tensors)
    dated = [len(x) == steps for x in inputs]
    still, moving, of_still, of_moving = (
        tuple(part for part, wanted in zip(parts, dated, strict=True) if wanted is kind)
        for parts in (inputs, cell.inputs)
        for kind in (False, True)
    )
    return hoisted_walk.walk(
        share_of_inputs(of_still, still, cell.bias, len(lead) + 1)[0],
        cell.hidden,
        cell.hidden_bias,
        cell.initial.expand(*lead, cell.initial.shape[-1]),
        mask,
        moving,
        of_moving,
        steps=steps,
        reverse=reverse,
    )
