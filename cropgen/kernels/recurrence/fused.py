"""The kernels of the fused recurrence: a program walks a tile of rows through all dates, in one launch.

The weights are loaded once, before the walk, and kept in registers where they fit (`RESIDENT`); where they would spill
they are read again at every date, from the caches. The state of the tile (z, and h of a cell) never leaves the
registers. Forward and backward are the equations of `hoisted`; the backward walk writes the gradients of the
pre-activations, and the gradients of the weights are matrix products over all dates and rows after it.

Layout: the hoisted inputs are read through a stride in time and one offset per row, so that axes that are broadcast are
never copied; everything else is contiguous and time-major, (T, rows, ·). Sizes are padded to powers of two, at least
16; what is read beyond the end is 0 and stays 0. Sums are in single precision; `PRECISION` says what the factors of
the matrix products are rounded to: `ieee` (not at all), `tf32`, `fp16` (and bfloat16 for factors that are gradients).
"""
# ruff: noqa: ANN001, ANN201

from __future__ import annotations

import triton
import triton.language as tl

REACH: tl.constexpr = tl.constexpr(3.0)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def tanh(x):
    return 1.0 - 2.0 / (1.0 + tl.exp(2.0 * x))


@triton.jit
def factor(x, PRECISION: tl.constexpr, GRADIENT: tl.constexpr):
    """x in the type of a factor of a matrix product."""
    if PRECISION != "fp16":
        return x.to(tl.float32)
    elif GRADIENT:  # noqa: RET505 (the compiler reads on after a return)
        return x.to(tl.bfloat16)
    else:
        return x.to(tl.float16)


@triton.jit
def weight_tile(
    weight, first, height, width, stride, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    PRECISION: tl.constexpr, GRADIENT: tl.constexpr,
):  # fmt: skip
    """Columns `first` to `first + width` of a matrix of `stride` columns; transposed in the backward pass."""
    i, j = tl.arange(0, HEIGHT), tl.arange(0, WIDTH)
    if GRADIENT:
        at = i[None, :] * stride + j[:, None]
        inside = (i[None, :] < height) & (j[:, None] < width)
    else:
        at = i[:, None] * stride + j[None, :]
        inside = (i[:, None] < height) & (j[None, :] < width)
    return factor(tl.load(weight + first + at, mask=inside, other=0.0), PRECISION, GRADIENT)


@triton.jit
def product(x, weight, total, PRECISION: tl.constexpr, GRADIENT: tl.constexpr):
    """total + x weight, for a weight that is a factor already."""
    if PRECISION == "tf32":
        return tl.dot(x, weight, total, input_precision="tf32")
    else:  # noqa: RET505
        return tl.dot(factor(x, PRECISION, GRADIENT), weight, total, input_precision="ieee")


@triton.jit
def apply(
    x, total, kept, weight, first, height, width, stride, HEIGHT: tl.constexpr, WIDTH: tl.constexpr,
    PRECISION: tl.constexpr, GRADIENT: tl.constexpr, RESIDENT: tl.constexpr,
):  # fmt: skip
    """total + x weight, for a weight that was kept, or is read again (arguments as `weight_tile`)."""
    if RESIDENT:
        return product(x, kept, total, PRECISION, GRADIENT)
    else:  # noqa: RET505
        again = weight_tile(weight, first, height, width, stride, HEIGHT, WIDTH, PRECISION, GRADIENT)
        return product(x, again, total, PRECISION, GRADIENT)


@triton.jit
def vector(bias, first, width, WIDTH: tl.constexpr):
    """(1, WIDTH) entries of a vector from `first` on."""
    j = tl.arange(0, WIDTH)
    return tl.load(bias + first + j, mask=j < width, other=0.0).to(tl.float32)[None, :]


@triton.jit
def tile(pointer, offset, width, live, WIDTH: tl.constexpr):
    """(rows, WIDTH) numbers of rows that begin at `offset` from a pointer; 32-bit offsets leave registers free."""
    j = tl.arange(0, WIDTH)
    inside = live[:, None] & (j[None, :] < width)
    return tl.load(pointer + (offset[:, None] + j[None, :]), mask=inside, other=0.0).to(tl.float32)


@triton.jit
def put(pointer, offset, width, live, value, WIDTH: tl.constexpr):
    """Write what `tile` reads."""
    j = tl.arange(0, WIDTH)
    inside = live[:, None] & (j[None, :] < width)
    tl.store(pointer + (offset[:, None] + j[None, :]), value.to(pointer.dtype.element_ty), mask=inside)
