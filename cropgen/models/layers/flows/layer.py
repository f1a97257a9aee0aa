"""What every layer of a flow is: an invertible map of vectors with missing entries, from the data towards the base.

A season is a vector v of D = G·C innovations, 0 at the entries of missing dates. With M the 0/1 presence of a row,

    log p(v) = log p_base(T(v)) + log |det dT/dv|,    T = T_n ∘ … ∘ T_1

where every T_i maps the observed entries onto themselves, leaves missing ones at 0 and counts only the observed ones in
its log-determinant. So whatever was observed has a proper density of as many dimensions, and nothing is filled in.

Reference:
    Normalizing Flows for Probabilistic Modeling and Inference, Papamakarios, Nalisnick, Rezende, Mohamed and
    Lakshminarayanan, 2021.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self, cast

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Seen:
    """What a layer is told beside the values.

    Arguments:
        mask: (B, G) 0 or 1, presence of the slots, in the type of the values.
        present: (B, D) 0 or 1, presence of the entries, in the type of the values.
        context: (B, H) what the density is conditioned on, or None.
        generator: draws the probes of stochastic log-determinants while learning; None: deterministic.
    """

    mask: Tensor
    present: Tensor
    context: Tensor | None = None
    generator: torch.Generator | None = None

    @classmethod
    def of_dates(cls, mask: Tensor, bands: int, dtype: torch.dtype, generator: torch.Generator | None = None) -> Self:
        """Of a mask (B, G) whose dates have all bands or none."""
        there = mask.to(dtype)
        return cls(there, there.repeat_interleave(bands, 1), None, generator)

    @property
    def told(self) -> Tensor:
        """(B, G + H) mask and context side by side: what a conditioner sees beside the values."""
        return self.mask if self.context is None else torch.cat([self.mask, self.context], -1)

    def probe(self) -> Tensor | None:
        """(B, D) standard normal noise at the observed entries, or None where nothing is drawn."""
        if self.generator is None:
            return None
        where, kind = self.generator.device, self.present
        noise = torch.randn(kind.shape, generator=self.generator, dtype=kind.dtype, device=where)
        return noise.to(kind.device) * kind

    def for_each(self, context: Tensor) -> Self:
        """Every row once for each row of `context` (K, H): B·K rows, the K of a row side by side."""
        count = len(context)
        return replace(
            self,
            mask=self.mask.repeat_interleave(count, 0),
            present=self.present.repeat_interleave(count, 0),
            context=context.repeat(len(self.mask), 1),
        )


class FlowLayer(nn.Module, ABC):
    """An invertible map of the observed entries of (B, D) vectors."""

    @abstractmethod
    def forward(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        """Towards the base: (B, D), 0 at missing entries, and the log-determinant (B,)."""

    @abstractmethod
    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        """(B, D) such that `forward` gives `v`; not differentiated."""

    def initialise(self, v: Tensor, seen: Seen) -> None:
        """Take statistics of training rows as they arrive at this layer, before the first gradient step."""


class Stack(FlowLayer):
    """Layers one after the other, the one next to the data first."""

    def __init__(self, layers: Sequence[FlowLayer]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        log_det = v.new_zeros(len(v))
        for layer in self.layers:
            v, change = layer(v, seen)
            log_det = log_det + change
        return v, log_det

    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        for layer in reversed(self.layers):
            v = cast(FlowLayer, layer).inverse(v, seen)
        return v

    def initialise(self, v: Tensor, seen: Seen) -> None:
        for layer in self.layers:
            cast(FlowLayer, layer).initialise(v, seen)
            v, _ = layer(v, seen)


class Inverted(FlowLayer):
    """A layer run from the base towards the data: scoring inverts it, sampling takes one pass.

    Scoring solves f(z) = v without a graph and differentiates the solution by the implicit function theorem,
    dz = J⁻¹ (dv − df). Jᵀ u = g is solved by u ← u + (g − Jᵀ u) / diag J, which ends in at most D steps for a
    triangular J and in few where J is near the identity.

    Arguments:
        layer: autoregressive, so that J is triangular in some order.
        tolerance: largest change at which the backward iteration stops.
    """

    def __init__(self, layer: ElementwiseLayer, tolerance: float = 1e-9) -> None:
        super().__init__()
        self.layer = layer
        self.tolerance = tolerance

    def forward(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            z = self.layer.inverse(v, seen)
        if torch.is_grad_enabled():
            z = self._attached(z, v, seen)
        return z, -self.layer(z, seen)[1]

    def _attached(self, z: Tensor, v: Tensor, seen: Seen) -> Tensor:
        """z with the gradient of the solution of f(z) = v."""
        start = z.detach().requires_grad_()
        image, slopes = self.layer.stretched(start, seen)
        rest = v - self.layer.stretched(z, seen)[0]
        if not rest.requires_grad:
            return z

        def solve(grad: Tensor) -> Tensor:
            grad, diagonal = grad * seen.present, slopes.detach().exp()
            u = grad / diagonal
            for _ in range(z.shape[-1]):
                pulled = torch.autograd.grad(image, start, u, retain_graph=True)[0] * seen.present
                change = (grad - pulled) / diagonal
                u = u + change
                if change.abs().max() <= self.tolerance * (1e-12 + u.abs().max()):
                    break
            return u

        rest.register_hook(solve)
        return z + rest

    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        return self.layer(v, seen)[0]


class ElementwiseLayer(FlowLayer):
    """A layer whose Jacobian is triangular in some order of the entries."""

    @abstractmethod
    def stretched(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        """(B, D) towards the base, and the logarithm of the diagonal of the Jacobian (B, D), 0 at missing entries."""

    def forward(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        moved, log_slope = self.stretched(v, seen)
        return moved, log_slope.sum(-1)
