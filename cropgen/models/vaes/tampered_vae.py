"""Variational auto-encoder whose latent space is made for classification: clustered, and linearly separable."""

from __future__ import annotations

from typing import Any, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.vae.model import Explained, Rows, SharedEstimator, VariationalModel, VariationalOptions
from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.layers.vae.posteriors import gaussian_kl, gaussian_log_prob
from cropgen.models.layers.vae.pyramid import PyramidTransformer
from cropgen.series.batches import Batch

_LOG_STD_BOUND = 3.0
_DATE_DROPOUT = 0.15


class TamperedVAEOptions(VariationalOptions):
    """Options of `tampered-vae`."""

    width: int = Field(
        64,
        ge=4,
        multiple_of=4,
        description="width of the tokens of the temporal transformer",
        json_schema_extra={"search": [32, 64]},
    )
    stages: int = Field(3, ge=1, description="stages of the temporal transformer, each of half as many tokens")
    estimator: SharedEstimator = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "elbo", description="of the gradient of the bound; its draws of q(z|x) are common to the classes"
    )


class LatentRecognition(nn.Module):
    """q(z | x) and q(y | x) by one network: the features are m and log s of the latent, and the class is linear in m.

    While it learns, 15 % of the dates are hidden from it.

    Arguments:
        spec: what the model sees.
        options: of the model.
        at_start: m and log s begin at zero.
    """

    def __init__(self, spec: InputSpec, options: TamperedVAEOptions, *, at_start: bool) -> None:
        super().__init__()
        self.latent = options.latent
        self.read = PyramidTransformer(2 * len(spec.bands), options.width, stages=options.stages)
        self.locate = nn.Linear(options.width, self.width)
        self.separate = nn.Linear(options.latent, spec.classes)
        if at_start:
            nn.init.zeros_(self.locate.weight)
            nn.init.zeros_(self.locate.bias)

    @property
    def width(self) -> int:
        """Size of the features."""
        return 2 * self.latent

    def features(
        self, x: Tensor, mask: Tensor, day: Tensor, e: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """(B, 2 Z) m and log s; arguments as of `Recognition.features`."""
        if self.training and generator is not None:
            kept = torch.rand(mask.shape, generator=generator, device=generator.device) >= _DATE_DROPOUT
            mask = mask & kept.to(mask.device)
        seen = torch.cat([x, e.unflatten(-1, (-1, x.shape[-1]))], -1)
        mean, spread = self.locate(self.read(seen, mask, day)).chunk(2, -1)
        return torch.cat([mean, _LOG_STD_BOUND * torch.tanh(spread / _LOG_STD_BOUND)], -1)

    def classify(self, features: Tensor) -> Tensor:
        """(B, K) logits of q(y | x)."""
        return self.separate(features[..., : self.latent])


class TamperedVAE(VariationalModel):
    """Every class is a cluster of the latent space, and a straight cut tells the clusters apart.

        p(x, z | y) = p(z | y) p(e | z, y),   q(z | x) and q(y | x) from one temporal transformer

        p(z | y)    = N(c_y, I),   c_y zero at first
        p(e | z, y) = N(o_y + d_y + g(z), diag exp v),   g zero at first
        q(z | x)    = N(m(x), diag s²(x)),   N(0, I) at first
        q(y | x)    = softmax(A m(x))

        ELBO_y = E_q log p(e | z, y) − KL(N(m, s²) ‖ N(c_y, I))

    The decoder knows no class: beside the class means o_y + d_y of the common start y acts through its cluster alone,
    and with start=none through nothing else, p(e | z). The divergences draw the latents of a class to c_y; the
    cross-entropy of q(y | x), linear in m, keeps classes apart; so do, for parcels without a label, Bayes' rule as the
    teacher of q and the sum over classes of the bound. Encoder and decoder run once for all classes. z is (S, B, 1, Z).

    What is taken from the reference: a pyramid of temporal attention that reads the season, clustering in the latent
    space, linear separability there, and few principal axes that explain most of the latents (`principal_shares`).

    Reference:
        Tampered VAE for Improved Satellite Image Time Series Classification, Cai, Bi and Nicholl, 2022.
    """

    Settings = TamperedVAEOptions

    def __init__(self, spec: InputSpec, options: TamperedVAEOptions) -> None:
        super().__init__(spec, options)
        latent, outputs = options.latent, self.slots * self.emission.outputs
        self.recognition = cast(Any, LatentRecognition(spec, options, at_start=self.at_start))
        self.decoder = ClasswiseMLP(latent, 1, outputs, hidden=options.hidden, start_at_zero=self.at_start)
        self.centre = nn.Parameter(torch.zeros(spec.classes, latent))

    def prepare(self, data: TrainingData, context: Context) -> None:
        super().prepare(data, context)
        if not self.at_start:
            with torch.no_grad():
                self.shift.zero_()
                self.centre.normal_(generator=context.generator("clusters"))
            self.shift.requires_grad_(False)

    def rows(self, seasons: Seasons, features: Tensor) -> Rows:
        """Seasons as `explain` takes them; without the common start they have no class mean."""
        found = super().rows(seasons, features)
        return found if self.at_start else Rows(seasons, features, found.surprise[:, :1])

    def explain(self, rows: Rows, noise: Tensor) -> Explained:
        mean, log_std = rows.features[:, None].chunk(2, -1)
        z = mean + log_std.exp() * noise
        return Explained(
            self.emitted(rows, self._decoded(z)),
            gaussian_log_prob(z, self.centre, torch.zeros_like(self.centre)),
            gaussian_log_prob(z, mean, log_std),
            gaussian_kl(mean, log_std, self.centre)[None],
            z,
            gaussian_log_prob(z, mean.detach(), log_std.detach()),
        )

    def _decoded(self, z: Tensor) -> Tensor:
        """(…, G, P) for z (…, Z)."""
        return self.decoder(z[..., None, :])[..., 0, :].unflatten(-1, (self.slots, -1))

    def decode_mean(self, rows: Rows) -> Tensor:
        return self._decoded(rows.features[:, None].chunk(2, -1)[0])

    def decode_prior(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        noise = self.standard_normal(len(y), self.noise_size, generator)
        return self._decoded(self.centre[y] + temperature * noise)

    def embed(self, batch: Batch) -> Tensor:
        """(B, Z) m(x), where the parcels lie in the latent space."""
        return self.seen_rows(batch).features[:, : self.settings.latent]

    @torch.no_grad()
    def principal_shares(self, batch: Batch) -> Tensor:
        """(Z,) shares of the variance of m(x) along its principal axes, the largest first."""
        z = self.embed(batch)
        power = torch.linalg.svdvals(z - z.mean(0)).square()
        shares = power / power.sum().clamp(min=torch.finfo(power.dtype).tiny)
        return torch.cat([shares, shares.new_zeros(z.shape[1] - len(shares))])
