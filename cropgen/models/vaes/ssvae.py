"""Semi-supervised variational auto-encoder (M2) in the tied-whitened space."""

from __future__ import annotations

import math

import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.base import InputSpec
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.residual import ResidualModel, ResidualOptions
from cropgen.models.layers.vae.networks import ClasswiseMLP

_NOISE_SEED = 11
_LOG_STD_BOUND = 3.0


class SemiSupervisedVAEOptions(ResidualOptions):
    """Options of `ssvae`."""

    latent: int = Field(16, ge=1, description="size of the latent z", json_schema_extra={"search": [8, 16, 32]})
    samples: int = Field(8, ge=1, description="samples of the importance-weighted bound that scores a parcel")


class SemiSupervisedVAE(ResidualModel):
    """M2 whose decoder is a residual of the tied Gaussian.

        z ~ N(0, I),   e | y, z ~ N(o_y + d_y + g(z, y), diag exp v),   q(z | x, y) = N(m(f, y), diag s²(f, y))

    f are the features of the recognition head. g and the departure of q(z | x, y) from N(0, I) begin at zero, so that
    z is unused at first and the bound is tight: the model begins exactly at the tied Gaussian. While learning,
    J_y = E_q log p(e | y, z) − KL(q ‖ N(0, I)) with one sample; a parcel is scored by the importance-weighted bound

        log p(e | y) ≥ log 1/S Σ_s p(e | y, z_s) p(z_s) / q(z_s | x, y)

    with one fixed set of noise for all parcels and classes, so that equal rows score equally.

    References:
        Semi-Supervised Learning with Deep Generative Models, Kingma, Rezende, Mohamed and Welling, 2014;
        Importance Weighted Autoencoders, Burda, Grosse and Salakhutdinov, 2016.
    """

    Settings = SemiSupervisedVAEOptions
    noise: Tensor

    def __init__(self, spec: InputSpec, options: SemiSupervisedVAEOptions) -> None:
        super().__init__(spec, options)
        at_start = options.start == "tgem"
        k, z = spec.classes, options.latent
        self.posterior = ClasswiseMLP(self.recognition.width, k, 2 * z, start_at_zero=at_start)
        self.decoder = ClasswiseMLP(z, k, self.size, start_at_zero=at_start)
        generator = torch.Generator().manual_seed(_NOISE_SEED)
        self.register_buffer("noise", torch.randn((options.samples, z), generator=generator))

    def class_scores(self, seasons: Seasons, features: Tensor, generator: torch.Generator | None) -> Tensor:
        mean, spread = self.posterior(features[:, None]).chunk(2, -1)
        log_std = _LOG_STD_BOUND * torch.tanh(spread / _LOG_STD_BOUND)
        if generator is not None:
            shape = (len(mean), 1, mean.shape[-1])
            noise = torch.randn(shape, generator=generator, device=generator.device, dtype=mean.dtype).to(mean.device)
            kl = 0.5 * (mean**2 + (2 * log_std).exp() - 1 - 2 * log_std).sum(-1)
            return self._reconstruction(seasons, mean + log_std.exp() * noise) - kl
        weights = []
        for noise in self.noise:
            z = mean + log_std.exp() * noise
            ratio = 0.5 * (noise**2 - z**2).sum(-1) + log_std.sum(-1)
            weights.append(self._reconstruction(seasons, z) + ratio)
        return torch.logsumexp(torch.stack(weights), 0) - math.log(len(weights))

    def _reconstruction(self, seasons: Seasons, z: Tensor) -> Tensor:
        """(B, K) log p(e | y, z) of the observed entries, z (B, K, Z)."""
        expected = seasons.offset + self.shift + self.decoder(z)
        distance = (seasons.e[:, None] - expected) ** 2 * (-self.log_var).exp()
        return -0.5 * ((distance + self.log_var + math.log(2 * math.pi)) * seasons.present[:, None]).sum(-1)

    def draw_innovations(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        z = temperature * self.standard_normal(len(y), self.noise.shape[1], generator)
        noise = self.standard_normal(len(y), self.size, generator)
        mean = self.full_offset()[y] + self.shift[y] + self.decoder.chosen(z, y)
        return mean + temperature * (0.5 * self.log_var).exp() * noise
