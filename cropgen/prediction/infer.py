"""What a model says about rows: class probabilities, likelihood, and how much it saw."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cropgen.core.errors import CropgenError
from cropgen.models.base import Classifier
from cropgen.series.batches import Batch

BATCH_ROWS = 512


@dataclass(frozen=True)
class Answer:
    """What a model says about N rows.

    Arguments:
        probability: (N, K) class probabilities; rows sum to 1.
        log_likelihood: (N,) log p(x) in nats, NaN without a clear date; None for models without likelihood.
        clear_dates: (N,) int, clear dates inside the model's calendar.
        observations: (N,) int, slots of the calendar that hold a clear date.
    """

    probability: np.ndarray
    log_likelihood: np.ndarray | None
    clear_dates: np.ndarray
    observations: np.ndarray

    @property
    def entropy(self) -> np.ndarray:
        """(N,) entropy of the class probabilities in nats."""
        p = self.probability
        return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(1)


def infer(model: Classifier, batch: Batch, *, rows: int = BATCH_ROWS) -> Answer:
    """Classify a batch in parts of `rows`, in evaluation mode and without gradients.

    Raises:
        CropgenError: the model gives a probability that is not a number.
    """
    likelihood = getattr(model, "log_likelihood", None)
    posteriors, likelihoods = [], []
    with torch.inference_mode():
        for start in range(0, len(batch), rows):
            part = batch.take(torch.arange(start, min(start + rows, len(batch)))).to(device=_device_of(model))
            posteriors.append(model.calibrated_log_posterior(part).double().cpu().numpy())
            if likelihood is not None:
                likelihoods.append(likelihood(part).double().cpu().numpy())
    classes = model.spec.classes
    log_posterior = np.concatenate(posteriors) if posteriors else np.zeros((0, classes))
    if not np.isfinite(log_posterior).any(1).all() or np.isnan(log_posterior).any():
        raise CropgenError(
            f"{type(model).__name__} gives a probability that is not a number", hint="train the model again"
        )
    clear = batch.mask.sum(1).cpu().numpy()
    total = np.concatenate(likelihoods) if likelihoods else np.zeros(len(batch))
    return Answer(
        probability=_normalised(log_posterior),
        log_likelihood=None if likelihood is None else np.where(clear > 0, total, np.nan),
        clear_dates=clear.astype(np.int32),
        observations=occupied_slots(batch.slot, batch.mask).astype(np.int32),
    )


def _device_of(model: Classifier) -> torch.device:
    held = next(itertools.chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if held is None else held.device


def _normalised(log_posterior: np.ndarray) -> np.ndarray:
    p = np.exp(log_posterior - log_posterior.max(1, keepdims=True, initial=-np.inf))
    return p / p.sum(1, keepdims=True)


def occupied_slots(slot: Tensor, mask: Tensor) -> np.ndarray:
    """(N,) int: distinct slots with a clear date."""
    ordered = torch.sort(torch.where(mask, slot, torch.full_like(slot, -1)), dim=1).values
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    return (fresh & (ordered >= 0)).sum(1).cpu().numpy()
