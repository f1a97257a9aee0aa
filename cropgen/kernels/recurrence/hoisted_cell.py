"""The recurrent cell of the hoisted chain: one step forward, one step backward.

What is known before the walk, the inputs' share of the gates, is written where the gates are to be kept; a step adds
the state's share in place. The gradients of the weights are matrix products over many dates after it.

    GRU     h_t = (1 − u) n + u h_{t−1},      n = tanh(outer_n + r s),         s = h_{t−1} W + b
    LSTM    c_t = f c_{t−1} + i g,            h_t = o tanh(c_t)

Gates are kept side by side in an order in which those treated alike, and those that one matrix product gives, are
neighbours: n, r, u, s of a GRU, of which the inputs and the latent state give (n, r, u) and h_{t−1} gives (r, u, s);
g, i, f, o, tanh(c) of an LSTM, of which everything gives the first four.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class CellTensors(NamedTuple):
    """A cell with its hoisted gates; columns of gates in the order above.

    Arguments:
        gates: (T, ..., 3H or 4H), broadcast over rows.
        latent: (Z, 3H or 4H).
        hidden: (H, 3H or 4H).
        hidden_bias: (H,) of a GRU.
        initial: (..., H or 2H).
    """

    gates: Tensor
    latent: Tensor
    hidden: Tensor
    hidden_bias: Tensor | None
    initial: Tensor


def is_lstm(hidden: Tensor) -> bool:
    """Whether the matrix of h_{t−1} (H, 3H or 4H) is that of an LSTM."""
    return hidden.shape[1] == 4 * hidden.shape[0]


def in_order(weight: Tensor, size: int) -> Tensor:
    """(..., 3H or 4H) what the inputs, the latent state or the bias give, from PyTorch's order to (n, r, u) of a GRU or
    (g, i, f, o) of an LSTM; what h_{t−1} gives a GRU is in order as it is."""
    both, new, *leave = weight.split([2 * size, *[size] * (weight.shape[-1] // size - 2)], -1)
    return torch.cat([new, both, *leave], -1)


def outer(gates: Tensor, hidden: Tensor) -> Tensor:
    """Of gates (..., 4H or 5H), view of those that inputs, latent state and bias give."""
    return gates[..., : hidden.shape[1]]


def inner(gates: Tensor, hidden: Tensor) -> Tensor:
    """Of gates (..., 4H or 5H), view of those that h_{t−1} gives."""
    first = 0 if is_lstm(hidden) else len(hidden)
    return gates[..., first : first + hidden.shape[1]]


def room_for_gates(hidden: Tensor, hidden_bias: Tensor | None, dates: int, rows: int) -> Tensor:
    """(dates, rows, 4H or 5H): a GRU's bias of s in its place, the rest yet to be written."""
    size = len(hidden)
    room = hidden.new_empty(dates, rows, (5 if is_lstm(hidden) else 4) * size)
    if not is_lstm(hidden):
        room[..., 3 * size :] = 0 if hidden_bias is None else hidden_bias
    return room


class State(NamedTuple):
    """A cell's state (rows, H): h, and c of an LSTM."""

    h: Tensor
    c: Tensor | None = None

    @classmethod
    def split(cls, joined: Tensor, size: int) -> State:
        """Views of (..., H or 2H), the rows flattened."""
        flat = joined.flatten(0, -2)
        return cls(flat) if flat.shape[1] == size else cls(flat[:, :size], flat[:, size:])


def step(hidden: Tensor, before: State, gates: Tensor, after: State) -> None:
    """The state after a date, from that before it.

    Arguments:
        gates: (rows, 4H or 5H), where h_{t−1} is yet to be added; filled.
        after: filled.
    """
    size = len(hidden)
    inner(gates, hidden).addmm_(before.h, hidden)
    if before.c is not None and after.c is not None:
        gates[:, size : 4 * size].sigmoid_()
        new, enter, forget, leave, squashed = gates.split(size, -1)
        carry = torch.mul(forget, before.c, out=after.c).addcmul_(enter, new.tanh_())
        torch.mul(leave, torch.tanh(carry, out=squashed), out=after.h)
        return
    gates[:, size : 3 * size].sigmoid_()
    new, reset, update, share = gates.split(size, -1)
    torch.lerp(new.addcmul_(reset, share).tanh_(), before.h, update, out=after.h)


def step_back(hidden: Tensor, of_after: State, gates: Tensor, before: State, of_gates: Tensor) -> State:
    """Gradient of the state before a date, from that of the state after it.

    Arguments:
        of_gates: (rows, 4H) gradients of the gates but tanh(c), before their sigmoid or tanh; filled.
    """
    size, of_h, ops = len(hidden), of_after.h, torch.ops.aten
    of_new, one, two, three = of_gates.split(size, -1)
    if of_after.c is not None and before.c is not None:
        new, enter, forget, leave, squashed = gates.split(size, -1)
        of_carry = ops.tanh_backward(of_h * leave, squashed).add_(of_after.c)
        torch.mul(of_carry, new, out=one)
        torch.mul(of_carry, before.c, out=two)
        torch.mul(of_h, squashed, out=three)
        ops.sigmoid_backward.grad_input(of_gates[:, size:], gates[:, size : 4 * size], grad_input=of_gates[:, size:])
        ops.tanh_backward.grad_input(of_carry * enter, new, grad_input=of_new)
        return State(of_gates @ hidden.T, of_carry.mul_(forget))
    new, reset, update, share = gates.split(size, -1)
    kept = of_h * update
    ops.tanh_backward.grad_input(of_h - kept, new, grad_input=of_new)
    torch.mul(of_new, share, out=one)
    torch.sub(before.h, new, out=two).mul_(of_h)
    both = of_gates[:, size : 3 * size]
    ops.sigmoid_backward.grad_input(both, gates[:, size : 3 * size], grad_input=both)
    torch.mul(of_new, reset, out=three)
    return State(kept.addmm_(inner(of_gates, hidden), hidden.T))
