"""One training of an evaluation: rows in, a fitted model and its answers on test rows out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from cropgen.core.progress import Reporter
from cropgen.core.recipe import DataSection, EvaluateRecipe, ModelSection
from cropgen.evaluation.protocols import Fold
from cropgen.evaluation.score import Answers
from cropgen.metrics.novelty import entropy
from cropgen.series.batches import make_batch
from cropgen.series.schema import ParcelSeries
from cropgen.series.splits import Selection, select_rows
from cropgen.series.store import SeriesStore
from cropgen.training.data import TrainingRows, choose_rows, read_training
from cropgen.training.fit import FitResult

Fit = Callable[..., FitResult]
_CHUNK = 4096


@dataclass(frozen=True)
class Learnt:
    """A fitted model and what it was fitted on.

    Arguments:
        classes: (K,) ascending positions of the model's classes in the legend of the store.
        rows: rows learnt from.
    """

    result: FitResult
    classes: np.ndarray
    rows: TrainingRows


def used_rows(recipe: EvaluateRecipe, index: pd.DataFrame) -> np.ndarray:
    """(N,) bool: rows of the years and regions the evaluation is about."""
    keep = np.zeros(len(index), bool)
    keep[select_rows(index, Selection(recipe.data.years, recipe.data.regions))] = True
    return keep


def training_section(section: DataSection, fold: Fold, labels: str) -> DataSection:
    """The data section of one training: the fold's years or regions, which are then no longer unlabelled ones."""
    fields: dict[str, Any] = {"labels": labels, **fold.learnt}
    for name, learnt in fold.learnt.items():
        further = getattr(section, f"unlabelled_{name}")
        fields[f"unlabelled_{name}"] = tuple(value for value in further if value not in learnt)
    return section.model_copy(update=fields)


def learn(
    section: DataSection, model: ModelSection, fold: Fold, store: SeriesStore, index: pd.DataFrame, fit: Fit,
    report: Reporter,
) -> Learnt:  # fmt: skip
    """Fit a model on the rows of a data section that lie outside the held-out blocks.

    Raises:
        DataError: fewer than two classes have labels there.
    """
    rows = choose_rows(index.loc[fold.open_rows], section, fold.seed)
    place = np.flatnonzero(fold.open_rows)
    rows = TrainingRows(place[rows.labelled], place[rows.unlabelled], rows.facts)
    spec, data = read_training(store, rows, section)
    result = fit(model.name, model.options, spec, data, seed=fold.seed, report=report)
    return Learnt(result, store.legend.encode(spec.legend.codes), rows)


def _chunks(store: SeriesStore, rows: np.ndarray, bands: tuple[str, ...]) -> Iterator[ParcelSeries]:
    for start in range(0, len(rows), _CHUNK):
        yield store.read(rows[start : start + _CHUNK]).select_bands(bands)


def answer(learnt: Learnt, store: SeriesStore, label: np.ndarray, block: np.ndarray, rows: np.ndarray) -> Answers:
    """What a model says about rows of the store.

    Arguments:
        label, block: (N,) label and spatial block of every row of the store.
        rows: (M,) rows asked about.
    """
    model, classes = learnt.result.model, learnt.classes
    posterior = [np.zeros((0, len(classes)))]
    with torch.inference_mode():
        for series in _chunks(store, rows, model.spec.bands):
            batch = make_batch(series, model.spec.calendar, classes)
            posterior.append(model.log_posterior(batch).double().numpy())
    log_posterior = np.concatenate(posterior)
    return Answers(
        rows=rows,
        true=label[rows],
        log_posterior=log_posterior,
        classes=classes,
        block=block[rows],
        novelty=entropy(log_posterior),
        novelty_score="entropy",
    )
