"""Region-years are brought to one level and spread, in one pass, without labels; what was masked stays masked."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.core.errors import CorruptInputError, DataError, SchemaError
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries, concatenate
from cropgen.series.store import SeriesStore
from cropgen.series.transforms import Moments, Spread, Standardisation, load_spread, open_series, save_spread

BANDS = ("B04", "B08")


def region_year(region: str, year: int, level: float, spread: float, rows: int = 40, *, by_band: bool = False):
    draw = np.random.default_rng([year, len(region)])
    values = level + spread * draw.standard_normal((rows, 7, 2)) * [1.0, 2.0]
    day = np.arange(7) * 20 + (np.datetime64(f"{year}-03-01") - np.datetime64("1970-01-01")).astype(int)
    mask = draw.random((rows, 7)) > 0.3
    return ParcelSeries.build(
        bands=BANDS, values=values, mask=mask, day=np.tile(day, (rows, 1)), parcel_id=np.arange(rows).astype(str),
        year=year, region=region, label=np.arange(rows) % 3,
        band_mask=(draw.random((rows, 7, 2)) > 0.2) & mask[..., None] if by_band else None,
    )  # fmt: skip


SERIES = concatenate([region_year("north", 2020, 0.2, 0.03), region_year("north", 2021, 0.3, 0.05),
                      region_year("south", 2021, 0.1, 0.02, rows=25)])  # fmt: skip


def observed(series: ParcelSeries, region: str, year: int, band: int) -> np.ndarray:
    rows = (series.region == region) & (series.year == year)
    clear = series.mask[rows] if series.band_mask is None else series.band_mask[rows][..., band]
    return series.values[rows][..., band][clear].astype(np.float64)


@pytest.mark.parametrize("by_band", [False, True])
def test_every_region_year_gets_the_common_level_and_spread(by_band: bool) -> None:
    series = concatenate([region_year("a", 2020, 0.2, 0.03, by_band=by_band), region_year("b", 2021, 0.5, 0.1)])
    fitted = Standardisation.fit([series])
    mapped = fitted.apply(series)
    for band in range(2):
        for region, year in (("a", 2020), ("b", 2021)):
            here = observed(mapped, region, year, band)
            assert here.mean() == pytest.approx(fitted.common.mean[band], abs=1e-6)
            assert here.std() == pytest.approx(fitted.common.scale[band], abs=1e-6)
            before = observed(series, region, year, band)
            assert fitted.groups[region, year].mean[band] == pytest.approx(before.mean())
            assert fitted.groups[region, year].scale[band] == pytest.approx(before.std())
            expected = (before - before.mean()) / before.std() * fitted.common.scale[band] + fitted.common.mean[band]
            np.testing.assert_allclose(here, expected, atol=1e-6)
    assert (mapped.mask == series.mask).all()
    assert not mapped.values[~mapped.mask].any()
    if mapped.band_mask is not None:
        assert not mapped.values[~mapped.band_mask].any()


def test_the_common_spread_is_that_within_region_years() -> None:
    fitted = Standardisation.fit([SERIES])
    groups = [("north", 2020), ("north", 2021), ("south", 2021)]
    seen = [observed(SERIES, *group, 0) for group in groups]
    count = np.array([len(s) for s in seen])
    assert fitted.common.mean[0] == pytest.approx(np.concatenate(seen).mean())
    assert fitted.common.scale[0] == pytest.approx(np.sqrt((count * [s.var() for s in seen]).sum() / count.sum()))


def test_once_is_enough_and_one_region_year_stays() -> None:
    mapped = Standardisation.fit([SERIES]).apply(SERIES)
    again = Standardisation.fit([mapped]).apply(mapped)
    np.testing.assert_allclose(again.values, mapped.values, atol=1e-6)
    alone = region_year("north", 2020, 0.2, 0.03)
    np.testing.assert_allclose(Standardisation.fit([alone]).apply(alone).values, alone.values, atol=1e-6)


def test_labels_are_not_looked_at() -> None:
    other = replace(SERIES, label=np.full(len(SERIES), -1, np.int32))
    np.testing.assert_array_equal(
        Standardisation.fit([other]).apply(SERIES).values, Standardisation.fit([SERIES]).apply(SERIES).values
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 104), max_size=6, unique=True), st.floats(-5, 5))
def test_parts_and_offsets_do_not_matter(cuts: list[int], offset: float) -> None:
    edges = [0, *sorted(cuts), len(SERIES)]
    parts = [SERIES.take(slice(a, b)) for a, b in itertools.pairwise(edges)]
    whole, streamed = Standardisation.fit([SERIES]), Standardisation.fit(parts)
    np.testing.assert_allclose(streamed.apply(SERIES).values, whole.apply(SERIES).values, atol=1e-6)
    moved = replace(SERIES, values=(SERIES.values + np.float32(offset)) * SERIES.mask[..., None])
    mapped = Standardisation.fit([moved], whole.common).apply(moved)
    np.testing.assert_allclose(mapped.values, whole.apply(SERIES).values, atol=1e-4)


def test_moments_merge_exactly() -> None:
    draw = np.random.default_rng(0)
    values = 1e4 + draw.standard_normal((50, 3, 2))
    clear = draw.random((50, 3, 2)) > 0.4
    merged = Moments.of(values[:1], clear[:1]).merged(Moments.of(values[1:], clear[1:]))
    for band in range(2):
        seen = values[..., band][clear[..., band]]
        assert merged.count[band] == len(seen)
        assert merged.mean[band] == pytest.approx(seen.mean(), rel=1e-12)
        assert merged.spread().scale[band] == pytest.approx(seen.std(), rel=1e-9)


def test_a_band_that_does_not_vary_is_only_moved() -> None:
    still = replace(SERIES, values=np.where(SERIES.mask[..., None], np.array([0.4, 0.7], np.float32), np.float32(0)))
    common = Spread(np.array([0.1, 0.2]), np.array([1.0, 1.0]))
    mapped = Standardisation.fit([still], common).apply(still)
    np.testing.assert_allclose(mapped.values[mapped.mask], np.tile([0.1, 0.2], (mapped.mask.sum(), 1)), atol=1e-6)


def test_what_does_not_fit_is_refused() -> None:
    fitted = Standardisation.fit([SERIES])
    with pytest.raises(SchemaError, match="does not fit B08"):
        fitted.apply(SERIES.select_bands(("B08",)))
    with pytest.raises(DataError, match="region west in 2022"):
        fitted.apply(region_year("west", 2022, 0.1, 0.1))
    blank = replace(SERIES, mask=SERIES.mask & False, values=SERIES.values * 0)
    with pytest.raises(DataError, match="no clear date"):
        Standardisation.fit([blank])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    store = SeriesStore.create(tmp_path / "s.zarr", bands=BANDS, legend=Legend.from_codes("l", ["a", "b", "c"]))
    store.append(SERIES)
    return store.path


def test_a_store_is_read_standardised_by_its_own_statistics(path: Path) -> None:
    plain, store = open_series(path), open_series(path, "region-year")
    np.testing.assert_array_equal(plain.read().values, SERIES.values)
    expected = Standardisation.fit([SERIES]).apply(SERIES)
    np.testing.assert_allclose(store.read().values, expected.values, atol=1e-6)
    np.testing.assert_allclose(store.read(np.array([90, 3])).values, expected.values[[90, 3]], atol=1e-6)
    assert len(store) == len(plain)
    assert store.index().equals(plain.index())
    assert store.fingerprint() != plain.fingerprint()


def test_the_training_is_what_another_store_is_brought_to(path: Path, tmp_path: Path) -> None:
    common = Standardisation.fit([SERIES]).common
    assert load_spread(tmp_path, BANDS) is None
    save_spread(tmp_path, BANDS, common)
    kept = load_spread(tmp_path, ("B08", "B04", "new"))
    assert kept is not None
    np.testing.assert_array_equal(kept.mean, [*common.mean[::-1], 0])
    np.testing.assert_array_equal(kept.scale, [*common.scale[::-1], 1])
    target = replace(SERIES, values=(2 * SERIES.values - 0.3) * SERIES.mask[..., None])
    other = SeriesStore.create(tmp_path / "t.zarr", bands=BANDS, legend=Legend.from_codes("l", ["a", "b", "c"]))
    other.append(target)
    mapped = open_series(other.path, "region-year", load_spread(tmp_path, BANDS)).read()
    np.testing.assert_allclose(mapped.values, open_series(path, "region-year").read().values, atol=1e-5)


def test_damaged_spreads_are_named(tmp_path: Path) -> None:
    file = tmp_path / "standardisation.json"
    file.write_text("{")
    with pytest.raises(CorruptInputError, match="is not JSON"):
        load_spread(tmp_path, BANDS)
    file.write_text(json.dumps({"standardisation": 99}))
    with pytest.raises(SchemaError, match="schema 1"):
        load_spread(tmp_path, BANDS)
