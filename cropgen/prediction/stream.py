"""Parcels in, as a stream of Arrow batches: columns, geometry and feature ids exactly as the file holds them."""

from __future__ import annotations

import contextlib
import json
import re
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pyproj
from pyogrio.errors import DataLayerError, DataSourceError
from pyogrio.raw import open_arrow, read

from cropgen.core.errors import CorruptInputError, DataError, SchemaError
from cropgen.prediction.decoding import decoding_of
from cropgen.series.parcel_columns import is_register
from cropgen.series.parcel_files import FileLayer, ParcelFile, find_file, find_layer, parquet_source, readable
from cropgen.series.store import SeriesStore

BATCH_FEATURES = 8192
_SAMPLE = 200
_ZONE = re.compile(r"(Z|[+-]\d\d:?\d\d)$")
PARQUET_SUFFIXES = (".parquet", ".geoparquet", ".pq")
_WITH_FID = ("GPKG", "SQLite", "OpenFileGDB")
_WKB_TYPES = ("Unknown", "Point", "LineString", "Polygon", "MultiPoint", "MultiLineString", "MultiPolygon",
              "GeometryCollection")  # fmt: skip


@dataclass(frozen=True)
class ParcelStream:
    """An open layer of parcels.

    Arguments:
        schema: Arrow schema of the batches, with the geometry, and the feature id where it is kept.
        fid: column of the feature id, kept on output; None where the format has none worth keeping.
        geometry: column of the geometry (WKB).
        geometry_type: its type as OGR names it.
        crs: WKT or authority code; None where the file states none.
        count: features; None where the format does not say.
        batches: the features in file order.
        remarks: one line on text that was put right.
    """

    schema: pa.Schema
    fid: str | None
    geometry: str
    geometry_type: str
    crs: str | None
    count: int | None
    batches: Iterator[pa.RecordBatch]
    remarks: tuple[str, ...] = ()

    @property
    def attributes(self) -> list[str]:
        """Names of the columns that are neither feature id nor geometry, in order."""
        return [name for name in self.schema.names if name not in (self.fid, self.geometry)]


@contextlib.contextmanager
def open_parcels(path: Path, layer: str | None = None) -> Iterator[ParcelStream]:
    """Open a parcel layer of any OGR format or GeoParquet, in a zip or not.

    Arguments:
        layer: needed where a file holds several layers with geometry, none or several of which are those of a register.

    Raises:
        MissingInputError: there is no such file.
        CorruptInputError: it cannot be read.
        SchemaError: it holds no geometry or several layers.
        DataError: the layer is empty.
    """
    found = find_layer(find_file(path, layer), layer, is_register)
    try:
        with _open_parquet(found.file) if found.file.is_parquet else _open_ogr(found) as stream:
            if stream.count == 0:
                raise DataError(f"{path} holds no parcel: the layer is empty", hint="check the export")
            yield replace(stream, batches=_counted(stream, path))
    except (DataSourceError, DataLayerError, pa.ArrowInvalid) as error:
        raise _unreadable(path, str(error)) from error


def _counted(stream: ParcelStream, path: Path) -> Iterator[pa.RecordBatch]:
    """The batches of a stream; an error while reading, or fewer features than announced, is the input's fault."""
    seen = 0
    try:
        for batch in stream.batches:
            seen += batch.num_rows
            yield batch
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(path, str(error)) from error
    if stream.count is not None and seen != stream.count:
        raise _unreadable(path, f"expected {stream.count} features, got {seen}")


def _unreadable(path: Path, reason: str) -> CorruptInputError:
    return CorruptInputError(
        f"cannot read parcels from {path}: {reason.splitlines()[0] if reason else 'it is damaged'}",
        hint="check that the file is whole and a vector format such as GeoPackage, Shapefile or GeoParquet",
    )


@contextlib.contextmanager
def _open_ogr(layer: FileLayer) -> Iterator[ParcelStream]:
    address, options = layer.file.address, {"layer": layer.name, **layer.file.options}
    info = pyogrio.read_info(address, **options)
    keeps_fid = info["driver"] in _WITH_FID and bool(info["fid_column"])
    with readable(layer.file.path):
        text = decoding_of(layer, info)
    shape = {"batch_size": BATCH_FEATURES, "use_pyarrow": True, "return_fids": keeps_fid, "encoding": text.encoding}
    with warnings.catch_warnings(), open_arrow(address, **shape, **options) as opened:
        warnings.filterwarnings("ignore", message="Non-conformant content")
        meta, reader = opened
        geometry = meta["geometry_name"] or "wkb_geometry"
        schema = _plain_schema(reader.schema, _without_zone(address, options, reader.schema))
        yield ParcelStream(
            schema=schema,
            fid=meta["fid_column"] if keeps_fid else None,
            geometry=geometry,
            geometry_type=meta["geometry_type"] or "Unknown",
            crs=meta["crs"],
            count=layer.features if layer.features >= 0 else None,
            batches=(_plain_batch(text.applied(batch), schema) for batch in reader if batch.num_rows),
            remarks=text.remarks,
        )


@contextlib.contextmanager
def _open_parquet(parcels: ParcelFile) -> Iterator[ParcelStream]:
    with parquet_source(parcels) as source, pq.ParquetFile(source) as file:
        path, geo = parcels.path, json.loads(file.schema_arrow.metadata[b"geo"])
        geometry = geo["primary_column"]
        column = geo["columns"][geometry]
        if column["encoding"] != "WKB":
            raise SchemaError(f"{path}: expected geometry as WKB, got {column['encoding']}", hint="write it as WKB")
        covering = {part["bbox"]["xmin"][0] for c in geo["columns"].values() if (part := c.get("covering"))}
        names = [name for name in file.schema_arrow.names if name not in covering]
        schema = _plain_schema(pa.schema([file.schema_arrow.field(name) for name in names]))
        crs = column.get("crs", "OGC:CRS84")
        yield ParcelStream(
            schema=schema,
            fid=None,
            geometry=geometry,
            geometry_type=_common_type(column.get("geometry_types", [])),
            crs=None if crs is None else pyproj.CRS.from_user_input(crs).to_wkt(),
            count=file.metadata.num_rows,
            batches=(_plain_batch(b, schema) for b in file.iter_batches(BATCH_FEATURES, columns=names) if b.num_rows),
        )


@contextlib.contextmanager
def open_store(store: SeriesStore, years: tuple[int, ...]) -> Iterator[ParcelStream]:
    """The parcels of a series store with their own geometry, instead of a layer.

    Arguments:
        years: years to take; empty takes all.
    """
    geometry = store.geometry()
    if geometry is None:
        raise SchemaError(f"{store.path} holds no geometry", hint="give the parcels: cropgen predict PARCELS")
    if years:
        geometry = geometry[geometry["year"].isin(years)]
    if geometry.empty:
        raise DataError(f"{store.path} holds no parcel of {', '.join(map(str, years))}", hint="choose another --year")
    table = pa.table(
        {
            "parcel_id": pa.array(geometry["parcel_id"].astype(str).tolist(), pa.string()),
            "year": pa.array(geometry["year"].tolist(), pa.int16()),
            "geom": pa.array(geometry.geometry.to_wkb().tolist(), pa.binary()),
        }
    )
    yield ParcelStream(
        schema=table.schema,
        fid=None,
        geometry="geom",
        geometry_type=_common_type(geometry.geom_type.dropna().unique().tolist()),
        crs=None if geometry.crs is None else geometry.crs.to_wkt(),
        count=table.num_rows,
        batches=iter(table.to_batches(max_chunksize=BATCH_FEATURES)),
    )


def _without_zone(address: str, options: dict[str, Any], schema: pa.Schema) -> set[str]:
    """Columns of times that the file holds without a time zone, by their first values; Arrow calls them UTC."""
    times = [field.name for field in schema if pa.types.is_timestamp(field.type) and field.type.tz]
    if not times:
        return set()
    meta, _, _, values = read(
        address, columns=times, max_features=_SAMPLE, read_geometry=False, datetime_as_string=True, **options
    )
    found = dict(zip(meta["fields"].tolist(), values, strict=True))
    texts = {name: [value for value in found[name] if value] for name in times}
    return {name for name in times if texts[name] and not any(_ZONE.search(text) for text in texts[name])}


def _plain_schema(schema: pa.Schema, without_zone: Collection[str] = ()) -> pa.Schema:
    """The schema with categories unfolded, empty columns and views as text or bytes, and times as the file holds them;
    all else keeps type and metadata."""
    return pa.schema([field.with_type(_plain_type(field, without_zone)) for field in schema])


def _plain_type(field: pa.Field, without_zone: Collection[str]) -> pa.DataType:
    if pa.types.is_dictionary(field.type):
        return field.type.value_type
    if pa.types.is_null(field.type) or pa.types.is_string_view(field.type):
        return pa.string()
    if pa.types.is_binary_view(field.type):
        return pa.binary()
    return pa.timestamp(field.type.unit) if field.name in without_zone else field.type


def _plain_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns: list[Any] = [
        column if column.type == field.type else column.cast(field.type)
        for column, field in zip(batch.columns, schema, strict=True)
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _common_type(types: list[str]) -> str:
    """The one geometry type of a GeoParquet column, or `Unknown`."""
    return types[0] if len(types) == 1 and types[0].removesuffix(" Z") in _WKB_TYPES else "Unknown"
