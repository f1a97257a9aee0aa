"""The summary of a store equals what numpy counts on the whole of it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.statistics import summarise
from cropgen.series.store import SeriesStore


def test_summary_by_hand(tmp_path: Path) -> None:
    legend = Legend.from_codes("two", ["a", "b", "never"])
    days = np.array(["2021-01-15", "2021-02-01", "2021-02-28"], "datetime64[D]").astype(int)
    series = ParcelSeries.build(
        bands=("B04",),
        values=np.array([[0.1, 0.2, 0.3], [0.4, 0.9, 0.9], [0.5, 0.6, 0.7]])[..., None],
        mask=np.array([[1, 1, 1], [1, 0, 0], [0, 0, 0]], bool),
        day=np.tile(days, (3, 1)),
        parcel_id=["p", "p", "q"],
        year=np.array([2021, 2022, 2021]),
        region=["west", "west", "east"],
        label=np.array([1, 0, -1]),
        lon=np.array([3.0, 3.0, np.nan]),
        lat=np.array([50.0, 51.0, np.nan]),
    )
    store = SeriesStore.create(tmp_path / "s.zarr", bands=("B04",), legend=legend, source={"kind": "test"})
    store.append(series)
    summary = summarise(store)
    json.dumps(summary)
    assert (summary["rows"], summary["parcels"], summary["dates"], summary["unlabelled"]) == (3, 2, 3, 1)
    assert summary["years"] == {"2021": 2, "2022": 1}
    assert summary["regions"] == {"east": 1, "west": 2}
    assert summary["extent"] == [3.0, 50.0, 3.0, 51.0]
    assert [c["count"] for c in summary["classes"]] == [1, 1, 0]
    assert [c["prior"] for c in summary["classes"]] == [0.5, 0.5, 0.0]
    assert summary["classes"][1]["years"] == {"2021": {"count": 1, "prior": 1.0}, "2022": {"count": 0, "prior": 0.0}}
    assert summary["clear_dates"]["quantiles"]["0.5"] == 1.0
    assert summary["clear_dates"]["months"]["1"] == pytest.approx(2 / 3)
    assert summary["clear_dates"]["months"]["2"] == pytest.approx(2 / 3)
    assert sum(summary["clear_dates"]["months"].values()) == pytest.approx(4 / 3)
    band = summary["bands"][0]
    assert (band["observations"], band["min"], band["max"]) == (4, pytest.approx(0.1), pytest.approx(0.4))
    assert band["mean"] == pytest.approx(0.25)
    assert band["q50"] == pytest.approx(0.2, abs=0.002)
    assert summary["fingerprint"] == store.fingerprint()


def test_single_bands_that_are_masked_do_not_count(tmp_path: Path) -> None:
    series = ParcelSeries.build(
        bands=("B04", "B08"), values=np.array([[[0.1, 0.5], [0.2, 0.6]]]), mask=np.ones((1, 2), bool),
        day=np.array([[18628, 18629]]), parcel_id=["p"], year=2021,
        band_mask=np.array([[[True, False], [True, True]]]),
    )  # fmt: skip
    store = SeriesStore.create(tmp_path / "s.zarr", bands=series.bands, legend=Legend("none", ()))
    store.append(series)
    bands = summarise(store)["bands"]
    assert [b["observations"] for b in bands] == [2, 1]
    assert bands[1]["min"] == bands[1]["max"] == pytest.approx(0.6)


def test_quantiles_of_bands_that_are_no_reflectance(tmp_path: Path) -> None:
    """Elevation and backscatter lie far outside −1 … 2, a constant has no range at all."""
    rng = np.random.default_rng(0)
    n, t = 40, 25
    values = np.stack(
        [rng.uniform(102, 798, (n, t)), rng.normal(-12, 3, (n, t)), rng.random((n, t)), np.full((n, t), 500.0)], axis=-1
    )
    series = ParcelSeries.build(
        bands=("elevation", "VV", "B04", "level"), values=values, mask=rng.random((n, t)) < 0.8,
        day=np.tile(18628 + np.arange(t), (n, 1)), parcel_id=[str(i) for i in range(n)], year=2021,
    )  # fmt: skip
    store = SeriesStore.create(tmp_path / "s.zarr", bands=series.bands, legend=Legend("none", ()))
    store.append(series.take(slice(0, 25)))
    store.append(series.take(slice(25, n)))
    for place, band in enumerate(summarise(store)["bands"]):
        seen = series.values[..., place][series.mask].astype(float)
        near = max(seen.max() - seen.min(), 3.0) / 1000
        assert band["observations"] == len(seen)
        assert (band["min"], band["max"]) == (seen.min(), seen.max())
        assert band["mean"] == pytest.approx(seen.mean())
        for name, share in (("q05", 0.05), ("q50", 0.5), ("q95", 0.95)):
            lower, upper = (np.quantile(seen, share, method=m) for m in ("lower", "higher"))
            assert lower - near <= band[name] <= upper + near, (band["name"], name)


def test_an_empty_store(tmp_path: Path) -> None:
    store = SeriesStore.create(tmp_path / "s.zarr", bands=("B04",), legend=Legend.from_codes("one", ["a"]))
    summary = summarise(store)
    assert summary["rows"] == summary["parcels"] == 0
    assert summary["extent"] is None
    assert summary["bands"] == [{"name": "B04", "observations": 0}]
