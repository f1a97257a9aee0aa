"""Parcel polygons in: any OGR format or GeoParquet, any coordinate system, cleaned, every fault reported by id.

missing coordinate system      error
null or empty geometry         dropped
points and lines               dropped
infinite coordinate            dropped
invalid polygon                repaired (make_valid; its polygonal part is kept)
id missing                     dropped, reported by its row
id and year given twice        the same geometry: one is kept; another geometry: error
several parts                  kept as one parcel
polygons beside lines, points  the polygons are kept
heights and measures           left out
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import CRSError

from cropgen.core.errors import DataError, SchemaError, UsageError
from cropgen.core.progress import Reporter, Silent
from cropgen.core.tally import MOST, Tally
from cropgen.series.legend import Legend
from cropgen.series.parcel_columns import ROW_NUMBER, ParcelColumns, is_register
from cropgen.series.parcel_files import find_file, find_layer, read_fields
from cropgen.series.parcel_table import legend_of, parcel_table, roles_of

__all__ = [
    "WGS84", "LayerIssues", "ParcelColumns", "ParcelLayer", "interior_lonlat", "read_layer", "read_parcels", "shown",
]  # fmt: skip

WGS84 = "EPSG:4326"
_MOST_DEGREES = 360.0
_COLLECTION = 7
_AT_A_TIME = 8192
_NULL = "null or empty geometry"
_NO_ID = "no id"
_FLAT = "not a polygon"
_ENDLESS = "a coordinate that is no number"
_HOPELESS = "nothing left after repair"
_AGAIN = "repeats a parcel with the same id and geometry"
REASONS = (_NULL, _NO_ID, _FLAT, _ENDLESS, _HOPELESS, _AGAIN)
"""Why parcels are left out, in the order in which it is found."""


@dataclass
class LayerIssues:
    """What was wrong with a parcel layer, by parcel id.

    Arguments:
        dropped: reason → ids of the parcels that were left out.
        repaired: ids of invalid polygons that were repaired.
    """

    dropped: dict[str, Tally[str]] = field(default_factory=dict)
    repaired: Tally[str] = field(default_factory=Tally[str])

    def drop(self, reason: str, ids: Sequence[str] | np.ndarray, count: int | None = None) -> None:
        """Note parcels that are left out, as `Tally.add` does; nothing when there are none."""
        if len(ids):
            self.dropped.setdefault(reason, Tally()).add([str(i) for i in ids[:MOST]], count or len(ids))

    def add(self, others: LayerIssues) -> None:
        """Note what was wrong with further parcels."""
        for reason, ids in others.dropped.items():
            self.drop(reason, ids.first, len(ids))
        self.repaired.add(others.repaired.first, len(others.repaired))


@dataclass(frozen=True)
class ParcelLayer:
    """Parcels with the attributes cropgen uses.

    Arguments:
        frame: columns parcel_id, year, region, code, name (text; "" unknown) and geometry (polygons); one row per
            parcel and year.
        issues: what was repaired or left out.
        hcat: crop code → HCAT code, where a table of crop codes says so.
    """

    frame: gpd.GeoDataFrame
    issues: LayerIssues
    hcat: dict[str, str] = field(default_factory=dict)

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
        return legend_of(self.frame["code"].to_numpy(str), self.frame["name"].to_numpy(str), name, self.hcat)


def read_parcels(
    paths: Path | Sequence[Path],
    columns: ParcelColumns,
    *,
    default_year: int | None = None,
    report: Reporter | None = None,
) -> ParcelLayer:
    """Read, join and clean parcel layers; the result has the coordinate system of the first.

    Of each file only the columns used and the polygons are held, every text once.

    Arguments:
        paths: one or more files, e.g. one per year.
        default_year: the year of parcels whose file states none.
        report: hears which columns were taken, what could have been meant instead, and what was put right.

    Raises:
        MissingInputError, CorruptInputError: a file is not there or cannot be read.
        SchemaError: no geometry, no coordinate system, a named column is missing or holds lists, or an id means two
            parcels.
        DataError: no usable parcel.
        UsageError: no year is known, or an option is none.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    report = report or Silent()
    frames: list[gpd.GeoDataFrame] = []
    meanings: dict[str, str] = {}
    for path in files:
        frame, hcat = _read_file(path, columns, default_year, len(files) > 1, report)
        meanings |= hcat
        frames.append(frame if not frames else frame.to_crs(CRS.from_user_input(frames[0].crs)))
    joined = frames[0] if len(frames) == 1 else _concatenated(frames)
    issues = LayerIssues()
    clean = _unique(_polygons(joined, issues), issues)
    require_usable(len(clean), files, issues)
    return ParcelLayer(clean, issues, meanings)


def require_usable(parcels: int, files: Sequence[Path], issues: LayerIssues) -> None:
    """Refuse layers of which no parcel is left.

    Raises:
        DataError: none is; the message says what was wrong with them.
    """
    if not parcels:
        reasons = "; ".join(f"{len(ids)} {reason}" for reason, ids in issues.dropped.items()) or "the layer is empty"
        raise DataError(f"no usable parcel in {', '.join(map(str, files))}: {reasons}", hint="check the parcel layer")


def _read_file(
    path: Path, columns: ParcelColumns, default_year: int | None, several: bool, report: Reporter
) -> tuple[gpd.GeoDataFrame, dict[str, str]]:
    """The parcels of one file, and the HCAT codes of their crop codes."""
    layer = find_layer(find_file(path, columns.layer), columns.layer, is_register)
    roles, year = roles_of(layer, columns, default_year)
    raw, remarks = read_fields(layer, roles.needed, encoding=columns.encoding)
    require_rows(len(raw), path)
    raw, said = _placed(gpd.GeoDataFrame(raw), path, columns.crs)
    table = parcel_table(raw, roles, columns, year, where=str(path), rows_of=path.stem if several else "")
    report.info(table.roles.told(str(path)))
    for line in (*layer.remarks, *remarks, *said, *table.remarks, *table.roles.doubts(str(path), layer.fields)):
        report.warn(line)
    return gpd.GeoDataFrame(table.frame, geometry=raw.geometry.to_numpy(), crs=raw.crs), table.hcat


def _concatenated(frames: list[gpd.GeoDataFrame]) -> gpd.GeoDataFrame:
    return gpd.GeoDataFrame(pd.concat(frames, ignore_index=True), geometry="geometry", crs=frames[0].crs)


def read_layer(
    path: Path, *, layer: str | None = None, crs: str | None = None, columns: Sequence[str] | None = None
) -> gpd.GeoDataFrame:
    """One layer of a vector file with all its attributes, or with some of them.

    Raises:
        MissingInputError, CorruptInputError, SchemaError, DataError: see `read_parcels`.
    """
    frame, _ = read_fields(find_layer(find_file(path, layer), layer, is_register), columns)
    require_rows(len(frame), path)
    return _placed(gpd.GeoDataFrame(frame), path, crs)[0]


def require_rows(rows: int, path: Path) -> None:
    """Refuse a layer without rows.

    Raises:
        DataError: it has none.
    """
    if not rows:
        raise DataError(f"{path} holds no parcel: the layer is empty", hint="check the export, or name another --layer")


def _placed(frame: gpd.GeoDataFrame, path: Path, crs: str | None) -> tuple[gpd.GeoDataFrame, list[str]]:
    """The frame in its coordinate system, the stated one or `crs`, and one line where the two differ.

    Raises:
        SchemaError: none is known, or the coordinates are none of it.
        UsageError: `crs` is none.
    """
    system, said = coordinate_system(frame.crs, path, crs)
    check_degrees(farthest_of(frame.geometry.to_numpy()), system, path)
    return frame.set_crs(system, allow_override=True), said


def coordinate_system(stated: Any, path: Path, wanted: str | None) -> tuple[CRS, list[str]]:
    """The coordinate system a file states, or the one wanted, and one line where the two differ.

    Raises:
        SchemaError: none is known.
        UsageError: the one wanted is none.
    """
    if wanted is not None:
        try:
            given = CRS.from_user_input(wanted)
        except CRSError as error:
            raise UsageError(
                f"--crs {wanted}: no such coordinate system", hint="for example --crs EPSG:25832"
            ) from error
        if stated is not None and not given.equals(CRS(stated)):
            return given, [f"{path} states coordinate system {CRS(stated).name}; read as {given.name}, as --crs says"]
        return given, []
    if stated is None:
        raise SchemaError(
            f"{path} states no coordinate system", hint="add it to the file, or say which it is with --crs EPSG:…"
        )
    return CRS.from_user_input(stated), []


def check_degrees(farthest: float, system: CRS, path: Path) -> None:
    """Refuse coordinates that are no degrees where they should be.

    Arguments:
        farthest: the largest coordinate, whatever its sign.

    Raises:
        SchemaError: they are none.
    """
    if not are_degrees(farthest, system):
        raise SchemaError(
            f"{path}: coordinates up to {farthest:,.0f} are no degrees, but it states {system.name}",
            hint="say which coordinate system it is with --crs EPSG:…",
        )


def farthest_of(shapes: np.ndarray) -> float:
    """The largest coordinate of geometries, whatever its sign; those that are no numbers do not count."""
    bounds = np.abs(shapely.bounds(shapes))
    return float(bounds.max(initial=0.0, where=np.isfinite(bounds)))


def are_degrees(farthest: float, system: CRS) -> bool:
    """Whether coordinates up to `farthest` can be of a system: only those of a geographic one are bounded."""
    return not (system.is_geographic and farthest > _MOST_DEGREES)


def _polygons(frame: gpd.GeoDataFrame, issues: LayerIssues) -> gpd.GeoDataFrame:
    rest, shapes = clean_polygons(frame["parcel_id"].to_numpy(str), frame.geometry.to_numpy(), 0, issues)
    return frame.iloc[rest].set_geometry(shapes, crs=frame.crs).reset_index(drop=True)


def clean_polygons(
    ids: np.ndarray, shapes: np.ndarray, first: int, issues: LayerIssues
) -> tuple[np.ndarray, np.ndarray]:
    """What is left of the geometries (N,) of rows from `first` on, and what was wrong with the others noted.

    Returns:
        (M,) which of them are left, ascending, and (M,) their polygons.
    """
    shapes = shapes.copy()
    high = shapely.has_z(shapes)
    shapes[high] = shapely.force_2d(shapes[high])
    missing = shapely.is_missing(shapes) | shapely.is_empty(shapes)
    issues.drop(_NULL, ids[missing])
    unnamed = ~missing & (ids == "")
    issues.drop(_NO_ID, [f"row {first + i}" for i in np.flatnonzero(unnamed)])
    flat = ~missing & ~unnamed & (shapely.get_dimensions(shapes) < 2)
    issues.drop(_FLAT, ids[flat])
    keep = np.flatnonzero(~missing & ~unnamed & ~flat)
    broken = ~shapely.is_valid(shapes[keep])
    endless = np.zeros(len(keep), bool)
    endless[broken] = ~_finite(shapes[keep[broken]])
    issues.drop(_ENDLESS, ids[keep[endless]])
    keep, broken = keep[~endless], broken[~endless]
    shapes = shapes[keep]
    shapes[broken] = shapely.make_valid(shapes[broken])
    mixed = broken | (shapely.get_type_id(shapes) == _COLLECTION)
    shapes[mixed] = [polygonal(shape) for shape in shapes[mixed]]
    hopeless = shapely.is_empty(shapes)
    issues.drop(_HOPELESS, ids[keep][hopeless])
    issues.repaired.add(ids[keep][broken & ~hopeless].tolist())
    return keep[~hopeless], shapes[~hopeless]


def _finite(shapes: np.ndarray) -> np.ndarray:
    """(N,) bool: every coordinate is a number."""
    coordinates, of = shapely.get_coordinates(shapes, return_index=True)
    finite = np.ones(len(shapes), bool)
    finite[of[~np.isfinite(coordinates).all(1)]] = False
    return finite


def polygonal(shape: Any) -> Any:
    """The polygons of a valid geometry as one polygon or multipolygon, without its lines and points; may be empty."""
    parts = shapely.get_parts(shape)
    polygons = [p for part in parts for p in shapely.get_parts(part) if shapely.get_dimensions(p) == 2]
    return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)


def _unique(frame: gpd.GeoDataFrame, issues: LayerIssues) -> gpd.GeoDataFrame:
    shapes = np.asarray(frame.geometry.array, dtype=object)
    rows = unique_rows(frame, lambda rows: shapes[rows], issues)
    return frame if len(rows) == len(frame) else frame.iloc[rows].reset_index(drop=True)


def unique_rows(table: pd.DataFrame, shapes: Callable[[np.ndarray], np.ndarray], issues: LayerIssues) -> np.ndarray:
    """The first row of each parcel id and year, ascending.

    Arguments:
        table: parcel_id and year.
        shapes: gives the polygons of some rows.

    Raises:
        SchemaError: a row repeats a parcel with another polygon.
    """
    if _differ(table):
        return np.arange(len(table))
    ids = table["parcel_id"].to_numpy()
    code, who = pd.factorize(pd.MultiIndex.from_arrays([ids, table["year"].to_numpy()]))
    if len(who) == len(ids):
        return np.arange(len(ids))
    first = np.unique(code, return_index=True)[1][code]
    again = np.flatnonzero(first != np.arange(len(ids)))
    parts = [again[start : start + _AT_A_TIME] for start in range(0, len(again), _AT_A_TIME)]
    clash = np.concatenate([part[~shapely.equals(shapes(first[part]), shapes(part))] for part in parts])
    if len(clash):
        raise SchemaError(
            f"{len(clash)} rows repeat a parcel id of their year with another polygon: {shown(np.unique(ids[clash]))}",
            hint=f"name a unique column with --id-column (A+B joins two, {ROW_NUMBER} counts), or dissolve the parts",
        )
    issues.drop(_AGAIN, ids[again])
    return np.setdiff1d(np.arange(len(ids)), again, assume_unique=True)


def _differ(table: pd.DataFrame) -> bool:
    """Whether hashes tell all ids and years apart: so it is where none is repeated, but for chance."""
    ids, years = table["parcel_id"], table["year"].to_numpy()
    hashes = np.fromiter((hash(key) for key in zip(ids, years, strict=True)), np.int64, len(table))
    return len(np.unique(hashes)) == len(table)


def shown(ids: Sequence[str] | np.ndarray) -> str:
    """The first few ids, for a message."""
    return Tally(len(ids), list(ids[:MOST])).told()


def interior_lonlat(geometry: gpd.GeoSeries) -> tuple[np.ndarray, np.ndarray]:
    """Longitude and latitude (N,) in degrees (WGS 84) of a point inside each polygon."""
    points = shapely.point_on_surface(geometry.to_numpy())
    across = Transformer.from_crs(geometry.crs, WGS84, always_xy=True)
    return across.transform(shapely.get_x(points), shapely.get_y(points))
