"""Normalising layers: every entry shifted and scaled by statistics of the rows that observed it."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn

from cropgen.models.layers.flows.layer import ElementwiseLayer, Seen

NormKind = Literal["none", "batch", "act"]
_EPS = 1e-5
_MOMENTUM = 0.1
_FEWEST = 2


def observed_moments(v: Tensor, present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and variance (D,) of each entry over the rows that observed it, and their number."""
    count = present.sum(0)
    mean = (v * present).sum(0) / count.clamp(min=1)
    variance = ((v - mean).square() * present).sum(0) / count.clamp(min=1)
    return mean, variance, count


class ActNorm(ElementwiseLayer):
    """v' = (v + b) eˢ, b and s learnt.

    From `start=none` they begin so that every entry has mean 0 and variance 1 over the training rows that observed it.
    After the common start that has been done by whitening, and they begin at zero.

    Arguments:
        size: D.
        at_identity: keep b and s at zero at the start.

    Reference:
        Glow: Generative Flow with Invertible 1×1 Convolutions, Kingma and Dhariwal, 2018.
    """

    def __init__(self, size: int, *, at_identity: bool) -> None:
        super().__init__()
        self.at_identity = at_identity
        self.shift = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.zeros(size))

    def stretched(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        moved = (v + self.shift) * self.log_scale.exp()
        return moved * seen.present, self.log_scale * seen.present

    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        return (v * (-self.log_scale).exp() - self.shift) * seen.present

    @torch.no_grad()
    def initialise(self, v: Tensor, seen: Seen) -> None:
        if self.at_identity:
            return
        mean, variance, count = observed_moments(v, seen.present)
        enough = count >= _FEWEST
        self.shift.copy_(torch.where(enough, -mean, 0))
        self.log_scale.copy_(torch.where(enough, -0.5 * (variance + _EPS).log(), 0))


class BatchNorm(ElementwiseLayer):
    """v' = (v − m) / √(s² + ε) · eᵞ + β with the moments m, s² of the mini-batch, or running ones when scoring.

    An entry observed by fewer than two rows of a mini-batch takes the running moments. After the common start γ and β
    begin so that the layer is the identity under the moments of the training rows.

    Arguments:
        size: D.
        at_identity: begin at the identity.

    Reference:
        Density Estimation using Real NVP, Dinh, Sohl-Dickstein and Bengio, 2017.
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, size: int, *, at_identity: bool) -> None:
        super().__init__()
        self.at_identity = at_identity
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("variance", torch.ones(size))
        self.shift = nn.Parameter(torch.zeros(size))
        self.log_scale = nn.Parameter(torch.full((size,), 0.5 * math.log1p(_EPS) if at_identity else 0.0))

    def _moments(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        if not self.training:
            return self.mean, self.variance
        mean, variance, count = observed_moments(v, seen.present)
        enough = count >= _FEWEST
        with torch.no_grad():
            self.mean.copy_(torch.where(enough, self.mean.lerp(mean, _MOMENTUM), self.mean))
            self.variance.copy_(torch.where(enough, self.variance.lerp(variance, _MOMENTUM), self.variance))
        return torch.where(enough, mean, self.mean), torch.where(enough, variance, self.variance)

    def stretched(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        mean, variance = self._moments(v, seen)
        log_slope = self.log_scale - 0.5 * (variance + _EPS).log()
        moved = (v - mean) * log_slope.exp() + self.shift
        return moved * seen.present, log_slope * seen.present

    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        log_slope = self.log_scale - 0.5 * (self.variance + _EPS).log()
        return ((v - self.shift) * (-log_slope).exp() + self.mean) * seen.present

    @torch.no_grad()
    def initialise(self, v: Tensor, seen: Seen) -> None:
        mean, variance, count = observed_moments(v, seen.present)
        enough = count >= _FEWEST
        self.mean.copy_(torch.where(enough, mean, 0))
        self.variance.copy_(torch.where(enough, variance, 1))
        if self.at_identity:
            self.shift.copy_(self.mean)
            self.log_scale.copy_(0.5 * (self.variance + _EPS).log())
