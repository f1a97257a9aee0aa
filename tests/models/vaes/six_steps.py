"""A few steps of learning on three crops, for the tests of levels and codes."""

from __future__ import annotations

import torch

from cropgen.models.base import Context
from cropgen.models.layers.residual import ResidualModel
from cropgen.series.batches import concatenate_batches
from tests.models.dvaes.crops import DATA, seasons


def learnt_by(model: ResidualModel) -> set[str]:
    """Names of the parameters that six steps from the start have moved."""
    model.prepare(DATA, Context(seed=0))
    optimiser, moved = torch.optim.Adam(model.train().parameters(), 1e-3), set[str]()
    both = concatenate_batches([DATA.labelled, seasons(24, 1, known=False)])
    for step in range(6):
        generator = torch.Generator().manual_seed(step)
        optimiser.zero_grad()
        model.objective(model.augmented(both, generator), generator).total.backward()
        moved |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimiser.step()
    model.eval()
    return moved
