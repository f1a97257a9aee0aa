"""From dates to the slots of a calendar: observations of a slot are averaged, an empty slot is missing."""

from __future__ import annotations

import torch
from torch import Tensor

from cropgen.series.batches import Batch


def slot_sums(values: Tensor, batch: Batch, slots: int) -> Tensor:
    """(B, G, …) sums over the clear dates of each slot of a quantity (B, T, …) given by date."""
    seen = batch.mask & (batch.slot >= 0) & (batch.slot < slots)
    cell = torch.where(seen, batch.slot, slots)
    shape = (len(batch), slots + 1, *values.shape[2:])
    index = cell.reshape(*cell.shape, *[1] * (values.ndim - 2)).expand_as(values)
    kept = torch.where(seen.reshape(index.shape[:2] + (1,) * (values.ndim - 2)), values, 0)
    return torch.zeros(shape, dtype=values.dtype, device=values.device).scatter_add(1, index, kept)[:, :slots]


def grid_view(batch: Batch, start_days: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Seasons on a calendar.

    Arguments:
        batch: B seasons of T dates.
        start_days: (G,) first day of each slot, days since 1 January.

    Returns:
        values (B, G, C), 0 where missing; mask (B, G) bool; day (B, G) mean day of the observations of a slot, the
        slot's first day where it is missing.
    """
    slots = len(start_days)
    count = slot_sums(batch.mask.to(batch.values.dtype), batch, slots)
    weight = count.clamp(min=1)
    values = slot_sums(batch.values, batch, slots) / weight[..., None]
    day = slot_sums(batch.day, batch, slots) / weight.to(batch.day.dtype)
    mask = count > 0
    return values, mask, torch.where(mask, day, start_days.to(day.dtype))
