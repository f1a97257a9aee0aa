"""Transformed stores: what is kept, what is recorded, and that chunks do not matter."""

from __future__ import annotations

import json
import shutil

import geopandas as gpd
import numpy as np
import pytest
import shapely

from cropgen.core.errors import OutputExistsError, UsageError
from cropgen.series import rewrite
from cropgen.series.legend import Legend
from cropgen.series.rewrite import TransformOptions, observed, transform_store
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

LEGEND = Legend.from_codes("crops", ["a", "b"])
START = 18_628  # 2021-01-01


def some(rows: int, first: int, seed: int) -> ParcelSeries:
    rng = np.random.default_rng(seed)
    t = int(rng.integers(20, 30))
    return ParcelSeries.build(
        bands=("B04", "B08"), values=rng.random((rows, t, 2)), mask=rng.random((rows, t)) < 0.6,
        day=START + np.sort(rng.choice(300, t, replace=False)) + np.zeros((rows, 1), int),
        parcel_id=[f"p{first + i}" for i in range(rows)], year=2021, region="r",
        label=rng.integers(-1, 2, rows), lon=np.full(rows, 5.0), lat=np.full(rows, 50.0),
    )  # fmt: skip


@pytest.fixture
def store(tmp_path) -> SeriesStore:
    made = SeriesStore.create(
        tmp_path / "in/series.zarr", bands=("B04", "B08"), legend=LEGEND, source={"kind": "import", "protocols": []}
    )
    for seed, rows in enumerate((5, 7, 3)):
        part = some(rows, len(made), seed)
        shapes = gpd.GeoSeries([shapely.box(len(made) + i, 0, len(made) + i + 1, 1) for i in range(rows)], crs=4326)
        made.append(part, None if seed == 1 else shapes)
    return made


def test_everything_but_the_series_is_kept(store, tmp_path):
    (tmp_path / "in/splits").mkdir()
    (tmp_path / "in/splits/train.json").write_text("{}")
    made = transform_store(store, tmp_path / "out/series.zarr", TransformOptions(composite="10D"))
    for name in ("parcel_id", "year", "region", "label", "lon", "lat"):
        assert (made.column(name) == store.column(name)).all()
    assert (made.bands, made.legend, made.crs) == (store.bands, store.legend, store.crs)
    old, new = store.geometry(), made.geometry()
    assert old is not None
    assert new is not None
    assert old.geometry.isna().sum() == 7
    assert (new.geometry.isna() == old.geometry.isna()).all()
    assert new.geometry.dropna().geom_equals(old.geometry.dropna()).all()
    assert made.source["protocols"] == []
    assert made.source["transforms"] == [
        {"composite": "10D", "statistic": "mean", "smooth": None, "interpolate": "none", "of": store.fingerprint()}
    ]
    assert (tmp_path / "out/splits/train.json").read_text() == "{}"


def beside(store: SeriesStore, text: str) -> None:
    (store.path.parent / "splits").mkdir()
    (store.path.parent / "splits/train.json").write_text(text)


def test_splits_are_replaced_along_with_the_store(store, tmp_path):
    month, out = TransformOptions(composite="month"), tmp_path / "out/series.zarr"
    other = transform_store(store, tmp_path / "other/series.zarr", month)
    plain = transform_store(store, tmp_path / "plain/series.zarr", month)
    beside(store, "one")
    beside(other, "two")
    transform_store(store, out, month)
    transform_store(other, out, month, overwrite=True)
    assert (tmp_path / "out/splits/train.json").read_text() == "two"
    transform_store(other, out.with_name("again.zarr"), month)
    with pytest.raises(UsageError, match=r"splits holds the splits of .*out/again\.zarr"):
        transform_store(store, out, month, overwrite=True)
    transform_store(plain, out, month, overwrite=True)
    assert (tmp_path / "out/splits/train.json").read_text() == "two"
    shutil.rmtree(out.with_name("again.zarr"))
    transform_store(plain, out, month, overwrite=True)
    assert not (tmp_path / "out/splits").exists()


def test_splits_without_a_store_are_in_the_way(store, tmp_path):
    beside(store, "one")
    (tmp_path / "out/splits").mkdir(parents=True)
    out, month = tmp_path / "out/series.zarr", TransformOptions(composite="month")
    with pytest.raises(OutputExistsError, match="splits exists"):
        transform_store(store, out, month)
    assert not out.exists()
    transform_store(store, out, month, overwrite=True)
    assert (tmp_path / "out/splits/train.json").read_text() == "one"


@pytest.mark.parametrize(
    "options",
    [
        {"composite": "month", "statistic": "median"},
        {"smooth": "whittaker:500"},
        {"smooth": "savgol:3:1"},
        {"composite": "10D", "smooth": "whittaker:500", "interpolate": "linear"},
    ],
    ids=str,
)
def test_chunks_do_not_matter(store, tmp_path, monkeypatch, options):
    chosen = TransformOptions(**options)
    whole = transform_store(store, tmp_path / "whole.zarr", chosen)
    monkeypatch.setattr(rewrite, "_SHARD", 8)
    parts = transform_store(store, tmp_path / "parts.zarr", chosen)
    one, two = whole.read(), parts.read()
    for name in ("values", "mask", "day", "pixels"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    assert one.mask.any()
    geometry = parts.geometry()
    assert geometry is not None
    assert geometry.geometry.isna().sum() == 7


def test_filled_dates_are_told_from_observed_ones(store, tmp_path):
    plain = transform_store(store, tmp_path / "plain.zarr", TransformOptions(composite="10D"))
    filled = transform_store(store, tmp_path / "filled.zarr", TransformOptions(composite="10D", interpolate="linear"))
    before, after = plain.read(), filled.read()
    assert after.mask.sum() > before.mask.sum()
    assert (observed(after, filled.source) == before.mask).all()
    assert (observed(before, plain.source) == before.mask).all()
    assert np.array_equal(after.values[before.mask], before.values[before.mask])


def test_transforms_add_up(store, tmp_path):
    one = transform_store(store, tmp_path / "one.zarr", TransformOptions(composite="5D"))
    two = transform_store(one, tmp_path / "two.zarr", TransformOptions(smooth="whittaker:100"))
    assert [step["of"] for step in two.source["transforms"]] == [store.fingerprint(), one.fingerprint()]
    assert json.dumps(two.source)


def test_faults(store, tmp_path):
    out = tmp_path / "out.zarr"
    with pytest.raises(UsageError, match="nothing to transform"):
        transform_store(store, out, TransformOptions())
    with pytest.raises(UsageError, match="--interpolate"):
        transform_store(store, out, TransformOptions(smooth="whittaker:1", interpolate="linear"))
    transform_store(store, out, TransformOptions(composite="month"))
    with pytest.raises(OutputExistsError):
        transform_store(store, out, TransformOptions(composite="month"))
    with pytest.raises(UsageError, match="is the store that is read"):
        transform_store(store, store.path, TransformOptions(composite="month"), overwrite=True)
    assert len(transform_store(store, out, TransformOptions(composite="5D"), overwrite=True)) == 15
