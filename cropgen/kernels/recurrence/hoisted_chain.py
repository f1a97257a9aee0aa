"""The hoisted chain's loop over dates, and its way back, with as few operations per date as there can be.

What does not depend on z_{t−1} is taken out of both loops. Forward, a date leaves A = tanh(a/3), R = tanh(c/3) and z;
λ, δ and ρ are made from them for many dates at once. Backward, with G the gradient of z_t from the path and from date
t+1, the gradients of all that the perceptrons give are affine in G, with coefficients known before the walk:

    ∂(a/3) = 3 (1 − A²) (∂λ + h G),   ∂(c/3) = 3 m (1 − R²) (∂ρ + h G),   ∂d = m (∂δ + G),   ∂u = ∂μ = G
    h = ½ e^((λ+ρ)/2) ε,      G_{t−1} = r ∂μ + ∂pre stateᵀ,      ∂pre = (1 − hidden²) ∂(γ, u, a/3, d, c/3) outᵀ

The direct inference takes ∂d from ∂μ and m (∂ρ + h G) from ∂λ + h G; of the gated transition, with k = r z_{t−1} A,
∂u = g ∂μ, ∂k = (1 − g) ∂μ and ∂γ = g (1 − g) (u − k) ∂μ. So a date costs one affine map, two products with the weights
and one with the slope of tanh; the gradients of the weights are matrix products over many dates.

Both walks go by blocks of dates, many where rows are few and one where they are many, so that what is made for a block
stays in the cache.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cropgen.kernels.recurrence import hoisted_cell
from cropgen.kernels.recurrence.hoisted_cell import CellTensors, State, room_for_gates
from cropgen.kernels.recurrence.hoisted_trace import Answer, Facts, Tensors, Trace, over_rows
from cropgen.kernels.recurrence.reference import LOG_VARIANCE_REACH, ChainPath


class Walk(torch.autograd.Function):
    """The loop over dates, from hoisted pre-activations to the path; mask, noise, keep and base get no gradient."""

    @staticmethod
    def forward(ctx: Any, facts: Facts, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        x = Tensors(*tensors)  # pyright: ignore[reportArgumentType]
        trace, gates = Trace.empty(x, facts), []
        variance, shift, ratio = (torch.empty_like(trace.z) for _ in range(3))
        z, state = over_rows(x.initial), None if x.cell_initial is None else over_rows(x.cell_initial)
        for dates in x.blocks():
            forth = _Forth(x.at(dates), facts, trace.at(dates))
            z, state = forth.walk(z, state)
            forth.look_back(variance[dates], shift[dates], ratio[dates])
            gates += forth.gates
        ctx.facts = facts
        ctx.save_for_backward(*x, *trace, *gates)
        path = ChainPath(trace.z, variance, shift, ratio, trace.state)
        return tuple(part.unflatten(1, x.lead) for part in path if part is not None)

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        saved, first = ctx.saved_tensors, len(Tensors._fields)
        second = first + len(Trace._fields)
        x, trace = Tensors(*saved[:first]), Trace(*saved[first:second])
        of = ChainPath(*(part.flatten(1, -2) for part in gradients))
        return None, *_gradients(x, ctx.facts, trace, saved[second:], of)


class _Forth:
    """The walk over a block of dates.

    Attributes:
        gates: (dates, rows, 4H or 5H) of a cell, if there is one.
    """

    def __init__(self, x: Tensors, facts: Facts, trace: Trace) -> None:
        self.x, self.facts, self.trace, self.cell = x, facts, trace, x.cell
        trace.squashed.unflatten(1, x.lead).copy_(x.hoisted)
        scale = trace.z.new_tensor(facts.log_variance) if x.base is None else x.base
        torch.mul(x.noise, (scale / 2).exp(), out=trace.noise)
        self.answer = Answer.split(trace.answer, x.width)
        self.gates: list[Tensor] = []
        if self.cell is not None:
            hidden = self.cell.hidden
            self.gates = [room_for_gates(hidden, self.cell.hidden_bias, *trace.z.shape[:2])]
            hoisted_cell.outer(self.gates[0], hidden).unflatten(1, x.lead).copy_(self.cell.gates)

    def walk(self, z: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Fill the trace, from z and the cell's state before; those after."""
        x, facts, trace = self.x, self.facts, self.trace
        bounded = trace.answer[..., -4 * x.width :].unflatten(-1, (2, -1))[..., x.width :]
        means = trace.z if trace.mean is None else trace.mean
        dated = (trace.squashed, trace.answer, bounded, *self.answer[:4], x.mask, trace.noise, means, trace.spread)
        whole = zip(*(part.unbind(0) for part in dated), trace.z.unbind(0), strict=True)
        for t, (hidden, answer, limited, drift, saturation, correction, ahead, mask, noise, mean, spread, after) in (
            enumerate(whole)
        ):  # fmt: skip
            seen = z
            if self.cell is not None and state is not None and trace.state is not None:
                state = self._remember(self.cell, t, z, state, trace.state[t])
                seen = state[:, : len(self.cell.hidden)]
            hidden.addmm_(seen, x.state).tanh_()
            if x.added is not None:
                hidden = hidden + over_rows(x.added[t].expand(*x.lead, -1))
            torch.addmm(x.out_bias, hidden, x.out, out=answer)
            limited.tanh_()
            self._move(t, z, drift, mean)
            if facts.direct:
                torch.lerp(mean, correction, mask, out=after)
                torch.lerp(saturation, ahead, mask, out=spread)
            else:
                after.addcmul_(mask, correction)
                torch.addcmul(saturation, mask, ahead, out=spread)
            z = after.addcmul_(spread.mul_(LOG_VARIANCE_REACH / 2).exp_(), noise)
        return z, state

    def _move(self, t: int, z: Tensor, drift: Tensor, mean: Tensor) -> None:
        """μ_t of z_{t−1}."""
        retention = self.facts.retention
        if self.x.keep is not None:
            z, retention = z * self.x.keep[t], 1.0
        if self.x.linear is None or self.answer.gate is None:
            torch.add(drift, z, alpha=retention, out=mean)
        else:
            torch.lerp(z @ self.x.linear * retention, drift, self.answer.gate[t].sigmoid_(), out=mean)

    def _remember(self, cell: CellTensors, t: int, z: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """The cell's state after date t, from z_{t−1} and the state before."""
        gates = self.gates[0][t]
        hoisted_cell.outer(gates, cell.hidden).addmm_(z, cell.latent)
        past, present = (State.split(part, len(cell.hidden)) for part in (before, after))
        hoisted_cell.step(cell.hidden, past, gates, present)
        return after

    def look_back(self, variance: Tensor, shift: Tensor, ratio: Tensor) -> None:
        """Fill λ, δ and ρ."""
        x, facts, (_, saturation, correction, ahead, _) = self.x, self.facts, self.answer
        if self.trace.mean is not None:
            correction, ahead = correction - self.trace.mean, ahead - saturation
        base = facts.log_variance if x.base is None else x.base
        torch.mul(saturation, LOG_VARIANCE_REACH, out=variance).add_(base)
        torch.mul(x.mask, correction, out=shift)
        torch.mul(x.mask, ahead, out=ratio).mul_(LOG_VARIANCE_REACH)


def _affine(x: Tensors, facts: Facts, trace: Trace, of: ChainPath, mixed: Tensor | None) -> tuple[Tensor, Tensor]:
    """The gradients (∂k), (∂γ), ∂u, ∂(a/3), ∂d, ∂(c/3) as base + slope · G, each (T, rows, 4 or 6, Z).

    Arguments:
        mixed: (T, rows, Z) k of a gated transition.
    """
    answer, half = Answer.split(trace.answer, x.width), trace.spread * trace.noise * 0.5
    mask = x.mask.expand_as(half)
    reach = LOG_VARIANCE_REACH * (1 - answer.saturation.square())
    ahead = LOG_VARIANCE_REACH * mask * (1 - answer.ahead.square())
    correction, relative = (mask * of.shift, mask), (ahead * of.log_ratio, ahead * half)
    if facts.direct:
        mean = -correction[0], 1 - mask
        variance = reach * (of.transition_log_variance - mask * of.log_ratio), reach * (1 - mask) * half
    else:
        mean = torch.zeros_like(half), torch.ones_like(half)
        variance = reach * of.transition_log_variance, reach * half
    means = [mean]
    if answer.gate is not None and mixed is not None:
        rest = 1 - answer.gate
        shares = (rest, answer.gate * rest * (answer.drift - mixed), answer.gate)
        means = [(share * mean[0], share * mean[1]) for share in shares]
    base, slope = (torch.stack(parts, -2) for parts in zip(*means, variance, correction, relative, strict=True))
    return base, slope


class _Back:
    """The walk back over a block of dates: gradients of the states date by date, of the rest at once.

    Arguments:
        of: gradients of the path.
        past: (T, rows, Z) z_{t−1}.
        of_units: (T, rows, E), filled: gradient of the hidden units before their tanh.
        memory: the cell, if there is one.
    """

    def __init__(
        self, x: Tensors, facts: Facts, trace: Trace, of: ChainPath, past: Tensor, of_units: Tensor,
        memory: _Memory | None,
    ) -> None:  # fmt: skip
        self.x, self.facts, self.trace, self.of = x, facts, trace, of
        self.past, self.of_units, self.memory = past, of_units, memory
        self.kept = past * (facts.retention if x.keep is None else x.keep)
        self.affine = _affine(x, facts, trace, of, None if x.linear is None else self.kept @ x.linear)
        self.wide = torch.empty_like(self.affine[0])
        self.of_kept, self.of_answer = self.wide[..., 0, :], self.wide.flatten(2)[..., -x.out.shape[1] :]
        self.of_added = None if x.added is None else torch.empty_like(of_units)

    def walk(self, carry: Tensor) -> None:
        """Take the gradient of z (rows, Z) from after the block to before it, in place."""
        x, back_out, back, total = self.x, self.x.out.T.contiguous(), self.x.state.T, torch.empty_like(carry)
        dated = (self.of.z, *self.affine, self.wide, self.of_answer, self.of_units, self.trace.squashed, self.of_kept)
        whole, beside = list(zip(*(part.unbind(0) for part in dated), strict=True)), total[:, None]
        for t in reversed(range(len(whole))):
            of_z, base, slope, wide, of_answer, of_units, squashed, kept = whole[t]
            torch.add(of_z, carry, out=total)
            torch.addcmul(base, beside, slope, out=wide)
            torch.mm(of_answer, back_out, out=of_units)
            if self.of_added is not None:
                self.of_added[t] = of_units
            torch.ops.aten.tanh_backward.grad_input(of_units, squashed, grad_input=of_units)
            of_seen, weight, retention = of_units, back, self.facts.retention
            if self.memory is not None:
                of_seen, weight = self.memory.recall(t, of_units @ back), self.memory.cell.latent.T
            if x.linear is not None:
                kept = kept @ x.linear.T
            if x.keep is not None:
                kept, retention = kept * x.keep[t], 1.0
            torch.addmm(kept, of_seen, weight, beta=retention, out=carry)

    def weigh(self, sums: Tensors) -> None:
        """Add to the gradients of the weights, each one matrix product."""
        x, of_answer, hidden = self.x, over_rows(self.of_answer), self.trace.squashed
        if x.added is not None:
            hidden = hidden + x.added.expand(-1, *x.lead, -1).flatten(1, -2)
        seen = self.past if self.memory is None else self.memory.seen
        sums.state.addmm_(over_rows(seen).T, over_rows(self.of_units))
        sums.out.addmm_(over_rows(hidden).T, of_answer)
        sums.out_bias.add_(of_answer.sum(0))
        if sums.linear is not None:
            sums.linear.addmm_(over_rows(self.kept).T, over_rows(self.of_kept))
        if self.memory is not None and sums.cell is not None:
            self.memory.weigh(self.past, sums.cell)


class _Memory:
    """The cell on the way back over a block of dates.

    Arguments:
        gates: (T, rows, 4H or 5H).
        past, after: (T, rows, H or 2H) its state before and after each date.
        of_state: (T, rows, H or 2H) gradient of its state, from the path.
        carry: (rows, H or 2H) gradient of its state after the block, from what comes later.
    """

    def __init__(
        self, cell: CellTensors, gates: Tensor, past: Tensor, after: Tensor, of_state: Tensor, carry: Tensor
    ) -> None:
        self.cell, self.gates, self.past, self.of_state, self.carry = cell, gates, past, of_state, carry
        self.seen = after[..., : len(cell.hidden)]
        self.of_gates = gates.new_empty(*gates.shape[:2], 4 * len(cell.hidden))

    @property
    def of_outer(self) -> Tensor:
        """(T, rows, 3H or 4H) gradients of what inputs, latent state and bias give the gates."""
        return hoisted_cell.outer(self.of_gates, self.cell.hidden)

    def recall(self, t: int, of_seen: Tensor) -> Tensor:
        """Gradient of what z_{t−1} gives the gates, from that of what the perceptrons see."""
        hidden, of_after = self.cell.hidden, self.of_state[t] + self.carry
        of_after[:, : len(hidden)] += of_seen
        after, before = (State.split(part, len(hidden)) for part in (of_after, self.past[t]))
        found = hoisted_cell.step_back(hidden, after, self.gates[t], before, self.of_gates[t])
        self.carry = found.h if found.c is None else torch.cat([found.h, found.c], -1)
        return hoisted_cell.outer(self.of_gates[t], hidden)

    def weigh(self, z: Tensor, sums: CellTensors) -> None:
        """Add to the gradients of the weights; z (T, rows, Z) of the date before."""
        size, of_gates = len(self.cell.hidden), over_rows(self.of_gates)
        sums.latent.addmm_(over_rows(z).T, hoisted_cell.outer(of_gates, self.cell.hidden))
        sums.hidden.addmm_(over_rows(self.past[..., :size]).T, hoisted_cell.inner(of_gates, self.cell.hidden))
        if sums.hidden_bias is not None:
            sums.hidden_bias.add_(of_gates[:, 3 * size :].sum(0))


def _shifted(first: Tensor, after: Tensor, dates: slice) -> Tensor:
    """(T, rows, ·) what there was before each of the dates, from what there was first and after each date."""
    if dates.start:
        return after[dates.start - 1 : dates.stop - 1]
    return torch.cat([over_rows(first)[None], after[: dates.stop - 1]])


def _gradients(x: Tensors, facts: Facts, trace: Trace, gates: tuple[Tensor, ...], of: ChainPath) -> Tensors:
    """Gradients of the tensors, None where there are none."""
    sums = x.for_gradients()
    carry, of_state = over_rows(sums.initial), sums.cell_initial
    for number, dates in reversed(list(enumerate(x.blocks()))):
        part, left, kept = x.at(dates), trace.at(dates), sums.at(dates)
        seen = ChainPath(*(None if each is None else each[dates] for each in of))  # pyright: ignore
        memory = None
        cell = part.cell
        if cell is not None and trace.state is not None and seen.state is not None and of_state is not None:
            past = _shifted(cell.initial, trace.state, dates)
            memory = _Memory(cell, gates[number], past, trace.state[dates], seen.state, over_rows(of_state))
        whole = x.hoisted.shape[1:-1] == x.lead
        of_units = kept.hoisted.flatten(1, -2) if whole else torch.empty_like(left.squashed)
        block = _Back(part, facts, left, seen, _shifted(x.initial, trace.z, dates), of_units, memory)
        block.walk(carry)
        block.weigh(sums)
        if memory is not None:
            of_state = memory.carry.unflatten(0, x.lead)
        found = (None if whole else of_units), block.of_added, None if memory is None else memory.of_outer
        for to, source in zip((kept.hoisted, kept.added, kept.gates), found, strict=True):
            if to is not None and source is not None:
                to.copy_(source.unflatten(1, x.lead).sum_to_size(to.shape))
    return sums._replace(initial=carry.unflatten(0, x.lead), cell_initial=of_state)
