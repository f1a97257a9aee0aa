"""Parcels whose polygons lie on disk against the same parcels held whole."""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import shapely
from geopandas.testing import assert_geodataframe_equal

from cropgen.core.errors import CorruptInputError, CropgenError, DataError, SchemaError
from cropgen.core.progress import Silent
from cropgen.core.tally import Tally
from cropgen.series import parcel_spool
from cropgen.series.geometry import ParcelColumns, ParcelLayer, read_layer, read_parcels
from cropgen.series.parcel_spool import SpooledLayer, spool_parcels
from cropgen.series.polygon_file import SHAPES

BOW = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
HIGH = shapely.Polygon([(20, 0, 1), (30, 0, 2), (30, 10, 3)])
TWO = shapely.MultiPolygon([shapely.box(40, 0, 50, 10), shapely.box(60, 0, 70, 10)])
MIXED = shapely.GeometryCollection([shapely.box(80, 0, 90, 10), shapely.LineString([(0, 0), (1, 1)])])
FLAT = shapely.Polygon([(0, 0), (5, 5), (0, 0)])
TAGS = ParcelColumns(label="tags")
HOLE = shapely.box(0, 100, 50, 150).difference(shapely.box(10, 110, 20, 120))
GOOD = shapely.box(100, 0, 110, 10)
DEFECTS = [
    ("hole", HOLE, "wheat"), ("flat", FLAT, "maize"), ("line", shapely.LineString([(0, 0), (9, 9)]), "rye"),
    ("null", None, "oats"), ("bow", BOW, "maize"), ("high", HIGH, "wheat"), (None, GOOD, "wheat"), ("two", TWO, "rye"),
    ("good", GOOD, "rye"), ("mixed", MIXED, None), ("good", GOOD, "lupin"), ("empty", shapely.Polygon(), "rye"),
    ("point", shapely.Point(1, 1), "rye"), ("last", shapely.box(0, 300, 10, 310), "barley"),
]  # fmt: skip


class Heard(Silent):
    """Keeps what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str) -> None:
        self.lines.append(f"info {message}")

    def warn(self, message: str) -> None:
        self.lines.append(f"warn {message}")


def defects(path: Path, epsg: int = 32631, prefix: str = "") -> Path:
    ids, shapes, crops = zip(*DEFECTS, strict=True)
    named = [None if i is None else prefix + i for i in ids]
    frame = gpd.GeoDataFrame({"field_id": named, "crop": crops}, geometry=list(shapes), crs=32631).to_crs(epsg)
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_file(path)
    return path


def squares(path: Path, count: int = 20, /, **columns: object) -> Path:
    shapes = [shapely.box(i * 100, 0, i * 100 + 80, 80) for i in range(count)]
    frame = gpd.GeoDataFrame({"id": range(count), **columns}, geometry=shapes, crs=32631)
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_file(path)
    return path


def as_held(layer: SpooledLayer) -> gpd.GeoDataFrame:
    return layer.parcels.frame(0, len(layer.parcels))


def boxes(layer: SpooledLayer) -> np.ndarray:
    return layer.parcels.polygons.records(slice(None))["box"]


def outcome(read: Callable[[], ParcelLayer | SpooledLayer]) -> ParcelLayer | SpooledLayer | tuple[object, ...]:
    """What was read, or the error."""
    try:
        return read()
    except CropgenError as error:
        return type(error), error.message, error.hint


def assert_same(paths, columns: ParcelColumns, folder: Path, batch: int) -> None:
    """Frame, issues, legend and all that is said, or the error."""
    held, heard = Heard(), Heard()
    whole = outcome(lambda: read_parcels(paths, columns, default_year=2020, report=held))
    spooled = outcome(lambda: spool_parcels(paths, columns, folder, default_year=2020, report=heard, batch=batch))
    if not isinstance(whole, ParcelLayer) or not isinstance(spooled, SpooledLayer):
        assert spooled == whole
        return
    assert_geodataframe_equal(as_held(spooled), whole.frame)
    assert shapely.to_wkb(as_held(spooled).geometry).tolist() == shapely.to_wkb(whole.frame.geometry).tolist()
    assert (list(spooled.issues.dropped.items()), spooled.issues.repaired) == (
        list(whole.issues.dropped.items()), whole.issues.repaired,
    )  # fmt: skip
    assert (spooled.crs, spooled.hcat, heard.lines) == (whole.crs, whole.hcat, held.lines)
    assert spooled.legend("x") == whole.legend("x")
    np.testing.assert_array_equal(boxes(spooled), shapely.bounds(whole.frame.geometry.to_numpy()))


@pytest.mark.parametrize("batch", [1, 7, 8192])
@pytest.mark.parametrize("suffix", ["gpkg", "parquet", "geojson"])
def test_defects_are_seen_whatever_the_batch(tmp_path, suffix, batch):
    epsg = 4326 if suffix == "geojson" else 32631
    assert_same(defects(tmp_path / f"p_2020.{suffix}", epsg), ParcelColumns(), tmp_path / "spool", batch)


@pytest.mark.parametrize("batch", [1, 7, 8192])
def test_files_are_joined_in_the_system_of_the_first(tmp_path, batch):
    paths = [defects(tmp_path / "a_2020.gpkg"), defects(tmp_path / "b_2021.parquet", 32632, "b"),
             squares(tmp_path / "c_2022.shp")]  # fmt: skip
    assert_same(paths, ParcelColumns(), tmp_path / "spool", batch)
    assert_same(paths, ParcelColumns(merge={"w*": "cereal", "rye": "cereal"}), tmp_path / "spool", batch)


@pytest.mark.parametrize("epsg", [32631, 4326])
def test_a_polygon_with_an_infinite_corner_is_left_out(tmp_path, epsg):
    endless = shapely.Polygon([(0, 0), (np.inf, 10), (10, 0), (0, 10)])
    frame = {"id": ["a", "b", "c"], "crop": ["rye", "maize", "rye"]}
    shapes = [shapely.box(0, 0, 1, 1), endless, BOW]
    gpd.GeoDataFrame(frame, geometry=shapes, crs=epsg).to_parquet(tmp_path / "p_2020.parquet")
    found = read_parcels(tmp_path / "p_2020.parquet", ParcelColumns())
    assert found.frame["parcel_id"].tolist() == ["a", "c"]
    assert found.issues.dropped == {"a coordinate that is no number": Tally.of(["b"])}
    assert found.issues.repaired == Tally.of(["c"])
    assert_same(tmp_path / "p_2020.parquet", ParcelColumns(), tmp_path / "spool", 2)


def test_ids_may_be_decimals(tmp_path):
    path = squares(tmp_path / "p_2020.parquet", 3, id=[Decimal(10**17 + i) for i in range(3)])
    assert read_parcels(path, ParcelColumns()).frame["parcel_id"].tolist() == [str(10**17 + i) for i in range(3)]
    assert_same(path, ParcelColumns(), tmp_path / "spool", 2)


@pytest.mark.parametrize("suffix", ["gpkg", "parquet"])
def test_ids_of_many_digits_are_exact_beside_a_missing_one(tmp_path, suffix):
    ids = [10**17 + 3 * i for i in range(8)]
    path = squares(tmp_path / f"p_2020.{suffix}", 8, id=pd.array([*ids[:5], None, *ids[6:]], "Int64"))
    if suffix == "parquet":
        plain = pq.read_table(path)
        pq.write_table(plain.replace_schema_metadata({b"geo": plain.schema.metadata[b"geo"]}), path)
    assert read_parcels(path, ParcelColumns()).frame["parcel_id"].tolist() == [str(i) for i in ids if i != ids[5]]
    assert_same(path, ParcelColumns(), tmp_path / "spool", 3)
    assert_same(path, ParcelColumns(encoding="utf-8"), tmp_path / "spool", 3)


def test_lists_are_no_crops_and_no_matter_elsewhere(tmp_path):
    shapes = [shapely.box(i, 0, i + 1, 1) for i in range(2)]
    frame = {"id": ["a", "b"], "crop": ["Mähwiese".encode().decode("latin-1"), "rye"], "tags": [["x", "y"], ["z"]]}
    path = tmp_path / "p_2020.geojson"
    gpd.GeoDataFrame(frame, geometry=shapes, crs=4326).to_file(path)
    assert read_layer(path)["crop"].tolist() == ["Mähwiese", "rye"]
    assert_same(path, ParcelColumns(), tmp_path / "spool", 7)
    for read in (lambda: read_parcels(path, TAGS), lambda: spool_parcels(path, TAGS, tmp_path / "spool")):
        with pytest.raises(SchemaError, match=r"p_2020\.geojson: column 'tags' holds lists such as \['x', 'y'\]"):
            read()


def test_a_parcel_twice_with_another_polygon_is_refused(tmp_path):
    path = tmp_path / "p_2020.gpkg"
    shapes = [shapely.box(i, 0, i + 1, 1) for i in range(4)]
    gpd.GeoDataFrame({"id": ["a", "b", "a", "b"]}, geometry=shapes, crs=32631).to_file(path)
    with pytest.raises(SchemaError, match="2 rows repeat"):
        spool_parcels(path, ParcelColumns(), tmp_path / "spool", batch=3)
    assert_same(path, ParcelColumns(), tmp_path / "spool", 1)


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (ParcelColumns(crs="EPSG:4326"), SchemaError),
        (ParcelColumns(year=2019), None),
        (ParcelColumns(id="row-number"), None),
        (ParcelColumns(label="none"), SchemaError),
    ],
)
def test_options_act_alike(tmp_path, columns, expected):
    path = squares(tmp_path / "p_2020.gpkg", 9)
    if expected is not None:
        with pytest.raises(expected):
            spool_parcels(path, columns, tmp_path / "spool", batch=2)
    assert_same(path, columns, tmp_path / "spool", 2)


def test_layers_without_any_column_or_parcel(tmp_path):
    bare = tmp_path / "bare_2020.gpkg"
    gpd.GeoDataFrame(geometry=[GOOD, HOLE], crs=32631).to_file(bare)
    assert_same(bare, ParcelColumns(), tmp_path / "spool", 1)
    lines = tmp_path / "lines_2020.gpkg"
    gpd.GeoDataFrame({"id": [1]}, geometry=[shapely.LineString([(0, 0), (1, 1)])], crs=32631).to_file(lines)
    with pytest.raises(DataError, match=r"no usable parcel.*1 not a polygon"):
        spool_parcels(lines, ParcelColumns(), tmp_path / "spool")
    assert_same(lines, ParcelColumns(), tmp_path / "spool", 1)


@pytest.mark.parametrize("batch", [1, 7, 8192])
def test_text_is_put_right_whatever_the_batch(tmp_path, batch):
    """UTF-8 that the file calls Latin-1, in ids, codes and names; the last row is the first that shows it."""
    ids = [f"field {i}" for i in range(9)] + ["Åker 9"]
    crops = ["Vårbyg", *(["rye", "oats", "rye"] * 3)]
    path = squares(tmp_path / "p_2020.shp", 10, field_id=ids, crop=crops)
    path.with_suffix(".cpg").write_text("ISO-8859-1")
    said = Heard()
    layer = spool_parcels(path, ParcelColumns(), tmp_path / "spool", batch=batch, report=said)
    assert layer.parcels.ids()[-1] == "Åker 9"
    assert sum("decoded again" in line for line in said.lines) == 2
    assert_same(path, ParcelColumns(), tmp_path / "spool", batch)
    assert_same(path, ParcelColumns(encoding="utf-8"), tmp_path / "spool", batch)


def test_text_in_no_encoding_is_read_at_once(tmp_path):
    path = squares(tmp_path / "p_2020.shp", 9, crop=["Mähweide"] * 9)
    content = path.with_suffix(".dbf").read_bytes().replace("Mähweide".encode(), "Mähweide".encode("cp1252") + b" ")
    path.with_suffix(".dbf").write_bytes(content)
    assert_same(path, ParcelColumns(), tmp_path / "spool", 4)


@pytest.mark.parametrize("batch", [4, 8192])
def test_ids_and_years_of_all_types(tmp_path, batch):
    numbers = [1, 2, 3, 5, 7, 11, 13, 17, None]
    columns = {
        "number": numbers, "text": [f" {i} " if i != 4 else None for i in range(9)],
        "sown": pd.to_datetime([f"20{20 + i % 2}-03-0{i + 1}" for i in range(9)]), "crop": [None] * 5 + ["rye"] * 4,
    }  # fmt: skip
    for path in (tmp_path / "p.parquet", tmp_path / "p.gpkg"):
        squares(path, 9, **columns)
        for parts in ("number", "text", "id+number"):
            assert_same(path, ParcelColumns(id=parts, year="sown"), tmp_path / "spool", batch)


def test_crops_without_a_code_are_counted_by_parcel(tmp_path):
    crops = ["meadow", "lupin field", "meadow", "3301010101", "meadow"]
    path = squares(tmp_path / "p_2020.gpkg", 5, crop=crops)
    assert_same(path, ParcelColumns(to="hcat"), tmp_path / "spool", 2)


def test_polygons_in_another_encoding_of_geoparquet(tmp_path):
    path = tmp_path / "p_2020.parquet"
    frame = gpd.GeoDataFrame({"id": [1, 2, 3]}, geometry=[GOOD, HOLE, BOW], crs=32631)
    frame.to_parquet(path, geometry_encoding="geoarrow")
    assert_same(path, ParcelColumns(), tmp_path / "spool", 2)


def test_rows_that_lack_their_polygons_are_told(tmp_path, monkeypatch):
    path = squares(tmp_path / "p_2020.gpkg")
    cut = parcel_spool.polygon_batches
    monkeypatch.setattr(parcel_spool, "polygon_batches", lambda layer, rows: list(cut(layer, rows))[:-1])
    with pytest.raises(CorruptInputError, match="14 polygons for 20 rows"):
        spool_parcels(path, ParcelColumns(), tmp_path / "spool", batch=7)


def test_little_is_held_of_a_parcel(tmp_path):
    count = 3000
    crops = np.array(["soft winter wheat", "maize", "rye"])[np.arange(count) % 3]
    path = squares(tmp_path / "p_2020.parquet", count, crop=crops)
    layer = spool_parcels(path, ParcelColumns(), tmp_path / "spool", batch=1000)
    assert len(layer.parcels.kinds) == 3
    assert layer.parcels.polygons.rows.nbytes == 4 * count
    assert (layer.parcels.polygons.folder / SHAPES).stat().st_size == count * 93


def test_some_parcels_in_another_order(tmp_path):
    layer = spool_parcels(squares(tmp_path / "p_2020.gpkg"), ParcelColumns(), tmp_path / "spool", batch=6)
    some = layer.of_year(2020).take(np.array([19, 3, 3, 0]))
    assert some.ids().tolist() == ["19", "3", "3", "0"]
    assert some.frame(1, 4)["parcel_id"].tolist() == ["3", "3", "0"]
    assert some.polygons.records(slice(None))["box"][:, 0].tolist() == [1900, 300, 300, 0]
    assert shapely.area(some.polygons.shapes(np.array([0, 3]))).tolist() == [6400, 6400]
    assert len(layer.of_year(1999)) == 0


@pytest.mark.real
@pytest.mark.slow
def test_real_registers(shared_data, tmp_path):
    files = sorted(p for p in (shared_data / "fiboa-parcels").glob("*/*") if p.suffix in (".zip", ".gpkg", ".parquet"))
    if not files:
        pytest.skip("no parcel registers in the shared data")
    for file in files:
        assert_same(file, ParcelColumns(), tmp_path / "spool", 33)
