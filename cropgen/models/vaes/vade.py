"""Variational deep embedding: classes are clusters of the latent space."""

from __future__ import annotations

import math
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.layers.vae.latents import GaussianLatent, Latent
from cropgen.models.layers.vae.model import SharedEstimator
from cropgen.models.layers.vae.priors import MixtureOfGaussians
from cropgen.models.vaes.vae import VAE, VAEOptions
from cropgen.series.batches import Batch


class VaDEOptions(VAEOptions):
    """Options of `vade`."""

    prior: Literal["mog"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "mog", description="p(z|y), a mixture of Gaussians of every class"
    )
    prior_components: int = Field(1, ge=1, description="clusters of a class")
    latent_kind: Literal["continuous"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "continuous", description="z is a vector of numbers"
    )
    estimator: SharedEstimator = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "elbo", description="of the gradient of the bound; its draws of q(z|x) are common to the classes"
    )


class VaDE(VAE):
    """Every class has clusters of its own in the latent space; decoder and q(z | x) know no class.

        y ~ π,   z | y ~ 1/M Σ_m N(μ_ym, diag σ_ym²),   e | z ~ N(o_y + d_y + g(z), diag exp v),   q(z | x)

    One draw of z serves all classes, so that with one draw the unlabelled term is the bound with the class summed out
    inside the expectation, E_q log Σ_y π_y p(e | z) p(z | y) / q(z | x): tighter than the sum of bounds. Where labels
    are few, unlabelled parcels find the clusters and labels name them. In the textbook, start=none, there are no o_y
    and d_y, so the class acts through its clusters alone; train it with collapse=pretrain, an auto-encoder first. From
    the common start the clusters all begin at N(0, I).

    Reference:
        Variational Deep Embedding: An Unsupervised and Generative Approach to Clustering, Jiang, Zheng, Tan, Tang and
        Zhou, 2017.
    """

    Settings = VaDEOptions
    q_sees_class = False
    decoder_sees_class = False
    textbook_has_class_means = False

    def make_latent(self, options: VAEOptions) -> Latent:
        latent = cast(GaussianLatent, super().make_latent(options))
        latent.prior = MixtureOfGaussians(
            options.latent, options.prior_components, classes=self.spec.classes, at_standard=self.at_start
        )
        return latent

    @torch.no_grad()
    def cluster_posterior(self, batch: Batch) -> Tensor:
        """(B, K) E_q(z | x) p(y | z): what the latent alone says of the class."""
        latent = cast(GaussianLatent, self.latent)
        drawn = latent.learnt(self.seen_rows(batch).features, self.noise)
        found = torch.log_softmax(drawn.log_prior + self.tied.log_prior, -1)
        return (torch.logsumexp(found, 0) - math.log(len(found))).exp()
