"""Where a file says that its parcels lie, without a look at them."""

from __future__ import annotations

import geopandas as gpd
import pytest
import shapely

from cropgen.series.parcel_files import find_file, find_layer
from cropgen.series.parcel_polygons import stated_place

BOX = (500_000.0, 4_900_000.0, 500_300.0, 4_900_200.0)


def layer_of(path):
    return find_layer(find_file(path), None, lambda fields: False)


def frame(*, heights: bool = False) -> gpd.GeoDataFrame:
    west, south, east, north = BOX
    shapes = [shapely.box(west, south, west + 50, south + 50), shapely.box(east - 90, north - 70, east, north)]
    shapes = [shapely.force_3d(shape, 7.0) for shape in shapes] if heights else shapes
    return gpd.GeoDataFrame({"crop": ["a", "b"]}, geometry=shapes, crs="EPSG:32631")


@pytest.mark.parametrize("heights", [False, True])
@pytest.mark.parametrize("name", ["a.gpkg", "a.parquet", "a.shp", "a.fgb"])
def test_box_and_system(tmp_path, name, heights):
    path = tmp_path / name
    frame(heights=heights).to_parquet(path) if name.endswith("parquet") else frame(heights=heights).to_file(path)
    place = stated_place(layer_of(path))
    assert place.box == pytest.approx(BOX)
    assert gpd.GeoSeries([], crs=place.system).crs == frame().crs


def test_a_table_of_text_states_neither(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('crop,wkt\na,"POLYGON ((0 0, 1 0, 1 1, 0 0))"\n', encoding="utf-8")
    assert stated_place(layer_of(path)) == (None, None)
