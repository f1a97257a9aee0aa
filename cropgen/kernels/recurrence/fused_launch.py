"""What the operators of the fused recurrence share: sizes and tiles, the launch, where every row of a broadcast input
begins, and the gradients of weights as matrix products over all dates and rows."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from triton.runtime.errors import OutOfResources

from cropgen.core.errors import DeviceError
from cropgen.kernels.recurrence import fused_backward, fused_forward

TILE = 16


def padded(size: int, least: int = 16) -> int:
    """The power of two that a size is padded to.

    A matrix no wider than the tile is high would be held by every warp of a program: latent dimensions are padded to
    32, which leaves each warp its columns.
    """
    return max(least, 1 << max(size - 1, 0).bit_length())


def placement(widest: int, precision: str, *, cell: bool, alone: bool = False) -> dict[str, Any]:
    """Warps of a program, and whether its weights stay in registers: where they do not fit they are read again.

    Arguments:
        widest: units of the widest layer or of the cell.
        precision: see `fused`.
        cell: whether there is a cell.
        alone: whether there is nothing else.
    """
    wide, half = padded(widest) > 64, precision == "fp16"
    if alone:
        return {"num_warps": 16 if wide and half else 8 if wide else 4, "num_stages": 2, "RESIDENT": half or not wide}
    return {"num_warps": 8 if wide or cell else 4, "num_stages": 2, "RESIDENT": half or not wide}


def row_offsets(x: Tensor) -> Tensor:
    """(rows,) int32 where each row of (T, ..., F) begins in memory, from the beginning of its date."""
    offset = torch.zeros((), dtype=torch.int32, device=x.device)
    for size, stride in zip(x.shape[1:-1], x.stride()[1:-1], strict=True):
        offset = offset[..., None] + torch.arange(size, dtype=torch.int32, device=x.device) * stride
    return offset.flatten()


def readable(x: Tensor) -> Tensor:
    """The tensor itself where its features lie side by side, else a copy."""
    return x if x.stride(-1) == 1 or x.shape[-1] == 1 else x.contiguous()


def launch(kernel: Any, rows: int, device: torch.device, arguments: Sequence[Any], constants: dict[str, Any]) -> None:
    """Run a kernel over tiles of rows, on the device of the tensors.

    Raises:
        DeviceError: a tile does not fit on the chip.
    """
    if not rows:
        return
    guard = torch.cuda.device(device) if device.type == "cuda" else contextlib.nullcontext()
    try:
        with guard:
            kernel[(triton.cdiv(rows, TILE),)](*arguments, BM=TILE, **constants)
    except OutOfResources as error:
        raise DeviceError(f"kernel 'triton' does not fit this device: {error}", hint="pass --kernel hoisted") from error


def trace_type(precision: str) -> torch.dtype:
    """The type in which hidden units and gates are kept for the walk back."""
    return torch.float16 if precision == "fp16" else torch.float32


def outer(left: Tensor, right: Tensor) -> Tensor:
    """(F, G) Σ over dates and rows of left ᵀ right, for (T, ..., F) and (T, ..., G)."""
    return left.flatten(0, -2).T.to(right.dtype) @ right.flatten(0, -2)


def total(x: Tensor) -> Tensor:
    """(F,) sum of (T, ..., F) over dates and rows."""
    return x.flatten(0, -2).sum(0)


def cell_gradients(
    of_gates: Tensor, past_h: Tensor, past_z: Tensor | None, of_first: Tensor
) -> tuple[Tensor | None, ...]:
    """Gradients of the hoisted gates, `latent`, `hidden`, `hidden_bias` and the first h.

    Arguments:
        of_gates: (T, ..., 4H) of r, u, n's share of h, and n.
        past_h, past_z: (T, ..., H) and (T, ..., Z) states before each date.
    """
    h = past_h.shape[-1]
    of_outer = torch.cat([of_gates[..., : 2 * h], of_gates[..., 3 * h :]], -1)
    of_latent = None if past_z is None else outer(past_z, of_outer)
    return of_outer, of_latent, outer(past_h, of_gates[..., : 3 * h]), total(of_gates[..., 2 * h : 3 * h]), of_first


CHAIN_FORWARD, CHAIN_BACKWARD = fused_forward.chain_forward, fused_backward.chain_backward
CELL_FORWARD, CELL_BACKWARD = fused_forward.cell_forward, fused_backward.cell_backward
