"""Aggregation against numbers computed by hand and against a pixel-by-pixel implementation."""

from __future__ import annotations

import contextlib
import errno
import weakref
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely

from cropgen.core.errors import (
    CorruptInputError,
    DataError,
    MissingInputError,
    OutputExistsError,
    SchemaError,
    UnfinishedError,
    UsageError,
)
from cropgen.core.progress import Silent
from cropgen.core.tally import Tally
from cropgen.imagery import zonal
from cropgen.imagery.aggregate import AggregateOptions, aggregate
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore
from tests.imagery.scene_files import NORTH, UTM, WEST, square, write_date, write_parcels, write_raster

VEGETATION, CLOUD = 4, 9
PLAIN = AggregateOptions(buffer=0, min_pixels=1, min_share=0)


def dn(reflectance):
    """Stored numbers of the product for reflectance."""
    return np.round((np.asarray(reflectance) + 0.1) / 1e-4)


def clear(rows, columns):
    return np.full((rows, columns), VEGETATION)


def run(scenes: Path, parcels, tmp_path: Path, options=PLAIN, report=None) -> tuple[ParcelSeries, object]:
    output = tmp_path / "out" / "series.zarr"
    done = aggregate(scenes, parcels, output, options, report or Silent(), overwrite=True)
    return SeriesStore.open(output).read(), done


def test_mean_of_nine_pixels_by_hand(scene, tmp_path):
    red = np.arange(1, 10).reshape(3, 3) / 100
    scenes = scene({"20210605_R051": {"B04": dn(red), "SCL": clear(2, 2)}})
    parcels = write_parcels(
        tmp_path / "p.gpkg", {"all": square(0, 0, 30, 30), "row": square(0, 10, 30, 20), "one": square(20, 20, 30, 30)}
    )
    series, done = run(scenes, parcels, tmp_path)
    assert series.bands == ("B04",)
    assert series.parcel_id.tolist() == ["all", "row", "one"]
    np.testing.assert_allclose(series.values[:, 0, 0], [0.05, 0.05, 0.09], atol=1e-7)
    assert series.pixels[:, 0].tolist() == [9, 3, 1]
    assert str(np.datetime64(int(series.day[0, 0]), "D")) == "2021-06-05"
    assert done.rows == 3
    assert done.dates == {2021: 1}


def test_files_of_sums_are_unmapped_before_they_are_removed(scene, tmp_path, monkeypatch):
    maps, left = {}, []

    def mapped(path, shape):
        array = zonal_mapped(path, shape)
        maps[path] = weakref.ref(array)
        return array

    def remove(path):
        left.append(maps[path]())
        path.unlink()

    zonal_mapped = zonal.mapped
    monkeypatch.setattr(zonal, "mapped", mapped)
    monkeypatch.setattr(zonal, "remove", remove)
    bands = {"B04": dn(np.full((4, 4), 0.1)), "B11": dn(np.full((2, 2), 0.2)), "SCL": clear(2, 2)}
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 40, 40)})
    options = PLAIN.model_copy(update={"statistics": ("mean", "std", "median")})
    run(scene({"20210605": bands}), parcels, tmp_path, options)
    assert left == [None, None]


def test_cloud_of_one_scl_pixel_takes_its_four_pixels_away(scene, tmp_path):
    red = np.array([[0.1, 0.2, 0.5, 0.5], [0.3, 0.4, 0.5, 0.5]] * 2)
    scl = np.array([[CLOUD, VEGETATION], [VEGETATION, VEGETATION]])
    scenes = scene({"20210605": {"B04": dn(red), "B11": dn(np.array([[0.9, 0.2], [0.2, 0.2]])), "SCL": scl}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 40, 40), "under": square(0, 0, 20, 20)})
    series, done = run(scenes, parcels, tmp_path)
    expected = (0.1 + 0.2 + 0.3 + 0.4 + 8 * 0.5) / 12
    np.testing.assert_allclose(series.values[0, 0], [expected, 0.2], atol=1e-7)
    assert series.pixels[0, 0] == 12
    assert not series.mask[1].any()
    assert done.never_clear == Tally.of(["under"])


def test_every_band_needs_a_clear_pixel(scene, tmp_path):
    swir = dn(np.full((2, 2), 0.2))
    swir[0, 0] = 0
    scenes = scene({"20210605": {"B04": dn(np.full((4, 4), 0.1)), "B11": swir, "SCL": clear(2, 2)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 20, 20), "b": square(20, 20, 40, 40)})
    series, done = run(scenes, parcels, tmp_path)
    assert series.pixels[:, 0].tolist() == [0, 4]
    assert done.never_clear == Tally.of(["a"])


def test_a_band_that_is_named_twice_is_read_once(scene, tmp_path):
    scenes = scene({"20210605": {"B04": dn(np.full((4, 4), 0.1)), "B08": dn(np.full((4, 4), 0.3)), "SCL": clear(2, 2)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 40, 40)})
    series, _ = run(scenes, parcels, tmp_path, PLAIN.model_copy(update={"bands": ("B08", "B04", "B08")}))
    assert series.bands == ("B08", "B04")
    np.testing.assert_allclose(series.values[0, 0], [0.3, 0.1], atol=1e-6)
    assert series.pixels[0, 0] == 16


def test_scl_pixel_edges_need_not_match_band_pixels(tmp_path):
    write_raster(tmp_path / "s" / "20210605" / "B04.tif", dn(np.full((2, 2), 0.3)).astype("uint16"), west=WEST + 10)
    write_raster(
        tmp_path / "s" / "20210605" / "SCL.tif", np.array([[VEGETATION, CLOUD]], "uint8"), 20, scale=1, offset=0
    )
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 40, 20)})
    series, _ = run(tmp_path / "s", parcels, tmp_path)
    assert series.pixels[0, 0] == 2


def test_nodata_pixels_do_not_count(scene, tmp_path):
    stored = dn([[0.2, 0.4], [0.2, 0.4]])
    stored[0, 0] = 0
    scenes = scene({"20210605": {"B04": stored, "SCL": clear(1, 1)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 20, 20)})
    series, _ = run(scenes, parcels, tmp_path)
    assert series.values[0, 0, 0] == pytest.approx(1.0 / 3, abs=1e-6)
    assert series.pixels[0, 0] == 3


def pixel_by_pixel(shape, values, size, scl, inner):
    """Independent zonal mean: every pixel centre asked in turn."""
    inside = []
    for r in range(values.shape[0]):
        for c in range(values.shape[1]):
            centre = shapely.Point(WEST + (c + 0.5) * size, NORTH - (r + 0.5) * size)
            y, x = int((r + 0.5) * size // 20), int((c + 0.5) * size // 20)
            if shapely.contains_properly(shape.buffer(-inner), centre) and scl[y, x] in (4, 5, 6):
                inside.append(values[r, c])
    return (np.mean(inside) if inside else np.nan), len(inside)


def test_equals_pixel_by_pixel_on_irregular_polygons(scene, tmp_path):
    rng = np.random.default_rng(3)
    red, swir = rng.uniform(0, 0.6, (40, 44)), rng.uniform(0, 0.6, (20, 22))
    scl = rng.choice([3, 4, 5, 7, 8], (20, 22))
    scenes = scene({"20210701": {"B04": dn(red), "B11": dn(swir), "SCL": scl}})
    shapes = {}
    for i in range(12):
        middle = rng.uniform(60, 340, 2)
        angle = np.sort(rng.uniform(0, 2 * np.pi, 7))
        ring = middle + np.stack([np.cos(angle), np.sin(angle)], 1) * rng.uniform(30, 60, (7, 1))
        shapes[f"p{i}"] = shapely.Polygon(ring * [1, -1] + [WEST, NORTH]).convex_hull
    parcels = write_parcels(tmp_path / "p.gpkg", shapes)
    series, _ = run(scenes, parcels, tmp_path, AggregateOptions(buffer=4, min_pixels=1, min_share=0))
    compared = 0
    for i, shape in enumerate(shapes.values()):
        mean, count = pixel_by_pixel(shape, red, 10, scl, 4)
        coarse, coarse_count = pixel_by_pixel(shape, swir, 20, scl, 4)
        if count and coarse_count:
            np.testing.assert_allclose(series.values[i, 0], [mean, coarse], atol=6e-5)
            assert series.pixels[i, 0] == count
            compared += 1
    assert compared >= 8


def test_parcel_without_a_coarse_pixel_centre_falls_back_to_touched_pixels(scene, tmp_path):
    swir = np.array([[0.1, 0.3], [0.5, 0.7]])
    scenes = scene({"20210605": {"B04": dn(np.full((4, 4), 0.2)), "B11": dn(swir), "SCL": clear(2, 2)}})
    strip = square(1, 13, 39, 18)
    parcels = write_parcels(tmp_path / "p.gpkg", {"strip": strip})
    series, done = run(scenes, parcels, tmp_path)
    np.testing.assert_allclose(series.values[0, 0], [0.2, 0.2], atol=1e-6)
    assert series.pixels[0, 0] == 4
    assert done.coarse == Tally.of(["strip"])


def test_buffer_keeps_the_border_out_and_small_parcels_in(scene, tmp_path):
    red = np.full((6, 6), 0.5)
    red[1:5, 1:5] = 0.1
    scenes = scene({"20210605": {"B04": dn(red), "SCL": clear(3, 3)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"big": square(0, 0, 60, 60), "small": square(20, 20, 30, 30)})
    series, done = run(scenes, parcels, tmp_path, AggregateOptions(buffer=7, min_pixels=1, min_share=0))
    np.testing.assert_allclose(series.values[:, 0, 0], [0.1, 0.1], atol=1e-6)
    assert series.pixels[:, 0].tolist() == [16, 1]
    assert done.coarse == Tally.of(["small"])


def test_overlapping_parcels_both_get_the_shared_pixels(scene, tmp_path):
    scenes = scene({"20210605": {"B04": dn(np.arange(16).reshape(4, 4) / 50), "SCL": clear(2, 2)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 40, 20), "b": square(0, 0, 20, 40)})
    report = Silent()
    series, done = run(scenes, parcels, tmp_path, report=report)
    assert series.pixels[:, 0].tolist() == [8, 8]
    np.testing.assert_allclose(series.values[:, 0, 0], [3.5 / 50, 6.5 / 50], atol=1e-6)
    assert [(a, b) for a, b, _ in done.overlaps.first] == [("a", "b")]
    assert done.overlaps.first[0][2] == pytest.approx(0.5)
    assert any("overlap" in text for text in report.warnings)


@pytest.mark.parametrize(("pixels", "share", "seen"), [(1, 0, True), (4, 0, True), (5, 0, False), (1, 0.3, False)])
def test_minimum_clear_pixels_and_share(scene, tmp_path, pixels, share, seen):
    scl = np.full((2, 2), CLOUD)
    scl[0, 0] = VEGETATION
    scenes = scene({"20210605": {"B04": dn(np.full((4, 4), 0.2)), "SCL": scl}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 40, 40)})
    series, _ = run(scenes, parcels, tmp_path, AggregateOptions(buffer=0, min_pixels=pixels, min_share=share))
    assert bool(series.mask.any()) is seen


def test_parcels_smaller_than_the_minimum_need_all_their_pixels(scene, tmp_path):
    scenes = scene({"20210605": {"B04": dn(np.full((2, 2), 0.2)), "SCL": clear(1, 1)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 20, 10)})
    series, _ = run(scenes, parcels, tmp_path, AggregateOptions(buffer=0, min_pixels=5))
    assert series.pixels[0, 0] == 2


def test_one_observation_a_day_from_the_clearest_scene(scene, tmp_path):
    half = np.array([[VEGETATION, CLOUD]])
    scenes = scene(
        {
            "20210605_R008": {"B04": dn(np.full((2, 4), 0.1)), "SCL": half},
            "20210605_R051": {"B04": dn(np.full((2, 4), 0.3)), "SCL": clear(1, 2)},
            "20210605_R108": {"B04": dn(np.full((2, 4), 0.5)), "SCL": clear(1, 2)},
            "20210610_R051": {"B04": dn(np.full((2, 4), 0.7)), "SCL": clear(1, 2)},
        }
    )
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 40, 20)})
    series, done = run(scenes, parcels, tmp_path)
    np.testing.assert_allclose(series.values[0, :, 0], [0.3, 0.7], atol=1e-6)
    assert np.diff(series.day[0]).tolist() == [5]
    assert done.dates == {2021: 2}


def test_neighbouring_tiles_of_other_projections_complete_each_other(tmp_path):
    red, scl = dn(np.full((40, 40), 0.2)).astype("uint16"), clear(20, 20).astype("uint8")
    corner = gpd.GeoSeries([shapely.Point(708_000, 5_600_000)], crs=UTM).to_crs("EPSG:32632").iloc[0]
    for name, west, north, crs in (("31U", 707_600, 5_600_200, UTM), ("32U", corner.x, corner.y + 200, "EPSG:32632")):
        place = tmp_path / "s" / f"20210605_{name}"
        write_raster(place / "B04.tif", red, west=west, north=north, crs=crs)
        write_raster(place / "SCL.tif", scl, 20, west=west, north=north, crs=crs, scale=1, offset=0)
    west = shapely.box(707_650, 5_599_900, 707_750, 5_600_000)
    east = shapely.box(708_100, 5_599_950, 708_200, 5_600_050)
    parcels = write_parcels(tmp_path / "p.gpkg", {"west": west, "east": east})
    series, done = run(tmp_path / "s", parcels, tmp_path)
    np.testing.assert_allclose(series.values[:, 0, 0], [0.2, 0.2], atol=1e-6)
    assert series.pixels[0, 0] == 100
    assert abs(int(series.pixels[1, 0]) - 100) <= 4
    assert done.rows == 2


def test_parcels_of_any_coordinate_system(scene, tmp_path):
    scenes = scene({"20210605": {"B04": dn(np.full((10, 10), 0.25)), "SCL": clear(5, 5)}})
    frame = gpd.GeoDataFrame({"id": [7], "crop": ["115"]}, geometry=[square(12, 12, 78, 78)], crs=UTM)
    frame.to_crs("EPSG:31370").to_file(tmp_path / "belgian_2021.geojson")
    series, _ = run(scenes, tmp_path / "belgian_2021.geojson", tmp_path)
    assert series.pixels[0, 0] == 49
    assert series.parcel_id.tolist() == ["7"]
    assert series.year.tolist() == [2021]
    assert series.lon[0] == pytest.approx(3.0006, abs=1e-3)
    stored = SeriesStore.open(tmp_path / "out" / "series.zarr").geometry()
    assert stored.crs.to_epsg() == 31370


def test_years_use_their_own_dates_and_layers(scene, tmp_path):
    dates = {f"{y}0605": {"B04": dn(np.full((4, 4), v)), "SCL": clear(2, 2)} for y, v in ((2021, 0.1), (2022, 0.2))}
    scenes = scene(dates)
    frame = gpd.GeoDataFrame(
        {"parcel_id": ["a", "a"], "year": [2021, 2022], "crop_code": [1, 2], "crop_name": ["wheat", "maize"]},
        geometry=[square(0, 0, 40, 40)] * 2, crs=UTM,
    )  # fmt: skip
    paths = []
    for year in (2021, 2022):
        paths.append(tmp_path / f"parcels_{year}.gpkg")
        frame[frame["year"] == year].to_file(paths[-1])
    series, done = run(scenes, paths, tmp_path)
    np.testing.assert_allclose(series.values[:, 0, 0], [0.1, 0.2], atol=1e-6)
    assert done.years == (2021, 2022)
    assert not done.overlaps
    store = SeriesStore.open(tmp_path / "out" / "series.zarr")
    assert store.legend.codes == ("1", "2")
    assert store.legend.names == ("wheat", "maize")
    assert series.label.tolist() == [0, 1]


def test_season_may_begin_in_the_year_before(scene, tmp_path):
    days = ("20200901", "20210831", "20210901")
    scenes = scene({d: {"B04": dn(np.full((2, 2), 0.2)), "SCL": clear(1, 1)} for d in days})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 20, 20)})
    series, _ = run(scenes, parcels, tmp_path, PLAIN.model_copy(update={"season": ("09-01", "08-31")}))
    assert [str(np.datetime64(int(d), "D")) for d in series.day[0]] == ["2020-09-01", "2021-08-31"]


def test_shards_change_neither_values_nor_rows(scene, tmp_path):
    rng = np.random.default_rng(0)
    scenes = scene({f"2021060{d}": {"B04": dn(rng.uniform(0, 0.5, (20, 20))), "SCL": clear(10, 10)} for d in (1, 2)})
    shapes = {f"{i}{j}": square(i * 40, j * 40, i * 40 + 38, j * 40 + 38) for i in range(5) for j in range(5)}
    parcels = write_parcels(tmp_path / "p.gpkg", shapes)
    whole, _ = run(scenes, parcels, tmp_path)
    cut, _ = run(scenes, parcels, tmp_path, PLAIN.model_copy(update={"shard": 4}))
    order, back = np.argsort(whole.parcel_id), np.argsort(cut.parcel_id)
    np.testing.assert_array_equal(whole.values[order], cut.values[back])
    np.testing.assert_array_equal(whole.pixels[order], cut.pixels[back])
    assert whole.parcel_id.tolist() == list(shapes)


def test_everything_wrong_with_parcels_is_told_by_id(scene, tmp_path):
    scenes = scene({"20210605": {"B04": dn(np.full((10, 10), 0.2)), "SCL": clear(5, 5)}})
    bow = shapely.Polygon([(0, 0), (40, 40), (40, 0), (0, 40)])
    shapes = {
        "good": square(50, 50, 90, 90), "bow": shapely.affinity.translate(bow, WEST, NORTH - 40),
        "empty": shapely.Polygon(), "null": None, "point": shapely.Point(WEST + 5, NORTH - 5),
        "far": square(5000, 5000, 5040, 5040),
    }  # fmt: skip
    parcels = write_parcels(tmp_path / "p.gpkg", shapes)
    report = Silent()
    series, done = run(scenes, parcels, tmp_path, report=report)
    assert sorted(series.parcel_id.tolist()) == ["bow", "good"]
    assert done.repaired == Tally.of(["bow"])
    assert done.dropped == {
        "null or empty geometry": Tally.of(["empty", "null"]), "not a polygon": Tally.of(["point"]),
        "outside the scenes": Tally.of(["far"]),
    }  # fmt: skip
    for name in ("bow", "empty", "point", "far"):
        assert any(name in text for text in report.warnings)


def test_scale_and_offset_given_win(scene, tmp_path):
    scenes = scene({"20210605": {"B04": np.full((2, 2), 500), "SCL": clear(1, 1)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 20, 20)})
    series, _ = run(scenes, parcels, tmp_path, PLAIN.model_copy(update={"scale": 0.001, "offset": 0.0}))
    assert series.values[0, 0, 0] == pytest.approx(0.5)


def test_nodata_given_counts_besides_that_of_the_file(scene, tmp_path):
    scenes = scene({"20210605": {"B04": np.array([[0, 7], [3000, 5000]]), "SCL": clear(1, 1)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 20, 20)})
    series, _ = run(scenes, parcels, tmp_path, PLAIN.model_copy(update={"nodata": 7.0}))
    assert series.pixels[0, 0] == 2
    assert series.values[0, 0, 0] == pytest.approx(0.3)


def test_unstated_scale_is_assumed_and_reported(scene, tmp_path):
    scenes = scene({"20210605": {"B04": np.full((2, 2), 2500), "SCL": clear(1, 1)}}, scale=1, offset=0)
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 20, 20)})
    report = Silent()
    series, _ = run(scenes, parcels, tmp_path, report=report)
    assert series.values[0, 0, 0] == pytest.approx(0.25)
    assert any("0.0001" in text for text in report.warnings)


def test_dates_that_lack_a_band_are_left_out_and_named(scene, tmp_path):
    scenes = scene({"20210605": {"B04": dn(np.full((2, 2), 0.2)), "SCL": clear(1, 1)}})
    write_date(scenes / "20210615", {"B04": dn(np.full((2, 2), 0.4))})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 20, 20)})
    report = Silent()
    series, _ = run(scenes, parcels, tmp_path, report=report)
    assert series.mask.sum() == 1
    assert any("20210615" in text and "SCL" in text for text in report.warnings)


def test_without_cloud_mask(scene, tmp_path):
    scenes = scene({"20210605": {"B04": dn(np.full((2, 2), 0.2))}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 20, 20)})
    series, _ = run(scenes, parcels, tmp_path, PLAIN.model_copy(update={"clear": ()}))
    assert series.values[0, 0, 0] == pytest.approx(0.2, abs=1e-6)
    with pytest.raises(SchemaError, match="SCL"):
        run(scenes, parcels, tmp_path)


def simple(scene, tmp_path):
    scenes = scene({"20210605": {"B04": dn(np.full((4, 4), 0.2)), "SCL": clear(2, 2)}})
    return scenes, write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 40, 40)})


def test_corrupt_raster_is_named_with_its_date(scene, tmp_path):
    scenes, parcels = simple(scene, tmp_path)
    path = scenes / "20210605" / "B04.tif"
    path.write_bytes(b"II*\0 not a raster")
    with pytest.raises(CorruptInputError, match=r"2021-06-05.*B04\.tif"):
        run(scenes, parcels, tmp_path)


def test_truncated_raster_leaves_no_output(scene, tmp_path):
    rng = np.random.default_rng(0)
    scenes = scene({"20210605": {"B04": rng.integers(1000, 5000, (200, 200)), "SCL": clear(100, 100)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 2000, 2000)})
    path = scenes / "20210605" / "B04.tif"
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(CorruptInputError, match=r"B04\.tif"):
        run(scenes, parcels, tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"bands": ("B04", "B12")}, SchemaError, "B12"),
        ({"clear": (4, 99)}, UsageError, "99"),
        ({"season": ("08-01", "09-30")}, DataError, "2021-06-05"),
        ({"season": ("june", "july")}, UsageError, "june"),
        ({"parcels": {"label": "kultur"}}, SchemaError, "parcel_id"),
        ({"parcels": {"year": 2020}}, DataError, "2020"),
    ],
)
def test_options_that_do_not_fit(scene, tmp_path, change, error, words):
    scenes, parcels = simple(scene, tmp_path)
    options = AggregateOptions.model_validate({"buffer": 0, **change})
    with pytest.raises(error, match=words):
        run(scenes, parcels, tmp_path, options)


def test_parcels_elsewhere(scene, tmp_path):
    scenes, _ = simple(scene, tmp_path)
    parcels = write_parcels(tmp_path / "far.gpkg", {"a": square(90_000, 0, 90_040, 40)})
    with pytest.raises(DataError, match="do not overlap"):
        run(scenes, parcels, tmp_path)


def test_a_scene_at_the_edge_of_a_country_far_wider_than_its_zone(tmp_path):
    zone, west, north = "EPSG:32614", 600_000.0, 2_876_000.0
    place = {"west": west, "north": north, "crs": zone}
    write_date(tmp_path / "s" / "20210605", {"B04": dn(np.full((6, 6), 0.3)), "SCL": clear(3, 3)}, **place)
    south = gpd.GeoSeries([shapely.box(west, north - 60, west + 60, north)], crs=zone).to_crs(4326).iloc[0]
    corners = [shapely.box(x, 48, x + 0.001, 48.001) for x in (-124, -68)]
    frame = gpd.GeoDataFrame({"parcel_id": list("abc"), "year": 2021}, geometry=[south, *corners], crs=4326)
    frame.to_file(tmp_path / "p.gpkg")
    series, done = run(tmp_path / "s", tmp_path / "p.gpkg", tmp_path)
    assert series.parcel_id.tolist() == ["a"]
    np.testing.assert_allclose(series.values.ravel(), 0.3, atol=1e-7)
    assert done.dropped == {"outside the scenes": Tally.of(["b", "c"])}


def test_missing_and_existing_paths(scene, tmp_path):
    scenes, parcels = simple(scene, tmp_path)
    with pytest.raises(MissingInputError):
        run(tmp_path / "nothing", parcels, tmp_path)
    (tmp_path / "bare").mkdir()
    with pytest.raises(MissingInputError, match="no raster"):
        run(tmp_path / "bare", parcels, tmp_path)
    with pytest.raises(UsageError, match="neither a cube"):
        run(parcels, parcels, tmp_path)
    run(scenes, parcels, tmp_path)
    with pytest.raises(OutputExistsError):
        aggregate(scenes, parcels, tmp_path / "out" / "series.zarr", PLAIN, Silent())


def test_same_input_gives_the_same_store(scene, tmp_path):
    scenes, parcels = simple(scene, tmp_path)
    prints = set()
    for _ in range(2):
        run(scenes, parcels, tmp_path)
        prints.add(SeriesStore.open(tmp_path / "out" / "series.zarr").fingerprint())
    assert len(prints) == 1


class _Interrupting(Silent):
    """Presses Ctrl-C when the first acquisition is done."""

    @contextlib.contextmanager
    def task(self, description, total):
        class Pressed:
            def advance(self, amount=1.0):
                raise KeyboardInterrupt

            def note(self, text):
                pass

        yield Pressed()


def test_interruption_leaves_what_was_there(scene, tmp_path):
    scenes, parcels = simple(scene, tmp_path)
    run(scenes, parcels, tmp_path)
    before = SeriesStore.open(tmp_path / "out" / "series.zarr").fingerprint()
    with pytest.raises(KeyboardInterrupt):
        run(scenes, parcels, tmp_path, report=_Interrupting())
    assert SeriesStore.open(tmp_path / "out" / "series.zarr").fingerprint() == before
    aggregate(scenes, parcels, tmp_path / "out" / "series.zarr", PLAIN, Silent(), resume=True)
    assert SeriesStore.open(tmp_path / "out" / "series.zarr").fingerprint() == before
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["series.zarr"]


def test_full_disk_is_one_line_and_can_be_resumed(scene, tmp_path, monkeypatch):
    scenes, parcels = simple(scene, tmp_path)

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(SeriesStore, "append", full)
        with pytest.raises(UnfinishedError, match="No space left"):
            run(scenes, parcels, tmp_path)
    assert [p.name for p in (tmp_path / "out").iterdir()] == [".series.zarr.work"]
    aggregate(scenes, parcels, tmp_path / "out" / "series.zarr", PLAIN, Silent(), resume=True)
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["series.zarr"]
