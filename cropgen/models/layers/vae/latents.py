"""One latent vector of a season: how it is inferred, drawn and scored, for all classes at once.

What a decoder sees of the latent is a vector z (S, B, K, W) of S draws for B parcels and K classes. What is learnt from
and what is scored may differ: relaxed draws teach a categorical latent that is scored by true ones.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.layers.vae.posteriors import Posterior, PosteriorKind, gaussian_kl, gaussian_log_prob
from cropgen.models.layers.vae.priors import (
    EqualMixture,
    FlowPrior,
    MixtureOfGaussians,
    Prior,
    PriorKind,
    StandardNormal,
    VampPrior,
)

_LOG_STD_BOUND = 3.0
_STEERING = 16


def bounded(spread: Tensor) -> Tensor:
    """Logarithms of standard deviations kept between −3 and 3."""
    return _LOG_STD_BOUND * torch.tanh(spread / _LOG_STD_BOUND)


@dataclass(frozen=True)
class LatentDraws:
    """Draws of the latent with their densities; members as in `Explained`.

    Arguments:
        z: (S, B, K, W).
        log_prior: (S, B, K).
        log_q: (S, B, K).
        divergence: (S or 1, B, K, L).
        log_q_held: (S, B, K) or None.
    """

    z: Tensor
    log_prior: Tensor
    log_q: Tensor
    divergence: Tensor
    log_q_held: Tensor | None = None


class Latent(nn.Module):
    """A latent vector.

    Arguments:
        width: W, of what the decoder sees.
        noise_size: N, standard normal numbers a draw takes.
    """

    def __init__(self, width: int, noise_size: int) -> None:
        super().__init__()
        self.width, self.noise_size = width, noise_size

    @abstractmethod
    def learnt(self, features: Tensor, noise: Tensor) -> LatentDraws:
        """Draws to learn from.

        Arguments:
            features: (B, F).
            noise: (S, B or 1, 1, N).
        """

    def scored(self, features: Tensor, noise: Tensor) -> LatentDraws:
        """Draws to score by."""
        return self.learnt(features, noise)

    @abstractmethod
    def mean(self, features: Tensor) -> Tensor | None:
        """(B, K, W) what stands for q(z | x, y) where one value must; None where none can."""

    @abstractmethod
    def sample(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        """(B, W) draws from p(z | y)."""


class NoLatent(Latent):
    """Nothing: what the same losses give without a latent. The decoder sees one 0."""

    def __init__(self) -> None:
        super().__init__(1, 0)

    def learnt(self, features: Tensor, noise: Tensor) -> LatentDraws:
        nothing = features.new_zeros(1, 1, 1)
        return LatentDraws(nothing[..., None], nothing, nothing, nothing[..., None], nothing)

    def mean(self, features: Tensor) -> Tensor:
        return features.new_zeros(len(features), 1, 1)

    def sample(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        return torch.zeros((len(y), 1), device=y.device)


class GaussianLatent(Latent):
    """z ~ p(z), q(z | x, y) = T(N(m(f, y), diag s²(f, y))).

    Where T is the identity, draws estimate no more than the departure of the prior from N(0, I),

        KL(q ‖ p) = KL(q ‖ N(0, I)) + E_q [log N(z; 0, I) − log p(z)],

    so that a prior which begins at N(0, I) begins with the closed form too, and no noise keeps unused entries moving.

    Arguments:
        features: F.
        classes: K; 1 where q does not see the class.
        size: Z.
        hidden: width of the encoder.
        posterior: T.
        posterior_layers: maps of T.
        prior: kind of p(z).
        prior_components: components of `mog` and `vamp`.
        at_start: everything begins at N(0, I).
    """

    def __init__(
        self,
        features: int,
        classes: int,
        size: int,
        *,
        hidden: int,
        posterior: PosteriorKind,
        posterior_layers: int,
        prior: PriorKind,
        prior_components: int,
        at_start: bool,
    ) -> None:
        super().__init__(size, size)
        steering = 0 if posterior == "diagonal" else _STEERING
        self.encoder = ClasswiseMLP(features, classes, 2 * size + steering, hidden=hidden, start_at_zero=at_start)
        self.posterior = Posterior(size, kind=posterior, context=steering, layers=posterior_layers, rank=min(8, size))
        self.prior = self._prior(prior, features, prior_components, at_start)
        self.diagonal, self.closed_form = posterior == "diagonal", posterior == "diagonal" and prior == "standard"

    def _prior(self, kind: PriorKind, features: int, components: int, at_start: bool) -> Prior:
        if kind == "standard":
            return StandardNormal(self.width)
        if kind == "mog":
            return MixtureOfGaussians(self.width, components, at_standard=at_start)
        if kind == "vamp":
            return VampPrior(self.width, torch.randn(components, features), self._of_pseudo_inputs)
        return FlowPrior(self.width, kind)

    def encode(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """m, log s (B, K, Z) and what steers T, for all classes."""
        answer = self.encoder(features[:, None])
        mean, spread = answer[..., : self.width], answer[..., self.width : 2 * self.width]
        return mean, bounded(spread), answer[..., 2 * self.width :]

    def _of_pseudo_inputs(self, features: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std, _ = self.encode(features)
        return mean.transpose(0, 1), log_std.transpose(0, 1)

    def learnt(self, features: Tensor, noise: Tensor) -> LatentDraws:
        mean, log_std, steering = self.encode(features)
        drawn = self.posterior.draw(mean, log_std, noise.expand(-1, *mean.shape), steering)
        log_prior = self.prior.log_prob(drawn.z)
        if self.closed_form:
            divergence = gaussian_kl(mean, log_std)[None]
        elif self.diagonal:
            origin = torch.zeros_like(drawn.z)
            departure = gaussian_log_prob(drawn.z, origin, origin) - log_prior
            divergence = (gaussian_kl(mean, log_std).sum(-1) + departure)[..., None]
        else:
            divergence = (drawn.log_q - log_prior)[..., None]
        return LatentDraws(drawn.z, log_prior, drawn.log_q, divergence, drawn.log_q_held)

    def mean(self, features: Tensor) -> Tensor:
        mean, log_std, steering = self.encode(features)
        return self.posterior.draw(mean, log_std, torch.zeros_like(mean)[None], steering).z[0]

    def sample(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        if isinstance(self.prior, EqualMixture):
            mean, _ = self.prior.components()
            which = y.clamp(max=mean.shape[0] - 1) if mean.dim() == 3 else None
            return self.prior.sample(len(y), generator, temperature, which)
        return self.prior.sample(len(y), generator, temperature)
