"""`predict`: parcels and a run in, a layer of crops out."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path

from cropgen.api.requests import require_until, require_year
from cropgen.api.training import locate_series
from cropgen.core.errors import MissingInputError, UsageError
from cropgen.core.files import guard_output, remove, require_input
from cropgen.core.paths import Workspace
from cropgen.core.progress import Reporter, Silent
from cropgen.core.run import RunFolder


@dataclass(frozen=True)
class PredictRequest:
    """What to predict with what; None means the default.

    Arguments:
        parcels: any vector format.
        run: run folder or its name; None takes the newest of the workspace.
        series: series store; None takes the newest of the workspace.
        scenes: aggregated for the parcels, as the series of the run were, into predictions/<name of the input>.zarr,
            instead of reading a store.
        output: GeoPackage or GeoParquet; None takes predictions/<name of the input>.gpkg.
        year: year of the parcels, when neither they nor the series settle it.
        id_column: column of the parcel id, several joined by +, or `row-number`; None recognises it.
        layer: of the parcel file, where it holds several.
        crs: coordinate system, where the parcel file states none; for aggregating `scenes`.
        until: `MM-DD`, or days after 1 January; later dates are not used. 02-29 is 1 March in years without it.
        prior: class shares to reweigh for: `em`, `uniform`, or a csv file of shares; None keeps those of the training.
        smooth_neighbours: strength by which the crops are also given as smoothed over neighbours, or `auto`.
        neighbour_m: how far apart neighbours are at most, in metres.
        adapt: first fit the run again with these parcels as unlabelled ones, into a run of its own.
        min_probability: below it the flag low_confidence is set.
        anomaly_level: levels of latents left out of the column `anomaly`, of a model that has levels; None: no column.
    """

    parcels: Path
    run: Path | None = None
    series: Path | None = None
    scenes: Path | None = None
    output: Path | None = None
    year: int | None = None
    id_column: str | None = None
    layer: str | None = None
    crs: str | None = None
    until: str | None = None
    prior: str | None = None
    smooth_neighbours: str | None = None
    neighbour_m: float = 200.0
    adapt: bool = False
    min_probability: float = 0.5
    anomaly_level: int | None = None


@dataclass(frozen=True)
class PredictResult:
    """What was predicted: counts by crop name and by flag, the class shares assumed instead of the training's, and the
    parcels whose crop the neighbours change, by how they were listened to."""

    output: Path
    run_id: str
    series: Path
    parcels: int
    crops: dict[str, int]
    flags: dict[str, int]
    shares: dict[str, float]
    dry_run: bool
    smoothed: dict[str, int] = dataclasses.field(default_factory=dict)


def locate_run(workspace: Workspace, run: Path | None) -> Path:
    """The run meant by a path or a name, or the newest of the workspace.

    Raises:
        MissingInputError: there is none.
    """
    if run is None:
        return workspace.default_run()
    for candidate in (run, workspace.runs / run):
        if (candidate / "model.safetensors").is_file():
            return candidate
    known = ", ".join(p.name for p in workspace.run_folders()[:5]) or "none"
    raise MissingInputError(f"no finished run {run}; in {workspace.runs}: {known}", hint="train one: cropgen train")


def predict(
    workspace: Workspace,
    request: PredictRequest,
    *,
    overwrite: bool = False,
    dry_run: bool = False,
    report: Reporter | None = None,
) -> PredictResult:
    """Write the crop of every parcel of a layer.

    Raises:
        DataError: an input cannot be used. UsageError: choices exclude each other or the output exists.
    """
    from cropgen.api.adaptation import adapt
    from cropgen.api.smoothing import smoothing_field
    from cropgen.prediction.judge import Thresholds
    from cropgen.prediction.predict import PredictOptions, refuse_input
    from cropgen.prediction.predict import predict as write_predictions

    report = report or Silent()
    _check(request)
    output = request.output or workspace.predictions / f"{request.parcels.stem}.gpkg"
    guard_output(output, overwrite=overwrite)
    refuse_input(request.parcels, output)
    run = locate_run(workspace, request.run)
    series = _aggregated(workspace, request, run, dry_run, report) or locate_series(workspace, request.series)
    options = PredictOptions(
        year=request.year, id_column=request.id_column, layer=request.layer, until=request.until, prior=request.prior,
        thresholds=Thresholds(probability=request.min_probability), overwrite=overwrite,
        anomaly_level=request.anomaly_level,
    )  # fmt: skip
    if request.adapt and not (dry_run and request.scenes is not None):
        run = adapt(workspace, run, request.parcels, series, options, report, dry_run=dry_run).run
    report.info(f"predicting {request.parcels} with {run} from {series}")
    if dry_run:
        return PredictResult(
            output, RunFolder(run).run_id, series, _count(request.parcels, request.layer), {}, {}, {}, dry_run=True
        )
    if request.smooth_neighbours is not None:
        strength, reach_m = request.smooth_neighbours, request.neighbour_m
        smoothing = smoothing_field(run, series, strength, reach_m, report, request.until)
        options = dataclasses.replace(options, smoothing=smoothing)
    done = write_predictions(run, request.parcels, series, output, options, report)
    smoothed = {} if options.smoothing is None else {options.smoothing.name: done.changed or 0}
    return PredictResult(
        output, done.run_id, series, done.parcels, done.crops, done.flags, done.shares, dry_run=False, smoothed=smoothed
    )


def _check(request: PredictRequest) -> None:
    """Refuse choices that exclude each other, and inputs that are not there."""
    if request.series is not None and request.scenes is not None:
        raise UsageError("--data and --scenes exclude each other", hint="give the series or the scenes")
    if request.adapt and request.until is not None:
        raise UsageError(
            "--adapt and --until exclude each other: a season that is not over cannot be learnt",
            hint="predict an early season without --adapt",
        )
    require_year(request.year)
    if request.until is not None:
        require_until(request.until)
    if request.smooth_neighbours is not None and not (math.isfinite(request.neighbour_m) and request.neighbour_m >= 0):
        raise UsageError(
            f"--neighbour-m: expected metres from 0 on, got {request.neighbour_m}", hint="for example --neighbour-m 200"
        )
    require_input(request.parcels, "parcels")
    if request.prior not in (None, "em", "uniform"):
        require_input(Path(request.prior), "class shares")


def _aggregated(
    workspace: Workspace, request: PredictRequest, run: Path, dry_run: bool, report: Reporter
) -> Path | None:
    """The series of the parcels made from scenes as those of the run were, kept in the workspace outside of data/, so
    that nothing is trained on it unasked; None where no scenes were given."""
    if request.scenes is None:
        return None
    from cropgen.api.reaggregation import options_like
    from cropgen.imagery.aggregate import aggregate

    store = workspace.predictions / f"{request.parcels.stem}.zarr"
    columns = {"id": request.id_column, "year": request.year, "layer": request.layer, "crs": request.crs}
    options = options_like(workspace, run, columns)
    guard_output(store, overwrite=True)
    if not dry_run:
        remove(store)
        aggregate(require_input(request.scenes, "scenes"), request.parcels, store, options, report)
    return store


def _count(parcels: Path, layer: str | None) -> int:
    from cropgen.series.parcel_columns import is_register
    from cropgen.series.parcel_files import find_file, find_layer

    return find_layer(find_file(parcels, layer), layer, is_register).features
