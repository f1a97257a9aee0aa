"""A parcel layer on disk: read, cleaned and written a few thousand parcels at a time, read back when needed.

Held of each parcel is its place among the others: four bytes. Its polygon, box, id and kind (crop, region and year) lie
in the files of `polygon_file`; how many were left out or repaired is counted, and the first ids are held. The parcels,
their order and everything said about them are those of `geometry.read_parcels`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
from pyproj import CRS

from cropgen.core.errors import CorruptInputError
from cropgen.core.files import atomic_output, remove
from cropgen.core.growing import GrowingArray, load_array
from cropgen.core.progress import Reporter, Silent
from cropgen.core.threads import in_order
from cropgen.series.columns import column
from cropgen.series.geometry import (
    REASONS,
    WGS84,
    LayerIssues,
    are_degrees,
    check_degrees,
    clean_polygons,
    coordinate_system,
    farthest_of,
    require_rows,
    require_usable,
    unique_rows,
)
from cropgen.series.legend import Legend
from cropgen.series.parcel_columns import ParcelColumns, is_register
from cropgen.series.parcel_fields import spool_fields
from cropgen.series.parcel_files import FileLayer, find_file, find_layer
from cropgen.series.parcel_polygons import Place, polygon_batches, stated_place
from cropgen.series.parcel_table import ParcelTable, kind_table, legend_of, roles_of
from cropgen.series.polygon_file import IDS, PARCEL, PARCELS, SHAPES, Box, Polygons, PolygonWriter, read_pieces

BATCH = 8192
"""Polygons held at a time."""
_SPOOL = "layer"
_HASHES = "hashes.npy"
_AT_A_TIME = 1 << 16
_CATEGORIES = ("region", "code", "name")


@dataclass(frozen=True)
class SpooledParcels:
    """Parcels in the order of their polygons.

    Arguments:
        kinds: year, region, code and name of every kind of parcel.
        polygons: those of these parcels.
    """

    kinds: pd.DataFrame
    polygons: Polygons

    def __len__(self) -> int:
        return len(self.polygons)

    def take(self, places: np.ndarray) -> Self:
        """Some of them, in the order given."""
        return type(self)(self.kinds, self.polygons.take(places))

    def ids(self, places: np.ndarray | slice = slice(None)) -> np.ndarray:
        """Ids (K,) of some of them."""
        return ids_of(self.polygons.folder, self.polygons.records(places))

    def numbers(self) -> Iterator[tuple[int, np.ndarray]]:
        """The place of the first and the number of the kind (K,) of each, some ten thousands at a time."""
        for first in range(0, len(self), _AT_A_TIME):
            yield first, self.polygons.records(slice(first, first + _AT_A_TIME))["kind"]

    def frame(self, first: int, stop: int) -> gpd.GeoDataFrame:
        """The parcels `first` ≤ place < `stop` as `geometry.ParcelLayer` holds them."""
        places = np.arange(first, min(stop, len(self)))
        held = self.polygons.records(places)
        table = self.kinds.iloc[held["kind"]].reset_index(drop=True)
        texts = {name: table[name].astype("str") for name in _CATEGORIES}
        table = table.assign(**texts)
        table.insert(0, "parcel_id", pd.Series(ids_of(self.polygons.folder, held).tolist(), dtype="str"))
        return gpd.GeoDataFrame(table, geometry=self.polygons.series(places))


def ids_of(folder: Path, records: np.ndarray) -> np.ndarray:
    """Ids (K,) of some parcels, from their records."""
    found = read_pieces(folder / IDS, records["id"], records["length"])
    return np.array([text.decode() for text in found], dtype=np.str_)


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

    def kinds(self) -> pd.DataFrame:
        """The kinds that parcels are of, in the order in which they are met."""
        met: dict[int, None] = {}
        for _, numbers in self.parcels.numbers():
            distinct, first = np.unique(numbers, return_index=True)
            met |= dict.fromkeys(distinct[np.argsort(first)].tolist())
        return self.parcels.kinds.iloc[list(met)]

    def years(self) -> list[int]:
        """The harvest years of the parcels, ascending."""
        return np.unique(self.kinds()["year"].to_numpy()).tolist()

    def of_year(self, year: int) -> SpooledParcels:
        """The parcels of one year."""
        wanted = self.parcels.kinds["year"].to_numpy() == year
        found = [
            (first + np.flatnonzero(wanted[numbers])).astype(np.uint32) for first, numbers in self.parcels.numbers()
        ]
        return self.parcels.take(np.concatenate([np.zeros(0, np.uint32), *found]))

    def legend(self, name: str) -> Legend:
        """The legend of the crop codes of this layer."""
        kinds = self.kinds().drop_duplicates(["code", "name"])
        return legend_of(column(kinds, "code").to_numpy(str), column(kinds, "name").to_numpy(str), name, self.hcat)


def spool_parcels(
    paths: Path | Sequence[Path],
    columns: ParcelColumns,
    folder: Path,
    *,
    default_year: int | None = None,
    report: Reporter | None = None,
    batch: int = BATCH,
    threads: int = 1,
    begun: Callable[[Place], None] | None = None,
) -> SpooledLayer:
    """Read, join and clean parcel layers, a batch of parcels at a time.

    Arguments:
        folder: for what is kept on disk; it has to stay as long as the layer is used.
        batch: parcels held at a time by each thread; it decides the memory, not the result.
        begun: told of the first file where it says that it lies, before its polygons are read.

    Raises:
        CropgenError: as `geometry.read_parcels`, or what is kept cannot be written.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    report, issues = report or Silent(), LayerIssues()
    kinds: list[pd.DataFrame] = []
    hcat: dict[str, str] = {}
    crs, before = None, 0
    with atomic_output(folder / _SPOOL) as part:
        part.mkdir()
        with (part / SHAPES).open("wb") as shapes, GrowingArray(part / PARCELS, PARCEL) as records:
            writer = PolygonWriter(shapes, records)
            for name in files:
                source = _read_source(name, columns, default_year, part, several=len(files) > 1, batch=batch)
                if crs is None and begun is not None:
                    begun(Place(source.crs, source.box))
                crs = crs or source.crs
                _spool(source, crs, _Before(before, sum(map(len, kinds))), writer, issues, batch, threads)
                source.tell(report)
                before += len(source)
                hcat |= source.table.hcat
                kinds.append(source.table.frame)
            count = len(records)
    pa.default_memory_pool().release_unused()
    polygons = Polygons(folder / _SPOOL, crs or CRS(WGS84), np.arange(count, dtype=np.uint32))
    parcels = SpooledParcels(_as_categories(kinds), polygons)
    parcels = _unique(parcels, issues)
    require_usable(len(parcels), files, issues)
    ordered = {reason: issues.dropped[reason] for reason in REASONS if reason in issues.dropped}
    return SpooledLayer(parcels, LayerIssues(ordered, issues.repaired), hcat)


def _as_categories(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """The kinds of several files as one table, with texts that recur held once."""
    joined = pd.concat(tables, ignore_index=True)
    return joined.assign(**{name: joined[name].astype("category") for name in _CATEGORIES})


@dataclass(frozen=True)
class _Source:
    """One file without its polygons.

    Arguments:
        box: around its polygons, as it says; None where it does not.
        table: its kinds of parcels.
        rows: file of `parcel_fields.ROW` of each parcel.
        ids: file of the ids.
    """

    path: Path
    layer: FileLayer
    crs: CRS
    box: Box | None
    table: ParcelTable
    remarks: tuple[str, ...]
    rows: Path
    ids: Path

    def __len__(self) -> int:
        return len(load_array(self.rows))

    def tell(self, report: Reporter) -> None:
        """Say which columns were taken, and what was put right or could have been meant."""
        roles = self.table.roles
        report.info(roles.told(str(self.path)))
        for line in (*self.remarks, *self.table.remarks, *roles.doubts(str(self.path), self.layer.fields)):
            report.warn(line)


def _read_source(
    path: Path, columns: ParcelColumns, default_year: int | None, folder: Path, *, several: bool, batch: int
) -> _Source:
    layer = find_layer(find_file(path, columns.layer), columns.layer, is_register)
    roles, year = roles_of(layer, columns, default_year)
    rows, ids = folder / "rows.npy", folder / IDS
    with ids.open("ab") as stream:
        rows_of = path.stem if several else ""
        found = spool_fields(layer, roles, stream, rows, encoding=columns.encoding, rows_of=rows_of, size=batch)
    require_rows(int(found.parcels.sum()), path)
    system, box = stated_place(layer)
    crs, said = coordinate_system(system, path, columns.crs)
    table = kind_table(found.kinds, roles, columns, year, where=str(path), parcels=found.parcels)
    return _Source(path, layer, crs, box, table, (*layer.remarks, *found.remarks, *said), rows, ids)


@dataclass(frozen=True)
class _Before:
    """Rows and kinds of the files before one."""

    rows: int
    kinds: int


@dataclass(frozen=True)
class _Batch:
    """Some polygons made clean: those that are left, with what is known of them, and what was wrong with the others."""

    shapes: np.ndarray
    about: np.ndarray
    issues: LayerIssues


def _spool(
    source: _Source, crs: CRS, before: _Before, writer: PolygonWriter, issues: LayerIssues, batch: int, threads: int
) -> None:
    """Write the clean polygons of a file in a coordinate system."""
    rows, done, farthest = load_array(source.rows), 0, 0.0

    def batches() -> Iterator[tuple[int, np.ndarray]]:
        nonlocal done, farthest
        for shapes in polygon_batches(source.layer, batch):
            farthest = max(farthest, farthest_of(shapes))
            done += len(shapes)
            if done <= len(rows) and are_degrees(farthest, source.crs):
                yield done - len(shapes), shapes

    def clean(part: tuple[int, np.ndarray]) -> _Batch:
        first, shapes = part
        about, noted = np.array(rows[first : first + len(shapes)]), LayerIssues()
        placed = gpd.GeoSeries(shapes, crs=source.crs).to_crs(crs).to_numpy() if source.crs != crs else shapes
        ids = np.array([text.decode() for text in read_pieces(source.ids, about["id"], about["length"])], np.str_)
        rest, cleaned = clean_polygons(ids, placed, before.rows + first, noted)
        about["kind"] += before.kinds
        return _Batch(cleaned, about[rest], noted)

    for found in in_order(clean, batches(), threads):
        writer.add(found.shapes, found.about)
        issues.add(found.issues)
    check_degrees(farthest, source.crs, source.path)
    if done != len(rows):
        raise CorruptInputError(
            f"cannot read parcels from {source.path}: {done} polygons for {len(rows)} rows",
            hint="check that the file is whole and that nothing writes to it",
        )


def _unique(parcels: SpooledParcels, issues: LayerIssues) -> SpooledParcels:
    """The first of each parcel id and year.

    Raises:
        SchemaError: a row repeats a parcel with another polygon.
    """
    doubtful = _repeated(parcels)
    if not len(doubtful):
        return parcels
    year = parcels.kinds["year"].to_numpy()[parcels.polygons.records(doubtful)["kind"]]
    table = pd.DataFrame({"parcel_id": parcels.ids(doubtful).astype(object), "year": year})
    kept = unique_rows(table, lambda rows: parcels.polygons.shapes(doubtful[rows]), issues)
    again = np.delete(doubtful, kept)
    return parcels.take(np.delete(np.arange(len(parcels), dtype=np.uint32), again))


def _repeated(parcels: SpooledParcels) -> np.ndarray:
    """Places of the parcels whose id and year have a hash that another's have too, ascending.

    The hashes lie on disk and are compared a part at a time: those that are alike are in one part.
    """
    path = parcels.polygons.folder / _HASHES
    year = parcels.kinds["year"].to_numpy()
    with atomic_output(path) as part, GrowingArray(part, np.dtype("<i8")) as hashes:
        for first in range(0, len(parcels), _AT_A_TIME):
            held = parcels.polygons.records(slice(first, first + _AT_A_TIME))
            ids = read_pieces(parcels.polygons.folder / IDS, held["id"], held["length"])
            keys = zip(ids, year[held["kind"]].tolist(), strict=True)
            hashes.append(np.fromiter((hash(key) for key in keys), np.int64, len(held)))
    found = [np.zeros(0, np.uint32)]
    if len(parcels):
        known, parts = load_array(path), -(-len(parcels) // (4 * _AT_A_TIME))
        for number in range(parts):
            here = np.flatnonzero(known % parts == number) if parts > 1 else np.arange(len(known))
            distinct, count = np.unique(known[here], return_counts=True)
            if len(distinct) < len(here):
                found.append(here[np.isin(known[here], distinct[count > 1])].astype(np.uint32))
    remove(path)
    return np.sort(np.concatenate(found))
