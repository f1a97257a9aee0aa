"""Semi-supervised variational auto-encoder with the class as a latent variable."""

from __future__ import annotations

from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.base import InputSpec, Objective
from cropgen.models.layers.semisupervised import Evidence, semisupervised_objective
from cropgen.models.vaes.vae import VAE, VAEOptions
from cropgen.series.batches import Batch


class M2Options(VAEOptions):
    """Options of `m2`."""

    recognition: float = Field(1.0, ge=0, description="α, weight of −log q(y|x) on labelled parcels")
    hybrid: float = Field(0.0, ge=0, description="weight of the cross-entropy of Bayes' rule on labelled parcels")
    distillation: float = Field(0.0, ge=0, description="weight of teaching q(y|x) by Bayes' rule on unlabelled parcels")
    marginalise: Literal["bound", "q"] = Field(
        "bound",
        description="classes of unlabelled parcels weighted by the density, the tightest bound there is, or by q(y|x)",
    )


def weighted_by(log_q: Tensor, joint: Tensor) -> Tensor:
    """(B,) Σ_y q(y | x) (J_y − log q(y | x)), at most log Σ_y exp J_y, which it is at q ∝ exp J.

    Arguments:
        log_q: (B, K).
        joint: (B, K) J.
    """
    return (log_q.exp() * (joint - log_q)).sum(-1)


class M2(VAE):
    """The class is a latent variable where it is not told, and is summed out exactly.

        p(x, y, z) = π_y p(z) p(x | y, z),   q(y, z | x) = q(y | x) q(z | x, y)
        J_y = E_q(z | x, y) [log p(x | y, z) + log p(z) − log q(z | x, y)] + log π_y

        labelled     −J_y − α log q(y | x)
        unlabelled   −log Σ_y exp J_y,   or −Σ_y q(y | x) (J_y − log q(y | x)) with marginalise=q

    per observed value of a parcel but for the term of α. The first form of the unlabelled term is the second at its
    best q, and leaves q(y | x) to the labels. Without the hybrid term the temperature of Bayes' rule is not learnt. All
    else is as in `vae`; the textbook is start=none, decide=q.

    Reference:
        Semi-Supervised Learning with Deep Generative Models, Kingma, Rezende, Mohamed and Welling, 2014.
    """

    Settings = M2Options

    def __init__(self, spec: InputSpec, options: M2Options) -> None:
        super().__init__(spec, options)
        if not options.hybrid:
            begun = self.log_beta.detach()
            del self.log_beta
            self.register_buffer("log_beta", begun)

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        if cast(M2Options, self.options).marginalise == "bound":
            return super().objective(batch, generator)
        if self.counts_steps:
            self.updates += 1
        seasons = self._seasons(batch)
        features = self._features(seasons, generator)
        joint = self.class_scores(seasons, features, generator) + self.tied.log_prior
        logits = self.recognition.classify(features)
        evidence = Evidence(joint, logits, self.tied.log_prior, self.log_beta, seasons.observed, seasons.y)
        rest = semisupervised_objective(evidence, self._losses.model_copy(update={"marginal": 0.0}))
        free = (seasons.y < 0) & (seasons.observed > 0)
        size = seasons.observed.to(joint.dtype).mean().clamp(min=1)
        bound = weighted_by(torch.log_softmax(logits, -1), joint)
        marginal = -torch.where(free, bound, 0).sum() / free.sum().clamp(min=1) / size
        found = Objective(rest.total + self._losses.marginal * marginal, {**rest.terms, "marginal": marginal})
        return self.regularised(found, batch, generator)
