"""The latent chain with everything that does not depend on z_{t−1} computed once for all dates.

The input halves of both perceptrons are one matrix product over T·rows before the loop; inside it the two perceptrons
share one product with the state and one block-diagonal product to their outputs. The backward pass is written out: it
walks the dates in reverse for the gradients of the states alone, and the gradients of the weights are one matrix
product over T·rows after the walk. The mathematics is that of `reference`, to rounding.

With the path's symbols, A = tanh(a/3), R = tanh(c/3) and G the gradient of z_t from the path and from date t+1,

    ∂λ += G ½ e^((λ+ρ)/2) ε,  ∂ρ likewise,  ∂(u, a, d, c) = (G, (1 − A²) ∂λ, m (∂δ + G), m (1 − R²) ∂ρ),
    ∂pre = (1 − hidden²) ∂(u, a, d, c) outᵀ,   G_{t−1} += r G + ∂pre stateᵀ.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

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


class _Walk(torch.autograd.Function):
    """The loop over dates, from hoisted pre-activations (T, ..., 2E), broadcast over rows, to the path."""

    @staticmethod
    def forward(
        ctx: Any,
        hoisted: Tensor,
        state: Tensor,
        out: Tensor,
        out_bias: Tensor,
        initial: Tensor,
        mask: Tensor,
        noise: Tensor,
        constants: tuple[float, float],
    ) -> tuple[Tensor, ...]:
        retention, log_variance = constants
        steps, lead, width = len(noise), initial.shape[:-1], initial.shape[-1]
        hidden = hoisted.new_empty(steps, *lead, state.shape[1])
        z, variance, shift, ratio = (hoisted.new_empty(steps, *lead, width) for _ in range(4))
        saturation = hoisted.new_empty(2, steps, *lead, width)
        before = initial
        for t in range(steps):
            torch.tanh(hoisted[t] + before @ state, out=hidden[t])
            drift, change, correction, relative = (hidden[t] @ out + out_bias).split(width, -1)
            torch.tanh(change / LOG_VARIANCE_REACH, out=saturation[0, t])
            torch.tanh(relative / LOG_VARIANCE_REACH, out=saturation[1, t])
            torch.add(saturation[0, t] * LOG_VARIANCE_REACH, log_variance, out=variance[t])
            torch.mul(mask[t], correction, out=shift[t])
            torch.mul(mask[t] * LOG_VARIANCE_REACH, saturation[1, t], out=ratio[t])
            spread = torch.exp((variance[t] + ratio[t]) / 2) * noise[t]
            torch.add(drift + shift[t] + spread, before, alpha=retention, out=z[t])
            before = z[t]
        ctx.save_for_backward(state, out, initial, mask, noise, hidden, saturation, z, variance, ratio)
        ctx.retention, ctx.hoisted_shape = retention, hoisted.shape
        return z, variance, shift, ratio

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, *gradients: Tensor
    ) -> tuple[Tensor | None, ...]:
        state, out, initial, mask, noise, hidden, saturation, z, variance, ratio = ctx.saved_tensors
        of_z, of_variance, of_shift, of_ratio = gradients
        of_hoisted = torch.empty_like(hidden)
        of_out = hidden.new_empty(*hidden.shape[:-1], out.shape[1])
        half = torch.exp((variance + ratio) / 2) * noise / 2
        slope = 1 - saturation.square()
        carried = torch.zeros_like(initial)
        for t in reversed(range(len(z))):
            total = of_z[t] + carried
            through = total * half[t]
            torch.cat(
                [
                    total,
                    (of_variance[t] + through) * slope[0, t],
                    mask[t] * (of_shift[t] + total),
                    mask[t] * (of_ratio[t] + through) * slope[1, t],
                ],
                -1,
                out=of_out[t],
            )
            torch.mul(of_out[t] @ out.T, 1 - hidden[t].square(), out=of_hoisted[t])
            carried = ctx.retention * total + of_hoisted[t] @ state.T
        past = torch.cat([initial[None], z[:-1]]).flatten(0, -2)
        flat_out, flat_hoisted = of_out.flatten(0, -2), of_hoisted.flatten(0, -2)
        of_state, of_weight = past.T @ flat_hoisted, hidden.flatten(0, -2).T @ flat_out
        of_input = of_hoisted.sum_to_size(ctx.hoisted_shape)
        return of_input, of_state, of_weight, flat_out.sum(0), carried, None, None, None


def run_chain(chain: Chain, inputs: ChainInputs) -> ChainPath:
    """Run the chain; arguments and answer as `reference.run_chain`, but mask and noise get no gradient."""
    steps = inputs.noise.shape[0]
    lead = leading_shape(inputs)
    halves = [
        _pre_activation(chain.transition, inputs.transition),
        _pre_activation(chain.inference, inputs.inference),
    ]
    shape = torch.broadcast_shapes(*(half.shape[:-1] for half in halves))
    hoisted = torch.cat([half.expand(*shape, half.shape[-1]) for half in halves], -1)
    hoisted = hoisted.expand(steps, *hoisted.shape[1:])
    state = torch.cat([chain.transition.state, chain.inference.state], -1)
    out = torch.block_diag(chain.transition.out, chain.inference.out)
    out_bias = torch.cat([chain.transition.out_bias, chain.inference.out_bias])
    initial = chain.initial.expand(*lead, chain.initial.shape[-1])
    constants = (chain.retention, chain.log_variance)
    return ChainPath(*_Walk.apply(hoisted, state, out, out_bias, initial, inputs.mask, inputs.noise, constants))
