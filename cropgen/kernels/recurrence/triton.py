"""The latent chain in one launch forward and one backward, on CUDA: the host's side of `fused`.

What does not depend on z_{t−1} is hoisted as in `hoisted`; the walk itself, with the perceptrons, the sample and the
cell, is one kernel. Factors of matrix products are rounded as PyTorch's own recurrent layers would: to tf32 where
`torch.backends.cudnn.allow_tf32` is set, else not at all; to fp16 under autocast (gradients to bfloat16).
"""

from __future__ import annotations

import torch
from torch import Tensor

from cropgen.core.errors import DeviceError
from cropgen.kernels.recurrence.hoisted import share_of_inputs, side_by_side
from cropgen.kernels.recurrence.reference import Cell, Chain, ChainInputs, ChainPath, leading_shape, passing

MOST_UNITS = 128
MOST_LATENT = 64
_LEAST_TILE, _LEAST_LATENT = 16, 32
_ROOM, _HALF, _SINGLE = 14464, (128, 256, 4096), (288, 640, 6144)


def why_not(chain: Chain, device: torch.device | None = None) -> str | None:
    """What keeps the fused kernel from running a chain; None: nothing.

    Arguments:
        device: CUDA device whose shared memory must hold the weights; None: any.
    """
    widths = [chain.transition.bias.shape[0], chain.inference.bias.shape[0]]
    if chain.cell is not None and (reason := _why_not_cell(chain.cell)):
        return reason
    if chain.transition.combine:
        return "its transition combines its inputs after the hidden layer"
    if max(widths) > MOST_UNITS or chain.initial.shape[-1] > MOST_LATENT:
        return f"more than {MOST_UNITS} units or {MOST_LATENT} latent dimensions do not stay on the chip"
    if chain.initial.dtype != torch.float32:
        return f"it computes in single precision, the weights are {str(chain.initial.dtype).removeprefix('torch.')}"
    if device is not None:
        there = torch.cuda.get_device_properties(device).shared_memory_per_block_optin
        needed = shared_memory(chain, precision_on(device))
        if needed > there:
            return f"its weights take {needed >> 10} KiB of shared memory, a program has {there >> 10} KiB here"
    return None


def shared_memory(chain: Chain, precision: str) -> int:
    """Bytes of shared memory that the walk back of a chain takes, the larger of its two: the weights as factors, and
    room to exchange tiles.

    The room is what the compiler asks for at 16 latent dimensions; a unit takes more of it where there is a cell.
    """

    def padded(size: int, least: int = _LEAST_TILE) -> int:
        return max(least, 1 << max(size - 1, 0).bit_length())

    half = precision == "fp16"
    z, cell = padded(chain.initial.shape[-1], _LEAST_LATENT), chain.cell
    h = 0 if cell is None else padded(len(cell.hidden))
    p, q = len(chain.transition.bias), padded(len(chain.inference.bias))
    numbers = 3 * h * (h + z) + q * ((h or z) + 2 * z) + (z * z if chain.linear is not None else 0)
    if p:
        numbers += padded(p) * ((h or z) + (2 if chain.linear is None else 3) * z)
    per_unit, per_unit_of_cell, combining = _HALF if half else _SINGLE
    room = _ROOM + max(h, q, padded(p)) * (per_unit_of_cell if h else per_unit)
    return (2 if half else 4) * numbers + room + (combining if chain.inference.combine else 0)


def _why_not_cell(cell: Cell) -> str | None:
    if cell.gates != 3:
        return "its cell is an LSTM, the kernel has the GRU"
    if cell.hidden.shape[0] > MOST_UNITS:
        return f"more than {MOST_UNITS} units do not stay on the chip"
    if cell.hidden.dtype != torch.float32:
        return f"it computes in single precision, the weights are {str(cell.hidden.dtype).removeprefix('torch.')}"
    return None


def run_chain(chain: Chain, inputs: ChainInputs) -> ChainPath:
    """Run the chain; arguments and answer as `hoisted.run_chain`, in single precision.

    Raises:
        DeviceError: the chain is one that the kernel cannot run, or is not on a CUDA device.
    """
    reason = why_not(chain)
    if reason is not None:
        raise DeviceError(f"kernel 'triton' cannot run this chain: {reason}", hint="pass --kernel auto")
    require_device(inputs.noise.device)
    from cropgen.kernels.recurrence.fused_chain import fused_chain

    lead, cell, steps = leading_shape(inputs), chain.cell, len(inputs.noise)

    def over(x: Tensor) -> Tensor:
        return x.expand(steps, *lead, x.shape[-1])

    gates = first_h = None
    if cell is not None:
        gates = over(share_of_inputs(cell.inputs, inputs.cell, cell.bias, len(lead) + 1))
        first_h = cell.initial.expand(*lead, cell.initial.shape[-1])
    z, variance, shift, ratio, state, *_ = fused_chain(
        over(pre_activations(chain, inputs)), gates, over(dates(chain, inputs)), over(inputs.noise),
        chain.initial.expand(*lead, chain.initial.shape[-1]), first_h,
        chain.transition.state, chain.inference.state, chain.inference.bias,
        chain.transition.out, chain.inference.out, torch.cat([chain.transition.out_bias, chain.inference.out_bias]),
        chain.linear, *((None,) * 3 if cell is None else (cell.latent, cell.hidden, cell.hidden_bias)),
        chain.direct, chain.inference.combine, precision_on(inputs.noise.device),
    )  # fmt: skip
    return ChainPath(z, variance, shift, ratio, None if cell is None else state)


def run_cell(cell: Cell, inputs: tuple[Tensor, ...], mask: Tensor | None = None, *, reverse: bool = False) -> Tensor:
    """The GRU alone; arguments and answer as `hoisted.run_cell`, in single precision.

    Raises:
        DeviceError: the cell is one that the kernel cannot run, or is not on a CUDA device.
    """
    reason = _why_not_cell(cell)
    if reason is not None:
        raise DeviceError(f"kernel 'triton' cannot run this cell: {reason}", hint="use the hoisted kernel")
    tensors = inputs if mask is None else (*inputs, mask)
    require_device(tensors[0].device)
    from cropgen.kernels.recurrence.fused_cell import fused_cell

    lead = torch.broadcast_shapes(*(tensor.shape[1:-1] for tensor in tensors))
    steps, bias = max(len(tensor) for tensor in tensors), cell.hidden_bias
    gates = share_of_inputs(cell.inputs, inputs, cell.bias, len(lead) + 1)
    gates = gates.expand(steps, *lead, gates.shape[-1])
    observed = None if mask is None else mask.expand(steps, *lead, 1)[..., 0].to(torch.float32)
    if reverse:
        gates, observed = gates.flip(0), None if observed is None else observed.flip(0)
    states = fused_cell(
        gates,
        observed,
        cell.initial.expand(*lead, cell.initial.shape[-1]),
        cell.hidden,
        torch.zeros_like(cell.hidden[0, : len(cell.hidden)]) if bias is None else bias,
        precision_on(gates.device),
    )[0]
    return states.flip(0) if reverse else states


def require_device(device: torch.device) -> None:
    """Raises DeviceError where the kernels cannot run."""
    from triton import knobs

    if device.type != "cuda" and not knobs.runtime.interpret:
        raise DeviceError(
            f"kernel 'triton' needs a CUDA device, the series are on {device.type}", hint="pass --kernel auto"
        )


def precision_on(device: torch.device) -> str:
    """What the factors of the kernel's matrix products are rounded to."""
    if torch.is_autocast_enabled(device.type):
        return "fp16"
    return "tf32" if device.type == "cuda" and torch.backends.cudnn.allow_tf32 else "ieee"


def pre_activations(chain: Chain, inputs: ChainInputs) -> Tensor:
    """(T or 1, ..., P + Q) what the hidden units get that does not depend on the state.

    The bias of a combining inference is left out: it goes inside, these shares are added after.
    """
    axes, q = inputs.noise.ndim - 1, chain.inference
    bias = torch.zeros_like(q.bias) if q.combine else q.bias
    return side_by_side(
        [
            share_of_inputs(chain.transition.inputs, inputs.transition, chain.transition.bias, axes),
            share_of_inputs(q.inputs, inputs.inference, bias, axes),
        ]
    )


def dates(chain: Chain, inputs: ChainInputs) -> Tensor:
    """(T, ..., 3) mask, r and λ₀ of each date."""
    mask = inputs.mask.to(torch.float32)
    if inputs.gap is not None:
        return side_by_side([mask, *passing(chain, inputs.gap.to(torch.float32))])
    constant = mask.new_tensor([chain.retention, chain.log_variance]).view(*[1] * (mask.ndim - 1), 2)
    return side_by_side([mask, constant])
