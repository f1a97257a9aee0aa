"""Site covariates as the dynamical models see them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cropgen.models.base import TrainingData

_FARTHEST = 3.0
_LEAST_SPREAD = 1e-6


class Place(nn.Module):
    """Site covariates in standard deviations of the parcels learnt from, at most three either way; 0 where unknown.

    Parcels beyond what was learnt from are taken for the farthest that were: a network knows nothing of other places.

    Arguments:
        covariates: S.

    Attributes:
        centre, scale: (S,) mean and standard deviation among the parcels learnt from.
    """

    centre: Tensor
    scale: Tensor

    def __init__(self, covariates: int) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(covariates))
        self.register_buffer("scale", torch.ones(covariates))

    def learn(self, data: TrainingData) -> None:
        """Mean and spread over labelled and unlabelled rows; a covariate that does not vary, or is unknown, stays 0."""
        parts = [data.labelled] if data.unlabelled is None else [data.labelled, data.unlabelled]
        site = torch.cat([part.site for part in parts]).double()
        known = ~site.isnan()
        number = known.sum(0).clamp(min=1)
        centre = site.nan_to_num().sum(0) / number
        spread = (((site - centre).nan_to_num().square() * known).sum(0) / number).sqrt()
        self.centre.copy_(centre)
        self.scale.copy_(torch.where(spread > _LEAST_SPREAD * (1 + centre.abs()), spread, torch.inf))

    def forward(self, site: Tensor) -> Tensor:
        """(B, S) for site (B, S), NaN unknown."""
        return ((site - self.centre) / self.scale).nan_to_num(0.0).clamp(-_FARTHEST, _FARTHEST)
