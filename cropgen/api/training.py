"""`train`: a series store in, a run folder out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cropgen.api.requests import require_name
from cropgen.core.errors import MissingInputError, UsageError
from cropgen.core.files import require_input
from cropgen.core.paths import Workspace
from cropgen.core.progress import Reporter, Silent
from cropgen.core.recipe import DataSection, ModelSection, TrainRecipe, validate
from cropgen.core.run import RunFolder, new_run_name
from cropgen.models.catalog import find, load
from cropgen.series.splits import LabelShare

if TYPE_CHECKING:
    from cropgen.models.base import Classifier
    from cropgen.training.train import TrainPlan

_ENOUGH_REFERENCE = 100


@dataclass(frozen=True)
class TrainRequest:
    """What to train on what; None and empty mean the default.

    Arguments:
        series: series store; None takes the newest of the workspace.
        model: a name or alias of the catalogue.
        labels: share (`10%`, `0.1`) or number per class (`50/class`) of labels used.
        years, regions: rows learnt from; empty: all.
        unlabelled_years, unlabelled_regions: further rows, used without labels.
        validation: share of the labelled rows (`20%`, `0.2`) kept for choices and calibration; None keeps none.
        site: covariates of the place that the model is given and does not model: lon, lat, or channels of the series.
        standardise: `region-year` brings every region and year to one level and spread, without labels.
        calibration: none, temperature or dirichlet: how probabilities are corrected on the validation rows.
        pool: pools the model with this discriminative one.
        options: model options that differ from the defaults, nested.
        name: name of the run folder.
        recipe: a recipe to repeat; every other choice is then ignored.
    """

    series: Path | None = None
    model: str = "pool"
    labels: str = "100%"
    years: tuple[int, ...] = ()
    regions: tuple[str, ...] = ()
    unlabelled_years: tuple[int, ...] = ()
    unlabelled_regions: tuple[str, ...] = ()
    validation: str | None = None
    calibration: str = "none"
    bands: tuple[str, ...] = ()
    site: tuple[str, ...] = ()
    standardise: str = "none"
    calendar: str = "auto"
    pool: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "cpu"
    name: str | None = None
    recipe: Path | None = None


@dataclass(frozen=True)
class TrainResult:
    """What was learnt from what."""

    run: Path
    model: str
    classes: tuple[str, ...]
    labelled: int
    unlabelled: int
    seconds: float
    facts: dict[str, Any]
    dry_run: bool


def locate_series(workspace: Workspace, series: Path | None) -> Path:
    """The series store meant by a path: the store itself, the folder that holds it, or the workspace's newest.

    Raises:
        MissingInputError: there is none.
    """
    if series is None:
        return workspace.default_series()
    for candidate in (series, workspace.root / series, workspace.data / series):
        inner = candidate / "series.zarr"
        if inner.is_dir():
            return inner
        if candidate.exists():
            return candidate
    return require_input(series, "series store")


def stored_path(workspace: Workspace, path: Path) -> str:
    """A path as a recipe keeps it: relative to the workspace where it lies inside, absolute otherwise."""
    inside = path.resolve().is_relative_to(workspace.root.resolve())
    return path.resolve().relative_to(workspace.root.resolve()).as_posix() if inside else str(path.resolve())


def model_section(
    name: str, options: dict[str, Any], pool: str | None = None, calibration: str = "none"
) -> ModelSection:
    """A model of a recipe with its alias resolved and its options checked.

    Raises:
        UsageError: the name, an option or a value is unknown.
    """
    entry = find(name)
    if pool is not None:
        options = {"generative": entry.name, "discriminative": find(pool).name} | options
        entry = find("pool")
    validate(load(entry).Settings, options, where=f"options of {entry.name}")
    document = {"name": entry.name, "options": options, "calibration": calibration}
    return validate(ModelSection, document, where="arguments")


def validation_share(text: str | None) -> float:
    """The share of the labelled rows meant by `20%` or `0.2`; 0 for None.

    Raises:
        UsageError: it is not a share of less than all.
    """
    share = LabelShare.parse(text).share if text else 0.0
    if share is None or share >= 1:
        raise UsageError(
            f"--validation: expected a share of the labels of less than 100%, got {text}",
            hint="for example --validation 20%",
        )
    return share


def _requested_recipe(workspace: Workspace, request: TrainRequest) -> TrainRecipe:
    if request.recipe is not None:
        return TrainRecipe.read(request.recipe)
    series = locate_series(workspace, request.series)
    document = {
        "series": stored_path(workspace, series), "years": request.years, "regions": request.regions,
        "bands": request.bands, "site": request.site, "standardise": request.standardise, "calendar": request.calendar,
        "labels": request.labels,
        "unlabelled_years": request.unlabelled_years, "unlabelled_regions": request.unlabelled_regions,
        "validation_share": validation_share(request.validation),
    }  # fmt: skip
    return TrainRecipe(
        seed=request.seed, device=request.device, data=validate(DataSection, document, where="arguments"),
        model=model_section(request.model, request.options, request.pool, request.calibration),
    )  # fmt: skip


def _unfinished_run(workspace: Workspace, name: str | None) -> RunFolder:
    if name is not None:
        return RunFolder(workspace.runs / name)
    unfinished = [p.parent for p in workspace.runs.glob("*/recipe.toml") if not _is_finished(RunFolder(p.parent))]
    if not unfinished:
        raise MissingInputError(f"no unfinished run in {workspace.runs}", hint="start one: cropgen train")
    return RunFolder(max(unfinished, key=lambda p: p.stat().st_mtime))


def _is_finished(run: RunFolder) -> bool:
    """Whether nothing is left to do; manifests of older runs do not say whether usual seasons were judged."""
    if not run.weights.exists():
        return False
    return run.adapted.exists() or not run.manifest.exists() or run.read_manifest().get("judged", True)


def train(
    workspace: Workspace,
    request: TrainRequest,
    *,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    report: Reporter | None = None,
) -> TrainResult:
    """Train a model into a run folder of the workspace.

    Raises:
        UsageError: a choice cannot be run. DataError: the store cannot be used.
    """
    report = report or Silent()
    require_name(request.name)
    if resume and request.recipe is not None:
        raise UsageError("--resume and --recipe exclude each other", hint="--resume repeats the recipe of the run")
    if resume:
        run = _unfinished_run(workspace, request.name)
        run.begin(resume=True, overwrite=False)
        recipe = TrainRecipe.read(run.recipe)
    else:
        recipe = _requested_recipe(workspace, request)
        run = RunFolder(workspace.runs / (request.name or new_run_name(recipe.model.name, recipe.data.labels)))
    from cropgen.training.train import execute, plan

    rows = plan(recipe, workspace.root, report)
    if dry_run:
        return _result(run, recipe, rows, 0.0, {}, dry_run=True)
    fitted = execute(recipe, run, rows, report, resume=resume, overwrite=overwrite)
    manifest = run.read_manifest()
    manifest["data"].setdefault("source", rows.store.source)
    run.write_manifest(manifest | {"judged": False})
    keep_typicality(run, fitted.model, rows, report)
    run.write_manifest(manifest | {"judged": True})
    return _result(run, recipe, rows, fitted.seconds, fitted.facts, dry_run=False)


def keep_typicality(run: RunFolder, model: Classifier, rows: TrainPlan, report: Reporter) -> None:
    """Keep what a usual season looks like to the model, so that predictions can flag the others.

    Judged on parcels that were set aside; where there are too few of them, by cross-fitting, or, of a density that
    would have to be trained again for that, on the few there are.
    """
    from cropgen.prediction.novelty import calibrate, cross_calibrate, save_typicality

    enough = len(rows.reference) >= _ENOUGH_REFERENCE
    typicality = calibrate(model, rows.reference) if enough else cross_calibrate(model, rows.data)
    if typicality is None and len(rows.reference):
        typicality = calibrate(model, rows.reference)
        if typicality is not None:
            report.info(
                f"only {typicality.count} parcels could be set aside as reference: typicality is no less than 1 in "
                f"{typicality.count + 1}, so by default no season will be flagged as unusual"
            )
    save_typicality(run.path, typicality)
    if typicality is None and hasattr(model, "log_likelihood"):
        report.info("too few parcels to set some aside as reference: unusual seasons will not be flagged")


def _result(
    run: RunFolder, recipe: TrainRecipe, rows: TrainPlan, seconds: float, facts: dict[str, Any], *, dry_run: bool
) -> TrainResult:
    return TrainResult(
        run.path, recipe.model.name, rows.spec.legend.names, rows.labelled_count, rows.unlabelled_count, seconds, facts,
        dry_run,
    )  # fmt: skip
