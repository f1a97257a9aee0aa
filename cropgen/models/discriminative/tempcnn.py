"""The temporal convolutional network, and FixMatch on unlabelled parcels.

    p(y | x) = softmax(A conv(x, m, day))

on the calendar grid, x standardised per band and 0 where missing, m the presence of an observation, day its true mean
date. Trained on lightly augmented seasons by cross-entropy; with `semi = "fixmatch"` a weakly augmented view of an
unlabelled season names its class where it is sure, and the lightly augmented view must agree:

    L = −log p(y | a(x))  +  r λ 1[max p(· | w(u)) ≥ τ] · −log p(argmax p(· | w(u)) | a(u))

with a ramp r over the first steps.

References:
    Temporal Convolutional Neural Network for the Classification of Satellite Image Time Series, Pelletier, Webb and
    Petitjean, 2019.
    FixMatch: Simplifying Semi-Supervised Learning with Consistency and Confidence, Sohn et al., 2020.
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from cropgen.models.base import (
    Classifier,
    Context,
    GradientOptions,
    InputSpec,
    Objective,
    Options,
    TrainingData,
)  # fmt: skip
from cropgen.models.layers.grid import grid_view
from cropgen.models.layers.temporal_conv import TemporalConv
from cropgen.series.augment import augment
from cropgen.series.batches import Batch

_PASSES = 20
_FEWEST_STEPS, _MOST_STEPS = 450, 3000
_LEAST_SCALE = 1e-6


class TempCNNOptions(GradientOptions):
    """Options of the temporal convolutional network."""

    steps: int = Field(
        0, ge=0, description="gradient steps; 0: twenty passes over the labels, at least 450, at most 3000"
    )
    labelled_batch: int = Field(64, ge=2, description="labelled parcels in a mini-batch")
    learning_rate: float = Field(2e-3, gt=0, description="peak of the one-cycle schedule")
    weight_decay: float = Field(1e-3, ge=0, description="AdamW weight decay")
    hidden: int = Field(64, ge=1, description="channels of the convolutions")
    width: int = Field(128, ge=1, description="units of the dense layer")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout after every layer")
    semi: Literal["none", "fixmatch"] = Field("none", description="how unlabelled parcels are used")
    threshold: float = Field(0.9, gt=0, lt=1, description="fixmatch: confidence above which a class is believed")
    consistency: float = Field(1.0, ge=0, description="fixmatch: weight of the unlabelled loss after the ramp")
    ramp: float = Field(0.3, ge=0, le=1, description="fixmatch: share of the steps over which the weight grows")


class TempCNN(Classifier):
    """Temporal convolutional network on the calendar grid (see the module)."""

    Settings: ClassVar[type[Options]] = TempCNNOptions
    learns_by_gradient = True
    uses_unlabelled = True

    centre: Tensor
    scale: Tensor
    log_prior: Tensor
    start_days: Tensor
    step: Tensor

    def __init__(self, spec: InputSpec, options: Options) -> None:
        super().__init__(spec, options)
        chosen = self.chosen
        bands, slots = len(spec.bands), spec.calendar.count
        self.trunk = TemporalConv(bands, slots, hidden=chosen.hidden, width=chosen.width, dropout=chosen.dropout)
        self.classify = nn.Linear(chosen.width, spec.classes)
        self.steps = chosen.steps or _FEWEST_STEPS
        self.register_buffer("centre", torch.zeros(bands))
        self.register_buffer("scale", torch.ones(bands))
        self.register_buffer("log_prior", torch.full((spec.classes,), -math.log(spec.classes)))
        self.register_buffer("start_days", torch.as_tensor(spec.calendar.start_days(), dtype=torch.float32))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def chosen(self) -> TempCNNOptions:
        return cast(TempCNNOptions, self.options)

    def prepare(self, data: TrainingData, context: Context) -> None:
        """Band statistics of all rows, class prior of the labelled ones, number of steps."""
        parts = [data.labelled] + ([data.unlabelled] if data.unlabelled is not None else [])
        self.centre.copy_(_mean_of_clear(parts, torch.zeros_like(self.centre), power=1))
        self.scale.copy_(_mean_of_clear(parts, self.centre, power=2).sqrt().clamp(min=_LEAST_SCALE))
        count = torch.bincount(data.labelled.y, minlength=self.spec.classes).double().clamp(min=0.5)
        self.log_prior.copy_((count / count.sum()).log())
        passes = math.ceil(_PASSES * len(data.labelled) / self.chosen.labelled_batch)
        self.steps = self.chosen.steps or min(max(passes, _FEWEST_STEPS), _MOST_STEPS)
        context.facts["tempcnn"] = {"steps": self.steps, "semi": self.chosen.semi}

    def learners(self) -> list[tuple[nn.Module, GradientOptions]]:
        plan: dict[str, int] = {"steps": self.steps}
        if self.chosen.semi == "none":
            plan["unlabelled_batch"] = 0
        return [(self, self.chosen.model_copy(update=plan))]

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        """Cross-entropy of the labelled rows and consistency of the others."""
        x, mask, day = self._see(batch)
        known = batch.y_mask
        logits = self._logits(*augment(x, mask, "lite", generator), day)
        supervised = functional.cross_entropy(logits[known], batch.y[known])
        self.step += 1
        if self.chosen.semi == "none" or bool(known.all()):
            return Objective(supervised, {"supervised": supervised})
        believed, guess = self._guess(x[~known], mask[~known], day[~known], generator)
        disagreement = functional.cross_entropy(logits[~known], guess, reduction="none")
        consistency = (disagreement * believed).mean()
        ramp = min(1.0, float(self.step) / max(1.0, self.chosen.ramp * self.steps))
        total = supervised + ramp * self.chosen.consistency * consistency
        share = believed.to(total.dtype).mean()
        return Objective(total, {"supervised": supervised, "consistency": consistency, "believed": share})

    def log_posterior(self, batch: Batch) -> Tensor:
        x, mask, day = self._see(batch)
        answer = torch.log_softmax(self._logits(x, mask, day), -1)
        return torch.where(mask.any(1)[:, None], answer, self.log_prior)

    @torch.no_grad()
    def _guess(self, x: Tensor, mask: Tensor, day: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Which unlabelled rows (B,) are believed, and their classes (B,), from a weak view.

        Dropout stays on, so that only what survives it is believed, and the weak view, which is the most like the
        seasons to be classified, has its part in the running statistics.
        """
        view = augment(x, mask, "weak", generator)
        confidence, guess = torch.softmax(self._logits(*view, day), -1).max(-1)
        return confidence >= self.chosen.threshold, guess

    def _see(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        values, mask, day = grid_view(batch, self.start_days)
        return (values - self.centre) / self.scale * mask[..., None], mask, day

    def _logits(self, x: Tensor, mask: Tensor, day: Tensor) -> Tensor:
        return self.classify(self.trunk(x, mask, day))


def _mean_of_clear(parts: list[Batch], centre: Tensor, power: int) -> Tensor:
    """(C,) mean of (x − centre)^power over the clear dates of several batches, summed in double precision."""
    total = torch.zeros(len(centre), dtype=torch.float64)
    for part in parts:
        deviation = torch.where(part.mask[..., None], part.values - centre, 0)
        total += (deviation**power).sum((0, 1), dtype=torch.float64)
    return total / sum(int(part.mask.sum()) for part in parts)
