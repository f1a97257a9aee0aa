"""The evaluation itself: every model, label share, seed and fold of a recipe, trained and scored, resumable."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cropgen.core.errors import DataError, UsageError
from cropgen.core.progress import Reporter, Silent
from cropgen.core.recipe import EvaluateRecipe, ModelSection
from cropgen.core.run import environment, fingerprint
from cropgen.evaluation.contrasts import Sheet, contrasts
from cropgen.evaluation.document import Evaluation, Ledger, Row, TrainingRecord
from cropgen.evaluation.leaks import leak_message, require_no_leak, summarise_checks
from cropgen.evaluation.learn import Fit, Learnt, answer, fold_rows, learn, training_section, used_rows
from cropgen.evaluation.memory import PeakMemory
from cropgen.evaluation.protocols import Fold, TestSet, folds
from cropgen.evaluation.score import Answers, score
from cropgen.evaluation.summary import describe
from cropgen.models.catalog import find
from cropgen.series.legend import UNKNOWN
from cropgen.series.store import SeriesStore
from cropgen.series.transforms import open_series
from cropgen.training.fit import fit_model


@dataclass(frozen=True)
class Training:
    """One training of an evaluation and where it is tested."""

    fold: Fold
    labels: str
    model: ModelSection

    @property
    def title(self) -> str:
        """What a progress bar shows."""
        return f"{find(self.model.name).name}, {self.labels} labels, {self.fold.train}, seed {self.fold.seed}"


def evaluate(
    recipe: EvaluateRecipe,
    store_path: Path,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: Reporter | None = None,
    fit: Fit = fit_model,
) -> Path:
    """Train and test everything a recipe asks for and write `folder/evaluation.json`.

    Each finished training is kept at once under a key made of the data's fingerprint, the code's, and everything of the
    recipe that decides it, so an interrupted evaluation continues where it stopped and a larger recipe only computes
    what is new.

    Arguments:
        recipe: the protocol, models, label shares and seeds; its `data.series` is documentation, `store_path` is read.
        store_path: a series store.
        folder: where evaluation.json and its trainings are kept.
        resume: keep the trainings that are done.
        overwrite: start again.
        fit: what trains a model; replaceable for tests.

    Raises:
        OutputExistsError: the folder holds an evaluation and neither `resume` nor `overwrite` is given.
        UsageError: a model or option is unknown.
        DataError: the data cannot support the protocol.
        CropgenError: a leak was found; the document is written and says where.
    """
    report = report or Silent()
    _check_models(recipe)
    ledger = Ledger(folder)
    ledger.begin(resume=resume, overwrite=overwrite)
    store = open_series(store_path, recipe.data.standardise, report=report)
    index, versions = store.index(), environment()
    trainings = list(plan(recipe, index))
    bench = _Bench(recipe, store, index, fit, report)
    done = []
    with report.task("evaluate", len(trainings)) as task:
        for training in trainings:
            task.note(training.title)
            key = _key(recipe, training, store, versions["code"])
            finished = ledger.read(key)
            if finished is None:
                finished = bench.run(training, key)
                ledger.write(*finished)
            done.append((training, *finished))
            task.advance()
    document = _assemble(recipe, store, index, versions, done)
    document.write(ledger.document)
    require_no_leak(document.checks, ledger.document)
    return ledger.document


def _check_models(recipe: EvaluateRecipe) -> None:
    names = [find(section.name).name for section in recipe.models]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated or not names:
        raise UsageError(
            f"model {repeated[0]} is named twice" if repeated else "no model is named",
            hint="name each model once; aliases count as what they stand for",
        )


def plan(recipe: EvaluateRecipe, index: pd.DataFrame) -> Iterator[Training]:
    """Every training of a recipe, seed by seed."""
    used = used_rows(recipe, index)
    for seed in recipe.seeds:
        for fold in folds(recipe.protocol, index, used, recipe.test_share, recipe.block_km, seed):
            for labels in recipe.labels:
                for model in recipe.models:
                    yield Training(fold, labels, model)


def _key(recipe: EvaluateRecipe, training: Training, store: SeriesStore, code: str) -> str:
    """What decides the result of a training: data, code, and its part of the recipe."""
    options = recipe.model_dump(mode="json", exclude={"models", "labels", "seeds"})
    options["data"].pop("series")
    mine = [training.fold.train, training.fold.seed, training.labels, training.model.model_dump(mode="json")]
    return fingerprint(store.fingerprint(), code, options, mine)[:24]


@dataclass(frozen=True)
class _Bench:
    """What every training of an evaluation shares."""

    recipe: EvaluateRecipe
    store: SeriesStore
    index: pd.DataFrame
    fit: Fit
    report: Reporter

    def run(self, training: Training, key: str) -> tuple[TrainingRecord, dict[str, np.ndarray]]:
        """Train and test one model on one fold."""
        fold = training.fold
        section = training_section(self.recipe.data, fold, training.labels)
        chosen, checks = fold_rows(self.recipe, section, fold, self.store, self.index)
        failed = [check for check in checks if not check.passed]
        if failed:
            self.report.warn(f"{training.title}: not trained: {leak_message(failed)}")
            empty = np.zeros(0, np.int64)
            return TrainingRecord(key=key, rows=(), details=(), checks=tuple(checks)), _arrays([], empty)
        with PeakMemory() as peak:
            learnt = learn(section, chosen, training.model, fold, self.store, self.fit, self.report)
        rows, details, kept = [], [], []
        for test in fold.tests:
            answers, seconds = self._test(learnt, training, test)
            if not answers.in_legend.any():
                self.report.warn(f"{training.title}: no parcel of {test.name} has a crop the model knows; not scored")
                continue
            scores, detail = score(answers, learnt.result.facts, fold.seed)
            rows.append(self._row(training, test, learnt, scores, seconds, peak.megabytes))
            details.append(detail)
            kept += [answers] if test.scope == "held-out" else []
        record = TrainingRecord(key=key, rows=tuple(rows), details=tuple(details), checks=tuple(checks))
        return record, _arrays(kept, learnt.classes)

    def _test(self, learnt: Learnt, training: Training, test: TestSet) -> tuple[Answers, float]:
        began = time.monotonic()
        label = self.index["label"].to_numpy()
        rows = test.rows[label[test.rows] > UNKNOWN]
        answers = answer(learnt, self.store, label, training.fold.block, rows)
        return answers, time.monotonic() - began

    def _row(
        self, training: Training, test: TestSet, learnt: Learnt, scores: dict[str, Any], seconds: float,
        peak_mb: float | None,
    ) -> Row:  # fmt: skip
        entry = find(training.model.name)
        return Row(
            data=store_name(self.store), protocol=self.recipe.protocol, train=training.fold.train, test=test.name,
            scope=test.scope, labels=training.labels, seed=training.fold.seed, model=entry.name, family=entry.family,
            n_labelled=len(learnt.rows.labelled), n_unlabelled=learnt.rows.facts["unlabelled"],
            seconds=round(learnt.result.seconds, 3), predict_seconds=round(seconds, 3), peak_mb=peak_mb, **scores,
        )  # fmt: skip


def _arrays(kept: list[Answers], classes: np.ndarray) -> dict[str, np.ndarray]:
    """The answers on held-out parcels, ascending by row."""
    rows = np.concatenate([a.rows for a in kept] or [np.zeros(0, np.int64)])
    predicted = np.concatenate([classes[a.log_posterior.argmax(1)] for a in kept] or [np.zeros(0, np.int64)])
    order = np.argsort(rows)
    return {"rows": rows[order], "predicted": predicted[order].astype(np.int32), "classes": classes}


def _sheets(training: Training, answers: dict[str, np.ndarray], label: np.ndarray) -> Iterator[Sheet]:
    for test in training.fold.tests:
        if test.scope != "held-out":
            continue
        place = np.flatnonzero(np.isin(answers["rows"], test.rows))
        rows = answers["rows"][place]
        yield Sheet(
            training.fold.train, test.name, training.labels, training.fold.seed, find(training.model.name).name,
            rows, label[rows], answers["predicted"][place], training.fold.block[rows], answers["classes"],
        )  # fmt: skip


def store_name(store: SeriesStore) -> str:
    """The name of a data set: of the folder its store lies in."""
    return store.path.resolve().parent.name


def _assemble(
    recipe: EvaluateRecipe,
    store: SeriesStore,
    index: pd.DataFrame,
    versions: dict[str, Any],
    done: list[tuple[Training, TrainingRecord, dict[str, np.ndarray]]],
) -> Evaluation:
    rows = [row for _, record, _ in done for row in record.rows]
    checks = summarise_checks(check for _, record, _ in done for check in record.checks)
    if not rows and all(check.passed for check in checks):
        raise DataError("nothing could be scored: no test parcel has a known crop", hint="see cropgen info")
    label = index["label"].to_numpy()
    sheets = [sheet for training, record, answers in done if record.rows for sheet in _sheets(training, answers, label)]
    return Evaluation(
        protocol=recipe.protocol,
        recipe=recipe,
        legend=store.legend.to_json(),
        data=describe(store_name(store), store, index.loc[used_rows(recipe, index)]),
        rows=tuple(rows),
        details=tuple(detail for _, record, _ in done for detail in record.details),
        contrasts=contrasts(sheets, len(store.legend)),
        checks=checks,
        provenance={
            "data": store.fingerprint(),
            "recipe": fingerprint(recipe.model_dump(mode="json")),
            "environment": versions,
        },
    )
