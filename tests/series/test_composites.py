"""Composites: which date falls where, and what becomes of its values."""

from __future__ import annotations

import datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropgen.core.errors import DataError, UsageError
from cropgen.series.composites import Periods, composite, require_bands
from cropgen.series.schema import ParcelSeries


def days(*texts: str) -> list[int]:
    return [(datetime.date.fromisoformat(t) - datetime.date(1970, 1, 1)).days for t in texts]


def series(dates, values, mask=None, bands=("B04", "B08"), year=2021, **more):
    day = np.asarray([days(*dates)], np.int32)
    values = np.asarray([values], float)
    mask = np.ones(day.shape, bool) if mask is None else np.asarray([mask])
    return ParcelSeries.build(bands=bands, values=values, mask=mask, day=day, parcel_id=["a"], year=year, **more)


def spanned(text, *all_series):
    return Periods.parse(text).spanning((s.mask, s.day, s.year) for s in all_series)


DATES = ("2020-12-30", "2021-01-01", "2021-01-10", "2021-01-11", "2021-01-31")
VALUES = [[0.1, 0.2], [0.2, 0.4], [0.4, 0.5], [0.9, 0.9], [0.3, 0.6]]


def test_ten_days_count_from_new_year():
    s = series(DATES, VALUES)
    periods = spanned("10D", s)
    assert (periods.first, periods.count) == (-1, 5)
    assert periods.middles(s.year).tolist() == [
        days("2020-12-26", "2021-01-05", "2021-01-15", "2021-01-25", "2021-02-04")
    ]
    made = composite(s, periods, "mean")
    assert made.mask.tolist() == [[True, True, True, False, True]]
    np.testing.assert_allclose(made.values[0], [[0.1, 0.2], [0.3, 0.45], [0.9, 0.9], [0, 0], [0.3, 0.6]], rtol=1e-6)
    assert made.pixels is not None
    assert made.pixels.tolist() == [[1, 2, 1, 0, 1]]


def test_months_and_leap_years():
    s = series(("2019-12-31", "2020-02-29"), [[0.1, 0.2], [0.3, 0.4]], year=2020)
    periods = spanned("month", s)
    assert (periods.first, periods.count) == (-1, 3)
    assert periods.middles(s.year).tolist() == [days("2019-12-16", "2020-01-16", "2020-02-15")]
    assert composite(s, periods, "mean").mask.tolist() == [[True, False, True]]


def test_median_of_odd_even_and_masked():
    s = series(
        ("2021-01-01", "2021-01-02", "2021-01-03", "2021-01-04", "2021-01-21", "2021-01-22"),
        [[0.9, 0.1], [0.1, 0.2], [0.2, 0.9], [0.7, 0.7], [0.2, 0.4], [0.4, 0.8]],
        mask=[True, True, True, False, True, True],
    )
    made = composite(s, spanned("10D", s), "median")
    assert made.mask.tolist() == [[True, False, True]]
    np.testing.assert_allclose(made.values[0, [0, 2]], [[0.2, 0.2], [0.3, 0.6]], rtol=1e-6)


def test_greatest_ndvi_takes_all_bands_of_one_date():
    s = series(
        ("2021-01-01", "2021-01-02", "2021-01-03", "2021-01-25"),
        [[0.1, 0.3], [0.1, 0.5], [0.2, 1.0], [0.0, 0.0]],
        pixels=np.asarray([[5, 7, 9, 4]]),
    )
    made = composite(s, spanned("10D", s), "max-ndvi")
    np.testing.assert_allclose(made.values[0, 0], [0.1, 0.5], rtol=1e-6)  # 0.5, 2/3, 2/3: the earlier of equals
    assert made.mask.tolist() == [[True, False, False]]  # no index where both bands are 0
    assert made.pixels is not None
    assert made.pixels.tolist() == [[7, 0, 0]]
    index = series(("2021-01-01", "2021-01-02"), [[0.4, 1.0], [0.3, 2.0]], bands=("NDVI", "X"))
    np.testing.assert_allclose(composite(index, spanned("10D", index), "max-ndvi").values[0, 0], [0.4, 1.0])


def test_single_bands_may_be_missing():
    s = series(
        ("2021-01-01", "2021-01-02"), [[0.2, 0.4], [0.6, 0.8]], band_mask=np.asarray([[[True, True], [False, True]]])
    )
    for statistic in ("mean", "median"):
        made = composite(s, spanned("10D", s), statistic)
        np.testing.assert_allclose(made.values[0, 0], [0.2, 0.6], rtol=1e-6)
    s = series(("2021-01-01",), [[0.2, 0.4]], band_mask=np.asarray([[[False, True]]]))
    made = composite(s, spanned("10D", s), "mean")
    assert made.band_mask is not None
    assert made.band_mask.tolist() == [[[False, True]]]
    assert not composite(s, spanned("10D", s), "max-ndvi").mask.any()


def test_faults():
    with pytest.raises(UsageError, match="'weekly'"):
        Periods.parse("weekly")
    with pytest.raises(UsageError):
        Periods.parse("0D")
    with pytest.raises(DataError, match="no clear date"):
        spanned("10D", series(DATES, VALUES, mask=[False] * 5))
    with pytest.raises(UsageError, match=r"needs B04 and B08 or B8A, or NDVI; the series has B02"):
        require_bands(("B02",), "max-ndvi")
    require_bands(("B04", "B8A"), "max-ndvi")
    require_bands(("B02",), "median")


@given(st.data())
def test_agrees_with_a_loop(data):
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    n, t = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 12))
    length = data.draw(st.sampled_from([5, 10, 30]))
    day = np.sort(rng.integers(18_500, 18_800, (n, t)), axis=1)
    mask = rng.random((n, t)) < 0.7
    mask[0, 0] = True
    year = rng.integers(2020, 2022, n)
    s = ParcelSeries.build(
        bands=("B04", "B08"), values=rng.random((n, t, 2)), mask=mask, day=day, parcel_id=list("abcd")[:n], year=year
    )
    periods = spanned(f"{length}D", s)
    middles = periods.middles(s.year)
    for statistic, reduce in (("mean", np.mean), ("median", np.median)):
        made = composite(s, periods, statistic)
        assert (made.day == middles).all()
        for i in range(n):
            start = (datetime.date(int(year[i]), 1, 1) - datetime.date(1970, 1, 1)).days
            for g in range(periods.count):
                low = start + (periods.first + g) * length
                seen = mask[i] & (day[i] >= low) & (day[i] < low + length)
                assert made.mask[i, g] == seen.any()
                assert low <= middles[i, g] < low + length
                if seen.any():
                    np.testing.assert_allclose(made.values[i, g], reduce(s.values[i, seen], axis=0), rtol=1e-5)
