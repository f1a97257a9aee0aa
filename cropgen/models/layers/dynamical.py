"""What the dynamical variational auto-encoders share: rows as they see them, bounds, scores and options.

A model of this family gives the walk of its latent states through a season under one draw of noise, for all samples,
parcels and classes at once. From it follow, here and only here, the bound it learns from, the importance-weighted bound
it scores by, the scores of every beginning of a season and what its latent states are.

With λ and ρ of `ChainPath`, m_t the mask and KL_t(y) = KL(q(z_t | ·, y) ‖ p(z_t | ·, y)),

    learning   Σ_t m_t [log p(e_t | ·, y) − w max(KL_t, free bits)],   w climbs from 0 to 1 over `warm_up` steps
    scoring    log 1/S Σ_s exp Σ_t m_t [log p(e_t | z^s, y) + log p(z^s_t | ·, y) − log q(z^s_t | ·, y)]

A latent state of the whole season adds its own KL, weighted by w too but without free bits, and its own ratio.
The same S draws of noise serve all parcels and classes, so equal rows score equally.

Where a formula of a row holds Δ_t, the features of the day stand beside it, and the covariates of the site where the
model is given any: together they are the control, known before the date is observed. All else is conditioned on it.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass, fields, replace
from typing import cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cropgen.core.errors import UsageError
from cropgen.kernels.recurrence.reference import ChainPath
from cropgen.models.base import Context, InputSpec, Mixture, Objective, TrainingData
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.foresight import foresee
from cropgen.models.layers.latent_dynamics import (
    TIME_FEATURES,
    gaussian_per_date,
    kl_per_date,
    log_ratio_per_date,
    time_features,
)
from cropgen.models.layers.place import Place
from cropgen.models.layers.residual import ResidualModel, ResidualOptions
from cropgen.models.layers.vae.feedback import Feedback, logistic_noise
from cropgen.series.batches import Batch

_NOISE_SEED = 13
_LARGEST_BLOCK = 1 << 22
_LARGEST_FORESIGHT = 1 << 23


class DynamicalOptions(ResidualOptions):
    """Options of every dynamical variational auto-encoder."""

    hidden: int = Field(
        64,
        ge=1,
        description="units of the recurrent network and of the perceptrons",
        json_schema_extra={"search": [32, 64]},
    )
    latent: int = Field(
        8, ge=1, description="size of the latent state z of a date", json_schema_extra={"search": [4, 8, 16]}
    )
    smoothing: int = Field(32, ge=1, description="units of the inference network in each direction of time")
    samples: int = Field(4, ge=1, description="samples of the importance-weighted bound that scores a parcel")
    warm_up: int = Field(0, ge=0, description="steps over which the weight of the KL climbs from 0 to 1; 0: 1 always")
    free_bits: float = Field(0.0, ge=0, description="nats of KL of an observed date below which none is saved")
    overshooting: int = Field(
        1, ge=1, description="D: the KL is the mean over priors rolled 1 to D dates ahead, where z depends on the past"
    )
    learn_initial: bool = Field(True, description="learn the latent state before the first date; false: zero")
    variance_floor: float = Field(
        0.0, ge=0, lt=1, description="least variance of an innovation, in units of the tied Gaussian's"
    )
    input_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the dates x(t-1) hidden from what predicts x(t) while learning"
    )
    dynamic_dropout: bool = Field(
        False,
        description="the model decides date by date what is hidden, in its scores and samples too; the share "
        "input_dropout costs nothing",
    )
    state_temperature: float = Field(
        1.0, ge=0, description="scale of the noise of z in samples, besides their temperature"
    )

    @model_validator(mode="after")
    def _hidden_share_fits(self) -> DynamicalOptions:
        if self.dynamic_dropout and not self.input_dropout:
            raise ValueError("dynamic_dropout needs the share that costs nothing: set input_dropout, such as 0.3")
        return self


@dataclass(frozen=True)
class View:
    """B rows as the networks see them, time-major (G, S, B, K, ·); an axis of length 1 is shared.

    Arguments:
        surprise: (G, 1, B, K, C) e_t − o_{y,t} − d_{y,t}, 0 where missing.
        mask: (G, 1, B, 1) 1 at observed dates.
        now: (G, B, C + 1) e_t, 0 where missing, and m_t.
        before: (G, B, C + 1) the same of the slot before, 0 in the first.
        control: (G, B, U) u_t, known before the date is observed: features of its day, the gap since the last
            observation, and the covariates of the site.
        each: (1, 1, 1, K, K) indicators of the classes.
    """

    surprise: Tensor
    mask: Tensor
    now: Tensor
    before: Tensor
    control: Tensor
    each: Tensor


@dataclass(frozen=True)
class Walk:
    """What one draw of noise makes of B rows.

    Arguments:
        path: the latent states and their distributions, (G, S, B, K, Z).
        mean, change: (G, S, B, K, C) what the states add to the mean and the log-variance of e_t.
        log_density: (G, S, B, K) log p(e_t | ·, y), 0 where missing.
        whole: the latent state of the whole season, its path (1, S, B, K, ·) and noise, or None.
    """

    path: ChainPath
    mean: Tensor
    change: Tensor
    log_density: Tensor
    whole: tuple[ChainPath, Tensor] | None = None


def control_width(spec: InputSpec) -> int:
    """U, size of the control u_t of a date: features of time and covariates of the site."""
    return TIME_FEATURES + len(spec.site)


class DynamicalModel(ResidualModel):
    """Base of the dynamical variational auto-encoders around the tied Gaussian.

    A subclass gives `walk` and `draw_innovations`, and says by `causal` whether q sees dates up to its own only, by
    `feeds_back` whether the observations before a date tell something of it besides the latent states.

    Raises:
        UsageError: the observations of what is to be hidden do not feed back.
    """

    noise: Tensor
    updates: Tensor
    causal = False
    feeds_back = False

    def __init__(self, spec: InputSpec, options: DynamicalOptions) -> None:
        super().__init__(spec, options)
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        shape = (self.noise_rows, options.samples, 1, 1, self.noise_width)
        self.register_buffer("noise", torch.randn(shape, generator=generator))
        self.place = Place(len(spec.site)) if spec.site else None
        if options.warm_up:
            self.register_buffer("updates", torch.zeros((), dtype=torch.int64))
        if options.input_dropout and not self.feeds_back:
            raise UsageError(
                f"{type(self).__name__} predicts a date from its latent states alone: input_dropout would hide nothing",
                hint="leave input_dropout at 0, or take srnn, vrnn, storn or rfn",
            )
        self.gate: Feedback | None = None
        if options.dynamic_dropout:
            self.gate = Feedback(
                "dynamic-input", options.input_dropout, bands=len(spec.bands) + 1, hidden=self.control_width, latent=0
            )

    @property
    def settings(self) -> DynamicalOptions:
        return cast(DynamicalOptions, self.options)

    @property
    def noise_rows(self) -> int:
        """Draws of noise of a season: one for each slot."""
        return self.spec.calendar.count

    @property
    def noise_width(self) -> int:
        """Size of a draw of noise: that of the latent state."""
        return self.settings.latent

    @property
    def control_width(self) -> int:
        """U, size of the control of a date."""
        return control_width(self.spec)

    def control_of(self, time: Tensor, site: Tensor) -> Tensor:
        """(G, B, U) the control for features of time (G, B, 5) and covariates of the site (B, S)."""
        if self.place is None:
            return time
        return torch.cat([time, self.place(site).to(time).expand(len(time), -1, -1)], -1)

    @abstractmethod
    def walk(self, view: View, noise: Tensor) -> Walk:
        """The latent states of rows under noise (G, S, B or 1, 1, Z)."""

    def initial_state(self) -> Tensor:
        """(Z,) zeros, learnt or not."""
        start = torch.zeros(self.settings.latent)
        return nn.Parameter(start) if self.settings.learn_initial else start

    def prepare(self, data: TrainingData, context: Context) -> None:
        super().prepare(data, context)
        if self.place is not None:
            self.place.learn(data)

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        if self.settings.warm_up:
            self.updates += 1
        return super().objective(batch, generator)

    def class_scores(self, seasons: Seasons, features: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None:
            weights = [self.log_weights(block).sum(0) for block in self._blocks(seasons)]
            return torch.logsumexp(torch.cat(weights, 1), 0) - math.log(self.noise.shape[1])
        shape = (len(self.noise), 1, len(seasons), 1, self.noise.shape[-1])
        noise = torch.randn(shape, generator=generator, dtype=self.noise.dtype, device=generator.device)
        noise = noise.to(self.noise.device)
        view, cost = self._hide_past(self._all(seasons), generator)
        walk = self.walk(view, noise)
        return self._bound(view, walk, self.divergence(view, walk, noise, generator)) - cost

    def log_weights(self, seasons: Seasons) -> Tensor:
        """(G, S, B, K) log p(e_t, z_t | past, y) − log q(z_t | ·) of each date under the fixed noise."""
        return self._weights(self.walk(self.view(seasons), self.noise))

    def prefix_log_joint(self, batch: Batch) -> Tensor:
        """(B, G, K) log p(x_1…t, y) after each slot t: the score of every beginning of the season.

        Raises:
            UsageError: q sees the whole season, so that the score of a beginning depends on what follows it.
        """
        if not self.causal:
            raise UsageError("scores of the beginnings of a season need a filter", hint=self.filter_hint)
        seasons = self._seasons(batch)
        weights = torch.cat([self.log_weights(block).cumsum(0) for block in self._blocks(seasons)], 2)
        scores = torch.logsumexp(weights, 1) - math.log(weights.shape[1])
        return scores.transpose(0, 1) - seasons.date_log_det.cumsum(1)[..., None] + self.tied.log_prior

    filter_hint = "train with --set inference=filter"

    def kl_by_date(self, batch: Batch) -> Tensor:
        """(B, G, K) mean KL_t over the samples, in nats: where the season told what the past had not; 0 at gaps."""
        seasons = self._seasons(batch)
        blocks = [kl_per_date(self.walk(self.view(block), self.noise).path).mean(1) for block in self._blocks(seasons)]
        return torch.cat(blocks, 1).transpose(0, 1)

    def latent_states(self, batch: Batch) -> Tensor:
        """(B, G, Z) mean of z_t over classes and samples: E[z_t | x_≤t] where q is a filter, else E[z_t | x]."""
        found = []
        for block in self._blocks(self._seasons(batch)):
            walk = self.walk(self.view(block), self.noise)
            weights = self._weights(walk)
            told = weights.cumsum(0) if self.causal else weights.sum(0, keepdim=True)
            found.append(self.averaged(walk.path.z, told))
        return torch.cat(found)

    def averaged(self, states: Tensor, told: Tensor) -> Tensor:
        """(B, G, Z) mean over samples and classes.

        Arguments:
            states: (G, S, B, K, Z).
            told: (G, S, B, K) log weights of all that is known at each date, or (1, S, B, K) the same at every one.
        """
        share = torch.softmax((told + self.tied.log_prior).transpose(1, 2).flatten(2), -1)
        share = share.unflatten(-1, (told.shape[1], told.shape[3]))
        return torch.einsum("gsbkz,gbsk->bgz", states.expand(-1, *told.shape[1:], -1), share)

    def predictive(self, batch: Batch, slots: Tensor) -> Mixture | None:
        """What is expected at `slots` (S,), each value by itself: gaps filled, and days to come foreseen.

        The latent path is the mean of q, and of the transition where nothing was observed; it and the past are plugged
        in, not integrated over. At the start this is the answer of the tied Gaussian.
        """
        per_row = len(slots) * len(self.spec.bands) * self.size * self.spec.classes
        at_once = max(1, _LARGEST_FORESIGHT // per_row)
        parts = [self._foreseen(batch.take(rows), slots) for rows in torch.arange(len(batch)).split(at_once)]
        return Mixture(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Mixture)))

    def _foreseen(self, batch: Batch, slots: Tensor) -> Mixture:
        seasons = self._seasons(batch)
        walk = self.walk(self.view(seasons), torch.zeros_like(self.noise[:, :1]))
        own = self.log_var.unflatten(0, (-1, walk.change.shape[-1]))[:, None, None, None]
        spread = self.log_variance_of(walk.change, own)
        size = (-1, len(batch), self.spec.classes, walk.mean.shape[-1])
        departure, spread = (part[:, 0].expand(size).permute(1, 2, 0, 3).flatten(2) for part in (walk.mean, spread))
        weight = torch.softmax(self.log_joint(batch), -1)
        mean, variance = foresee(self.tied, seasons.x, seasons.mask, slots, departure + self.shift, spread)
        shared = torch.einsum("bk,bksc->bsc", weight, variance) * self.tied.scale.square()
        return Mixture(weight, self.tied.restore(mean), shared)

    def view(self, seasons: Seasons) -> View:
        """Rows as `walk` takes them."""
        view = self._all(seasons)
        return view if self.gate is None else replace(view, before=self.shown(view.before, view.control))

    def shown(self, before: Tensor, control: Tensor) -> Tensor:
        """(…, C + 1) what is shown of the slot before (…, C + 1) under the control (…, U) where nothing is drawn."""
        return before if self.gate is None else before * self.gate(before, control, control[..., :0], None)[0]

    def _all(self, seasons: Seasons) -> View:
        bands = seasons.x.shape[-1]
        e = seasons.e.unflatten(-1, (-1, bands)).transpose(0, 1)[:, None, :, None]
        offset = (seasons.offset + self.shift).unflatten(-1, (-1, bands)).permute(2, 0, 1, 3)[:, None]
        mask = seasons.mask.T.to(e.dtype)[:, None, :, None]
        now = torch.cat([e[:, 0, :, 0], mask[:, 0, :, 0][..., None]], -1)
        return View(
            surprise=(e - offset) * mask[..., None],
            mask=mask,
            now=now,
            before=torch.cat([torch.zeros_like(now[:1]), now[:-1]]),
            control=self.control_of(time_features(seasons.day, seasons.mask).transpose(0, 1), seasons.site),
            each=torch.eye(self.spec.classes, dtype=e.dtype, device=e.device)[None, None, None],
        )

    def log_variance_of(self, change: Tensor, own: Tensor) -> Tensor:
        """Log-variance of an innovation: v, its change, and the floor."""
        total = own + change
        floor = self.settings.variance_floor
        return total.clamp(min=math.log(floor)) if floor else total

    def emitted(
        self, view: View, path: ChainPath, parts: tuple[Tensor, Tensor], whole: tuple[ChainPath, Tensor] | None = None
    ) -> Walk:
        """The walk of a path whose emission has the given mean and change of log-variance (G, S, B, K, C)."""
        mean, change = parts
        own = self.log_var.unflatten(0, (-1, mean.shape[-1]))[:, None, None, None]
        density = gaussian_per_date(view.surprise - mean, self.log_variance_of(change, own), view.mask)
        return Walk(path, mean, change, density, whole)

    def divergence(self, view: View, walk: Walk, noise: Tensor, generator: torch.Generator) -> Tensor:
        """(G, S, B, K) KL of each date that is learnt from."""
        return kl_per_date(walk.path)

    def _weights(self, walk: Walk) -> Tensor:
        weights = walk.log_density + log_ratio_per_date(walk.path, self.noise[-len(walk.path.z) :])
        if walk.whole is None:
            return weights
        return torch.cat([weights[:1] + log_ratio_per_date(*walk.whole), weights[1:]])

    def _bound(self, view: View, walk: Walk, kl: Tensor) -> Tensor:
        """(B, K) the bound that is learnt from, of one sample."""
        options = self.settings
        if options.free_bits:
            kl = kl.clamp(min=options.free_bits) * view.mask
        if walk.whole is not None:
            kl = torch.cat([kl[:1] + kl_per_date(walk.whole[0]), kl[1:]])
        if options.warm_up:
            kl = kl * (self.updates / options.warm_up).clamp(max=1.0)
        return (walk.log_density - kl).sum((0, 1))

    def _hide_past(self, view: View, generator: torch.Generator) -> tuple[View, Tensor]:
        """The rows with some x_{t−1} hidden from what predicts x_t, and what the decision costs, () or (B, 1) nats."""
        if not self.settings.input_dropout:
            return view, view.before.new_zeros(())
        shape = (*view.before.shape[:2], 1)
        if self.gate is None:
            kept = torch.rand(shape, generator=generator, device=generator.device) >= self.settings.input_dropout
            return replace(view, before=view.before * kept.to(view.before)), view.before.new_zeros(())
        noise = logistic_noise(shape, view.before, generator)
        kept, cost = self.gate(view.before, view.control, view.control[..., :0], noise)
        return replace(view, before=view.before * kept), (cost * view.before[..., -1]).sum(0)[:, None]

    def _blocks(self, seasons: Seasons) -> list[Seasons]:
        """The rows in blocks whose hidden layers fit in memory."""
        per_row = self.noise[..., 0].numel() * self.spec.classes * self.settings.hidden
        rows = max(1, _LARGEST_BLOCK // per_row)
        return [seasons.take(slice(i, i + rows)) for i in range(0, max(len(seasons), 1), rows)]

    def season_to_draw(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What every draw of complete seasons needs.

        Returns:
            control (G, B, U) at the average site, centre (G, B, C) of the innovations, and indicators (1, B, K).
        """
        dtype, bands = self.shift.dtype, len(self.spec.bands)
        day = torch.as_tensor(self.spec.calendar.start_days(), dtype=dtype).expand(len(y), -1)
        time = time_features(day, torch.ones_like(day, dtype=torch.bool)).transpose(0, 1)
        centre = (self.full_offset() + self.shift)[y].unflatten(-1, (-1, bands)).transpose(0, 1)
        which = nn.functional.one_hot(y, self.spec.classes).to(dtype)[None]
        return self.control_of(time, time.new_full((len(y), len(self.spec.site)), torch.nan)), centre, which

    def draw_date(
        self, t: int, centre: Tensor, mean: Tensor, change: Tensor, scale: float, generator: torch.Generator
    ) -> Tensor:
        """(B, C) innovations of slot t drawn about `centre` + `mean`, their noise scaled."""
        spread = self.log_variance_of(change, self.log_var.unflatten(0, (-1, mean.shape[-1]))[t])
        noise = torch.randn(mean.shape, generator=generator, dtype=self.shift.dtype)
        return centre + mean + scale * torch.exp(spread / 2) * noise
