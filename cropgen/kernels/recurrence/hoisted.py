"""The latent chain with everything that does not depend on z_{t−1} computed once for all dates.

The input halves of the perceptrons and of the cell's gates are one matrix product over T·rows before the loop; inside
it the two perceptrons share one product with the state. The backward pass is written out (`hoisted_chain`). The
mathematics is that of `reference`, to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from cropgen.kernels.recurrence import hoisted_cell, hoisted_walk
from cropgen.kernels.recurrence.hoisted_chain import Walk
from cropgen.kernels.recurrence.hoisted_trace import Facts, Tensors
from cropgen.kernels.recurrence.reference import (
    LOG_VARIANCE_REACH,
    Cell,
    Chain,
    ChainInputs,
    ChainPath,
    leading_shape,
    passing,
)


def share_of_inputs(weights: tuple[Tensor, ...], inputs: tuple[Tensor, ...], bias: Tensor, axes: int) -> Tensor:
    """(T or 1, ..., E) share of the inputs and the bias; small terms are added up before they are broadcast."""
    total = bias if inputs else bias.view(*[1] * axes, -1)
    for x, weight in sorted(zip(inputs, weights, strict=True), key=lambda pair: pair[0].numel()):
        if total.ndim == 1:
            total = functional.linear(x, weight.T, total)
        elif total.shape[:-1] == x.shape[:-1]:
            total = torch.addmm(total.flatten(0, -2), x.flatten(0, -2), weight).view(total.shape)
        else:
            total = total + x @ weight
    return total


def side_by_side(parts: list[Tensor]) -> Tensor:
    """Parts (T or 1, ..., ·), broadcast against each other, in one tensor."""
    shape = torch.broadcast_shapes(*(part.shape[:-1] for part in parts))
    return torch.cat([part.expand(*shape, part.shape[-1]) for part in parts], -1)


def pre_activations(chain: Chain, inputs: ChainInputs) -> tuple[Tensor, Tensor | None]:
    """(T, ..., E_p + E_q) what both perceptrons add inside their hidden units, and what combining ones add after."""
    steps, axes = len(inputs.noise), inputs.noise.ndim - 1
    inside, after = [], []
    for head, seen in ((chain.transition, inputs.transition), (chain.inference, inputs.inference)):
        nothing = head.bias.new_zeros([1] * axes + [len(head.bias)])
        if head.combine:
            inside.append(head.bias.expand_as(nothing))
            after.append(share_of_inputs(head.inputs, seen, torch.zeros_like(head.bias), axes))
        else:
            inside.append(share_of_inputs(head.inputs, seen, head.bias, axes))
            after.append(nothing)
    combining = chain.transition.combine or chain.inference.combine
    joined = [side_by_side(parts) for parts in ((inside, after) if combining else (inside,))]
    hoisted, *added = [part.expand(steps, *part.shape[1:]) for part in joined]
    return hoisted, added[0] if added else None


def gates_in_order(cell: Cell) -> tuple[tuple[Tensor, ...], Tensor]:
    """Weights of the inputs and bias, in the walk's order of the gates."""
    size = len(cell.hidden)
    weights = tuple(hoisted_cell.in_order(weight, size) for weight in cell.inputs)
    return weights, hoisted_cell.in_order(cell.bias, size)


def hidden_in_order(cell: Cell) -> Tensor:
    """Weights of h_{t−1}, in the walk's order of the gates."""
    return hoisted_cell.in_order(cell.hidden, len(cell.hidden)) if cell.gates == 4 else cell.hidden


def cell_gates(cell: Cell, inputs: tuple[Tensor, ...], steps: int, axes: int) -> Tensor:
    """(T, ..., 3H or 4H) share of the inputs and of the bias, in the walk's order of the gates."""
    weights, bias = gates_in_order(cell)
    share = share_of_inputs(weights, inputs, bias, axes)
    return share.expand(steps, *share.shape[1:])


def run_chain(chain: Chain, inputs: ChainInputs) -> ChainPath:
    """Run the chain; arguments and answer as `reference.run_chain`, but mask, noise and gap get no gradient."""
    lead, cell = leading_shape(inputs), chain.cell
    hoisted, added = pre_activations(chain, inputs)

    def of_rows(part: Tensor) -> Tensor:
        return part.expand(len(inputs.noise), *lead, -1).flatten(1, -2)

    tensors = Tensors(
        hoisted,
        added,
        torch.cat([chain.transition.state, chain.inference.state], -1),
        *_outputs(chain),
        chain.initial.expand(*lead, chain.initial.shape[-1]),
        chain.linear,
        of_rows(inputs.mask),
        of_rows(inputs.noise),
    )
    if inputs.gap is not None:
        keep, base = passing(chain, inputs.gap)
        tensors = tensors._replace(keep=of_rows(keep), base=of_rows(base))
    if cell is not None:
        tensors = tensors._replace(
            gates=cell_gates(cell, inputs.cell, len(inputs.noise), len(lead) + 1),
            latent=hoisted_cell.in_order(cell.latent, len(cell.hidden)),
            hidden=hidden_in_order(cell),
            hidden_bias=cell.hidden_bias,
            cell_initial=cell.initial.expand(*lead, cell.initial.shape[-1]),
        )
    facts = Facts(chain.retention, chain.log_variance, chain.direct)
    return ChainPath(*Walk.apply(facts, *tensors))


def _outputs(chain: Chain) -> tuple[Tensor, Tensor]:
    """Weights and bias of both perceptrons' outputs in the order of the walk, what is to be bounded divided by 3."""
    weights, biases = [], []
    for head in (chain.transition, chain.inference):
        for kept, part in ((weights, head.out), (biases, head.out_bias)):
            shift, change, *gate = part.split(chain.initial.shape[-1], -1)
            kept.append(torch.cat([*gate, shift, change / LOG_VARIANCE_REACH], -1))
    return torch.block_diag(*weights), torch.cat(biases)


def run_cell(cell: Cell, inputs: tuple[Tensor, ...], mask: Tensor | None = None, *, reverse: bool = False) -> Tensor:
    """The cell alone; arguments and answer as `reference.run_cell`, but the mask gets no gradient."""
    tensors = inputs if mask is None else (*inputs, mask)
    lead = torch.broadcast_shapes(*(tensor.shape[1:-1] for tensor in tensors))
    steps = max(len(tensor) for tensor in tensors)
    weights, bias = gates_in_order(cell)
    dated = [len(x) == steps for x in inputs]
    still, moving, of_still, of_moving = (
        tuple(part for part, wanted in zip(parts, dated, strict=True) if wanted is kind)
        for parts in (inputs, weights)
        for kind in (False, True)
    )
    return hoisted_walk.walk(
        share_of_inputs(of_still, still, bias, len(lead) + 1)[0],
        hidden_in_order(cell),
        cell.hidden_bias,
        cell.initial.expand(*lead, cell.initial.shape[-1]),
        mask,
        moving,
        of_moving,
        steps=steps,
        reverse=reverse,
    )
