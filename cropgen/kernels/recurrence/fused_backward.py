"""The walk back of the fused recurrence; see `fused` for the layout and `hoisted` for the equations."""
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import triton
import triton.language as tl

from cropgen.kernels.recurrence.fused import REACH, product, put, tile, weight_tile


@triton.jit
def gru_back(of_h, past, memory_path, of_gates, offset, live, H, inner_r, inner_u, inner_n,
             BH: tl.constexpr, PRECISION: tl.constexpr):  # fmt: skip
    """Gradients of r, u and n before their squashing, and of the state before; writes r, u, h's share of n, and n."""
    reset = tile(memory_path, offset, 0, H, live, BH)
    update = tile(memory_path, offset, H, H, live, BH)
    new = tile(memory_path, offset, 2 * H, H, live, BH)
    of_new = of_h * (1 - update) * (1 - new * new)
    of_update = of_h * (past - new) * update * (1 - update)
    of_reset = of_new * tile(memory_path, offset, 3 * H, H, live, BH) * reset * (1 - reset)
    of_share = of_new * reset
    put(of_gates, offset, 0, H, live, of_reset, BH)
    put(of_gates, offset, H, H, live, of_update, BH)
    put(of_gates, offset, 2 * H, H, live, of_share, BH)
    put(of_gates, offset, 3 * H, H, live, of_new, BH)
    of_past = product(of_reset, inner_r, of_h * update, PRECISION, True)
    of_past = product(of_update, inner_u, of_past, PRECISION, True)
    of_past = product(of_share, inner_n, of_past, PRECISION, True)
    return of_reset, of_update, of_new, of_past


@triton.jit
def chain_backward(
    of_z, of_variance, of_shift, of_ratio, of_h_path,
    dates, noise, dates_row, noise_row, dates_time, noise_time,
    first_h, state_p, state_q, out_p, out_q, linear, latent, hidden,
    variance_path, ratio_path, h_path, squashed_path, memory_path, gate_path,
    of_inside, of_after, of_out, of_linear, of_gates, of_first_z, of_first_h,
    steps, rows, last, P, Q, Z, H,
    BM: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, BZ: tl.constexpr, BH: tl.constexpr,
    CELL: tl.constexpr, GATED: tl.constexpr, DIRECT: tl.constexpr, COMBINE: tl.constexpr, BARE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """From gradients of the path to those of the pre-activations, of the perceptrons' outputs and of the start."""
    row = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    live = row < rows
    dates_at = tl.load(dates_row + row, mask=live, other=0)
    noise_at = tl.load(noise_row + row, mask=live, other=0)
    outputs = (5 if GATED else 4) * Z
    of_q = (3 if GATED else 2) * Z
    if CELL:
        outer_r = weight_tile(latent, 0, Z, H, 3 * H, BZ, BH, PRECISION, True)
        outer_u = weight_tile(latent, H, Z, H, 3 * H, BZ, BH, PRECISION, True)
        outer_n = weight_tile(latent, 2 * H, Z, H, 3 * H, BZ, BH, PRECISION, True)
        inner_r = weight_tile(hidden, 0, H, H, 3 * H, BH, BH, PRECISION, True)
        inner_u = weight_tile(hidden, H, H, H, 3 * H, BH, BH, PRECISION, True)
        inner_n = weight_tile(hidden, 2 * H, H, H, 3 * H, BH, BH, PRECISION, True)
        seen_q = weight_tile(state_q, 0, H, Q, Q, BH, BQ, PRECISION, True)
    else:
        seen_q = weight_tile(state_q, 0, Z, Q, Q, BZ, BQ, PRECISION, True)
    if not BARE:
        if CELL:
            seen_p = weight_tile(state_p, 0, H, P, P, BH, BP, PRECISION, True)
        else:
            seen_p = weight_tile(state_p, 0, Z, P, P, BZ, BP, PRECISION, True)
        to_u = weight_tile(out_p, 0, P, Z, of_q, BP, BZ, PRECISION, True)
        to_a = weight_tile(out_p, Z, P, Z, of_q, BP, BZ, PRECISION, True)
        if GATED:
            to_gate = weight_tile(out_p, 2 * Z, P, Z, of_q, BP, BZ, PRECISION, True)
    if GATED:
        mix = weight_tile(linear, 0, Z, Z, Z, BZ, BZ, PRECISION, True)
    to_d = weight_tile(out_q, 0, Q, Z, 2 * Z, BQ, BZ, PRECISION, True)
    to_c = weight_tile(out_q, Z, Q, Z, 2 * Z, BQ, BZ, PRECISION, True)
    carried = tl.zeros([BM, BZ], tl.float32)
    carried_h = tl.zeros([BM, BH], tl.float32)
    at = last + row
    for i in range(steps):
        mask = tl.load(dates + dates_at, mask=live, other=0.0)[:, None]
        keep = tl.load(dates + dates_at + 1, mask=live, other=0.0)[:, None]
        base = tl.load(dates + dates_at + 2, mask=live, other=0.0)[:, None]
        variance = tile(variance_path, at * Z, 0, Z, live, BZ)
        ratio = tile(ratio_path, at * Z, 0, Z, live, BZ)
        total = tile(of_z, at * Z, 0, Z, live, BZ) + carried
        epsilon = tile(noise, noise_at, 0, Z, live, BZ)
        through = total * tl.exp((variance + ratio) / 2) * epsilon / 2
        of_d = mask * (tile(of_shift, at * Z, 0, Z, live, BZ) + total)
        of_c = mask * (tile(of_ratio, at * Z, 0, Z, live, BZ) + through)
        of_a = tile(of_variance, at * Z, 0, Z, live, BZ) + through
        of_mean = total
        saturation = (variance - base) / REACH
        ahead = ratio / REACH
        if DIRECT:
            of_mean -= of_d
            of_a -= of_c
            ahead += saturation
        of_a *= 1 - saturation * saturation
        of_c *= 1 - ahead * ahead
        carried = keep * of_mean
        if GATED:
            of_u = tile(gate_path, at * 2 * Z, 0, Z, live, BZ) * of_mean
            of_gate = tile(gate_path, at * 2 * Z, Z, Z, live, BZ) * of_mean
            of_mean -= of_u
            put(of_linear, at * Z, 0, Z, live, of_mean, BZ)
            put(of_out, at * outputs, 2 * Z, Z, live, of_gate, BZ)
            carried = keep * product(of_mean, mix, tl.zeros_like(of_mean), PRECISION, True)
        else:
            of_u = of_mean
        put(of_out, at * outputs, 0, Z, live, of_u, BZ)
        put(of_out, at * outputs, Z, Z, live, of_a, BZ)
        put(of_out, at * outputs, of_q, Z, live, of_d, BZ)
        put(of_out, at * outputs, of_q + Z, Z, live, of_c, BZ)
        of_units = product(of_d, to_d, tl.zeros([BM, BQ], tl.float32), PRECISION, True)
        of_units = product(of_c, to_c, of_units, PRECISION, True)
        if COMBINE:
            put(of_after, at * Q, 0, Q, live, of_units, BQ)
        units = tile(squashed_path, at * (P + Q), P, Q, live, BQ)
        of_units *= 1 - units * units
        put(of_inside, at * (P + Q), P, Q, live, of_units, BQ)
        if CELL:
            of_h = product(of_units, seen_q, carried_h + tile(of_h_path, at * H, 0, H, live, BH), PRECISION, True)
        else:
            carried = product(of_units, seen_q, carried, PRECISION, True)
        if not BARE:
            of_hidden = product(of_u, to_u, tl.zeros([BM, BP], tl.float32), PRECISION, True)
            of_hidden = product(of_a, to_a, of_hidden, PRECISION, True)
            if GATED:
                of_hidden = product(of_gate, to_gate, of_hidden, PRECISION, True)
            units_p = tile(squashed_path, at * (P + Q), 0, P, live, BP)
            of_hidden *= 1 - units_p * units_p
            put(of_inside, at * (P + Q), 0, P, live, of_hidden, BP)
            if CELL:
                of_h = product(of_hidden, seen_p, of_h, PRECISION, True)
            else:
                carried = product(of_hidden, seen_p, carried, PRECISION, True)
        if CELL:
            if i < steps - 1:
                past = tile(h_path, (at - rows) * H, 0, H, live, BH)
            else:
                past = tile(first_h, row * H, 0, H, live, BH)
            of_reset, of_update, of_new, carried_h = gru_back(
                of_h, past, memory_path, of_gates, at * 4 * H, live, H, inner_r, inner_u, inner_n, BH, PRECISION
            )
            carried = product(of_reset, outer_r, carried, PRECISION, True)
            carried = product(of_update, outer_u, carried, PRECISION, True)
            carried = product(of_new, outer_n, carried, PRECISION, True)
        dates_at -= dates_time
        noise_at -= noise_time
        at -= rows
    put(of_first_z, row * Z, 0, Z, live, carried, BZ)
    if CELL:
        put(of_first_h, row * H, 0, H, live, carried_h, BH)


@triton.jit
def cell_backward(
    of_h_path, mask, first_h, hidden, h_path, memory_path, of_gates, of_first_h, steps, rows, last, H,
    BM: tl.constexpr, BH: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The walk back of the GRU alone."""
    row = tl.program_id(0).to(tl.int64) * BM + tl.arange(0, BM)
    live = row < rows
    inner_r = weight_tile(hidden, 0, H, H, 3 * H, BH, BH, PRECISION, True)
    inner_u = weight_tile(hidden, H, H, H, 3 * H, BH, BH, PRECISION, True)
    inner_n = weight_tile(hidden, 2 * H, H, H, 3 * H, BH, BH, PRECISION, True)
    carried = tl.zeros([BM, BH], tl.float32)
    at = last + row
    for i in range(steps):
        total = tile(of_h_path, at * H, 0, H, live, BH) + carried
        if i < steps - 1:
            past = tile(h_path, (at - rows) * H, 0, H, live, BH)
        else:
            past = tile(first_h, row * H, 0, H, live, BH)
        seen = total
        if MASKED:
            observed = tl.load(mask + at, mask=live, other=0.0)[:, None]
            seen = observed * total
        _, _, _, carried = gru_back(
            seen, past, memory_path, of_gates, at * 4 * H, live, H, inner_r, inner_u, inner_n, BH, PRECISION
        )
        if MASKED:
            carried += (1 - observed) * total
        at -= rows
    put(of_first_h, row * H, 0, H, live, carried, BH)
