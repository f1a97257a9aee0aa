"""A parcel layer whose polygons lie on disk: read, cleaned and written a few thousand at a time, read back when needed.

Held of each parcel are its attributes, texts as categories, where its polygon lies in the file, and its box: some 80
bytes and the id. The parcels, their order and everything said about them are those of `geometry.read_parcels`.

    polygons.wkb    the polygons one after another, as well-known binary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Self

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from pyproj import CRS

from cropgen.core.errors import CorruptInputError
from cropgen.core.files import atomic_output
from cropgen.core.progress import Reporter, Silent
from cropgen.series.geometry import (
    REASONS,
    WGS84,
    LayerIssues,
    are_degrees,
    check_degrees,
    clean_polygons,
    coordinate_system,
    require_rows,
    require_usable,
    unique_rows,
)
from cropgen.series.legend import Legend
from cropgen.series.parcel_columns import ParcelColumns, is_register
from cropgen.series.parcel_files import FileLayer, find_file, find_layer, read_fields
from cropgen.series.parcel_polygons import polygon_batches, stated_system
from cropgen.series.parcel_table import ParcelTable, legend_of, parcel_table, roles_of

BATCH = 8192
"""Polygons held at a time."""
_FILE = "polygons.wkb"
_CATEGORIES = ("region", "code", "name")


@dataclass(frozen=True)
class Polygons:
    """N polygons in a file, in an order of their own.

    Arguments:
        path: the file.
        crs: their coordinate system.
        begin: (M + 1,) int64, where each polygon of the file begins, and its end.
        box: (M, 4) west, south, east, north of each polygon of the file.
        rows: (N,) positions in the file.
    """

    path: Path
    crs: CRS
    begin: np.ndarray
    box: np.ndarray
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def bounds(self) -> np.ndarray:
        """(N, 4) west, south, east, north."""
        return self.box[self.rows]

    def take(self, places: np.ndarray) -> Self:
        """Some of them, in the order given."""
        return type(self)(self.path, self.crs, self.begin, self.box, self.rows[places])

    def binary(self, places: np.ndarray) -> list[bytes]:
        """Well-known binary of some of them."""
        rows, found = self.rows[places], []
        with self.path.open("rb") as stream:
            for first, stop in zip(self.begin[rows].tolist(), self.begin[rows + 1].tolist(), strict=True):
                stream.seek(first)
                found.append(stream.read(stop - first))
        return found

    def shapes(self, places: np.ndarray) -> np.ndarray:
        """Some of them as objects (K,)."""
        return np.asarray(shapely.from_wkb(np.array(self.binary(places), dtype=object)), dtype=object)

    def series(self, places: np.ndarray) -> gpd.GeoSeries:
        """Some of them with their coordinate system, counted anew."""
        return gpd.GeoSeries(self.shapes(places), crs=self.crs)


class _Writer:
    """Writes polygons one after another."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._size = [np.zeros(1, np.int64)]
        self._box = [np.zeros((0, 4))]

    def add(self, shapes: np.ndarray) -> None:
        """Write polygons (R,)."""
        binary = shapely.to_wkb(shapes).tolist()
        self._stream.write(b"".join(binary))
        self._size.append(np.fromiter(map(len, binary), np.int64))
        self._box.append(shapely.bounds(shapes).reshape(-1, 4))

    def polygons(self, path: Path, crs: CRS) -> Polygons:
        """What was written, as it lies at a path."""
        box = np.concatenate(self._box)
        return Polygons(path, crs, np.cumsum(np.concatenate(self._size)), box, np.arange(len(box)))


def spool_polygons(geometry: gpd.GeoSeries, path: Path) -> Polygons:
    """Write polygons that are held.

    Raises:
        CropgenError: they cannot be written.
    """
    with atomic_output(path) as part, part.open("wb") as stream:
        writer = _Writer(stream)
        writer.add(geometry.to_numpy())
    return writer.polygons(path, CRS.from_user_input(geometry.crs))


@dataclass(frozen=True)
class SpooledParcels:
    """Parcels in the order of their polygons.

    Arguments:
        table: parcel_id, year, region, code and name of every parcel of the layer.
        polygons: those of these parcels; their `rows` are rows of the table.
    """

    table: pd.DataFrame
    polygons: Polygons

    def __len__(self) -> int:
        return len(self.polygons)

    def take(self, places: np.ndarray) -> Self:
        """Some of them, in the order given."""
        return type(self)(self.table, self.polygons.take(places))

    def ids(self, places: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Ids (K,) of some of them."""
        return self.table["parcel_id"].iloc[self.polygons.rows[places]].to_numpy(str)

    def frame(self, first: int, stop: int) -> gpd.GeoDataFrame:
        """The parcels `first` ≤ place < `stop` as `geometry.ParcelLayer` holds them."""
        places = np.arange(first, stop)
        table = self.table.iloc[self.polygons.rows[places]].reset_index(drop=True)
        texts = {name: table[name].astype("str") for name in _CATEGORIES}
        return gpd.GeoDataFrame(table.assign(**texts), geometry=self.polygons.series(places))


@dataclass(frozen=True)
class SpooledLayer:
    """A parcel layer, as `geometry.ParcelLayer`.

    Arguments:
        parcels: all parcels, in the order of the files.
        issues: what was repaired or left out.
        hcat: crop code → HCAT code, where a table of crop codes says so.
    """

    parcels: SpooledParcels
    issues: LayerIssues
    hcat: dict[str, str] = field(default_factory=dict)

    @property
    def crs(self) -> str:
        """Coordinate system as WKT."""
        return self.parcels.polygons.crs.to_wkt()

    @property
    def years(self) -> np.ndarray:
        """(N,) harvest year of each parcel."""
        return self.parcels.table["year"].to_numpy()[self.parcels.polygons.rows]

    def of_year(self, year: int) -> SpooledParcels:
        """The parcels of one year."""
        return self.parcels.take(np.flatnonzero(self.years == year))

    def legend(self, name: str) -> Legend:
        """The legend of the crop codes of this layer."""
        kinds = self.parcels.table[["code", "name"]].iloc[self.parcels.polygons.rows].drop_duplicates()
        return legend_of(kinds["code"].to_numpy(str), kinds["name"].to_numpy(str), name, self.hcat)


def spool_parcels(
    paths: Path | Sequence[Path],
    columns: ParcelColumns,
    folder: Path,
    *,
    default_year: int | None = None,
    report: Reporter | None = None,
    batch: int = BATCH,
) -> SpooledLayer:
    """Read, join and clean parcel layers, their polygons a batch at a time.

    Arguments:
        folder: for the polygons; it has to stay as long as the layer is used.
        batch: polygons held at a time; it decides the memory, not the result.

    Raises:
        CropgenError: as `geometry.read_parcels`, or the polygons cannot be written.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    report, issues, path = report or Silent(), LayerIssues(), folder / _FILE
    tables: list[pd.DataFrame] = []
    hcat: dict[str, str] = {}
    crs, before = None, 0
    with atomic_output(path) as part, part.open("wb") as stream:
        writer = _Writer(stream)
        for name in files:
            source = _read_source(name, columns, default_year, several=len(files) > 1)
            crs = crs or source.crs
            kept = _spool(source, crs, before, writer, issues, batch)
            source.tell(report)
            before += len(source.table.frame)
            hcat |= source.table.hcat
            tables.append(source.table.frame if len(kept) == len(source.table.frame) else source.table.frame.iloc[kept])
            del source
    polygons, table = writer.polygons(path, crs or CRS(WGS84)), _as_categories(tables)
    del tables, writer
    rows = unique_rows(table, polygons.shapes, issues)
    require_usable(len(rows), files, issues)
    ordered = {reason: issues.dropped[reason] for reason in REASONS if reason in issues.dropped}
    return SpooledLayer(SpooledParcels(table, polygons.take(rows)), LayerIssues(ordered, issues.repaired), hcat)


def _as_categories(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables of parcels joined, with texts that recur held once."""
    joined = tables[0] if len(tables) == 1 else pd.concat(tables)
    texts = {name: joined[name].astype("category") for name in _CATEGORIES}
    return joined.assign(**texts).reset_index(drop=True)


@dataclass(frozen=True)
class _Source:
    """One file without its polygons."""

    path: Path
    layer: FileLayer
    crs: CRS
    table: ParcelTable
    remarks: tuple[str, ...]

    def tell(self, report: Reporter) -> None:
        """Say which columns were taken, and what was put right or could have been meant."""
        roles = self.table.roles
        report.info(roles.told(str(self.path)))
        for line in (*self.remarks, *self.table.remarks, *roles.doubts(str(self.path), self.layer.fields)):
            report.warn(line)


def _read_source(path: Path, columns: ParcelColumns, default_year: int | None, *, several: bool) -> _Source:
    layer = find_layer(find_file(path, columns.layer), columns.layer, is_register)
    roles, year = roles_of(layer, columns, default_year)
    if roles.needed:
        raw, remarks = read_fields(layer, roles.needed, geometry=False, encoding=columns.encoding)
    else:
        raw, remarks = pd.DataFrame(index=pd.RangeIndex(max(layer.features, 0))), []
    require_rows(len(raw), path)
    crs, said = coordinate_system(stated_system(layer), path, columns.crs)
    table = parcel_table(raw, roles, columns, year, where=str(path), rows_of=path.stem if several else "")
    return _Source(path, layer, crs, table, (*layer.remarks, *remarks, *said))


def _spool(source: _Source, crs: CRS, before: int, writer: _Writer, issues: LayerIssues, batch: int) -> np.ndarray:
    """Write the clean polygons of a file in a coordinate system; rows that are left.

    Arguments:
        before: rows of the files before it.
    """
    ids, done, farthest = source.table.frame["parcel_id"], 0, 0.0
    kept = [np.zeros(0, np.int64)]
    for shapes in polygon_batches(source.layer, batch):
        farthest = float(np.fmax.reduce(np.abs(shapely.bounds(shapes)), axis=None, initial=farthest))
        here = ids.iloc[done : done + len(shapes)].to_numpy(str)
        if len(here) == len(shapes) and are_degrees(farthest, source.crs):
            placed = gpd.GeoSeries(shapes, crs=source.crs).to_crs(crs).to_numpy()
            rest, clean = clean_polygons(here, placed, before + done, issues)
            writer.add(clean)
            kept.append(done + rest)
        done += len(shapes)
    check_degrees(farthest, source.crs, source.path)
    if done != len(ids):
        raise CorruptInputError(
            f"cannot read parcels from {source.path}: {done} polygons for {len(ids)} rows",
            hint="check that the file is whole and that nothing writes to it",
        )
    return np.concatenate(kept)
