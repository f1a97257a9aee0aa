"""The latent chain with everything that does not depend on z_{t−1} computed once for all dates.

The input halves of both perceptrons are one matrix product over T·rows before the loop; inside it the two perceptrons
share one product with the state and one block-diagonal product to their outputs. The mathematics is that of
`reference`, to rounding.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cropgen.kernels.recurrence.reference import (
    LOG_VARIANCE_REACH,
    Chain,
    ChainInputs,
    ChainPath,
    Head,
    leading_shape,
)


def _pre_activation(head: Head, inputs: tuple[Tensor, ...]) -> Tensor:
    """(T, ..., E) input half of a hidden layer; small terms are added up before they are broadcast."""
    total = head.bias
    for x, weight in sorted(zip(inputs, head.inputs, strict=True), key=lambda pair: pair[0].numel()):
        total = total + x @ weight
    return total


def run_chain(chain: Chain, inputs: ChainInputs) -> ChainPath:
    """Run the chain; arguments and answer as `reference.run_chain`."""
    steps, width = inputs.noise.shape[0], chain.initial.shape[-1]
    lead = leading_shape(inputs)
    halves = [
        _pre_activation(chain.transition, inputs.transition),
        _pre_activation(chain.inference, inputs.inference),
    ]
    shape = torch.broadcast_shapes(*(half.shape[:-1] for half in halves), (steps, *(1 for _ in lead)))
    hoisted = torch.cat([half.expand(*shape, half.shape[-1]) for half in halves], -1).unbind(0)
    state = torch.cat([chain.transition.state, chain.inference.state], -1)
    out = torch.block_diag(chain.transition.out, chain.inference.out)
    out_bias = torch.cat([chain.transition.out_bias, chain.inference.out_bias])
    z = chain.initial.expand(*lead, width)
    mask, noise = inputs.mask.unbind(0), inputs.noise.unbind(0)
    path: list[tuple[Tensor, ...]] = []
    for t in range(steps):
        hidden = torch.tanh(hoisted[t] + z @ state)
        drift, change, correction, ratio = (hidden @ out + out_bias).split(width, -1)
        log_variance = chain.log_variance + LOG_VARIANCE_REACH * torch.tanh(change / LOG_VARIANCE_REACH)
        shift = mask[t] * correction
        log_ratio = mask[t] * (LOG_VARIANCE_REACH * torch.tanh(ratio / LOG_VARIANCE_REACH))
        z = chain.retention * z + drift + shift + torch.exp((log_variance + log_ratio) / 2) * noise[t]
        path.append((z, log_variance, shift, log_ratio))
    return ChainPath(*(torch.stack(parts) for parts in zip(*path, strict=True)))
