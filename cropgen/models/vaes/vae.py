"""Variational auto-encoder of whole seasons, put together from parts that options choose."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.base import InputSpec
from cropgen.models.layers.vae.decoders import DateDecoder
from cropgen.models.layers.vae.model import Explained, Rows, VariationalModel, VariationalOptions
from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.layers.vae.posteriors import Posterior, PosteriorKind, gaussian_kl
from cropgen.models.layers.vae.priors import StandardNormal

_LOG_STD_BOUND = 3.0
_STEERING = 16


class VAEOptions(VariationalOptions):
    """Options of `vae` and of the rows with one latent vector a season."""

    posterior: PosteriorKind = Field("diagonal", description="map behind the diagonal Gaussian of q(z|x,y)")
    posterior_layers: int = Field(4, ge=1, description="layers of that map")
    decoder: Literal["season", "dates"] = Field(
        "season", description="season: one answer for all slots; dates: asked date by date, each blind to the others"
    )


class VAE(VariationalModel):
    """One latent vector a season.

    z ~ p(z),   e | y, z ~ p(e | o_y + d_y + g(z, y)),   q(z | x, y) = T(N(m(f, y), diag s²(f, y)))
    """

    Settings = VAEOptions

    def __init__(self, spec: InputSpec, options: VAEOptions) -> None:
        super().__init__(spec, options)
        k, z, width = spec.classes, options.latent, options.hidden
        steering = 0 if options.posterior == "diagonal" else _STEERING
        self.encoder = ClasswiseMLP(
            self.recognition.width, k, 2 * z + steering, hidden=width, start_at_zero=self.at_start
        )
        self.posterior = Posterior(
            z, kind=options.posterior, context=steering, layers=options.posterior_layers, rank=min(8, z)
        )
        self.prior = StandardNormal(z)
        self.decoder = self._decoder(options)

    @property
    def chosen_parts(self) -> VAEOptions:
        return cast(VAEOptions, self.options)

    def _decoder(self, options: VAEOptions) -> ClasswiseMLP | DateDecoder:
        k, width, outputs = self.spec.classes, options.hidden, self.emission.outputs
        if options.decoder == "dates":
            return DateDecoder(options.latent, k, outputs, hidden=width, start_at_zero=self.at_start)
        return ClasswiseMLP(options.latent, k, self.slots * outputs, hidden=width, start_at_zero=self.at_start)

    def encode(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """m, log s (B, K, Z) and what steers the map of the posterior, for all classes."""
        latent = self.settings.latent
        answer = self.encoder(features[:, None])
        mean, spread = answer[..., :latent], answer[..., latent : 2 * latent]
        return mean, _LOG_STD_BOUND * torch.tanh(spread / _LOG_STD_BOUND), answer[..., 2 * latent :]

    def decode(self, z: Tensor, day: Tensor) -> Tensor:
        """(…, K, G, P) for z (…, K, Z) and days (…, G)."""
        if isinstance(self.decoder, DateDecoder):
            return self.decoder(z, day)
        return self.decoder(z).unflatten(-1, (self.slots, -1))

    def explain(self, rows: Rows, noise: Tensor) -> Explained:
        mean, log_std, steering = self.encode(rows.features)
        drawn = self.posterior.draw(mean, log_std, noise.expand(-1, len(rows), mean.shape[1], -1), steering)
        log_prior = self.prior.log_prob(drawn.z)
        closed = self.chosen_parts.posterior == "diagonal"
        divergence = gaussian_kl(mean, log_std)[None] if closed else (drawn.log_q - log_prior)[..., None]
        raw = self.decode(drawn.z, rows.seasons.day)
        return Explained(self.emitted(rows, raw), log_prior, drawn.log_q, divergence, drawn.z, drawn.log_q_held)

    def decode_mean(self, rows: Rows) -> Tensor:
        mean, log_std, steering = self.encode(rows.features)
        drawn = self.posterior.draw(mean, log_std, torch.zeros_like(mean)[None], steering)
        return self.decode(drawn.z[0], rows.seasons.day)

    def decode_prior(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        z = self.prior.sample(len(y), generator, temperature)[:, None]
        return self.decode(z, self.start_days.to(z.dtype).expand(len(y), -1))[torch.arange(len(y)), y]
