"""`evaluate` and `write_page`: scores on held-out parcels, and one page that shows them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cropgen.api.prediction import locate_run
from cropgen.api.requests import require_until
from cropgen.api.training import locate_series, model_section, stored_path, validation_share
from cropgen.core.errors import MissingInputError, UsageError
from cropgen.core.files import guard_output
from cropgen.core.paths import Workspace
from cropgen.core.progress import Reporter, Silent
from cropgen.core.recipe import EvaluateRecipe, validate


@dataclass(frozen=True)
class EvaluateRequest:
    """What to compare on what; None and empty mean the default.

    Arguments:
        protocol: a general one (see `cropgen.evaluation.protocols`) or one that the data set was published with.
        models: names or aliases of the catalogue, compared on the same splits.
        labels: label shares; empty: 100 %, or 1, 5, 10, 25, 50, 100 % for label-curve.
        seeds: each draws its own split, labels and weights.
        series: series store; None takes the newest of the workspace.
        site: covariates of the place, for the models that take them.
        options: options of the one model compared; with several models, nested under their names.
        vary: option → values to compare; `key` in every model that has it, `model.key` in that model alone.
        until: ends of the season, `MM-DD` or days after 1 January: trained and tested up to each, and trained on whole
            seasons and cut short at the test.
        unlabelled_target: train a second time with the unlabelled parcels of the test year or region.
        prior: class shares assumed at the test: training, em (estimated from the test parcels, unlabelled) or uniform.
        tune: option sets each model may try on validation rows inside the training rows; 0 keeps the defaults.
        test_share, block_km: share of the spatial blocks held out, and their side in kilometres.
        parts: parts of the protocol blocks.
        validation: share of the labelled rows (`20%`, `0.2`) kept for choices and calibration; None keeps none.
        calibration: none, temperature or dirichlet: rows with and without this correction on the validation rows.
        neighbour_m: parcels nearer than this are neighbours to the leak checks.
        on_leak: fail (a training with a leak is not run) or drop (its leaking rows are left out).
        engine, jobs, scheduler: where trainings are done, see `cropgen.core.engine`; results do not depend on it.
        output: folder of evaluation.json; None takes reports/<protocol>.
    """

    protocol: str = "holdout"
    models: tuple[str, ...] = ("pool",)
    labels: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2)
    series: Path | None = None
    years: tuple[int, ...] = ()
    regions: tuple[str, ...] = ()
    unlabelled_years: tuple[int, ...] = ()
    site: tuple[str, ...] = ()
    calendar: str = "auto"
    standardise: str = "none"
    options: dict[str, Any] = field(default_factory=dict)
    vary: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    until: tuple[str, ...] = ()
    unlabelled_target: bool = False
    prior: str = "training"
    tune: int = 0
    test_share: float = 0.3
    block_km: float = 1.0
    parts: int = 5
    validation: str | None = None
    calibration: str = "none"
    neighbour_m: float = 10.0
    on_leak: str = "fail"
    engine: str | None = None
    jobs: int = 1
    scheduler: str | None = None
    output: Path | None = None


@dataclass(frozen=True)
class EvaluateResult:
    """Where the evaluation is and what it says, averaged over seeds.

    Arguments:
        cells: number of trainings.
        planned: with `dry_run`, every training, where it is tested and whether it is done already.
    """

    evaluation: Path
    cells: int
    summary: tuple[dict[str, Any], ...]
    dry_run: bool
    planned: tuple[dict[str, Any], ...] = ()


def _recipe(workspace: Workspace, request: EvaluateRequest, series: Path) -> EvaluateRecipe:
    from cropgen.evaluation.protocols import LABEL_CURVE
    from cropgen.evaluation.variants import contenders

    if any(seed < 0 for seed in request.seeds):
        raise UsageError(
            f"--seeds: expected numbers from 0 on, got {min(request.seeds)}", hint="for example --seeds 0,1,2"
        )
    for until in request.until:
        require_until(until)
    single = len(request.models) == 1
    unknown = [] if single else [key for key in request.options if key not in request.models]
    if unknown:
        raise UsageError(
            f"--set {unknown[0]}: several models are compared", hint="name the model first: --set MODEL.KEY=VALUE"
        )
    options = {m: request.options if single else request.options.get(m, {}) for m in request.models}
    for name in request.models:
        model_section(name, options[name])
    compared = [c.model_dump() for c in contenders(request.models, options, request.vary)]
    document = {
        "protocol": request.protocol, "models": [c | {"calibration": request.calibration} for c in compared],
        "labels": request.labels or (LABEL_CURVE if request.protocol == "label-curve" else ("100%",)),
        "seeds": request.seeds, "until": request.until, "target_unlabelled": request.unlabelled_target,
        "tune": request.tune, "parts": request.parts, "test_share": request.test_share, "block_km": request.block_km,
        "prior": request.prior, "neighbour_m": request.neighbour_m, "on_leak": request.on_leak,
        "data": {
            "series": stored_path(workspace, series), "years": request.years, "regions": request.regions,
            "unlabelled_years": request.unlabelled_years, "site": request.site, "calendar": request.calendar,
            "standardise": request.standardise, "validation_share": validation_share(request.validation),
            "validation_block_km": request.block_km,
        },
    }  # fmt: skip
    return validate(EvaluateRecipe, document, where="arguments")


def evaluate(
    workspace: Workspace,
    request: EvaluateRequest,
    *,
    resume: bool = False,
    overwrite: bool = False,
    dry_run: bool = False,
    report: Reporter | None = None,
) -> EvaluateResult:
    """Train and test on held-out parcels, years or regions, and score with intervals.

    Raises:
        UsageError: a model, an option or the protocol is unknown. DataError: the data cannot support the protocol.
        UnfinishedError: some trainings failed; the others are kept and scored.
        MissingDependencyError: the engine is not installed.
    """
    from cropgen.core.engine import Engine
    from cropgen.evaluation.document import Ledger, read_evaluation
    from cropgen.evaluation.evaluate import evaluate as run_evaluation
    from cropgen.evaluation.evaluate import lay_out
    from cropgen.evaluation.summary import summarise

    engine = Engine.chosen(request.engine, request.jobs, request.scheduler)
    report = report or Silent()
    series = locate_series(workspace, request.series)
    recipe = _recipe(workspace, request, series)
    folder = request.output or workspace.reports / recipe.protocol
    if dry_run:
        table, ledger = lay_out(recipe, series, report=report), Ledger(folder)
        planned = tuple(
            {**training.describe(), "done": not overwrite and ledger.read(key) is not None}
            for training, key in zip(table.trainings, table.keys, strict=True)
        )
        return EvaluateResult(folder / "evaluation.json", len(planned), (), dry_run=True, planned=planned)
    document = run_evaluation(
        recipe, series, folder, resume=resume, overwrite=overwrite, report=report, engine=engine
    )  # fmt: skip
    evaluation = read_evaluation(document)
    trainings = {(row.train, row.labels, row.seed, row.model, row.variant, row.target_unlabelled,
                  "" if row.cut else row.until) for row in evaluation.rows}  # fmt: skip
    comparable = [row for row in evaluation.rows if row.scope == "held-out"]
    return EvaluateResult(document, len(trainings), tuple(summarise(comparable)), dry_run=False)


@dataclass(frozen=True)
class ReportResult:
    """The page and what it shows."""

    report: Path
    evaluations: tuple[Path, ...]
    runs: tuple[Path, ...]
    predictions: Path | None


def write_page(
    workspace: Workspace,
    *,
    evaluations: list[Path] | None = None,
    runs: list[Path] | None = None,
    predictions: Path | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    report: Reporter | None = None,
) -> ReportResult:
    """Write one self-contained HTML page from evaluations, runs and predictions.

    Arguments:
        evaluations: documents, or the folders they lie in; None: all of the workspace.

    Raises:
        MissingInputError: there is nothing to show.
        OutputExistsError: the page exists and `overwrite` is false.
    """
    from cropgen.evaluation.report import write_report

    page = output or workspace.reports / "report.html"
    guard_output(page, overwrite=overwrite)
    shown = [path / "evaluation.json" if path.is_dir() else path for path in evaluations or ()]
    shown = shown or sorted(workspace.reports.glob("*/evaluation.json"))
    learnt = [locate_run(workspace, run) for run in runs] if runs else workspace.run_folders()[:1]
    layer = predictions or _newest(workspace.predictions)
    if not shown and not learnt and layer is None:
        raise MissingInputError(f"nothing to report in {workspace.root}", hint="run cropgen evaluate or predict first")
    write_report(shown, learnt, layer, page, workspace.runs)
    (report or Silent()).info(f"wrote {page}")
    return ReportResult(page, tuple(shown), tuple(learnt), layer)


def _newest(folder: Path) -> Path | None:
    """The newest predictions, but for those still being written, whose names are hidden."""
    layers = [p for p in folder.glob("*") if p.suffix in {".gpkg", ".parquet"} and not p.name.startswith(".")]
    return max(layers, key=lambda p: p.stat().st_mtime, default=None)
