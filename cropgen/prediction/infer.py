"""What a model says about rows: class probabilities, likelihood, and how much it saw."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cropgen.core.errors import CropgenError, UsageError
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
        anomaly: (N,) −L^{>k} of an observed value in nats, NaN without a clear date; None where it was not asked for.
    """

    probability: np.ndarray
    log_likelihood: np.ndarray | None
    clear_dates: np.ndarray
    observations: np.ndarray
    anomaly: np.ndarray | None = None

    @property
    def entropy(self) -> np.ndarray:
        """(N,) entropy of the class probabilities in nats."""
        p = self.probability
        return -np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0).sum(1)


def infer(model: Classifier, batch: Batch, *, rows: int = BATCH_ROWS, anomaly_level: int | None = None) -> Answer:
    """Classify a batch in parts of `rows`, in evaluation mode and without gradients.

    Arguments:
        anomaly_level: k of −L^{>k}, of a model with levels of latents; None: not asked for.

    Raises:
        CropgenError: the model gives a probability that is not a number.
        UsageError: the model has no such level.
    """
    likelihood = getattr(model, "log_likelihood", None)
    unlikeness = None if anomaly_level is None else levelled(model).anomaly_score
    posteriors, likelihoods, anomalies = [], [], []
    with torch.inference_mode():
        for start in range(0, len(batch), rows):
            part = batch.take(torch.arange(start, min(start + rows, len(batch)))).to(device=_device_of(model))
            posteriors.append(model.calibrated_log_posterior(part).double().cpu().numpy())
            if likelihood is not None:
                likelihoods.append(likelihood(part).double().cpu().numpy())
            if unlikeness is not None:
                anomalies.append(unlikeness(part, anomaly_level).double().cpu().numpy())
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
        anomaly=None if unlikeness is None else np.where(clear > 0, np.concatenate([*anomalies, np.zeros(0)]), np.nan),
    )


def levelled(model: Classifier) -> Any:
    """The density of a model, or of the pool it is, that has levels of latents.

    Raises:
        UsageError: there is none.
    """
    density = getattr(model, "generative", model)
    if not hasattr(density, "anomaly_score"):
        raise UsageError(
            f"{type(density).__name__} has no levels of latents to leave out",
            hint="predict without --anomaly-level, or with a run of lvae, biva, nvae or sdn-vae",
        )
    return density


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
