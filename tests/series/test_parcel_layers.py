"""Reading parcel layers: formats, columns, years, repairs."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from cropgen.core.errors import CorruptInputError, DataError, MissingInputError, SchemaError, UsageError
from cropgen.core.tally import Tally
from cropgen.series.columns import as_text, as_years, merge_codes
from cropgen.series.geometry import ParcelColumns, interior_lonlat, read_parcels

AUTO = ParcelColumns()


def squares(count: int) -> list[shapely.Polygon]:
    return [shapely.box(i * 100, 0, i * 100 + 80, 80) for i in range(count)]


def layer(path, geometry, crs="EPSG:32631", **columns):
    frame = gpd.GeoDataFrame(columns, geometry=geometry, crs=crs)
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    else:
        frame.to_file(path)
    return path


@pytest.mark.parametrize("name", ["p.gpkg", "p.shp", "p.geojson", "p.parquet"])
def test_formats_and_usual_columns(tmp_path, name):
    path = layer(tmp_path / name, squares(2), FIELD_ID=[1, 2], CROP=["115", None], YEAR=[2020, 2021], REGION=["n", "s"])
    frame = read_parcels(path, AUTO).frame
    assert frame["parcel_id"].tolist() == ["1", "2"]
    assert frame["code"].tolist() == ["115", ""]
    assert frame["year"].tolist() == [2020, 2021]
    assert frame["region"].tolist() == ["n", "s"]


def test_named_columns_and_row_numbers(tmp_path):
    path = layer(tmp_path / "p_2019.gpkg", squares(2), nutzung=[7, 8], nutz_name=["Weizen", "Mais"])
    frame = read_parcels(path, ParcelColumns(label="nutzung", name="nutz_name")).frame
    assert frame["parcel_id"].tolist() == ["0", "1"]
    assert frame["year"].tolist() == [2019, 2019]
    assert frame["code"].tolist() == ["7", "8"]
    assert frame["name"].tolist() == ["Weizen", "Mais"]


def test_leading_zeros_and_gaps_in_codes_survive(tmp_path):
    path = layer(tmp_path / "p_2020.gpkg", squares(3), id=["007", "008", "009"], crop_code=[115.0, np.nan, 3.0])
    found = read_parcels(path, AUTO)
    assert found.frame["parcel_id"].tolist() == ["007", "008", "009"]
    assert found.legend("x").codes == ("115", "3")


def test_merged_codes(tmp_path):
    path = layer(
        tmp_path / "p_2020.gpkg", squares(3), id=[1, 2, 3], crop_code=["wheat-rice", "wheat", "rice"],
        crop_name=["a", "b", "c"],
    )  # fmt: skip
    legend = read_parcels(path, ParcelColumns(merge={"wheat*": "wheat"})).legend("x")
    assert legend.codes == ("rice", "wheat")
    assert legend.names == ("c", "b")
    assert merge_codes(np.array(["a1", "b1"]), {"a*": "x", "*1": "y"}).tolist() == ["x", "y"]


def test_layers_are_joined_in_the_first_coordinate_system(tmp_path):
    one = layer(tmp_path / "a_2020.gpkg", squares(1), id=[1])
    two = layer(tmp_path / "a_2021.gpkg", gpd.GeoSeries(squares(1), crs=32631).to_crs(4326), crs=4326, id=[1])
    frame = read_parcels([one, two], AUTO).frame
    assert frame.crs.to_epsg() == 32631
    assert frame["year"].tolist() == [2020, 2021]
    assert frame.geometry.area.tolist() == pytest.approx([6400, 6400], rel=1e-6)


def test_duplicates(tmp_path):
    a, b = squares(2)
    path = layer(tmp_path / "same_2020.gpkg", [a, a, b], id=[1, 1, 2])
    found = read_parcels(path, AUTO)
    assert found.frame["parcel_id"].tolist() == ["1", "2"]
    assert list(found.issues.dropped.values()) == [Tally.of(["1"])]
    path = layer(tmp_path / "clash_2020.gpkg", [a, b], id=[1, 1])
    with pytest.raises(SchemaError, match="another polygon: 1"):
        read_parcels(path, AUTO)


def test_repair_keeps_polygons_only(tmp_path):
    collapsed = shapely.Polygon([(0, 0), (10, 0), (10, 10), (0, 10), (0, 0), (-50, 0), (0, 0)])
    path = layer(tmp_path / "p_2020.gpkg", [collapsed, shapely.Polygon([(0, 0), (5, 5), (9, 9)])], id=["x", "y"])
    found = read_parcels(path, AUTO)
    assert found.frame.geometry.area.tolist() == pytest.approx([100])
    assert found.frame.geometry.iloc[0].geom_type == "Polygon"
    assert found.issues.repaired == Tally.of(["x"])
    assert found.issues.dropped == {"nothing left after repair": Tally.of(["y"])}


def test_points_inside(tmp_path):
    ring = shapely.Polygon([(0, 0), (100, 0), (100, 100), (0, 100)], [[(10, 10), (90, 10), (90, 90), (10, 90)]])
    shape = gpd.GeoSeries([shapely.affinity.translate(ring, 500_000, 5_600_000)], crs=32631)
    lon, lat = interior_lonlat(shape)
    inside = gpd.GeoSeries([shapely.Point(lon[0], lat[0])], crs=4326).to_crs(32631).iloc[0]
    assert shape.iloc[0].contains(inside)


def test_faults(tmp_path):
    with pytest.raises(MissingInputError):
        read_parcels(tmp_path / "none.gpkg", AUTO)
    (tmp_path / "broken.gpkg").write_bytes(b"SQLite format 3\0 and no more")
    with pytest.raises(CorruptInputError, match=r"broken\.gpkg"):
        read_parcels(tmp_path / "broken.gpkg", AUTO)
    with pytest.raises(UsageError, match="harvest year"):
        read_parcels(layer(tmp_path / "p.gpkg", squares(1), id=[1]), AUTO)
    with pytest.raises(SchemaError, match=r"kultur.*found id"):
        read_parcels(layer(tmp_path / "q_2020.gpkg", squares(1), id=[1]), ParcelColumns(label="kultur"))
    pd.DataFrame({"id": [1]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(SchemaError, match="no geometry"):
        read_parcels(tmp_path / "t.csv", AUTO)


def test_empty_layer_and_missing_coordinate_system(tmp_path):
    path = layer(tmp_path / "e_2020.gpkg", squares(1), id=[1])
    gpd.read_file(path).iloc[:0].to_file(tmp_path / "empty_2020.gpkg")
    with pytest.raises(DataError, match="empty"):
        read_parcels(tmp_path / "empty_2020.gpkg", AUTO)
    layer(tmp_path / "n_2020.shp", squares(1), id=[1])
    (tmp_path / "n_2020.prj").unlink()
    with pytest.raises(SchemaError, match="coordinate system"):
        read_parcels(tmp_path / "n_2020.shp", AUTO)
    assert read_parcels(tmp_path / "n_2020.shp", ParcelColumns(crs="EPSG:32631")).frame.crs.to_epsg() == 32631


def test_a_file_of_several_layers_needs_a_name(tmp_path):
    for name in ("one", "two"):
        gpd.GeoDataFrame({"id": [name]}, geometry=squares(1), crs=32631).to_file(tmp_path / "p_2020.gpkg", layer=name)
    with pytest.raises(SchemaError, match="one, two"):
        read_parcels(tmp_path / "p_2020.gpkg", AUTO)
    assert read_parcels(tmp_path / "p_2020.gpkg", ParcelColumns(layer="two")).frame["parcel_id"].tolist() == ["two"]


def test_text_and_years_of_columns():
    assert as_text(pd.Series([1.0, np.nan, 2.5])).tolist() == ["1", "", "2.5"]
    assert as_text(pd.Series([10**12, 7])).tolist() == ["1000000000000", "7"]
    assert as_text(pd.Series([" a ", None])).tolist() == ["a", ""]
    assert as_years(pd.Series(["2020-05-01", "2021"]), where="x").tolist() == [2020, 2021]
    assert as_years(pd.Series([2020, 2021]), where="x").tolist() == [2020, 2021]
    with pytest.raises(SchemaError, match="'soon'"):
        as_years(pd.Series(["2020", "soon"], name="y"), where="x")


@pytest.mark.real
@pytest.mark.parametrize(
    ("path", "options", "rows", "epsg"),
    [
        ("nl/brpgewaspercelen_definitief_2023.gpkg", {"label": "gewascode"}, 100, 28992),
        ("fi/LandUse.ExistingLandUse.GSAAAgriculturalParcel.gpkg", {"year": 2023}, 100, 3067),
        ("ch/lwb_nutzungsflaechen_v2_0_lv95.gpkg", {"year": 2023}, 100, 2056),
        ("ec_si/SI_2021.zip", {}, 100, 3794),
    ],
)
def test_real_declarations(shared_data, path, options, rows, epsg):
    file = shared_data / "fiboa-parcels" / path
    if not file.exists():
        pytest.skip(f"{file} is absent")
    found = read_parcels(file, ParcelColumns(**options))
    assert len(found.frame) + sum(map(len, found.issues.dropped.values())) == rows
    assert found.frame.crs.to_epsg() == epsg
