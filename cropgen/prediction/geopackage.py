"""Predictions as a GeoPackage: one Arrow stream for the parcels, then the side tables.

    predictions            the parcels: every input column, then those of `columns.py`
    class_probabilities    one row per predicted parcel: its feature id, parcel id, year, and a column per class
    crop_legend            the classes: code, name, colour, and their column in class_probabilities
    layer_styles           the style QGIS opens the layer with

Equal predictions give equal bytes: GDAL writes `stamp` wherever it would write the time of day.
"""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import pyarrow as pa
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError
from pyogrio.raw import write_arrow

from cropgen.core.errors import CropgenError, SchemaError
from cropgen.series.legend import Legend

LAYER = "predictions"
PROBABILITIES = "class_probabilities"
LEGEND = "crop_legend"
_DATE = "OGR_CURRENT_DATE"
_WRITE_ERRORS = (DataSourceError, DataLayerError, FeatureError, FieldError, GeometryError, sqlite3.Error, RuntimeError)


@dataclass(frozen=True)
class LayerForm:
    """How the layer of parcels is written.

    Arguments:
        schema: Arrow schema of the batches.
        fid: column of the feature id to keep; None numbers the features from 1.
        geometry: column of the geometry (WKB).
        geometry_type, crs: as OGR names them.
        metadata: CROPGEN_… items of the layer; items of the file would make GDAL write .aux.xml files on reading.
        stamp: date and time the file says it was made at, `YYYY-MM-DDThh:mm:ss.000Z`.
        layer: its name.
    """

    schema: pa.Schema
    fid: str | None
    geometry: str
    geometry_type: str
    crs: str | None
    metadata: dict[str, str]
    stamp: str
    layer: str = LAYER

    @property
    def fid_name(self) -> str:
        """Name of the feature id column in the file."""
        return self.fid or _free_name(("fid", "ogc_fid", "cropgen_fid"), self.schema.names)

    @property
    def geometry_name(self) -> str:
        """Name of the geometry column in the file."""
        others = [name for name in self.schema.names if name != self.geometry]
        return _free_name(("geom", "geometry", "cropgen_geom"), others)


def _free_name(candidates: tuple[str, ...], taken: list[str]) -> str:
    folded = {name.casefold() for name in taken}
    return next((name for name in candidates if name not in folded), f"{candidates[0]}_{len(taken)}")


def _refuse_alike(names: list[str]) -> None:
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(name.casefold(), name)
        if other is not name:
            raise SchemaError(
                f"columns {other} and {name} of the parcels differ only in case, which a GeoPackage cannot hold",
                hint="rename one of them, or name the output .parquet",
            )


def _exact_schema(schema: pa.Schema) -> pa.Schema:
    """The schema with whole numbers that GDAL would round to floating point as integers."""
    whole = [pa.types.is_uint64(f.type) or (pa.types.is_decimal(f.type) and f.type.scale <= 0) for f in schema]
    return pa.schema([f.with_type(pa.int64()) if rounded else f for f, rounded in zip(schema, whole, strict=True)])


def _exact_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns: list[pa.Array] = []
    for column, field in zip(batch.columns, schema, strict=True):
        try:
            columns.append(column if column.type == field.type else column.cast(field.type))
        except pa.ArrowInvalid as error:
            raise SchemaError(
                f"column {field.name} of the parcels holds whole numbers beyond 64 bits, which no GeoPackage can hold",
                hint="name the output .parquet, or make the column text",
            ) from error
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class GeoPackageWriter:
    """Writes one GeoPackage at a path where nothing is yet."""

    def __init__(self, path: Path, form: LayerForm) -> None:
        self._path = path
        self._form = form

    def write_layer(self, batches: Iterator[pa.RecordBatch]) -> None:
        """Stream the parcels in; memory does not grow with their number.

        Raises:
            SchemaError: columns differ only in case, or hold what no GeoPackage can.
            CropgenError: the file cannot be written, for example because the disk is full.
        """
        form = self._form
        _refuse_alike(form.schema.names)
        schema = _exact_schema(form.schema)
        batches = batches if schema == form.schema else (_exact_batch(batch, schema) for batch in batches)
        options = {"FID": form.fid_name, "GEOMETRY_NAME": form.geometry_name}
        self._write(schema, batches, form.layer, geometry_name=form.geometry, geometry_type=form.geometry_type,
                    crs=form.crs, layer_options=options, layer_metadata=form.metadata)  # fmt: skip

    def write_table(self, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        """Add a table without geometry."""
        self._write(schema, batches, name, append=True, layer_options={"FID": "id"})

    def write_legend(self, legend: Legend, columns: tuple[str, ...]) -> None:
        """Add the table of classes."""
        content = {
            "position": pa.array(range(len(legend)), pa.int32()), "code": list(legend.codes),
            "name": list(legend.names), "colour": list(legend.colours), "probability_column": list(columns),
        }  # fmt: skip
        table = pa.table(content)
        self.write_table(LEGEND, table.schema, iter(table.to_batches()))

    def write_style(self, name: str, qml: str, description: str = "crops, coloured as in the legend") -> None:
        """Add the default style of the layer."""
        with _as_write_error(self._path), contextlib.closing(sqlite3.connect(self._path)) as base, base:
            base.execute(_STYLES)
            base.execute(
                "INSERT INTO layer_styles (f_table_catalog, f_table_schema, f_table_name, f_geometry_column, styleName,"
                " styleQML, styleSLD, useAsDefault, description, owner, ui, update_time)"
                " VALUES ('', '', ?, ?, ?, ?, '', 1, ?, '', NULL, ?)",
                (self._form.layer, self._form.geometry_name, name[:30], qml, description, self._form.stamp),
            )
            base.execute(
                "INSERT INTO gpkg_contents (table_name, data_type, identifier, description, last_change, srs_id)"
                " VALUES ('layer_styles', 'attributes', 'layer_styles', '', ?, 0)",
                (self._form.stamp,),
            )

    def _write(self, schema: pa.Schema, batches: Iterator[pa.RecordBatch], layer: str, **options: Any) -> None:
        kept = _Kept(batches)
        reader = pa.RecordBatchReader.from_batches(schema, kept.stream())
        with _as_write_error(self._path, kept), _dated(self._form.stamp), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            write_arrow(reader, self._path, layer=layer, driver="GPKG", **options)


class _Kept:
    """Passes batches on and keeps the error that ended them: GDAL would report it as one of its own."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self.error: BaseException | None = None

    def stream(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._batches
        except GeneratorExit:
            raise
        except BaseException as error:
            self.error = error
            raise


@contextlib.contextmanager
def _noticed_interrupt() -> Iterator[list[int]]:
    """Remember Ctrl-C: where it strikes inside Arrow or GDAL they report it as an error of their own."""
    noticed: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield noticed
        return

    def remember(number: int, frame: FrameType | None) -> None:
        noticed.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, remember)
    try:
        yield noticed
    finally:
        signal.signal(signal.SIGINT, before)


@contextlib.contextmanager
def _as_write_error(path: Path, kept: _Kept | None = None) -> Iterator[None]:
    noticed: list[int] = []
    try:
        with _noticed_interrupt() as noticed:
            yield
    except _WRITE_ERRORS as error:
        if noticed:
            raise KeyboardInterrupt from None
        if kept is not None and kept.error is not None:
            raise kept.error from None
        reason = " ".join(str(error).split())
        raise CropgenError(
            f"cannot write {path.name}: {reason}", hint="free space or choose another folder; nothing was changed"
        ) from error
    if noticed:
        raise KeyboardInterrupt
    if kept is not None and kept.error is not None:
        raise kept.error


@contextlib.contextmanager
def _dated(stamp: str) -> Iterator[None]:
    before = pyogrio.get_gdal_config_option(_DATE)
    pyogrio.set_gdal_config_options({_DATE: stamp})
    try:
        yield
    finally:
        pyogrio.set_gdal_config_options({_DATE: before})


_STYLES = """CREATE TABLE layer_styles (
 id INTEGER PRIMARY KEY AUTOINCREMENT NOT NULL,
 f_table_catalog TEXT(256), f_table_schema TEXT(256), f_table_name TEXT(256), f_geometry_column TEXT(256),
 styleName TEXT(30), styleQML TEXT, styleSLD TEXT, useAsDefault BOOLEAN, description TEXT, owner TEXT(30), ui TEXT(30),
 update_time DATETIME
)"""
