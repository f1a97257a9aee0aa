"""Deep densities that begin exactly at the tied Gaussian and learn what it leaves over.

A model of this kind sees a season through the innovations of the tied Gaussian, gives log p(e | y) for all classes at
once, and classifies by Bayes' rule, by a recognition head q(y | x) that Bayes' rule has taught, or by a product of
both, to which the tied Gaussian can be added: it steadies a model of few labels.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import Context, GenerativeModel, InputSpec, Objective, TrainingData
from cropgen.models.layers.bank import Bank, Seasons, see
from cropgen.models.layers.encoder import Recognition
from cropgen.models.layers.innovations import TiedGaussian
from cropgen.models.layers.reach import Reach
from cropgen.models.layers.semisupervised import (
    FIRST_LOG_BETA,
    RULES,
    Evidence,
    Rule,
    SemiSupervisedOptions,
    choose_rule,
    decide,
    semisupervised_objective,
    tempered_posterior,
)
from cropgen.models.layers.tied_fit import TiedOptions, fit_tied
from cropgen.series.batches import Batch

FEW_LABELS = 10
_BANK_BYTES = 5e8
_BANK_OPERATIONS = 1e12
_JUDGED_AT_ONCE = 512


class ResidualOptions(SemiSupervisedOptions):
    """Options of the densities that begin at the tied Gaussian."""

    start: Literal["tgem", "none"] = Field(
        "tgem",
        description="tgem: begin at the tied Gaussian; none: the textbook form, standardised bands, random start",
    )
    augmentation: Literal["auto", "strong", "lite", "none"] = Field(
        "auto", description="of the training parcels; auto: strong below 10 labels a class, else lite"
    )
    copies: int = Field(
        4096, ge=1, description="most augmented copies learnt from, of labelled and of unlabelled parcels each"
    )
    tied: TiedOptions = Field(TiedOptions.model_validate({}), description="options of the tied Gaussian")


@dataclass(frozen=True)
class WhitenedBatch(Batch):
    """A mini-batch together with its innovations."""

    seasons: Seasons

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> WhitenedBatch:
        """Move to a device and cast the floating-point members."""
        plain = self._plain().to(device=device, dtype=dtype)
        return WhitenedBatch(**vars(plain), seasons=cast_seasons(self.seasons, device, dtype))

    def take(self, rows: Tensor) -> WhitenedBatch:
        """The rows of an index or boolean tensor."""
        return WhitenedBatch(**vars(self._plain().take(rows)), seasons=self.seasons.take(rows))

    def _plain(self) -> Batch:
        return Batch(**{f.name: getattr(self, f.name) for f in fields(Batch)})


def cast_seasons(seasons: Seasons, device: torch.device | str | None, dtype: torch.dtype | None) -> Seasons:
    """Seasons moved to a device, floating-point members cast."""
    moved: dict[str, Any] = {}
    for field in fields(Seasons):
        tensor = getattr(seasons, field.name)
        moved[field.name] = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
    return Seasons(**moved)


class ResidualModel(GenerativeModel):
    """Base of the densities around the tied Gaussian.

    A subclass gives `class_scores`, log p(e | y) of the observed innovations, and `draw_innovations`. With the class
    mean offsets o_y and the corrections d_y (`shift`) and v (`log_var`), all learnt from zero,

        log p(x, y) = log p(e | y) − log |L_r| − Σ log scale + log π_y

    Arguments:
        spec: what the model sees and answers.
        options: of the subclass.
    """

    learns_by_gradient = True
    uses_unlabelled = True
    start_days: Tensor
    rule: Tensor

    def __init__(self, spec: InputSpec, options: ResidualOptions) -> None:
        super().__init__(spec, options)
        slots, bands, k = spec.calendar.count, len(spec.bands), spec.classes
        self.size = slots * bands
        self.register_buffer("start_days", torch.as_tensor(spec.calendar.start_days(), dtype=torch.float32))
        self.tied = TiedGaussian(spec)
        self.recognition = Recognition(bands, slots, k)
        self.shift = nn.Parameter(torch.zeros(k, self.size))
        self.log_var = nn.Parameter(torch.zeros(self.size))
        self.log_beta = nn.Parameter(torch.tensor(FIRST_LOG_BETA))
        self.reach = Reach()
        if options.decide == "auto":
            self.register_buffer("rule", torch.tensor(RULES.index("product")))
        self._bank: Bank | None = None
        self._losses: SemiSupervisedOptions = options

    @property
    def adapts(self) -> bool:
        return True

    @property
    def chosen(self) -> ResidualOptions:
        return cast(ResidualOptions, self.options)

    @abstractmethod
    def class_scores(self, seasons: Seasons, features: Tensor, generator: torch.Generator | None) -> Tensor:
        """(B, K) log p(e | y) or a lower bound of it, over the observed entries.

        Arguments:
            features: (B, W) of the recognition head.
            generator: draws latent noise while learning; None scores deterministically.
        """

    @abstractmethod
    def draw_innovations(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        """(B, D) innovations of complete seasons drawn from p(e | y)."""

    def prepare(self, data: TrainingData, context: Context) -> None:
        textbook = self.chosen.start == "none"
        tied = self.chosen.tied.model_copy(update={"em": "off"}) if textbook else self.chosen.tied
        self.tied.load_state_dict(fit_tied(self.spec, data, tied, context).state_dict())
        if textbook:
            self._forget_structure(context)
        if context.facts["tgem"].get("guard_fell_back"):
            self._losses = self.chosen.model_copy(update={"marginal": 0.0})
        if context.facts["tgem"].get("target_accepted"):
            data = replace(data, unlabelled=data.free)
        self.reach.learn(data)
        few = int(data.labelled.y_mask.sum()) < FEW_LABELS * self.spec.classes
        if self.chosen.decide == "auto":
            self.rule.fill_(RULES.index("product" if few else "learnt"))
        strength = self.chosen.augmentation
        if strength == "auto":
            strength = "strong" if few else "lite"
        self._bank = Bank.build(
            self.tied,
            data,
            self.start_days,
            labelled=self._copies(self.chosen.labelled_batch),
            unlabelled=self._copies(self.chosen.unlabelled_batch),
            strength=strength,
            generator=context.generator("bank"),
            report=context.report,
        )

    def _copies(self, mini_batch: int) -> int:
        """Rows of the bank: no more than are ever drawn, than fit in memory, or than are whitened in a few minutes."""
        classes = self.tied.means.shape[0]
        affordable = min(_BANK_BYTES / (4 * self.size * (classes + 2)), _BANK_OPERATIONS / (self.size**3 / 3))
        return min(self.chosen.copies, self.chosen.steps * mini_batch, max(mini_batch, int(affordable)))

    def _forget_structure(self, context: Context) -> None:
        """Leave of the common start only the standardisation of the bands and the class prior."""
        with torch.no_grad():
            for buffer in (self.tied.cov, self.tied.chol):
                buffer.copy_(torch.eye(self.size))
            self.tied.means.zero_()
            self.shift.normal_(0, 0.01, generator=context.generator("class means"))

    def augmented(self, batch: Batch, generator: torch.Generator) -> Batch:
        """As many labelled and unlabelled rows as `batch` has, drawn from the bank of whitened augmented copies.

        A batch without unlabelled rows gets some where the bank has them: those of the target.
        """
        if self._bank is None:
            return batch
        known = int(batch.y_mask.sum())
        seasons = self._bank.draw(known, len(batch) - known or self.chosen.unlabelled_batch, generator)
        slot = torch.arange(self.spec.calendar.count).expand(len(seasons), -1)
        return WhitenedBatch(seasons.x, seasons.mask, seasons.day, slot, seasons.y, seasons)

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        seasons = self._seasons(batch)
        features = self._features(seasons, generator)
        joint = self.class_scores(seasons, features, generator) + self.tied.log_prior
        return semisupervised_objective(
            Evidence(
                joint,
                self.recognition.classify(features),
                self.tied.log_prior,
                self.log_beta,
                seasons.observed,
                seasons.y,
            ),
            self._losses,
        )

    def finish(self, data: TrainingData, context: Context) -> None:
        self._bank = None
        if self.chosen.decide != "auto":
            return
        judges = data.validation
        if judges is not None and len(judges):
            best = choose_rule(self.posteriors(judges), judges.y, RULES[int(self.rule)])
            self.rule.fill_(RULES.index(best))
        context.facts["decide"] = {"rule": RULES[int(self.rule)], "rows": 0 if judges is None else len(judges)}

    @torch.inference_mode()
    def posteriors(self, batch: Batch) -> dict[Rule, Tensor]:
        """(B, K) log p(y | x) of a batch by every rule of decision that the model has."""
        rules: list[Rule] = [rule for rule in RULES if rule != "start" or self.chosen.start == "tgem"]
        answers = [self._answers(batch.take(rows)) for rows in torch.arange(len(batch)).split(_JUDGED_AT_ONCE)]
        return {rule: torch.cat([answer(rule) for answer in answers]) for rule in rules}

    def log_joint(self, batch: Batch) -> Tensor:
        seasons = self._seasons(batch)
        scores = self.class_scores(seasons, self._features(seasons, None), None) - seasons.log_det[:, None]
        return torch.where((seasons.observed > 0)[:, None], scores, 0) + self.tied.log_prior

    def log_posterior(self, batch: Batch) -> Tensor:
        chosen, answer = self.chosen.decide, self._answers(batch)
        if chosen != "auto":
            return answer(chosen)
        early = self.reach.ended_early(batch)
        return torch.where(early[:, None], answer("densities"), answer(RULES[int(self.rule)]))

    def _answers(self, batch: Batch) -> Callable[[Rule], Tensor]:
        """(B, K) log p(y | x) by each rule of decision."""
        seasons = self._seasons(batch)
        features = self._features(seasons, None)
        joint = self.class_scores(seasons, features, None) + self.tied.log_prior
        return partial(
            decide,
            log_bayes=tempered_posterior(joint, self.tied.log_prior, self.log_beta),
            logits=self.recognition.classify(features),
            log_prior=self.tied.log_prior,
            observed=seasons.observed,
            log_start=self._start_posterior(seasons) if self.chosen.start == "tgem" else None,
        )

    def sample(self, y: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        e = self.draw_innovations(y, generator, temperature)
        x = e @ self.tied.chol.T + self.tied.overall_mean
        return self.tied.restore(x.unflatten(1, (self.spec.calendar.count, len(self.spec.bands))))

    def full_offset(self) -> Tensor:
        """(K, D) class means of a complete season in innovations, L⁻¹ (μ_y − μ₀)."""
        contrast = (self.tied.means - self.tied.overall_mean).T
        return torch.linalg.solve_triangular(self.tied.chol, contrast, upper=False).T

    def _start_posterior(self, seasons: Seasons) -> Tensor:
        """(B, K) tempered log posterior of the tied Gaussian."""
        distance = (seasons.e[:, None] - seasons.offset).square().sum(-1)
        return torch.log_softmax(self.tied.beta * (self.tied.log_prior - 0.5 * distance), -1)

    def standard_normal(self, rows: int, size: int, generator: torch.Generator) -> Tensor:
        """(rows, size) noise in the type and on the device of the model."""
        noise = torch.randn((rows, size), generator=generator, device=generator.device, dtype=self.shift.dtype)
        return noise.to(self.shift.device)

    def _seasons(self, batch: Batch) -> Seasons:
        found = batch.seasons if isinstance(batch, WhitenedBatch) else see(self.tied, batch, self.start_days)
        return cast_seasons(found, None, self.shift.dtype)

    def _features(self, seasons: Seasons, generator: torch.Generator | None) -> Tensor:
        return self.recognition.features(seasons.x, seasons.mask, seasons.day, seasons.e, generator)
