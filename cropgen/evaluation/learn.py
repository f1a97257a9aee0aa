"""One training of an evaluation: rows in, a fitted model and its answers on test rows out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cropgen.core.progress import Reporter
from cropgen.core.recipe import DataSection, EvaluateRecipe, ModelSection
from cropgen.evaluation.density import withheld_crps
from cropgen.evaluation.document import Check
from cropgen.evaluation.leaks import guard_rows
from cropgen.evaluation.protocols import Fold
from cropgen.evaluation.score import Answers
from cropgen.models.base import Classifier, InputSpec, TrainingData
from cropgen.models.calibration import Calibration, calibrate_model
from cropgen.models.catalog import find
from cropgen.models.layers.affine_calibrator import AffineCalibrator
from cropgen.prediction.infer import infer
from cropgen.prediction.novelty import Typicality, calibrate
from cropgen.series.batches import Batch
from cropgen.series.legend import UNKNOWN
from cropgen.series.season import SeasonEnd
from cropgen.series.splits import Selection, select_rows
from cropgen.series.store import SeriesStore
from cropgen.series.view import SeriesView
from cropgen.training.data import TrainingRows, choose_rows, read_reference, read_training
from cropgen.training.fit import FitResult

Fit = Callable[..., FitResult]
_CHUNK = 4096
_MOST_WITHHELD = 500
_TARGET_STREAM = 0x7A26


@dataclass(frozen=True)
class Learnt:
    """A fitted model and what it was fitted on.

    Arguments:
        classes: (K,) ascending positions of the model's classes in the legend of the store.
        rows: rows learnt from.
        typicality: log-likelihoods of the reference rows (of the labelled ones where none were set aside), what those
            of test rows are compared with; None for a model without likelihood.
        calibrators: by kind, how probabilities may be corrected; "none" comes first, the kind asked for second.
        temperature: the best single one on the validation rows; None without such rows.
    """

    result: FitResult
    classes: np.ndarray
    rows: TrainingRows
    typicality: Typicality | None
    calibrators: dict[str, AffineCalibrator | None]
    temperature: float | None


@dataclass(frozen=True)
class Material:
    """What a training learns from, in main memory.

    Arguments:
        rows: where it comes from.
        reference: rows that are not learnt from, to judge what is usual by.
    """

    rows: TrainingRows
    spec: InputSpec
    data: TrainingData
    reference: Batch


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
    recipe: EvaluateRecipe, section: DataSection, fold: Fold, store: SeriesStore, index: pd.DataFrame,
    until: SeasonEnd | None = None,
) -> tuple[Fold, TrainingRows, list[Check]]:  # fmt: skip
    """The rows of a data section that a fold may learn from, the fold without those left out of its target, and the
    checks that none of them leaks.

    Validation rows are those the fold brings along; then no label is taken out of the training for them. Where it
    brings none that can judge, they are the share that the section asks for. Rows of a class without a label to learn
    from cannot judge and are left out of them.

    Arguments:
        until: the end of the season that is learnt from; rows without a clear date by then are left out.

    Raises:
        DataError: fewer than two classes have labels there.
    """
    seen = index if until is None else index.assign(clear_dates=SeriesView(store, until=until).column("clear_dates"))
    label, place = seen["label"].to_numpy(), np.flatnonzero(fold.open_rows)
    brought = _brought_along(fold, seen)
    own = section.model_copy(update={"validation_share": 0.0}) if len(brought) else section
    rows = choose_rows(seen.loc[fold.open_rows], own, fold.seed).within(place)
    if len(brought):
        rows = _judged_by(rows, brought, label)
        if not len(rows.validation):
            rows = choose_rows(seen.loc[fold.open_rows], section, fold.seed).within(place)
    fold, rows, checks = guard_rows(fold, rows, index, store, neighbour_m=recipe.neighbour_m, on_leak=recipe.on_leak)
    return fold, _judged_by(rows, rows.validation, label), checks


def _brought_along(fold: Fold, index: pd.DataFrame) -> np.ndarray:
    """Rows that the fold keeps for choices and that have a label and a clear date."""
    rows = np.zeros(0, np.int64) if fold.validation is None else fold.validation
    usable = (index["label"].to_numpy() > UNKNOWN) & (index["clear_dates"].to_numpy() > 0)
    return rows[usable[rows]]


def _judged_by(rows: TrainingRows, judges: np.ndarray, label: np.ndarray) -> TrainingRows:
    """The rows with those of the judges for validation whose class is learnt."""
    kept = judges[np.isin(label[judges], label[rows.labelled])]
    return replace(rows, validation=kept, facts=rows.facts | {"validation": len(kept)})


def read_material(
    section: DataSection, rows: TrainingRows, fold: Fold, store: SeriesStore, index: pd.DataFrame
) -> Material:
    """Read chosen rows, and the fold's unlabelled target rows, a seeded sample where there are more than the recipe's
    cap."""
    spec, data = read_training(store, rows, section)
    if fold.target is not None:
        seen = fold.target[index["clear_dates"].to_numpy()[fold.target] > 0]
        if len(seen) > section.max_unlabelled:
            draw = np.random.default_rng([fold.seed, _TARGET_STREAM])
            seen = np.sort(draw.choice(seen, section.max_unlabelled, replace=False))
        data = replace(data, target=spec.batch(store.read(seen)).without_labels())
    reference = read_reference(store, rows, spec) if len(rows.reference) else data.labelled
    return Material(rows, spec, data, reference)


def learn(model: ModelSection, material: Material, store: SeriesStore, seed: int, fit: Fit, report: Reporter) -> Learnt:
    """Fit a model.

    Rows of the target are given as such to generative models and pools, which guard themselves against them; other
    models that learn from unlabelled rows get them among those.
    """
    entry, data = find(model.name), material.data
    if not entry.generative and entry.family != "pool":
        data = replace(data, unlabelled=data.free, target=None)
    result = fit(model.name, model.options, material.spec, data, seed=seed, report=report)
    classes = store.legend.encode(material.spec.legend.codes)
    calibrators, facts = fit_calibrators(result.model, model.calibration, data.validation)
    temperature = facts.get("temperature", {}).get("temperature")
    if model.calibration != "none":
        result = replace(result, facts={**result.facts, "calibration": facts[model.calibration]})
    typicality = calibrate(result.model, material.reference)
    return Learnt(result, classes, material.rows, typicality, calibrators, temperature)


def fit_calibrators(
    model: Classifier, calibration: Calibration, validation: Batch | None
) -> tuple[dict[str, AffineCalibrator | None], dict[str, dict[str, Any]]]:
    """The calibrators of a fitted model to be scored with, and the facts of those that were fitted, by kind.

    A temperature is always fitted where there are validation rows, because other models are compared with it.

    Raises:
        UsageError: a calibration is asked for and there are no validation rows.
    """
    calibrators: dict[str, AffineCalibrator | None] = {"none": None}
    facts = {}
    if validation is not None:
        facts["temperature"] = calibrate_model(model, "temperature", validation)
    if calibration != "none":
        facts[calibration] = calibrate_model(model, calibration, validation)
        calibrators[calibration] = model.calibrator
    model.calibrator = None
    return calibrators, facts


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
    observed, likelihood, has_likelihood = [np.zeros(0, np.int64)], [np.zeros(0)], True
    for start in range(0, len(rows), _CHUNK):
        said = infer(model, model.spec.batch(store.read(rows[start : start + _CHUNK]), learnt.classes))
        probability.append(said.probability)
        observed.append(said.observations.astype(np.int64) * len(model.spec.bands))
        has_likelihood = has_likelihood and said.log_likelihood is not None
        likelihood.append(np.zeros(0) if said.log_likelihood is None else said.log_likelihood)
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
        observed=np.concatenate(observed),
        log_likelihood=np.concatenate(likelihood) if has_likelihood else None,
    )


def foresee(learnt: Learnt, store: SeriesStore, rows: np.ndarray) -> np.ndarray | None:
    """(M,) CRPS of the withheld dates of at most 500 evenly spread rows, NaN of the others.

    None for a model that cannot say what it expects.
    """
    model = learnt.result.model
    place = np.linspace(0, len(rows) - 1, min(len(rows), _MOST_WITHHELD)).round().astype(np.int64)
    if not hasattr(model, "predictive") or not len(place):
        return None
    found = withheld_crps(model, model.spec.batch(store.read(rows[place])))
    if found is None:
        return None
    score = np.full(len(rows), np.nan)
    score[place] = found
    return score
