"""Files of parcels as administrations publish them: opened in place, whatever they are packed in.

vector formats     everything OGR reads; GeoParquet; CSV with a column of well-known text
archives           a zip is read where it is, its one vector file at any depth; an archive inside an archive is refused
layers             tables without geometry and empty layers do not count; of several, one has to be named
curves, Z and M    arcs become line segments, heights and measures are left out when polygons are made
text               shapefiles often lie about their encoding or are silent; what was decoded by the wrong table is
                   decoded again and reported
INSPIRE            land use that GML keeps in attributes of an element becomes columns, e.g. specificLandUse_title
"""

from __future__ import annotations

import codecs
import io
import json
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError, FieldError
from pyogrio.raw import read_arrow

from cropgen.core.errors import CorruptInputError, DataError, SchemaError, UsageError
from cropgen.core.files import require_input

if TYPE_CHECKING:
    import pyarrow as pa

_PARQUET = frozenset({".parquet", ".geoparquet", ".pq"})
_VECTOR = _PARQUET | {
    ".gpkg", ".shp", ".gml", ".geojson", ".json", ".fgb", ".kml", ".gdb", ".tab", ".sqlite", ".csv", ".xml"
}  # fmt: skip
_ARCHIVES = frozenset({".zip", ".7z", ".rar", ".tar", ".gz", ".tgz"})
_OPEN_OPTIONS: dict[str, dict[str, str]] = {
    ".gml": {"GML_ATTRIBUTES_TO_OGR_FIELDS": "YES", "WRITE_GFS": "NO"},
    ".csv": {"GEOM_POSSIBLE_NAMES": "wkt,geometry,geom,the_geom,wkt_geom,shape", "KEEP_GEOM_COLUMNS": "NO"},
}
FALLBACK_ENCODING = "cp1252"
_EXACT_FLOAT = 2**53
_SEVERAL_HINT = "name one of them with --layer"
_WHOLE_HINT = "check that the file is whole and a vector format such as GeoPackage, Shapefile or GeoParquet"


@dataclass(frozen=True)
class ParcelFile:
    """One vector file, inside a zip or not.

    Arguments:
        path: as the user named it.
        address: what OGR opens.
        member: its name inside the zip; "" outside any.
    """

    path: Path
    address: str
    member: str = ""

    @property
    def suffix(self) -> str:
        """Of the vector file itself, in small letters."""
        return PurePosixPath(self.member or self.path.name).suffix.lower()

    @property
    def is_parquet(self) -> bool:
        return self.suffix in _PARQUET

    @property
    def options(self) -> dict[str, Any]:
        """Open options of its driver."""
        return _OPEN_OPTIONS.get(self.suffix, {})


@dataclass(frozen=True)
class FileLayer:
    """A layer with geometry, known by its metadata.

    Arguments:
        name: None in formats without layers.
        fields: attribute columns.
        features: −1 where the format does not say.
        beside: names of other layers that are not empty.
    """

    file: ParcelFile
    name: str | None
    fields: tuple[str, ...]
    features: int
    beside: tuple[str, ...] = ()

    @property
    def remarks(self) -> list[str]:
        """One line where another layer could have been meant."""
        others = ", ".join(self.beside)
        said = f"{self.file.path}: layer {self.name} is read; {others} could be meant too: choose with --layer"
        return [said] if others else []


def find_file(path: Path, member: str | None = None) -> ParcelFile:
    """The vector file at a path, or the one in a zip.

    Arguments:
        member: which file of a zip, by its name without folders and suffix, where it holds several.

    Raises:
        MissingInputError: nothing is at the path.
        CorruptInputError: the zip is damaged.
        SchemaError: the zip holds no vector file, several, or only another archive.
    """
    require_input(path, "parcel layer")
    if path.suffix.lower() != ".zip" or path.is_dir():
        return ParcelFile(path, str(path))
    with readable(path), zipfile.ZipFile(path) as archive:
        entries = archive.namelist()
    found = _vector_members(entries)
    if len(found) > 1:
        named = [m for m in found if PurePosixPath(m).stem == member]
        if len(named) != 1:
            raise SchemaError(
                f"{path} holds {len(found)} vector files: {', '.join(PurePosixPath(m).stem for m in found)}",
                hint=_SEVERAL_HINT,
            )
        found = named
    if not found:
        inner = [e for e in entries if PurePosixPath(e).suffix.lower() in _ARCHIVES]
        what = f"only another archive: {inner[0]}" if inner else "no vector file"
        raise SchemaError(f"{path} holds {what}", hint="unpack it first" if inner else "give a layer of polygons")
    return ParcelFile(path, f"/vsizip/{path.resolve()}/{found[0]}", found[0])


def _vector_members(entries: Sequence[str]) -> list[str]:
    """Vector files among the entries of a zip; a file geodatabase counts once."""
    found: dict[str, None] = {}
    for entry in entries:
        parts = PurePosixPath(entry).parts
        base = next((i for i, part in enumerate(parts) if part.lower().endswith(".gdb")), None)
        if base is not None:
            found["/".join(parts[: base + 1])] = None
        elif not entry.endswith("/") and PurePosixPath(entry).suffix.lower() in _VECTOR:
            found[entry] = None
    real = [m for m in found if not m.startswith("__MACOSX") and PurePosixPath(m).suffix.lower() != ".xml"]
    return real or list(found)


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what readers raise over a file into one error; what matters of GDAL's warnings is looked at elsewhere."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (DataSourceError, DataLayerError, FieldError, zipfile.BadZipFile, OSError, ValueError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CorruptInputError(f"cannot read parcels from {path}: {first}", hint=_WHOLE_HINT) from error


def find_layer(file: ParcelFile, wanted: str | None, prefer: Callable[[tuple[str, ...]], bool]) -> FileLayer:
    """The wanted layer, or the only one with parcels in it.

    Arguments:
        prefer: says by its fields whether a layer is one of a known parcel register; where exactly one of several
            is, it is taken.

    Raises:
        SchemaError: no geometry, no such layer, or several.
        DataError: the only layer is empty.
    """
    if file.is_parquet:
        with readable(file.path):
            return _parquet_layer(file)
    spatial = _spatial_layers(file)
    if not spatial:
        raise SchemaError(f"{file.path} has no geometry column", hint="give a layer of polygons")
    if wanted in spatial:
        return _describe(file, wanted)
    if wanted is not None and not (len(spatial) == 1 and wanted == PurePosixPath(file.member).stem):
        raise SchemaError(f"{file.path} has no layer {wanted!r}: it holds {', '.join(spatial)}", hint=_SEVERAL_HINT)
    layers = [_describe(file, name) for name in spatial]
    filled = [layer for layer in layers if layer.features] or layers[:1]
    known = [layer for layer in filled if prefer(layer.fields)]
    if len(filled) > 1 and len(known) != 1:
        raise SchemaError(f"{file.path} holds {len(spatial)} layers: {', '.join(spatial)}", hint=_SEVERAL_HINT)
    chosen = filled[0] if len(filled) == 1 else known[0]
    if not chosen.features:
        raise DataError(
            f"{file.path} holds no parcel: the layer is empty", hint="check the export, or name another --layer"
        )
    return replace(chosen, beside=tuple(str(layer.name) for layer in filled if layer is not chosen))


def _spatial_layers(file: ParcelFile) -> list[str]:
    """Names of the layers with geometry; where a driver takes options, a plain listing would not heed them."""
    with readable(file.path):
        if not file.options:
            return [str(name) for name, kind in pyogrio.list_layers(file.address) if kind is not None]
        names: list[str] = []
        with suppress(DataLayerError):
            while True:
                facts = pyogrio.read_info(file.address, layer=len(names), **file.options)
                names.append(str(facts["layer_name"]) if facts["geometry_type"] is not None else "")
    return [name for name in names if name]


def _describe(file: ParcelFile, name: str) -> FileLayer:
    with readable(file.path):
        facts = pyogrio.read_info(file.address, layer=name, force_feature_count=True, **file.options)
    return FileLayer(file, name, tuple(str(field) for field in facts["fields"]), int(facts["features"]))


def _parquet_layer(file: ParcelFile) -> FileLayer:
    import pyarrow.parquet as pq

    with parquet_source(file) as source:
        facts = pq.ParquetFile(source)
        if b"geo" not in (facts.schema_arrow.metadata or {}):
            raise SchemaError(f"{file.path} has no geometry column", hint="give GeoParquet, or a layer of polygons")
        return FileLayer(file, None, tuple(facts.schema_arrow.names), int(facts.metadata.num_rows))


@contextmanager
def parquet_source(file: ParcelFile) -> Iterator[Any]:
    """The file itself, or its content out of the zip."""
    if not file.member:
        yield file.path
        return
    with zipfile.ZipFile(file.path) as archive:
        yield io.BytesIO(archive.read(file.member))


def read_fields(
    layer: FileLayer, columns: Sequence[str] | None, *, geometry: bool = True, encoding: str | None = None
) -> tuple[pd.DataFrame, list[str]]:
    """Columns of a layer, the geometry among them unless it is not wanted, and one line on each column put right.

    Raises:
        CorruptInputError, SchemaError, DataError: it cannot be read, or has no geometry or no row.
        UsageError: the encoding is none.
    """
    file = layer.file
    _check_encoding(encoding)
    with readable(file.path):
        if file.is_parquet:
            return _read_parquet(layer, columns, geometry), []
        options: dict[str, Any] = {"layer": layer.name, "read_geometry": geometry, **file.options}
        if columns is not None:
            options["columns"] = list(columns)
        remarks: list[str] = []
        try:
            frame = pyogrio.read_dataframe(file.address, encoding=encoding, **options)
        except UnicodeDecodeError:
            frame = pyogrio.read_dataframe(file.address, encoding=FALLBACK_ENCODING, **options)
            remarks.append(fallback_remark(file.path))
        _restore_digits(frame, lambda names: _attributes_of(layer, names))
    if encoding is None:
        remarks += decode_again(frame, [name for name in layer.fields if name in frame], file.path)
    if geometry and (not isinstance(frame, gpd.GeoDataFrame) or frame.active_geometry_name is None):
        raise SchemaError(f"{file.path} has no geometry column", hint="give a layer of polygons")
    return frame, remarks


def _check_encoding(encoding: str | None) -> None:
    try:
        codecs.lookup(encoding or "utf-8")
    except LookupError as error:
        raise UsageError(f"--encoding {encoding}: no such encoding", hint="for example cp1252 or utf-8") from error


def _read_parquet(layer: FileLayer, columns: Sequence[str] | None, geometry: bool) -> pd.DataFrame:
    import pyarrow.parquet as pq

    with parquet_source(layer.file) as source:
        wanted = None if columns is None else list(columns)
        if not geometry:
            frame = pd.read_parquet(source, columns=wanted)
        else:
            main, _ = main_geometry(pq.read_schema(source))
            frame = gpd.read_parquet(source, columns=None if wanted is None else [*wanted, main])
        _restore_digits(frame, lambda names: pq.read_table(source, columns=names))
    return frame


def _attributes_of(layer: FileLayer, columns: list[str]) -> pa.Table:
    options: dict[str, Any] = {"layer": layer.name, "columns": columns, "read_geometry": False, **layer.file.options}
    return read_arrow(layer.file.address, **options)[1]


def _restore_digits(frame: pd.DataFrame, read: Callable[[list[str]], pa.Table]) -> None:
    """Give large whole numbers the digits back that they lost where a missing one made their column floating point."""
    gaps = [str(n) for n in frame if pd.api.types.is_float_dtype(frame[n].dtype) and frame[n].hasnans]
    if rounded := [name for name in gaps if np.nanmax(frame[name].to_numpy(float), initial=0.0) >= _EXACT_FLOAT]:
        table = read(rounded)
        for name in rounded:
            frame[name] = table.column(name).to_pandas(integer_object_nulls=True).to_numpy()


def main_geometry(schema: pa.Schema) -> tuple[str, dict[str, Any]]:
    """The geometry column of a GeoParquet file, and what is said of it."""
    facts = json.loads(schema.metadata[b"geo"])
    return facts["primary_column"], facts["columns"][facts["primary_column"]]


def decode_again(frame: pd.DataFrame, columns: Sequence[str], path: Path) -> list[str]:
    """Put text right in columns that were decoded by the wrong table; one line for each that was."""
    remarks = []
    for name in columns:
        if pd.api.types.infer_dtype(frame[name], skipna=True) != "string":
            continue
        place, distinct = pd.factorize(frame[name])
        truth = true_encoding([str(text) for text in distinct])
        if truth is None:
            continue
        wrong, right = truth
        repaired = pd.Series([str(text).encode(wrong).decode(right) for text in distinct] + [None], dtype=object)
        frame[name] = repaired.iloc[place].to_numpy()
        remarks.append(encoding_remark(path, name, right))
    return remarks


class EncodingEvidence:
    """What texts that come in parts say about the table they were decoded by.

    UTF-8 read as Latin-1 is recognised by being valid UTF-8 in all of its foreign letters, which no language is by
    chance; cp1252 read as Latin-1 by control characters where cp1252 has letters and signs.
    """

    def __init__(self) -> None:
        self._possible = [("latin-1", "utf-8"), ("cp1252", "utf-8"), ("latin-1", "cp1252")]
        self._foreign = False
        self._controls = False

    def add(self, texts: Iterable[str]) -> None:
        """Look at further texts."""
        foreign = [text for text in texts if not text.isascii()]
        self._foreign |= bool(foreign)
        self._controls |= any("\x80" <= letter <= "\x9f" for text in foreign for letter in text)
        self._possible = [way for way in self._possible if all(_recodes(text, *way) for text in foreign)]

    @property
    def verdict(self) -> tuple[str, str] | None:
        """The table the texts were decoded by and the one they are in; None where nothing speaks against the first."""
        if not self._foreign:
            return None
        return next((way for way in self._possible if way[1] == "utf-8" or self._controls), None)


def true_encoding(texts: Iterable[str]) -> tuple[str, str] | None:
    """The verdict of `EncodingEvidence` on some texts."""
    evidence = EncodingEvidence()
    evidence.add(texts)
    return evidence.verdict


def fallback_remark(path: Path) -> str:
    """One line on text that is not in the encoding its file states."""
    return f"{path}: text is not in the encoding the file states; read as {FALLBACK_ENCODING}"


def encoding_remark(path: Path, column: str, encoding: str) -> str:
    """One line on a column that was decoded again."""
    return f"{path}: column {column} is {encoding} text that its file does not declare; decoded again"


def _recodes(text: str, wrong: str, right: str) -> bool:
    try:
        text.encode(wrong).decode(right)
    except UnicodeError:
        return False
    return True
