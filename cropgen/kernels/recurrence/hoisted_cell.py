"""The recurrent cell of the hoisted chain: one step forward, one step backward.

What is known before the walk, the inputs' share of the gates, is written where the gates are to be kept; a step adds
the state's share in place. The gradients of the weights are matrix products over many dates after it.

    GRU     h_t = (1 − u) n + u h_{t−1},      n = tanh(outer_n + r inner_n),   inner = h_{t−1} W + (0, 0, b)
    LSTM    c_t = f c_{t−1} + i g,            h_t = o tanh(c_t)
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class CellTensors(NamedTuple):
    """A cell with its hoisted gates.

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

    @property
    def is_lstm(self) -> bool:
        return is_lstm(self.hidden)


def is_lstm(hidden: Tensor) -> bool:
    """Whether the matrix of h_{t−1} (H, 3H or 4H) is that of an LSTM."""
    return hidden.shape[1] == 4 * hidden.shape[0]


def memory_width(hidden: Tensor) -> int:
    """Numbers of a row and date that the backward pass needs: (i, f, g, o, tanh c) of an LSTM, (r, u, n, inner_n) of a
    GRU."""
    return (5 if is_lstm(hidden) else 4) * hidden.shape[0]


class State(NamedTuple):
    """A cell's state (rows, H): h, and c of an LSTM."""

    h: Tensor
    c: Tensor | None = None

    @classmethod
    def split(cls, joined: Tensor, size: int) -> State:
        """Views of (..., H or 2H), the rows flattened."""
        flat = joined.flatten(0, -2)
        return cls(flat) if flat.shape[1] == size else cls(flat[:, :size], flat[:, size:])


def step(hidden: Tensor, hidden_bias: Tensor | None, before: State, memory: Tensor, after: State) -> None:
    """The state after a date, from that before it.

    Arguments:
        memory: (rows, 4H or 5H), in its first 3H or 4H columns what the gates get besides h_{t−1}; filled.
        after: filled.
    """
    size = len(hidden)
    if before.c is not None and after.c is not None:
        memory[:, : 4 * size].addmm_(before.h, hidden)
        both, leave = memory[:, : 2 * size].sigmoid_(), memory[:, 3 * size : 4 * size].sigmoid_()
        new = memory[:, 2 * size : 3 * size].tanh_()
        carry = torch.mul(both[:, size:], before.c, out=after.c).addcmul_(both[:, :size], new)
        torch.mul(leave, torch.tanh(carry, out=memory[:, 4 * size :]), out=after.h)
        return
    inner = before.h @ hidden
    both = memory[:, : 2 * size].add_(inner[:, : 2 * size]).sigmoid_()
    share = memory[:, 3 * size :].copy_(inner[:, 2 * size :])
    if hidden_bias is not None:
        share += hidden_bias
    new = memory[:, 2 * size : 3 * size].add_(both[:, :size] * share).tanh_()
    torch.lerp(new, before.h, both[:, size:], out=after.h)


def step_back(
    hidden: Tensor, of_after: State, memory: Tensor, before: State, of_outer: Tensor, of_inner: Tensor
) -> State:
    """Gradient of the state before a date, from that of the state after it.

    Arguments:
        of_outer, of_inner: (rows, 3H or 4H), filled: gradients of what the gates get besides and from h_{t−1}. Those of
            an LSTM are the same: `of_inner` is `of_outer`.
    """
    size, of_h = len(hidden), of_after.h
    if of_after.c is not None and before.c is not None:
        of_carry = _lstm_back(of_h, of_after.c, memory, before.c, of_outer)
        return State(of_outer @ hidden.T, of_carry.mul_(memory[:, size : 2 * size]))
    reset, update, new, share = memory.chunk(4, -1)
    rest = 1 - update
    of_new = rest * (1 - new.square())
    torch.mul(of_h, of_new * share * reset * (1 - reset), out=of_outer[:, :size])
    torch.mul(of_h, (before.h - new) * update * rest, out=of_outer[:, size : 2 * size])
    torch.mul(of_h, of_new, out=of_outer[:, 2 * size :])
    of_inner[:, : 2 * size] = of_outer[:, : 2 * size]
    torch.mul(of_h, of_new * reset, out=of_inner[:, 2 * size :])
    return State(torch.addmm(of_h * update, of_inner, hidden.T))


def _lstm_back(of_h: Tensor, of_c: Tensor, memory: Tensor, past: Tensor, of_gates: Tensor) -> Tensor:
    """Fills the gradients of the gates; returns that of c_t."""
    size, ops = past.shape[1], torch.ops.aten
    enter, _, new, leave, squashed = memory.chunk(5, -1)
    of_carry = ops.tanh_backward(of_h * leave, squashed).add_(of_c)
    of_both, of_new, of_leave = of_gates.split([2 * size, size, size], -1)
    torch.mul(of_carry, new, out=of_both[:, :size])
    torch.mul(of_carry, past, out=of_both[:, size:])
    ops.sigmoid_backward.grad_input(of_both, memory[:, : 2 * size], grad_input=of_both)
    ops.tanh_backward.grad_input(of_carry * enter, new, grad_input=of_new)
    ops.sigmoid_backward.grad_input(of_h * squashed, leave, grad_input=of_leave)
    return of_carry
