"""The evaluation itself: every model, label share, seed and fold of a recipe, trained and scored, resumable."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cropgen.core.engine import Engine, run_units
from cropgen.core.errors import CropgenError, DataError, UnfinishedError
from cropgen.core.progress import Reporter, Silent
from cropgen.core.recipe import EvaluateRecipe
from cropgen.core.run import environment, fingerprint
from cropgen.evaluation.cell import Arrays, Bench, store_name
from cropgen.evaluation.contrasts import Sheet, contrasts
from cropgen.evaluation.document import Evaluation, Failure, Ledger, TrainingRecord
from cropgen.evaluation.exhibits import exhibit
from cropgen.evaluation.leaks import require_no_leak, summarise_checks
from cropgen.evaluation.learn import Fit, used_rows
from cropgen.evaluation.plan import Keys, Training, check_recipe, plan, protocol_view
from cropgen.evaluation.summary import describe
from cropgen.models.catalog import find
from cropgen.series.splits import parcel_blocks
from cropgen.series.transforms import open_series
from cropgen.training.fit import fit_model

_GROUND_SEED = 0


@dataclass(frozen=True)
class Table:
    """A recipe laid out on a store: its trainings and where their results are kept.

    Arguments:
        bench: what the trainings share.
        keys: of the trainings, in their order.
    """

    bench: Bench
    trainings: tuple[Training, ...]
    keys: tuple[str, ...]

    def run(self, position: int, report: Reporter) -> tuple[TrainingRecord, Arrays]:
        """Run the training at a position."""
        return self.bench.run(self.trainings[position], self.keys[position], report)


def lay_out(recipe: EvaluateRecipe, store_path: Path, fit: Fit = fit_model, report: Reporter | None = None) -> Table:
    """Work out every training of a recipe.

    Raises:
        UsageError: a model, an option or the protocol is unknown.
        DataError: the store cannot be read, or cannot support the protocol.
    """
    check_recipe(recipe)
    store = protocol_view(recipe, open_series(store_path, recipe.data.standardise, report=report))
    index, keys = store.index(), Keys(recipe, store)
    trainings = tuple(plan(recipe, store, index))
    return Table(Bench(recipe, store, index, fit), trainings, tuple(keys.key(t) for t in trainings))


Result = tuple[TrainingRecord, Arrays, tuple[str, ...]]


@dataclass(frozen=True)
class Work:
    """Runs one training in another process, which lays the table out once; warnings travel with the result.

    Arguments:
        recipe: as JSON.
        data: fingerprint of the store, which tells a store that has grown since.
    """

    recipe: str
    store_path: Path
    data: str
    fit: Fit

    def __call__(self, position: int) -> Result:
        table, heard = _table(self.recipe, self.store_path, self.data, self.fit), Silent()
        record, arrays = table.run(position, heard)
        return record, arrays, tuple(heard.warnings)


@functools.lru_cache(maxsize=1)
def _table(recipe: str, store_path: Path, data: str, fit: Fit) -> Table:
    return lay_out(EvaluateRecipe.model_validate_json(recipe), store_path, fit)


def evaluate(
    recipe: EvaluateRecipe,
    store_path: Path,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: Reporter | None = None,
    fit: Fit = fit_model,
    engine: Engine | None = None,
) -> Path:
    """Train and test everything a recipe asks for and write `folder/evaluation.json`.

    Each finished training is kept at once under a key made of the data's fingerprint, that of the code that decides
    it, and everything of the recipe that decides it, so an interrupted evaluation continues where it stopped and a
    larger recipe only computes what is new.

    Arguments:
        recipe: the protocol, models, label shares and seeds; its `data.series` is documentation, `store_path` is read.
        store_path: a series store.
        folder: where evaluation.json and its trainings are kept.
        resume: keep the trainings that are done.
        overwrite: start again.
        fit: what trains a model; replaceable for tests.
        engine: where trainings are done; None: one after another in this process. Results do not depend on it.

    Raises:
        OutputExistsError: the folder holds an evaluation and neither `resume` nor `overwrite` is given.
        UsageError: a model or option is unknown, or another process writes into the folder.
        DataError: the data cannot support the protocol.
        UnfinishedError: some trainings failed; the document holds the others and says why.
        CropgenError: a leak was found; the document is written and says where.
    """
    report = report or Silent()
    table = lay_out(recipe, store_path, fit, report)
    ledger = Ledger(folder)
    with ledger.lock():
        ledger.begin(resume=resume, overwrite=overwrite)
        return _fill(table, store_path, ledger, report, engine or Engine())


def _fill(table: Table, store_path: Path, ledger: Ledger, report: Reporter, engine: Engine) -> Path:
    """Run what is not in the ledger and write the document."""
    versions = environment()
    failed = _run(table, store_path, ledger, report, engine)
    done = [(t, *kept) for t, key in zip(table.trainings, table.keys, strict=True) if (kept := ledger.read(key))]
    if failed and not done:
        raise next(iter(failed.values()))
    document = _assemble(table, done, failed, versions)
    document.write(ledger.document)
    require_no_leak(document.checks, ledger.document)
    if failed:
        first = document.failed[0]
        raise UnfinishedError(
            f"{len(failed)} of {len(table.trainings)} trainings failed, first {first.training}: {first.message}",
            hint=f"{first.hint or 'see evaluation.json'}; --resume tries them again and keeps the others",
        )
    return ledger.document


def _run(table: Table, store_path: Path, ledger: Ledger, report: Reporter, engine: Engine) -> dict[int, CropgenError]:
    """Run the trainings that are not in the ledger and keep each as it comes.

    Returns:
        Why trainings failed, by their position.
    """
    bench, failed = table.bench, {}
    waiting = [position for position, key in enumerate(table.keys) if ledger.read(key) is None]

    def here(position: int) -> Result:
        return *table.run(position, report), ()

    there = Work(bench.recipe.model_dump_json(), store_path, bench.store.fingerprint(), bench.fit)
    with report.task("evaluate", len(table.keys)) as task:
        task.advance(len(table.keys) - len(waiting))
        for outcome in run_units(here if engine.kind == "serial" else there, waiting, engine):
            position = waiting[outcome.position]
            title = table.trainings[position].title
            if outcome.failure is not None:
                failed[position] = outcome.failure
                report.warn(f"{title}: {outcome.failure.message}")
            elif outcome.value is not None:
                record, arrays, warnings = outcome.value
                ledger.write(record, arrays)
                for text in warnings:
                    report.warn(text)
            task.advance()
            task.note(title)
    return dict(sorted(failed.items()))


def _sheets(training: Training, arrays: Arrays, label: Any, ground: Any) -> Iterator[Sheet]:
    for number, exam in enumerate(training.exams()):
        if f"rows{number}" in arrays:
            rows = arrays[f"rows{number}"]
            yield Sheet(
                train=training.fold.train, test=exam.test.name, labels=training.labels, seed=training.fold.seed,
                model=find(training.model.name).name, variant=training.model.variant, until=exam.until, cut=exam.cut,
                target=training.fold.target is not None, rows=rows, true=label[rows],
                predicted=arrays[f"predicted{number}"], ground=ground[rows], classes=arrays["classes"],
            )  # fmt: skip


def _assemble(
    table: Table, done: list[tuple[Training, TrainingRecord, Arrays]], failed: dict[int, CropgenError],
    versions: dict[str, Any],
) -> Evaluation:  # fmt: skip
    bench, recipe, store = table.bench, table.bench.recipe, table.bench.store
    rows = [row for _, record, _ in done for row in record.rows]
    checks = summarise_checks(check for _, record, _ in done for check in record.checks)
    if not rows and all(check.passed for check in checks):
        raise DataError("nothing could be scored: no test parcel has a known crop", hint="see cropgen info")
    label = bench.index["label"].to_numpy()
    ground = parcel_blocks(bench.index, recipe.block_km, _GROUND_SEED)
    sheets = [sheet for training, _, arrays in done for sheet in _sheets(training, arrays, label, ground)]
    return Evaluation(
        protocol=recipe.protocol,
        recipe=recipe,
        legend=store.legend.to_json(),
        data=describe(store_name(store), store, bench.index.loc[used_rows(recipe, bench.index)]),
        rows=tuple(rows),
        details=tuple(detail for _, record, _ in done for detail in record.details),
        contrasts=contrasts(sheets, len(store.legend), [(find(m.name).name, m.variant) for m in recipe.models]),
        checks=checks,
        tuning=tuple(record.tuning for _, record, _ in done if record.tuning is not None),
        failed=tuple(
            Failure(training=table.trainings[position].title, message=error.message, hint=error.hint)
            for position, error in failed.items()
        ),
        exhibits=exhibit(done, store, bench.index),
        provenance={
            "data": store.fingerprint(),
            "recipe": fingerprint(recipe.model_dump(mode="json")),
            "environment": versions,
        },
    )
