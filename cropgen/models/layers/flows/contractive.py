"""Residual layers that are invertible because what they add is a contraction."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from cropgen.models.layers.flows.layer import FlowLayer, Seen

LogDet = Literal["series", "exact"]
_LEAST = 1e-12
_EXACT_TERMS = 4
_SURVIVAL = 0.8
_MOST_TERMS = 60
_MOST_PASSES = 2000


def spectral_norm(weight: Tensor) -> Tensor:
    """() largest singular value, differentiable, 0 with gradient 0 for a matrix of zeros."""
    small = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
    return torch.linalg.eigvalsh(small)[-1].clamp(min=_LEAST).sqrt()


def within(weight: Tensor, bound: float) -> Tensor:
    """The matrix, scaled down to the spectral norm `bound` where it exceeds it."""
    return weight * (bound / spectral_norm(weight)).clamp(max=1)


def lipswish(z: Tensor) -> tuple[Tensor, Tensor]:
    """z σ(z) / 1.1, which never changes faster than its argument, and its derivative."""
    s = torch.sigmoid(z)
    return z * s / 1.1, (s + z * s * (1 - s)) / 1.1


class Contractive(FlowLayer):
    """v' = v + g(v), g(v) = M W₂ φ(W₁ M v + c), c from mask and context; ‖W₁‖, ‖W₂‖ ≤ √κ, so that Lip g ≤ κ < 1.

    With A = diag φ' · W₁ M W₂ (H × H) the determinant lemma gives log |det| = log |det (I + A)| exactly, which scores
    parcels. While learning, `series` takes Hutchinson's estimate of the power series Σ_k (−1)^{k+1} tr Jᵏ / k, with the
    Russian-roulette weights that make a random number of terms unbiased. The inverse repeats v ← v' − g(v).

    Arguments:
        size: D.
        told: G + H, size of mask and context.
        hidden: H.
        kappa: bound of the contraction.
        log_det: what is computed while learning.
        at_identity: begin with W₂ = 0.
        tolerance: largest change at which the inverse stops.

    References:
        Invertible Residual Networks, Behrmann, Grathwohl, Chen, Duvenaud and Jacobsen, 2019;
        Residual Flows for Invertible Generative Modeling, Chen, Behrmann, Duvenaud and Jacobsen, 2019.
    """

    def __init__(
        self,
        size: int,
        told: int,
        hidden: int,
        *,
        kappa: float,
        log_det: LogDet,
        at_identity: bool,
        tolerance: float = 1e-12,
    ) -> None:
        super().__init__()
        self.bound, self.log_det, self.tolerance = kappa**0.5, log_det, tolerance
        self.enter = nn.Linear(size, hidden)
        self.told = nn.Linear(told, hidden, bias=False)
        self.leave = nn.Linear(hidden, size)
        if at_identity:
            nn.init.zeros_(self.leave.weight)
            nn.init.zeros_(self.leave.bias)

    def _residual(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """g(v) (B, D), φ' (B, H), and the bounded W₁ and W₂."""
        first, second = within(self.enter.weight, self.bound), within(self.leave.weight, self.bound)
        value, slope = lipswish(v @ first.T + self.enter.bias + self.told(seen.told))
        return (value @ second.T + self.leave.bias) * seen.present, slope, first, second

    def forward(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        added, slope, first, second = self._residual(v, seen)
        probe = seen.probe() if self.log_det == "series" else None
        if probe is not None and seen.generator is not None:
            change = self._series(slope, first, second, probe, seen.present, seen.generator)
        else:
            crossed = torch.einsum("hd,bd,dk->bhk", first, seen.present, second)
            unit = torch.eye(len(first), dtype=v.dtype, device=v.device)
            change = torch.linalg.slogdet(unit + slope[:, :, None] * crossed).logabsdet
        return v + added, change

    @staticmethod
    def _series(
        slope: Tensor, first: Tensor, second: Tensor, probe: Tensor, present: Tensor, generator: torch.Generator
    ) -> Tensor:
        """An unbiased estimate of log |det| (B,)."""
        draw = float(torch.rand((), generator=generator, device=generator.device))
        terms, share = _EXACT_TERMS, 1.0
        while draw < _SURVIVAL ** (terms - _EXACT_TERMS + 1) and terms < _MOST_TERMS:
            terms += 1
        total, image = torch.zeros_like(probe[:, 0]), probe
        for k in range(1, terms + 1):
            image = ((image @ first.T * slope) @ second.T) * present
            share = share if k <= _EXACT_TERMS else share * _SURVIVAL
            total = total + (-1) ** (k + 1) / (k * share) * (image * probe).sum(-1)
        return total

    @torch.no_grad()
    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        found = v
        for _ in range(_MOST_PASSES):
            better = v - self._residual(found, seen)[0]
            change = (better - found).abs().amax()
            found = better
            if change <= max(self.tolerance, 8 * torch.finfo(v.dtype).eps):
                break
        return found
