"""Runs of pixels against GDAL's polygon fill, and the share of pixels against exactextract."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely
from exactextract import exact_extract
from exactextract.raster import NumPyRasterSource
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import CRS
from rasterio import features

from cropgen.imagery.coverage import runs_of_coverage
from cropgen.imagery.pixels import clipped, within, without
from cropgen.imagery.quantiles import quantiles
from cropgen.imagery.scanline import make_runs, runs_of_centres, runs_of_touched
from cropgen.imagery.scene import Grid, Window

WKT = CRS.from_epsg(32631).to_wkt()


def grid(rows: int, columns: int) -> Grid:
    return Grid(WKT, (10.0, 0.0, 0.0, 0.0, -10.0, 10.0 * rows), (rows, columns))


def star(rng: np.random.Generator, low: float, high: float) -> shapely.Polygon:
    angle = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(3, 12))))
    reach = rng.uniform(10, 90, len(angle))
    ring = rng.uniform(low, high, 2) + np.stack([reach * np.cos(angle), reach * np.sin(angle)], 1)
    return shapely.make_valid(shapely.Polygon(ring))


def cells_of(runs: np.ndarray, parcel: int) -> set[tuple[int, int]]:
    chosen = runs[runs["parcel"] == parcel]
    return {(int(r["row"]), int(r["left"]) + i) for r in chosen for i in range(int(r["width"]))}


def burnt(shape: shapely.Geometry, raster: Grid, *, touched: bool = False) -> set[tuple[int, int]]:
    a, _, c, _, e, f = raster.transform
    found = features.rasterize(
        [(shape, 1)], raster.shape, transform=(a, 0, c, 0, e, f), all_touched=touched, dtype="uint8"
    )
    return set(zip(*(axis.tolist() for axis in np.nonzero(found)), strict=True))


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000))
def test_runs_are_what_gdal_fills(seed):
    rng = np.random.default_rng(seed)
    raster = grid(40, 50)
    ring = shapely.Point(*rng.uniform(150, 250, 2)).buffer(80).difference(shapely.Point(200, 200).buffer(30))
    shapes = np.array([star(rng, 100, 300), ring, shapely.Polygon(), shapely.union(star(rng, 0, 400), ring)], object)
    runs = clipped(runs_of_centres(shapes, raster), raster)
    assert (np.diff(runs["parcel"]) >= 0).all()
    for p, shape in enumerate(shapes):
        assert cells_of(runs, p) == (burnt(shape, raster) if not shape.is_empty else set())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 100_000), st.booleans())
def test_centres_on_edges_are_told_as_gdal_does(seed, shrunk):
    """Polygons along pixel edges, shrunk by half a pixel, or with corners on centres: every edge passes centres."""
    rng = np.random.default_rng(seed)
    raster = grid(20, 24)
    cells = rng.random((18, 22)) < 0.6
    boxes = [shapely.box(c * 10 + 10, r * 10 + 10, c * 10 + 20, r * 10 + 20) for r, c in np.argwhere(cells).tolist()]
    ground = shapely.union_all(boxes)
    shape = shapely.buffer(ground, -5, join_style="mitre") if shrunk else shapely.transform(ground, lambda p: p + 5)
    runs = runs_of_centres(np.array([shape]), raster)
    assert cells_of(runs, 0) == burnt(shape, raster)
    assert runs["width"].sum() == len(cells_of(runs, 0))


def test_runs_reach_beyond_the_grid():
    runs = runs_of_centres(np.array([shapely.box(-26, 4, 24, 44)]), grid(3, 3))
    assert runs["row"].tolist() == [-1, 0, 1, 2]
    assert runs["left"].tolist() == [-3] * 4
    assert runs["width"].tolist() == [5] * 4
    assert clipped(runs, grid(3, 3))["left"].tolist() == [0] * 3
    assert clipped(runs, grid(3, 3))["width"].tolist() == [2] * 3


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 100_000))
def test_a_partition_of_the_ground_gives_every_pixel_once(seed):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 200, (12, 2))
    cells = shapely.voronoi_polygons(shapely.MultiPoint(corners), extend_to=shapely.box(0, 0, 200, 200))
    shapes = shapely.intersection(shapely.get_parts(cells), shapely.box(0, 0, 200, 200))
    runs = runs_of_centres(shapes, grid(20, 20))
    count = np.zeros((20, 20), int)
    for r in runs:
        count[r["row"], r["left"] : r["left"] + r["width"]] += 1
    assert (count == 1).all()


def test_touched_pixels():
    sliver = shapely.box(12, 13, 31, 14)
    assert cells_of(runs_of_touched(sliver, 7, grid(4, 4)), 7) == burnt(sliver, grid(4, 4), touched=True)


def test_runs_cut_at_columns_and_windows():
    runs = make_runs(np.zeros(2), np.array([0, 1]), np.array([0, 2]), np.array([10, 3]))
    assert within(runs, 4, 8)[["left", "width"]].tolist() == [(4, 4), (4, 1)]
    left = without(runs, Window(0, 1, 3, 6))
    assert cells_of(left, 0) == {(0, c) for c in (0, 1, 2, 6, 7, 8, 9)} | {(1, c) for c in (2, 3, 4)}


def test_coverage_by_hand():
    runs = runs_of_coverage(np.array([shapely.Polygon(), shapely.box(5, 5, 30, 20)]), grid(3, 3))
    found = np.zeros((3, 3))
    for r in runs:
        found[r["row"], r["left"] : r["left"] + r["width"]] = r["weight"]
    np.testing.assert_allclose(found, [[0, 0, 0], [0.5, 1, 1], [0.25, 0.5, 0.5]])
    assert set(runs["parcel"].tolist()) == {1}
    assert len(runs) == 4


@pytest.mark.parametrize("seed", range(4))
def test_coverage_and_quantiles_equal_exactextract(seed):
    rng = np.random.default_rng(seed)
    raster = grid(40, 40)
    values = rng.permutation(1600).reshape(40, 40) + 1.0
    shapes = np.array([star(rng, 20, 380) for _ in range(8)], object)
    runs = clipped(runs_of_coverage(shapes, raster), raster)
    source = NumPyRasterSource(values, 0, 0, 400, 400, srs_wkt=WKT)
    ops = ["mean", "stdev", "median", "quantile(q=0.1)", "quantile(q=0.9)", "count"]
    expected = exact_extract(source, gpd.GeoDataFrame(geometry=shapes, crs=WKT), ops, output="pandas")
    assert expected is not None
    for p in range(len(shapes)):
        own = runs[runs["parcel"] == p]
        x = np.concatenate([values[r["row"], r["left"] : r["left"] + r["width"]] for r in own])
        w = np.repeat(own["weight"].astype(float), own["width"])
        mean = (w * x).sum() / w.sum()
        spread = np.sqrt((w * x**2).sum() / w.sum() - mean**2)
        found = quantiles(x, w, np.zeros(len(x), int), (0.5, 0.1, 0.9))[0]
        row = expected.iloc[p]
        np.testing.assert_allclose(
            [mean, spread, *found, w.sum()], row.to_numpy(float), rtol=1e-6, err_msg=str(list(expected.columns))
        )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_quantiles_of_equal_weights_are_the_usual_ones(seed, count):
    rng = np.random.default_rng(seed)
    group = np.sort(rng.integers(0, 4, count))
    values = rng.integers(0, 9, count).astype(np.uint16)
    found = quantiles(values, np.full(count, 0.5), group, (0, 0.1, 0.5, 0.75, 1))
    for g, row in zip(np.unique(group), found, strict=True):
        np.testing.assert_allclose(row, np.percentile(values[group == g], [0, 10, 50, 75, 100]), atol=1e-12)
    assert quantiles(values[:0], np.ones(0), group[:0], (0.5,)).shape == (0, 1)
