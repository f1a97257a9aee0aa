"""The walk forward of the fused recurrence; see `fused` for the layout and `reference` for the equations."""
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import triton
import triton.language as tl

from cropgen.kernels.recurrence.fused import REACH, apply, put, sigmoid, tanh, tile, vector, weight_tile


@triton.jit
def gru(h, outer_r, outer_u, outer_n, hidden, H, inner_r, inner_u, inner_n, bias, BH: tl.constexpr,
        PRECISION: tl.constexpr, RESIDENT: tl.constexpr):  # fmt: skip
    """r, u, n, the new gate's share of h, and the state after the step."""
    reset = sigmoid(apply(h, outer_r, inner_r, hidden, 0, H, H, 3 * H, BH, BH, PRECISION, False, RESIDENT))
    update = sigmoid(apply(h, outer_u, inner_u, hidden, H, H, H, 3 * H, BH, BH, PRECISION, False, RESIDENT))
    share = apply(h, tl.zeros_like(h) + bias, inner_n, hidden, 2 * H, H, H, 3 * H, BH, BH, PRECISION, False, RESIDENT)
    new = tanh(outer_n + reset * share)
    return reset, update, new, share, new + update * (h - new)


@triton.jit
def chain_forward(
    pre, gates, dates, noise, pre_row, gates_row, dates_row, noise_row, pre_time, gates_time, dates_time, noise_time,
    first_z, first_h, state_p, state_q, bias_q, out_p, out_q, out_bias, linear, latent, hidden, hidden_bias,
    z_path, variance_path, shift_path, ratio_path, h_path, squashed_path, memory_path, gate_path,
    steps, rows, P, Q, Z, H,
    BM: tl.constexpr, BP: tl.constexpr, BQ: tl.constexpr, BZ: tl.constexpr, BH: tl.constexpr,
    CELL: tl.constexpr, GATED: tl.constexpr, DIRECT: tl.constexpr, COMBINE: tl.constexpr, BARE: tl.constexpr,
    PRECISION: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """From hoisted inputs to the path, and what the walk back needs: hidden units, gates of the cell, gate of p."""
    start, local = tl.program_id(0).to(tl.int64) * BM, tl.arange(0, BM)
    row = start + local
    live = row < rows
    pre_at = tl.load(pre_row + row, mask=live, other=0)
    dates_at = tl.load(dates_row + row, mask=live, other=0)
    noise_at = tl.load(noise_row + row, mask=live, other=0)
    of_q = (3 if GATED else 2) * Z
    S = H if CELL else Z
    BS: tl.constexpr = BH if CELL else BZ
    z = tile(first_z + start * Z, local * Z, Z, live, BZ)
    if CELL:
        gates_at = tl.load(gates_row + row, mask=live, other=0)
        h = tile(first_h + start * H, local * H, H, live, BH)
        outer_r = weight_tile(latent, 0, Z, H, 3 * H, BZ, BH, PRECISION, False)
        outer_u = weight_tile(latent, H, Z, H, 3 * H, BZ, BH, PRECISION, False)
        outer_n = weight_tile(latent, 2 * H, Z, H, 3 * H, BZ, BH, PRECISION, False)
        inner_r = weight_tile(hidden, 0, H, H, 3 * H, BH, BH, PRECISION, False)
        inner_u = weight_tile(hidden, H, H, H, 3 * H, BH, BH, PRECISION, False)
        inner_n = weight_tile(hidden, 2 * H, H, H, 3 * H, BH, BH, PRECISION, False)
        inner_bias = vector(hidden_bias, 0, H, BH)
    seen_q = weight_tile(state_q, 0, S, Q, Q, BS, BQ, PRECISION, False)
    if not BARE:
        seen_p = weight_tile(state_p, 0, S, P, P, BS, BP, PRECISION, False)
        to_u = weight_tile(out_p, 0, P, Z, of_q, BP, BZ, PRECISION, False)
        to_a = weight_tile(out_p, Z, P, Z, of_q, BP, BZ, PRECISION, False)
        if GATED:
            to_gate = weight_tile(out_p, 2 * Z, P, Z, of_q, BP, BZ, PRECISION, False)
    if GATED:
        mix = weight_tile(linear, 0, Z, Z, Z, BZ, BZ, PRECISION, False)
    to_d = weight_tile(out_q, 0, Q, Z, 2 * Z, BQ, BZ, PRECISION, False)
    to_c = weight_tile(out_q, Z, Q, Z, 2 * Z, BQ, BZ, PRECISION, False)
    bias_u, bias_a = vector(out_bias, 0, Z, BZ), vector(out_bias, Z, Z, BZ)
    bias_d, bias_c = vector(out_bias, of_q, Z, BZ), vector(out_bias, of_q + Z, Z, BZ)
    inside_q = vector(bias_q, 0, Q, BQ)
    at = start
    for _ in range(steps):
        mask = tl.load(dates + dates_at, mask=live, other=0.0)[:, None]
        keep = tl.load(dates + dates_at + 1, mask=live, other=0.0)[:, None]
        base = tl.load(dates + dates_at + 2, mask=live, other=0.0)[:, None]
        epsilon = tile(noise, noise_at, Z, live, BZ)
        if CELL:
            of_r = tile(gates, gates_at, H, live, BH)
            of_u = tile(gates + H, gates_at, H, live, BH)
            of_n = tile(gates + 2 * H, gates_at, H, live, BH)
            of_r = apply(z, of_r, outer_r, latent, 0, Z, H, 3 * H, BZ, BH, PRECISION, False, RESIDENT)
            of_u = apply(z, of_u, outer_u, latent, H, Z, H, 3 * H, BZ, BH, PRECISION, False, RESIDENT)
            of_n = apply(z, of_n, outer_n, latent, 2 * H, Z, H, 3 * H, BZ, BH, PRECISION, False, RESIDENT)
            reset, update, new, share, h = gru(
                h, of_r, of_u, of_n, hidden, H, inner_r, inner_u, inner_n, inner_bias, BH, PRECISION, RESIDENT
            )
            put(h_path + at * H, local * H, H, live, h, BH)
            put(memory_path + at * 4 * H, local * 4 * H, H, live, reset, BH)
            put(memory_path + at * 4 * H + H, local * 4 * H, H, live, update, BH)
            put(memory_path + at * 4 * H + 2 * H, local * 4 * H, H, live, new, BH)
            put(memory_path + at * 4 * H + 3 * H, local * 4 * H, H, live, share, BH)
            seen = h
        else:
            seen = z
        drift, change = tl.zeros_like(z) + bias_u, tl.zeros_like(z) + bias_a
        if GATED:
            opening = tl.zeros_like(z) + vector(out_bias, 2 * Z, Z, BZ)
        if not BARE:
            units = tile(pre, pre_at, P, live, BP)
            units = tanh(apply(seen, units, seen_p, state_p, 0, S, P, P, BS, BP, PRECISION, False, RESIDENT))
            put(squashed_path + at * (P + Q), local * (P + Q), P, live, units, BP)
            drift = apply(units, drift, to_u, out_p, 0, P, Z, of_q, BP, BZ, PRECISION, False, RESIDENT)
            change = apply(units, change, to_a, out_p, Z, P, Z, of_q, BP, BZ, PRECISION, False, RESIDENT)
            if GATED:
                opening = apply(units, opening, to_gate, out_p, 2 * Z, P, Z, of_q, BP, BZ, PRECISION, False, RESIDENT)
        given = tile(pre + P, pre_at, Q, live, BQ)
        units_q = given
        if COMBINE:
            units_q = tl.zeros_like(given) + inside_q
        units_q = tanh(apply(seen, units_q, seen_q, state_q, 0, S, Q, Q, BS, BQ, PRECISION, False, RESIDENT))
        put(squashed_path + at * (P + Q) + P, local * (P + Q), Q, live, units_q, BQ)
        if COMBINE:
            units_q += given
        correction, relative = tl.zeros_like(z) + bias_d, tl.zeros_like(z) + bias_c
        correction = apply(units_q, correction, to_d, out_q, 0, Q, Z, 2 * Z, BQ, BZ, PRECISION, False, RESIDENT)
        relative = apply(units_q, relative, to_c, out_q, Z, Q, Z, 2 * Z, BQ, BZ, PRECISION, False, RESIDENT)
        kept = keep * z
        if GATED:
            share_z = sigmoid(opening)
            straight = apply(kept, tl.zeros_like(z), mix, linear, 0, Z, Z, Z, BZ, BZ, PRECISION, False, RESIDENT)
            mean = straight + share_z * (drift - straight)
            put(gate_path + at * 2 * Z, local * 2 * Z, Z, live, share_z, BZ)
            put(gate_path + at * 2 * Z + Z, local * 2 * Z, Z, live, share_z * (1 - share_z) * (drift - straight), BZ)
        else:
            mean = kept + drift
        saturation = tanh(change / REACH)
        ahead = tanh(relative / REACH)
        if DIRECT:
            correction -= mean
            ahead -= saturation
        variance = base + REACH * saturation
        ratio = mask * REACH * ahead
        shift = mask * correction
        z = mean + shift + tl.exp((variance + ratio) / 2) * epsilon
        put(z_path + at * Z, local * Z, Z, live, z, BZ)
        put(variance_path + at * Z, local * Z, Z, live, variance, BZ)
        put(shift_path + at * Z, local * Z, Z, live, shift, BZ)
        put(ratio_path + at * Z, local * Z, Z, live, ratio, BZ)
        if CELL:
            gates += gates_time
        pre += pre_time
        dates += dates_time
        noise += noise_time
        at += rows


@triton.jit
def cell_forward(
    gates, mask, first_h, hidden, hidden_bias, h_path, memory_path, gates_row, gates_time, steps, rows, H,
    BM: tl.constexpr, BH: tl.constexpr, MASKED: tl.constexpr, PRECISION: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """The GRU alone; where the mask (T, rows) is 0 the state is carried over."""
    start, local = tl.program_id(0).to(tl.int64) * BM, tl.arange(0, BM)
    row = start + local
    live = row < rows
    gates_at = tl.load(gates_row + row, mask=live, other=0)
    h = tile(first_h + start * H, local * H, H, live, BH)
    inner_r = weight_tile(hidden, 0, H, H, 3 * H, BH, BH, PRECISION, False)
    inner_u = weight_tile(hidden, H, H, H, 3 * H, BH, BH, PRECISION, False)
    inner_n = weight_tile(hidden, 2 * H, H, H, 3 * H, BH, BH, PRECISION, False)
    inner_bias = vector(hidden_bias, 0, H, BH)
    at = start
    for _ in range(steps):
        reset, update, new, share, after = gru(
            h,
            tile(gates, gates_at, H, live, BH),
            tile(gates + H, gates_at, H, live, BH),
            tile(gates + 2 * H, gates_at, H, live, BH),
            hidden, H, inner_r, inner_u, inner_n, inner_bias, BH, PRECISION, RESIDENT,
        )  # fmt: skip
        if MASKED:
            h += tl.load(mask + at + local, mask=live, other=0.0)[:, None] * (after - h)
        else:
            h = after
        put(h_path + at * H, local * H, H, live, h, BH)
        put(memory_path + at * 4 * H, local * 4 * H, H, live, reset, BH)
        put(memory_path + at * 4 * H + H, local * 4 * H, H, live, update, BH)
        put(memory_path + at * 4 * H + 2 * H, local * 4 * H, H, live, new, BH)
        put(memory_path + at * 4 * H + 3 * H, local * 4 * H, H, live, share, BH)
        gates += gates_time
        at += rows
