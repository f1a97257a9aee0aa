"""Grids, windows, masks and the pixels of parcels."""

from __future__ import annotations

import tempfile
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS

from cropgen.core.errors import SchemaError, UsageError
from cropgen.imagery.masks import clear_table, is_clear, is_valid
from cropgen.imagery.overlaps import find_overlaps
from cropgen.imagery.parcels import SeasonParcels, shards
from cropgen.imagery.pixels import ParcelShapes, TilePixels, write_pixels
from cropgen.imagery.scene import Grid, Window, metres_to_units
from cropgen.imagery.selection import season_days
from cropgen.series.polygon_file import Polygons, spool_polygons

WKT = CRS.from_epsg(32631).to_wkt()


def grid(rows: int, columns: int, size: float = 10.0) -> Grid:
    return Grid(WKT, (size, 0.0, 0.0, 0.0, -size, size * rows), (rows, columns))


def plain(polygons) -> ParcelShapes:
    shapes = np.asarray(polygons, dtype=object)
    return ParcelShapes(np.arange(len(shapes)), shapes, shapes)


def pixels_of(tile, parcel):
    """Flat positions of a parcel's pixels in the whole grid."""
    found = []
    for cell in tile.cells(0):
        pixels = cell.pixels()
        owner = np.repeat(cell.runs["parcel"][pixels.order], cell.runs["width"][pixels.order])
        for panel in pixels.panels:
            rows, cols = np.divmod(pixels.position[panel.pixels], panel.window.shape[1])
            place = (rows + panel.window.top) * tile.grids[0].shape[1] + cols + panel.window.left
            found.extend(place[owner[panel.pixels] == parcel].tolist())
    return sorted(found)


def test_window_of_bounds():
    raster = grid(10, 10)
    assert raster.window((5, 5, 25, 15)) == Window(8, 10, 0, 3)
    assert raster.window((-50, -50, 500, 500)) == Window(0, 10, 0, 10)
    assert 0 in raster.window((200, 0, 300, 50)).shape


def test_grids_must_be_north_up():
    with pytest.raises(SchemaError, match="north-up"):
        Grid(WKT, (10.0, 1.0, 0.0, 0.0, -10.0, 0.0), (2, 2))


def test_lookup_between_grids():
    fine, coarse = grid(4, 6, 10), grid(2, 3, 20)
    assert fine.rows_in(coarse).tolist() == [0, 0, 1, 1]
    assert fine.columns_in(coarse).tolist() == [0, 0, 1, 1, 2, 2]
    shifted = Grid(WKT, (10.0, 0.0, 15.0, 0.0, -10.0, 33.0), (2, 3))
    assert shifted.columns_in(coarse).tolist() == [1, 1, 2]
    assert shifted.rows_in(coarse).tolist() == [0, 1]
    small = Grid(WKT, (20.0, 0.0, 20.0, 0.0, -20.0, 40.0), (1, 1))
    assert fine.rows_in(small).tolist() == [0, 0, -1, -1]
    assert fine.columns_in(small).tolist() == [-1, -1, 0, 0, -1, -1]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([(7, 5), (50, 4), (1024, 1024)]))
def test_pixels_are_those_whose_centre_lies_inside(seed, cell):
    rng = np.random.default_rng(seed)
    raster = grid(23, 17)
    polygons = [
        shapely.convex_hull(shapely.MultiPoint(rng.uniform(-20, 250, 2) + rng.uniform(0, 60, (6, 2)))) for _ in range(3)
    ]
    rows, cols = np.divmod(np.arange(23 * 17), 17)
    centres = shapely.points((cols + 0.5) * 10, 230 - (rows + 0.5) * 10)
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr("cropgen.imagery.pixels.CELL_ROWS", cell[0])
        patch.setattr("cropgen.imagery.pixels.CELL_COLUMNS", cell[1])
        tile = TilePixels(Path(folder) / "tile", (raster,))
        write_pixels(tile.folder, tile.grids, [lambda: plain(polygons)], "centre")
        for p, polygon in enumerate(polygons):
            inside = np.flatnonzero(shapely.contains(polygon, centres)).tolist()
            assert tile.facts["inside"][p] == len(pixels_of(tile, p))
            if tile.facts["coarse"][p]:
                touched = [shapely.box(*(cell_box(position))) for position in pixels_of(tile, p)]
                assert not inside
                assert all(shapely.intersects(polygon, box) for box in touched)
            else:
                assert pixels_of(tile, p) == inside


def cell_box(position):
    column, row = position % 17, position // 17
    return column * 10, 220 - row * 10, column * 10 + 10, 230 - row * 10


def spooled(geometry: gpd.GeoSeries, folder: Path) -> Polygons:
    return spool_polygons(geometry.set_crs(32631, allow_override=True), folder / "polygons.wkb")


def test_overlaps(tmp_path):
    shapes = gpd.GeoSeries(
        [shapely.box(0, 0, 10, 10), shapely.box(9.5, 0, 20, 10), shapely.box(5, 0, 15, 10), shapely.box(50, 0, 60, 10)]
    )
    found = find_overlaps(spooled(shapes, tmp_path))
    assert found.pairs.tolist() == [[0, 2], [1, 2]]
    assert found.share.tolist() == pytest.approx([0.5, 5.5 / 10])


def test_parcels_that_share_an_edge_do_not_overlap(tmp_path):
    shapes = gpd.GeoSeries([shapely.box(i * 10, 0, i * 10 + 10, 10) for i in range(5)])
    found = find_overlaps(spooled(shapes, tmp_path))
    assert found.pairs.shape == (0, 2)


@given(st.integers(1, 60), st.integers(1, 20))
@settings(max_examples=25, deadline=None)
def test_shards_part_the_parcels(tmp_path_factory, count, size):
    rng = np.random.default_rng(count)
    place = rng.uniform(0, 1000, (count, 2))
    geometry = gpd.GeoSeries(shapely.box(place[:, 0], place[:, 1], place[:, 0] + 5, place[:, 1] + 5))
    parts = list(shards(spooled(geometry, tmp_path_factory.mktemp("p")), size))
    assert max(map(len, parts)) <= size
    assert sorted(np.concatenate(parts).tolist()) == list(range(count))
    assert all((np.diff(part) > 0).all() for part in parts)


def test_buffer_is_in_metres_whatever_the_unit(tmp_path):
    feet = CRS.from_epsg(2263).to_wkt()
    assert metres_to_units(WKT, 5) == 5
    assert metres_to_units(feet, 0.3048) == pytest.approx(1, rel=1e-4)
    assert metres_to_units(CRS.from_epsg(4326).to_wkt(), 111_320) == pytest.approx(1)
    parcels = SeasonParcels(spooled(gpd.GeoSeries([shapely.box(0, 0, 100, 100)]), tmp_path))
    shapes = parcels.shapes(parcels.near(grid(10, 10)), grid(10, 10), 5)
    assert shapes.inner[0].area == pytest.approx(90 * 90)


def test_masks():
    table = clear_table((4, 5))
    assert is_clear(np.array([[4, 8], [5, 0]], "uint8"), table).tolist() == [[True, False], [True, False]]
    assert is_clear(np.array([4.0, np.nan, 11.0]), table).tolist() == [True, False, False]
    assert is_valid(np.array([0, 1, 2], "uint16"), 0).tolist() == [False, True, True]
    assert is_valid(np.array([np.nan, 1.0]), np.nan).tolist() == [False, True]
    with pytest.raises(UsageError, match="12 is not a scene class"):
        clear_table((12,))


@pytest.mark.parametrize(
    ("season", "first", "last"),
    [
        (("01-01", "12-31"), "2021-01-01", "2021-12-31"),
        (("09-01", "08-31"), "2020-09-01", "2021-08-31"),
        (("02-29", "06-30"), "2021-02-28", "2021-06-30"),
    ],
)
def test_seasons(season, first, last):
    days = [str(np.datetime64(day, "D")) for day in season_days(2021, season)]
    assert days == [first, last]
