"""Structured semi-supervised deep generative model: the latent first, the class told from it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.base import InputSpec
from cropgen.models.layers.vae.heads import LatentHead
from cropgen.models.layers.vae.model import Explained, Rows
from cropgen.models.vaes.m2 import M2, M2Options


class SSDGMOptions(M2Options):
    """Options of `ssdgm`."""

    hybrid: float = Field(1.0, ge=0, description="weight of the cross-entropy of Bayes' rule on labelled parcels")
    distillation: float = Field(1.0, ge=0, description="weight of teaching q(y|x) by Bayes' rule on unlabelled parcels")
    draws: int = Field(4, ge=1, description="draws of the latent in the bound that is learnt from")
    estimator: Literal["elbo"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "elbo", description="of the gradient of the bound, importance-weighted"
    )
    latent_kind: Literal["continuous"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "continuous", description="z is a vector of numbers"
    )


class SSDGM(M2):
    """Style z and class y are separate parts of a structured posterior, in which the class depends on the style.

        p(x, y, z) = π_y p(z) p(x | y, z),   q(y, z | x) = q(z | x) q(y | z, x)

    A label conditions this posterior, q(z | x, y) = q(z | x) q(y | z, x) / q(y | x), from which there is no direct
    draw: draws of q(z | x) are weighted by w_s = q(y | z_s, x), w̃_s = w_s / Σ_r w_r,

        J_y = Σ_s w̃_s [log p(x | y, z_s) + log p(z_s) − log q(z_s | x) − log w_s] + log q̂(y | x) + log π_y
        q̂(y | x) = 1/S Σ_s w_s

    and labelled parcels also pay −α log q̂(y | x). The divergence stands under the same weights as the likelihood; its
    closed form KL(q(z | x) ‖ p(z)) is another expectation and gives no bound. By Jensen's inequality J_y of S draws is
    at most log 1/S Σ_s p(x, z_s, y) / q(z_s | x), the importance-weighted bound of the same draws, so it is a bound for
    every S; with one draw it is the bound of that draw. With marginalise=q and the draws of J in the head, the
    unlabelled term is E_{q(z | x)} Σ_y q(y | z, x) log p(x, y, z) / q(y, z | x), as published; the head draws its own.

    q(y | z, x) begins blind to z and q(z | x) at N(0, I), the decoder at zero: exactly the tied Gaussian. Scores weigh
    draws of q(z | x), common to the classes. z (S, B, 1, Z).

    Reference:
        Learning Disentangled Representations with Semi-Supervised Deep Generative Models, Siddharth, Paige, van de
        Meent, Desmaison, Goodman, Kohli, Wood and Torr, 2017.
    """

    Settings = SSDGMOptions
    q_sees_class = False

    def __init__(self, spec: InputSpec, options: SSDGMOptions) -> None:
        super().__init__(spec, options)
        head = LatentHead(self.recognition.width, options.latent, spec.classes, options.samples, self._draw)
        self.recognition.add_module("classify", head)

    def _draw(self, features: Tensor, noise: Tensor) -> Tensor:
        return self.latent.learnt(features, noise).z

    def explain(self, rows: Rows, noise: Tensor) -> Explained:
        found = super().explain(rows, noise)
        head = self.recognition.classify
        if not isinstance(head, LatentHead):
            return found
        at_draw = (found.log_q - found.log_prior)[..., None]
        return replace(found, divergence=at_draw, log_class=head.at(rows.features, found.z))

    def bound(self, explained: Explained) -> Tensor:
        if explained.log_class is None:
            return super().bound(explained)
        log_share = explained.log_class
        share = torch.softmax(log_share, 0)
        divergence = self.weight() * self._spared(explained.divergence).sum(-1)
        each = explained.log_likelihood - divergence - log_share
        told = torch.logsumexp(log_share, 0) - math.log(len(log_share))
        return (share * each).sum(0) + told - explained.penalty
