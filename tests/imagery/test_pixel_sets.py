"""Pixel sets hold pixels of their parcel and nothing else: the same ones at all dates, from all tiles, in any order."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely

from cropgen.core.engine import Engine
from cropgen.core.errors import UsageError
from cropgen.core.files import sha256_tree
from cropgen.core.progress import Silent
from cropgen.imagery import ahead, pixels, sample_values
from cropgen.imagery.aggregate import AggregateOptions, aggregate
from cropgen.imagery.pixel_sample import NOTHING, SAMPLE, _hashed, _least
from cropgen.imagery.pixel_sets import outline_features
from cropgen.imagery.raster import RasterLayer
from cropgen.imagery.scene import Grid, Window
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore
from tests.imagery.scene_files import NORTH, UTM, WEST, square, write_date, write_parcels

VEGETATION, CLOUD = 4, 9


def options(pixels: int = 4, **more: object) -> AggregateOptions:
    return AggregateOptions.model_validate({"buffer": 0, "min_pixels": 1, "min_share": 0, "pixels": pixels, **more})


def dn(reflectance: object) -> np.ndarray:
    """Stored numbers of the product for reflectance."""
    return np.round((np.asarray(reflectance) + 0.1) / 1e-4)


def numbered(rows: int, columns: int, start: float = 0.0) -> np.ndarray:
    """Reflectance that names its pixel: 1/1000 for each row, 1/10,000 for each column."""
    return start + np.arange(rows)[:, None] / 1000 + np.arange(columns) / 10_000


def clear(rows: int, columns: int) -> np.ndarray:
    return np.full((rows, columns), VEGETATION)


def run(scenes: Path, parcels: Path, output: Path, chosen: AggregateOptions, **more: object) -> ParcelSeries:
    aggregate(scenes, parcels, output, chosen, Silent(), overwrite=True, **more)  # type: ignore[arg-type]
    store = SeriesStore.open(output)
    return store.read(pixel_bands=store.pixel_bands)


def seen(series: ParcelSeries, row: int, date: int, band: int = 0) -> dict[int, int]:
    """Place → stored value of the clear pixels of a parcel at a date."""
    sets = series.pixel_sets
    assert sets is not None
    return {int(s): int(sets.values[row, date, s, band]) for s in np.flatnonzero(sets.mask[row, date])}


def test_pixels_by_hand(scene, tmp_path: Path) -> None:
    scl = clear(3, 3)
    scl[0, 0] = CLOUD
    coarse = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]])
    scenes = scene(
        {
            "20210605": {"B04": dn(numbered(6, 6)), "B11": dn(coarse), "SCL": clear(3, 3)},
            "20210615": {"B04": dn(numbered(6, 6, 0.1)), "B11": dn(coarse), "SCL": scl},
        }
    )
    parcels = write_parcels(tmp_path / "p.gpkg", {"nine": square(10, 10, 40, 40), "two": square(0, 0, 20, 10)})
    series = run(scenes, parcels, tmp_path / "o.zarr", options(16))
    assert series.pixel_sets is not None
    assert series.pixel_sets.bands == ("B04", "B11")
    first, later = seen(series, 0, 0), seen(series, 0, 1)
    assert list(first) == list(range(9))
    assert sorted(first.values()) == [10 * r + c for r in (1, 2, 3) for c in (1, 2, 3)]
    assert later == {s: value + 1000 for s, value in first.items() if value != 11}
    swir = seen(series, 0, 0, band=1)
    assert all(swir[s] == round(coarse[v // 10 // 2, v % 10 // 2] * 10_000) for s, v in first.items())
    assert sorted(seen(series, 1, 0).values()) == [0, 1]
    assert seen(series, 1, 1) == {}
    assert not series.mask[1, 1]


def test_a_large_parcel_gives_a_sample_that_is_the_same_at_all_dates(scene, tmp_path: Path) -> None:
    days = ["20210605", "20210615", "20210625"]
    scenes = scene({day: {"B04": dn(numbered(20, 20, 0.1 * i)), "SCL": clear(10, 10)} for i, day in enumerate(days)})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 200, 100), "b": square(0, 100, 200, 200)})
    series = run(scenes, parcels, tmp_path / "o.zarr", options(5))
    for row, rows in ((0, range(10)), (1, range(10, 20))):
        first = seen(series, row, 0)
        assert len(first) == len(set(first.values())) == 5
        assert all(value // 10 in range(rows[0], rows[-1] + 3) for value in first.values())
        for date in (1, 2):
            assert seen(series, row, date) == {s: value + 1000 * date for s, value in first.items()}
    assert series.values[0, 0, 0] == pytest.approx(numbered(10, 20).mean(), abs=1e-6)


def test_neither_order_nor_company_of_a_parcel_changes_its_pixels(scene, tmp_path: Path) -> None:
    scenes = scene({"20210605": {"B04": dn(numbered(12, 12)), "SCL": clear(6, 6)}})
    shapes = {"a": square(0, 0, 60, 60), "b": square(60, 0, 120, 60), "c": square(0, 60, 120, 120)}
    forth = run(scenes, write_parcels(tmp_path / "p.gpkg", shapes), tmp_path / "1.zarr", options(6))
    back = write_parcels(tmp_path / "q.gpkg", {name: shapes[name] for name in ("c", "b")})
    other = run(scenes, back, tmp_path / "2.zarr", options(6, shard=1), engine=Engine("processes", jobs=2))
    for name in ("b", "c"):
        rows = [int(np.flatnonzero(series.parcel_id == name)[0]) for series in (forth, other)]
        assert seen(forth, rows[0], 0) == seen(other, rows[1], 0)
    again = write_parcels(tmp_path / "r.gpkg", {"z": shapes["a"]})
    assert seen(run(scenes, again, tmp_path / "3.zarr", options(6)), 0, 0) != seen(forth, 0, 0)


def test_a_parcel_across_two_tiles_has_the_pixels_it_would_have_in_one(tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    red = numbered(12, 20)
    write_date(whole / "20210605", {"B04": dn(red), "SCL": clear(6, 10)})
    write_date(halves / "20210605_W", {"B04": dn(red[:, :12]), "SCL": clear(6, 6)})
    write_date(halves / "20210605_E", {"B04": dn(red[:, 8:]), "SCL": clear(6, 6)}, west=WEST + 80)
    parcels = write_parcels(tmp_path / "p.gpkg", {"across": square(20, 0, 180, 120), "west": square(0, 0, 60, 60)})
    one = run(whole, parcels, tmp_path / "1.zarr", options(8))
    two = run(halves, parcels, tmp_path / "2.zarr", options(8))
    np.testing.assert_allclose(two.values, one.values, atol=1e-6)
    for row in range(2):
        assert len(seen(one, row, 0)) == 8
        assert seen(one, row, 0) == seen(two, row, 0)


def test_the_clearest_acquisition_of_a_day_gives_the_pixels(tmp_path: Path) -> None:
    scl = clear(3, 3)
    scl[:, 0] = CLOUD
    write_date(tmp_path / "s" / "20210605_A", {"B04": dn(numbered(6, 6)), "SCL": scl})
    write_date(tmp_path / "s" / "20210605_B", {"B04": dn(numbered(6, 6, 0.2)), "SCL": clear(3, 3)})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 60, 60)})
    found = seen(run(tmp_path / "s", parcels, tmp_path / "o.zarr", options(36)), 0, 0)
    assert sorted(found.values()) == sorted(round(v * 10_000) for v in numbered(6, 6, 0.2).ravel().tolist())


def test_what_a_crash_left_torn_is_done_again(scene, tmp_path: Path) -> None:
    scenes = scene({"20210605": {"B04": dn(numbered(6, 6)), "SCL": clear(3, 3)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 60, 60)})
    once = run(scenes, parcels, tmp_path / "o.zarr", options(5), keep_work=True)
    work = tmp_path / ".o.zarr.work"
    for path in (*work.glob("tiles/*/sample.npy"), *work.glob("units/*/pixels.npy")):
        path.write_bytes(b"")
    again = run(scenes, parcels, tmp_path / "o.zarr", options(5), resume=True)
    assert seen(again, 0, 0) == seen(once, 0, 0) != {}


def test_without_being_asked_none_are_kept(scene, tmp_path: Path) -> None:
    scenes = scene({"20210605": {"B04": dn(numbered(4, 4)), "SCL": clear(2, 2)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 40, 40)})
    plain = run(scenes, parcels, tmp_path / "1.zarr", options(0))
    kept = run(scenes, parcels, tmp_path / "2.zarr", options(3))
    assert plain.pixel_sets is None
    assert kept.pixel_sets is not None
    np.testing.assert_array_equal(plain.values, kept.values)


def test_bands_that_are_no_reflectance_have_none(scene, tmp_path: Path) -> None:
    scenes = scene({"20210605": {"moisture": np.full((4, 4), 7), "SCL": clear(4, 4)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 40, 40)})
    with pytest.raises(UsageError, match="moisture"):
        run(scenes, parcels, tmp_path / "o.zarr", options(3, bands=("moisture",)))


def test_every_pixel_is_as_likely_as_any_other() -> None:
    grid = Grid(UTM, (10.0, 0.0, WEST, 0.0, -10.0, NORTH), (100, 100))
    row, column = np.divmod(np.arange(16), 4)
    drawn = np.zeros(16)
    for key in np.random.default_rng(0).integers(0, 2**63, 2000, dtype=np.uint64):
        order = np.argsort(_hashed(np.full(16, key, np.uint64), grid, row, column))
        drawn[order[:4]] += 1
    assert drawn.sum() == 8000
    assert np.abs(drawn - 500).max() < 5 * np.sqrt(2000 * 0.25 * 0.75)


def test_the_least_of_known_and_found_are_kept() -> None:
    known = np.zeros((2, 2), SAMPLE)
    known["hash"] = [[5, NOTHING], [1, 2]]
    found = np.zeros(4, SAMPLE)
    found["hash"], found["row"] = [9, 3, 0, 8], [1, 2, 3, 4]
    kept = _least(known, found, np.array([0, 0, 1, 1]), 2)
    assert kept["hash"].tolist() == [[3, 5], [0, 1]]
    assert kept["row"].tolist() == [[2, 0], [3, 0]]


def test_outlines_by_hand() -> None:
    shapes = gpd.GeoSeries([square(0, 0, 100, 100), square(0, 0, 400, 100)], crs=UTM)
    area, perimeter, cover, roughness = outline_features(shapes).T
    np.testing.assert_allclose(area, [1, 4], rtol=2e-3)
    np.testing.assert_allclose(perimeter, [0.4, 1.0], rtol=1e-3)
    np.testing.assert_allclose(cover, [1, 1], atol=0.01)
    np.testing.assert_allclose(roughness, [4, 5], rtol=1e-3)


def test_the_features_of_an_outline_do_not_depend_on_the_direction_of_its_rings() -> None:
    ring, hole = ([*square(*box).exterior.coords] for box in ((0, 0, 800, 800), (100, 100, 700, 700)))
    rings = [shapely.Polygon(r, [h]) for r in (ring, ring[::-1]) for h in (hole, hole[::-1])]
    far = [*square(2000, 0, 2600, 600).exterior.coords]
    several = [shapely.MultiPolygon([shapely.Polygon(ring, [hole]), shapely.Polygon(f)]) for f in (far, far[::-1])]
    area, perimeter, _, roughness = outline_features(gpd.GeoSeries([*rings, *several], crs=UTM)).T
    np.testing.assert_allclose(area, [28] * 4 + [64] * 2, rtol=2e-3)
    np.testing.assert_allclose(perimeter, [3.2] * 4 + [5.6] * 2, rtol=1e-3)
    np.testing.assert_allclose(roughness, [3200 / 280_000**0.5] * 4 + [7] * 2, rtol=1e-3)


def strewn_over_two_tiles(folder: Path) -> tuple[Path, Path]:
    """Two tiles that overlap, bands of 10 m and 20 m with values that are missing, and parcels of all sizes."""
    rng = np.random.default_rng(3)
    for date, west in (("20210605_a", 0), ("20210605_b", 300), ("20210612", 0), ("20210620", 0)):
        scl = np.full((40, 40), CLOUD) if date == "20210620" else rng.choice([4, 4, 4, 9], (40, 40))
        fine, coarse = rng.integers(0, 5000, (80, 80)), rng.integers(0, 5000, (40, 40))
        write_date(folder / "scenes" / date, {"B04": fine, "B11": coarse, "SCL": scl}, west=WEST + west)
    place, reach = rng.uniform(20, 1000, (40, 2)), rng.uniform(3, 90, 40)
    shapes = {
        f"p{i}": square(x - r, 0.7 * y - r, x + r, 0.7 * y + r)
        for i, ((x, y), r) in enumerate(zip(place, reach, strict=True))
    }
    return folder / "scenes", write_parcels(folder / "p.gpkg", shapes)


@pytest.mark.parametrize(
    "more", [{}, {"method": "coverage"}, {"clear": (), "statistics": ("p50",)}, {"bands": ("B11",)}]
)
def test_how_scenes_are_cut_for_reading_changes_nothing(tmp_path: Path, monkeypatch, more) -> None:
    scenes, parcels = strewn_over_two_tiles(tmp_path)
    run(scenes, parcels, tmp_path / "whole.zarr", options(8, **more))
    for module in (ahead, pixels, sample_values):
        monkeypatch.setattr(module, "CELL_ROWS", 16)
        monkeypatch.setattr(module, "CELL_COLUMNS", 24)
    series = run(scenes, parcels, tmp_path / "cut.zarr", options(8, **more))
    assert series.pixel_sets is not None
    assert series.pixel_sets.mask.any()
    assert sha256_tree(tmp_path / "cut.zarr") == sha256_tree(tmp_path / "whole.zarr")


def test_scenes_are_read_once_for_means_and_pixel_sets(scene, tmp_path: Path, monkeypatch) -> None:
    read: list[tuple[str, Window]] = []
    whole = RasterLayer.read

    def counted(layer: RasterLayer, window: Window) -> np.ndarray:
        read.append((Path(layer.path).stem, window))
        return whole(layer, window)

    monkeypatch.setattr(RasterLayer, "read", counted)
    scenes = scene({"20210605": {"B04": dn(numbered(12, 12)), "B11": dn(numbered(6, 6)), "SCL": clear(6, 6)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 60, 60), "b": square(60, 0, 120, 60)})
    counts = []
    for size in (0, 6):
        read.clear()
        run(scenes, parcels, tmp_path / f"{size}.zarr", options(size))
        counts.append(sorted(name for name, _ in read))
    assert counts == [["B04", "B11", "SCL", "SCL"]] * 2
