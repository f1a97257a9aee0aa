"""Continuous flows: the season moves along an ordinary differential equation."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from cropgen.models.layers.flows.layer import FlowLayer, Seen

Trace = Literal["exact", "hutchinson"]
_CORRECTIONS = 200


class Continuous(FlowLayer):
    """dv/dt = M W₂ tanh(W₁ M v + W_t τ(t) + W_c (mask, context) + b), t from 0 to 1; log |det| = ∫ tr ∂f/∂v dt.

    τ are cosines and sines of πt, 2πt, …. One hidden layer makes the trace exact at the price of a product,
    tr = Σ_h tanh'_h Σ_d M_d (W₁)_{hd} (W₂)_{dh}; `hutchinson` takes εᵀ (∂f/∂v) ε while learning, as FFJORD does. Both
    are integrated by the classical Runge-Kutta method of fourth order with steps of one length, so that a row's score
    does not depend on the rows beside it. The inverse integrates backwards and corrects what the steps leave over.

    Arguments:
        size: D.
        told: G + H, size of mask and context.
        hidden: width of the hidden layer.
        frequencies: number of frequencies of τ.
        steps: of the integration.
        trace: what is computed while learning.
        at_identity: begin with W₂ = 0.
        tolerance: largest change at which the corrections of the inverse stop.

    References:
        Neural Ordinary Differential Equations, Chen, Rubanova, Bettencourt and Duvenaud, 2018;
        FFJORD: Free-Form Continuous Dynamics for Scalable Reversible Generative Models, Grathwohl, Chen, Bettencourt,
        Sutskever and Duvenaud, 2019.
    """

    frequencies: Tensor

    def __init__(
        self,
        size: int,
        told: int,
        hidden: int,
        *,
        frequencies: int,
        steps: int,
        trace: Trace,
        at_identity: bool,
        tolerance: float = 1e-12,
    ) -> None:
        super().__init__()
        self.steps, self.trace, self.tolerance = steps, trace, tolerance
        self.enter = nn.Linear(size, hidden)
        self.told = nn.Linear(told, hidden, bias=False)
        self.clock = nn.Linear(2 * frequencies, hidden, bias=False)
        self.leave = nn.Linear(hidden, size)
        self.register_buffer("frequencies", math.pi * torch.arange(1, frequencies + 1, dtype=torch.float32))
        if at_identity:
            nn.init.zeros_(self.leave.weight)
            nn.init.zeros_(self.leave.bias)

    def _velocity(self, t: float, v: Tensor, still: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        """f(t, v) (B, D) and tanh' (B, H); `still` (B, H) is what does not change along the way."""
        phase = self.frequencies * t
        time = self.clock(torch.cat([phase.cos(), phase.sin()]))
        tangent = torch.tanh(v @ self.enter.weight.T + still + time)
        return self.leave(tangent) * seen.present, 1 - tangent.square()

    def _still(self, seen: Seen) -> Tensor:
        return self.enter.bias + self.told(seen.told)

    def forward(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        still, step = self._still(seen), 1 / self.steps
        probe = seen.probe() if self.trace == "hutchinson" else None
        if probe is None:
            loops = seen.present @ (self.enter.weight.T * self.leave.weight)
        else:
            loops = (probe @ self.enter.weight.T) * (probe @ self.leave.weight)

        def both(t: float, at: Tensor) -> tuple[Tensor, Tensor]:
            velocity, slope = self._velocity(t, at, still, seen)
            return velocity, (slope * loops).sum(-1)

        log_det = v.new_zeros(len(v))
        for i in range(self.steps):
            t = i * step
            k1, d1 = both(t, v)
            k2, d2 = both(t + step / 2, v + step / 2 * k1)
            k3, d3 = both(t + step / 2, v + step / 2 * k2)
            k4, d4 = both(t + step, v + step * k3)
            v = v + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
            log_det = log_det + step / 6 * (d1 + 2 * d2 + 2 * d3 + d4)
        return v, log_det

    @torch.no_grad()
    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        found = self._moved(v, seen, backwards=True)
        for _ in range(_CORRECTIONS):
            change = v - self._moved(found, seen)
            found = found + change
            if change.abs().amax() <= max(self.tolerance, 8 * torch.finfo(v.dtype).eps):
                break
        return found

    def _moved(self, v: Tensor, seen: Seen, *, backwards: bool = False) -> Tensor:
        still, step = self._still(seen), (-1 if backwards else 1) / self.steps
        for i in range(self.steps):
            t = (1 if backwards else 0) + i * step
            k1, _ = self._velocity(t, v, still, seen)
            k2, _ = self._velocity(t + step / 2, v + step / 2 * k1, still, seen)
            k3, _ = self._velocity(t + step / 2, v + step / 2 * k2, still, seen)
            k4, _ = self._velocity(t + step, v + step * k3, still, seen)
            v = v + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return v
