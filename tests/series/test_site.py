"""Site covariates are read off positions and channels, by hand on three parcels."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cropgen.core.errors import SchemaError
from cropgen.series.schema import ParcelSeries
from cropgen.series.site import site_covariates


def parcels(**content: Any) -> ParcelSeries:
    values = np.zeros((3, 2, 2))
    values[..., 0], values[..., 1] = 0.4, [[120.0, 120.0], [300.0, 300.0], [80.0, 80.0]]
    return ParcelSeries.build(
        bands=("B08", "elevation"), values=values, mask=np.array([[True, True], [False, True], [False, False]]),
        day=np.tile([18700, 18710], (3, 1)), parcel_id=["a", "b", "c"], year=2021,
        lon=np.array([5.5, 6.0, np.nan]), lat=np.array([45.0, 46.0, 47.0]), **content,
    )  # fmt: skip


def test_a_channel_counts_where_it_is_known_and_a_position_always() -> None:
    found = site_covariates(parcels(), ("elevation", "lat", "lon"))
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, [[120, 45, 5.5], [300, 46, 6], [np.nan, 47, np.nan]])
    assert site_covariates(parcels(), ()).shape == (3, 0)


def test_a_channel_missing_on_a_clear_date_does_not_count_there() -> None:
    known = np.ones((3, 2, 2), bool)
    known[0, 0, 1] = known[1, :, 1] = False
    found = site_covariates(parcels(band_mask=known), ("elevation",))
    np.testing.assert_array_equal(found, [[120], [np.nan], [np.nan]])


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(SchemaError, match="site covariates missing: slope; the series has B08, elevation"):
        site_covariates(parcels(), ("lat", "slope"))
