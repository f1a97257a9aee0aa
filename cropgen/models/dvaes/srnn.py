"""Stochastic recurrent network on time-ordered innovations."""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.core.errors import UsageError
from cropgen.kernels.dispatch import select_kernel
from cropgen.kernels.recurrence.reference import Chain, ChainInputs, ChainPath
from cropgen.models.base import InputSpec
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.latent_dynamics import (
    TIME_FEATURES,
    Emission,
    LatentHead,
    gaussian_per_date,
    kl_per_date,
    log_ratio_per_date,
    time_features,
)
from cropgen.models.layers.residual import ResidualModel, ResidualOptions
from cropgen.series.batches import Batch

_NOISE_SEED = 13
_LARGEST_BLOCK = 1 << 22


class SRNNOptions(ResidualOptions):
    """Options of `srnn`."""

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
    inference: Literal["smooth", "filter"] = Field(
        "smooth", description="smooth: q sees the whole season; filter: q sees dates up to its own, scores are causal"
    )
    retention: float = Field(0.9, ge=0, lt=1, description="share of the latent state kept from slot to slot at first")
    samples: int = Field(4, ge=1, description="samples of the importance-weighted bound that scores a parcel")
    kernel: str = Field("auto", description="what runs the recurrence: auto, reference or hoisted")


class SRNN(ResidualModel):
    """A stochastic recurrent network around the tied Gaussian, on the innovations e_t of each date.

    With h_t a recurrent network over e_<t, o_t one over the season (or over e_≤t), o_{y,t} the class mean's innovation,
    Δ_t the days since the last observation and m_t whether the date was observed,

        p(z_t | z_{t−1}, y) = N(r z_{t−1} + f(z_{t−1}, h_t, Δ_t, y), diag e^λ)
        p(e_t | z_t, y)     = N(o_{y,t} + d_{y,t} + g(z_t, h_t, Δ_t, y), diag exp(v_t + s(z_t, h_t, Δ_t, y)))
        q(z_t | z_{t−1}, y) = N(p's mean + m_t δ, p's log-variance + m_t ρ) of (z_{t−1}, o_t, e_t − o_{y,t}, y)

        ELBO_y = Σ_t m_t E_q [log p(e_t | z_t, y) − KL(q(z_t | z_{t−1}, y) ‖ p(z_t | z_{t−1}, y))]

    f, g, s, d, v, δ and ρ begin at zero: z is unused, the bound is tight, and the model begins exactly at the tied
    Gaussian. A missing date is stepped over by the transition: it has no likelihood, no KL and no influence. One draw
    of noise serves all classes. While learning the ELBO takes one sample; a parcel is scored by the importance-weighted
    bound over `samples` fixed draws, so equal rows score equally.

    References:
        Sequential Neural Models with Stochastic Layers, Fraccaro, Sønderby, Paquet and Winther, 2016;
        Dynamical Variational Autoencoders: A Comprehensive Review, Girin, Leglaive, Bie, Diard, Hueber and
        Alameda-Pineda, 2021; Importance Weighted Autoencoders, Burda, Grosse and Salakhutdinov, 2016.
    """

    Settings = SRNNOptions
    noise: Tensor

    def __init__(self, spec: InputSpec, options: SRNNOptions) -> None:
        super().__init__(spec, options)
        slots, bands, k = spec.calendar.count, len(spec.bands), spec.classes
        hidden, latent = options.hidden, options.latent
        self.run_chain = select_kernel(options.kernel)
        self.causal = options.inference == "filter"
        self.retention = options.retention
        seen = bands + 1 + TIME_FEATURES
        self.memory = nn.GRU(seen, hidden)
        self.observer = nn.GRU(seen, options.smoothing, bidirectional=not self.causal)
        observed = options.smoothing * (1 if self.causal else 2)
        self.transition = LatentHead(hidden + TIME_FEATURES, 0, k, latent, hidden)
        self.inference = LatentHead(observed, bands, k, latent, hidden)
        self.initial = nn.Parameter(torch.zeros(latent))
        self.emission = Emission(hidden + TIME_FEATURES, latent, k, hidden, bands)
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        self.register_buffer("noise", torch.randn((slots, options.samples, 1, 1, latent), generator=generator))

    def class_scores(self, seasons: Seasons, features: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is None:
            weights = [self._log_weights(block).sum(0) for block in self._blocks(seasons)]
            return torch.logsumexp(torch.cat(weights, 1), 0) - math.log(self.noise.shape[1])
        slots, latent = self.noise.shape[0], self.noise.shape[-1]
        shape = (slots, 1, len(seasons), 1, latent)
        noise = torch.randn(shape, generator=generator, dtype=self.noise.dtype, device=generator.device)
        path, log_density = self._walk(seasons, noise)
        return (log_density - kl_per_date(path)).sum((0, 1))

    def prefix_log_joint(self, batch: Batch) -> Tensor:
        """(B, G, K) log p(x_1…t, y) after each slot t: the score of every beginning of the season.

        Raises:
            UsageError: q sees the whole season, so that the score of a beginning depends on what follows it.
        """
        if not self.causal:
            raise UsageError(
                "scores of the beginnings of a season need a filter", hint="train with --set inference=filter"
            )
        seasons = self._seasons(batch)
        weights = torch.cat([self._log_weights(block).cumsum(0) for block in self._blocks(seasons)], 2)
        scores = torch.logsumexp(weights, 1) - math.log(weights.shape[1])
        return scores.transpose(0, 1) - seasons.date_log_det.cumsum(1)[..., None] + self.tied.log_prior

    def _blocks(self, seasons: Seasons) -> list[Seasons]:
        """The rows in blocks whose hidden layers fit in memory."""
        rows = max(1, _LARGEST_BLOCK // (self.noise[..., 0].numel() * self.emission.of_class.numel()))
        return [seasons.take(slice(i, i + rows)) for i in range(0, max(len(seasons), 1), rows)]

    def _log_weights(self, seasons: Seasons) -> Tensor:
        """(G, S, B, K) log p(e_t, z_t | past, y) − log q(z_t | ·) of each date under the fixed noise."""
        path, log_density = self._walk(seasons, self.noise)
        return log_density + log_ratio_per_date(path, self.noise)

    def _walk(self, seasons: Seasons, noise: Tensor) -> tuple[ChainPath, Tensor]:
        """The latent chain of each row and class, and log p(e_t | z_t, ·) (G, S, B, K) along it."""
        bands = seasons.x.shape[-1]
        e = seasons.e.unflatten(-1, (-1, bands)).transpose(0, 1)[:, None, :, None]
        offset = (seasons.offset + self.shift).unflatten(-1, (-1, bands)).permute(2, 0, 1, 3)[:, None]
        mask = seasons.mask.T.to(e.dtype)[:, None, :, None]
        surprise = (e - offset) * mask[..., None]
        context, observed = self._encode(e[:, 0, :, 0], mask[:, 0, :, 0], seasons)
        each = torch.eye(self.spec.classes, dtype=e.dtype, device=e.device)[None, None, None]
        inputs = ChainInputs(
            self.transition.inputs(each, context),
            self.inference.inputs(each, observed, surprise),
            mask[..., None],
            noise,
        )
        path = self.run_chain(self._chain(), inputs)
        mean, change = self.emission(path.z, context, each)
        log_variance = self.log_var.unflatten(0, (-1, bands))[:, None, None, None] + change
        return path, gaussian_per_date(surprise - mean, log_variance, mask)

    def _chain(self) -> Chain:
        log_variance = math.log1p(-(self.retention**2))
        return Chain(self.transition.weights(), self.inference.weights(), self.initial, self.retention, log_variance)

    def _encode(self, e: Tensor, mask: Tensor, seasons: Seasons) -> tuple[Tensor, Tensor]:
        """h with the features of time (G, 1, B, 1, ·), and o (G, 1, B, 1, ·), from e (G, B, C) and mask (G, B)."""
        time = time_features(seasons.day, seasons.mask).transpose(0, 1)
        now = torch.cat([e, mask[..., None]], -1)
        before = torch.cat([torch.zeros_like(now[:1]), now[:-1]])
        memory = self.memory(torch.cat([before, time], -1))[0]
        observed = self.observer(torch.cat([now, time], -1))[0]
        return torch.cat([memory, time], -1)[:, None, :, None], observed[:, None, :, None]

    def draw_innovations(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        dtype, bands = self.shift.dtype, len(self.spec.bands)
        day = torch.as_tensor(self.spec.calendar.start_days(), dtype=dtype).expand(len(y), -1)
        time = time_features(day, torch.ones_like(day, dtype=torch.bool)).transpose(0, 1)
        centre = (self.full_offset() + self.shift)[y].unflatten(-1, (-1, bands)).transpose(0, 1)
        spread = self.log_var.unflatten(0, (-1, bands))
        which = nn.functional.one_hot(y, self.spec.classes).to(dtype)[None]
        z, memory = self.initial.expand(len(y), -1), None
        past = torch.zeros(1, len(y), bands + 1, dtype=dtype)
        season = []
        for t in range(len(time)):
            latest, memory = self.memory(torch.cat([past, time[t : t + 1]], -1), memory)
            context = torch.cat([latest, time[t : t + 1]], -1)
            noise = torch.randn((1, len(y), z.shape[-1]), generator=generator, dtype=dtype)
            z = self._step(z, context, which, temperature * noise)
            mean, change = self.emission(z, context[0], which[0])
            noise = torch.randn((len(y), bands), generator=generator, dtype=dtype)
            e = centre[t] + mean + temperature * torch.exp((spread[t] + change) / 2) * noise
            past = torch.cat([e, torch.ones_like(e[:, :1])], -1)[None]
            season.append(e)
        return torch.stack(season, 1).flatten(1)

    def _step(self, z: Tensor, context: Tensor, which: Tensor, noise: Tensor) -> Tensor:
        """One unobserved step of the chain from z (B, Z): context (1, B, ·), indicators (1, B, K), noise (1, B, Z)."""
        chain = self._chain()._replace(initial=z)
        unseen = z.new_zeros(1, 1, self.inference.shared.shape[0])
        nothing = z.new_zeros(1, 1, len(self.spec.bands))
        inputs = ChainInputs(
            self.transition.inputs(which, context),
            self.inference.inputs(which, unseen, nothing),
            z.new_zeros(1, 1, 1),
            noise,
        )
        return self.run_chain(chain, inputs).z[0]
