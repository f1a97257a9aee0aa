"""Is a season like those the model learnt from? A p-value of the log-likelihood, given how often the parcel was seen.

A log-likelihood falls or rises with the number n of observations, so it is compared at equal n. Over reference rows

    log p(x_i) = a + b n_i + c n_i² + s n_i^h · z_i

is fitted robustly (Huber weights; h, s from log |residual| on log n). The p-value of a new row is the conformal one,

    p = (1 + #{reference z ≤ z}) / (N + 1),

which is exact whatever the distribution when new rows are like the reference rows, and never below 1 / (N + 1). No
p-value is given without an observation. Beyond the reference range of n the centre goes on in a straight line and the
spread stays.

References:
    Robust Estimation of a Location Parameter, Huber, 1964;
    Algorithmic Learning in a Random World, Vovk, Gammerman and Shafer, 2005.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cropgen.core.errors import CorruptInputError, DataError, SchemaError
from cropgen.core.files import write_text
from cropgen.models.base import Classifier, Context, GenerativeModel, TrainingData
from cropgen.prediction.infer import infer
from cropgen.series.batches import Batch

TYPICALITY = "typicality.json"
TYPICALITY_SCHEMA = 1
_KEPT = 2000
_HUBER = 1.345
_PER_COEFFICIENT = 20
_LEAST = 20
_MOST_UNLABELLED = 4000


@dataclass(frozen=True)
class Typicality:
    """The reference that new log-likelihoods are compared with.

    Arguments:
        location: a, b, c of the centre in n.
        spread: s and h.
        observations: least and most n of the reference.
        scores: ascending reference z; all of them, or the lowest ones and evenly spaced quantiles.
        ranks: how many reference z are ≤ each of `scores`.
        count: N.
    """

    location: tuple[float, float, float]
    spread: tuple[float, float]
    observations: tuple[int, int]
    scores: tuple[float, ...]
    ranks: tuple[int, ...]
    count: int

    @classmethod
    def fit(cls, log_likelihood: np.ndarray, observations: np.ndarray) -> Typicality:
        """Learn the reference.

        Arguments:
            log_likelihood: (N,) nats.
            observations: (N,) int; rows without any are left out.

        Raises:
            DataError: fewer than two rows have an observation and a finite log-likelihood.
        """
        use = (observations > 0) & np.isfinite(log_likelihood)
        value, n = log_likelihood[use].astype(np.float64), observations[use].astype(np.float64)
        if len(value) < 2:
            raise DataError(f"{len(value)} rows with clear dates are too few to judge what is usual")
        location = _robust_polynomial(n, value)
        spread = _power_spread(n, value - np.polynomial.polynomial.polyval(n, location))
        partial = cls(location, spread, (int(n.min()), int(n.max())), (), (), len(value))
        score = np.sort(partial.score(value, n))
        if len(score) <= _KEPT:
            kept = np.arange(len(score))
        else:
            kept = np.unique(np.concatenate([np.arange(_KEPT // 4), np.linspace(0, len(score) - 1, _KEPT).astype(int)]))
        ranks = np.searchsorted(score, score[kept], side="right")
        return cls(
            location, spread, partial.observations, tuple(score[kept].tolist()), tuple(ranks.tolist()), len(score)
        )

    def score(self, log_likelihood: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """(N,) z: the log-likelihood standardised for its number of observations."""
        n = np.asarray(observations, np.float64)
        low, high = self.observations
        inside = n.clip(low, high)
        a, b, c = self.location
        centre = a + b * inside + c * inside**2 + (b + 2 * c * inside) * (n - inside)
        scale, power = self.spread
        return (log_likelihood - centre) / (scale * inside**power)

    def p_value(self, log_likelihood: np.ndarray, observations: np.ndarray) -> np.ndarray:
        """(N,) conformal p-values in (0, 1]; NaN for rows without an observation."""
        z = self.score(np.asarray(log_likelihood, np.float64), observations)
        place = np.searchsorted(self.scores, z, side="right")
        below = np.concatenate([[0], self.ranks])[place]
        p = (1.0 + below) / (self.count + 1.0)
        return np.where((np.asarray(observations) > 0) & np.isfinite(log_likelihood), p, np.nan)

    def to_json(self) -> dict[str, Any]:
        return {"typicality": TYPICALITY_SCHEMA, **asdict(self)}

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Typicality:
        """The reference of `to_json`.

        Raises:
            SchemaError: it is not one of this version.
        """
        if document.get("typicality") != TYPICALITY_SCHEMA:
            raise SchemaError(f"expected typicality schema {TYPICALITY_SCHEMA}, got {document.get('typicality')}")
        try:
            content: dict[str, Any] = {
                k: tuple(v) if isinstance(v, list) else v for k, v in document.items() if k != "typicality"
            }
            return cls(**content)
        except TypeError as error:
            raise SchemaError(f"not a typicality reference: {error}") from error


def calibrate(model: Classifier, reference: Batch) -> Typicality | None:
    """The reference of a model from rows like those it will meet; p-values are honest for rows it did not learn from.

    Returns:
        None for a model without likelihood, or when too few rows have a clear date.
    """
    answer = infer(model, reference)
    if answer.log_likelihood is None or int((answer.observations > 0).sum()) < 2:
        return None
    return Typicality.fit(answer.log_likelihood, answer.observations)


def cross_calibrate(model: Classifier, data: TrainingData, *, folds: int = 4, seed: int = 0) -> Typicality | None:
    """The reference of a trained model from its own training rows, each judged by a model that did not learn from it.

    Judged by the model itself its training rows look too likely, and a tenth or more of equally usual parcels would be
    called unusual. So the density is fitted again without each of the folds, on at most 4,000 unlabelled rows; that it
    has seen fewer rows makes p-values slightly too large.

    Arguments:
        model: the trained model; of a pool its generative member is judged.
        data: what it was trained on; rows of classes with a single label are not held out.
        folds: models fitted.
        seed: decides the folds and the fits.

    Returns:
        None for a model without likelihood, and for one that learns by gradient, which would have to be trained again.
    """
    density = getattr(model, "generative", model)
    if not isinstance(density, GenerativeModel) or density.learns_by_gradient:
        return None
    labelled, unlabelled = data.labelled, data.unlabelled
    if unlabelled is not None and len(unlabelled) > _MOST_UNLABELLED:
        unlabelled = unlabelled.take(torch.linspace(0, len(unlabelled) - 1, _MOST_UNLABELLED).round().long())
    fold = _folds_by_class(labelled.y.cpu().numpy(), folds)
    fold_unlabelled = np.arange(0 if unlabelled is None else len(unlabelled)) % folds
    values, observations = [], []
    for held in range(folds):
        free = unlabelled and _rows(unlabelled, fold_unlabelled != held)
        rest = TrainingData(_rows(labelled, fold != held), free, target=data.target)
        again = type(density)(density.spec, density.options)
        again.prepare(rest, Context(seed))
        for part in (_rows(labelled, fold == held), unlabelled and _rows(unlabelled, fold_unlabelled == held)):
            answer = None if part is None else infer(again.eval(), part)
            if answer is not None and answer.log_likelihood is not None:
                values.append(answer.log_likelihood)
                observations.append(answer.observations)
    value, n = np.concatenate(values), np.concatenate(observations)
    return Typicality.fit(value, n) if int(((n > 0) & np.isfinite(value)).sum()) >= _LEAST else None


def _rows(batch: Batch, chosen: np.ndarray) -> Batch:
    return batch.take(torch.from_numpy(np.flatnonzero(chosen)))


def _folds_by_class(y: np.ndarray, folds: int) -> np.ndarray:
    """(N,) int: the fold of each row, dealt out in turn within a class; −1 where a class has one row only."""
    fold = np.empty(len(y), np.int64)
    for value in np.unique(y):
        rows = np.flatnonzero(y == value)
        fold[rows] = np.arange(len(rows)) % folds if len(rows) > 1 else -1
    return fold


def save_typicality(run: Path, typicality: Typicality | None) -> None:
    """Store a reference in a run folder; nothing for None."""
    if typicality is not None:
        write_text(run / TYPICALITY, json.dumps(typicality.to_json()) + "\n")


def load_typicality(run: Path) -> Typicality | None:
    """The reference of a run folder; None when it has none.

    Raises:
        CorruptInputError, SchemaError: the file is not JSON or not a reference.
    """
    path = run / TYPICALITY
    if not path.is_file():
        return None
    try:
        return Typicality.from_json(json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise CorruptInputError(f"{path} is not JSON: {error}", hint="train the run again") from error


def _robust_polynomial(n: np.ndarray, value: np.ndarray) -> tuple[float, float, float]:
    """Coefficients of a polynomial of at most second degree by iteratively reweighted least squares."""
    degree = int(np.clip(min(len(np.unique(n)) - 1, len(n) // _PER_COEFFICIENT - 1), 0, 2))
    design = np.vander(n / n.max(), degree + 1, increasing=True)
    weight = np.ones(len(n))
    coefficient = np.zeros(degree + 1)
    for _ in range(30):
        root = np.sqrt(weight)
        coefficient = np.linalg.lstsq(design * root[:, None], value * root, rcond=None)[0]
        residual = np.abs(value - design @ coefficient)
        limit = _HUBER * max(1.4826 * float(np.median(residual)), 1e-12)
        weight = np.minimum(1.0, limit / np.maximum(residual, 1e-300))
    full = np.zeros(3)
    full[: degree + 1] = coefficient / n.max() ** np.arange(degree + 1)
    return float(full[0]), float(full[1]), float(full[2])


def _power_spread(n: np.ndarray, residual: np.ndarray) -> tuple[float, float]:
    """s and h of a spread s·n^h; h is between 0 and 2, and ½ (a sum of independent terms) where n hardly varies."""
    size = np.abs(residual)
    seen = size > 0
    power = 0.5
    if len(np.unique(n)) >= 3 and seen.sum() >= 2 * _PER_COEFFICIENT:
        power = float(np.clip(np.polyfit(np.log(n[seen]), np.log(size[seen]), 1)[0], 0.0, 2.0))
    scale = 1.4826 * float(np.median(size / n**power))
    return max(scale, 1e-12), power
