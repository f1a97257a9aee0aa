"""Which ground and which windows parcels need."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from rasterio.crs import CRS

from cropgen.core.errors import MissingInputError
from cropgen.imagery.scene import Grid
from cropgen.imagery.scene_plan import MARGIN, ParcelBoxes, wanted_bands
from cropgen.series.geometry import read_layer

UTM = "EPSG:32631"
WEST, NORTH = 600_000.0, 5_700_000.0
TILE = Grid(CRS.from_epsg(32631).to_wkt(), (10.0, 0.0, WEST, 0.0, -10.0, NORTH), (10980, 10980))


def boxes(*corners: tuple[float, float], side: float = 100.0, crs: str = UTM) -> ParcelBoxes:
    shapes = [shapely.box(WEST + x, NORTH - y - side, WEST + x + side, NORTH - y) for x, y in corners]
    return ParcelBoxes(gpd.GeoDataFrame(geometry=shapes, crs=UTM).to_crs(crs))


def test_a_window_holds_parcels_margin_and_whole_blocks():
    """Blocks are 512 × 10 m = 5120 m; a parcel at 5000 m with a margin of 300 m touches the first two."""
    assert boxes((5000, 10_300)).around(TILE) == (WEST, NORTH - 15_360, WEST + 10_240, NORTH - 5120)
    assert boxes((4000, 10_700)).around(TILE) == (WEST, NORTH - 15_360, WEST + 5120, NORTH - 10_240)
    assert boxes((4000, 10_700), (20_000, 10_700)).around(TILE) == (WEST, NORTH - 15_360, WEST + 20_480, NORTH - 10_240)


def test_only_the_polygons_of_a_layer_are_read(tmp_path):
    shapes = [shapely.box(WEST, NORTH - 100, WEST + 100, NORTH)]
    for name in ("a.gpkg", "b.parquet"):
        layer = gpd.GeoDataFrame({"crop": ["rye"], "area": [1.0]}, geometry=shapes, crs=UTM)
        layer.to_file(tmp_path / name) if name.endswith("gpkg") else layer.to_parquet(tmp_path / name)
        frame = read_layer(tmp_path / name, columns=())
        assert list(frame.columns) == ["geometry"]
        assert ParcelBoxes(frame).around(TILE) is not None


def test_a_window_ends_where_the_tile_ends():
    assert boxes((109_700, 109_700)).around(TILE) == (
        WEST + 21 * 5120, NORTH - 109_800, WEST + 109_800, NORTH - 21 * 5120,
    )  # fmt: skip
    assert boxes((-50, -50)).around(TILE) == (WEST, NORTH - 5120, WEST + 5120, NORTH)
    assert boxes((-5000, 0)).around(TILE) is None


@given(st.lists(st.tuples(st.integers(0, 100_000), st.integers(0, 100_000)), min_size=1, max_size=5))
def test_windows_are_of_whole_pixels_on_every_grid_of_the_tile(corners):
    west, south, east, north = boxes(*corners, crs="EPSG:4326").around(TILE) or (0, 0, 0, 0)
    for x, y in corners:
        assert west <= WEST + max(x - MARGIN / 2, 0)
        assert south <= NORTH - min(y + 100 + MARGIN / 2, 109_800)
    for metres in (10, 20, 60):
        grid = Grid(TILE.crs, (metres, 0, WEST, 0, -metres, NORTH), (109_800 // metres, 109_800 // metres))
        window = grid.window((west, south, east, north))
        left, top = WEST + window.left * metres, NORTH - window.top * metres
        assert left <= west < left + metres
        assert top >= north > top - metres
        assert left + window.shape[1] * metres >= east


def test_scattered_parcels_are_searched_in_pieces():
    near, far = boxes((0, 0), (3000, 2000)), boxes((0, 0), (3000, 2000), (400_000, 0))
    assert len(near.pieces()) == 1
    pieces = far.pieces()
    assert len(pieces) == 2
    hull = shapely.convex_hull(shapely.union_all(pieces))
    assert sum(piece.area for piece in pieces) < 0.05 * hull.area
    for west, south, east, north in far.within("EPSG:4326"):
        assert any(piece.covers(shapely.box(west, south, east, north)) for piece in pieces)


def test_very_many_places_are_searched_in_few_pieces():
    draw = np.random.default_rng(0)
    many = boxes(*draw.uniform(-2e6, 2e6, (400, 2)).tolist())
    pieces = many.pieces()
    assert len(pieces) <= 32
    joined = shapely.union_all(pieces)
    assert shapely.covers(joined, shapely.points(many.within("EPSG:4326")[:, :2])).all()


def test_footprints_that_hold_no_parcel():
    here = boxes((0, 0))
    (piece,) = here.pieces()
    assert here.meet(piece)
    assert here.meet(None)
    assert not here.meet(shapely.affinity.translate(piece, 0.1, 0))


def test_bands():
    assert wanted_bands(("red", "B8")) == ("B04", "B08", "SCL")
    assert len(wanted_bands(())) == 11
    with pytest.raises(MissingInputError, match="no geometry"):
        ParcelBoxes(gpd.GeoDataFrame(geometry=[None], crs=UTM))


@pytest.mark.parametrize(("crs", "far"), [("EPSG:4326", np.inf), (UTM, np.inf), (UTM, 1e30)])
def test_a_coordinate_that_is_no_place_does_not_count(crs, far):
    sound = gpd.GeoSeries([shapely.box(WEST, NORTH, WEST + 100, NORTH + 100)], crs=UTM).to_crs(crs)
    broken = shapely.Polygon([sound.iloc[0].exterior.coords[0], (far, 51), sound.iloc[0].exterior.coords[2]])
    with_it = ParcelBoxes(gpd.GeoDataFrame(geometry=[sound.iloc[0], broken], crs=crs))
    assert with_it.pieces() == ParcelBoxes(gpd.GeoDataFrame(geometry=sound)).pieces()
    with pytest.raises(MissingInputError, match="no geometry"):
        ParcelBoxes(gpd.GeoDataFrame(geometry=[broken], crs=crs))


def test_a_parcel_across_the_antimeridian_is_searched_on_both_sides_of_it():
    place = gpd.GeoSeries([shapely.Point(180, -17)], crs=4326).to_crs("EPSG:3832").buffer(200, cap_style="square")
    parcel = ParcelBoxes(gpd.GeoDataFrame(geometry=place))
    west, east = sorted(piece.bounds for piece in parcel.pieces())
    np.testing.assert_allclose([west[0], west[2], east[0], east[2]], [-180, -179.998, 179.998, 180], atol=5e-4)
    assert parcel.meet(shapely.box(179, -18, 180, -16))
    assert not parcel.meet(shapely.box(20, -18, 21, -16))
