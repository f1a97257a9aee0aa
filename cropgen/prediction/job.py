"""One prediction in progress: the parcels of a stream, found in the store, classified and written."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd
import pyarrow as pa

from cropgen.core.errors import DataError, UsageError
from cropgen.core.progress import Task
from cropgen.prediction.columns import class_names, prediction_fields, prefix_for
from cropgen.prediction.geopackage import PROBABILITIES, GeoPackageWriter, LayerForm
from cropgen.prediction.geoparquet import write_geoparquet
from cropgen.prediction.infer import Answer
from cropgen.prediction.join import RowIndex, confirmed
from cropgen.prediction.judge import Judge
from cropgen.prediction.options import PredictOptions
from cropgen.prediction.smoothing import Evidence, Locator, Smoothed
from cropgen.prediction.stream import PARQUET_SUFFIXES, ParcelStream
from cropgen.prediction.style import categorised_qml
from cropgen.series.columns import as_years
from cropgen.series.parcel_columns import ParcelColumns, identity_columns, year_in_name
from cropgen.series.parcel_files import find_file
from cropgen.series.parcel_table import parcel_ids
from cropgen.series.store import SeriesStore

_LEAST_PROBABILITY = 1e-12
_CHUNK = 1 << 17


class Job:
    """One prediction in progress."""

    def __init__(
        self, series: SeriesStore, stream: ParcelStream, judge: Judge, options: PredictOptions, parcels: Path | None,
        index: RowIndex,
    ) -> None:  # fmt: skip
        self._series, self._stream, self._judge, self._index = series, stream, judge, index
        self._where = str(parcels or series.path)
        names = stream.attributes
        named = ParcelColumns.model_validate({"id": options.id_column, "year": options.year})
        self._id, self._year_column = identity_columns(names, named, where=self._where)
        self._rows_of = "" if self._id or parcels is None else _rows_of(series, parcels.stem)
        years = np.unique(series.column("year"))
        self._year = _one_year(options, self._year_column, parcels, years)
        self._stamp = f"{years.max(initial=1970)}-12-31T00:00:00.000Z"
        self.prefix = prefix_for(stream.schema.names, class_names(judge.legend))
        self.smoothed: Smoothed | None = None
        self._first_ids: list[str] = []
        self._seen = 0

    def write(self, path: Path, metadata: dict[str, str], task: Task) -> None:
        """Write the output at a path where nothing is."""
        stream, legend = self._stream, self._judge.legend
        asked = self._judge.anomaly_level is not None
        fields = prediction_fields(self.prefix, smoothed=self.smoothed is not None, anomaly=asked)
        schema = pa.schema([*stream.schema, *fields])
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

    @property
    def classes(self) -> int:
        """Classes that can be predicted."""
        return len(self._judge.legend)

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

    def evidence(self) -> Iterator[Evidence]:
        """Log-probabilities (M, K), places (M, 4) and which parcels (M,) have a series, batch by batch; without
        a series there is no place."""
        locate = Locator(self._stream.crs, self._where)
        for batch in self._stream.batches:
            ids, year = self._identity(batch)
            answer, row = self._answer(ids, year)
            self._first_ids = self._first_ids or ids[:3].tolist()
            self._seen += batch.num_rows
            known = row >= 0
            log_posterior = np.full((batch.num_rows, self.classes), -np.log(self.classes))
            log_posterior[known] = np.log(np.maximum(answer.probability[row[known]], _LEAST_PROBABILITY))
            place = locate(batch.column(self._stream.geometry), year)
            yield log_posterior, np.where(known[:, None], place, np.nan), known

    def no_match(self) -> DataError:
        """Says that the input and the store share no parcel."""
        known = self._series.column("parcel_id", slice(0, 3))
        year = self._year_column or self._year
        return DataError(
            f"no parcel of {self._where} has a series in {self._series.path}: looked for {', '.join(self._first_ids)} "
            f"(column {'+'.join(self._id) or 'none: row numbers'}, year {year}), the store has {', '.join(known)}",
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
            columns = [*batch.columns, *self._judge.columns(answer, place), *self._judge.anomaly(answer, place)]
            if self.smoothed is not None:
                columns += self.smoothed.columns(slice(self._seen, self._seen + batch.num_rows), self._judge.legend)
            self._first_ids = self._first_ids or ids[:3].tolist()
            self._seen += batch.num_rows
            yield columns, answer, place, (fid, ids.astype(object), year)
            task.advance(batch.num_rows)

    def _identity(self, batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray]:
        count = batch.num_rows
        exact = {name: batch.column(name).to_pandas(integer_object_nulls=True) for name in self._id}
        parts = pd.DataFrame(exact, index=range(count))
        ids = parcel_ids(parts, self._id, rows_of=self._rows_of, first=self._seen).astype(np.str_)
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
        named = replace(series, pixel_sets=None).take(place[found])
        place[found] = np.where(confirmed(named, ids[found], year[found]), place[found], -1)
        return self._judge.classify(series), place


def _rows_of(series: SeriesStore, stem: str) -> str:
    """What stands before the row numbers of a layer in a store: its name where the store was made of several layers."""
    named = (np.char.startswith(series.column("parcel_id", rows), f"{stem}:").any() for rows in series.chunks(_CHUNK))
    return stem if any(named) else ""


def _one_year(options: PredictOptions, column: str | None, parcels: Path | None, years: np.ndarray) -> int | None:
    """The year of all parcels; None where a column tells it.

    Raises:
        UsageError: it is not known, or not one of the series.
    """
    if options.year is not None or column is not None:
        return options.year
    stems = () if parcels is None else (parcels.stem, PurePosixPath(find_file(parcels, options.layer).member).stem)
    named = next((year for stem in stems if (year := year_in_name(stem, where=str(parcels))) is not None), None)
    if named in years:
        return named
    if named is not None:
        raise UsageError(
            f"{parcels}: its name states the year {named}, the series has {', '.join(map(str, years)) or 'none'}",
            hint="give the series of that year with --data, or say with --year which year the parcels are of",
        )
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
