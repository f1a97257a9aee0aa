"""Seasons of crops whose waves are shifted against each other, for the classifiers on features."""

from __future__ import annotations

import torch

from cropgen.series.batches import Batch

BANDS = ("B04", "B08", "B11")
SLOTS = 6


def waves(count: int, seed: int = 0, *, classes: int) -> Batch:
    """Rows of `classes` crops in turn, a third of their dates missing, the first never."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % classes
    slot = torch.arange(SLOTS).expand(count, -1)
    season = 0.3 + 0.1 * torch.sin(slot[..., None] + y[:, None, None] * torch.ones(len(BANDS)))
    values = season + 0.05 * torch.randn(count, SLOTS, len(BANDS), generator=generator)
    mask = torch.rand(count, SLOTS, generator=generator) > 0.3
    mask[:, 0] = True
    return Batch(values * mask[..., None], mask, 60.0 + 30 * slot, slot, y)
