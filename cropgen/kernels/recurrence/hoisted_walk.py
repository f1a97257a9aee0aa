"""A recurrent cell without a latent state over a season, forward or back in time: a recurrent layer.

The inputs' share of the gates is one matrix product for as many dates as make it worth while, written where the gates
are kept; nothing of the size of a season is made besides what the backward pass needs, so that a date stays in the
cache. Where the mask is 0 the state is carried over.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from cropgen.kernels.recurrence import hoisted_cell
from cropgen.kernels.recurrence.hoisted_cell import State, is_lstm, room_for_gates, step, step_back

_ROWS_AT_ONCE = 512


class _Layer(NamedTuple):
    """What the walk runs over; columns of gates in the order of `hoisted_cell`.

    Arguments:
        constant: (..., 3H or 4H) share of the gates that is the same at every date.
        hidden, hidden_bias: as `CellTensors`.
        initial: (..., H or 2H), of all rows.
        mask: (T, ..., 1) or None.
        inputs: (T, ..., Fᵢ), broadcast over rows.
        weights: (Fᵢ, 3H or 4H).
        steps: T.
        reverse: whether the walk begins at the last date.
    """

    constant: Tensor
    hidden: Tensor
    hidden_bias: Tensor | None
    initial: Tensor
    mask: Tensor | None
    inputs: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]
    steps: int
    reverse: bool

    @property
    def lead(self) -> torch.Size:
        return self.initial.shape[:-1]

    def blocks(self) -> Iterator[range]:
        """Dates whose shares are computed together, in the order of the walk."""
        size = max(1, _ROWS_AT_ONCE // max(1, self.lead.numel()))
        for first in range(0, self.steps, size):
            dates = range(first, min(first + size, self.steps))
            yield range(self.steps - 1 - dates[0], self.steps - 2 - dates[-1], -1) if self.reverse else dates


class _Trace(NamedTuple):
    """What the forward pass leaves, in small tensors that a next pass finds in memory again.

    Arguments:
        start: state before the first date.
        h: (T, rows, H).
        c: (rows, H) of each date, of an LSTM.
        gates: (dates, rows, 4H or 5H) of each block of dates, in the order of the walk.
    """

    start: State
    h: Tensor
    c: tuple[Tensor, ...]
    gates: tuple[Tensor, ...]

    def before(self, t: int, *, reverse: bool) -> State:
        """State before date t."""
        place = t + 1 if reverse else t - 1
        if not 0 <= place < len(self.h):
            return self.start
        return State(self.h[place], self.c[place] if self.c else None)


def _span(dates: range) -> slice:
    return slice(min(dates), max(dates) + 1)


class _Walk(torch.autograd.Function):
    """The layer over the dates: h (T, rows, H)."""

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, steps: int, reverse: bool, constant: Tensor, hidden: Tensor, hidden_bias: Tensor | None,
        initial: Tensor, mask: Tensor | None, *tensors: Tensor,
    ) -> Tensor:  # fmt: skip
        x = _Layer(constant, hidden, hidden_bias, initial, mask, *_halves(tensors), steps, reverse)
        observed = None if mask is None else mask.expand(steps, *x.lead, 1).reshape(steps, -1, 1)
        trace = _forward(x, observed)
        ctx.facts = steps, reverse, len(tensors), len(trace.c)
        saved = (constant, hidden, hidden_bias, initial, observed, *tensors, *trace.c, *trace.gates)
        ctx.save_for_backward(trace.h, *saved)
        return trace.h

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, of_h: Tensor
    ) -> tuple[Tensor | None, ...]:
        steps, reverse, count, carries = ctx.facts
        h, constant, hidden, hidden_bias, initial, observed, *others = ctx.saved_tensors
        x = _Layer(
            constant, hidden, hidden_bias, initial, observed, *_halves(tuple(others[:count])), steps, reverse
        )  # fmt: skip
        c, gates = tuple(others[count : count + carries]), tuple(others[count + carries :])
        trace = _Trace(State.split(initial, len(hidden)), h, c, gates)
        wanted = ctx.needs_input_grad[-count:][: count // 2]
        return None, None, *_Return(x, trace, wanted).gradients(of_h)


def _halves(tensors: tuple[Tensor, ...]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    half = len(tensors) // 2
    return tensors[:half], tensors[half:]


def _forward(x: _Layer, observed: Tensor | None) -> _Trace:
    """The walk over the dates."""
    size, start = len(x.hidden), State.split(x.initial, len(x.hidden))
    rows = len(start.h)
    c = tuple(x.hidden.new_empty(rows, size) for _ in range(x.steps if is_lstm(x.hidden) else 0))
    gates = tuple(room_for_gates(x.hidden, x.hidden_bias, len(dates), rows) for dates in x.blocks())
    trace = _Trace(start, x.hidden.new_empty(x.steps, rows, size), c, gates)
    for dates, room in zip(x.blocks(), gates, strict=True):
        _share(x, _span(dates), room)
        for t in dates:
            before, after = trace.before(t, reverse=x.reverse), State(trace.h[t], c[t] if c else None)
            step(x.hidden, before, room[t - min(dates)], after)
            for past, present in zip(before, after, strict=True) if observed is not None else ():
                if past is not None and present is not None and observed is not None:
                    torch.lerp(past, present, observed[t], out=present)
    return trace


def _share(x: _Layer, span: slice, gates: Tensor) -> None:
    """Write the inputs' share of the gates of a span of dates where they are kept."""
    flat = hoisted_cell.outer(gates.flatten(0, 1), x.hidden)
    wide = flat.view(len(gates), *x.lead, -1)
    wide.copy_(x.constant)
    for seen, weight in zip(x.inputs, x.weights, strict=True):
        if seen.shape[1:-1] == x.lead:
            flat.addmm_(seen[span].flatten(0, -2), weight)
        else:
            wide += seen[span] @ weight


class _Return:
    """The walk back: gradients of the states date by date, of everything else block by block."""

    def __init__(self, x: _Layer, trace: _Trace, wanted: tuple[bool, ...]) -> None:
        self.x, self.trace = x, trace
        self.of_hidden, self.of_constant = torch.zeros_like(x.hidden), torch.zeros_like(x.constant)
        self.of_bias = None if x.hidden_bias is None else torch.zeros_like(x.hidden_bias)
        self.of_inputs = [torch.empty_like(seen) if need else None for seen, need in zip(x.inputs, wanted, strict=True)]
        self.of_weights = [torch.zeros_like(weight) for weight in x.weights]

    def gradients(self, of_h: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients in the order of the walk's tensors, from those of h."""
        x, trace = self.x, self.trace
        blocks = list(x.blocks())
        carried = State(torch.zeros_like(of_h[0]), torch.zeros_like(of_h[0]) if is_lstm(x.hidden) else None)
        room = of_h.new_empty(len(blocks[0]), of_h.shape[1], 4 * len(x.hidden))
        for dates, gates in zip(reversed(blocks), reversed(trace.gates), strict=True):
            for t in reversed(dates):
                place, before = t - min(dates), trace.before(t, reverse=x.reverse)
                total = State(carried.h + of_h[t], carried.c)
                seen = total if x.mask is None else _scaled(total, x.mask[t])
                carried = step_back(x.hidden, seen, gates[place], before, room[place])
                if x.mask is not None:
                    carried = _sum(carried, _scaled(total, 1 - x.mask[t]))
            self._weigh(dates, room[: len(dates)])
        of_initial = torch.cat([part for part in carried if part is not None], -1).view(x.initial.shape)
        return (self.of_constant, self.of_hidden, self.of_bias, of_initial, None, *self.of_inputs, *self.of_weights)

    def _weigh(self, dates: range, of_gates: Tensor) -> None:
        """Add what a block of dates says of the weights, and keep what it says of the inputs."""
        x, span = self.x, _span(dates)
        self._weigh_hidden(dates, hoisted_cell.inner(of_gates, x.hidden))
        if self.of_bias is not None:
            self.of_bias += of_gates[..., 3 * len(x.hidden) :].sum((0, 1))
        wide = hoisted_cell.outer(of_gates, x.hidden).unflatten(1, x.lead)
        self.of_constant += wide.sum_to_size(1, *x.constant.shape)[0]
        for k, (seen, weight) in enumerate(zip(x.inputs, x.weights, strict=True)):
            part = seen[span]
            share = wide.sum_to_size(*part.shape[:-1], wide.shape[-1]).flatten(0, -2)
            self.of_weights[k].addmm_(part.flatten(0, -2).T, share)
            found = self.of_inputs[k]
            if found is not None:
                torch.mm(share, weight.T, out=found[span].view(-1, found.shape[-1]))

    def _weigh_hidden(self, dates: range, of_inner: Tensor) -> None:
        """The dates of a block but the walk's first have the h of a neighbour before them."""
        x, span = self.x, _span(dates)
        first, last = span.start, span.stop
        if x.reverse:
            begins, past = last == x.steps, self.trace.h[first + 1 : last + 1]
            start, rest = of_inner[-1], of_inner[: len(past)]
        else:
            begins, past = first == 0, self.trace.h[max(first - 1, 0) : last - 1]
            start, rest = of_inner[0], of_inner[len(of_inner) - len(past) :]
        if begins:
            self.of_hidden.addmm_(self.trace.start.h.T, start)
        if len(past):
            self.of_hidden.addmm_(past.flatten(0, 1).T, rest.flatten(0, 1))


def _scaled(state: State, share: Tensor) -> State:
    return State(share * state.h, None if state.c is None else share * state.c)


def _sum(one: State, other: State) -> State:
    return State(one.h + other.h, None if one.c is None or other.c is None else one.c + other.c)


def walk(
    constant: Tensor, hidden: Tensor, hidden_bias: Tensor | None, initial: Tensor, mask: Tensor | None,
    inputs: tuple[Tensor, ...], weights: tuple[Tensor, ...], *, steps: int, reverse: bool,
) -> Tensor:  # fmt: skip
    """(T, ..., H) h of a recurrent layer; arguments as `_Layer`, the mask broadcast over rows."""
    h = _Walk.apply(steps, reverse, constant, hidden, hidden_bias, initial, mask, *inputs, *weights)
    return h.unflatten(1, initial.shape[:-1])
