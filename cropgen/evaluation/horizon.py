"""How a forecast ages: the error of each date foreseen from all dates before it, and from the first dates alone.

One-step errors tell how well a model follows a season, free-running errors whether its dynamics hold without being
corrected; the gap between them is what compounds.

Reference: Dynamical Variational Autoencoders: A Comprehensive Review, Girin, Leglaive, Bie, Diard, Hueber and
Alameda-Pineda, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from cropgen.models.base import GenerativeModel, Mixture
from cropgen.models.layers.grid import grid_view
from cropgen.series.batches import Batch


@dataclass(frozen=True)
class Horizon:
    """Errors by slot of the calendar, in reflectance; NaN where none was observed, and up to the warm-up.

    Arguments:
        one_step: (G,) root mean square error of what is foreseen from all earlier slots.
        free_running: (G,) the same, foreseen from the slots up to the warm-up alone.
    """

    one_step: np.ndarray
    free_running: np.ndarray


def horizon(model: GenerativeModel, batch: Batch, warm_up: int) -> Horizon | None:
    """Errors of the slots after the first `warm_up` ones, over all rows and bands.

    Returns:
        None where the model has no closed form of what it expects.
    """
    count = model.spec.calendar.count
    values, seen, _ = grid_view(batch, torch.arange(count, dtype=batch.day.dtype))
    later = torch.arange(warm_up, count)
    begun = _expected(model, _until(batch, warm_up), later)
    if begun is None:
        return None
    one_step, free = np.full(count, np.nan), np.full(count, np.nan)
    for place, slot in enumerate(later.tolist()):
        ahead = _expected(model, _until(batch, slot), later[place : place + 1])
        if ahead is not None:
            one_step[slot] = _error(values[:, slot], seen[:, slot], ahead[:, 0])
        free[slot] = _error(values[:, slot], seen[:, slot], begun[:, place])
    return Horizon(one_step, free)


def _until(batch: Batch, slot: int) -> Batch:
    """The rows with every date from `slot` on masked, and no classes."""
    mask = batch.mask & (batch.slot < slot)
    return replace(batch, values=batch.values * mask[..., None], mask=mask).without_labels()


def _expected(model: GenerativeModel, batch: Batch, slots: Tensor) -> Tensor | None:
    """(B, S, C) mean of what is expected at `slots`."""
    with torch.inference_mode():
        found: Mixture | None = model.predictive(batch, slots)
    return None if found is None else torch.einsum("bk,bksc->bsc", found.weight, found.mean)


def _error(values: Tensor, seen: Tensor, expected: Tensor) -> float:
    """Root mean square over the rows where the slot was seen; NaN where there is none."""
    if not seen.any():
        return float("nan")
    return float((values[seen] - expected[seen]).square().mean().sqrt())
