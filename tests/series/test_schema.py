"""The container in memory refuses what is not one."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cropgen.core.errors import SchemaError
from cropgen.series.schema import ParcelSeries, concatenate


def small(n: int = 3, t: int = 4, bands: tuple[str, ...] = ("B04", "B08"), year: int = 2021) -> ParcelSeries:
    values = np.arange(n * t * len(bands), dtype=float).reshape(n, t, len(bands)) / 100
    mask = np.ones((n, t), bool)
    mask[0, -1] = False
    day = np.broadcast_to(18628 + 10 * np.arange(t), (n, t))
    return ParcelSeries.build(
        bands=bands, values=values, mask=mask, day=day, parcel_id=[f"p{i}" for i in range(n)], year=year, region="r"
    )


def test_build_clears_what_is_masked_or_not_finite() -> None:
    values = np.full((1, 3, 2), 0.5)
    values[0, 1, 0] = np.nan
    series = ParcelSeries.build(
        bands=("a", "b"), values=values, mask=np.array([[True, True, False]]), day=np.zeros((1, 3)), parcel_id=["x"],
        year=2021,
    )  # fmt: skip
    np.testing.assert_array_equal(series.mask, [[True, False, False]])
    assert not series.values[0, 1:].any()
    assert series.clear_dates.tolist() == [1]


def test_band_mask_keeps_the_other_bands_of_a_date() -> None:
    values = np.full((1, 2, 2), 0.5)
    values[0, 0, 0] = np.nan
    series = ParcelSeries.build(
        bands=("a", "b"), values=values, mask=np.ones((1, 2), bool), day=np.zeros((1, 2)), parcel_id=["x"], year=2021,
        band_mask=np.ones((1, 2, 2), bool),
    )  # fmt: skip
    assert series.band_mask is not None
    np.testing.assert_array_equal(series.band_mask[0], [[False, True], [True, True]])
    np.testing.assert_array_equal(series.mask, [[True, True]])
    only_a = series.select_bands(["a"])
    np.testing.assert_array_equal(only_a.mask, [[False, True]])


def test_shapes_and_content_are_checked() -> None:
    series = small()
    with pytest.raises(SchemaError, match="mask: expected shape"):
        replace(series, mask=series.mask[:, :2])
    with pytest.raises(SchemaError, match="2 bands of values but 1 band names"):
        replace(series, bands=("a",))
    with pytest.raises(SchemaError, match="NaN"):
        replace(series, values=np.full_like(series.values, np.nan))
    with pytest.raises(SchemaError, match="not 0 at masked dates"):
        replace(series, mask=np.zeros_like(series.mask))


def test_bands_are_named_and_asserted() -> None:
    series = small()
    np.testing.assert_array_equal(series.select_bands(["B08", "B04"]).values, series.values[..., ::-1])
    with pytest.raises(SchemaError, match=r"bands missing: B11; the series has B04, B08"):
        series.select_bands(["B04", "B11"])


def test_take_and_concatenate() -> None:
    first, second = small(t=4), small(n=2, t=2)
    both = concatenate([first, second])
    assert len(both) == 5
    assert both.values.shape == (5, 4, 2)
    assert not both.mask[3:, 2:].any()
    np.testing.assert_array_equal(both.take(slice(0, 3)).values, first.values)
    np.testing.assert_array_equal(both.take(np.array([4])).parcel_id, ["p1"])
    with pytest.raises(SchemaError, match="bands differ"):
        concatenate([first, small(bands=("B04", "B11"))])
    with pytest.raises(SchemaError, match="nothing"):
        concatenate([])


def test_season_day_counts_from_new_year() -> None:
    series = small(year=2021)
    np.testing.assert_array_equal(series.season_day[0], [0, 10, 20, 30])
    assert replace(series, year=np.full(3, 2022, np.int16)).season_day[0, 0] == -365
