"""Pixel sets travel with their rows and dates, cost nothing where they are absent, and are read only when asked for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cropgen.core.errors import CorruptInputError, SchemaError
from cropgen.series.batches import concatenate_batches, make_batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.series.pixel_sets import SHAPE, UNIT, PixelSets
from cropgen.series.schema import ParcelSeries, concatenate
from cropgen.series.season import SeasonEnd
from cropgen.series.statistics import summarise
from cropgen.series.store import SeriesStore
from cropgen.series.transforms import Spread, open_series
from cropgen.series.view import SeriesView, with_pixel_sets

BANDS, INSIDE, PIXELS = ("B04", "B08", "temperature"), ("B04", "B08"), 4
LEGEND = Legend.from_codes("toy", ["1", "2"])
NEW_YEAR = int(np.datetime64("2021-01-01", "D").astype(int))


def rows(n: int, t: int, first: int = 0, *, inside: bool = True) -> ParcelSeries:
    draw = np.random.default_rng([n, t, first])
    mask = draw.random((n, t)) > 0.3
    sets = PixelSets.build(
        bands=INSIDE, values=draw.random((n, t, PIXELS, 2)).round(4), mask=draw.random((n, t, PIXELS)) > 0.2,
        shape=draw.random((n, len(SHAPE))),
    )  # fmt: skip
    return ParcelSeries.build(
        bands=BANDS, values=draw.random((n, t, 3)), mask=mask, day=NEW_YEAR + np.tile(10 * np.arange(t), (n, 1)),
        parcel_id=[str(first + i) for i in range(n)], year=2021, label=draw.integers(0, 2, n),
        pixel_sets=sets if inside else None,
    )  # fmt: skip


def sets_of(series: ParcelSeries) -> PixelSets:
    assert series.pixel_sets is not None
    return series.pixel_sets


def same(one: PixelSets, other: PixelSets) -> None:
    assert one.bands == other.bands
    for name in ("values", "mask", "shape"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert getattr(one, name).dtype == getattr(other, name).dtype


@pytest.fixture
def store(tmp_path: Path) -> SeriesStore:
    made = SeriesStore.create(tmp_path / "toy" / "series.zarr", bands=BANDS, legend=LEGEND)
    for shard in (rows(5, 3), rows(7, 6, 5)):
        made.append(shard)
    return made


def test_reflectance_is_kept_to_a_ten_thousandth_and_a_missing_band_masks_the_pixel() -> None:
    values = np.array([[[[0.1234, 0.5], [np.nan, 0.5], [-0.02, 9.0]]]])
    sets = PixelSets.build(bands=INSIDE, values=values, mask=np.ones((1, 1, 3), bool))
    assert sets.values[0, 0].tolist() == [[1234, 5000], [0, 0], [-200, 32767]]
    assert sets.mask[0, 0].tolist() == [True, False, True]
    assert np.isnan(sets.shape).all()
    assert UNIT == 1e-4


def test_no_pixel_is_clear_where_its_parcel_is_not_observed() -> None:
    series = rows(20, 5)
    assert not sets_of(series).mask[~series.mask].any()
    assert sets_of(series).mask.any()


def test_sets_must_fit_their_series() -> None:
    series = rows(4, 3)
    with pytest.raises(SchemaError, match="3 dates"):
        replace(series, pixel_sets=sets_of(rows(4, 2)))
    with pytest.raises(SchemaError, match="in this order"):
        replace(series, pixel_sets=replace(sets_of(series), bands=("B08", "B04")))


def test_rows_bands_dates_and_padding_carry_their_pixels() -> None:
    series = rows(6, 4)
    sets = sets_of(series)
    same(sets_of(series.take(np.array([3, 0]))), sets.take(np.array([3, 0])))
    assert sets_of(series.select_bands(("B08", "temperature"))).bands == ("B08",)
    np.testing.assert_array_equal(sets_of(series.select_bands(("B08",))).values, sets.values[..., 1:])
    np.testing.assert_array_equal(sets_of(series.select_bands(("B08", "B04"))).values, sets.values[..., ::-1])
    assert series.select_bands(("temperature",)).pixel_sets is None
    longer = sets_of(series.padded(6))
    np.testing.assert_array_equal(longer.values[:, :4], sets.values)
    assert not longer.mask[:, 4:].any()
    cut = sets_of(SeasonEnd.parse("10").cut(series))
    np.testing.assert_array_equal(cut.mask[:, :2], sets.mask[:, :2])
    assert not cut.mask[:, 2:].any()


def test_series_are_joined_with_all_their_sets_or_none() -> None:
    short, long = rows(3, 2), rows(2, 4, 3)
    joined = sets_of(concatenate([short, long]))
    same(joined.take(slice(0, 3)), sets_of(short.padded(4)))
    same(joined.take(slice(3, 5)), sets_of(long))
    bare = [replace(part, pixel_sets=None) for part in (short, long)]
    assert concatenate(bare).pixel_sets is None
    with pytest.raises(SchemaError, match="1 of 2 series"):
        concatenate([short, bare[1]])


def test_the_store_gives_them_back_when_asked(store: SeriesStore) -> None:
    opened = SeriesStore.open(store.path)
    assert (opened.pixel_bands, opened.pixels) == (INSIDE, PIXELS)
    whole = concatenate([rows(5, 3), rows(7, 6, 5)])
    assert opened.read().pixel_sets is None
    same(sets_of(opened.read(pixel_bands=INSIDE)), sets_of(whole))
    some = np.array([11, 2, 2])
    same(sets_of(opened.read(some, pixel_bands=INSIDE)), sets_of(whole.take(some)))
    assert sets_of(opened.read(some, pixel_bands=("B08",))).bands == ("B08",)
    assert summarise(opened)["pixel_sets"] == {"pixels": PIXELS, "bands": list(INSIDE)}
    assert opened.dataset()["pixel_values"].dims == ("parcel", "date", "pixel", "pixel_band")


def test_they_are_left_alone_until_asked_for(store: SeriesStore) -> None:
    for chunk in (store.path / "pixel_values" / "c").rglob("0"):
        if chunk.is_file():
            chunk.unlink()
    assert len(store.read()) == 12
    with pytest.raises(CorruptInputError, match="pixel_values"):
        store.read(pixel_bands=INSIDE)


def test_a_store_without_them_says_nothing_of_them(tmp_path: Path) -> None:
    store = SeriesStore.create(tmp_path / "plain.zarr", bands=BANDS, legend=LEGEND)
    store.append(rows(3, 2, inside=False))
    assert not [path for path in store.path.iterdir() if "pixel_" in path.name or "shape" in path.name]
    assert "pixel_sets" not in json.loads((store.path / "zarr.json").read_text())["attributes"]
    assert "pixel_sets" not in summarise(store)
    with pytest.raises(SchemaError, match="no pixel sets") as caught:
        with_pixel_sets(store)
    assert "--pixels" in str(caught.value.hint)


def test_shards_must_be_alike(store: SeriesStore) -> None:
    with pytest.raises(SchemaError, match="alike"):
        store.append(rows(2, 2, 12, inside=False))
    fewer = rows(2, 2, 12)
    sets = sets_of(fewer)
    fewer = replace(fewer, pixel_sets=replace(sets, values=sets.values[:, :, :2], mask=sets.mask[:, :, :2]))
    with pytest.raises(SchemaError, match="alike"):
        store.append(fewer)
    assert len(SeriesStore.open(store.path)) == 12


def test_the_fingerprint_depends_on_them(tmp_path: Path) -> None:
    found = set()
    series = rows(3, 2)
    moved = replace(sets_of(series), values=sets_of(series).values + 1)
    for number, part in enumerate((series, replace(series, pixel_sets=moved), replace(series, pixel_sets=None))):
        store = SeriesStore.create(tmp_path / str(number), bands=BANDS, legend=LEGEND)
        store.append(part)
        found.add(store.fingerprint())
    assert len(found) == 3


def test_views_read_them_along(store: SeriesStore) -> None:
    view = SeriesView(with_pixel_sets(store), until=SeasonEnd.parse("10"))
    seen = view.read(np.array([4, 6]))
    expected = SeasonEnd.parse("10").cut(store.read(np.array([4, 6]), pixel_bands=INSIDE))
    same(sets_of(seen), sets_of(expected))
    assert sets_of(with_pixel_sets(store, ("B08",)).read(slice(0, 2))).bands == ("B08",)


def test_standardisation_moves_pixels_as_it_moves_their_parcel(tmp_path: Path) -> None:
    values = np.array([[[0.1, 0.4, 20.0], [0.3, 0.6, 10.0]]])
    sets = PixelSets.build(bands=INSIDE, values=values[:, :, None, :2], mask=np.ones((1, 2, 1), bool))
    series = ParcelSeries.build(
        bands=BANDS, values=values, mask=np.ones((1, 2)), day=NEW_YEAR + np.array([[0, 9]]), parcel_id=["a"], year=2021,
        pixel_sets=sets,
    )  # fmt: skip
    path = tmp_path / "one.zarr"
    SeriesStore.create(path, bands=BANDS, legend=LEGEND).append(series)
    store = open_series(path, "region-year", Spread(np.array([0.5, 0.5, 0.0]), np.array([0.2, 0.1, 1.0])))
    moved = with_pixel_sets(store).read()
    np.testing.assert_allclose(moved.values[0, :, :2], [[0.3, 0.4], [0.7, 0.6]], atol=1e-6)
    assert sets_of(moved).values[0, :, 0].tolist() == [[3000, 4000], [7000, 6000]]
    assert store.read().pixel_sets is None


def test_batches_carry_them() -> None:
    series = rows(6, 4)
    calendar = Calendar("dekad", 0, 3)
    batch = make_batch(series, calendar)
    assert batch.pixels.dtype == torch.int16
    np.testing.assert_array_equal(batch.pixels.numpy(), sets_of(series).values)
    assert batch.take(torch.tensor([5, 1])).pixel_mask.equal(batch.pixel_mask[[5, 1]])
    longer = batch.padded(7)
    assert (longer.pixels.shape, longer.pixel_mask.shape) == ((6, 7, PIXELS, 2), (6, 7, PIXELS))
    assert not longer.pixel_mask[:, 4:].any()
    joined = concatenate_batches([batch, longer])
    assert joined.pixels.shape == (12, 7, PIXELS, 2)
    assert batch.to(dtype=torch.float64).shape.dtype == torch.float64
    assert batch.without_labels().pixels is batch.pixels


def test_batches_without_them_have_empty_ones() -> None:
    batch = make_batch(rows(3, 4, inside=False), Calendar("dekad", 0, 3))
    assert batch.pixel_mask.shape == (3, 4, 0)
    assert batch.pixels.shape[:3] == (3, 4, 0)
    assert batch.shape.shape == (3, 0)
    assert concatenate_batches([batch, batch.padded(6)]).pixel_mask.shape == (6, 6, 0)
