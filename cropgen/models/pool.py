"""The pool: a log-linear pool of a generative and a discriminative member.

    log p(y | x) = w log p_g(y | x) + (1 − w) log p_d(y | x) − log Z(x),      w = 1 / (1 + (n / 45)^0.4)

with n the mean number of labels per class: the density leads where labels are few, the discriminative member where
they are many. The members learn side by side and independently; only their answers meet. The likelihood p(x) is the
generative member's.

Reference:
    Training Products of Experts by Minimizing Contrastive Divergence, Hinton, 2002.
"""

from __future__ import annotations

from typing import Any, ClassVar, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cropgen.core.errors import UsageError
from cropgen.core.recipe import validate
from cropgen.models.base import (
    Classifier,
    Context,
    GenerativeModel,
    GradientOptions,
    InputSpec,
    Objective,
    Options,
    TrainingData,
)  # fmt: skip
from cropgen.models.catalog import find, load
from cropgen.series.batches import Batch

_EVEN_LABELS = 45.0
_EXPONENT = 0.4


class PoolOptions(Options):
    """Options of the pool."""

    generative: str = Field("tgem", description="the generative member: a generative model of `cropgen models`")
    discriminative: str = Field("tempcnn", description="the other member: any other model of `cropgen models`")
    weight: float = Field(
        -1.0, ge=-1, le=1, description="share of the generative member, 0 to 1; −1: from the labels per class"
    )
    generative_options: dict[str, Any] = Field(default_factory=dict, description="options of the generative member")
    discriminative_options: dict[str, Any] = Field(
        default_factory=dict, description="options of the other member; tempcnn begins with semi = fixmatch"
    )

    @model_validator(mode="before")
    @classmethod
    def _consistent_network(cls, document: Any) -> Any:
        """A convolutional member uses the unlabelled parcels too unless told otherwise."""
        if not isinstance(document, dict) or document.get("discriminative", "tempcnn") != "tempcnn":
            return document
        chosen = document.get("discriminative_options", {})
        return {**document, "discriminative_options": {"semi": "fixmatch", **chosen}}


class Pool(Classifier):
    """Log-linear pool of two members (see the module)."""

    Settings: ClassVar[type[Options]] = PoolOptions
    learns_by_gradient = True
    uses_unlabelled = True

    weight: Tensor

    def __init__(self, spec: InputSpec, options: Options) -> None:
        super().__init__(spec, options)
        chosen = self.chosen
        first = _member(chosen.generative, chosen.generative_options, spec, "generative_options")
        if not isinstance(first, GenerativeModel):
            raise UsageError(
                f"pool: generative = {chosen.generative!r} is not a generative model",
                hint="see the generative models of `cropgen models`",
            )
        self.generative = first
        self.discriminative = _member(
            chosen.discriminative, chosen.discriminative_options, spec, "discriminative_options"
        )
        self.register_buffer("weight", torch.tensor(0.5))

    @property
    def chosen(self) -> PoolOptions:
        return cast(PoolOptions, self.options)

    @property
    def members(self) -> dict[str, Classifier]:
        return {"generative": self.generative, "discriminative": self.discriminative}

    def prepare(self, data: TrainingData, context: Context) -> None:
        """Prepare the members and weigh them."""
        per_class = len(data.labelled) / self.spec.classes
        share = self.chosen.weight if self.chosen.weight >= 0 else pool_weight(per_class)
        self.weight.fill_(share)
        context.facts["pool"] = {
            "generative": find(self.chosen.generative).name,
            "discriminative": find(self.chosen.discriminative).name,
            "labels_per_class": per_class,
            "weight": share,
        }
        for member in self.members.values():
            member.prepare(data, context)

    def learners(self) -> list[tuple[nn.Module, GradientOptions]]:
        return [learner for member in self.members.values() for learner in member.learners()]

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        """The sum of the objectives of the members that learn by gradient, each on its own view."""
        terms: dict[str, Tensor] = {}
        totals = []
        for role, member in self.members.items():
            if member.learns_by_gradient:
                seen = batch if member.uses_unlabelled else batch.take(batch.y_mask)
                part = member.objective(member.augmented(seen, generator), generator)
                totals.append(part.total)
                terms |= {f"{role}.{name}": value for name, value in part.terms.items()}
        return Objective(torch.stack(totals).sum(), terms)

    def finish(self, data: TrainingData, context: Context) -> None:
        for member in self.members.values():
            member.finish(data, context)

    def log_posterior(self, batch: Batch) -> Tensor:
        first = self.generative.log_posterior(batch)
        second = self.discriminative.log_posterior(batch)
        return torch.log_softmax(self.weight * first + (1 - self.weight) * second, -1)

    def log_likelihood(self, batch: Batch) -> Tensor:
        """(B,) log p(x) of the generative member."""
        return self.generative.log_likelihood(batch)

    def fixed_state(self) -> dict[str, Any]:
        return {role: member.fixed_state() for role, member in self.members.items()}

    def restore_fixed_state(self, state: dict[str, Any]) -> None:
        for role, member in self.members.items():
            member.restore_fixed_state(state[role])


def pool_weight(labels_per_class: float) -> float:
    """Share of the generative member, 1 without labels, 1/2 at 45 per class, falling slowly."""
    return 1 / (1 + (labels_per_class / _EVEN_LABELS) ** _EXPONENT)


def _member(name: str, settings: dict[str, Any], spec: InputSpec, where: str) -> Classifier:
    entry = find(name)
    if entry.family == "pool":
        raise UsageError("a pool cannot be a member of a pool", hint="name two single models")
    kind = load(entry)
    return kind(spec, validate(kind.Settings, settings, where=f"pool: {where} of {entry.name}"))
