"""What a latent variable says of the innovations of a season: densities that begin at the tied Gaussian, or textbook.

A decoder gives `outputs` numbers for each of the G slots; what is scored is r = e − o_y − d_y, the innovations less
their class mean. Missing entries stand in no term.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from cropgen.models.layers.vae.likelihoods import Gaussian, Likelihood, LogisticMixture, StudentT

EmissionKind = Literal["gaussian", "student", "logistics"]
_LOG_2PI = math.log(2 * math.pi)
_REACH, _STEPS = 8.0, 1601
_LEAST, _MOST, _SERIES_BELOW, _SERIES_TERMS = 1e-12, 0.45, 0.02, 7


def held_within(value: Tensor, low: float, high: float) -> Tensor:
    """The value clamped; the gradient passes, so that a value outside finds back."""
    return value + (value.clamp(low, high) - value).detach()


def log1p_ratio(t: Tensor) -> Tensor:
    """log(1 + t) / t for t ≥ 0: 1 at 0, and there, too, with a derivative that rounding leaves alone."""
    near, far = t.clamp(max=_SERIES_BELOW), t.clamp(min=_SERIES_BELOW)
    series = torch.full_like(t, 1 / _SERIES_TERMS)
    for term in range(_SERIES_TERMS - 1, 0, -1):
        series = 1 / term - near * series
    return torch.where(t < _SERIES_BELOW, series, torch.log1p(far) / far)


class Emission(nn.Module):
    """p(r | raw) of the D = G·C entries of a season.

    Arguments:
        bands: C.
        outputs: P, numbers of a decoder for a slot.
    """

    def __init__(self, bands: int, outputs: int) -> None:
        super().__init__()
        self.bands, self.outputs = bands, outputs

    @abstractmethod
    def log_prob(self, r: Tensor, raw: Tensor, mask: Tensor, log_var: Tensor) -> Tensor:
        """(…) log p of the observed entries.

        Arguments:
            r: (…, D).
            raw: (…, G, P) of the decoder.
            mask: (…, G) bool.
            log_var: (D,) v.
        """

    @abstractmethod
    def sample(self, raw: Tensor, log_var: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        """(B, D) draws for raw (B, G, P); the temperature multiplies the noise."""

    @abstractmethod
    def moments(self, raw: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance (…, D)."""


class ResidualEmission(Emission):
    """r ~ N(g, diag exp v) or g + exp(v/2) t_ν, v shared by all seasons or with a change that the decoder gives.

    All begins at N(0, exp v): the inverse degrees of freedom 1/ν of every entry begin at 0. As ν grows,

        log t_ν(q) = −½ (v + log 2π) + κ(1/ν) − ½ (ν + 1) log(1 + q/ν),   q = (r − g)² e^{−v}
        κ(ρ) = log Γ((ν+1)/2) − log Γ(ν/2) − ½ log(ν/2) = −ρ/4 + ρ³/24 − …

    Arguments:
        bands: C.
        size: D.
        heavy_tails: Student-t.
        decoded_variance: the decoder answers 2 C numbers for a slot, g and the change of v.
        floor: least variance, in units of the tied Gaussian's; 0 for none.
    """

    def __init__(self, bands: int, size: int, *, heavy_tails: bool, decoded_variance: bool, floor: float) -> None:
        super().__init__(bands, 2 * bands if decoded_variance else bands)
        self.floor = floor
        self.inverse_degrees = nn.Parameter(torch.zeros(size)) if heavy_tails else None

    def _parts(self, raw: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        """g and v (…, D)."""
        mean = raw[..., : self.bands].flatten(-2)
        change = raw[..., self.bands :].flatten(-2)
        spread = log_var + change if change.numel() else log_var
        return mean, spread.clamp(min=math.log(self.floor)) if self.floor else spread

    def log_prob(self, r: Tensor, raw: Tensor, mask: Tensor, log_var: Tensor) -> Tensor:
        mean, spread = self._parts(raw, log_var)
        present = mask.repeat_interleave(self.bands, -1).to(r.dtype)
        away = (r - mean) * ((-0.5 * spread).exp() * present)
        constant = ((spread + _LOG_2PI) * present).sum(-1)
        if self.inverse_degrees is None:
            return -0.5 * (away.square().sum(-1) + constant)
        return -0.5 * ((self._stretched(away.square()) * present).sum(-1) + constant)

    def _inverse_degrees(self) -> Tensor:
        """(D,) 1/ν from 0, kept below ½ so that the variance exists."""
        free = self.inverse_degrees
        return held_within(torch.zeros(()) if free is None else free, 0.0, _MOST)

    def _stretched(self, distance: Tensor) -> Tensor:
        """(1/ρ + 1) log(1 + ρ q) − 2 κ(ρ), with a gradient also at ρ = 0, where it is q."""
        rho = self._inverse_degrees()
        degrees = 1 / rho.clamp(min=_SERIES_BELOW)
        exact = torch.lgamma((degrees + 1) / 2) - torch.lgamma(degrees / 2) - 0.5 * (degrees / 2).log()
        series = -rho / 4 + rho**3 / 24 - rho**5 / 20
        kappa = torch.where(rho < _SERIES_BELOW, series, exact)
        return (1 + rho) * distance * log1p_ratio(rho * distance) - 2 * kappa

    def sample(self, raw: Tensor, log_var: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        """Draws; those of t_ν are normal ones over the root of a Gamma(ν/2, ν/2) draw, by Bailey's polar method."""
        mean, spread = self._parts(raw, log_var)
        kind = {"generator": generator, "device": generator.device, "dtype": mean.dtype}
        noise = torch.randn(mean.shape, **kind).to(mean.device)
        if self.inverse_degrees is not None:
            edge = torch.finfo(mean.dtype).eps
            u, turn = (torch.rand(mean.shape, **kind).to(mean.device).clamp(edge, 1 - edge) for _ in range(2))
            rho = self._inverse_degrees().clamp(min=_LEAST)
            noise = (torch.expm1(-2 * rho * u.log()) / rho).sqrt() * torch.cos(2 * math.pi * turn)
        return mean + temperature * (0.5 * spread).exp() * noise

    def moments(self, raw: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = self._parts(raw, log_var)
        if self.inverse_degrees is not None:
            spread = spread - torch.log1p(-2 * self._inverse_degrees())
        return mean, spread.expand_as(mean)


class TextbookEmission(Emission):
    """A likelihood of `likelihoods`: the decoder says mean, scale and whatever else there is of every date.

    The masses of discretised logistics are divided by the width of a step, 0.01 standard deviations of a band, so that
    they compare with densities.

    Arguments:
        kind: of the likelihood.
        bands: C.
        components: of the mixture of logistics.
    """

    def __init__(self, kind: EmissionKind, bands: int, components: int) -> None:
        likelihood = self._likelihood(kind, bands, components)
        super().__init__(bands, likelihood.outputs)
        self.likelihood = likelihood
        self.log_step = math.log(likelihood.step) if isinstance(likelihood, LogisticMixture) else 0.0

    @staticmethod
    def _likelihood(kind: EmissionKind, bands: int, components: int) -> Likelihood:
        if kind == "logistics":
            return LogisticMixture(bands, components, low=-_REACH, high=_REACH, steps=_STEPS)
        return {"gaussian": Gaussian, "student": StudentT}[kind](bands)

    def log_prob(self, r: Tensor, raw: Tensor, mask: Tensor, log_var: Tensor) -> Tensor:
        dates = r.unflatten(-1, (-1, self.bands))
        density = self.likelihood.log_prob(dates, raw, mask)
        return density - self.log_step * self.bands * mask.sum(-1) if self.log_step else density

    def sample(self, raw: Tensor, log_var: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        return self.likelihood.sample(raw, generator, temperature).flatten(-2)

    def moments(self, raw: Tensor, log_var: Tensor) -> tuple[Tensor, Tensor]:
        return self.likelihood.mean(raw).flatten(-2), self.likelihood.variance(raw).flatten(-2).log()
