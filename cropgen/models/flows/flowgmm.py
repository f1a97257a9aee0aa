"""Mixture of Gaussians in the space of a flow, semi-supervised."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import InputSpec, Objective
from cropgen.models.flows.flow import SPLIT_SEED, FlowModel, FlowOptions
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.flows.coupling import Coupling, halves
from cropgen.models.layers.flows.univariate import Affine
from cropgen.series.batches import Batch


class FlowGMMOptions(FlowOptions):
    """Options of `flowgmm`."""

    consistency: float = Field(
        1.0, ge=0, description="weight of the density of the beginning of an unlabelled season under its likely class"
    )


class FlowGMM(FlowModel):
    """Affine couplings to a mixture of Gaussians, one for each class with a covariance of its own.

        p(e | y) = N(T(e); o_y + d_y, diag exp(v + w_y)) |det T'(e)|

    Unlabelled parcels have the mixture's density Σ_y π_y p(e | y). Consistency: of each unlabelled season a random
    beginning is scored under the class ŷ that the whole season makes most probable, −log p(e_≤t | ŷ). The innovations
    are ordered by time, so those of a beginning are the first ones of the season, exactly.

    Reference:
        Semi-Supervised Learning with Normalizing Flows, Izmailov, Kirichenko, Finzi and Wilson, 2020.
    """

    Settings = FlowGMMOptions

    def __init__(self, spec: InputSpec, options: FlowGMMOptions) -> None:
        super().__init__(spec, options)
        self.class_log_var = nn.Parameter(torch.zeros(spec.classes, self.size))

    def layer(self, number: int) -> Coupling:
        given = halves(self.size, self.settings.layers, SPLIT_SEED)[number]
        return Coupling(given, self.size, self.told, self.settings.hidden, Affine(), at_identity=self.at_identity)

    def _scores(self, seasons: Seasons, generator: torch.Generator | None) -> Tensor:
        rest, log_det = self.towards_base(seasons, generator)
        log_var = self.log_var + self.class_log_var
        terms = rest**2 * (-log_var).exp() + log_var + math.log(2 * math.pi)
        return log_det - 0.5 * (terms * seasons.present[:, None]).sum(-1)

    def draw_innovations(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        noise = temperature * self.standard_normal(len(y), self.size, generator)
        return self._from_base(noise * (0.5 * (self.log_var + self.class_log_var[y])).exp(), y)

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        said = super().objective(batch, generator)
        seasons = self._seasons(batch)
        free = seasons.take((seasons.y < 0) & (seasons.observed > 0))
        if not len(free):
            return said
        with torch.no_grad():
            likely = (self._scores(free, None) + self.tied.log_prior).argmax(-1)
        beginning = begun(free, generator)
        scores = self._scores(beginning, generator).gather(1, likely[:, None])[:, 0]
        loss = -scores.mean() / beginning.observed.to(scores.dtype).mean().clamp(min=1)
        weight = cast(FlowGMMOptions, self.options).consistency
        return Objective(said.total + weight * loss, {**said.terms, "consistency": loss})


def begun(seasons: Seasons, generator: torch.Generator) -> Seasons:
    """Each season up to a random slot: its innovations are those of the whole season, the later ones missing."""
    slots = seasons.mask.shape[1]
    last = torch.randint(slots, (len(seasons), 1), generator=generator, device=generator.device).to(seasons.mask.device)
    mask = seasons.mask & (torch.arange(slots, device=seasons.mask.device) <= last)
    kept = replace(seasons, mask=mask)
    return replace(
        kept,
        x=seasons.x * mask[..., None],
        e=seasons.e * kept.present,
        offset=seasons.offset * kept.present[:, None],
        date_log_det=seasons.date_log_det * mask,
    )
