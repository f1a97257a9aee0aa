"""How well a generative model foresees values it was not shown: the CRPS of withheld dates.

Every fourth slot of the model's calendar is withheld from each parcel, and each value observed there is scored against
what the model expects from the rest of the season. The score is in reflectance; a model that expects a value for
certain has the absolute error as its score.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from cropgen.metrics.density import crps_mixture
from cropgen.models.base import Classifier, Mixture
from cropgen.models.layers.grid import grid_view
from cropgen.series.batches import Batch

EVERY = 4
_ROWS_AT_ONCE = 64


def withheld_slots(slots: int) -> Tensor:
    """(S,) the third slot of a calendar and every fourth one after it; the last one of a very short calendar."""
    return torch.arange(min(2, slots - 1), slots, EVERY)


def withheld_crps(model: Classifier, batch: Batch) -> np.ndarray | None:
    """(B,) mean CRPS of each parcel's withheld values; NaN where none was observed or nothing else was.

    Returns:
        None where the model has no closed form of what it expects.
    """
    predictive = getattr(model, "predictive", None)
    if predictive is None:
        return None
    slots = withheld_slots(model.spec.calendar.count)
    start = torch.arange(model.spec.calendar.count, dtype=batch.day.dtype)
    values, seen, _ = grid_view(batch, start)
    kept = batch.mask & ~torch.isin(batch.slot, slots)
    shown = replace(batch, values=batch.values * kept[..., None], mask=kept).without_labels()
    score = np.full(len(batch), np.nan)
    asked = ((kept & (batch.slot >= 0)).any(1) & seen[:, slots].any(1)).nonzero()[:, 0]
    for rows in asked.split(_ROWS_AT_ONCE):
        with torch.inference_mode():
            expected: Mixture | None = predictive(shown.take(rows), slots)
        if expected is None:
            return None
        score[rows.numpy()] = _mean_crps(values[rows][:, slots], seen[rows][:, slots], expected)
    return score


def _mean_crps(values: Tensor, seen: Tensor, expected: Mixture) -> np.ndarray:
    """(B,) CRPS averaged over the observed ones of values (B, S, C)."""
    mean = expected.mean.movedim(1, -1).double().numpy()
    weight = np.broadcast_to(expected.weight[:, None, None].double().numpy(), mean.shape)
    variance = np.broadcast_to(expected.variance[..., None].double().numpy(), mean.shape)
    crps = crps_mixture(values.double().numpy(), weight, mean, variance)
    observed = seen.numpy()[..., None] & np.ones(crps.shape, bool)
    return (crps * observed).sum((1, 2)) / observed.sum((1, 2))
