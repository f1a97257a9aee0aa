"""The statistics of a parcel's pixels, by hand and against numpy, through the whole of `aggregate`."""

from __future__ import annotations

import numpy as np
import pytest

from cropgen.core.errors import UsageError
from cropgen.core.progress import Silent
from cropgen.imagery.aggregate import AggregateOptions, aggregate
from cropgen.imagery.statistics import Statistic, combined, statistics_of
from cropgen.series.store import SeriesStore
from tests.imagery.scene_files import square, write_parcels

EVERY = ("mean", "std", "median", "p10", "p90", "count")


def dn(reflectance):
    return np.round((np.asarray(reflectance) + 0.1) / 1e-4)


def run(scenes, parcels, tmp_path, **options):
    chosen = AggregateOptions.model_validate({"buffer": 0, "min_pixels": 1, "min_share": 0, **options})
    aggregate(scenes, parcels, tmp_path / "o.zarr", chosen, Silent(), overwrite=True)
    return SeriesStore.open(tmp_path / "o.zarr").read()


def test_statistics_of_nine_pixels_by_hand(scene, tmp_path):
    red = np.arange(1, 10).reshape(3, 3) / 100
    scenes = scene({"20210605": {"B04": dn(red), "SCL": np.full((2, 2), 4)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"all": square(0, 0, 30, 30), "one": square(20, 20, 30, 30)})
    series = run(scenes, parcels, tmp_path, statistics=EVERY)
    assert series.bands == ("B04", "B04_std", "B04_median", "B04_p10", "B04_p90", "B04_count")
    nine = [0.05, np.sqrt(60 / 9) / 100, 0.05, 0.018, 0.082, 9]
    np.testing.assert_allclose(series.values[:, 0], [nine, [0.09, 0, 0.09, 0.09, 0.09, 1]], atol=1e-7)


@pytest.mark.parametrize("cell", [(7, 9), (1024, 1024)])
def test_statistics_equal_numpy_whatever_is_read_at_once(scene, tmp_path, monkeypatch, cell):
    monkeypatch.setattr("cropgen.imagery.pixels.CELL_ROWS", cell[0])
    monkeypatch.setattr("cropgen.imagery.pixels.CELL_COLUMNS", cell[1])
    rng = np.random.default_rng(5)
    red, swir, scl = rng.uniform(0, 0.5, (32, 40)), rng.uniform(0, 0.5, (16, 20)), rng.choice([4, 9], (16, 20))
    scenes = scene({"20210605": {"B04": dn(red), "B11": dn(swir), "SCL": scl}})
    boxes = {"a": (0, 0, 200, 120), "b": (100, 60, 400, 320), "c": (380, 300, 400, 320)}
    parcels = write_parcels(tmp_path / "p.gpkg", {name: square(*box) for name, box in boxes.items()})
    series = run(scenes, parcels, tmp_path, statistics=EVERY)
    for row, (left, top, right, bottom) in zip(series.values[:, 0], boxes.values(), strict=True):
        fine, coarse = (
            np.s_[top // 10 : bottom // 10, left // 10 : right // 10],
            np.s_[top // 20 : bottom // 20, left // 20 : right // 20],
        )
        clear = np.repeat(np.repeat(scl == 4, 2, 0), 2, 1)
        if not clear[fine].any():
            assert not row.any()
            continue
        columns = [x[part][ok[part]] for x, part, ok in ((red, fine, clear), (swir, coarse, scl == 4))]
        expected = [
            [np.mean(x), np.std(x), np.median(x), np.percentile(x, 10), np.percentile(x, 90), len(x)] for x in columns
        ]
        np.testing.assert_allclose(row, np.array(expected).T.ravel(), atol=6e-5)


def test_coverage_weighs_pixels_by_their_share(scene, tmp_path):
    red = np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6], [0.7, 0.8, 0.9]])
    scenes = scene({"20210605": {"B04": dn(red), "SCL": np.full((2, 2), 4)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(5, 5, 30, 20), "tiny": square(1, 1, 4, 3)})
    series = run(scenes, parcels, tmp_path, method="coverage", statistics=("std", "count"))
    x = np.array([0.1, 0.2, 0.3, 0.4, 0.5, 0.6])
    w = np.array([0.25, 0.5, 0.5, 0.5, 1, 1])
    mean = (x * w).sum() / w.sum()
    std = np.sqrt((w * (x - mean) ** 2).sum() / w.sum())
    np.testing.assert_allclose(series.values[:, 0], [[mean, std, 3.75], [0.1, 0, 0.06]], atol=1e-6)
    assert series.pixels is not None
    assert series.pixels[:, 0].tolist() == [4, 1]


def test_methods_agree_for_parcels_from_half_a_hectare_on(scene, tmp_path):
    rng = np.random.default_rng(1)
    rows, columns = np.indices((120, 120))
    red = 0.2 + 0.03 * np.sin(rows / 40) + 0.03 * np.cos(columns / 50) + rng.normal(0, 0.003, (120, 120))
    scenes = scene({"20210605": {"B04": dn(red), "SCL": np.full((60, 60), 4)}})
    shapes = {}
    for i in range(60):
        left, top = rng.uniform(0, 900, 2)
        width, height = rng.uniform(72, 250, 2)
        shapes[f"{i}"] = square(left, top, left + width, top + height)
    parcels = write_parcels(tmp_path / "p.gpkg", shapes)
    centre = run(scenes, parcels, tmp_path, buffer=0)
    coverage = run(scenes, parcels, tmp_path, buffer=0, method="coverage")
    np.testing.assert_allclose(coverage.values, centre.values, rtol=5e-3)


def test_overlapping_parcels_keep_their_own_pixels_by_coverage(scene, tmp_path):
    scenes = scene({"20210605": {"B04": dn(np.arange(16).reshape(4, 4) / 50), "SCL": np.full((2, 2), 4)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 40, 20), "b": square(0, 0, 20, 40)})
    series = run(scenes, parcels, tmp_path, method="coverage")
    np.testing.assert_allclose(series.values[:, 0, 0], [3.5 / 50, 6.5 / 50], atol=1e-6)


def test_parts_make_the_whole():
    rng = np.random.default_rng(0)
    x, w = rng.uniform(0, 1, 50), np.ones(50)
    statistics = statistics_of(("std", "count"))
    parts = [slice(0, 20), slice(20, 50)]
    values = np.array([[[[x[p].mean()], [x[p].std()], [len(x[p])]]] for p in parts])
    found = combined(statistics, values, np.array([[[w[p].sum()]] for p in parts]))
    np.testing.assert_allclose(found[0, :, 0], [x.mean(), x.std(), 50])
    blind = combined(statistics, np.full((2, 1, 3, 1), np.nan), np.zeros((2, 1, 1)))
    assert np.isnan(blind).all()


def test_names():
    assert [s.name for s in statistics_of(("p05", "mean", "std", "p05"))] == ["mean", "p05", "std"]
    assert Statistic.named("p05").share == 0.05
    assert Statistic.named("mean").band("B04") == "B04"
    for wrong in ("p101", "mode", "p", ""):
        with pytest.raises(UsageError, match="unknown statistic"):
            Statistic.named(wrong)
