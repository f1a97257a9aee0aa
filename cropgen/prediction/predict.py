"""Parcels, a run and a series store in; a map of crops out."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

import cropgen
from cropgen.core.errors import DataError, SchemaError, UsageError
from cropgen.core.files import atomic_output, guard_output
from cropgen.core.progress import Reporter, Silent, Task
from cropgen.core.run import RunFolder
from cropgen.models.base import Classifier
from cropgen.models.checkpoint import DESCRIPTION, load_model
from cropgen.prediction.columns import COLUMNS_VERSION, FLAGS, class_names, prediction_fields, prefix_for
from cropgen.prediction.geopackage import PROBABILITIES, GeoPackageWriter, LayerForm
from cropgen.prediction.geoparquet import write_geoparquet
from cropgen.prediction.infer import Answer
from cropgen.prediction.join import RowIndex, confirmed
from cropgen.prediction.judge import Judge, SeasonEnd, Thresholds
from cropgen.prediction.novelty import load_typicality
from cropgen.prediction.prior_shift import PriorShift, class_prior, estimate_streaming, read_prior, uniform_prior
from cropgen.prediction.stream import PARQUET_SUFFIXES, ParcelStream, open_parcels, open_store
from cropgen.prediction.style import categorised_qml
from cropgen.series.columns import as_text, as_years, find_column
from cropgen.series.store import SeriesStore
from cropgen.series.transforms import load_spread, open_series

_FAR = 0.25


@dataclass(frozen=True)
class PredictOptions:
    """How to predict.

    Arguments:
        year: year of the parcels; None: their year column, else the year in the file name, else the store's only one.
        id_column: column of the parcel id; None recognises it by its usual names, else counts rows from 0.
        layer: layer of the input, where it holds several.
        until: `MM-DD`; later observations are not used.
        prior: class shares the probabilities are reweighed for: `em` estimates them from the parcels, which are then
            classified twice; `uniform`; or a csv file of shares. None keeps those of the training.
        thresholds: when parcels are flagged.
        overwrite: replace an output that exists.
    """

    year: int | None = None
    id_column: str | None = None
    layer: str | None = None
    until: str | None = None
    prior: str | Path | None = None
    thresholds: Thresholds = field(default_factory=Thresholds)
    overwrite: bool = False


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
        shares: crop name → class share assumed instead of the training's; empty where that was kept.
    """

    output: Path
    run_id: str
    parcels: int
    predicted: int
    crops: dict[str, int]
    flags: dict[str, int]
    prefix: str
    shares: dict[str, float]


def predict(
    run: Path,
    parcels: Path | None,
    store: Path,
    output: Path,
    options: PredictOptions | None = None,
    report: Reporter | None = None,
) -> PredictReport:
    """Write the crop of every parcel as GeoPackage or GeoParquet, in the order and with the columns of the input.

    Memory does not grow with the number of parcels, except for 16 bytes per row of the store.

    Arguments:
        run: folder of a finished training.
        parcels: a layer of any vector format; None takes the geometry kept in the store.
        store: series of the parcels.
        output: `.gpkg`, or `.parquet`.

    Raises:
        OutputExistsError: `output` exists and overwriting was not asked for.
        UsageError: the format of `output` is unknown, or the year of the parcels is.
        DataError: an input cannot be used, or no parcel has a series.
        CropgenError: the output cannot be written; nothing is left behind.
    """
    options, report = options or PredictOptions(), report or Silent()
    guard_output(output, overwrite=options.overwrite)
    if output.suffix.lower() not in (".gpkg", *PARQUET_SUFFIXES):
        raise UsageError(f"cannot write {output.suffix or 'a file without suffix'}: {output}",
                         hint="name the output .gpkg or .parquet")  # fmt: skip
    model, series = load_model(run), open_like(run, store, report)
    _check_bands(model, series)
    judge, index = _judge(run, model, options, report), RowIndex(series, report)
    if options.prior is not None:
        with _opened(parcels, series, options) as stream:
            judge.shift = _prior_shift(
                model, options.prior, _Job(series, stream, judge, options, parcels, index), report
            )
    with _opened(parcels, series, options) as stream:
        if stream.crs is None:
            report.warn(f"{parcels or store} states no coordinate system; the output will not either")
        job = _Job(series, stream, judge, options, parcels, index)
        with atomic_output(output) as part, report.task("predicting", stream.count) as task:
            job.write(part, _metadata(run, series, parcels, options, job.prefix), task)
            if not judge.tally.predicted:
                raise job.no_match()
    tally = judge.tally
    flags = {name: tally.flags[name] for name in FLAGS if tally.flags[name]}
    if "no_series" in flags:
        report.warn(f"{flags['no_series']} of {tally.parcels} parcels have no series in {store} and no prediction")
    return PredictReport(
        output, RunFolder(run).run_id, tally.parcels, tally.predicted, dict(tally.crops), flags, job.prefix,
        _shares(judge),
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
    model, series = load_model(run), open_like(run, store, report)
    _check_bands(model, series)
    with _opened(parcels, series, options) as stream:
        job = _Job(series, stream, _judge(run, model, options, report), options, parcels, RowIndex(series, report))
        return series, job.rows()


def open_like(run: Path, store: Path, report: Reporter) -> SeriesStore:
    """A store read as the run read its own: standardised where that was."""
    common = load_spread(run, SeriesStore.open(store).bands)
    return open_series(store, "none" if common is None else "region-year", common, report)


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
    until = None if options.until is None else SeasonEnd.parse(options.until)
    if until is not None:
        typicality = None
    return Judge(model, typicality, options.thresholds, RunFolder(run).run_id, until)


def _prior_shift(model: Classifier, prior: str | Path, job: _Job, report: Reporter) -> PriorShift:
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
    return dict(zip(judge.legend.names, judge.shift.assumed.round(6).tolist(), strict=True))


def _metadata(
    run: Path, series: SeriesStore, parcels: Path | None, options: PredictOptions, prefix: str
) -> dict[str, str]:
    description = json.loads((run / DESCRIPTION).read_text(encoding="utf-8"))
    limits = options.thresholds
    return {
        "CROPGEN_VERSION": cropgen.__version__, "CROPGEN_COLUMNS": str(COLUMNS_VERSION), "CROPGEN_PREFIX": prefix,
        "CROPGEN_RUN": run.name, "CROPGEN_MODEL": description["name"], "CROPGEN_WEIGHTS": description["sha256"],
        "CROPGEN_SERIES": series.fingerprint(), "CROPGEN_INPUT": "" if parcels is None else parcels.name,
        "CROPGEN_PRIOR": Path(options.prior or "training").name,
        "CROPGEN_UNTIL": options.until or "", "CROPGEN_MIN_PROBABILITY": f"{limits.probability:g}",
        "CROPGEN_MIN_DATES": str(limits.dates), "CROPGEN_MIN_TYPICALITY": f"{limits.typicality:g}",
    }  # fmt: skip


class _Job:
    """One prediction in progress."""

    def __init__(
        self, series: SeriesStore, stream: ParcelStream, judge: Judge, options: PredictOptions, parcels: Path | None,
        index: RowIndex,
    ) -> None:  # fmt: skip
        self._series, self._stream, self._judge, self._index = series, stream, judge, index
        self._where = str(parcels or series.path)
        names = stream.attributes
        self._id = find_column(names, "id", options.id_column, where=self._where)
        self._year_column = None if options.year else find_column(names, "year", None, where=self._where)
        years = np.unique(series.column("year"))
        self._year = _one_year(options, self._year_column, parcels, years)
        self._stamp = f"{years.max(initial=1970)}-12-31T00:00:00.000Z"
        self.prefix = prefix_for(stream.schema.names)
        self._first_ids: list[str] = []
        self._seen = 0

    def write(self, path: Path, metadata: dict[str, str], task: Task) -> None:
        """Write the output at a path where nothing is."""
        stream, legend = self._stream, self._judge.legend
        schema = pa.schema([*stream.schema, *prediction_fields(self.prefix)])
        if path.suffix.lower() in PARQUET_SUFFIXES:
            schema = pa.schema([*schema, *(pa.field(self.prefix + n, pa.float64()) for n in class_names(legend))])
            batches = (_batch([*c, *_probability_columns(a, p)], schema) for c, a, p, _ in self._predicted(task))
            write_geoparquet(path, schema, batches, geometry=stream.geometry, crs=stream.crs, metadata=metadata)
            return
        form = LayerForm(schema, stream.fid, stream.geometry, stream.geometry_type, stream.crs, metadata, self._stamp)
        writer = GeoPackageWriter(path, form)
        side = _side_schema(class_names(legend))
        spool = path.with_name(f"{path.name}-{PROBABILITIES}.arrow")
        with pa.OSFile(str(spool), "wb") as sink, pa.ipc.new_stream(sink, side) as spooled:
            writer.write_layer(self._spooling(task, schema, side, spooled))
        with pa.memory_map(str(spool)) as source, pa.ipc.open_stream(source) as probabilities:
            writer.write_table(PROBABILITIES, side, iter(probabilities))
        writer.write_legend(legend, class_names(legend))
        writer.write_style(f"crops {metadata['CROPGEN_RUN']}", self._qml())

    @property
    def count(self) -> int | None:
        """Parcels, where the layer says."""
        return self._stream.count

    def rows(self) -> np.ndarray:
        """Rows of the store that belong to the parcels, ascending."""
        found = [np.zeros(0, np.int64)]
        for batch in self._stream.batches:
            ids, year = self._identity(batch)
            row = self._index.find(ids, year)
            found.append(row[row >= 0])
            self._first_ids = self._first_ids or ids[:3].tolist()
            self._seen += batch.num_rows
        rows = np.unique(np.concatenate(found))
        if not len(rows):
            raise self.no_match()
        return rows

    def posteriors(self, task: Task) -> Iterator[np.ndarray]:
        """Class probabilities of the parcels with a clear date, batch by batch."""
        found = 0
        for batch in self._stream.batches:
            ids, year = self._identity(batch)
            answer, place = self._answer(ids, year)
            self._first_ids = self._first_ids or ids[:3].tolist()
            self._seen += batch.num_rows
            known = place[place >= 0]
            found += len(known)
            yield answer.probability[known[answer.clear_dates[known] > 0]]
            task.advance(batch.num_rows)
        if not found:
            raise self.no_match()

    def no_match(self) -> DataError:
        """Says that the input and the store share no parcel."""
        known = self._series.column("parcel_id", slice(0, 3))
        year = self._year_column or self._year
        return DataError(
            f"no parcel of {self._where} has a series in {self._series.path}: looked for {', '.join(self._first_ids)} "
            f"(column {self._id or 'none: row numbers'}, year {year}), the store has {', '.join(known)}",
            hint="name the id column with --id-column, the year with --year, or aggregate the series of these parcels",
        )

    def _qml(self) -> str:
        return categorised_qml(self._judge.legend, f"{self.prefix}crop_code", self._stream.geometry_type)

    def _spooling(
        self, task: Task, schema: pa.Schema, side: pa.Schema, spooled: pa.RecordBatchStreamWriter
    ) -> Iterator[pa.RecordBatch]:
        for columns, answer, place, keys in self._predicted(task):
            known = np.flatnonzero(place >= 0)
            content = [*(pa.array(k[known]) for k in keys), *answer.probability[place[known]].T]
            spooled.write_batch(_batch([pa.array(c) for c in content], side))
            yield _batch(columns, schema)

    def _predicted(self, task: Task) -> Iterator[tuple[list[pa.Array], Answer, np.ndarray, tuple[np.ndarray, ...]]]:
        """Input and prediction columns of each batch, the answer, its row per parcel, and fid, id and year."""
        for batch in self._stream.batches:
            ids, year = self._identity(batch)
            answer, place = self._answer(ids, year)
            fid = self._feature_ids(batch)
            self._first_ids = self._first_ids or ids[:3].tolist()
            self._seen += batch.num_rows
            yield [*batch.columns, *self._judge.columns(answer, place)], answer, place, (fid, ids.astype(object), year)
            task.advance(batch.num_rows)

    def _identity(self, batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
        count = batch.num_rows
        if self._id is None:
            ids = np.arange(self._seen, self._seen + count).astype(np.str_)
        else:
            ids = as_text(batch.column(self._id).to_pandas())
        if self._year_column is None:
            return ids, np.full(count, self._year, np.int16)
        years = batch.column(self._year_column).to_pandas().rename(self._year_column)
        return ids, as_years(years, where=self._where)

    def _feature_ids(self, batch: pa.RecordBatch) -> np.ndarray:
        if self._stream.fid is not None:
            return batch.column(self._stream.fid).to_numpy(zero_copy_only=False).astype(np.int64)
        return np.arange(self._seen + 1, self._seen + 1 + batch.num_rows, dtype=np.int64)

    def _answer(self, ids: np.ndarray, year: np.ndarray) -> tuple[Answer, np.ndarray]:
        """The model's answer about the rows of these parcels, and for each parcel its row in the answer or −1."""
        row = self._index.find(ids, year)
        wanted = np.unique(row[row >= 0])
        series = self._series.read(wanted)
        place = np.where(row >= 0, np.searchsorted(wanted, row), -1)
        found = place >= 0
        place[found] = np.where(confirmed(series.take(place[found]), ids[found], year[found]), place[found], -1)
        return self._judge.classify(series), place


def _one_year(options: PredictOptions, column: str | None, parcels: Path | None, years: np.ndarray) -> int | None:
    """The year of all parcels; None where a column tells it."""
    if options.year is not None or column is not None:
        return options.year
    named = re.findall(r"(?<!\d)(19\d\d|20\d\d)(?!\d)", parcels.stem if parcels is not None else "")
    if named and int(named[-1]) in years:
        return int(named[-1])
    if len(years) == 1:
        return int(years[0])
    raise UsageError(
        f"the year of the parcels is not known; the series has {', '.join(map(str, years)) or 'none'}",
        hint="give it with --year",
    )


def _side_schema(names: tuple[str, ...]) -> pa.Schema:
    head = [pa.field("fid", pa.int64()), pa.field("parcel_id", pa.string()), pa.field("year", pa.int16())]
    return pa.schema([*head, *(pa.field(name, pa.float64()) for name in names)])


def _probability_columns(answer: Answer, place: np.ndarray) -> list[pa.Array]:
    if not len(answer.probability):
        return [pa.nulls(len(place), pa.float64()) for _ in range(answer.probability.shape[1])]
    return [pa.array(column[np.maximum(place, 0)], mask=place < 0) for column in answer.probability.T]


def _batch(columns: list[pa.Array], schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(columns, schema=schema)
