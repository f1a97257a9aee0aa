"""One training of an evaluation: chosen, checked, tuned, fitted and tested."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from cropgen.core.errors import DataError
from cropgen.core.progress import Reporter
from cropgen.core.recipe import Contender, DataSection, EvaluateRecipe
from cropgen.evaluation.document import Check, Row, TrainingRecord, Tuning
from cropgen.evaluation.exhibits import portray
from cropgen.evaluation.horizon import follow
from cropgen.evaluation.leaks import leak_message
from cropgen.evaluation.learn import (
    Fit,
    Learnt,
    Material,
    answer,
    fold_rows,
    foresee,
    learn,
    read_material,
    training_section,
)
from cropgen.evaluation.memory import PeakMemory
from cropgen.evaluation.plan import Exam, Training, protocol_view
from cropgen.evaluation.prior import reweighed
from cropgen.evaluation.score import Answers, macro_f1_over_legend, score
from cropgen.evaluation.tune import tune
from cropgen.models.catalog import find
from cropgen.series.legend import UNKNOWN
from cropgen.series.season import SeasonEnd
from cropgen.series.store import SeriesStore
from cropgen.series.transforms import StandardisedStore, open_series
from cropgen.series.view import SeriesView

VALIDATION_SHARE = 0.25
Arrays = dict[str, np.ndarray]


@dataclass
class Bench:
    """What every training of an evaluation shares.

    Arguments:
        store: as the protocol sees it.
        index: its index.
        fit: what trains a model.
    """

    recipe: EvaluateRecipe
    store: SeriesStore
    index: pd.DataFrame
    fit: Fit
    _kept: dict[Any, tuple[Material | None, list[Check]]] = field(default_factory=dict)
    _ended: dict[tuple[str, bool], SeriesStore] = field(default_factory=dict)

    def run(self, training: Training, key: str, report: Reporter) -> tuple[TrainingRecord, Arrays]:
        """Train and test one model on one fold, on one thread, so that the result does not depend on the machine's
        number of cores.

        Returns:
            The record, and for each exam by number the rows asked about and the class said to each (held-out rows
            only), with the classes the model knows.

        Raises:
            CropgenError: the training cannot be done.
        """
        with one_thread():
            return self._run(training, key, report)

    def _run(self, training: Training, key: str, report: Reporter) -> tuple[TrainingRecord, Arrays]:
        section = training_section(self.recipe.data, training.fold, training.labels)
        with PeakMemory() as peak:
            material, checks = self._material(training, section)
            if material is None:
                failed = [check for check in checks if not check.passed]
                report.warn(f"{training.title}: not trained: {leak_message(failed)}")
                return TrainingRecord(key=key, rows=(), details=(), checks=tuple(checks)), {}
            model, tuning = self._tuned(training, section, material, report)
            learnt = learn(model, material, self.store, training.fold.seed, self.fit, report)
        rows, details, arrays = [], [], {"classes": learnt.classes}
        for number, exam in enumerate(training.exams()):
            answers, seconds = self._test(learnt, training, exam)
            if not answers.in_legend.any():
                report.warn(f"{training.title}: no parcel of {exam.test.name} has a crop the model knows; not scored")
                continue
            facts = learnt.result.facts if tuning is None else {**learnt.result.facts, "tuned": tuning.chosen}
            judged = answers
            for kind, calibrator in learnt.calibrators.items():
                answers = answers.calibrated(calibrator)
                judged = reweighed(answers, learnt.result.model, self.recipe.prior)
                temperature = learnt.temperature if kind == "none" else None
                scores, detail = score(judged, facts, training.fold.seed, temperature)
                scores["calibration"] = kind
                scores["macro_f1_legend"] = macro_f1_over_legend(judged, len(self.store.legend))
                rows.append(self._row(training, exam, learnt, material, scores, seconds, peak.megabytes))
                details.append(detail)
            if exam.test.scope == "held-out":
                arrays[f"rows{number}"] = answers.rows
                arrays[f"predicted{number}"] = learnt.classes[judged.log_posterior.argmax(1)].astype(np.int32)
                arrays[f"probability{number}"] = np.exp(judged.log_posterior.max(1)).astype(np.float32)
                if "portrait_day" not in arrays and not exam.until:
                    label = self.index["label"].to_numpy()
                    arrays |= portray(learnt, self.store, label, answers.rows, training.fold.seed)
                    arrays |= follow(learnt, self.store, label, answers.rows)
        record = TrainingRecord(
            key=key, rows=tuple(rows), details=tuple(details), checks=tuple(checks), tuning=tuning
        )  # fmt: skip
        return record, arrays

    def _material(self, training: Training, section: DataSection) -> tuple[Material | None, list[Check]]:
        """What is learnt from, and the checks on it; None where one failed. The last one is kept for the next model."""
        mine = (id(training.fold), training.until, section)
        if mine not in self._kept:
            self._kept.clear()
            until = _end(training.until)
            fold, rows, checks = fold_rows(self.recipe, section, training.fold, self.store, self.index, until)
            sound = all(check.passed for check in checks)
            view = self._seen(training.until)
            material = read_material(section, rows, fold, view, self.index) if sound else None
            self._kept[mine] = material, checks
        return self._kept[mine]

    def _seen(self, until: str, *, cut: bool = False) -> SeriesStore:
        """The store as it is known at an end of the season: cut, and standardised, where it is, by what is seen.

        Arguments:
            cut: for a model of whole seasons, to whose level and spread they are brought.
        """
        if not until:
            return self.store
        if (until, cut) not in self._ended:
            store, by = self.store, self.recipe.data.standardise
            if by != "none":
                whole = open_series(store.path, by) if cut else None
                common = whole.standardisation.common if isinstance(whole, StandardisedStore) else None
                store = protocol_view(self.recipe, open_series(store.path, by, common, until=_end(until)))
            self._ended[until, cut] = SeriesView(store, until=_end(until))
        return self._ended[until, cut]

    def _tuned(
        self, training: Training, section: DataSection, material: Material, report: Reporter
    ) -> tuple[Contender, Tuning | None]:
        """The model with the options that judged best; itself where nothing is tuned."""
        if not self.recipe.tune:
            return training.model, None
        fold, model = training.fold, training.model
        trials, chosen, judges = (), model.options, 0
        try:
            if not len(material.rows.validation):
                update = {"validation_share": VALIDATION_SHARE, "validation_block_km": self.recipe.block_km}
                section = section.model_copy(update=update)
                fold, rows, _ = fold_rows(self.recipe, section, fold, self.store, self.index, _end(training.until))
                material = read_material(section, rows, fold, self._seen(training.until), self.index)
            judges = len(material.rows.validation)
            chosen, trials = tune(model, self.recipe.tune, material, self.store, fold.seed, self.fit, report)
        except DataError as error:
            report.warn(f"{training.title}: options are left as they are: {error.message}")
        tuning = Tuning(
            train=fold.train, labels=training.labels, seed=fold.seed, model=find(model.name).name,
            variant=model.variant, until=training.until, target_unlabelled=fold.target is not None,
            n_validation=judges, trials=trials, chosen=chosen,
        )  # fmt: skip
        return model.model_copy(update={"options": chosen}), tuning

    def _test(self, learnt: Learnt, training: Training, exam: Exam) -> tuple[Answers, float]:
        began = time.monotonic()
        label = self.index["label"].to_numpy()
        rows = exam.test.rows[label[exam.test.rows] > UNKNOWN]
        store = self._seen(exam.until, cut=exam.cut)
        answers = answer(learnt, store, label, training.fold.block, rows)
        seconds = time.monotonic() - began
        return replace(answers, crps=foresee(learnt, store, rows)), seconds

    def _row(
        self, training: Training, exam: Exam, learnt: Learnt, material: Material, scores: dict[str, Any],
        seconds: float, peak_mb: float | None,
    ) -> Row:  # fmt: skip
        entry, fold, target = find(training.model.name), training.fold, material.data.target
        return Row(
            data=store_name(self.store), protocol=self.recipe.protocol, train=fold.train, test=exam.test.name,
            scope=exam.test.scope, labels=training.labels, seed=fold.seed, model=entry.name,
            variant=training.model.variant, family=entry.family, until=exam.until, cut=exam.cut,
            target_unlabelled=fold.target is not None, n_target=0 if target is None else len(target),
            n_labelled=len(learnt.rows.labelled), n_unlabelled=learnt.rows.facts["unlabelled"],
            seconds=round(learnt.result.seconds, 3), predict_seconds=round(seconds, 3), peak_mb=peak_mb, **scores,
        )  # fmt: skip


def _end(until: str) -> SeasonEnd | None:
    return SeasonEnd.parse(until) if until else None


def store_name(store: SeriesStore) -> str:
    """The name of a data set: of the folder its store lies in."""
    return store.path.resolve().parent.name


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: sums are then added in one order, whatever the machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with threadpool_limits(1):
            yield
    finally:
        torch.set_num_threads(threads)
