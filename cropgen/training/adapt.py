"""Adapting a finished run to the season or region that is to be classified, with its parcels and without their labels.

The rows the run learnt from are read again and the target's rows join them as unlabelled ones. A model that adapts is
fitted again; of a pool only the generative member is, and the other keeps its weights. The fit's guard refuses a target
that hurts. The result is a run folder of its own, `<run>-adapted-<target>`, whose recipe is that of the run it came
from and whose adapted.json says the rest.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np

from cropgen.core.errors import CorruptInputError, DataError, MissingInputError, UsageError
from cropgen.core.files import sha256_file, write_text
from cropgen.core.progress import Reporter, Silent
from cropgen.core.recipe import TrainRecipe
from cropgen.core.run import RunFolder, environment
from cropgen.models.base import Classifier, Context, GenerativeModel, TrainingData
from cropgen.models.calibration import calibrate_model
from cropgen.models.checkpoint import load_model, save_model
from cropgen.models.pool import Pool
from cropgen.series.batches import Batch
from cropgen.series.store import SeriesStore
from cropgen.series.transforms import STANDARDISATION
from cropgen.training.fit import FitResult, fit_model
from cropgen.training.train import TrainPlan, plan

ADAPTED_SCHEMA = 1
MOST_TARGET_ROWS = 20_000
_MOST_UNSEEN = 0.1
_STREAM = 0x7A26


@dataclass(frozen=True)
class Target:
    """Parcels to adapt to.

    Arguments:
        name: of the layer, for the run's name.
        store: their series.
        rows: ascending rows of the store.
    """

    name: str
    store: SeriesStore
    rows: np.ndarray

    def fingerprint(self) -> str:
        """Hex SHA-256 of the series and of which rows are meant."""
        return hashlib.sha256(self.store.fingerprint().encode() + self.rows.astype("<i8").tobytes()).hexdigest()


def adapted_name(parent: RunFolder, target: str) -> str:
    """Name of the run that adapts `parent` to a target."""
    return f"{parent.run_id}-adapted-{re.sub(r'[^0-9A-Za-z_.-]+', '-', target).strip('-.') or 'target'}"


def reread(parent: RunFolder, root: Path, report: Reporter | None = None) -> TrainPlan:
    """What a run learnt from, read again from its store.

    Raises:
        UsageError: the run is itself adapted, or its model cannot adapt.
        MissingInputError: the store is gone.
        DataError: the store has changed since.
    """
    if parent.adapted.exists():
        origin = read_provenance(parent).get("parent")
        raise UsageError(f"{parent.run_id} is adapted already", hint=f"adapt the run it came from: --run {origin}")
    recipe, manifest = TrainRecipe.read(parent.recipe), parent.read_manifest()
    if not load_model(parent.path).adapts:
        raise UsageError(
            f"{parent.run_id}: {manifest['model']} does not learn from unlabelled parcels of another season or region",
            hint="predict without --adapt, or train tgem, a model that begins there, or a pool with one",
        )
    where = root / recipe.data.series
    if not where.exists():
        raise MissingInputError(
            f"{parent.run_id} learnt from {where}, which is not there; adapting needs it again",
            hint="put the series back, or predict without --adapt",
        )
    planned = plan(recipe, root, report)
    before = manifest["data"]["fingerprint"]
    if planned.source["fingerprint"] != before:
        raise DataError(
            f"{where} is not the series that {parent.run_id} learnt from: expected {before[:12]}, "
            f"got {planned.source['fingerprint'][:12]}",
            hint="put that series back, train again on this one, or predict without --adapt",
        )
    return planned


def target_rows(planned: TrainPlan, store: SeriesStore, rows: np.ndarray, seed: int) -> np.ndarray:
    """Ascending rows to adapt to among those to be predicted: with a clear date, not learnt from, not set aside by the
    run to judge what is usual; a seeded sample.

    Arguments:
        planned: what the run learnt from.
        store, rows: the parcels to be predicted.
        seed: decides the sample where there are more than 20,000.
    """
    rows = np.unique(rows)
    rows = rows[store.column("clear_dates", rows) > 0]
    if store.fingerprint() == planned.source["fingerprint"]:
        learnt = planned.rows
        held = [learnt.labelled, learnt.unlabelled, learnt.validation, learnt.reference]
        rows = np.setdiff1d(rows, np.concatenate(held))
    if len(rows) <= MOST_TARGET_ROWS:
        return rows
    return np.sort(np.random.default_rng([seed, _STREAM]).choice(rows, MOST_TARGET_ROWS, replace=False))


def adapt_model(
    name: str, model: Classifier, data: TrainingData, *, seed: int = 0, report: Reporter | None = None,
    device: str = "cpu",
) -> FitResult:  # fmt: skip
    """Fit again what adapts of a trained model.

    Arguments:
        name: of the model in the catalogue.
        model: the fitted model; a pool is changed in place.
        data: what it was fitted on, with `target`.
        seed: of its training.
    """
    if not isinstance(model, Pool):
        options = model.options.model_dump(mode="json")
        return fit_model(name, options, model.spec, data, seed=seed, report=report, device=device)
    chosen = model.chosen
    fitted = fit_model(
        chosen.generative, chosen.generative_options, model.spec, data, seed=seed, report=report, device=device
    )
    context = Context(seed, report or Silent(), facts=fitted.facts)
    model.replace_generative(cast(GenerativeModel, fitted.model), data, context)
    return FitResult(model.eval(), context.facts, fitted.seconds)


def accepted(fitted: FitResult) -> bool:
    """Whether the guard let the target in."""
    return bool(fitted.facts.get("tgem", {}).get("target_accepted", False))


def fit_target(
    parent: RunFolder, planned: TrainPlan, target: Target, report: Reporter | None = None
) -> tuple[FitResult, TrainingData]:
    """The model of a run, adapted, and what it learnt from; look at `accepted` before it is used.

    Raises:
        DataError: the target's season is not over.
    """
    recipe, model = TrainRecipe.read(parent.recipe), load_model(parent.path)
    batch = model.spec.batch(target.store.read(target.rows)).without_labels()
    _check_season(planned.data, batch, target)
    data = replace(planned.data, target=batch)
    fitted = adapt_model(recipe.model.name, model, data, seed=recipe.seed, report=report, device=recipe.device)
    facts = calibrate_model(fitted.model, recipe.model.calibration, data.validation)
    return replace(fitted, facts=fitted.facts | ({"calibration": facts} if facts else {})), data


def _check_season(data: TrainingData, target: Batch, where: Target) -> None:
    """Refuse a target that ends or begins well inside the season: what was not seen yet cannot be learnt."""
    learnt, seen = (batch.slot[batch.mask & (batch.slot >= 0)].unique() for batch in (data.labelled, target))
    if not len(seen):
        return
    unseen = int((learnt > seen.max()).sum() + (learnt < seen.min()).sum())
    if unseen > _MOST_UNSEEN * len(learnt):
        raise DataError(
            f"the parcels of {where.name} were not seen in {unseen} of {len(learnt)} periods at the ends of the season",
            hint="adapt when the season is over; an early season is predicted without --adapt",
        )


def write_adapted(run: RunFolder, name: str, parent: RunFolder, fitted: FitResult, target: Target, root: Path) -> None:
    """Fill an empty folder with an adapted run.

    Arguments:
        run: the folder.
        name: what the run will be called.
        root: folder that the path of the target's store is stored relative to, where it lies inside.
    """
    manifest = parent.read_manifest()
    for path in (parent.recipe, parent.labels, parent.path / STANDARDISATION):
        if path.is_file():
            write_text(run.path / path.name, path.read_text(encoding="utf-8"))
    write_text(run.adapted, json.dumps(provenance(parent, target, root), indent=1) + "\n")
    save_model(run.path, fitted.model, manifest["model"])
    outcome: dict[str, Any] = {
        "run": name, "adapted_from": parent.run_id, "facts": fitted.facts, "seconds": round(fitted.seconds, 3),
        "environment": environment(), "status": "done",
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }  # fmt: skip
    run.write_manifest({key: value for key, value in manifest.items() if key != "manifest"} | outcome)


def provenance(parent: RunFolder, target: Target, root: Path) -> dict[str, Any]:
    """Where an adapted run comes from: what `adapted.json` holds."""
    path = target.store.path.resolve()
    inside = path.is_relative_to(root.resolve())
    return {
        "adapted": ADAPTED_SCHEMA, "parent": parent.run_id,
        "parent_weights": sha256_file(parent.weights), "target": target.name,
        "series": path.relative_to(root.resolve()).as_posix() if inside else str(path), "rows": len(target.rows),
        "fingerprint": target.fingerprint(),
    }  # fmt: skip


def read_provenance(run: RunFolder) -> dict[str, Any]:
    """What `adapted.json` of a run holds.

    Raises:
        CorruptInputError: it is not JSON.
    """
    try:
        return json.loads(run.adapted.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptInputError(f"{run.adapted} is not JSON: {error}", hint="remove the run and adapt again") from error


def same_adaptation(run: RunFolder, parent: RunFolder, target: Target) -> bool:
    """Whether a run is the adaptation of this parent to this target."""
    if not run.adapted.is_file() or not run.weights.is_file():
        return False
    held = read_provenance(run)
    wanted = provenance(parent, target, run.path.parent)
    return all(held.get(key) == wanted[key] for key in ("adapted", "parent_weights", "fingerprint"))
