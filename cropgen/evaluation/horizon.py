"""How a forecast ages: the error of each date foreseen from all dates before it, and from the first dates alone.

One-step errors tell how well a model follows a season, free-running errors whether its dynamics hold without being
corrected; the gap between them is what compounds.

Reference: Dynamical Variational Autoencoders: A Comprehensive Review, Girin, Leglaive, Bie, Diard, Hueber and
Alameda-Pineda, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from cropgen.evaluation.learn import Learnt
from cropgen.models.base import GenerativeModel, InputSpec, Mixture
from cropgen.models.layers.grid import grid_view
from cropgen.series.batches import Batch
from cropgen.series.store import SeriesStore

_PARCELS = 60
_WARM_UP = 1 / 3


@runtime_checkable
class Dynamical(Protocol):
    """A model whose latent states walk through the season, told by what it can say and not by how it is built."""

    spec: InputSpec

    def kl_by_date(self, batch: Batch) -> Tensor:
        """(B, G, K) KL of each slot in nats."""
        ...


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


def follow(learnt: Learnt, store: SeriesStore, label: np.ndarray, rows: np.ndarray) -> dict[str, np.ndarray]:
    """How a dynamical model follows test parcels through the season.

    Arguments:
        label: (N,) label of every row of the store.
        rows: (M,) rows that were tested on; at most 60 of the classes the model knows are read.

    Returns:
        `dynamics_day`, `dynamics_one_step`, `dynamics_free_running` and `dynamics_kl` (G,), `dynamics_slot_days` (the
        length of a slot), and `dynamics_parcels`; the first third of the slots are the warm-up. Nothing for a model
        that is not dynamical or foresees nothing.
    """
    model = learnt.result.model
    known = rows[np.isin(label[rows], learnt.classes)]
    if not isinstance(model, GenerativeModel) or not isinstance(model, Dynamical) or not len(known):
        return {}
    chosen = np.sort(known[np.linspace(0, len(known) - 1, min(len(known), _PARCELS)).astype(int)])
    calendar = model.spec.calendar
    batch = model.spec.batch(store.read(chosen), learnt.classes)
    found = horizon(model, batch, max(1, round(_WARM_UP * calendar.count)))
    if found is None:
        return {}
    return {
        "dynamics_day": calendar.start_days() + calendar.slot_days / 2,
        "dynamics_slot_days": np.array(calendar.slot_days),
        "dynamics_one_step": found.one_step,
        "dynamics_free_running": found.free_running,
        "dynamics_kl": divergence(model, batch),
        "dynamics_parcels": np.array(len(chosen)),
    }


def divergence(model: Dynamical, batch: Batch) -> np.ndarray:
    """(G,) mean KL of each slot under the true class, in nats, over the rows that saw it; NaN where none did."""
    _, seen, _ = grid_view(batch, torch.arange(model.spec.calendar.count, dtype=batch.day.dtype))
    with torch.inference_mode():
        kl = model.kl_by_date(batch)[torch.arange(len(batch)), :, batch.y].double()
    rows = seen.sum(0)
    return torch.where(rows > 0, (kl * seen).sum(0) / rows.clamp(min=1), torch.nan).numpy()


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
