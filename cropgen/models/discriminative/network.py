"""What every discriminative network shares: how it sees a season and how it learns. Its file holds the architecture.

    p(y | x) = softmax(A f(x, m, day))

with f the network's trunk, x standardised per band and 0 where missing, m the presence of an observation and day its
date. Trained on augmented seasons by cross-entropy, weighted by class or not. Unlabelled seasons are left out, or used:

`semi = "fixmatch"`: a weakly augmented view of an unlabelled season names its class where it is sure, and the augmented
view must agree, with a ramp r over the first steps:

    L = −log p(y | a(x))  +  r λ 1[max p(· | w(u)) ≥ τ] · −log p(argmax p(· | w(u)) | a(u))

`semi = "pseudo"`: the same with w = a, so the network is made surer of what it believes already.

`distil = "06-30"`: classifies seasons of which nothing later than 30 June is seen. A twin of the network learns beside
it from the whole seasons and teaches it, on labelled and unlabelled rows, with both softened by a temperature T:

    L + r T² KL( softmax(f*(whole)/T) ‖ softmax(f(beginning)/T) )  −  log p*(y | whole)

References:
    FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence, Sohn et al., 2020.
    Pseudo-Label: The Simple and Efficient Semi-Supervised Learning Method for Deep Neural Networks, Lee, 2013.
    mixup: Beyond Empirical Risk Minimization, Zhang, Cisse, Dauphin and Lopez-Paz, 2018.
    Distilling the Knowledge in a Neural Network, Hinton, Vinyals and Dean, 2015.
    Class-Balanced Loss Based on Effective Number of Samples, Cui, Jia, Lin, Song and Belongie, 2019.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import ClassVar, Literal, cast

import numpy as np
import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn
from torch.nn import functional

from cropgen.core.errors import UsageError
from cropgen.models.base import (
    Classifier,
    Context,
    GradientOptions,
    InputSpec,
    Objective,
    Options,
    TrainingData,
)  # fmt: skip
from cropgen.models.layers.features import scale_of
from cropgen.models.layers.season_view import Axis, DateScale, SeasonView
from cropgen.models.layers.trunk import Trunk
from cropgen.series.augment import AMPLITUDES, Amplitudes, Strength, augment, augment_dates, mixup
from cropgen.series.batches import Batch
from cropgen.series.season import SeasonEnd

_PASSES = 20
_FEWEST_STEPS, _MOST_STEPS = 450, 3000
Season = tuple[Tensor, Tensor, Tensor]


class NetworkOptions(GradientOptions):
    """Options of every discriminative network."""

    steps: int = Field(
        0, ge=0, description="gradient steps; 0: twenty passes over the labels, at least 450, at most 3000"
    )
    labelled_batch: int = Field(64, ge=2, description="labelled parcels in a mini-batch")
    learning_rate: float = Field(
        2e-3, gt=0, description="peak of the one-cycle schedule", json_schema_extra={"search": [5e-4, 1e-3, 2e-3, 4e-3]}
    )
    weight_decay: float = Field(1e-3, ge=0, description="AdamW weight decay")
    dropout: float = Field(
        0.2, ge=0, lt=1, description="dropout after every layer", json_schema_extra={"search": [0.1, 0.2, 0.4]}
    )
    dates: DateScale = Field(
        "day-of-year", description="how dates are told: calendar (slot), day-of-year (true day), thermal (degree days)"
    )
    augment: Strength = Field(
        "lite", description="augmentation: none, weak, lite or strong",
        json_schema_extra={"search": ["none", "weak", "lite", "strong"]},
    )  # fmt: skip
    time_warp: float = Field(-1.0, ge=-1, description="largest warp of time in slots; −1: that of `augment`")
    temporal_dropout: float = Field(-1.0, ge=-1, lt=1, description="share of dates dropped; −1: that of `augment`")
    band_noise: float = Field(
        -1.0, ge=-1, description="standard deviation of noise on standardised bands; −1: that of `augment`"
    )
    resampling: float = Field(0.0, ge=0, lt=1, description="share of dates interpolated between the others")
    mixup: float = Field(
        0.0, ge=0, description="α of the Beta distribution by which labelled parcels are mixed; 0: not mixed",
        json_schema_extra={"search": [0.0, 0.2]},
    )  # fmt: skip
    class_weight: Literal["none", "balanced", "effective"] = Field(
        "none", description="weight of a class in the loss: none, balanced (inverse frequency) or effective number"
    )
    semi: Literal["none", "pseudo", "fixmatch"] = Field("none", description="how unlabelled parcels are used")
    threshold: float = Field(0.9, gt=0, lt=1, description="semi: confidence above which a class is believed")
    consistency: float = Field(1.0, ge=0, description="semi: weight of the unlabelled loss after the ramp")
    ramp: float = Field(0.3, ge=0, le=1, description="semi, distil: share of the steps over which the weight grows")
    distil: str = Field(
        "",
        description="MM-DD, or days after 1 January: nothing later is seen, and a twin that sees it teaches; empty: no",
    )
    distil_temperature: float = Field(2.0, gt=0, description="distil: temperature that softens what is taught")

    @field_validator("distil")
    @classmethod
    def _end_of_season(cls, text: str) -> str:
        if text:
            try:
                SeasonEnd.parse(text)
            except UsageError as error:
                raise ValueError(error.message) from error
        return text

    @model_validator(mode="after")
    def _taught_what_is_seen(self) -> NetworkOptions:
        if self.mixup and self.distil:
            raise ValueError("distil teaches parcels one by one and needs mixup = 0")
        return self


class SequenceOptions(NetworkOptions):
    """Options of the networks that can read raw dates."""

    axis: Axis = Field("grid", description="what is read: grid (slots of the calendar) or dates (raw dates)")

    @model_validator(mode="after")
    def _mix_on_a_grid(self) -> SequenceOptions:
        if self.mixup and self.axis == "dates":
            raise ValueError("mixup joins parcels slot by slot and needs axis = grid")
        return self


class NeuralClassifier(Classifier):
    """A network that learns p(y | x) (see the module); a subclass gives the trunk."""

    learns_by_gradient = True
    uses_unlabelled = True
    Settings: ClassVar[type[Options]] = NetworkOptions

    centre: Tensor
    scale: Tensor
    log_prior: Tensor
    start_days: Tensor
    step: Tensor
    class_weight: Tensor

    def __init__(self, spec: InputSpec, options: Options) -> None:
        super().__init__(spec, options)
        bands = len(spec.bands)
        axis = options.axis if isinstance(options, SequenceOptions) else "grid"
        self.view = SeasonView.of(spec.bands, axis, self.chosen.dates)
        self.trunk = self.build_trunk(bands, spec.calendar.count)
        self.classify = nn.Linear(self.trunk.width, spec.classes)
        self.twin: nn.ModuleList | None = None
        self.steps = self.chosen.steps or _FEWEST_STEPS
        self.register_buffer("centre", torch.zeros(bands))
        self.register_buffer("scale", torch.ones(bands))
        self.register_buffer("log_prior", torch.full((spec.classes,), -math.log(spec.classes)))
        self.register_buffer("start_days", torch.as_tensor(spec.calendar.start_days(), dtype=torch.float32))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))
        self.register_buffer("class_weight", torch.ones(spec.classes), persistent=False)

    @abstractmethod
    def build_trunk(self, bands: int, slots: int) -> Trunk:
        """The architecture, for C bands and, on a grid, G slots."""

    @property
    def chosen(self) -> NetworkOptions:
        return cast(NetworkOptions, self.options)

    def prepare(self, data: TrainingData, context: Context) -> None:
        """Band statistics of all rows, prior and weight of the classes, number of steps."""
        parts = [data.labelled] + ([data.unlabelled] if data.unlabelled is not None else [])
        self.centre.copy_(_mean_of_clear(parts, torch.zeros_like(self.centre), power=1))
        self.scale.copy_(scale_of(_mean_of_clear(parts, self.centre, power=2).sqrt()))
        self.log_prior.copy_(label_prior(data.labelled.y, self.spec.classes))
        count = torch.bincount(data.labelled.y, minlength=self.spec.classes)
        self.class_weight.copy_(class_weights(count, self.chosen.class_weight))
        self.steps = self.chosen.steps or usual_steps(len(data.labelled), self.chosen.labelled_batch)
        context.facts[type(self).__name__.lower()] = {"steps": self.steps, "semi": self.chosen.semi}
        if self.chosen.distil:
            trunk = self.build_trunk(len(self.spec.bands), self.spec.calendar.count)
            self.twin = nn.ModuleList([trunk, nn.Linear(trunk.width, self.spec.classes)])

    def finish(self, data: TrainingData, context: Context) -> None:
        """The twin has taught what it knows."""
        self.twin = None

    def learners(self) -> list[tuple[nn.Module, GradientOptions]]:
        plan: dict[str, int] = {"steps": self.steps}
        if self.chosen.semi == "none" and not self.chosen.distil:
            plan["unlabelled_batch"] = 0
        return [(self, self.chosen.model_copy(update=plan))]

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        """Cross-entropy of the labelled rows, consistency of the others, and what the twin teaches."""
        season, known = self.see(self.begun(batch)), batch.y_mask
        logits, supervised = self._supervise(self._augmented(season, self.amplitudes, generator), batch.y, generator)
        self.step += 1
        ramp = min(1.0, float(self.step) / max(1.0, self.chosen.ramp * self.steps))
        total, terms = supervised, {"supervised": supervised}
        if self.chosen.semi != "none" and not bool(known.all()):
            believed, guess = self._guess(_rows(season, ~known), logits[~known], generator)
            disagreement = functional.cross_entropy(logits[~known], guess, reduction="none")
            consistency = (disagreement * believed).mean()
            total = total + ramp * self.chosen.consistency * consistency
            terms |= {"consistency": consistency, "believed": believed.to(total.dtype).mean()}
        if self.twin is not None:
            lesson, teacher = self._taught(batch, logits, generator)
            total = total + ramp * lesson + teacher
            terms |= {"lesson": lesson, "teacher": teacher}
        return Objective(total, terms)

    def log_posterior(self, batch: Batch) -> Tensor:
        season = self.see(self.begun(batch))
        answer = torch.log_softmax(self._logits(season), -1)
        return torch.where(season[1].any(1)[:, None], answer, self.log_prior)

    def see(self, batch: Batch) -> Season:
        """Standardised bands (B, S, C), 0 where missing, mask (B, S) and days (B, S)."""
        values, mask, day = self.view.read(batch, self.start_days)
        return (values - self.centre) / self.scale * mask[..., None], mask, day

    def begun(self, batch: Batch) -> Batch:
        """The rows as far as they are classified: whole, or with every date after the end of `distil` masked."""
        if not self.chosen.distil:
            return batch
        end, year = SeasonEnd.parse(self.chosen.distil), batch.year.cpu().numpy()
        last = torch.from_numpy(end.last_day(year) - SeasonEnd(1, 1).last_day(year)).to(batch.day)
        mask = batch.mask & (batch.day <= last[:, None])
        return replace(batch, mask=mask, values=batch.values * mask[..., None])

    @property
    def amplitudes(self) -> Amplitudes:
        """Augmentation of what is learnt from."""
        chosen = self.chosen
        told = {"warp": chosen.time_warp, "drop": chosen.temporal_dropout, "noise": chosen.band_noise}
        kept = {name: value for name, value in told.items() if value >= 0}
        return replace(AMPLITUDES[chosen.augment], resample=chosen.resampling, **kept)

    def _augmented(self, season: Season, amplitudes: Amplitudes, generator: torch.Generator) -> Season:
        x, mask, day = season
        if self.view.axis == "grid":
            return *augment(x, mask, amplitudes, generator), day
        return augment_dates(x, mask, day, amplitudes, generator, slot_days=self.spec.calendar.slot_days)

    def _supervise(self, season: Season, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Logits (B, K) of all rows and the loss of the labelled ones, mixed in pairs or not."""
        known = y >= 0
        weight = None if self.chosen.class_weight == "none" else self.class_weight
        if not self.chosen.mixup:
            logits = self._logits(season)
            return logits, functional.cross_entropy(logits[known], y[known], weight=weight)
        rows = known.nonzero()[:, 0]
        partner = torch.arange(len(y), device=y.device)
        partner[rows] = rows[torch.randperm(len(rows), generator=generator).to(rows.device)]
        share = torch.where(known, self._shares(len(y), generator).to(season[0]), 1)
        logits = self._logits(mixup(*season, partner, share))
        losses = [
            functional.cross_entropy(logits[known], target[known], weight=weight, reduction="none")
            for target in (y, y[partner])
        ]
        return logits, (share[known] * losses[0] + (1 - share[known]) * losses[1]).mean()

    def _shares(self, count: int, generator: torch.Generator) -> Tensor:
        seed = int(torch.randint(2**62, (), generator=generator))
        return torch.from_numpy(np.random.default_rng(seed).beta(self.chosen.mixup, self.chosen.mixup, count))

    @torch.no_grad()
    def _guess(self, season: Season, logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which unlabelled rows (B,) are believed, and their classes (B,).

        Dropout stays on in the weak view of FixMatch, so that only what survives it is believed, and that view, which
        is the most like the seasons to be classified, has its part in the running statistics.
        """
        if self.chosen.semi == "fixmatch":
            logits = self._logits(self._augmented(season, AMPLITUDES["weak"], generator))
        confidence, guess = torch.softmax(logits, -1).max(-1)
        return confidence >= self.chosen.threshold, guess

    def _taught(self, batch: Batch, logits: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """What the network (logits (B, K) of the beginnings) lacks to its twin, and the loss of the twin itself."""
        trunk, classify = cast(nn.ModuleList, self.twin)
        known, heat = batch.y_mask, self.chosen.distil_temperature
        whole = self._augmented(self.see(batch), self.amplitudes, generator)
        said = classify(trunk(*whole))
        taught = torch.log_softmax(said.detach() / heat, -1)
        learnt = torch.log_softmax(logits / heat, -1)
        lesson = heat**2 * functional.kl_div(learnt, taught, reduction="batchmean", log_target=True)
        return lesson, functional.cross_entropy(said[known], batch.y[known])

    def _logits(self, season: Season) -> Tensor:
        return self.classify(self.trunk(*season))


def label_prior(y: Tensor, classes: int) -> Tensor:
    """(K,) log of the shares of the classes (N,) of labelled rows, half a row for a class without any."""
    count = torch.bincount(y, minlength=classes).double().clamp(min=0.5)
    return (count / count.sum()).log()


def usual_steps(labels: int, batch: int) -> int:
    """Gradient steps for a number of labels: twenty passes over them, at least 450, at most 3000."""
    return min(max(math.ceil(_PASSES * labels / batch), _FEWEST_STEPS), _MOST_STEPS)


def class_weights(count: Tensor, kind: str) -> Tensor:
    """(K,) weight of each class in the loss, 1 on average over the labelled rows.

    `balanced` is inverse to the number n of rows, `effective` to its effective number (1 − βⁿ)/(1 − β), β = 1 − 1/N.

    Arguments:
        count: (K,) labelled rows of each class.
        kind: "none", "balanced" or "effective".
    """
    rows = count.double().clamp(min=1)
    if kind == "none":
        return torch.ones_like(rows)
    forget = 1 - 1 / float(rows.sum())
    weight = 1 / rows if kind == "balanced" else (1 - forget) / (1 - forget**rows)
    return weight * rows.sum() / (weight * rows).sum()


def _rows(season: Season, rows: Tensor) -> Season:
    x, mask, day = season
    return x[rows], mask[rows], day[rows]


def _mean_of_clear(parts: list[Batch], centre: Tensor, power: int) -> Tensor:
    """(C,) mean of (x − centre)^power over the clear dates of several batches, summed in double precision."""
    total = torch.zeros(len(centre), dtype=torch.float64)
    for part in parts:
        deviation = torch.where(part.mask[..., None], part.values - centre, 0)
        total += (deviation**power).sum((0, 1), dtype=torch.float64)
    return total / sum(int(part.mask.sum()) for part in parts)
