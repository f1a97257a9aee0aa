"""Parcel polygons in: any OGR format or GeoParquet, any coordinate system, cleaned, every fault reported by id.

missing coordinate system      error
null or empty geometry         dropped
points and lines               dropped
invalid polygon                repaired (make_valid; its polygonal part is kept)
id missing                     dropped, reported by its row
id and year given twice        the same geometry: one is kept; another geometry: error
several parts                  kept as one parcel
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import shapely
from pydantic import Field
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS

from cropgen.core.errors import CorruptInputError, DataError, SchemaError, UsageError
from cropgen.core.files import require_input
from cropgen.core.recipe import Section
from cropgen.series.columns import as_text, as_years, column, find_column, merge_codes
from cropgen.series.hcat import with_hcat
from cropgen.series.legend import Legend

WGS84 = "EPSG:4326"
_PARQUET = {".parquet", ".geoparquet", ".pq"}
_SHOWN = 5


class ParcelColumns(Section):
    """Which attribute of a parcel layer holds what; what is not named is recognised by its usual names."""

    layer: str | None = Field(None, description="layer of the file; needed where it holds several")
    id: str | None = Field(None, description="column of the parcel id; without any, the row number from 0")
    label: str | None = Field(None, description="column of the crop code")
    name: str | None = Field(None, description="column of the crop name")
    region: str | None = Field(None, description="column of the region")
    merge: dict[str, str] = Field(default_factory=dict, description='crop codes made one, e.g. {"wheat*" = "wheat"}')
    year: str | int | None = Field(
        None, description="harvest year, or its column; without any, the four digits in the file name"
    )
    crs: str | None = Field(None, description="coordinate system, for files that state none")


@dataclass
class LayerIssues:
    """What was wrong with a parcel layer, by parcel id.

    Arguments:
        dropped: reason → ids of the parcels that were left out.
        repaired: ids of invalid polygons that were repaired.
    """

    dropped: dict[str, list[str]] = field(default_factory=dict)
    repaired: list[str] = field(default_factory=list)

    def drop(self, reason: str, ids: Sequence[str] | np.ndarray) -> None:
        """Note parcels that are left out; nothing when there are none."""
        if len(ids):
            self.dropped.setdefault(reason, []).extend(str(i) for i in ids)


@dataclass(frozen=True)
class ParcelLayer:
    """Parcels with the attributes cropgen uses.

    Arguments:
        frame: columns parcel_id, year, region, code, name (text; "" unknown) and geometry (polygons); one row per
            parcel and year.
        issues: what was repaired or left out.
    """

    frame: gpd.GeoDataFrame
    issues: LayerIssues

    @property
    def crs(self) -> str:
        """Coordinate system as WKT."""
        return CRS.from_user_input(self.frame.crs).to_wkt()

    def of_year(self, year: int) -> gpd.GeoDataFrame:
        """The parcels of one year, rows counted anew."""
        rows = np.flatnonzero(self.frame["year"].to_numpy() == year)
        return self.frame.iloc[rows].reset_index(drop=True)

    def legend(self, name: str) -> Legend:
        """The legend of the crop codes of this layer."""
        return legend_of(self.frame["code"].to_numpy(str), self.frame["name"].to_numpy(str), name)


def legend_of(codes: np.ndarray, names: np.ndarray, title: str) -> Legend:
    """A legend of the codes that occur, each with the first name that goes with it; HCAT codes are known as such."""
    first: dict[str, str] = {}
    for code, name in zip(codes, names, strict=True):
        if name:
            first.setdefault(str(code), str(name))
    return with_hcat(Legend.from_codes(title, (str(code) for code in np.unique(codes) if code), first))


def merged_classes(code: np.ndarray, name: np.ndarray, merge: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Codes and names after merging; a class that was merged is named by its new code."""
    merged = merge_codes(code, merge)
    return merged.astype(object), np.where(merged == code.astype(str), name, "").astype(object)


def read_parcels(
    paths: Path | Sequence[Path], columns: ParcelColumns, *, default_year: int | None = None
) -> ParcelLayer:
    """Read, join and clean parcel layers; the result has the coordinate system of the first.

    Arguments:
        paths: one or more files, e.g. one per year.
        default_year: the year of parcels whose file states none.

    Raises:
        MissingInputError, CorruptInputError: a file is not there or cannot be read.
        SchemaError: no geometry, no coordinate system, a named column is missing, or an id means two parcels.
        DataError: no usable parcel.
        UsageError: no year is known.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    frames: list[gpd.GeoDataFrame] = []
    for path in files:
        raw = read_layer(path, layer=columns.layer, crs=columns.crs)
        frame = _standardise(raw, columns, path, default_year)
        frames.append(frame if not frames else frame.to_crs(CRS.from_user_input(frames[0].crs)))
    joined = frames[0] if len(frames) == 1 else _concatenated(frames)
    issues = LayerIssues()
    clean = _unique(_polygons(joined, issues), issues)
    if clean.empty:
        reasons = "; ".join(f"{len(ids)} {reason}" for reason, ids in issues.dropped.items()) or "the layer is empty"
        raise DataError(f"no usable parcel in {', '.join(map(str, files))}: {reasons}", hint="check the parcel layer")
    return ParcelLayer(clean, issues)


def _concatenated(frames: list[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(pd.concat(frames, ignore_index=True), geometry="geometry", crs=frames[0].crs)


def read_layer(path: Path, *, layer: str | None = None, crs: str | None = None) -> gpd.GeoDataFrame:
    """One layer of a vector file with all its attributes.

    Raises:
        MissingInputError, CorruptInputError, SchemaError, DataError: see `read_parcels`.
    """
    require_input(path, "parcel layer")
    try:
        frame = gpd.read_parquet(path) if path.suffix.lower() in _PARQUET else _read_ogr(path, layer)
    except (DataSourceError, DataLayerError, OSError, ValueError) as error:
        raise CorruptInputError(
            f"cannot read parcels from {path}: {str(error).splitlines()[0]}",
            hint="check that the file is whole and a vector format such as GeoPackage, Shapefile or GeoParquet",
        ) from error
    if not isinstance(frame, gpd.GeoDataFrame) or frame.active_geometry_name is None:
        raise SchemaError(f"{path} has no geometry column", hint="give a layer of polygons")
    if frame.empty:
        raise DataError(f"{path} holds no parcel: the layer is empty", hint="check the export, or name another --layer")
    return _with_crs(frame, path, crs)


def _read_ogr(path: Path, layer: str | None) -> Any:
    if layer is None:
        layers = pyogrio.list_layers(path)
        spatial = [str(name) for name, kind in layers if kind is not None]
        if len(spatial) > 1:
            raise SchemaError(
                f"{path} holds {len(spatial)} layers: {', '.join(spatial)}", hint="name one of them with --layer"
            )
        layer = spatial[0] if spatial else None
    return pyogrio.read_dataframe(path, layer=layer)


def _with_crs(frame: gpd.GeoDataFrame, path: Path, crs: str | None) -> gpd.GeoDataFrame:
    if frame.crs is not None:
        return frame
    if crs is None:
        raise SchemaError(
            f"{path} states no coordinate system", hint="add it to the file, or say which it is with --crs EPSG:…"
        )
    return frame.set_crs(crs)


def _standardise(
    raw: gpd.GeoDataFrame, columns: ParcelColumns, path: Path, default_year: int | None
) -> gpd.GeoDataFrame:
    names = [str(c) for c in raw.columns if c != raw.active_geometry_name]
    where = str(path)

    def text(role: Any, wanted: str | None) -> np.ndarray:
        found = find_column(names, role, wanted, where=where)
        return np.full(len(raw), "", dtype=object) if found is None else as_text(column(raw, found)).astype(object)

    code, name = text("label", columns.label), text("name", columns.name)
    if columns.merge:
        code, name = merged_classes(code, name, columns.merge)
    id_column = find_column(names, "id", columns.id, where=where)
    ids = np.arange(len(raw)).astype(str) if id_column is None else as_text(column(raw, id_column))
    return gpd.GeoDataFrame(
        {
            "parcel_id": ids.astype(object),
            "year": _years(raw, names, columns.year, path, default_year),
            "region": text("region", columns.region),
            "code": code,
            "name": name,
        },
        geometry=raw.geometry.to_numpy(),
        crs=raw.crs,
    )


def _years(
    raw: gpd.GeoDataFrame, names: list[str], wanted: str | int | None, path: Path, default: int | None
) -> np.ndarray:
    if isinstance(wanted, int):
        return np.full(len(raw), wanted, np.int16)
    found = find_column(names, "year", wanted, where=str(path))
    if found is not None:
        return as_years(column(raw, found), where=str(path))
    digits = re.findall(r"(?<!\d)(19\d\d|20\d\d)(?!\d)", path.stem)
    year = int(digits[-1]) if digits else default
    if year is None:
        raise UsageError(f"{path}: the harvest year of the parcels is not known", hint="give --year YYYY")
    return np.full(len(raw), year, np.int16)


def _polygons(frame: gpd.GeoDataFrame, issues: LayerIssues) -> gpd.GeoDataFrame:
    ids = frame["parcel_id"].to_numpy(str)
    shapes = shapely.force_2d(frame.geometry.to_numpy())
    missing = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    issues.drop("null or empty geometry", ids[missing])
    unnamed = ~missing & (ids == "")
    issues.drop("no id", [f"row {i}" for i in np.flatnonzero(unnamed)])
    flat = ~missing & ~unnamed & (shapely.get_dimensions(shapes) < 2)
    issues.drop("not a polygon", ids[flat])
    keep = np.flatnonzero(~missing & ~unnamed & ~flat)
    shapes = shapes[keep]
    broken = ~shapely.is_valid(shapes)
    shapes[broken] = [_polygonal(shape) for shape in shapely.make_valid(shapes[broken])]
    hopeless = shapely.is_empty(shapes)
    issues.drop("nothing left after repair", ids[keep][hopeless])
    issues.repaired.extend(ids[keep][broken & ~hopeless].tolist())
    rest = keep[~hopeless]
    return frame.iloc[rest].set_geometry(shapes[~hopeless], crs=frame.crs).reset_index(drop=True)


def _polygonal(shape: Any) -> Any:
    parts = shapely.get_parts(shape)
    polygons = [p for part in parts for p in shapely.get_parts(part) if shapely.get_dimensions(p) == 2]
    return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)


def _unique(frame: gpd.GeoDataFrame, issues: LayerIssues) -> gpd.GeoDataFrame:
    ids, shapes = frame["parcel_id"].to_numpy(), np.asarray(frame.geometry.array, dtype=object)
    code, who = pd.factorize(pd.MultiIndex.from_arrays([ids, frame["year"].to_numpy()]))
    if len(who) == len(ids):
        return frame
    first = np.unique(code, return_index=True)[1][code]
    again = first != np.arange(len(ids))
    clash = again & ~shapely.equals(shapes[first], shapes)
    if clash.any():
        raise SchemaError(
            f"{clash.sum()} rows repeat a parcel id of their year with another polygon: {shown(np.unique(ids[clash]))}",
            hint="name a column that is unique with --id-column, or dissolve the parts into one parcel",
        )
    issues.drop("repeats a parcel with the same id and geometry", ids[again])
    return frame.iloc[np.flatnonzero(~again)].reset_index(drop=True)


def shown(ids: Sequence[str] | np.ndarray, limit: int = _SHOWN) -> str:
    """The first few ids, for a message."""
    listed = ", ".join(str(i) for i in ids[:limit])
    return f"{listed} and {len(ids) - limit} more" if len(ids) > limit else listed


def interior_lonlat(geometry: gpd.GeoSeries) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude (N,) in degrees (WGS 84) of a point inside each polygon."""
    points = gpd.GeoSeries(shapely.point_on_surface(geometry.to_numpy()), crs=geometry.crs).to_crs(WGS84)
    return points.x.to_numpy(), points.y.to_numpy()
