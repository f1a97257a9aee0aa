"""From a recipe to a run folder."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from cropgen.core.errors import CropgenError
from cropgen.core.files import write_text
from cropgen.core.progress import Reporter, Silent
from cropgen.core.recipe import TrainRecipe
from cropgen.core.run import RunFolder, environment
from cropgen.models.base import InputSpec, TrainingData
from cropgen.models.calibration import calibrate_model, require_validation
from cropgen.models.catalog import find
from cropgen.models.checkpoint import load_model, save_model
from cropgen.models.inputs import reads_pixel_sets
from cropgen.series.batches import Batch
from cropgen.series.store import SeriesStore
from cropgen.series.transforms import StandardisedStore, open_series, save_spread
from cropgen.series.view import with_pixel_sets
from cropgen.training.data import (
    TrainingRows,
    choose_rows,
    read_reference,
    read_training,
    require_site_reader,
)
from cropgen.training.fit import FitResult, find_device, fit_model


@dataclass(frozen=True)
class TrainPlan:
    """What a recipe means on a series store.

    Arguments:
        rows: the rows of the store that are learnt from.
        labels: parcel id and year of each labelled row.
        spec: what the model sees and answers.
        data: the rows, in main memory.
        reference: rows that are not learnt from, to judge what is usual by.
        source: the store's path as the recipe names it, and its fingerprint.
        store: what the rows were read from.
    """

    rows: TrainingRows
    labels: dict[str, list[Any]]
    spec: InputSpec
    data: TrainingData
    reference: Batch
    source: dict[str, str]
    store: SeriesStore

    @property
    def labelled_count(self) -> int:
        return len(self.rows.labelled)

    @property
    def unlabelled_count(self) -> int:
        return len(self.rows.unlabelled)


def plan(recipe: TrainRecipe, root: Path, report: Reporter | None = None) -> TrainPlan:
    """Read what a recipe learns from.

    Arguments:
        recipe: what is learnt from what.
        root: folder that a relative path of the recipe is resolved in.
        report: told what was found.

    Raises:
        DataError: the store cannot be read or does not hold what the recipe asks for.
        UsageError: the choice of rows, bands, site covariates or calendar makes no sense, or there is nothing to
            calibrate on.
        DeviceError: the device is not there.
    """
    find_device(recipe.device)
    require_site_reader([recipe.model], recipe.data.site)
    require_validation(recipe.model.calibration, recipe.data.validation_share)
    store = open_series(root / recipe.data.series, recipe.data.standardise, report=report)
    index = store.index()
    rows = choose_rows(index, recipe.data, recipe.seed)
    inside = reads_pixel_sets(recipe.model.name, recipe.model.options)
    seen = with_pixel_sets(store) if inside else store
    spec, data = read_training(seen, rows, recipe.data)
    chosen = index.iloc[rows.labelled]
    labels = {
        "row": rows.labelled.tolist(),
        "parcel_id": [str(name) for name in chosen["parcel_id"]],
        "year": [int(year) for year in chosen["year"]],
    }
    (report or Silent()).info(
        f"{len(rows.labelled)} parcels with label and {len(rows.unlabelled)} without"
        f"{f', {len(rows.validation)} for validation' if len(rows.validation) else ''}, {spec.classes} classes, "
        f"{len(spec.bands)} bands on {spec.calendar.count} slots of the {spec.calendar.kind} calendar"
    )
    return TrainPlan(
        rows,
        labels,
        spec,
        data,
        read_reference(seen, rows, spec),
        {"series": recipe.data.series, "fingerprint": store.fingerprint()},
        store,
    )


def train_run(
    recipe: TrainRecipe, run: RunFolder, planned: TrainPlan, report: Reporter | None = None, *, resume: bool = False
) -> FitResult:
    """Fit a planned recipe and leave a finished run in a folder that exists.

    An interruption leaves a folder to resume; resuming gives the weights that an uninterrupted training would have
    given. A run that is finished is read, not trained again.

    Raises:
        CropgenError: the training diverged, or the disk is full.
        UsageError: data, options or seed are not those of the run that is resumed.
    """
    report = report or Silent()
    manifest = describe(recipe, run, planned)
    if resume and run.manifest.is_file():
        before = run.read_manifest()
        if before.get("status") == "done":
            report.info(f"{run.run_id} is finished already")
            return FitResult(load_model(run.path), before["facts"], before["seconds"])
        if before.get("environment") != manifest["environment"]:
            report.warn(f"{run.run_id} is resumed with other code or packages than it was begun with")
    run.write_manifest({**manifest, "status": "running"})
    if isinstance(planned.store, StandardisedStore):
        save_spread(run.path, planned.store.bands, planned.store.standardisation.common)
    write_text(run.labels, json.dumps(planned.labels) + "\n")
    try:
        fitted = fit_model(
            recipe.model.name, recipe.model.options, planned.spec, planned.data, seed=recipe.seed, report=report,
            device=recipe.device, checkpoint=run.checkpoint, resume=resume, metrics=run.metrics,
        )  # fmt: skip
        facts = calibrate_model(fitted.model, recipe.model.calibration, planned.data.validation)
        fitted = replace(fitted, facts=fitted.facts | ({"calibration": facts} if facts else {}))
    except (KeyboardInterrupt, CropgenError) as error:
        status = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
        run.write_manifest({**manifest, "status": status})
        raise
    save_model(run.path, fitted.model, recipe.model.name)
    options = fitted.model.options.model_dump(mode="json")
    outcome = {"options": options, "facts": fitted.facts, "seconds": round(fitted.seconds, 3)}
    run.write_manifest({**manifest, **outcome, "status": "done", "finished": _now()})
    run.finish()
    return fitted


def describe(recipe: TrainRecipe, run: RunFolder, planned: TrainPlan) -> dict[str, Any]:
    """What a run is made from: the part of its manifest that is known before the fit."""
    count = np.bincount(planned.data.labelled.y.numpy(), minlength=planned.spec.classes)
    return {
        "run": run.run_id,
        "begun": _now(),
        "model": find(recipe.model.name).name,
        "seed": recipe.seed,
        "device": recipe.device,
        "data": {**planned.source, "rows": planned.rows.facts, "labels": recipe.data.labels},
        "spec": planned.spec.to_json(),
        "labels_per_class": dict(zip(planned.spec.legend.codes, count.tolist(), strict=True)),
        "environment": environment(),
    }


def _now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def train(
    recipe: TrainRecipe,
    run: RunFolder,
    report: Reporter | None = None,
    *,
    root: Path = Path(),
    resume: bool = False,
    overwrite: bool = False,
) -> FitResult:
    """Train a recipe into a run folder: read, fit, keep.

    Arguments:
        run: the folder to make.
        root: folder that a relative path of the recipe is resolved in.
        resume: continue a run that was interrupted.
        overwrite: replace a run that exists.
    """
    return execute(recipe, run, plan(recipe, root, report), report, resume=resume, overwrite=overwrite)


def execute(
    recipe: TrainRecipe,
    run: RunFolder,
    planned: TrainPlan,
    report: Reporter | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
) -> FitResult:
    """Make the run folder of a planned recipe, hold it, and train into it; see `train`."""
    run.path.parent.mkdir(parents=True, exist_ok=True)
    with run.lock():
        run.begin(resume=resume, overwrite=overwrite)
        if not resume:
            recipe.write(run.recipe)
        return train_run(recipe, run, planned, report, resume=resume)
