"""Parcels, a run and a series store in; a map of crops out."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cropgen
from cropgen.core.errors import SchemaError, UsageError
from cropgen.core.files import atomic_output, guard_output
from cropgen.core.progress import Reporter, Silent
from cropgen.core.run import RunFolder
from cropgen.models.base import Classifier
from cropgen.models.checkpoint import DESCRIPTION, load_model
from cropgen.prediction.columns import COLUMNS_VERSION, FLAGS
from cropgen.prediction.infer import levelled
from cropgen.prediction.job import Job
from cropgen.prediction.join import RowIndex
from cropgen.prediction.judge import Judge
from cropgen.prediction.novelty import load_typicality
from cropgen.prediction.options import PredictOptions
from cropgen.prediction.prior_shift import PriorShift, class_prior, estimate_streaming, read_prior, uniform_prior
from cropgen.prediction.smoothing import smooth_stream
from cropgen.prediction.stream import PARQUET_SUFFIXES, ParcelStream, open_parcels, open_store
from cropgen.series.season import SeasonEnd
from cropgen.series.store import SeriesStore
from cropgen.series.transforms import load_spread, open_series
from cropgen.series.view import with_pixel_sets

_FAR = 0.25


@dataclass(frozen=True)
class PredictReport:
    """What was predicted.

    Arguments:
        output: the file written.
        run_id: the run that predicted.
        parcels, predicted: features written, and those of them with a series.
        crops: crop name → parcels.
        flags: flag → parcels.
        prefix: of the columns added.
        shares: crop name → class share assumed instead of the training's; empty where that was kept. Crops of one name
            are added up, here and in `crops`.
        changed: parcels whose crop the neighbours change; None where nothing was smoothed.
    """

    output: Path
    run_id: str
    parcels: int
    predicted: int
    crops: dict[str, int]
    flags: dict[str, int]
    prefix: str
    shares: dict[str, float]
    changed: int | None = None


def predict(
    run: Path,
    parcels: Path | None,
    store: Path,
    output: Path,
    options: PredictOptions | None = None,
    report: Reporter | None = None,
) -> PredictReport:
    """Write the crop of every parcel as GeoPackage or GeoParquet, in the order and with the columns of the input.

    Memory does not grow with the number of parcels, except for 16 bytes per row of the store, and about 100
    bytes per parcel where the predictions are smoothed.

    Arguments:
        run: folder of a finished training.
        parcels: a layer of any vector format; None takes the geometry kept in the store.
        store: series of the parcels.
        output: `.gpkg`, or `.parquet`.

    Raises:
        OutputExistsError: `output` exists and overwriting was not asked for.
        UsageError: the format of `output` is unknown, or the year of the parcels is, or `output` is the input.
        DataError: an input cannot be used, or no parcel has a series.
        CropgenError: the output cannot be written; nothing is left behind.
    """
    options, report = options or PredictOptions(), report or Silent()
    guard_output(output, overwrite=options.overwrite)
    refuse_input(parcels, output)
    if output.suffix.lower() not in (".gpkg", *PARQUET_SUFFIXES):
        raise UsageError(f"cannot write {output.suffix or 'a file without suffix'}: {output}",
                         hint="name the output .gpkg or .parquet")  # fmt: skip
    model, series = open_like(run, store, report, _season_end(options))
    judge, index = _judge(run, model, options, report), RowIndex(series, report)
    if options.prior is not None:
        with _opened(parcels, series, options) as stream:
            judge.shift = _prior_shift(
                model, options.prior, Job(series, stream, judge, options, parcels, index), report
            )
    smoothed = None
    if options.smoothing is not None:
        with _opened(parcels, series, options) as stream:
            job = Job(series, stream, judge, options, parcels, index)
            smoothed = smooth_stream(job, options.smoothing, output.parent, report)
    with _opened(parcels, series, options) as stream:
        if stream.crs is None:
            report.warn(f"{parcels or store} states no coordinate system; the output will not either")
        for remark in stream.remarks:
            report.warn(remark)
        job = Job(series, stream, judge, options, parcels, index)
        job.smoothed = smoothed
        with atomic_output(output) as part, report.task("predicting", stream.count) as task:
            job.write(part, _metadata(run, series, parcels, options, job.prefix), task)
            if not judge.tally.predicted:
                raise job.no_match()
    return _summed_up(judge, run, store, output, job, report)


def refuse_input(parcels: Path | None, output: Path) -> None:
    """Refuse to replace the parcels that are read, and other layers beside them.

    Raises:
        UsageError: `output` is the input.
    """
    if parcels is not None and parcels.resolve() == output.resolve():
        raise UsageError(f"{output} is the layer that is read", hint="choose another output with -o")


def _summed_up(judge: Judge, run: Path, store: Path, output: Path, job: Job, report: Reporter) -> PredictReport:
    tally = judge.tally
    flags = {name: tally.flags[name] for name in FLAGS if tally.flags[name]}
    if "no_series" in flags:
        report.warn(f"{flags['no_series']} of {tally.parcels} parcels have no series in {store} and no prediction")
    return PredictReport(
        output, RunFolder(run).run_id, tally.parcels, tally.predicted, dict(tally.crops), flags, job.prefix,
        _shares(judge), None if job.smoothed is None else job.smoothed.changed,
    )  # fmt: skip


def _opened(
    parcels: Path | None, series: SeriesStore, options: PredictOptions
) -> contextlib.AbstractContextManager[ParcelStream]:
    if parcels is not None:
        return open_parcels(parcels, options.layer)
    return open_store(series, () if options.year is None else (options.year,))


def parcel_rows(
    run: Path, parcels: Path | None, store: Path, options: PredictOptions, report: Reporter | None = None
) -> tuple[SeriesStore, np.ndarray]:
    """The store as the run reads it, and the rows of it that a prediction of these parcels would use.

    Arguments and errors as for `predict`.
    """
    report = report or Silent()
    model, series = open_like(run, store, report, _season_end(options))
    with _opened(parcels, series, options) as stream:
        job = Job(series, stream, _judge(run, model, options, report), options, parcels, RowIndex(series, report))
        return series, job.rows()


def open_like(
    run: Path, store: Path, report: Reporter, until: SeasonEnd | None = None
) -> tuple[Classifier, SeriesStore]:
    """A model, and a store as its run read its own: standardised where that was, with pixel sets where it had them.

    Arguments:
        until: the last day whose observations are looked at to standardise; the rows are not cut. None: all are.
    """
    model, common = load_model(run), load_spread(run, SeriesStore.open(store).bands)
    series = open_series(store, "none" if common is None else "region-year", common, report, until)
    _check_bands(model, series)
    return model, with_pixel_sets(series, model.spec.pixel_bands) if model.spec.pixel_bands else series


def _season_end(options: PredictOptions) -> SeasonEnd | None:
    return None if options.until is None else SeasonEnd.parse(options.until)


def _check_bands(model: Classifier, series: SeriesStore) -> None:
    missing = [band for band in model.spec.bands if band not in series.bands]
    if missing:
        raise SchemaError(
            f"{series.path} has no band {', '.join(missing)}, which the model was trained on; "
            f"it has {', '.join(series.bands)}",
            hint="give the series of the same bands with --data, or train on this series",
        )


def _judge(run: Path, model: Classifier, options: PredictOptions, report: Reporter) -> Judge:
    typicality = load_typicality(run)
    if typicality is None and hasattr(model, "log_likelihood"):
        report.info(f"{run.name} has no reference of likelihoods: parcels are not checked for unusual seasons")
    until = _season_end(options)
    if until is not None:
        typicality = None
    if options.anomaly_level is not None:
        _check_level(model, options.anomaly_level)
    level = options.anomaly_level
    return Judge(model, typicality, options.thresholds, RunFolder(run).run_id, until, anomaly_level=level)


def _check_level(model: Classifier, level: int) -> None:
    most = levelled(model).levels
    if not 0 <= level <= most:
        raise UsageError(
            f"--anomaly-level: expected 0 to {most}, the levels of this run's model, got {level}",
            hint="1 leaves out the finest details, 0 nothing",
        )


def _prior_shift(model: Classifier, prior: str | Path, job: Job, report: Reporter) -> PriorShift:
    """The class shares to reweigh for, estimated in a pass of its own where they are asked for as `em`."""
    trained = class_prior(model)
    if prior == "uniform":
        return PriorShift(trained, uniform_prior(len(trained)))
    if prior != "em":
        return PriorShift(trained, read_prior(Path(prior), model.spec.legend))
    with report.task("estimating class shares", job.count) as task:
        shift = PriorShift(trained, estimate_streaming(job.posteriors(task), trained))
    if shift.distance > _FAR:
        report.warn(
            f"the estimated class shares differ by {shift.distance:.0%} from the training's: believe them only if the "
            f"crops' shares have changed and not the season itself; without --prior em nothing is reweighed"
        )
    return shift


def _shares(judge: Judge) -> dict[str, float]:
    if judge.shift is None:
        return {}
    shares: Counter[str] = Counter()
    for name, share in zip(judge.legend.names, judge.shift.assumed.tolist(), strict=True):
        shares[name] += share
    return {name: round(share, 6) for name, share in shares.items()}


def _metadata(
    run: Path, series: SeriesStore, parcels: Path | None, options: PredictOptions, prefix: str
) -> dict[str, str]:
    description = json.loads((run / DESCRIPTION).read_text(encoding="utf-8"))
    limits, field = options.thresholds, options.smoothing
    asked = {} if field is None else {"CROPGEN_SMOOTHING": field.name}
    if options.anomaly_level is not None:
        asked["CROPGEN_ANOMALY_LEVEL"] = str(options.anomaly_level)
    return asked | {
        "CROPGEN_VERSION": cropgen.__version__, "CROPGEN_COLUMNS": str(COLUMNS_VERSION), "CROPGEN_PREFIX": prefix,
        "CROPGEN_RUN": run.name, "CROPGEN_MODEL": description["name"], "CROPGEN_WEIGHTS": description["sha256"],
        "CROPGEN_SERIES": series.fingerprint(), "CROPGEN_INPUT": "" if parcels is None else parcels.name,
        "CROPGEN_PRIOR": Path(options.prior or "training").name,
        "CROPGEN_UNTIL": options.until or "", "CROPGEN_MIN_PROBABILITY": f"{limits.probability:g}",
        "CROPGEN_MIN_DATES": str(limits.dates), "CROPGEN_MIN_TYPICALITY": f"{limits.typicality:g}",
    }  # fmt: skip
