"""The pool: a log-linear pool of a generative and a discriminative member.

    log p(y | x) = w log p_g(y | x) + (1 − w)/τ log p_d(y | x) − log Z(x),      w = 1 / (1 + (n / 45)^0.4)

with n the mean number of labels per class: the density leads where labels are few, the discriminative member where
they are many. The members learn side by side and independently; only their answers meet. One loop trains both, so the
larger of their `steps`, batch sizes and `patience` holds for both. A network trained to the end on its labels is too
sure of itself and would drown the other member, and there are no labels left to temper it with; so τ is chosen on the
unlabelled parcels, where it minimises the cross-entropy to the generative member's posterior, which is tempered by
cross-validation. The likelihood p(x) is the generative member's. A season that lacks the last quarter of those learnt
from is its alone too: a network of whole seasons is wrong, and sure, about a beginning.

The generative member is a flow. Where it is a tied Gaussian, which is wrong, and sure, about seasons that lie far from
all its classes, as those of another year may, its posterior is that of the Student-t
(`cropgen.models.layers.heavy_tails`), whose tails are learnt from the unlabelled parcels: it leaves more of the class
of a far season to the network.

Rows of the target domain are learnt from by the generative member alone: a network taught by its own guesses about
another season or region is erratic.

References:
    Training Products of Experts by Minimizing Contrastive Divergence, Hinton, 2002;
    On Calibration of Modern Neural Networks, Guo, Pleiss, Sun and Weinberger, 2017.
"""

from __future__ import annotations

from dataclasses import replace
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
    Mixture,
    Objective,
    Options,
    TrainingData,
)  # fmt: skip
from cropgen.models.catalog import find, load
from cropgen.models.discriminative.network import NeuralClassifier
from cropgen.models.layers.heavy_tails import HeavyTails
from cropgen.models.layers.reach import Reach
from cropgen.models.layers.tied_classifier import TiedClassifier
from cropgen.series.batches import Batch

_EVEN_LABELS = 45.0
_EXPONENT = 0.4
_TEMPERATURES = torch.logspace(-0.3, 1.3, 33, dtype=torch.float64)
_JUDGED = 4096


class PoolOptions(Options):
    """Options of the pool."""

    generative: str = Field("realnvp", description="the generative member: a generative model of `cropgen models`")
    discriminative: str = Field("tempcnn", description="the other member: any other model of `cropgen models`")
    weight: float = Field(
        -1.0,
        ge=-1,
        le=1,
        description="share of the generative member, 0 to 1; −1: from the labels per class",
        json_schema_extra={"search": [-1.0, 0.3, 0.5, 0.7]},
    )
    temper: bool = Field(
        True,
        description="temper the other member on the unlabelled parcels by the generative member's posterior",
        json_schema_extra={"search": [True, False]},
    )
    heavy_tails: bool = Field(
        True,
        description="a tied Gaussian answers as a Student-t: less sure about seasons far from every class",
        json_schema_extra={"search": [True, False]},
    )
    generative_options: dict[str, Any] = Field(
        default_factory=dict,
        description="options of the generative member; of steps, batch sizes and patience the larger of both members' "
        "holds for both",
    )
    discriminative_options: dict[str, Any] = Field(
        default_factory=dict,
        description="options of the other member; tempcnn begins with semi = fixmatch; of steps, batch sizes and "
        "patience the larger of both members' holds for both",
    )

    @model_validator(mode="before")
    @classmethod
    def _consistent_network(cls, document: Any) -> Any:
        """A convolutional member uses the unlabelled parcels too unless told otherwise."""
        if not isinstance(document, dict) or document.get("discriminative", "tempcnn") != "tempcnn":
            return document
        chosen = document.get("discriminative_options", {})
        if not isinstance(chosen, dict):
            return document
        return {**document, "discriminative_options": {"semi": "fixmatch", **chosen}}


class Pool(Classifier):
    """Log-linear pool of two members (see the module)."""

    Settings: ClassVar[type[Options]] = PoolOptions
    learns_by_gradient = True
    uses_unlabelled = True

    weight: Tensor
    temperature: Tensor

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
        self.reach = Reach()
        self.tails = HeavyTails()
        self.register_buffer("weight", torch.tensor(0.5))
        self.register_buffer("temperature", torch.tensor(1.0))

    @property
    def chosen(self) -> PoolOptions:
        return cast(PoolOptions, self.options)

    @property
    def members(self) -> dict[str, Classifier]:
        return {"generative": self.generative, "discriminative": self.discriminative}

    @property
    def adapts(self) -> bool:
        return self.generative.adapts

    def check_device(self, device: torch.device) -> None:
        for member in self.members.values():
            member.check_device(device)

    def prepare(self, data: TrainingData, context: Context) -> None:
        """Prepare the members and weigh them; only the generative one sees the target."""
        per_class = len(data.labelled) / self.spec.classes
        share = self.chosen.weight if self.chosen.weight >= 0 else pool_weight(per_class)
        self.weight.fill_(share)
        context.facts["pool"] = {
            "generative": find(self.chosen.generative).name,
            "discriminative": find(self.chosen.discriminative).name,
            "labels_per_class": per_class,
            "weight": share,
        }
        unlabelled = None if data.unlabelled is None else self._begun(data.unlabelled)
        self.reach.learn(TrainingData(self._begun(data.labelled), unlabelled))
        self.generative.prepare(data, context)
        self.discriminative.prepare(replace(data, target=None), context)

    def learners(self) -> list[tuple[nn.Module, GradientOptions]]:
        return [learner for member in self.members.values() for learner in member.learners()]

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        """The sum of the objectives of the members that learn by gradient, each on its own view."""
        terms: dict[str, Tensor] = {}
        totals = []
        for role, member in self.members.items():
            if member.learns_by_gradient:
                seen = batch if member.uses_unlabelled else batch.take(batch.y_mask)
                view = member.augmented(seen, generator).to(device=batch.values.device)
                part = member.objective(view, generator)
                totals.append(part.total)
                terms |= {f"{role}.{name}": value for name, value in part.terms.items()}
        return Objective(torch.stack(totals).sum(), terms)

    def finish(self, data: TrainingData, context: Context) -> None:
        self.generative.finish(data, context)
        self.discriminative.finish(replace(data, target=None), context)
        self._join(data, context)

    def replace_generative(self, member: GenerativeModel, data: TrainingData, context: Context) -> None:
        """Put another fitted generative member, such as one adapted to the target, beside the same network."""
        self.generative = member
        context.facts["pool"] = {"generative": find(self.chosen.generative).name, "weight": float(self.weight)}
        self._join(data, context)

    def _join(self, data: TrainingData, context: Context) -> None:
        """What the members' answers are brought together by: the tails of one, the temperature of the other."""
        if self.chosen.heavy_tails and isinstance(self.generative, TiedClassifier):
            self.tails.learn(self.generative.gaussian, _sample(data.unlabelled or data.labelled))
            context.facts["pool"] |= {"freedom": float(self.tails.freedom), "spread": float(self.tails.spread)}
        if self.chosen.temper and data.unlabelled is not None:
            self.temperature.fill_(self._matched_temperature(data.unlabelled))
            context.facts["pool"]["temperature"] = float(self.temperature)

    def _matched_temperature(self, unlabelled: Batch) -> float:
        """τ that minimises the cross-entropy of the tempered member to the generative one, at most 4,096 parcels; both
        see of a season what a network that is distilled for its beginning sees."""
        rows, first, second = _sample(unlabelled), [], []
        with torch.inference_mode():
            for part in torch.arange(len(rows)).split(512):
                seen = self._begun(rows.take(part))
                first.append(self.generative.log_posterior(seen).double().exp())
                second.append(self.discriminative.log_posterior(seen).double())
        return match_temperature(torch.cat(first), torch.cat(second))

    def log_posterior(self, batch: Batch) -> Tensor:
        first = self._believed(batch)
        second = self.discriminative.log_posterior(batch) / self.temperature
        pooled = torch.log_softmax(self.weight * first + (1 - self.weight) * second, -1)
        early = self.reach.ended_early(self._begun(batch))
        return torch.where(early[:, None], first, pooled)

    def _believed(self, batch: Batch) -> Tensor:
        """(B, K) the answer of the generative member, a tied Gaussian's with heavy tails."""
        if self.chosen.heavy_tails and isinstance(self.generative, TiedClassifier):
            return self.tails.log_posterior(self.generative.gaussian, batch)
        return self.generative.log_posterior(batch)

    def _begun(self, batch: Batch) -> Batch:
        """The rows as far as the discriminative member looks at them."""
        member = self.discriminative
        return member.begun(batch) if isinstance(member, NeuralClassifier) else batch

    def log_likelihood(self, batch: Batch) -> Tensor:
        """(B,) log p(x) of the generative member."""
        return self.generative.log_likelihood(batch)

    def predictive(self, batch: Batch, slots: Tensor) -> Mixture | None:
        """What the generative member expects at slots of the calendar."""
        return self.generative.predictive(batch, slots)

    def fixed_state(self) -> dict[str, Any]:
        return {role: member.fixed_state() for role, member in self.members.items()}

    def restore_fixed_state(self, state: dict[str, Any]) -> None:
        for role, member in self.members.items():
            member.restore_fixed_state(state[role])


def pool_weight(labels_per_class: float) -> float:
    """Share of the generative member, 1 without labels, 1/2 at 45 per class, falling slowly."""
    return 1 / (1 + (labels_per_class / _EVEN_LABELS) ** _EXPONENT)


def match_temperature(target: Tensor, log_posterior: Tensor) -> float:
    """The τ of a grid from 0.5 to 20 with the least mean −Σ_y target_y log softmax(log_posterior / τ)_y.

    Arguments:
        target: (N, K) probabilities.
        log_posterior: (N, K) log-probabilities to temper.
    """
    losses = [-(target * torch.log_softmax(log_posterior / t, -1)).sum(-1).mean() for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(torch.stack(losses).argmin())])


def _sample(batch: Batch) -> Batch:
    """At most 4,096 of the rows, evenly."""
    return batch.take(torch.linspace(0, len(batch) - 1, min(len(batch), _JUDGED)).round().long())


def _member(name: str, settings: dict[str, Any], spec: InputSpec, where: str) -> Classifier:
    entry = find(name)
    if entry.family == "pool":
        raise UsageError("a pool cannot be a member of a pool", hint="name two single models")
    kind = load(entry)
    return kind(spec, validate(kind.Settings, settings, where=f"pool: {where} of {entry.name}"))
