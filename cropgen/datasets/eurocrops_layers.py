"""The layers of EuroCrops as they are published, as Arrow batches: memory does not grow with the number of parcels.

    version 1        <region>_<year>.zip holds a shapefile, at any depth; attributes EC_trans_n, EC_hcat_n, EC_hcat_c
                     and those of the country; the coordinate system is the country's
    version 2        <region>_<year>.parquet: geom, cropfield, original_code, off_area, area_ha
    version 2, stack <region>_stack.parquet: geom, cropfield, area_ha, and for each year cf<year>, c<year>

Reference: EuroCrops: The Largest Harmonized Open Crop Dataset Across the European Union, M. Schneider, T. Schelte,
F. Schmitz, M. Körner, 2023; EuroCrops v2.0, M. Claverie et al., 2026.
"""

from __future__ import annotations

import contextlib
import json
import re
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pyogrio
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS
from pyproj.exceptions import CRSError

from cropgen.core.errors import CorruptInputError, SchemaError
from cropgen.core.files import require_input

BATCH = 16_384
V2_CRS = "EPSG:3035"
_AGAIN = "fetch it again"
_STACK_YEAR = re.compile(r"c(\d{4})")
_ORIGINAL = (
    "snar_bezei", "gwsnam_h", "gwsnam", "cult_nom", "afgroede", "taotletud_", "code_cultu", "gewas", "grdkod_mar",
    "rastlina", "plodina", "code_txt", "nutz_txt", "kulturnam", "product_de", "ct_portugu", "name_wz",
)  # fmt: skip
_NATIONAL_ID = ("pollu_id", "parcel_id", "id_parcel", "osa_id", "refsigpac", "objectid", "id", "fid")


@dataclass(frozen=True)
class Batch:
    """Some parcels of a layer, N rows.

    Arguments:
        text: column → (N,) text, "" where it is null: `id`, and what the version states of the crop.
        wkb: N outlines, null where there is none.
    """

    text: dict[str, list[str]]
    wkb: pa.Array


@dataclass(frozen=True)
class Layer:
    """A layer that is being read: its coordinate system, rows where known, and batches in order."""

    crs: CRS
    rows: int | None
    batches: Iterator[Batch]


@contextlib.contextmanager
def open_v1(archive: Path) -> Iterator[Layer]:
    """A zipped shapefile; several in one archive follow each other.

    Batches have id, hcat, hcat_name, translated, original, nuts3.

    Raises:
        MissingInputError, CorruptInputError: the archive is missing or broken.
        SchemaError: no shapefile, no HCAT column, or no or unlike coordinate systems.
    """
    require_input(archive, "archive")
    try:
        with zipfile.ZipFile(archive) as file:
            members = sorted(n for n in file.namelist() if n.lower().endswith(".shp") and "__MACOSX" not in n)
    except (zipfile.BadZipFile, OSError) as error:
        raise CorruptInputError(f"{archive} is no whole zip archive: {error}", hint=_AGAIN) from error
    if not members:
        raise SchemaError(f"{archive} holds no shapefile", hint=_AGAIN)
    paths = [f"/vsizip/{archive}/{member}" for member in members]
    with _read_errors(archive):
        facts = [pyogrio.read_info(path, force_feature_count=True) for path in paths]
    systems = {str(f["crs"]): f["crs"] for f in facts}
    if len(systems) > 1 or None in systems.values():
        raise SchemaError(
            f"{archive}: expected one coordinate system, got {', '.join(systems)}", hint="add the .prj file to it"
        )
    columns = [_v1_columns(f["fields"].tolist(), archive) for f in facts]
    rows = sum(int(f["features"]) for f in facts)
    yield Layer(CRS.from_user_input(facts[0]["crs"]), rows, _v1_batches(archive, paths, columns))


def _v1_columns(fields: Sequence[str], archive: Path) -> dict[str, str]:
    """Role → attribute.

    Raises:
        SchemaError: the HCAT code is not among them.
    """
    folded = {name.casefold(): name for name in reversed(fields)}
    roles = {
        "hcat": ("ec_hcat_c",), "hcat_name": ("ec_hcat_n",), "translated": ("ec_trans_n",), "nuts3": ("ec_nuts3",),
        "original": _ORIGINAL, "national_id": _NATIONAL_ID,
    }  # fmt: skip
    found = {role: next((folded[n] for n in names if n in folded), None) for role, names in roles.items()}
    if found["hcat"] is None:
        raise SchemaError(f"{archive}: no attribute EC_hcat_c; it has {', '.join(fields)}", hint=_AGAIN)
    return {role: name for role, name in found.items() if name is not None}


def _v1_batches(archive: Path, paths: list[str], columns: list[dict[str, str]]) -> Iterator[Batch]:
    first = 0
    for path, roles in zip(paths, columns, strict=True):
        with (
            _read_errors(archive),
            pyogrio.open_arrow(path, columns=sorted(set(roles.values())), batch_size=BATCH, use_pyarrow=True) as opened,
        ):
            meta, reader = opened
            geometry = meta.get("geometry_name") or "wkb_geometry"
            for batch in reader:
                text = {role: _text(batch.column(name)) for role, name in roles.items()}
                text["id"] = [str(first + i) for i in range(batch.num_rows)]
                first += batch.num_rows
                yield Batch(text, batch.column(geometry))


@contextlib.contextmanager
def open_v2(path: Path, year: int | None = None) -> Iterator[Layer]:
    """A GeoParquet layer of version 2, or one year of a stack: its parcels that have a crop in that year.

    Batches have id and original_code.

    Raises:
        MissingInputError, CorruptInputError, SchemaError: it is missing, broken, or lacks a column.
    """
    require_input(path, "parcel layer")
    with _read_errors(path), pq.ParquetFile(path) as file:
        names = file.schema_arrow.names
        geometry, crs = _geo(file.schema_arrow.metadata or {}, names, path)
        code = "original_code" if year is None else f"c{year}"
        if missing := [name for name in ("cropfield", code) if name not in names]:
            raise SchemaError(f"{path}: column {missing[0]} missing; it has {', '.join(names)}", hint=_AGAIN)
        rows = file.metadata.num_rows if year is None else None
        yield Layer(crs, rows, _v2_batches(file, geometry, code, of_year=year is not None))


def stack_years(path: Path) -> tuple[int, ...]:
    """The years a stack has crops of, ascending."""
    require_input(path, "parcel layer")
    with _read_errors(path), pq.ParquetFile(path) as file:
        found = (_STACK_YEAR.fullmatch(name) for name in file.schema_arrow.names)
        return tuple(sorted(int(match[1]) for match in found if match))


def _v2_batches(file: pq.ParquetFile, geometry: str, code: str, *, of_year: bool) -> Iterator[Batch]:
    for batch in file.iter_batches(batch_size=BATCH, columns=["cropfield", code, geometry]):
        kept = batch.filter(batch.column(code).is_valid()) if of_year else batch
        text = {"id": _text(kept.column("cropfield")), "original_code": _text(kept.column(code))}
        yield Batch(text, kept.column(geometry))


def _geo(metadata: dict[bytes, bytes], names: list[str], path: Path) -> tuple[str, CRS]:
    """Geometry column and coordinate system; both are those of the publication where the file does not state them."""
    try:
        geo: dict[str, Any] = json.loads(metadata.get(b"geo", b"{}"))
        column = geo.get("primary_column") or next((n for n in ("geom", "geometry") if n in names), None)
        stated = geo.get("columns", {}).get(column, {}).get("crs")
        crs = CRS.from_user_input(stated or V2_CRS)
    except (ValueError, AttributeError, CRSError) as error:
        raise CorruptInputError(f"{path}: its geo metadata cannot be read: {error}", hint=_AGAIN) from error
    if column not in names:
        raise SchemaError(f"{path}: no geometry column; it has {', '.join(names)}", hint=_AGAIN)
    return str(column), crs


def _text(column: Any) -> list[str]:
    """Any column as text; whole numbers without a decimal point, null and what is no number as ""."""
    if pa.types.is_floating(column.type):
        return [_number(value) for value in column.to_numpy(zero_copy_only=False)]
    return [value.strip() for value in pc.fill_null(pc.cast(column, pa.string()), "").to_pylist()]


def _number(value: np.floating) -> str:
    if not np.isfinite(value):
        return ""
    return str(int(value)) if value == int(value) else str(value)


@contextlib.contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (DataSourceError, DataLayerError, pa.ArrowInvalid, OSError) as error:
        raise CorruptInputError(f"{path} cannot be read: {str(error).splitlines()[0]}", hint=_AGAIN) from error
