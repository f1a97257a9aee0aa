"""Ladder of latent sequences whose dates depend on each other through the spatial dependency layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from cropgen.models.base import Context, InputSpec, Objective, TrainingData
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.flows.autoregressive import Autoregressive
from cropgen.models.layers.flows.conditioners import CausalConvolution
from cropgen.models.layers.flows.layer import Seen
from cropgen.models.layers.flows.univariate import Affine
from cropgen.models.layers.residual import cast_seasons
from cropgen.models.layers.temporal_conv import DATE_FEATURES, date_harmonics, grid_features
from cropgen.models.layers.vae.averaging import WeightAverage
from cropgen.models.layers.vae.level_bounds import LevelledModel
from cropgen.models.layers.vae.model import Explained, Rows, VariationalOptions
from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.layers.vae.posteriors import gaussian_log_prob
from cropgen.models.layers.vae.spatial import ResidualSpatialDependency
from cropgen.series.batches import Batch

_LOG_STD_BOUND = 3.0
_REMEASURED = 20


class SDNVAEOptions(VariationalOptions):
    """Options of `sdn-vae`."""

    estimator: Literal["elbo", "iwae", "jvi"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "elbo", description="of the gradient of the bound that is learnt from"
    )
    latent: int = Field(
        4, ge=1, description="size of the latent of a slot of a level", json_schema_extra={"search": [2, 4, 8]}
    )
    hidden: int = Field(
        32, ge=1, description="channels of the paths and of the sweeps", json_schema_extra={"search": [32, 64]}
    )
    samples: int = Field(4, ge=1, description="draws of the importance-weighted bound that scores a parcel")
    levels: int = Field(2, ge=1, le=5, description="levels of the ladder, each of half as many slots as the one below")
    directions: int = Field(2, ge=1, le=2, description="sweeps of a layer: 1 forward in time, 2 back as well")
    posterior: Literal["iaf", "diagonal"] = Field("iaf", description="map behind the diagonal Gaussian of q")
    ema: float = Field(
        0.99, ge=0, lt=1, description="share kept in a step by the average of the weights that answers; 0: none"
    )


class Level(nn.Module):
    """One level of the ladder.

    Arguments:
        slots: its length.
        options: of the model.
        finest: nothing is below it.
        at_start: prior and posterior begin at the standard normal.
    """

    def __init__(self, slots: int, options: SDNVAEOptions, *, finest: bool, at_start: bool) -> None:
        super().__init__()
        width, latent = options.hidden, options.latent
        self.up = nn.Conv1d(width, width, 3, padding=1)
        self.prior = nn.Linear(width, 2 * latent)
        self.posterior = nn.Linear(2 * width, 2 * latent)
        self.join = nn.Linear(latent, width)
        self.depend = ResidualSpatialDependency(width, width, directions=options.directions)
        self.below = None if finest else nn.Linear(DATE_FEATURES, width)
        self.map: Autoregressive | None = None
        if options.posterior == "iaf":
            univariate = Affine()
            steered = CausalConvolution(slots, latent, width, width, univariate, backwards=False, at_identity=True)
            self.map = Autoregressive(steered, univariate, "fixed-point")
        if at_start:
            for head in (self.prior, self.posterior):
                nn.init.zeros_(head.weight)
                nn.init.zeros_(head.bias)

    def read(self, h: Tensor, there: Tensor) -> Tensor:
        """(B, T, W) h + elu(conv h) where something was observed, `there` (B, T, 1)."""
        return (h + functional.elu(self.up(h.transpose(1, 2)).transpose(1, 2))) * there


@dataclass(frozen=True)
class Read:
    """What the path upwards says of a level.

    Arguments:
        h: (B, T, W), 0 where nothing was observed.
        there: (B, T, 1) 1 where something was.
    """

    h: Tensor
    there: Tensor


@dataclass(frozen=True)
class Descent:
    """What the path downwards made: raw (N, G, K, P), and lists of (N, T Z) draws and (N,) log p and log q by level."""

    raw: Tensor
    z: list[Tensor]
    log_prior: list[Tensor]
    log_q: list[Tensor]


class SDNVAE(LevelledModel):
    """Latent sequences z_L, …, z_1 of rising resolution make a season from the top down.

    Level l has ⌈G / 2^{l−1}⌉ slots. With b_l the season read upwards by masked convolutions and means of neighbours,
    t_l the path downwards and ResSDN of `layers.vae.spatial`,

        p(x, z | y) = Π_l p(z_l | z_>l) p(e | z, y),   q(z | x) = Π_l q(z_l | z_>l, x)

        t̃_l = up(t_{l+1}) + V τ_l,   t_l = ResSDN(t̃_l + U z_l),   τ_l harmonics of the year
        p(z_l | z_>l)    = N(μ_l(t̃_l), diag σ_l²(t̃_l)),   N(0, I) at first
        q(z_l | z_>l, x) = an inverse autoregressive flow of N(μ_l + m_l δ_l, diag (σ_l e^{m_l ρ_l})²) of (t̃_l, b_l)
        p(e_t | z, y)    = N(o_{y,t} + d_{y,t} + g(t_1, y), diag exp v_t),   g zero at first

        ELBO_y = E_q [log p(e | z, y) − Σ_l log q(z_l | ·) / p(z_l | ·)]

    m_l tells where a level saw an observation; elsewhere q is p. The flow runs over the slots of a level in time. Paths
    run once for all classes, the class enters the last perceptron. What answers are the moving averages of the weights,
    by which validation rows judge too; the running statistics of the recognition head are measured again for them.
    With start=none the mixture of discretised logistics is a likelihood too. z is (S, B, 1, Σ_l T_l Z).

    References:
        Spatial Dependency Networks: Neural Layers for Improved Generative Image Modeling, Miladinović, Stanić, Bauer,
        Schmidhuber and Buhmann, 2021;
        Improved Variational Inference with Inverse Autoregressive Flow, Kingma et al., 2016.
    """

    Settings = SDNVAEOptions

    def __init__(self, spec: InputSpec, options: SDNVAEOptions) -> None:
        super().__init__(spec, options)
        width = options.hidden
        self.read_in = nn.Linear(2 * self.bands + 1 + DATE_FEATURES, width)
        self.begin = nn.Linear(DATE_FEATURES, width)
        self.ladder = nn.ModuleList(
            Level(slots, options, finest=number == 0, at_start=self.at_start)
            for number, slots in enumerate(self.lengths)
        )
        self.answer = ClasswiseMLP(
            width, spec.classes, self.emission.outputs, hidden=2 * width, start_at_zero=self.at_start
        )
        self.average = WeightAverage(self, options.ema) if options.ema else None

    @property
    def own(self) -> SDNVAEOptions:
        return cast(SDNVAEOptions, self.options)

    @property
    def levels(self) -> int:
        return self.own.levels

    @property
    def lengths(self) -> list[int]:
        """Slots of the levels, the finest first."""
        return [-(-self.slots // 2**number) for number in range(self.own.levels)]

    @property
    def noise_size(self) -> int:
        return sum(self.lengths) * self.own.latent

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        if self.average is not None:
            self.average.follow(self)
        return super().objective(batch, generator)

    def log_posterior(self, batch: Batch) -> Tensor:
        if self.average is None:
            return super().log_posterior(batch)
        with self.average.answering(self):
            return super().log_posterior(batch)

    def finish(self, data: TrainingData, context: Context) -> None:
        if self.average is not None:
            self.average.follow(self)
            self.average.replace(self)
            self._remeasure_activations(context.generator("activations"))
        super().finish(data, context)

    @torch.no_grad()
    def _remeasure_activations(self, generator: torch.Generator) -> None:
        """Give the recognition head the running statistics of the averaged weights: those it has are of the others."""
        norms = [part for part in self.recognition.modules() if isinstance(part, nn.BatchNorm1d)]
        if self._bank is None or not norms:
            return
        learning, momenta = self.training, [norm.momentum for norm in norms]
        self.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train()
            norm.momentum = None
        for _ in range(_REMEASURED):
            drawn = self._bank.draw(self.chosen.labelled_batch, self.chosen.unlabelled_batch, generator)
            self._features(cast_seasons(drawn, self.shift.device, self.shift.dtype), None)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        self.train(learning)

    def read(self, seasons: Seasons) -> list[Read]:
        """What the levels see of the seasons, the finest first."""
        seen = grid_features(seasons.x, seasons.mask, seasons.day)
        there = seasons.mask[..., None].to(seen.dtype)
        e = seasons.e.unflatten(-1, (self.slots, -1))
        h, found = functional.elu(self.read_in(torch.cat([seen, e], -1))) * there, list[Read]()
        for number, level in enumerate(self.ladder):
            if number:
                h, there = _halved(h, there)
            h = cast(Level, level).read(h, there)
            found.append(Read(h, there))
        return found

    def descend(self, noise: Tensor, seen: list[Read] | None, temperature: float = 1.0, above: int = 0) -> Descent:
        """The path downwards under noise (N, Σ T Z), drawn from q where the seasons are read (N rows), else from p.

        Levels up to `above`, the finest ones, are drawn from p in any case.
        """
        harmonics = self._harmonics()
        parts = noise.split([length * self.own.latent for length in self.lengths], -1)
        t = self.begin(harmonics[-1]).expand(len(noise), -1, -1)
        z, log_prior, log_q = list[Tensor](), list[Tensor](), list[Tensor]()
        for number in reversed(range(self.own.levels)):
            level = cast(Level, self.ladder[number])
            own = temperature * parts[number].unflatten(-1, (self.lengths[number], -1))
            mean, log_std = _bounded(level.prior(t))
            read = None if seen is None or number < above else seen[number]
            drawn, density = self._drawn(level, t, mean, log_std, own, read)
            log_prior.append(gaussian_log_prob(drawn, mean, log_std).sum(-1))
            log_q.append(density)
            z.append(drawn.flatten(1))
            t = level.depend(t + level.join(drawn))
            if level.below is not None:
                t = t.repeat_interleave(2, 1)[:, : self.lengths[number - 1]] + level.below(harmonics[number - 1])
        return Descent(self.answer(t[..., None, :]), z, log_prior, log_q)

    def _drawn(
        self, level: Level, t: Tensor, mean: Tensor, log_std: Tensor, noise: Tensor, seen: Read | None
    ) -> tuple[Tensor, Tensor]:
        """Draws (N, T, Z) of a level and their log q (N,)."""
        if seen is not None:
            shift, change = _bounded(level.posterior(torch.cat([t, seen.h], -1)))
            mean, log_std = mean + seen.there * shift, log_std + seen.there * change
        first = mean + log_std.exp() * noise
        density = gaussian_log_prob(first, mean, log_std).sum(-1)
        if seen is None or level.map is None:
            return first, density
        present = seen.there.expand_as(first).flatten(1)
        pooled = seen.h.sum(1) / seen.there.sum(1).clamp(min=1)
        v = first.flatten(1)
        moved, log_det = level.map(v * present, Seen(seen.there[..., 0], present, pooled))
        return torch.where(present > 0, moved, v).view_as(first), density - log_det

    def explain(self, rows: Rows, noise: Tensor) -> Explained:
        return self.scored_above(rows, noise, 0)

    def scored_above(self, rows: Rows, noise: Tensor, above: int) -> Explained:
        lead = (len(noise), len(rows))
        seen = [
            Read(*(part.expand(lead[0], *part.shape).flatten(0, 1) for part in (one.h, one.there)))
            for one in self.read(rows.seasons)
        ]
        found = self.descend(noise.expand(*lead, 1, -1).flatten(0, 2), seen, above=above)
        log_prior, log_q = (torch.stack(part, -1).view(*lead, 1, -1) for part in (found.log_prior, found.log_q))
        return Explained(
            self.emitted(rows, found.raw.transpose(1, 2).unflatten(0, lead)),
            log_prior.sum(-1),
            log_q.sum(-1),
            log_q - log_prior,
            torch.cat(found.z, -1).view(*lead, 1, -1),
        )

    def decode_mean(self, rows: Rows) -> Tensor:
        """(B, K, G, P) where no noise is drawn."""
        found = self.descend(rows.features.new_zeros(len(rows), self.noise_size), self.read(rows.seasons))
        return found.raw.transpose(1, 2)

    def decode_prior(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        noise = self.standard_normal(len(y), self.noise_size, generator)
        return self.descend(noise, None, temperature).raw[torch.arange(len(y)), :, y]

    def _harmonics(self) -> list[Tensor]:
        """(T, 4) harmonics of the middle days of the slots of every level."""
        day = self.start_days.to(self.shift.dtype)[None, :, None]
        there, found = torch.ones_like(day), list[Tensor]()
        for number in range(self.own.levels):
            if number:
                day, there = _halved(day, there)
            found.append(date_harmonics(day[0, :, 0]))
        return found


def _bounded(answer: Tensor) -> tuple[Tensor, Tensor]:
    """Mean, and log standard deviation kept in reach, (…, Z) each."""
    mean, spread = answer.chunk(2, -1)
    return mean, _LOG_STD_BOUND * torch.tanh(spread / _LOG_STD_BOUND)


def _halved(h: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """Means over pairs of neighbours of what is there, (B, ⌈T / 2⌉, ·), and where any is."""
    odd = h.shape[1] % 2
    pairs, present = (functional.pad(part, (0, 0, 0, odd)).unflatten(1, (-1, 2)) for part in (h, there))
    count = present.sum(2)
    return (pairs * present).sum(2) / count.clamp(min=1), count.clamp(max=1)
