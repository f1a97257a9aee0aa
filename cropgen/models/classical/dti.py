"""Deformable prototypes: the class whose mean season, shifted in time and in level, explains a parcel best.

Each class has prototypes c_yp, seasons on the calendar grid with standardised bands. A network looks at the parcel and
says how each prototype is to be deformed: displacements δ of a few landmarks in time, linear between them and 0 at both
ends, and an offset o per band,

    c̃_yp(t) = c_yp(t + δ_yp(t; x)) + o_yp(x),     |δ| ≤ shift,   |o| ≤ offset
    d_y(x) = min_p Σ_t m_t |x_t − c̃_yp(t)|² / Σ_t m_t,      p(y | x) = softmax_y(−β d_y(x))

so only the dates that a parcel shows count. Prototypes begin as class means (the nearest centroid) and the deformations
at none; first the prototypes learn alone, then with the warp of time, then with the offset too. The loss of a labelled
batch is reconstruction and contrast,

    L = d_{y}(x) / C − w log p(y | x).

Reference: Pixel-wise Agricultural Image Time Series Classification: Comparisons and a Deformable Prototype-based
Approach, Vincent, Ponce and Aubry, 2023.
"""

from __future__ import annotations

import math
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from cropgen.models.base import Classifier, Context, GradientOptions, InputSpec, Objective, Options, TrainingData
from cropgen.models.layers.features import class_log_prior, require_every_class, scale_of
from cropgen.models.layers.grid import grid_view
from cropgen.models.layers.held_out import fit_temperature
from cropgen.models.layers.innovations import tempered
from cropgen.models.layers.temporal_conv import TemporalConv
from cropgen.series.augment import augment, fill_gaps
from cropgen.series.batches import Batch

_WARP_FROM, _OFFSET_FROM = 0.2, 0.4
_SPREAD = 0.05


class PrototypeOptions(GradientOptions):
    """Options of the deformable prototypes."""

    steps: int = Field(600, ge=1, description="gradient steps")
    unlabelled_batch: int = Field(0, ge=0, le=0, description="unlabelled parcels are not used")
    learning_rate: float = Field(
        1e-2, gt=0, description="peak of the one-cycle schedule", json_schema_extra={"search": [3e-3, 1e-2, 3e-2]}
    )
    prototypes: int = Field(1, ge=1, description="prototypes of a class", json_schema_extra={"search": [1, 2, 4]})
    shift_days: float = Field(
        7.5, ge=0, description="largest displacement of a landmark in time",
        json_schema_extra={"search": [0.0, 7.5, 15.0]},
    )  # fmt: skip
    landmark_days: float = Field(30.0, gt=0, description="days between landmarks")
    offset: float = Field(
        0.5, ge=0, description="largest offset of a band, in standard deviations",
        json_schema_extra={"search": [0.0, 0.5, 1.0]},
    )  # fmt: skip
    contrast: float = Field(1.0, gt=0, description="weight w of the contrast between classes")
    hidden: int = Field(32, ge=1, description="channels of the network that deforms")
    width: int = Field(64, ge=1, description="units of its dense layer")
    dropout: float = Field(0.2, ge=0, lt=1, description="dropout of the network that deforms")


class DeformablePrototypes(Classifier):
    """Prototypes that a network warps in time and offsets in level.

    Attributes:
        prototype: (K, P, G, C) standardised seasons.
        between: (J, G) share of each of the J inner landmarks in the displacement of each slot.
    """

    Settings: ClassVar[type[Options]] = PrototypeOptions
    learns_by_gradient = True

    centre: Tensor
    scale: Tensor
    start_days: Tensor
    between: Tensor
    log_prior: Tensor
    step: Tensor

    def __init__(self, spec: InputSpec, options: Options) -> None:
        super().__init__(spec, options)
        chosen, slots, bands = self.chosen, spec.calendar.count, len(spec.bands)
        days = torch.as_tensor(spec.calendar.start_days(), dtype=torch.float32)
        self.slot_days = float(days[-1] - days[0]) / max(slots - 1, 1) or chosen.landmark_days
        landmarks = max(1, math.ceil(slots * self.slot_days / chosen.landmark_days) - 1)
        units = spec.classes * chosen.prototypes
        self.prototype = nn.Parameter(torch.zeros(spec.classes, chosen.prototypes, slots, bands))
        self.log_beta = nn.Parameter(torch.zeros(()))
        self.trunk = TemporalConv(bands, slots, hidden=chosen.hidden, width=chosen.width, dropout=chosen.dropout)
        self.warp = nn.Linear(chosen.width, units * landmarks)
        self.offset = nn.Linear(chosen.width, units * bands)
        for head in (self.warp, self.offset):
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        self.register_buffer("between", _hats(landmarks, slots))
        self.register_buffer("centre", torch.zeros(bands))
        self.register_buffer("scale", torch.ones(bands))
        self.register_buffer("start_days", days)
        self.register_buffer("log_prior", torch.full((spec.classes,), -math.log(spec.classes)))
        self.register_buffer("step", torch.zeros((), dtype=torch.int64))

    @property
    def chosen(self) -> PrototypeOptions:
        return cast(PrototypeOptions, self.options)

    def prepare(self, data: TrainingData, context: Context) -> None:
        """Band statistics, class prior, and the mean season of each class as its prototypes."""
        values, mask, _ = grid_view(data.labelled, self.start_days)
        y = data.labelled.y
        require_every_class(y[mask.any(1)], self.spec)
        self.centre.copy_(values[mask].double().mean(0))
        self.scale.copy_(scale_of(values[mask].double().std(0, correction=0)))
        self.log_prior.copy_(class_log_prior(y[y >= 0], self.spec.classes))
        x = (values - self.centre) / self.scale * mask[..., None]
        noise = torch.randn(self.prototype.shape, generator=context.generator("prototypes"))
        with torch.no_grad():
            for k in range(self.spec.classes):
                count = mask[y == k].sum(0)
                mean = x[y == k].sum(0) / count.clamp(min=1)[:, None]
                self.prototype[k] = fill_gaps(mean[None], count[None] > 0)
            if self.chosen.prototypes > 1:
                self.prototype += _SPREAD * noise
            self.log_beta.zero_()

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        """Reconstruction by the prototypes of the labelled class, and contrast to the other classes."""
        known = batch.take(batch.y_mask)
        x, mask, day = self._see(known)
        x, mask = augment(x, mask, "lite", generator)
        share = float(self.step) / self.chosen.steps
        self.step += 1
        distance = self._distance(x, mask, day, warped=share >= _WARP_FROM, offset=share >= _OFFSET_FROM)
        reconstruction = distance.gather(1, known.y[:, None]).mean() / x.shape[2]
        contrast = functional.cross_entropy(-self.log_beta.exp() * distance, known.y)
        total = reconstruction + self.chosen.contrast * contrast
        return Objective(total, {"reconstruction": reconstruction, "contrast": contrast})

    def finish(self, data: TrainingData, context: Context) -> None:
        """Choose β on the validation rows, where there are any."""
        judged = data.validation
        if judged is not None and bool(judged.y_mask.any()):
            rows = judged.take(judged.y_mask)
            with torch.no_grad():
                found = fit_temperature(-self._distance(*self._see(rows)).double(), rows.y)
                self.log_beta.fill_(math.log(found.beta))
        context.facts["dti"] = {"beta": float(self.log_beta.detach().exp())}

    def log_posterior(self, batch: Batch) -> Tensor:
        x, mask, day = self._see(batch)
        posterior = tempered(-self._distance(x, mask, day), self.log_beta.exp())
        return torch.where(mask.any(1)[:, None], posterior, self.log_prior)

    def reconstruct(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Deformed prototypes (B, K, P, G, C) and the displacement of each slot (B, K, P, G) in slots."""
        return self._deform(*self._see(batch), warped=True, offset=True)

    def _see(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        values, mask, day = grid_view(batch, self.start_days)
        return (values - self.centre) / self.scale * mask[..., None], mask, day

    def _deform(self, x: Tensor, mask: Tensor, day: Tensor, *, warped: bool, offset: bool) -> tuple[Tensor, Tensor]:
        classes, number, slots, bands = self.prototype.shape
        season = self.prototype.expand(len(x), -1, -1, -1, -1)
        displacement = x.new_zeros(len(x), classes, number, slots)
        if not (warped or offset):
            return season, displacement
        seen = self.trunk(x, mask, day)
        if warped:
            pull = torch.tanh(self.warp(seen)).view(len(x), classes, number, -1)
            displacement = self.chosen.shift_days / self.slot_days * pull @ self.between
            season = _read(season, torch.arange(slots, device=x.device) + displacement)
        if offset:
            level = torch.tanh(self.offset(seen)).view(len(x), classes, number, 1, bands)
            season = season + self.chosen.offset * level
        return season, displacement

    def _distance(self, x: Tensor, mask: Tensor, day: Tensor, *, warped: bool = True, offset: bool = True) -> Tensor:
        """(B, K) mean over the dates shown of the squared distance to the nearest deformed prototype."""
        season, _ = self._deform(x, mask, day, warped=warped, offset=offset)
        square = (x[:, None, None] - season).square().sum(-1) * mask[:, None, None]
        return (square.sum(-1) / mask.sum(1).clamp(min=1)[:, None, None]).amin(-1)


def _hats(landmarks: int, slots: int) -> Tensor:
    """(J, G) linear interpolation from J inner landmarks, evenly spaced, to the slots; the ends stay."""
    position = torch.linspace(0, landmarks + 1, slots)
    return (1 - (position - torch.arange(1, landmarks + 1)[:, None]).abs()).clamp(min=0)


def _read(season: Tensor, position: Tensor) -> Tensor:
    """Seasons (…, G, C) read at fractional slots (…, G), linear between slots and held beyond the ends."""
    position = position.clamp(0, season.shape[-2] - 1)
    left = position.detach().floor().long()
    right = (left + 1).clamp(max=season.shape[-2] - 1)
    wide = (*position.shape, season.shape[-1])
    low, high = (season.gather(-2, index[..., None].expand(wide)) for index in (left, right))
    return low + (position - left)[..., None] * (high - low)
