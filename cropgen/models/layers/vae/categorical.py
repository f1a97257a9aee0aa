"""Categorical latents of a season: relaxed, summed out, or taught by scores."""

from __future__ import annotations

import math
from itertools import product
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from cropgen.models.layers.vae.latents import Latent, LatentDraws, bounded
from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.layers.vae.posteriors import gaussian_kl, gaussian_log_prob
from cropgen.models.layers.vae.relaxations import (
    categorical_kl,
    concrete_log_density,
    log_concrete,
    log_igr,
    straight_through,
)

CategoricalGradient = Literal["none", "gumbel", "straight-through", "igr", "exact"]
MOST_COMBINATIONS = 64


def gumbel_of(noise: Tensor) -> Tensor:
    """Gumbel noise from standard normal noise of the same shape."""
    edge = torch.finfo(noise.dtype)
    return -(-torch.special.ndtr(noise).clamp(edge.tiny, 1 - edge.eps).log()).log()


class CategoricalLatent(Latent):
    """Z variables of M categories each, one-hot, p uniform, q(z | x, y) = Π softmax(logits(f, y)).

        none               true draws without a gradient, for the estimators of scores
        gumbel             Concrete draws and densities
        straight-through   true draws with the gradient of Concrete ones, divergence in closed form
        exact              all M^Z combinations, equally weighted; there is no q

    Draws that score are true ones throughout. With `igr` the latent itself is continuous, a Gaussian sent onto the
    simplex, in learning and in scoring.

    Arguments:
        features: F.
        classes: K.
        variables: Z.
        categories: M.
        relaxation: which.
        temperature: λ of the relaxations.
        hidden: width of the encoder.
        at_start: q begins uniform.
    """

    codes: Tensor

    def __init__(
        self,
        features: int,
        classes: int,
        variables: int,
        categories: int,
        *,
        relaxation: CategoricalGradient,
        temperature: float,
        hidden: int,
        at_start: bool,
    ) -> None:
        own = categories - 1 if relaxation == "igr" else categories
        super().__init__(variables * categories, 0 if relaxation == "exact" else variables * own)
        self.variables, self.categories = variables, categories
        self.relaxation, self.temperature = relaxation, temperature
        self.encoder: ClasswiseMLP | None = None
        if relaxation == "exact":
            every = torch.tensor(list(product(range(categories), repeat=variables)))
            self.register_buffer("codes", functional.one_hot(every, categories).flatten(1).float())
            return
        outputs = variables * (2 * own if relaxation == "igr" else own)
        self.encoder = ClasswiseMLP(features, classes, outputs, hidden=hidden, start_at_zero=at_start)

    def _logits(self, features: Tensor) -> Tensor:
        """(B, K, Z, M), or (B, K, Z, 2 (M − 1)) of `igr`."""
        if self.encoder is None:
            raise TypeError("a latent that is summed out has no posterior network")
        return self.encoder(features[:, None]).unflatten(-1, (self.variables, -1))

    def log_q(self, features: Tensor, z: Tensor) -> Tensor:
        """(B, K) log q(z | x, y) of true draws z (B, Z M), with the gradient of q."""
        hard = z[:, None].unflatten(-1, (self.variables, -1))
        return (hard * torch.log_softmax(self._logits(features), -1)).sum((-1, -2))

    def learnt(self, features: Tensor, noise: Tensor) -> LatentDraws:
        if self.relaxation == "exact":
            return self._summed(features)
        if self.relaxation == "igr":
            return self._on_the_simplex(features, noise)
        logits = self._logits(features)
        if self.relaxation == "none":
            return self._true(logits, noise)
        log_x = log_concrete(logits, self.temperature, gumbel_of(noise.unflatten(-1, (self.variables, -1))))
        if self.relaxation == "straight-through":
            hard = straight_through(log_x.exp())
            return self._of_hard(logits, hard)
        log_q = concrete_log_density(log_x, logits, self.temperature).sum(-1)
        log_prior = concrete_log_density(log_x, torch.zeros_like(logits), self.temperature).sum(-1)
        return LatentDraws(log_x.exp().flatten(-2), log_prior, log_q, (log_q - log_prior)[..., None])

    def scored(self, features: Tensor, noise: Tensor) -> LatentDraws:
        if self.relaxation in ("exact", "igr"):
            return self.learnt(features, noise)
        return self._true(self._logits(features), noise)

    def _true(self, logits: Tensor, noise: Tensor) -> LatentDraws:
        gumbel = gumbel_of(noise.unflatten(-1, (self.variables, -1)))
        index = (logits.detach() + gumbel).argmax(-1)
        return self._of_hard(logits, functional.one_hot(index, self.categories).to(logits.dtype))

    def _of_hard(self, logits: Tensor, hard: Tensor) -> LatentDraws:
        log_q = (hard.detach() * torch.log_softmax(logits, -1)).sum((-1, -2))
        log_prior = torch.full_like(log_q, -self.variables * math.log(self.categories))
        divergence = categorical_kl(logits, torch.zeros_like(logits))[None]
        return LatentDraws(hard.flatten(-2), log_prior, log_q, divergence)

    def _on_the_simplex(self, features: Tensor, noise: Tensor) -> LatentDraws:
        mean, spread = self._logits(features).chunk(2, -1)
        log_std, noise = bounded(spread), noise.unflatten(-1, (self.variables, -1)).expand(-1, *mean.shape)
        y = mean + log_std.exp() * noise
        origin = torch.zeros_like(mean)
        log_q = gaussian_log_prob(y, mean, log_std).sum(-1)
        log_prior = gaussian_log_prob(y, origin, origin).sum(-1)
        z = log_igr(mean, log_std, self.temperature, noise).exp()
        return LatentDraws(z.flatten(-2), log_prior, log_q, gaussian_kl(mean, log_std).flatten(-2)[None])

    def _summed(self, features: Tensor) -> LatentDraws:
        """Every combination once: with log q = −log S the mean over draws is the sum under the prior."""
        z = self.codes.to(features.dtype)[:, None, None]
        even = z.new_full((len(z), 1, 1), -math.log(len(z)))
        return LatentDraws(z, even, even, z.new_zeros(1, 1, 1, 1))

    def mean(self, features: Tensor) -> Tensor | None:
        if self.relaxation == "exact":
            return None
        logits = self._logits(features)
        if self.relaxation == "igr":
            mean, spread = logits.chunk(2, -1)
            return log_igr(mean, bounded(spread), self.temperature, torch.zeros_like(mean)).exp().flatten(-2)
        return torch.softmax(logits, -1).flatten(-2)

    def sample(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        kind = {"generator": generator, "device": generator.device}
        if self.relaxation == "igr":
            noise = torch.randn((len(y), self.variables, self.categories - 1), **kind).to(y.device)
            origin = torch.zeros_like(noise)
            return log_igr(origin, origin, self.temperature, temperature * noise).exp().flatten(-2)
        index = torch.randint(self.categories, (len(y), self.variables), **kind).to(y.device)
        return functional.one_hot(index, self.categories).to(torch.get_default_dtype()).flatten(-2)
