"""The walk back of the fused recurrence; see `fused` for the layout and `hoisted` for the equations."""
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import triton
import triton.language as tl

from cropgen.kernels.recurrence.fused import REACH, apply, put, tile, weight_tile


@triton.jit
def gru_back(of_h, past, memory_path, of_gates, at, local, live, hidden, H, inner_r, inner_u, inner_n,
             BH: tl.constexpr, PRECISION: tl.constexpr, RESIDENT: tl.constexpr):  # fmt: skip
    """Gradients of r, u and n before their squashing, and of the state before; writes r, u, h's share of n, and n."""
    reset = tile(memory_path + at * 4 * H, local * 4 * H, H, live, BH)
    update = tile(memory_path + at * 4 * H + H, local * 4 * H, H, live, BH)
    new = tile(memory_path + at * 4 * H + 2 * H, local * 4 * H, H, live, BH)
    of_new = of_h * (1 - update) * (1 - new * new)
    of_update = of_h * (past - new) * update * (1 - update)
    of_reset = of_new * tile(memory_path + at * 4 * H + 3 * H, local * 4 * H, H, live, BH) * reset * (1 - reset)
    of_share = of_new * reset
    put(of_gates + at * 4 * H, local * 4 * H, H, live, of_reset, BH)
    put(of_gates + at * 4 * H + H, local * 4 * H, H, live, of_update, BH)
    put(of_gates + at * 4 * H + 2 * H, local * 4 * H, H, live, of_share, BH)
    put(of_gates + at * 4 * H + 3 * H, local * 4 * H, H, live, of_new, BH)
    of_past = apply(of_reset, of_h * update, inner_r, hidden, 0, H, H, 3 * H, BH, BH, PRECISION, True, RESIDENT)
    of_past = apply(of_update, of_past, inner_u, hidden, H, H, H, 3 * H, BH, BH, PRECISION, True, RESIDENT)
    of_past = apply(of_share, of_past, inner_n, hidden, 2 * H, H, H, 3 * H, BH, BH, PRECISION, True, RESIDENT)
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
    PRECISION: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """From gradients of the path to those of the pre-activations, of the perceptrons' outputs and of the start."""
    start, local = tl.program_id(0).to(tl.int64) * BM, tl.arange(0, BM)
    row = start + local
    live = row < rows
    dates_at = tl.load(dates_row + row, mask=live, other=0)
    noise_at = tl.load(noise_row + row, mask=live, other=0)
    outputs = (5 if GATED else 4) * Z
    of_q = (3 if GATED else 2) * Z
    S = H if CELL else Z
    BS: tl.constexpr = BH if CELL else BZ
    if CELL:
        outer_r = weight_tile(latent, 0, Z, H, 3 * H, BZ, BH, PRECISION, True)
        outer_u = weight_tile(latent, H, Z, H, 3 * H, BZ, BH, PRECISION, True)
        outer_n = weight_tile(latent, 2 * H, Z, H, 3 * H, BZ, BH, PRECISION, True)
        inner_r = weight_tile(hidden, 0, H, H, 3 * H, BH, BH, PRECISION, True)
        inner_u = weight_tile(hidden, H, H, H, 3 * H, BH, BH, PRECISION, True)
        inner_n = weight_tile(hidden, 2 * H, H, H, 3 * H, BH, BH, PRECISION, True)
    seen_q = weight_tile(state_q, 0, S, Q, Q, BS, BQ, PRECISION, True)
    if not BARE:
        seen_p = weight_tile(state_p, 0, S, P, P, BS, BP, PRECISION, True)
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
    at = last + start
    for i in range(steps):
        mask = tl.load(dates + dates_at, mask=live, other=0.0)[:, None]
        keep = tl.load(dates + dates_at + 1, mask=live, other=0.0)[:, None]
        base = tl.load(dates + dates_at + 2, mask=live, other=0.0)[:, None]
        variance = tile(variance_path + at * Z, local * Z, Z, live, BZ)
        ratio = tile(ratio_path + at * Z, local * Z, Z, live, BZ)
        total = tile(of_z + at * Z, local * Z, Z, live, BZ) + carried
        epsilon = tile(noise, noise_at, Z, live, BZ)
        through = total * tl.exp((variance + ratio) / 2) * epsilon / 2
        of_d = mask * (tile(of_shift + at * Z, local * Z, Z, live, BZ) + total)
        of_c = mask * (tile(of_ratio + at * Z, local * Z, Z, live, BZ) + through)
        of_a = tile(of_variance + at * Z, local * Z, Z, live, BZ) + through
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
            of_u = tile(gate_path + at * 2 * Z, local * 2 * Z, Z, live, BZ) * of_mean
            of_gate = tile(gate_path + at * 2 * Z + Z, local * 2 * Z, Z, live, BZ) * of_mean
            of_mean -= of_u
            put(of_linear + at * Z, local * Z, Z, live, of_mean, BZ)
            put(of_out + at * outputs + 2 * Z, local * outputs, Z, live, of_gate, BZ)
            carried = tl.zeros_like(of_mean)
            carried = apply(of_mean, carried, mix, linear, 0, Z, Z, Z, BZ, BZ, PRECISION, True, RESIDENT) * keep
        else:
            of_u = of_mean
        put(of_out + at * outputs, local * outputs, Z, live, of_u, BZ)
        put(of_out + at * outputs + Z, local * outputs, Z, live, of_a, BZ)
        put(of_out + at * outputs + of_q, local * outputs, Z, live, of_d, BZ)
        put(of_out + at * outputs + of_q + Z, local * outputs, Z, live, of_c, BZ)
        of_units = tl.zeros([BM, BQ], tl.float32)
        of_units = apply(of_d, of_units, to_d, out_q, 0, Q, Z, 2 * Z, BQ, BZ, PRECISION, True, RESIDENT)
        of_units = apply(of_c, of_units, to_c, out_q, Z, Q, Z, 2 * Z, BQ, BZ, PRECISION, True, RESIDENT)
        if COMBINE:
            put(of_after + at * Q, local * Q, Q, live, of_units, BQ)
        units = tile(squashed_path + at * (P + Q) + P, local * (P + Q), Q, live, BQ)
        of_units *= 1 - units * units
        put(of_inside + at * (P + Q) + P, local * (P + Q), Q, live, of_units, BQ)
        if CELL:
            of_h = carried_h + tile(of_h_path + at * H, local * H, H, live, BH)
            of_h = apply(of_units, of_h, seen_q, state_q, 0, S, Q, Q, BS, BQ, PRECISION, True, RESIDENT)
        else:
            carried = apply(of_units, carried, seen_q, state_q, 0, S, Q, Q, BS, BQ, PRECISION, True, RESIDENT)
        if not BARE:
            of_hidden = tl.zeros([BM, BP], tl.float32)
            of_hidden = apply(of_u, of_hidden, to_u, out_p, 0, P, Z, of_q, BP, BZ, PRECISION, True, RESIDENT)
            of_hidden = apply(of_a, of_hidden, to_a, out_p, Z, P, Z, of_q, BP, BZ, PRECISION, True, RESIDENT)
            if GATED:
                gate_at = 2 * Z
                of_hidden = apply(
                    of_gate, of_hidden, to_gate, out_p, gate_at, P, Z, of_q, BP, BZ, PRECISION, True, RESIDENT
                )
            units_p = tile(squashed_path + at * (P + Q), local * (P + Q), P, live, BP)
            of_hidden *= 1 - units_p * units_p
            put(of_inside + at * (P + Q), local * (P + Q), P, live, of_hidden, BP)
            if CELL:
                of_h = apply(of_hidden, of_h, seen_p, state_p, 0, S, P, P, BS, BP, PRECISION, True, RESIDENT)
            else:
                carried = apply(of_hidden, carried, seen_p, state_p, 0, S, P, P, BS, BP, PRECISION, True, RESIDENT)
        if CELL:
            if i < steps - 1:
                past = tile(h_path + (at - rows) * H, local * H, H, live, BH)
            else:
                past = tile(first_h + start * H, local * H, H, live, BH)
            of_reset, of_update, of_new, carried_h = gru_back(
                of_h, past, memory_path, of_gates, at, local, live, hidden, H, inner_r, inner_u, inner_n,
                BH, PRECISION, RESIDENT,
            )  # fmt: skip
            carried = apply(of_reset, carried, outer_r, latent, 0, Z, H, 3 * H, BZ, BH, PRECISION, True, RESIDENT)
            carried = apply(of_update, carried, outer_u, latent, H, Z, H, 3 * H, BZ, BH, PRECISION, True, RESIDENT)
            carried = apply(of_new, carried, outer_n, latent, 2 * H, Z, H, 3 * H, BZ, BH, PRECISION, True, RESIDENT)
        dates -= dates_time
        noise -= noise_time
        at -= rows
    put(of_first_z + start * Z, local * Z, Z, live, carried, BZ)
    if CELL:
        put(of_first_h + start * H, local * H, H, live, carried_h, BH)


@triton.jit
def cell_backward(
    of_h_path, mask, first_h, hidden, h_path, memory_path, of_gates, of_first_h, steps, rows, last, H,
    BM: tl.constexpr, BH: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """The walk back of the GRU alone."""
    start, local = tl.program_id(0).to(tl.int64) * BM, tl.arange(0, BM)
    row = start + local
    live = row < rows
    inner_r = weight_tile(hidden, 0, H, H, 3 * H, BH, BH, PRECISION, True)
    inner_u = weight_tile(hidden, H, H, H, 3 * H, BH, BH, PRECISION, True)
    inner_n = weight_tile(hidden, 2 * H, H, H, 3 * H, BH, BH, PRECISION, True)
    carried = tl.zeros([BM, BH], tl.float32)
    at = last + start
    for i in range(steps):
        total = tile(of_h_path + at * H, local * H, H, live, BH) + carried
        if i < steps - 1:
            past = tile(h_path + (at - rows) * H, local * H, H, live, BH)
        else:
            past = tile(first_h + start * H, local * H, H, live, BH)
        seen = total
        if MASKED:
            observed = tl.load(mask + at + local, mask=live, other=0.0)[:, None]
            seen = observed * total
        _, _, _, carried = gru_back(
            seen, past, memory_path, of_gates, at, local, live, hidden, H, inner_r, inner_u, inner_n,
            BH, PRECISION, RESIDENT,
        )  # fmt: skip
        if MASKED:
            carried += (1 - observed) * total
        at -= rows
    put(of_first_h + start * H, local * H, H, live, carried, BH)
