"""What a parcel layer would be read as, without its polygons: the figures behind `cropgen info FILE`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyogrio

from cropgen.core.errors import UsageError
from cropgen.series.hcat import hcat_of, tree
from cropgen.series.parcel_columns import ParcelColumns, Roles, is_register
from cropgen.series.parcel_files import find_file, find_layer, read_fields, readable
from cropgen.series.parcel_table import legend_of, parcel_table, roles_of

_UNDATED = 0


def describe_layer(path: Path, layer: str | None) -> dict[str, Any]:
    """Metadata of a vector layer: name, driver, features, geometry, crs, columns, and what cropgen noted in it.

    Raises:
        DataError: see `cropgen.series.geometry.read_parcels`.
    """
    found = find_layer(find_file(path, layer), layer, is_register)
    if found.file.is_parquet:
        return {"layer": path.stem, "driver": "Parquet", "features": found.features, "columns": list(found.fields)}
    with readable(path):
        facts = pyogrio.read_info(found.file.address, layer=found.name, **found.file.options)
    described = {
        "layer": facts["layer_name"], "driver": facts["driver"], "features": found.features,
        "geometry": facts["geometry_type"], "crs": facts["crs"], "columns": list(found.fields),
    }  # fmt: skip
    return described | {key: value for key, value in (facts["layer_metadata"] or {}).items() if "CROPGEN" in key}


def describe_parcels(path: Path, columns: ParcelColumns) -> dict[str, Any]:
    """Columns, years and crops of a parcel layer; only the columns used are read.

    Returns:
        A JSON-able document: register, `columns` by role, years, `crops` (code, name, hcat, hcat_name and parcels, the
        most frequent first) and `remarks`: what could have been meant instead, and what stands in the way of
        `aggregate`.

    Raises:
        DataError, UsageError: see `cropgen.series.geometry.read_parcels`; that the year is unknown is a remark.
    """
    layer = find_layer(find_file(path, columns.layer), columns.layer, is_register)
    remarks: list[str] = []
    try:
        roles, year = roles_of(layer, columns, None)
        known = year() if roles.year is None else _UNDATED
    except UsageError as error:
        try:
            roles, year = roles_of(layer, columns.model_copy(update={"year": _UNDATED}), None)
        except UsageError:
            raise error from None
        remarks.append(f"{error.message}: {error.hint}")
        known = _UNDATED
    raw, said = read_fields(layer, roles.needed, geometry=False, encoding=columns.encoding)
    table = parcel_table(raw, roles, columns, lambda: known, where=str(path))
    return {
        "register": roles.register.title if roles.register else None,
        "columns": _columns(table.roles),
        "years": _counts(table.frame["year"].to_numpy()),
        "crops": _crops(table.frame, table.hcat, path.stem),
        "remarks": [*remarks, *layer.remarks, *said, *table.remarks, *table.roles.doubts(str(path), layer.fields)],
    }


def _columns(roles: Roles) -> dict[str, str | None]:
    return {
        "id": "+".join(roles.id) or None, "label": roles.label, "name": roles.name, "region": roles.region,
        "year": roles.year,
    }  # fmt: skip


def _counts(years: np.ndarray) -> dict[str, int]:
    distinct, counts = np.unique(years, return_counts=True)
    return {str(y): int(n) for y, n in zip(distinct.tolist(), counts, strict=True) if y != _UNDATED}


def _crops(frame: pd.DataFrame, hcat: Mapping[str, str], title: str) -> list[dict[str, Any]]:
    codes = frame["code"].to_numpy(str)
    legend = legend_of(codes, frame["name"].to_numpy(str), title, hcat)
    place = legend.encode(codes)
    counts = np.bincount(place[place >= 0], minlength=len(legend))
    listed = []
    for k in np.argsort(-counts, kind="stable").tolist():
        crop = legend.classes[k]
        means = hcat_of(crop)
        name = tree()[means].name.replace("_", " ") if means else None
        listed.append(
            {"code": crop.code, "name": crop.name, "hcat": means, "hcat_name": name, "parcels": int(counts[k])}
        )
    return listed
