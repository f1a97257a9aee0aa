"""Two stacked latent variables: one of what a season is, one of what is left when the class is known."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import InputSpec
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.vae.latents import GaussianLatent, bounded
from cropgen.models.layers.vae.model import Explained, Rows
from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.layers.vae.posteriors import gaussian_kl, gaussian_log_prob
from cropgen.models.vaes.vae import VAE, VAEOptions


class StackedOptions(VAEOptions):
    """Options of the rows with two stacked latents."""

    upper: int = Field(16, ge=1, description="size of the upper latent z2; `latent` is that of the lower one, z1")
    estimator: Literal["elbo", "iwae", "jvi"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "elbo", description="of the gradient of the bound"
    )
    prior: Literal["standard"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "standard", description="p(z2)"
    )
    posterior: Literal["diagonal"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "diagonal", description="q(z1|x) and q(z2|z1,y)"
    )
    latent_kind: Literal["continuous"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "continuous", description="latents are vectors of numbers"
    )
    collapse: Literal["none", "linear", "cyclical", "free-bits", "bounded-field", "skip"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "none", description="remedy of unused latents; bounded-field and skip with decoder=dates"
    )


class M1M2Options(StackedOptions):
    """Options of `m1m2`."""

    training: Literal["stacked", "joint"] = Field(
        "stacked",
        description="stacked: z1 is learnt without classes first and held while the rest is learnt; joint: all at once",
    )
    first_stage: float = Field(0.5, gt=0, lt=1, description="training=stacked: share of the steps of the first stage")


class StackedVAE(VAE):
    """Base of the rows with two stacked latents; see `M1M2`."""

    q_sees_class = False
    decoder_sees_class = False
    textbook_has_class_means = False

    def __init__(self, spec: InputSpec, options: StackedOptions) -> None:
        super().__init__(spec, options)
        k, lower, upper, hidden = spec.classes, options.latent, options.upper, options.hidden
        self.upper_encoder = ClasswiseMLP(lower, k, 2 * upper, hidden=hidden, start_at_zero=self.at_start)
        self.lower_prior = ClasswiseMLP(upper, k, 2 * lower, hidden=hidden, start_at_zero=self.at_start)

    @property
    def stack(self) -> StackedOptions:
        return cast(StackedOptions, self.options)

    @property
    def noise_size(self) -> int:
        return self.stack.latent + self.stack.upper

    def lower_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation (B, 1, Z1) of q(z1 | x)."""
        mean, log_std, _ = cast(GaussianLatent, self.latent).encode(features)
        return mean, log_std

    def upper_of(self, lower: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation (…, K, Z2) of q(z2 | z1, y)."""
        mean, spread = self.upper_encoder(lower).chunk(2, -1)
        return mean, bounded(spread)

    def prior_of(self, upper: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-deviation (…, K, Z1) of p(z1 | y, z2)."""
        mean, spread = self.lower_prior(upper).chunk(2, -1)
        return mean, bounded(spread)

    def of_class(self, upper: Tensor) -> Tensor | float:
        """(S, B, K) what z2 says of the class, log p(y | z2) − log π_y; 0 where it says nothing."""
        return 0.0

    def explain(self, rows: Rows, noise: Tensor) -> Explained:
        of_lower, of_upper = noise.split([self.stack.latent, self.stack.upper], -1)
        mean, log_std = self.lower_of(rows.features)
        lower = mean + log_std.exp() * of_lower
        upper_mean, upper_log_std = self.upper_of(lower)
        upper = upper_mean + upper_log_std.exp() * of_upper
        log_lower = gaussian_log_prob(lower, mean, log_std)
        log_lower_prior = gaussian_log_prob(lower, *self.prior_of(upper)) + self.of_class(upper)
        origin = torch.zeros_like(upper)
        divergence = torch.cat([(log_lower - log_lower_prior)[..., None], gaussian_kl(upper_mean, upper_log_std)], -1)
        return Explained(
            self.emitted(rows, self.decode(lower, rows.seasons.day)),
            log_lower_prior + gaussian_log_prob(upper, origin, origin),
            log_lower + gaussian_log_prob(upper, upper_mean, upper_log_std),
            divergence,
            torch.cat([lower.expand(*upper.shape[:-1], -1), upper], -1),
        )

    def scored(self, rows: Rows, noise: Tensor) -> Explained:
        return self.explain(rows, noise)

    def decode_mean(self, rows: Rows) -> Tensor:
        return self.decode(self.lower_of(rows.features)[0], rows.seasons.day)

    def draw_upper(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        """(B, Z2) draws of p(z2 | y)."""
        return temperature * self.standard_normal(len(y), self.stack.upper, generator)

    def decode_prior(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        each = torch.arange(len(y))
        mean, log_std = (part[each, y] for part in self.prior_of(self.draw_upper(y, generator, temperature)[:, None]))
        lower = mean + temperature * log_std.exp() * self.standard_normal(len(y), self.stack.latent, generator)
        return self.decode(lower[:, None], self.start_days.to(lower.dtype).expand(len(y), -1))[:, 0]


class M1M2(StackedVAE):
    """M2 on the latent of M1, as one model.

        p(x, y, z1, z2) = π_y p(z2) p(z1 | y, z2) p(x | z1),   q(z1, z2 | x, y) = q(z1 | x) q(z2 | z1, y)
        J_y = E_q [log p(x | z1) + log p(z1 | y, z2) − log q(z1 | x)] − E KL(q(z2 | z1, y) ‖ N(0, I)) + log π_y

    With training=stacked the first steps learn M1, p(z1) = N(0, I) and no class in the latents, and the others M2 with
    q(z1 | x) and p(x | z1) held, as published: the features of the season, which q(z1 | x) shares with q(y | x), their
    normalisation, d and v too. Of q(y | x) the last layer learns on. With joint the bound is learnt whole. From the
    common start p(x | z1) is N(o_y + d_y + g(z1), diag exp v), g and all departures from N(0, I) begin at zero, and the
    model begins exactly at the tied Gaussian; in the textbook, start=none, the class acts through p(z1 | y, z2) alone.
    z1 (S, B, 1, Z1), z2 (S, B, K, Z2).

    Reference:
        Semi-Supervised Learning with Deep Generative Models, Kingma, Rezende, Mohamed and Welling, 2014.
    """

    Settings = M1M2Options

    @property
    def counts_steps(self) -> bool:
        return super().counts_steps or cast(M1M2Options, self.options).training == "stacked"

    def _stage(self) -> int:
        """1 or 2 while stacked, 0 where all is learnt or scored."""
        options = cast(M1M2Options, self.options)
        if options.training == "joint" or not self.training:
            return 0
        return 1 if int(self.updates) <= options.first_stage * options.steps else 2

    def _features(self, seasons: Seasons, generator: torch.Generator | None) -> Tensor:
        """Held in the second stage, the statistics of their normalisation as well."""
        if self._stage() != 2:
            return super()._features(seasons, generator)
        for part in self.recognition.modules():
            if isinstance(part, nn.BatchNorm1d):
                part.eval()
        return super()._features(seasons, generator).detach()

    def lower_of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = super().lower_of(features)
        return (mean.detach(), log_std.detach()) if self._stage() == 2 else (mean, log_std)

    def emitted(self, rows: Rows, raw: Tensor) -> Tensor:
        likelihood = super().emitted(rows, raw)
        return likelihood.detach() if self._stage() == 2 else likelihood

    def prior_of(self, upper: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = super().prior_of(upper)
        return (torch.zeros_like(mean), torch.zeros_like(log_std)) if self._stage() == 1 else (mean, log_std)
