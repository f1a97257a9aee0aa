"""Latent features of seasons learnt without classes, then a classifier on them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from cropgen.models.base import Context, InputSpec, Objective, TrainingData
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.semisupervised import Rule, decide
from cropgen.models.layers.vae.model import SharedEstimator
from cropgen.models.layers.vae.unread import refuse_unread
from cropgen.models.vaes.vae import VAE, VAEOptions
from cropgen.series.batches import Batch

_CANDIDATES, _ITERATIONS = 16, 100


class M1Options(VAEOptions):
    """Options of `m1`."""

    ridge: float = Field(0.01, ge=0, description="penalty of the squared weights of the classifier")
    latent_kind: Literal["continuous"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "continuous", description="z is a vector of numbers"
    )
    estimator: SharedEstimator = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "elbo", description="of the gradient of the bound; its draws of q(z|x) are common to the classes"
    )

    decide: Literal["auto"] = Field(  # pyright: ignore[reportIncompatibleVariableOverride]
        "auto", description="the classifier on the latent decides"
    )

    @model_validator(mode="after")
    def _stages_are_apart(self) -> M1Options:
        if self.consistency or self.class_balance:
            raise ValueError("the latent of m1 is learnt without a class: it needs consistency=0 and class_balance=0")
        losses = ("generative", "marginal", "hybrid", "recognition", "distillation")
        refuse_unread(self, "in m1, whose stages have one loss each", *losses)
        return self


class LatentClassifier(nn.Module):
    """A m + b on the mean m of q(z | x), fitted in closed steps and so no parameters of the gradient loop."""

    weight: Tensor
    bias: Tensor

    def __init__(self, size: int, classes: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.zeros(classes, size))
        self.register_buffer("bias", torch.zeros(classes))

    def forward(self, mean: Tensor) -> Tensor:
        """(B, Z) → (B, K)."""
        return functional.linear(mean, self.weight, self.bias)

    def fit(self, mean: Tensor, begun: Tensor, y: Tensor, ridge: float) -> None:
        """Ridge-penalised maximum likelihood of y (B,), the logits added to `begun` (B, K)."""
        inputs, offset = mean.double(), begun.double()
        weight = self.weight.double().clone().requires_grad_()
        bias = self.bias.double().clone().requires_grad_()
        search = torch.optim.LBFGS([weight, bias], max_iter=_ITERATIONS, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            search.zero_grad()
            value = functional.cross_entropy(offset + functional.linear(inputs, weight, bias), y)
            value = value + 0.5 * ridge * weight.square().sum()
            value.backward()
            return value

        with torch.enable_grad():
            search.step(loss)
        self.weight.copy_(weight.detach())
        self.bias.copy_(bias.detach())


class M1(VAE):
    """Two stages: an auto-encoder of all parcels that is told no class, then logistic regression on its latent.

        1   −log Σ_y π_y p(x | y) of every parcel, labelled or not,   z ~ p(z), e | z ~ N(o_y + d_y + g(z), diag exp v)
        2   log p(y | x) = log softmax(b(x) + A m(x) + c)

    with m(x) the mean of q(z | x) and b(x) the tempered posterior of the tied Gaussian, with which the model begins:
    A = 0 and c = 0 are exactly it. The density is p(x, y) = p(x) p(y | x), and seasons of a class are drawn by
    importance resampling. In the textbook, start=none, o_y, d_y and b are absent: p(x) knows no class at all.
    z (S, B, 1, Z).

    Reference:
        Semi-Supervised Learning with Deep Generative Models, Kingma, Rezende, Mohamed and Welling, 2014.
    """

    Settings = M1Options
    q_sees_class = False
    decoder_sees_class = False
    textbook_has_class_means = False

    def __init__(self, spec: InputSpec, options: M1Options) -> None:
        super().__init__(spec, options)
        begun = self.log_beta.detach()
        del self.log_beta
        self.register_buffer("log_beta", begun)
        self.recognition.add_module("classify", nn.Identity())
        self.classifier = LatentClassifier(self.latent.width, spec.classes)

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        if self.counts_steps:
            self.updates += 1
        seasons = self._seasons(batch)
        features = self._features(seasons, generator)
        joint = self.class_scores(seasons, features, generator) + self.tied.log_prior
        seen = seasons.observed > 0
        density = torch.where(seen, torch.logsumexp(joint, -1), 0).sum() / seen.sum().clamp(min=1)
        loss = -density / seasons.observed.to(joint.dtype).mean().clamp(min=1)
        return Objective(loss, {"marginal": loss})

    def _logits(self, seasons: Seasons) -> tuple[Tensor, Tensor]:
        """b(x) (B, K) and m(x) (B, Z)."""
        mean = self.latent.mean(self._features(seasons, None))
        if mean is None:
            raise TypeError("the latent has no mean")
        prior = self.tied.log_prior.expand(len(seasons), -1)
        return self._start_posterior(seasons) if self.at_start else prior, mean[:, 0]

    @torch.no_grad()
    def finish(self, data: TrainingData, context: Context) -> None:
        super().finish(data, context)
        seasons = self._seasons(data.labelled)
        begun, mean = self._logits(seasons)
        told = (seasons.y >= 0) & (seasons.observed > 0)
        self.classifier.fit(mean[told], begun[told], seasons.y[told], cast(M1Options, self.options).ridge)

    def _log_class(self, seasons: Seasons) -> Tensor:
        begun, mean = self._logits(seasons)
        return decide("q", begun, begun + self.classifier(mean), self.tied.log_prior, seasons.observed)

    def log_posterior(self, batch: Batch) -> Tensor:
        return self._log_class(self._seasons(batch))

    def _answers(self, batch: Batch) -> Callable[[Rule], Tensor]:
        """The classifier, whatever the rule of decision."""
        told = self.log_posterior(batch)
        return lambda rule: told

    def log_joint(self, batch: Batch) -> Tensor:
        density = torch.logsumexp(super().log_joint(batch), -1, keepdim=True)
        return density + self.log_posterior(batch)

    @torch.no_grad()
    def sample(self, y: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        every = super().sample(y.repeat_interleave(_CANDIDATES), generator, temperature)
        shape = every.shape[:2]
        days = self.start_days.to(every.dtype).expand(shape)
        slots = torch.arange(shape[1], device=y.device).expand(shape)
        batch = Batch(
            every, torch.ones(shape, dtype=torch.bool, device=y.device), days, slots, y.new_full(shape[:1], -1)
        )
        proposed = torch.log_softmax(super().log_joint(batch), -1)
        weight = (self.log_posterior(batch) - proposed).view(len(y), _CANDIDATES, -1)
        share = weight[torch.arange(len(y)), :, y].softmax(-1)
        chosen = torch.multinomial(share.cpu(), 1, generator=generator)[:, 0].to(y.device)
        return every.view(len(y), _CANDIDATES, *every.shape[1:])[torch.arange(len(y)), chosen]
