"""Self-supervised variational auto-encoder: a coarse view of the season first, then what it leaves open."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import InputSpec
from cropgen.models.layers.bank import whitened
from cropgen.models.layers.vae.model import Explained, Rows, VariationalModel, VariationalOptions
from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.layers.vae.posteriors import gaussian_kl, gaussian_log_prob
from cropgen.models.layers.vae.priors import FlowPrior, Prior, StandardNormal
from cropgen.models.layers.vae.views import ViewKind, from_view, levels_of, to_view
from cropgen.series.batches import Batch

_LOG_STD_BOUND = 3.0


class SelfSupervisedVAEOptions(VariationalOptions):
    """Options of `selfsup-vae`."""

    estimator: Literal["elbo", "iwae", "jvi"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "elbo", description="of the gradient of the bound that is learnt from"
    )
    levels: int = Field(
        1,
        ge=1,
        le=6,
        description="K: how often the season is split; 1 is a view and the rest, with two latents",
        json_schema_extra={"search": [1, 2]},
    )
    view: ViewKind = Field(
        "haar",
        description="how it is split: haar (sums of neighbouring dates, then their differences) or select (every other "
        "observed date, then the others)",
    )
    prior: Literal["realnvp", "standard"] = Field("realnvp", description="of the latent of the coarsest view")


@dataclass(frozen=True)
class Parts:
    """Seasons in their levels.

    Arguments:
        mask: (B, G) bool, the dates observed.
        level: (B, G) of `levels_of`.
        e: (B, G, C) innovations in the view.
    """

    mask: Tensor
    level: Tensor
    e: Tensor

    def below(self, level: int) -> Tensor:
        """(B, 1, G C + G) what stands in coarser levels than one, and where."""
        there = (self.level >= 0) & (self.level < level)
        return torch.cat([(self.e * there[..., None]).flatten(1), there.to(self.e.dtype)], -1)[:, None]


class SelfSupervisedVAE(VariationalModel):
    """A latent u says the coarse view y_1 of a season, and latents z_k the details that every finer view adds.

    The season e = y_{K+1} is split exactly (`layers.vae.views`), so r_k = y_{k+1} ∖ y_k is told given y_k, nothing is
    told twice, and the bound is one of log p(x | y). With z_0 = u, y_0 empty and c the class,

        p(x, z | c) = p(u) p(y_1 | u, c) Π_{k=1}^K p(z_k | y_k, z_{k−1}) p(r_k | y_k, z_k, c)
        q(z | x)    = q(u | y_1) Π_{k=1}^K q(z_k | y_{k+1})

        p(u)                = a RealNVP flow, N(0, I) at first
        p(z_k | y_k, z_k−1) = N(μ_k, diag σ_k²),   N(0, I) at first
        p(r_k | y_k, z_k, c) = N(o_c + d_c + g_k(y_k, z_k, c), diag exp v) in the view,   g_k zero at first
        q(z_k | y_{k+1})    = N(m_k, diag s_k²),   N(0, I) at first

        ELBO_c = Σ_{k=0}^K E log p(r_k | y_k, z_k, c) − KL(q(u | y_1) ‖ p(u))
                 − Σ_{k=1}^K E KL(q(z_k | y_{k+1}) ‖ p(z_k | y_k, z_{k−1}))

    The view is orthonormal, so the tied Gaussian of the common start stays one. Posteriors and priors run once for all
    classes, the class enters the decoders. z is (S, B, 1, (K + 1) Z). Five operations draw seasons: `sample`,
    `conditional_generate`, `conditional_reconstruct`, and `reconstruct` from the first latent (RS1), the first two
    (RS2) or more of them.

    Reference:
        Self-Supervised Variational Auto-Encoders, Gatopoulos and Tomczak, 2021.
    """

    Settings = SelfSupervisedVAEOptions

    def __init__(self, spec: InputSpec, options: SelfSupervisedVAEOptions) -> None:
        super().__init__(spec, options)
        z, hidden, known = options.latent, options.hidden, self.size + self.slots
        outputs = self.slots * self.emission.outputs

        def network(inputs: int, classes: int, outputs: int) -> ClasswiseMLP:
            return ClasswiseMLP(inputs, classes, outputs, hidden=hidden, start_at_zero=self.at_start)

        count = options.levels + 1
        self.prior: Prior = StandardNormal(z) if options.prior == "standard" else FlowPrior(z, "realnvp", hidden=hidden)
        self.priors = nn.ModuleList(network(known + z, 1, 2 * z) for _ in range(options.levels))
        self.readers = nn.ModuleList(network(known, 1, 2 * z) for _ in range(count))
        self.decoders = nn.ModuleList(
            network(known + z if number else z, spec.classes, outputs) for number in range(count)
        )

    @property
    def own(self) -> SelfSupervisedVAEOptions:
        return cast(SelfSupervisedVAEOptions, self.options)

    @property
    def noise_size(self) -> int:
        return (self.own.levels + 1) * self.own.latent

    def parts(self, e: Tensor, mask: Tensor) -> Parts:
        """Innovations (B, D) of rows in their levels."""
        view, depth = self.own.view, self.own.levels
        season = e.unflatten(-1, (self.slots, -1))
        return Parts(mask, levels_of(mask, view, depth), to_view(season, mask, view, depth))

    def encode(self, number: int, parts: Parts) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation (B, 1, Z) of q(z_k | y_{k+1})."""
        return _gaussian(self.readers[number](parts.below(number + 1)))

    def prior_of(self, number: int, parts: Parts, before: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation (…, Z) of p(z_k | y_k, z_{k−1}), k ≥ 1."""
        return _gaussian(self.priors[number - 1](_beside(parts.below(number), before)))

    def decode(self, number: int, parts: Parts, z: Tensor) -> Tensor:
        """(S, B, K, G, P) what the decoder of a level says, for z (S, B, 1, Z)."""
        told = _beside(parts.below(number), z) if number else z
        return self.decoders[number](told).unflatten(-1, (self.slots, -1))

    def explain(self, rows: Rows, noise: Tensor) -> Explained:
        parts = self.parts(rows.seasons.e, rows.seasons.mask)
        raw, drawn, log_priors, log_qs, divergences = None, [], [], [], []
        for number, own in enumerate(noise.chunk(self.own.levels + 1, -1)):
            mean, log_std = self.encode(number, parts)
            z = mean + log_std.exp() * own
            log_qs.append(gaussian_log_prob(z, mean, log_std))
            if number:
                to_mean, to_log_std = self.prior_of(number, parts, drawn[-1])
                log_priors.append(gaussian_log_prob(z, to_mean, to_log_std))
                divergences.append(gaussian_kl(mean, log_std, to_mean, to_log_std).sum(-1))
            else:
                log_priors.append(self.prior.log_prob(z))
                divergences.append(self._first_divergence(mean, log_std, log_qs[0] - log_priors[0]))
            drawn.append(z)
            said = self.decode(number, parts, z)
            raw = said if raw is None else torch.where((parts.level == number)[:, None, :, None], said, raw)
        return Explained(
            self._seen(rows, parts, cast(Tensor, raw)),
            torch.stack(log_priors).sum(0),
            torch.stack(log_qs).sum(0),
            torch.stack(torch.broadcast_tensors(*divergences), -1),
            torch.cat(drawn, -1),
        )

    def _first_divergence(self, mean: Tensor, log_std: Tensor, at_draw: Tensor) -> Tensor:
        """KL(q(u | y_1) ‖ p(u)): in closed form for the standard normal, else at the draw."""
        return gaussian_kl(mean, log_std).sum(-1)[None] if isinstance(self.prior, StandardNormal) else at_draw

    def _seen(self, rows: Rows, parts: Parts, raw: Tensor) -> Tensor:
        """(S, B, K) log-likelihood of all levels."""
        surprise = rows.surprise.unflatten(-1, (self.slots, -1))
        r = to_view(surprise, parts.mask, self.own.view, self.own.levels).flatten(-2)
        return self.emission.log_prob(r, raw, (parts.level >= 0)[:, None], self.log_var)

    def decode_prior(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        """(B, G, P) in the view, along a season that is drawn level by level."""
        return self._drawn(self._nothing(y), y, generator, temperature)[0]

    def draw_innovations(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        return self._drawn(self._nothing(y), y, generator, temperature)[1]

    def conditional_generate(
        self, batch: Batch, y: Tensor, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """(B, G, C) seasons of class y (B,) with the view y_K of the parcels: u ~ q(u | y_1), z_K ~ p(z_K | y_K, ·)."""
        depth = self.own.levels
        return self._operated(batch, y, generator, temperature, given=depth, encoded=range(depth))

    def conditional_reconstruct(
        self, batch: Batch, y: Tensor, generator: torch.Generator, temperature: float = 1.0
    ) -> Tensor:
        """(B, G, C) seasons with the view y_K of the parcels and z_K ~ q(z_K | x)."""
        depth = self.own.levels
        return self._operated(batch, y, generator, temperature, given=depth, encoded=range(depth + 1))

    def reconstruct(
        self, batch: Batch, y: Tensor, generator: torch.Generator, temperature: float = 1.0, *, latents: int = 1
    ) -> Tensor:
        """(B, G, C) seasons told by the first latents of the parcels, the others drawn from p: 1 is RS1, 2 is RS2, …"""
        return self._operated(batch, y, generator, temperature, given=0, encoded=range(latents))

    @torch.no_grad()
    def _operated(
        self,
        batch: Batch,
        y: Tensor,
        generator: torch.Generator,
        temperature: float,
        *,
        given: int,
        encoded: Collection[int],
    ) -> Tensor:
        """Reflectance of seasons of whose levels those below `given` are the parcels', gaps filled before.

        Arguments:
            encoded: numbers of the latents drawn from q; the others are drawn from p.
        """
        x, mask = self.tied.grid(batch)
        full = torch.ones_like(mask)
        season = whitened(self.tied, self.tied.complete(x, mask), full, self.start_days.expand(len(x), -1), y)
        parts = self.parts(season.e.to(self.shift.dtype), full)
        e = self._drawn(parts, y, generator, temperature, given=given, encoded=encoded)[1]
        flat = e @ self.tied.chol.T + self.tied.overall_mean
        return self.tied.restore(flat.unflatten(1, (self.slots, self.bands)))

    def _nothing(self, y: Tensor) -> Parts:
        """Complete seasons of which nothing is known."""
        zeros = self.shift.new_zeros(len(y), self.size)
        return self.parts(zeros, torch.ones_like(zeros[:, : self.slots], dtype=torch.bool))

    def _drawn(
        self,
        parts: Parts,
        y: Tensor,
        generator: torch.Generator,
        temperature: float,
        *,
        given: int = 0,
        encoded: Collection[int] = (),
    ) -> tuple[Tensor, Tensor]:
        """What the decoders say of the drawn levels (B, G, P), and the innovations (B, D)."""
        rows, view, depth = torch.arange(len(y)), self.own.view, self.own.levels
        season = (self.full_offset() + self.shift)[y].unflatten(-1, (self.slots, -1))
        centre = to_view(season, parts.mask, view, depth)
        told = Parts(parts.mask, parts.level, torch.where((parts.level < given)[..., None], parts.e, 0))
        raw = centre.new_zeros(len(y), self.slots, self.emission.outputs)
        before = centre.new_zeros(len(y), 1, self.own.latent)
        for number in range(depth + 1):
            read = parts if number in encoded else None
            before = self._latent(number, read, told, before, generator, temperature)
            if number < given:
                continue
            own = (parts.level == number)[..., None]
            raw = torch.where(own, self.decode(number, told, before[None])[0][rows, y], raw)
            departure = self.emission.sample(raw, self.log_var, generator, temperature)
            drawn = centre + departure.unflatten(-1, (self.slots, -1))
            told = Parts(parts.mask, parts.level, torch.where(own, drawn, told.e))
        return raw, from_view(told.e, parts.mask, view, depth).flatten(1)

    def _latent(
        self,
        number: int,
        read: Parts | None,
        told: Parts,
        before: Tensor,
        generator: torch.Generator,
        temperature: float,
    ) -> Tensor:
        """(B, 1, Z) the latent of a level, from q where parcels are read, else from p."""
        if read is None and not number:
            return self.prior.sample(len(before), generator, temperature)[:, None]
        mean, log_std = self.prior_of(number, told, before) if read is None else self.encode(number, read)
        noise = self.standard_normal(len(before), self.own.latent, generator)
        return mean + temperature * log_std.exp() * noise[:, None]


def _gaussian(answer: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log standard deviation (…, Z) of the answer (…, 1, 2 Z) of a network without a class."""
    mean, spread = answer.chunk(2, -1)
    return mean, _LOG_STD_BOUND * torch.tanh(spread / _LOG_STD_BOUND)


def _beside(known: Tensor, z: Tensor) -> Tensor:
    """(…, B, 1, W + Z) what is known (B, 1, W) beside a latent (…, B, 1, Z)."""
    return torch.cat([known.expand(*z.shape[:-1], known.shape[-1]), z], -1)
