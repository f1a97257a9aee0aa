"""Levels of Gaussian latents over a season, each at half the time resolution of the one below.

Level L is the coarsest. Whatever the networks, with q and p of a level the conditionals at the draws of the levels that
they are conditioned on,

    log p(e | y) ≥ E_q [log p(e | z, y) − Σ_l KL_l],   KL_l = KL(q(z_l | ·) ‖ p(z_l | z_{>l}, y))

and every level pays, the first and the last too.

Reference:
    Ladder Variational Autoencoders, Sønderby, Raiko, Maaløe, Sønderby and Winther, 2016.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import InputSpec
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.vae.ladder import half_lengths
from cropgen.models.layers.vae.level_bounds import LevelledModel
from cropgen.models.layers.vae.model import Explained, Rows, VariationalOptions
from cropgen.models.layers.vae.posteriors import gaussian_kl

_LOG_STD_BOUND = 3.0
_LARGEST_BLOCK = 1 << 23


class HierarchicalOptions(VariationalOptions):
    """Options of every hierarchy of Gaussian latents."""

    levels: int = Field(
        3, ge=1, le=6, description="levels of latents; each halves the dates", json_schema_extra={"search": [2, 3]}
    )
    latent: int = Field(
        4, ge=1, description="size of the latent of a position of a level", json_schema_extra={"search": [2, 4, 8]}
    )
    hidden: int = Field(32, ge=1, description="channels of the convolutions", json_schema_extra={"search": [16, 32]})
    samples: int = Field(4, ge=1, description="draws of the importance-weighted bound that scores a parcel")
    estimator: Literal["elbo", "iwae", "jvi"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "elbo", description="of the gradient of the bound that is learnt from"
    )


@dataclass(frozen=True)
class Level:
    """The latents of a level of N rows, drawn, with what model and recognition network say of them.

    Arguments:
        z: (N, Z, T_l).
        mean, log_std: (N, Z, T_l) of p(z_l | z_{>l}, y).
        q_mean, q_log_std: (N, Z, T_l) of q(z_l | ·), those of p where z_l was drawn from p.
        closed: nothing that p is conditioned on depends on z_l, so that the divergence has a closed form; else it is
            estimated by the draw.
    """

    z: Tensor
    mean: Tensor
    log_std: Tensor
    q_mean: Tensor
    q_log_std: Tensor
    closed: bool = True

    def log_densities(self) -> tuple[Tensor, Tensor]:
        """(N,) log p(z_l | ·) and log q(z_l | ·) of the draw."""
        return log_normal(self.z, self.mean, self.log_std), log_normal(self.z, self.q_mean, self.q_log_std)

    def divergence(self) -> Tensor:
        """(N,) KL(q ‖ p) in nats."""
        if self.closed:
            return gaussian_kl(self.q_mean, self.q_log_std, self.mean, self.log_std).flatten(1).sum(1)
        log_p, log_q = self.log_densities()
        return log_q - log_p


@dataclass(frozen=True)
class Descent:
    """One way down the levels.

    Arguments:
        levels: the latents, those of the coarsest level first.
        raw: (N, G, P) what the decoder says.
    """

    levels: tuple[Level, ...]
    raw: Tensor


@dataclass(frozen=True)
class Seen:
    """What the way up has seen of N rows.

    Arguments:
        features: (N, H, T_l) of each level, the finest first.
        drawn: latents drawn on the way up: z, and mean and log-deviation of their q, (N, Z, T_l) each.
    """

    features: tuple[Tensor, ...]
    drawn: tuple[tuple[Tensor, Tensor, Tensor], ...] = ()


def log_normal(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """(N,) log N(z; m, s²) of (N, Z, T), all positions together."""
    terms = ((z - mean) * (-log_std).exp()).square() + 2 * log_std + math.log(2 * math.pi)
    return -0.5 * terms.flatten(1).sum(1)


def bounded(log_std: Tensor) -> Tensor:
    """A log-deviation within ±3."""
    return _LOG_STD_BOUND * torch.tanh(log_std / _LOG_STD_BOUND)


def drawn(mean: Tensor, log_std: Tensor, noise: Tensor) -> Tensor:
    """m + s ε."""
    return mean + log_std.exp() * noise


def residual_posterior(mean: Tensor, log_std: Tensor, shift: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-deviation of N(m + δ, s² e^{2ρ}), ρ within ±3, about N(m, s²)."""
    return mean + shift, log_std + bounded(change)


class HierarchicalModel(LevelledModel):
    """Base of the hierarchies of Gaussian latents around the tied Gaussian.

    A subclass gives `ascend`, what is seen of a season, and `descend`, the way down the levels. The decoder's answer
    and the departure of every q and p from N(0, I) begin at zero: the latents are unused, every divergence is 0, and
    the model begins exactly at the tied Gaussian. The way up is taken once for all classes, the way down with every
    class.

    Arguments:
        spec: what the model sees and answers.
        options: of the subclass.
    """

    def __init__(self, spec: InputSpec, options: HierarchicalOptions) -> None:
        super().__init__(spec, options)
        self.lengths = half_lengths(self.slots, options.levels)
        reach = 0.0 if self.at_start else 1 / math.sqrt(options.hidden)
        self.answer = nn.Parameter(reach * torch.randn(self.slots, options.hidden, self.emission.outputs))

    @property
    def settings(self) -> HierarchicalOptions:
        return cast(HierarchicalOptions, self.options)

    @property
    def levels(self) -> int:
        return self.settings.levels

    @property
    def noise_size(self) -> int:
        return sum(channels * length for channels, length in self.noises())

    def noises(self) -> list[tuple[int, int]]:
        """Channels and positions of the noise of every draw, in the order of `parted`; by default of each level."""
        lengths = half_lengths(self.slots, self.settings.levels)
        return [(self.settings.latent, length) for length in lengths[1:]]

    @abstractmethod
    def ascend(self, seasons: Seasons, noise: list[Tensor]) -> Seen:
        """What is seen of B rows under noise (S·B, Z, T): of B rows where nothing is drawn, else of S·B."""

    @abstractmethod
    def descend(self, seen: Seen | None, y: Tensor, noise: list[Tensor], above: int) -> Descent:
        """The way down for N rows of classes y (N,).

        Arguments:
            seen: of the N rows; None draws every level from the generative model.
            noise: (N, Z, T) of every draw.
            above: levels up to this one are drawn from the generative model.
        """

    def explain(self, rows: Rows, noise: Tensor) -> Explained:
        return self.explain_above(rows, noise, 0)

    def explain_above(self, rows: Rows, noise: Tensor, above: int) -> Explained:
        """As `explain`, the levels up to `above` drawn from the generative model."""
        path = self.walk(rows, noise, above)
        shape = (len(noise), len(rows), self.spec.classes)
        densities = [level.log_densities() for level in path.levels]
        log_p, log_q = (torch.stack(part).sum(0) for part in zip(*densities, strict=True))
        return Explained(
            log_likelihood=self.emitted(rows, path.raw.unflatten(0, shape)),
            log_prior=log_p.view(shape),
            log_q=log_q.view(shape),
            divergence=torch.stack([level.divergence() for level in path.levels], -1).unflatten(0, shape),
            z=torch.cat([level.z.flatten(1) for level in path.levels], 1).unflatten(0, shape),
        )

    def scored_above(self, rows: Rows, noise: Tensor, above: int) -> Explained:
        """As `explain_above`, in blocks of rows whose contexts fit in memory."""
        per_row = len(noise) * self.spec.classes * self.slots * max(self.settings.hidden, self.emission.outputs)
        starts = torch.arange(len(rows)).split(max(1, _LARGEST_BLOCK // per_row))
        own = noise.expand(-1, len(rows), 1, -1)
        parts = [self.explain_above(rows.take(at), own[:, at], above) for at in starts]
        names = ("log_likelihood", "log_prior", "log_q", "divergence", "z")
        return Explained(*(torch.cat([getattr(part, name) for part in parts], 1) for name in names))

    def walk(self, rows: Rows, noise: Tensor, above: int) -> Descent:
        """The way up and down under noise (S, B or 1, 1, N), for all classes: S·B·K rows, the classes last."""
        samples, count, k = len(noise), len(rows), self.spec.classes
        flat = noise.expand(-1, count, 1, -1).flatten(0, 2)
        seen = self.ascend(rows.seasons, self.parted(flat))

        def spread(tensor: Tensor) -> Tensor:
            drawings = samples * count // len(tensor)
            return tensor.repeat(drawings, *[1] * (tensor.dim() - 1)).repeat_interleave(k, 0)

        each = Seen(
            tuple(spread(feature) for feature in seen.features),
            tuple((spread(z), spread(mean), spread(log_std)) for z, mean, log_std in seen.drawn),
        )
        y = torch.arange(k, device=noise.device).repeat(samples * count)
        return self.descend(each, y, self.parted(flat.repeat_interleave(k, 0)), above)

    def parted(self, noise: Tensor) -> list[Tensor]:
        """Noise (N, W) of every draw, (N, Z, T)."""
        shapes = self.noises()
        parts = noise.split([channels * length for channels, length in shapes], 1)
        return [part.unflatten(1, shape) for part, shape in zip(parts, shapes, strict=True)]

    def decoded(self, h: Tensor) -> Tensor:
        """(N, G, P) from the context of the dates (N, H, G): each date has an answer of its own."""
        return torch.einsum("nhg,ghp->ngp", h, self.answer)

    def decode_prior(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        noise = temperature * self.standard_normal(len(y), self.noise_size, generator)
        return self.descend(None, y, self.parted(noise), self.settings.levels).raw

    def decode_mean(self, rows: Rows) -> Tensor:
        raw = self.walk(rows, torch.zeros_like(self.noise[:1]), 0).raw
        return raw.unflatten(0, (len(rows), self.spec.classes))
