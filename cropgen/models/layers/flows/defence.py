"""Densities that never fall far below the tied Gaussian they began at: a defensive mixture with it.

A flow learns the seasons it has seen. In another year it can give a season many nats less than the Gaussian it began
at, whose few parameters cannot follow one year so closely. A share ε of that Gaussian in the density of every class,

    p(x | y) = (1 − ε) p_flow(x | y) + ε p_start(x | y),

bounds the loss at −log ε nats for a whole season, however far the flow is off, and costs −log(1 − ε) at most where the
flow is the better one. At ε = ½ both are log 2: the larger of the two losses is then as small as it can be. The share
is set, not learnt: rows of the year the flow was fitted to ask for less of the start than another year does.

Both parts have the exact marginal of what was observed wherever the flow has it, and the same density at the start, so
the mixture has too. It is what `log_joint`, the likelihood and samples are of. The flow learns alone, and what
classifies compares the classes by the flow alone: the start stands among the rules of decision already.

Reference:
    Weighted Average Importance Sampling and Defensive Mixture Distributions, Hesterberg, 1995.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.residual import ResidualModel, ResidualOptions
from cropgen.series.batches import Batch


class DefendedOptions(ResidualOptions):
    """Options of the densities that keep a share of the tied Gaussian."""

    defence: float = Field(
        0.5,
        ge=0,
        lt=1,
        description="share ε of the tied Gaussian in the density of a class: it then loses at most −log ε nats a "
        "season against the start; 0: the flow alone, as always with start=none",
    )


class DefendedModel(ResidualModel):
    """Base of the densities whose log-likelihood is that of the module's mixture."""

    @property
    def defence(self) -> float:
        """The share ε of the tied Gaussian."""
        chosen = cast(DefendedOptions, self.options)
        return chosen.defence if chosen.start == "tgem" else 0.0

    def log_joint(self, batch: Batch) -> Tensor:
        seasons = self._seasons(batch)
        scores = self.class_scores(seasons, self._features(seasons, None), None)
        if self.defence:
            start = math.log(self.defence) + start_scores(seasons)
            scores = torch.logaddexp(math.log1p(-self.defence) + scores, start)
        return torch.where((seasons.observed > 0)[:, None], scores - seasons.log_det[:, None], 0) + self.tied.log_prior

    def sample(self, y: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        drawn = super().sample(y, generator, temperature)
        if not self.defence:
            return drawn
        start = self.tied.sample(y, generator, temperature)
        chosen = torch.rand(len(y), generator=generator, device=generator.device) < self.defence
        return torch.where(chosen.to(drawn.device)[:, None, None], start, drawn)


def start_scores(seasons: Seasons) -> Tensor:
    """(B, K) log p(e | y) of the tied Gaussian over the observed entries."""
    distance = (seasons.e[:, None] - seasons.offset).square().sum(-1)
    return -0.5 * (distance + math.log(2 * math.pi) * seasons.observed[:, None].to(distance.dtype))
