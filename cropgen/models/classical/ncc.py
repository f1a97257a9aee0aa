"""Nearest centroid: the class whose mean season is nearest at the dates a parcel shows.

    d_y(x) = Σ_t m_t |x_t − c_yt|² / Σ_t m_t,      p(y | x) = softmax_y(−β d_y(x))

on the calendar grid with standardised bands; c_y is the mean of the labelled seasons of class y at the dates they show,
interpolated where none shows any. The inverse temperature β is found by cross-validation on the labels.

References:
    Diagnosis of Multiple Cancer Types by Shrunken Centroids of Gene Expression, Tibshirani, Hastie, Narasimhan and Chu,
    2002 (nearest centroids);
    Pixel-wise Agricultural Image Time Series Classification: Comparisons and a Deformable
    Prototype-based Approach, Vincent, Ponce and Aubry, 2023 (nearest mean season of crops).
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.base import Classifier, Context, InputSpec, Options, TrainingData
from cropgen.models.layers.features import LEAST_SPREAD, class_log_prior, require_every_class, scale_of
from cropgen.models.layers.grid import grid_view
from cropgen.models.layers.held_out import fit_temperature, held_out_scores
from cropgen.models.layers.innovations import tempered
from cropgen.series.augment import fill_gaps
from cropgen.series.batches import Batch


class CentroidOptions(Options):
    """Options of the nearest centroid."""

    scaling: Literal["band", "slot"] = Field(
        "slot", description="values are divided by the standard deviation of their band, or of their band and slot",
        json_schema_extra={"search": ["band", "slot"]},
    )  # fmt: skip
    centre: Literal["mean", "median"] = Field(
        "mean",
        description="what a centroid is of the values of its class",
        json_schema_extra={"search": ["mean", "median"]},
    )


class NearestCentroid(Classifier):
    """Distance to the mean season of each class.

    Attributes:
        centroid: (K, G, C) in reflectance.
        scale: (G, C) what deviations are divided by.
    """

    Settings: ClassVar[type[Options]] = CentroidOptions
    centroid: Tensor
    scale: Tensor
    start_days: Tensor
    log_prior: Tensor
    beta: Tensor

    def __init__(self, spec: InputSpec, options: CentroidOptions) -> None:
        super().__init__(spec, options)
        self.settings = options
        slots, bands = spec.calendar.count, len(spec.bands)
        self.register_buffer("centroid", torch.zeros(spec.classes, slots, bands))
        self.register_buffer("scale", torch.ones(slots, bands))
        self.register_buffer("start_days", torch.as_tensor(spec.calendar.start_days(), dtype=torch.float32))
        self.register_buffer("log_prior", torch.full((spec.classes,), -math.log(spec.classes)))
        self.register_buffer("beta", torch.tensor(1.0))

    def prepare(self, data: TrainingData, context: Context) -> None:
        values, mask, _ = grid_view(data.labelled, self.start_days)
        usable = mask.any(1) & data.labelled.y_mask
        x, m, y = values[usable].double(), mask[usable], data.labelled.y[usable]
        require_every_class(y, self.spec)
        self.scale.copy_(self._spread(x, m))
        self.log_prior.copy_(class_log_prior(y, self.spec.classes))

        def score(learn: Tensor, judge: Tensor) -> Tensor:
            self.centroid.copy_(self._centroids(x[learn], m[learn], y[learn]))
            return -self._distance(x[judge], m[judge])

        scores, answers = held_out_scores(y, score, context.generator("ncc/folds"))
        if len(answers):
            held_out = fit_temperature(scores, answers)
            self.beta.fill_(held_out.beta)
            context.facts["ncc"] = {"nll": round(held_out.nll, 4), "beta": held_out.beta}
        self.centroid.copy_(self._centroids(x, m, y))

    def _spread(self, x: Tensor, m: Tensor) -> Tensor:
        """(G, C) standard deviation of the values shown, of each band or of each band and slot."""
        by_band = x[m].std(0, correction=0).expand_as(x[0])
        if self.settings.scaling == "band":
            return scale_of(by_band)
        weight = m[..., None].to(x.dtype)
        count = weight.sum(0).clamp(min=1)
        mean = (x * weight).sum(0) / count
        by_slot = (((x - mean) * weight).square().sum(0) / count).sqrt()
        return torch.where(by_slot > LEAST_SPREAD, by_slot, scale_of(by_band))

    def _centroids(self, x: Tensor, m: Tensor, y: Tensor) -> Tensor:
        """(K, G, C) mean or median of the values that each class shows in each slot, interpolated between slots."""
        shown = torch.where(m[..., None], x, torch.nan)
        middle = torch.nanmedian if self.settings.centre == "median" else torch.nanmean
        rows = [shown[y == k] for k in range(self.spec.classes)]
        centre = torch.stack([_values(middle(part, dim=0)) for part in rows])
        seen = torch.stack([m[y == k].any(0) for k in range(self.spec.classes)])
        return fill_gaps(torch.nan_to_num(centre), seen)

    def _distance(self, x: Tensor, m: Tensor) -> Tensor:
        """(B, K) mean over the dates shown of the squared distance to each centroid."""
        weight = m[..., None].to(x.dtype) / self.scale.to(x.dtype).square()
        centroid = self.centroid.to(x.dtype)
        square = (weight * x.square()).sum((1, 2))[:, None] + torch.einsum("bgc,kgc->bk", weight, centroid.square())
        product = torch.einsum("bgc,kgc->bk", weight * x, centroid)
        return (square - 2 * product).clamp(min=0) / m.sum(1).clamp(min=1)[:, None]

    def log_posterior(self, batch: Batch) -> Tensor:
        values, mask, _ = grid_view(batch, self.start_days)
        posterior = tempered(-self._distance(values, mask), self.beta)
        return torch.where(mask.any(1)[:, None], posterior, self.log_prior)


def _values(result: Tensor | tuple[Tensor, Tensor]) -> Tensor:
    """The values of a reduction that may give positions too."""
    return result if isinstance(result, Tensor) else result[0]
