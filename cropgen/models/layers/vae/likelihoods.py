"""Likelihoods of the dates of a season given what a decoder says of every date.

A decoder answers `outputs` numbers a date. Only observed dates count, and whatever stands at the others is never read;
a season without any has log-likelihood 0. Dates are independent given the latent, so a decoder asked for other days
than those observed reconstructs, fills and forecasts by the same `mean`, `sample` and `log_prob`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from cropgen.core.errors import UsageError

LikelihoodKind = Literal["gaussian", "student-t", "logistic-mixture"]
_LOG_2PI = math.log(2 * math.pi)
_LEAST_DEGREES = 2.0


class Likelihood(ABC):
    """p(x_t | raw_t) of the C bands of a date.

    Arguments:
        bands: C.
        outputs: P, numbers a decoder gives for a date.
    """

    def __init__(self, bands: int, outputs: int) -> None:
        self.bands, self.outputs = bands, outputs

    def log_prob(self, x: Tensor, raw: Tensor, mask: Tensor) -> Tensor:
        """(…) log-likelihood of the observed dates.

        Arguments:
            x: (…, T, C) values.
            raw: (…, T, P) of the decoder.
            mask: (…, T) bool, true where a date is observed.
        """
        known = torch.where(mask[..., None], x, 0)
        return torch.where(mask, self.of_dates(known, raw), 0).sum(-1)

    @abstractmethod
    def of_dates(self, x: Tensor, raw: Tensor) -> Tensor:
        """(…, T) log p(x_t | raw_t)."""

    @abstractmethod
    def mean(self, raw: Tensor) -> Tensor:
        """(…, T, C) expectation."""

    @abstractmethod
    def variance(self, raw: Tensor) -> Tensor:
        """(…, T, C) variance of every value."""

    @abstractmethod
    def sample(self, raw: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """(…, T, C) draws; the temperature multiplies the noise, and at 0 leaves the mean of a component."""


def _uniform(shape: torch.Size, like: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform draws inside (0, 1)."""
    drawn = torch.rand(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)
    edge = torch.finfo(like.dtype).eps
    return drawn.clamp(edge, 1 - edge)


def _normal(shape: torch.Size, like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator, device=generator.device, dtype=like.dtype).to(like.device)


class Gaussian(Likelihood):
    """x_tc ~ N(m, s²), s = floor + softplus(raw).

    Without the floor a band reconstructed exactly has an infinite density, which a decoder finds.

    Arguments:
        bands: C.
        floor: least standard deviation, in the unit of the values.
    """

    def __init__(self, bands: int, floor: float = 0.01) -> None:
        super().__init__(bands, 2 * bands)
        self.floor = floor

    def _parts(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        mean, spread = raw.chunk(2, -1)
        return mean, self.floor + functional.softplus(spread)

    def of_dates(self, x: Tensor, raw: Tensor) -> Tensor:
        mean, std = self._parts(raw)
        return -0.5 * (((x - mean) / std).square() + 2 * std.log() + _LOG_2PI).sum(-1)

    def mean(self, raw: Tensor) -> Tensor:
        return self._parts(raw)[0]

    def variance(self, raw: Tensor) -> Tensor:
        return self._parts(raw)[1].square()

    def sample(self, raw: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        mean, std = self._parts(raw)
        return mean + temperature * std * _normal(mean.shape, mean, generator)


class StudentT(Likelihood):
    """x_tc ~ m + s t_ν, s = floor + softplus(raw), ν = 2 + softplus(raw): tails for haze that the masks have missed.

    Arguments:
        bands: C.
        floor: least scale, in the unit of the values.
    """

    def __init__(self, bands: int, floor: float = 0.01) -> None:
        super().__init__(bands, 3 * bands)
        self.floor = floor

    def _parts(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        mean, spread, tail = raw.chunk(3, -1)
        return mean, self.floor + functional.softplus(spread), _LEAST_DEGREES + functional.softplus(tail)

    def of_dates(self, x: Tensor, raw: Tensor) -> Tensor:
        mean, scale, degrees = self._parts(raw)
        constant = torch.lgamma((degrees + 1) / 2) - torch.lgamma(degrees / 2) - 0.5 * (math.pi * degrees).log()
        tail = (degrees + 1) / 2 * torch.log1p(((x - mean) / scale).square() / degrees)
        return (constant - scale.log() - tail).sum(-1)

    def mean(self, raw: Tensor) -> Tensor:
        return self._parts(raw)[0]

    def variance(self, raw: Tensor) -> Tensor:
        _, scale, degrees = self._parts(raw)
        return scale.square() * degrees / (degrees - 2)

    def sample(self, raw: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Draws by Bailey's polar method, t = √(ν (u^{−2/ν} − 1)) cos 2πv with u and v uniform."""
        mean, scale, degrees = self._parts(raw)
        u, v = (_uniform(mean.shape, mean, generator) for _ in range(2))
        radius = (degrees * torch.expm1(-2 / degrees * u.log())).sqrt()
        return mean + temperature * scale * radius * torch.cos(2 * math.pi * v)


class LogisticMixture(Likelihood):
    """Mixture of logistics over the steps of a scale, the bands of a component coupled.

        P(x_t) = Σ_k π_k Π_c [σ((x_c + h − μ_kc) / s_kc) − σ((x_c − h − μ_kc) / s_kc)],
        μ_kc = m_kc + Σ_{b<c} tanh(a_kcb) x_b

    with h half a step; the lowest and the highest step take the tails, so the masses of all steps sum to 1. The
    difference is computed as σ(u) σ(−l) (1 − e^{l − u}), which loses nothing where it is small.

    Arguments:
        bands: C.
        components: K.
        low: value of the lowest step.
        high: value of the highest step.
        steps: number of steps; values are rounded to them.

    Raises:
        UsageError: fewer than two steps, or `high` not above `low`.

    Reference:
        PixelCNN++, Salimans, Karpathy, Chen and Kingma, 2017.
    """

    def __init__(
        self, bands: int, components: int = 5, *, low: float = 0.0, high: float = 1.0, steps: int = 10001
    ) -> None:
        self.couplings = bands * (bands - 1) // 2
        super().__init__(bands, components * (1 + 2 * bands + self.couplings))
        if steps < 2 or high <= low:
            raise UsageError(
                f"logistic-mixture: expected at least 2 steps from low up to high, got {steps} from {low} to {high}",
                hint="give the least and the greatest reflectance and the number of steps between them",
            )
        self.components, self.low, self.high = components, low, high
        self.step = (high - low) / (steps - 1)

    def round(self, x: Tensor) -> Tensor:
        """The nearest step of the scale."""
        return self.low + self.step * ((x.clamp(self.low, self.high) - self.low) / self.step).round()

    def _parts(self, raw: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """log π (…, K), m and log s (…, K, C), and the couplings (…, K, C, C), strictly lower triangular."""
        logits, means, log_scales, couplings = raw.unflatten(-1, (self.components, -1)).split(
            [1, self.bands, self.bands, self.couplings], -1
        )
        lower = raw.new_zeros((*couplings.shape[:-1], self.bands, self.bands))
        row, column = torch.tril_indices(self.bands, self.bands, -1)
        lower[..., row, column] = torch.tanh(couplings)
        log_scales = log_scales.clamp(min=math.log(self.step) - 5)
        return torch.log_softmax(logits[..., 0], -1), means, log_scales, lower

    def of_dates(self, x: Tensor, raw: Tensor) -> Tensor:
        log_share, means, log_scales, lower = self._parts(raw)
        at = self.round(x)[..., None, :]
        centred = at - means - (lower @ at[..., None])[..., 0]
        upper = (centred + self.step / 2) * (-log_scales).exp()
        under = (centred - self.step / 2) * (-log_scales).exp()
        below, above = functional.logsigmoid(upper), functional.logsigmoid(-under)
        inside = below + above + torch.log(-torch.expm1(-self.step * (-log_scales).exp()))
        lowest, highest = at < self.low + self.step / 2, at > self.high - self.step / 2
        log_mass = torch.where(lowest, below, torch.where(highest, above, inside)).sum(-1)
        return torch.logsumexp(log_share + log_mass, -1)

    def mean(self, raw: Tensor) -> Tensor:
        """Expectation before rounding and without the tails cut."""
        log_share, means, _, lower = self._parts(raw)
        return (log_share.exp()[..., None] * self._mixing(lower, means[..., None])[..., 0]).sum(-2)

    def variance(self, raw: Tensor) -> Tensor:
        """Within and between the components, before rounding and without the tails cut."""
        log_share, means, log_scales, lower = self._parts(raw)
        share = log_share.exp()[..., None]
        of_component = self._mixing(lower, means[..., None])[..., 0]
        spread = torch.diag_embed(log_scales.exp() * (math.pi / math.sqrt(3)))
        within = self._mixing(lower, spread).square().sum(-1)
        between = (of_component - (share * of_component).sum(-2, keepdim=True)).square()
        return (share * (within + between)).sum(-2)

    def _mixing(self, lower: Tensor, right: Tensor) -> Tensor:
        """(I − A)⁻¹ times (…, C, N)."""
        identity = torch.eye(self.bands, dtype=right.dtype, device=right.device)
        return torch.linalg.solve_triangular(identity - lower, right, upper=False)

    def sample(self, raw: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """Draws of component, band after band, and noise, on the steps of the scale."""
        log_share, means, log_scales, lower = self._parts(raw)
        gumbel = -(-_uniform(log_share.shape, raw, generator).log()).log()
        chosen = (log_share + gumbel).argmax(-1)[..., None, None]
        mean = means.take_along_dim(chosen, -2)[..., 0, :]
        scale = log_scales.take_along_dim(chosen, -2)[..., 0, :].exp()
        lower = lower.take_along_dim(chosen[..., None], -3)[..., 0, :, :]
        noise = torch.logit(_uniform(mean.shape, raw, generator))
        x = torch.zeros_like(mean)
        for band in range(self.bands):
            centre = mean[..., band] + (lower[..., band, :] * x).sum(-1)
            value = self.round(centre + temperature * scale[..., band] * noise[..., band])
            x = torch.cat([x[..., :band], value[..., None], x[..., band + 1 :]], -1)
        return x


def likelihood_of(kind: LikelihoodKind, bands: int) -> Likelihood:
    """The likelihood of an option, with its defaults."""
    return {"gaussian": Gaussian, "student-t": StudentT, "logistic-mixture": LogisticMixture}[kind](bands)
