"""The fused chain as an operator of PyTorch: one launch forward, one backward, the weights' gradients after it.

`cropgen::fused_chain` has a backward operator but no second derivative; both know the shapes of their answers without
being run.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from cropgen.kernels.recurrence.fused_launch import (
    CHAIN_BACKWARD,
    CHAIN_FORWARD,
    cell_gradients,
    launch,
    outer,
    padded,
    placement,
    readable,
    row_offsets,
    total,
    trace_type,
)


def _constants(
    state_q: Tensor,
    out_p: Tensor,
    first_z: Tensor,
    first_h: Tensor | None,
    linear: Tensor | None,
    direct: bool,
    combine: bool,
    precision: str,
) -> tuple[tuple[int, int, int, int], dict[str, Any]]:
    """P, Q, Z and H, and the constants of the kernels."""
    p, q, z = out_p.shape[0], state_q.shape[1], first_z.shape[-1]
    h = 0 if first_h is None else first_h.shape[-1]
    flags = {"CELL": h > 0, "GATED": linear is not None, "DIRECT": direct, "COMBINE": combine, "BARE": p == 0}
    tiles = {"BP": padded(p), "BQ": padded(q), "BZ": padded(z, least=32), "BH": padded(h)}
    return (p, q, z, h), {**flags, **tiles, "PRECISION": precision, **placement(max(p, q, h), precision, cell=h > 0)}


@torch.library.custom_op("cropgen::fused_chain", mutates_args=())
def fused_chain(
    pre: Tensor, gates: Tensor | None, dates: Tensor, noise: Tensor, first_z: Tensor, first_h: Tensor | None,
    state_p: Tensor, state_q: Tensor, bias_q: Tensor, out_p: Tensor, out_q: Tensor, out_bias: Tensor,
    linear: Tensor | None, latent: Tensor | None, hidden: Tensor | None, hidden_bias: Tensor | None,
    direct: bool, combine: bool, precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """z, λ, δ, ρ and h, and what the walk back needs: hidden units, gates of the cell, gate of the transition.

    Arguments:
        pre: (T, ..., P + Q) pre-activations of the hidden units; of a combining inference, what it adds after.
        gates: (T, ..., 3H) share of the cell's gates that does not come from z or h.
        dates: (T, ..., 3) mask, r and λ₀.
        noise: (T, ..., Z).
        first_z, first_h: (..., Z) and (..., H).
        bias_q: (Q,) bias of a combining inference.
        others: as `hoisted`.
    """
    (p, q, z, h), constants = _constants(state_q, out_p, first_z, first_h, linear, direct, combine, precision)
    path = _empty_path(noise, first_z, first_h, p + q, linear, precision)
    inputs = [readable(x) for x in (pre, pre if gates is None else gates, dates, noise)]
    nothing = first_z
    weights = (state_p, state_q, bias_q, out_p, out_q, out_bias, linear, latent, hidden, hidden_bias)
    arguments = [
        *inputs, *map(row_offsets, inputs), *(x.stride(0) for x in inputs),
        first_z.contiguous(), nothing if first_h is None else first_h.contiguous(),
        *(nothing if w is None else w.contiguous() for w in weights), *path,
        len(noise), first_z[..., 0].numel(), p, q, z, h,
    ]  # fmt: skip
    launch(CHAIN_FORWARD, first_z[..., 0].numel(), first_z.device, arguments, constants)
    return path


def _empty_path(
    noise: Tensor, first_z: Tensor, first_h: Tensor | None, units: int, linear: Tensor | None, precision: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    steps, lead, z = len(noise), first_z.shape[:-1], first_z.shape[-1]
    h, trace = 0 if first_h is None else first_h.shape[-1], trace_type(precision)

    def empty(width: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return first_z.new_empty((steps, *lead, width), dtype=dtype)

    gate = 0 if linear is None else 2 * z
    return (
        empty(z), empty(z), empty(z), empty(z), empty(h), empty(units, trace), empty(4 * h, trace), empty(gate),
    )  # fmt: skip


@fused_chain.register_fake
def _(
    pre: Tensor, gates: Tensor | None, dates: Tensor, noise: Tensor, first_z: Tensor, first_h: Tensor | None,
    state_p: Tensor, state_q: Tensor, bias_q: Tensor, out_p: Tensor, out_q: Tensor, out_bias: Tensor,
    linear: Tensor | None, latent: Tensor | None, hidden: Tensor | None, hidden_bias: Tensor | None,
    direct: bool, combine: bool, precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _empty_path(noise, first_z, first_h, out_p.shape[0] + state_q.shape[1], linear, precision)


@torch.library.custom_op("cropgen::fused_chain_backward", mutates_args=())
def fused_chain_backward(
    of_z: Tensor, of_variance: Tensor, of_shift: Tensor, of_ratio: Tensor, of_h: Tensor, dates: Tensor, noise: Tensor,
    first_z: Tensor, first_h: Tensor | None, state_p: Tensor, state_q: Tensor, out_p: Tensor, out_q: Tensor,
    linear: Tensor | None, latent: Tensor | None, hidden: Tensor | None, variance: Tensor, ratio: Tensor,
    h_path: Tensor, squashed: Tensor, memory: Tensor, gate: Tensor, direct: bool, combine: bool, precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of the hidden units inside (P + Q) and after (Q), the outputs, r z A, the gates (r, u, n's share of h,
    n), and the first z and h; all other arguments are those and the answers of `fused_chain`."""
    (p, q, z, h), constants = _constants(state_q, out_p, first_z, first_h, linear, direct, combine, precision)
    answer = _empty_gradients(of_z, first_z, first_h, squashed, out_p, out_q, linear, combine)
    inputs, rows = [readable(dates), readable(noise)], first_z[..., 0].numel()
    weights = (first_h, state_p, state_q, out_p, out_q, linear, latent, hidden)
    arguments = [
        *(x.contiguous() for x in (of_z, of_variance, of_shift, of_ratio, of_h)),
        *(x[-1] for x in inputs), *map(row_offsets, inputs), *(x.stride(0) for x in inputs),
        *(first_z if w is None else w.contiguous() for w in weights),
        variance, ratio, h_path, squashed, memory, gate, *answer,
        len(noise), rows, (len(noise) - 1) * rows, p, q, z, h,
    ]  # fmt: skip
    if h > 64:
        constants["num_stages"] = 1  # the weights leave no shared memory to read ahead into
    launch(CHAIN_BACKWARD, rows, first_z.device, arguments, constants)
    return answer


def _empty_gradients(
    of_z: Tensor, first_z: Tensor, first_h: Tensor | None, squashed: Tensor, out_p: Tensor, out_q: Tensor,
    linear: Tensor | None, combine: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    z, h = first_z.shape[-1], 0 if first_h is None else first_h.shape[-1]

    def empty(width: int) -> Tensor:
        return of_z.new_empty((*of_z.shape[:-1], width), dtype=torch.float32)

    outputs = (4 if linear is None else 5) * z
    return (
        empty(squashed.shape[-1]), empty(out_q.shape[0] if combine else 0), empty(outputs),
        empty(0 if linear is None else z), empty(4 * h), empty(z)[0], empty(h)[0],
    )  # fmt: skip


@fused_chain_backward.register_fake
def _(
    of_z: Tensor, of_variance: Tensor, of_shift: Tensor, of_ratio: Tensor, of_h: Tensor, dates: Tensor, noise: Tensor,
    first_z: Tensor, first_h: Tensor | None, state_p: Tensor, state_q: Tensor, out_p: Tensor, out_q: Tensor,
    linear: Tensor | None, latent: Tensor | None, hidden: Tensor | None, variance: Tensor, ratio: Tensor,
    h_path: Tensor, squashed: Tensor, memory: Tensor, gate: Tensor, direct: bool, combine: bool, precision: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    return _empty_gradients(of_z, first_z, first_h, squashed, out_p, out_q, linear, combine)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*inputs[:16], *output)
    ctx.settings = inputs[16:]


def _differentiate(ctx: Any, *of: Tensor) -> tuple[Tensor | None, ...]:
    (
        pre, gates, dates, noise, first_z, first_h, state_p, state_q, _, out_p, out_q, _, linear, latent, hidden,
        _, z, variance, _, ratio, h_path, squashed, memory, gate,
    ) = ctx.saved_tensors  # fmt: skip
    _, combine, _ = ctx.settings
    of_inside, of_after, of_out, of_linear, of_gates, of_first_z, of_first_h = fused_chain_backward(
        *of[:5], dates, noise, first_z, first_h, state_p, state_q, out_p, out_q, linear, latent, hidden,
        variance, ratio, h_path, squashed, memory, gate, *ctx.settings,
    )  # fmt: skip
    p, split = out_p.shape[0], out_p.shape[1]
    units = squashed.to(torch.float32)
    past = torch.cat([first_z[None], z[:-1]])
    seen = past if first_h is None else h_path
    of_pre, of_bias_q, added = of_inside, None, units[..., p:]
    if combine:
        of_pre, of_bias_q = torch.cat([of_inside[..., :p], of_after], -1), total(of_inside[..., p:])
        added = added + pre[..., p:]
    of_state = outer(seen, of_inside)
    kept = dates[..., 1:2] * past
    of_cell: tuple[Tensor | None, ...] = (None,) * 5
    if first_h is not None:
        of_cell = cell_gradients(of_gates, torch.cat([first_h[None], h_path[:-1]]), past, of_first_h)
    of_gate_inputs, of_latent, of_hidden, of_hidden_bias, of_first_state = of_cell
    return (
        of_pre.to(pre.dtype), None if gates is None or of_gate_inputs is None else of_gate_inputs.to(gates.dtype),
        None, None, of_first_z, of_first_state, of_state[:, :p], of_state[:, p:], of_bias_q,
        outer(units[..., :p], of_out[..., :split]), outer(added, of_out[..., split:]), total(of_out),
        None if linear is None else outer(kept, of_linear), of_latent, of_hidden, of_hidden_bias, None, None, None,
    )  # fmt: skip


fused_chain.register_autograd(_differentiate, setup_context=_remember)
