"""Parcels on the edges of tiles: whole where a tile holds them whole, put together where none does, never half seen."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely

from cropgen.core.progress import Silent
from cropgen.imagery.aggregate import AggregateOptions, aggregate
from cropgen.series.store import SeriesStore
from tests.imagery.scene_files import NORTH, UTM, WEST, square, write_parcels, write_raster

SIDE, CLOUD, CLEAR = 20, 9, 4


def truth(rows: int, columns: int) -> np.ndarray:
    """Reflectance of the ground, by metres from the corner of the scenes."""
    return np.add.outer(np.arange(rows), np.arange(columns) * 0.5) / 200


def dn(reflectance: np.ndarray) -> np.ndarray:
    return np.round((reflectance + 0.1) / 1e-4).astype("uint16")


def write_tile(folder, date, name, column, row=0, *, cloud=None, add=0.0, nodata=None):
    """A tile of 20 × 20 pixels that begins at a pixel of the ground; `cloud` is a slice of SCL columns."""
    ground = truth(row + SIDE, column + SIDE)[row:, column:]
    scl = np.full((SIDE // 2, SIDE // 2), CLEAR, "uint8")
    if cloud is not None:
        scl[:, cloud] = CLOUD
    stored = dn(ground + add)
    if nodata is not None:
        stored[:, nodata] = 0
    place, west, north = folder / f"{date}_{name}", WEST + column * 10, NORTH - row * 10
    write_raster(place / "B04.tif", stored, west=west, north=north)
    coarse = ground.reshape(SIDE // 2, 2, SIDE // 2, 2).mean((1, 3))
    write_raster(place / "B11.tif", dn(coarse + add), 20, west=west, north=north)
    write_raster(place / "SCL.tif", scl, 20, west=west, north=north, scale=1, offset=0)


def run(folder, tmp_path, shapes, **options):
    parcels = write_parcels(tmp_path / "p.gpkg", shapes)
    chosen = AggregateOptions.model_validate({"buffer": 0, "min_share": 0, **options})
    done = aggregate(folder, parcels, tmp_path / "o.zarr", chosen, Silent(), overwrite=True)
    return SeriesStore.open(tmp_path / "o.zarr").read(), done


def mean_of(left, top, right, bottom) -> float:
    """The mean of the ground over a rectangle in metres."""
    return float(truth(60, 60)[top // 10 : bottom // 10, left // 10 : right // 10].mean())


def test_a_parcel_cut_by_two_adjoining_tiles_is_put_together(tmp_path):
    write_tile(tmp_path / "s", "20210605", "A", 0)
    write_tile(tmp_path / "s", "20210605", "B", 20)
    box = (100, 20, 360, 180)
    series, _ = run(tmp_path / "s", tmp_path, {"a": square(*box)}, statistics=("std", "count"))
    ground = truth(60, 60)[2:18, 10:36]
    coarse = ground.reshape(8, 2, 13, 2).mean((1, 3))
    expected = [ground.mean(), coarse.mean(), ground.std(), coarse.std(), ground.size, coarse.size]
    np.testing.assert_allclose(series.values[0, 0], expected, atol=6e-5)
    assert series.pixels[0, 0] == ground.size


def test_pixels_in_the_overlap_of_two_tiles_count_once(tmp_path):
    write_tile(tmp_path / "s", "20210605", "A", 0)
    write_tile(tmp_path / "s", "20210605", "B", 16)
    box = (40, 20, 340, 100)
    series, _ = run(tmp_path / "s", tmp_path, {"a": square(*box)})
    np.testing.assert_allclose(series.values[0, 0], mean_of(*box), atol=1e-4)
    assert series.pixels[0, 0] == 30 * 8


def test_four_tiles_around_a_corner(tmp_path):
    for name, column, row in (("A", 0, 0), ("B", 18, 0), ("C", 0, 18), ("D", 18, 18)):
        write_tile(tmp_path / "s", "20210605", name, column, row)
    box = (100, 100, 300, 300)
    series, _ = run(tmp_path / "s", tmp_path, {"a": square(*box)})
    np.testing.assert_allclose(series.values[0, 0], mean_of(*box), atol=1e-4)
    assert series.pixels[0, 0] == 400


def test_a_parcel_that_is_whole_in_one_tile_is_not_half_seen_from_the_other(tmp_path):
    write_tile(tmp_path / "s", "20210605", "A", 0, add=0.3)
    write_tile(tmp_path / "s", "20210605", "B", 10, cloud=slice(0, 5))
    box = (120, 0, 300, 40)
    series, _ = run(tmp_path / "s", tmp_path, {"a": square(*box)})
    np.testing.assert_allclose(series.values[0, 0], mean_of(200, 0, 300, 40), atol=1e-4)
    assert series.pixels[0, 0] == 10 * 4


def test_a_part_is_judged_by_the_whole_parcel(tmp_path):
    write_tile(tmp_path / "s", "20210605", "A", 0)
    write_tile(tmp_path / "s", "20210610", "A", 0)
    write_tile(tmp_path / "s", "20210610", "B", 10)
    shapes = {"a": square(160, 0, 280, 40)}
    series, _ = run(tmp_path / "s", tmp_path, shapes)
    assert series.pixels[0].tolist() == [4 * 4, 12 * 4]
    strict, _ = run(tmp_path / "s", tmp_path, shapes, min_share=0.5)
    assert strict.pixels[0].tolist() == [12 * 4]


def test_days_on_which_one_of_the_tiles_is_missing(tmp_path):
    for date, names in (("20210605", "AB"), ("20210610", "A"), ("20210615", "B")):
        for name in names:
            write_tile(tmp_path / "s", date, name, {"A": 0, "B": 20}[name])
    series, _ = run(tmp_path / "s", tmp_path, {"a": square(100, 20, 360, 180)})
    assert series.pixels[0].tolist() == [26 * 16, 10 * 16, 16 * 16]
    np.testing.assert_allclose(
        series.values[0, :, 0],
        [mean_of(100, 20, 360, 180), mean_of(100, 20, 200, 180), mean_of(200, 20, 360, 180)],
        atol=1e-4,
    )


def test_windows_of_one_tile_that_differ_by_date_keep_their_pixels(tmp_path):
    write_tile(tmp_path / "s", "20210605", "A", 0)
    write_tile(tmp_path / "s", "20210610", "A", 4)
    series, _ = run(tmp_path / "s", tmp_path, {"a": square(20, 20, 260, 60)})
    assert series.pixels[0].tolist() == [18 * 4, 20 * 4]


def test_two_orbits_of_one_day_give_the_clearest_view_of_each_tile(tmp_path):
    write_tile(tmp_path / "s", "20210605", "A_R008", 0, nodata=slice(12, 20))
    write_tile(tmp_path / "s", "20210605", "A_R051", 0, add=0.1)
    write_tile(tmp_path / "s", "20210605", "B_R008", 20)
    series, _ = run(tmp_path / "s", tmp_path, {"a": square(100, 20, 360, 180)})
    left, right = mean_of(100, 20, 200, 180) + 0.1, mean_of(200, 20, 360, 180)
    np.testing.assert_allclose(series.values[0, 0, 0], (10 * left + 16 * right) / 26, atol=1e-4)
    assert series.pixels[0].tolist() == [26 * 16]


def test_quantiles_of_parts_are_weighed(tmp_path):
    write_tile(tmp_path / "s", "20210605", "A", 0)
    write_tile(tmp_path / "s", "20210605", "B", 20)
    series, _ = run(tmp_path / "s", tmp_path, {"a": square(100, 20, 360, 180)}, statistics=("median",))
    ground = truth(60, 60)[2:18]
    expected = (10 * np.median(ground[:, 10:20]) + 16 * np.median(ground[:, 20:36])) / 26
    assert series.values[0, 0, 2] == pytest.approx(expected, abs=1e-4)


def test_parcels_across_two_zones_take_the_zone_that_holds_them_whole(tmp_path):
    write_tile(tmp_path / "s", "20210605", "31", 0)
    corner = gpd.GeoSeries([shapely.Point(WEST + 100, NORTH)], crs=UTM).to_crs("EPSG:32632").iloc[0]
    place = tmp_path / "s" / "20210605_32"
    write_raster(place / "B04.tif", dn(np.full((60, 60), 0.5)), west=corner.x, north=corner.y + 200, crs="EPSG:32632")
    write_raster(
        place / "SCL.tif", np.full((30, 30), CLEAR, "uint8"), 20, west=corner.x, north=corner.y + 200, crs="EPSG:32632",
        scale=1, offset=0,
    )  # fmt: skip
    shapes = {"west": square(20, 50, 90, 150), "edge": square(160, 50, 280, 150)}
    series, done = run(tmp_path / "s", tmp_path, shapes, bands=("B04",))
    assert done.rows == 2
    assert series.values[0, 0, 0] == pytest.approx(mean_of(20, 50, 90, 150), abs=1e-4)
    assert series.values[1, 0, 0] == pytest.approx(0.5, abs=1e-4)


def test_acquisitions_of_one_day_that_differ_in_a_coarse_grid_are_not_added_up(tmp_path):
    write_tile(tmp_path / "s", "20210605", "A", 0)
    write_tile(tmp_path / "s", "20210605", "B", 0, add=0.2)
    ground = truth(SIDE, SIDE)
    write_raster(tmp_path / "s" / "20210605_B" / "B11.tif", dn(ground + 0.2))
    series, _ = run(tmp_path / "s", tmp_path, {"a": square(160, 0, 240, 40)})
    assert series.pixels is not None
    assert series.pixels.tolist() == [[16]]
    np.testing.assert_allclose(series.values[0, 0], mean_of(160, 0, 200, 40), atol=1e-4)
