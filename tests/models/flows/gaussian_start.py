"""A correlated Gaussian for flows to begin at, and seasons to try them on."""

from __future__ import annotations

import torch
from torch import Tensor

from cropgen.models.layers.residual import ResidualModel
from cropgen.series.batches import Batch


def correlate(model: ResidualModel) -> None:
    """Put a Gaussian of correlated values, two classes and unequal shares under a model."""
    size, tied = model.size, model.tied
    place = torch.arange(size)
    with torch.no_grad():
        cov = 0.3 * torch.eye(size) + 0.7 ** (place[:, None] - place).abs()
        tied.cov.copy_(cov)
        tied.chol.copy_(torch.linalg.cholesky(cov.double()))
        tied.means.copy_(torch.stack([torch.linspace(-0.5, 0.8, size), torch.linspace(0.4, -0.3, size)]))
        tied.scale.fill_(0.5)
        tied.log_prior.copy_(torch.tensor([0.3, 0.7]).log())


def seasons(values: Tensor, mask: Tensor | None = None) -> Batch:
    """Seasons of values (B, G, C), one date in every slot."""
    count, slots, _ = values.shape
    mask = torch.ones(count, slots, dtype=torch.bool) if mask is None else mask
    slot = torch.arange(slots).expand(count, slots).contiguous()
    return Batch(values * mask[..., None], mask, 105.0 + 30 * slot, slot, torch.full((count,), -1))
