"""The fused GRU as an operator of PyTorch: the recurrence alone, without a latent state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cropgen.kernels.recurrence.fused_launch import (
    CELL_BACKWARD,
    CELL_FORWARD,
    cell_gradients,
    launch,
    padded,
    placement,
    readable,
    row_offsets,
    trace_type,
)


def _constants(first_h: Tensor, mask: Tensor | None, precision: str) -> dict[str, Any]:
    units = first_h.shape[-1]
    flags = {"BH": padded(units), "MASKED": mask is not None, "PRECISION": precision}
    return flags | placement(units, precision, cell=True, alone=True)


@torch.library.custom_op("cropgen::fused_cell", mutates_args=())
def fused_cell(
    gates: Tensor, mask: Tensor | None, first_h: Tensor, hidden: Tensor, hidden_bias: Tensor, precision: str
) -> tuple[Tensor, Tensor]:
    """(T, ..., H) states, and the gates (T, ..., 4H) that the walk back needs.

    Arguments:
        gates: (T, ..., 3H) share of the gates that does not come from h.
        mask: (T, ...) single precision; where it is 0 the state is carried over.
        first_h: (..., H).
        others: as `reference.Cell`.
    """
    states, memory = _empty_states(gates, first_h, precision)
    gates, rows, units = readable(gates), first_h[..., 0].numel(), first_h.shape[-1]
    arguments = [
        gates, first_h if mask is None else mask.contiguous(), first_h.contiguous(), hidden.contiguous(), hidden_bias,
        states, memory, row_offsets(gates), gates.stride(0), len(gates), rows, units,
    ]  # fmt: skip
    launch(CELL_FORWARD, rows, first_h.device, arguments, _constants(first_h, mask, precision))
    return states, memory


def _empty_states(gates: Tensor, first_h: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    shape = (len(gates), *first_h.shape[:-1])
    units = first_h.shape[-1]
    memory = first_h.new_empty((*shape, 4 * units), dtype=trace_type(precision))
    return first_h.new_empty((*shape, units), dtype=torch.float32), memory


@fused_cell.register_fake
def _(
    gates: Tensor, mask: Tensor | None, first_h: Tensor, hidden: Tensor, hidden_bias: Tensor, precision: str
) -> tuple[Tensor, Tensor]:
    return _empty_states(gates, first_h, precision)


@torch.library.custom_op("cropgen::fused_cell_backward", mutates_args=())
def fused_cell_backward(
    of_states: Tensor, mask: Tensor | None, first_h: Tensor, hidden: Tensor, states: Tensor, memory: Tensor,
    precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Gradients (T, ..., 4H) of r, u, n's share of h, and n, and of the first h."""
    rows, units, steps = first_h[..., 0].numel(), first_h.shape[-1], len(of_states)
    of_gates, of_first = _empty_gradients(of_states, first_h)
    arguments = [
        of_states.contiguous(), first_h if mask is None else mask.contiguous(), first_h.contiguous(),
        hidden.contiguous(), states, memory, of_gates, of_first, steps, rows, (steps - 1) * rows, units,
    ]  # fmt: skip
    launch(CELL_BACKWARD, rows, first_h.device, arguments, _constants(first_h, mask, precision))
    return of_gates, of_first


def _empty_gradients(of_states: Tensor, first_h: Tensor) -> tuple[Tensor, Tensor]:
    shape = (*of_states.shape[:-1], 4 * first_h.shape[-1])
    return of_states.new_empty(shape, dtype=torch.float32), torch.empty_like(first_h).contiguous()


@fused_cell_backward.register_fake
def _(
    of_states: Tensor, mask: Tensor | None, first_h: Tensor, hidden: Tensor, states: Tensor, memory: Tensor,
    precision: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    return _empty_gradients(of_states, first_h)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    gates, mask, first_h, hidden, _, ctx.precision = inputs
    ctx.save_for_backward(gates, mask, first_h, hidden, *output)


def _differentiate(ctx: Any, of_states: Tensor, of_memory: Tensor) -> tuple[Tensor | None, ...]:
    gates, mask, first_h, hidden, states, memory = ctx.saved_tensors
    of_pre, of_first = fused_cell_backward(of_states, mask, first_h, hidden, states, memory, ctx.precision)
    past = torch.cat([first_h[None], states[:-1]])
    of_gates, _, of_hidden, of_bias, of_initial = cell_gradients(of_pre, past, None, of_first)
    return None if of_gates is None else of_gates.to(gates.dtype), None, of_initial, of_hidden, of_bias, None


fused_cell.register_autograd(_differentiate, setup_context=_remember)
