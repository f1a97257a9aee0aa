"""Auxiliary deep generative model."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.base import InputSpec
from cropgen.models.layers.vae.decoders import DateDecoder
from cropgen.models.layers.vae.heads import LatentHead
from cropgen.models.layers.vae.latents import bounded
from cropgen.models.layers.vae.model import Explained, Rows, VariationalModel, VariationalOptions
from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.layers.vae.posteriors import gaussian_kl, gaussian_log_prob


class ADGMOptions(VariationalOptions):
    """Options of `adgm`."""

    estimator: Literal["elbo", "iwae", "jvi"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "elbo", description="of the gradient of the bound"
    )
    auxiliary_size: int = Field(16, ge=1, description="size of the auxiliary variable a")
    skip: bool = Field(False, description="a also reaches the decoder: the skip deep generative model")
    decoder: Literal["season", "dates"] = Field(
        "season", description="season: one answer for all slots; dates: asked date by date, each blind to the others"
    )


class ADGM(VariationalModel):
    """An auxiliary variable a makes q(z | x) and q(y | x) mixtures, and leaves p(x, y, z) as it is.

        p(x, y, z, a) = π_y p(z) p(x | y, z) p(a | x, y, z),   q(a, y, z | x) = q(a | x) q(y | a, x) q(z | a, x, y)
        J_y = E_q [log p(x | y, z) + log p(z) + log p(a | x, y, z) − log q(a | x) − log q(z | a, x, y)] + log π_y

    ∫ p(a | x, y, z) da = 1, so the marginal p(x | y) is that of the model without a. With skip, p(a | y, z) does not
    see x and p(x | a, y, z) sees a. q and p begin at N(0, I) and the decoder at zero: exactly the tied Gaussian.
    z (S, B, K, Z), a (S, B, 1, A).

    Reference:
        Auxiliary Deep Generative Models, Maaløe, Sønderby, Sønderby and Winther, 2016.
    """

    Settings = ADGMOptions

    def __init__(self, spec: InputSpec, options: ADGMOptions) -> None:
        super().__init__(spec, options)
        k, z, a, hidden = spec.classes, options.latent, options.auxiliary_size, options.hidden
        features, zero = self.recognition.width, self.at_start
        self.auxiliary = ClasswiseMLP(features, 1, 2 * a, hidden=hidden, start_at_zero=zero)
        self.encoder = ClasswiseMLP(features, k, 2 * z, beside=a, hidden=hidden, start_at_zero=zero)
        told = (z, 0) if options.skip else (features, z)
        self.auxiliary_prior = ClasswiseMLP(told[0], k, 2 * a, beside=told[1], hidden=hidden, start_at_zero=zero)
        width, outputs = z + a if options.skip else z, self.emission.outputs
        self.decoder: DateDecoder | ClasswiseMLP = (
            DateDecoder(width, k, outputs, hidden=hidden, start_at_zero=zero)
            if options.decoder == "dates"
            else ClasswiseMLP(width, k, self.slots * outputs, hidden=hidden, start_at_zero=zero)
        )
        self.recognition.add_module("classify", LatentHead(features, a, k, options.samples, self._draw_auxiliary))

    @property
    def parts(self) -> ADGMOptions:
        return cast(ADGMOptions, self.options)

    @property
    def noise_size(self) -> int:
        return self.parts.latent + self.parts.auxiliary_size

    def _of_auxiliary(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation (B, 1, A) of q(a | x)."""
        mean, spread = self.auxiliary(features[:, None]).chunk(2, -1)
        return mean, bounded(spread)

    def _draw_auxiliary(self, features: Tensor, noise: Tensor) -> Tensor:
        mean, log_std = self._of_auxiliary(features)
        return mean + log_std.exp() * noise

    def _of_latent(self, features: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation (S, B, K, Z) of q(z | a, x, y)."""
        mean, spread = self.encoder(features[:, None], a).chunk(2, -1)
        return mean, bounded(spread)

    def _of_auxiliary_prior(self, features: Tensor | None, z: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation (S, B, K, A) of p(a | x, y, z), or of p(a | y, z) with skip."""
        raw = self.auxiliary_prior(z) if features is None else self.auxiliary_prior(features[:, None], z)
        mean, spread = raw.chunk(2, -1)
        return mean, bounded(spread)

    def decode(self, z: Tensor, a: Tensor, day: Tensor) -> Tensor:
        """(…, K, G, P) for z (…, K, Z) and a (…, 1 or K, A)."""
        seen = torch.cat([z, a.expand(*z.shape[:-1], -1)], -1) if self.parts.skip else z
        if isinstance(self.decoder, DateDecoder):
            return self.decoder(seen, day)
        return self.decoder(seen).unflatten(-1, (self.slots, -1))

    def explain(self, rows: Rows, noise: Tensor) -> Explained:
        of_a, of_z = noise.split([self.parts.auxiliary_size, self.parts.latent], -1)
        mean_a, log_std_a = self._of_auxiliary(rows.features)
        a = mean_a + log_std_a.exp() * of_a
        mean, log_std = self._of_latent(rows.features, a)
        z = mean + log_std.exp() * of_z
        log_a = gaussian_log_prob(a, mean_a, log_std_a)
        log_a_prior = gaussian_log_prob(a, *self._of_auxiliary_prior(None if self.parts.skip else rows.features, z))
        divergence_z = gaussian_kl(mean, log_std)
        likelihood = self.emitted(rows, self.decode(z, a, rows.seasons.day))
        origin = torch.zeros_like(mean)
        return Explained(
            likelihood,
            gaussian_log_prob(z, origin, origin) + log_a_prior,
            log_a + gaussian_log_prob(z, mean, log_std),
            torch.cat([divergence_z, (log_a - log_a_prior)[..., None]], -1),
            torch.cat([z, a.expand(*z.shape[:-1], -1)], -1),
        )

    def decode_mean(self, rows: Rows) -> Tensor:
        a, _ = self._of_auxiliary(rows.features)
        z, _ = self._of_latent(rows.features, a)
        return self.decode(z, a, rows.seasons.day)

    def decode_prior(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        k, each = self.spec.classes, torch.arange(len(y))
        z = temperature * self.standard_normal(len(y), self.parts.latent, generator)[:, None].expand(-1, k, -1)
        a = z.new_zeros(len(y), 1, self.parts.auxiliary_size)
        if self.parts.skip:
            mean, log_std = self._of_auxiliary_prior(None, z)
            noise = self.standard_normal(len(y), self.parts.auxiliary_size, generator)[:, None]
            a = mean + temperature * log_std.exp() * noise
        return self.decode(z, a, self.start_days.to(z.dtype).expand(len(y), -1))[each, y]
