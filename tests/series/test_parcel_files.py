"""Files of parcels as they are found in the wild, each trap made by code."""

from __future__ import annotations

import math
import sqlite3
import struct
import zipfile
from contextlib import closing
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from cropgen.core.errors import CorruptInputError, SchemaError, UsageError
from cropgen.core.progress import Silent
from cropgen.core.tally import Tally
from cropgen.series.geometry import ParcelColumns, read_layer, read_parcels
from cropgen.series.parcel_files import find_file, true_encoding

AUTO = ParcelColumns()


def squares(count: int, high: float | None = None) -> list[shapely.Polygon]:
    flat = [shapely.box(i * 100, 0, i * 100 + 80, 80) for i in range(count)]
    return flat if high is None else [shapely.force_3d(square, high) for square in flat]


def write(path: Path, geometry, crs="EPSG:32631", driver_options=None, **columns) -> Path:
    gpd.GeoDataFrame(columns, geometry=geometry, crs=crs).to_file(path, **(driver_options or {}))
    return path


def zipped(path: Path, *members: tuple[Path, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file, name in members:
            archive.write(file, name)
    return path


def test_a_shapefile_deep_in_a_zip_is_opened_in_place(tmp_path):
    write(tmp_path / "p.shp", squares(2), id=[1, 2], crop=["a", "b"])
    parts = [(file, f"deep/er/{file.name}") for file in sorted(tmp_path.glob("p.*"))]
    packed = zipped(tmp_path / "EE (2020) {x}.zip", *parts)
    before = sorted(file.name for file in tmp_path.iterdir())
    frame = read_parcels(packed, AUTO).frame
    assert frame["code"].tolist() == ["a", "b"]
    assert frame["year"].tolist() == [2020, 2020]
    assert sorted(file.name for file in tmp_path.iterdir()) == before


def test_geoparquet_in_a_zip(tmp_path):
    gpd.GeoDataFrame({"id": [7], "crop": ["a"]}, geometry=squares(1), crs=32631).to_parquet(tmp_path / "p.geoparquet")
    packed = zipped(tmp_path / "x_2020.zip", (tmp_path / "p.geoparquet", "p.geoparquet"))
    assert read_parcels(packed, AUTO).frame["parcel_id"].tolist() == ["7"]


def test_a_zip_of_two_files_needs_a_name(tmp_path):
    for name in ("north", "south"):
        write(tmp_path / f"{name}.gpkg", squares(1), id=[name])
    packed = zipped(tmp_path / "x_2020.zip", *((tmp_path / f"{n}.gpkg", f"{n}.gpkg") for n in ("north", "south")))
    with pytest.raises(SchemaError, match="2 vector files: north, south") as caught:
        read_parcels(packed, AUTO)
    assert "--layer" in (caught.value.hint or "")
    assert read_parcels(packed, ParcelColumns(layer="south")).frame["parcel_id"].tolist() == ["south"]


def test_zips_without_a_vector_file_are_refused(tmp_path):
    (tmp_path / "readme.txt").write_text("nothing")
    inner = zipped(tmp_path / "inner.zip", (tmp_path / "readme.txt", "readme.txt"))
    with pytest.raises(SchemaError, match=r"only another archive: inner\.zip") as caught:
        find_file(zipped(tmp_path / "outer.zip", (inner, "inner.zip")))
    assert caught.value.hint == "unpack it first"
    with pytest.raises(SchemaError, match="no vector file"):
        find_file(inner)
    (tmp_path / "cut.zip").write_bytes(inner.read_bytes()[:40])
    with pytest.raises(CorruptInputError, match=r"cut\.zip"):
        find_file(tmp_path / "cut.zip")


def test_heights_are_left_out_and_polygons_kept_out_of_collections(tmp_path):
    first, second = squares(2, high=12.5)
    mixed = shapely.GeometryCollection([shapely.force_2d(second), shapely.LineString([(0, 0), (500, 500)])])
    point, line = shapely.Point(1, 1), shapely.LineString([(0, 0), (1, 1)])
    path = tmp_path / "p_2020.gpkg"
    write(path, [first, mixed, point, line, None], driver_options={"geometry_type": "Unknown"}, id=list("abcde"))
    found = read_parcels(path, AUTO)
    assert found.frame["parcel_id"].tolist() == ["a", "b"]
    assert not found.frame.geometry.has_z.any()
    assert found.frame.geometry.geom_type.tolist() == ["Polygon", "Polygon"]
    assert found.frame.geometry.area.tolist() == [6400, 6400]
    assert found.issues.dropped == {"null or empty geometry": Tally.of(["e"]), "not a polygon": Tally.of(["c", "d"])}


def circle(path: Path, radius: float) -> Path:
    """A GeoPackage whose only parcel is a circle of two arcs."""
    write(path, squares(1), id=["round"])
    turns = [(radius, 0), (0, radius), (-radius, 0), (0, -radius), (radius, 0)]
    arcs = struct.pack("<BII", 1, 8, len(turns)) + b"".join(struct.pack("<dd", *turn) for turn in turns)
    curve = struct.pack("<BII", 1, 10, 1) + arcs
    blob = b"GP" + struct.pack("<BBi", 0, 1, 32631) + curve
    with closing(sqlite3.connect(path)) as base:
        for (trigger,) in base.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            base.execute(f'drop trigger "{trigger}"')
        base.execute(f'update "{path.stem}" set geom = ?', (blob,))
        base.execute("update gpkg_geometry_columns set geometry_type_name = 'CURVEPOLYGON'")
        base.commit()
    return path


def test_arcs_become_segments(tmp_path):
    frame = read_parcels(circle(tmp_path / "c_2020.gpkg", 50.0), AUTO).frame
    assert frame.geometry.iloc[0].geom_type == "Polygon"
    assert frame.geometry.area.iloc[0] == pytest.approx(math.pi * 2500, rel=2e-3)


@pytest.mark.parametrize(
    ("encoding", "declared", "told"),
    [
        ("cp1252", None, "cp1252"),
        ("utf-8", None, "utf-8"),
        ("cp1252", "UTF-8", "cp1252"),
        ("cp1252", "1252", None),
        ("utf-8", "UTF-8", None),
    ],
)
def test_shapefiles_that_are_silent_or_wrong_about_their_text(tmp_path, encoding, declared, told):
    crops = ["Žito – ozimé", "Maïs", "oats"]
    if encoding == "cp1252" and declared is None:
        crops[1] = "Hafer €"
    path = write(tmp_path / "p_2020.shp", squares(3), driver_options={"encoding": encoding}, id=[1, 2, 3], crop=crops)
    if declared is None:
        path.with_suffix(".cpg").unlink(missing_ok=True)
    else:
        path.with_suffix(".cpg").write_text(declared)
    report = Silent()
    assert read_parcels(path, AUTO, report=report).frame["code"].tolist() == crops
    warned = [line for line in report.warnings if "decoded again" in line or "read as" in line]
    assert [told in line for line in warned] == ([True] if told else [])


def test_the_encoding_can_be_named(tmp_path):
    path = write(tmp_path / "p_2020.shp", squares(1), driver_options={"encoding": "cp1257"}, id=[1], crop=["Žirniai š"])
    path.with_suffix(".cpg").unlink(missing_ok=True)
    assert read_parcels(path, ParcelColumns(encoding="cp1257")).frame["code"].tolist() == ["Žirniai š"]
    with pytest.raises(UsageError, match="no such encoding"):
        read_parcels(path, ParcelColumns(encoding="klingon"))


def test_only_what_cannot_be_chance_is_decoded_again():
    assert true_encoding(["oats", "Vårbyg", "Mähweide"]) is None
    assert true_encoding([]) is None
    assert true_encoding(["VÃ¥rbyg", "oats"]) == ("latin-1", "utf-8")
    assert true_encoding(["VÃ¥rbyg", "Vårbyg"]) is None
    assert true_encoding(["\x8eito"]) == ("latin-1", "cp1252")


def test_csv_with_well_known_text(tmp_path):
    table = pd.DataFrame({"parcel_id": ["007", "008"], "crop": ["a", "b"], "WKT": [s.wkt for s in squares(2)]})
    table.to_csv(tmp_path / "p_2020.csv", index=False)
    with pytest.raises(SchemaError, match="coordinate system") as caught:
        read_parcels(tmp_path / "p_2020.csv", AUTO)
    assert "--crs EPSG:" in (caught.value.hint or "")
    frame = read_parcels(tmp_path / "p_2020.csv", ParcelColumns(crs="EPSG:32631")).frame
    assert frame["parcel_id"].tolist() == ["007", "008"]
    assert frame.geometry.area.tolist() == [6400, 6400]
    table.drop(columns="WKT").to_csv(tmp_path / "q_2020.csv", index=False)
    with pytest.raises(SchemaError, match="no geometry"):
        read_parcels(tmp_path / "q_2020.csv", AUTO)


def test_a_table_beside_the_layer_and_an_empty_layer_do_not_count(tmp_path):
    path = tmp_path / "p_2020.gpkg"
    write(path, squares(2), id=[1, 2])
    write(path, [], driver_options={"layer": "empty", "geometry_type": "Polygon"}, id=np.array([], int))
    assert read_parcels(path, AUTO).frame["parcel_id"].tolist() == ["1", "2"]
    with pytest.raises(SchemaError, match=r"no layer 'none'.*p_2020, empty"):
        read_parcels(path, ParcelColumns(layer="none"))


def test_of_several_layers_the_one_of_a_known_register_is_taken(tmp_path):
    path = tmp_path / "p_2020.gpkg"
    write(path, squares(2), driver_options={"layer": "soil"}, kind=["x", "y"])
    write(path, squares(1), driver_options={"layer": "crops"}, gewas=["Maïs"], gewascode=[259], jaar=[2021])
    report = Silent()
    frame = read_parcels(path, AUTO, report=report).frame
    assert any("layer crops is read; soil could be meant too" in line for line in report.warnings)
    assert frame[["year", "code", "name"]].to_numpy().tolist() == [[2021, "259", "Maïs"]]


def test_coordinates_beyond_degrees(tmp_path):
    path = write(tmp_path / "p_2020.geojson", squares(5), crs="EPSG:4326", id=[1, 2, 3, 4, 5])
    with pytest.raises(SchemaError, match=r"up to 480 are no degrees.*WGS 84") as caught:
        read_parcels(path, AUTO)
    assert "--crs" in (caught.value.hint or "")
    report = Silent()
    assert read_parcels(path, ParcelColumns(crs="EPSG:32631"), report=report).frame.crs.to_epsg() == 32631
    assert any("read as WGS 84 / UTM zone 31N" in line for line in report.warnings)
    with pytest.raises(UsageError, match="--crs EPSG:nowhere"):
        read_parcels(path, ParcelColumns(crs="EPSG:nowhere"))


GML = """<?xml version="1.0" encoding="UTF-8"?>
<gml:FeatureCollection xmlns:gml="http://www.opengis.net/gml/3.2" xmlns:base="http://inspire.ec.europa.eu/schemas/base/3.3"
 xmlns:elu="http://inspire.ec.europa.eu/schemas/elu/4.0" xmlns:xlink="http://www.w3.org/1999/xlink" gml:id="c">
<gml:featureMember><elu:ExistingLandUseObject gml:id="a1">
<elu:inspireId><base:Identifier><base:localId>A1</base:localId></base:Identifier></elu:inspireId>
<elu:geometry><gml:Polygon gml:id="g1" srsName="http://www.opengis.net/def/crs/EPSG/0/4258" srsDimension="2">
<gml:exterior><gml:LinearRing>
<gml:posList>53.79 -6.32 53.79 -6.31 53.80 -6.31 53.79 -6.32</gml:posList>
</gml:LinearRing></gml:exterior></gml:Polygon></elu:geometry>
<elu:specificLandUse xlink:href="http://x/y" xlink:title="Permanent Pasture"/>
</elu:ExistingLandUseObject></gml:featureMember></gml:FeatureCollection>
"""


def test_land_use_kept_in_attributes_of_gml(tmp_path):
    (tmp_path / "lu_2022.gml").write_text(GML)
    frame = read_parcels(tmp_path / "lu_2022.gml", AUTO).frame
    assert frame[["parcel_id", "year", "code"]].to_numpy().tolist() == [["A1", 2022, "Permanent Pasture"]]
    lon, lat = frame.geometry.iloc[0].centroid.coords[0]
    assert (round(lon), round(lat)) == (-6, 54)
    assert [file.name for file in tmp_path.iterdir()] == ["lu_2022.gml"]


def test_all_attributes_of_a_layer(tmp_path):
    path = write(tmp_path / "p.gpkg", squares(1), id=[1], other=["x"])
    assert read_layer(path)["other"].tolist() == ["x"]
