"""One training of an evaluation: rows in, a fitted model and its answers on test rows out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cropgen.core.progress import Reporter
from cropgen.core.recipe import DataSection, EvaluateRecipe, ModelSection
from cropgen.evaluation.document import Check
from cropgen.evaluation.leaks import guard_rows
from cropgen.evaluation.protocols import Fold
from cropgen.evaluation.score import Answers
from cropgen.prediction.infer import infer
from cropgen.prediction.novelty import Typicality, calibrate
from cropgen.series.batches import make_batch
from cropgen.series.splits import Selection, select_rows
from cropgen.series.store import SeriesStore
from cropgen.training.data import TrainingRows, choose_rows, read_reference, read_training
from cropgen.training.fit import FitResult

Fit = Callable[..., FitResult]
_CHUNK = 4096


@dataclass(frozen=True)
class Learnt:
    """A fitted model and what it was fitted on.

    Arguments:
        classes: (K,) ascending positions of the model's classes in the legend of the store.
        rows: rows learnt from.
        typicality: log-likelihoods of the reference rows (of the labelled ones where none were set aside), what those
            of test rows are compared with; None for a model without likelihood.
    """

    result: FitResult
    classes: np.ndarray
    rows: TrainingRows
    typicality: Typicality | None


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


def fold_rows(
    recipe: EvaluateRecipe, section: DataSection, fold: Fold, store: SeriesStore, index: pd.DataFrame
) -> tuple[TrainingRows, list[Check]]:
    """The rows of a data section that lie outside the held-out blocks, and the checks that none of them leaks.

    Raises:
        DataError: fewer than two classes have labels there.
    """
    rows = choose_rows(index.loc[fold.open_rows], section, fold.seed).within(np.flatnonzero(fold.open_rows))
    return guard_rows(fold, rows, index, store, neighbour_m=recipe.neighbour_m, on_leak=recipe.on_leak)


def learn(
    section: DataSection, rows: TrainingRows, model: ModelSection, fold: Fold, store: SeriesStore, fit: Fit,
    report: Reporter,
) -> Learnt:  # fmt: skip
    """Fit a model on chosen rows."""
    spec, data = read_training(store, rows, section)
    result = fit(model.name, model.options, spec, data, seed=fold.seed, report=report)
    classes = store.legend.encode(spec.legend.codes)
    reference = read_reference(store, rows, spec) if len(rows.reference) else data.labelled
    return Learnt(result, classes, rows, calibrate(result.model, reference))


def answer(learnt: Learnt, store: SeriesStore, label: np.ndarray, block: np.ndarray, rows: np.ndarray) -> Answers:
    """What a model says about rows of the store.

    Novelty is minus the log-likelihood standardised for the number of observations where the model has one, and the
    entropy of the class probabilities elsewhere.

    Arguments:
        label, block: (N,) label and spatial block of every row of the store.
        rows: (M,) rows asked about.
    """
    model, typicality = learnt.result.model, learnt.typicality
    probability, novelty = [np.zeros((0, len(learnt.classes)))], [np.zeros(0)]
    for start in range(0, len(rows), _CHUNK):
        series = store.read(rows[start : start + _CHUNK]).select_bands(model.spec.bands)
        said = infer(model, make_batch(series, model.spec.calendar, learnt.classes))
        probability.append(said.probability)
        if typicality is None or said.log_likelihood is None:
            novelty.append(said.entropy)
        else:
            novelty.append(-np.nan_to_num(typicality.score(said.log_likelihood, said.observations)))
    return Answers(
        rows=rows,
        true=label[rows],
        log_posterior=np.log(np.maximum(np.concatenate(probability), np.finfo(float).tiny)),
        classes=learnt.classes,
        block=block[rows],
        novelty=np.concatenate(novelty),
        novelty_score="entropy" if typicality is None else "likelihood",
    )
