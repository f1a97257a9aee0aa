"""The recurrent cell of the hoisted chain: one step forward, one step backward, and the cell alone.

What is known before the walk, the inputs' share of the gates, comes in as (T, ..., 3H or 4H); the gradients of the
weights are matrix products over all dates after it.

    GRU     h_t = (1 − u) n + u h_{t−1},      n = tanh(outer_n + r inner_n),   inner = h_{t−1} W + (0, 0, b)
    LSTM    c_t = f c_{t−1} + i g,            h_t = o tanh(c_t)
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class CellTensors(NamedTuple):
    """A cell with its hoisted gates.

    Arguments:
        gates: (T, ..., 3H or 4H), broadcast over rows.
        latent: (Z, 3H or 4H); None: nothing else comes in.
        hidden: (H, 3H or 4H).
        hidden_bias: (H,) of a GRU.
        initial: (..., H or 2H).
    """

    gates: Tensor
    latent: Tensor | None
    hidden: Tensor
    hidden_bias: Tensor | None
    initial: Tensor

    @property
    def is_lstm(self) -> bool:
        return self.hidden.shape[1] == 4 * self.hidden.shape[0]


def memory_of(cell: CellTensors, steps: int) -> Tensor:
    """Room for what the backward pass needs: (T, ..., 4H) gates of an LSTM, (r, u, n, inner_n) of a GRU."""
    return cell.hidden.new_empty(steps, *cell.initial.shape[:-1], 4 * cell.hidden.shape[0])


def step(cell: CellTensors, gates: Tensor, z: Tensor | None, before: Tensor, memory: Tensor) -> Tensor:
    """The state after a date, (..., H or 2H), from its hoisted gates; fills `memory`, that of the date."""
    size = cell.hidden.shape[0]
    outer = gates if z is None or cell.latent is None else gates + z @ cell.latent
    inner = before[..., :size] @ cell.hidden
    if cell.is_lstm:
        pre = outer + inner
        torch.sigmoid(pre, out=memory)
        memory[..., 2 * size : 3 * size] = torch.tanh(pre[..., 2 * size : 3 * size])
        enter, forget, new, leave = memory.chunk(4, -1)
        carry = forget * before[..., size:] + enter * new
        return torch.cat([leave * torch.tanh(carry), carry], -1)
    both = torch.sigmoid(outer[..., : 2 * size] + inner[..., : 2 * size])
    share = inner[..., 2 * size :]
    if cell.hidden_bias is not None:
        share = share + cell.hidden_bias
    new = torch.tanh(outer[..., 2 * size :] + both[..., :size] * share)
    torch.cat([both, new, share], -1, out=memory)
    return torch.lerp(new, before, both[..., size:])


def slopes(cell: CellTensors, memory: Tensor, state: Tensor, past: Tensor) -> Tensor:
    """Factors that turn the gradient of a date's state into that of the gates.

    Returns:
        GRU: (..., 4, H), of the pre-activations r, u, outer_n and inner_n from ∂h. LSTM: (..., 5, H), of i, f and g
        from ∂c, of o from ∂h, and of c from ∂h.
    """
    if cell.is_lstm:
        enter, forget, new, leave = memory.chunk(4, -1)
        squashed = torch.tanh(state[..., cell.hidden.shape[0] :])
        of_enter = new * enter * (1 - enter)
        of_forget = past[..., cell.hidden.shape[0] :] * forget * (1 - forget)
        of_new = enter * (1 - new.square())
        of_leave = squashed * leave * (1 - leave)
        return torch.stack([of_enter, of_forget, of_new, of_leave, leave * (1 - squashed.square())], -2)
    reset, update, new, share = memory.chunk(4, -1)
    of_new = (1 - update) * (1 - new.square())
    of_reset = of_new * share * reset * (1 - reset)
    of_update = (past - new) * update * (1 - update)
    return torch.stack([of_reset, of_update, of_new, of_new * reset], -2)


def step_back(
    cell: CellTensors, of_state: Tensor, memory: Tensor, slope: Tensor, of_outer: Tensor, of_inner: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Gradients of the state and of z before a date, from that of the state after it; fills the gates' of the date.

    The gradients of an LSTM's gates are those of both: `of_inner` is `of_outer`.
    """
    size = cell.hidden.shape[0]
    if cell.is_lstm:
        of_h, of_c = of_state[..., :size], of_state[..., size:]
        of_c = of_c + of_h * slope[..., 4, :]
        torch.cat([(of_c[..., None, :] * slope[..., :3, :]).flatten(-2), of_h * slope[..., 3, :]], -1, out=of_outer)
        carried = torch.cat([of_outer @ cell.hidden.T, of_c * memory[..., size : 2 * size]], -1)
    else:
        both = (of_state[..., None, :] * slope).flatten(-2)
        of_outer.copy_(both[..., : 3 * size])
        torch.cat([both[..., : 2 * size], both[..., 3 * size :]], -1, out=of_inner)
        carried = of_state * memory[..., size : 2 * size] + of_inner @ cell.hidden.T
    return carried, None if cell.latent is None else of_outer @ cell.latent.T


def weight_gradients(
    cell: CellTensors, past_state: Tensor, past_z: Tensor | None, of_outer: Tensor, of_inner: Tensor
) -> tuple[Tensor | None, Tensor, Tensor | None]:
    """Gradients of `latent`, `hidden` and `hidden_bias`: matrix products over T·rows."""
    size = cell.hidden.shape[0]
    outer, inner = of_outer.flatten(0, -2), of_inner.flatten(0, -2)
    of_latent = None if past_z is None else past_z.flatten(0, -2).T @ outer
    of_hidden = past_state[..., :size].flatten(0, -2).T @ inner
    return of_latent, of_hidden, None if cell.hidden_bias is None else inner[:, 2 * size :].sum(0)


class _Alone(torch.autograd.Function):
    """The walk of the cell without a latent state; where the mask is 0 the state is carried over."""

    @staticmethod
    def forward(
        ctx: Any, gates: Tensor, hidden: Tensor, hidden_bias: Tensor | None, initial: Tensor, mask: Tensor | None
    ) -> Tensor:
        cell = CellTensors(gates, None, hidden, hidden_bias, initial)
        memory = memory_of(cell, len(gates))
        states = initial.new_empty(len(gates), *initial.shape)
        before = initial
        for t in range(len(gates)):
            after = step(cell, gates[t], None, before, memory[t])
            before = torch.lerp(before, after, mask[t], out=states[t]) if mask is not None else states[t].copy_(after)
        ctx.save_for_backward(gates, hidden, hidden_bias, initial, mask, memory, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, of_states: Tensor
    ) -> tuple[Tensor | None, ...]:
        gates, hidden, hidden_bias, initial, mask, memory, states = ctx.saved_tensors
        cell = CellTensors(gates, None, hidden, hidden_bias, initial)
        past = torch.cat([initial[None], states[:-1]])
        of_outer = hidden.new_empty(len(gates), *initial.shape[:-1], hidden.shape[1])
        of_inner = of_outer if cell.is_lstm else torch.empty_like(of_outer)
        carried = torch.zeros_like(initial)
        for t in reversed(range(len(gates))):
            total = of_states[t] + carried
            seen = total if mask is None else mask[t] * total
            slope = slopes(cell, memory[t], states[t], past[t])
            carried, _ = step_back(cell, seen, memory[t], slope, of_outer[t], of_inner[t])
            if mask is not None:
                carried = carried + (1 - mask[t]) * total
        _, of_hidden, of_bias = weight_gradients(cell, past, None, of_outer, of_inner)
        return of_outer.sum_to_size(gates.shape), of_hidden, of_bias, carried, None


def walk_alone(
    gates: Tensor, hidden: Tensor, hidden_bias: Tensor | None, initial: Tensor, mask: Tensor | None
) -> Tensor:
    """(T, ..., H or 2H) states of the cell over hoisted gates (T, ..., 3H or 4H); `mask` as `reference.run_cell`."""
    return _Alone.apply(gates, hidden, hidden_bias, initial, mask)
