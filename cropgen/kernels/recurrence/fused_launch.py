"""Launching the kernels of the fused recurrence: sizes, tiles, and where every row of a broadcast input begins."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from cropgen.kernels.recurrence import fused_backward, fused_forward

TILE = 16
_SMALLEST = 16


def padded(size: int) -> int:
    """The power of two, at least 16, that a size is padded to."""
    return max(_SMALLEST, 1 << max(size - 1, 0).bit_length())


def warps(units: int) -> int:
    """Warps of a program whose cell has that many units, 0 without a cell."""
    return 8 if padded(units) > 64 else 4


def row_offsets(x: Tensor, at: int = 0) -> Tensor:
    """(rows,) where each row of (T, ..., F) begins in memory at one date."""
    offset = torch.full((), at * x.stride(0), dtype=torch.int64, device=x.device)
    for size, stride in zip(x.shape[1:-1], x.stride()[1:-1], strict=True):
        offset = offset[..., None] + torch.arange(size, device=x.device) * stride
    return offset.flatten()


def readable(x: Tensor) -> Tensor:
    """The tensor itself where its features lie side by side, else a copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def launch(kernel: Any, rows: int, device: torch.device, arguments: Sequence[Any], constants: dict[str, Any]) -> None:
    """Run a kernel over tiles of rows, on the device of the tensors."""
    if not rows:
        return
    guard = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    with guard:
        kernel[(triton.cdiv(rows, TILE),)](*arguments, BM=TILE, **constants)


CHAIN_FORWARD, CHAIN_BACKWARD = fused_forward.chain_forward, fused_backward.chain_backward
CELL_FORWARD, CELL_BACKWARD = fused_forward.cell_forward, fused_backward.cell_backward
