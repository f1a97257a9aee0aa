"""Smoothing and gap filling against hand computation and dense linear algebra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import savgol_filter

from cropgen.core.errors import UsageError
from cropgen.series.schema import ParcelSeries
from cropgen.series.smoothing import (
    SavitzkyGolay,
    Whittaker,
    fill_linear,
    parse_smoothing,
    savitzky_golay,
    smooth,
    whittaker,
)


def one(day, values, mask=None, **more):
    values = np.asarray(values, float).reshape(1, len(day), -1)
    mask = np.ones((1, len(day)), bool) if mask is None else np.asarray([mask])
    return ParcelSeries.build(
        bands=tuple(f"X{c}" for c in range(values.shape[2])), values=values, mask=mask,
        day=np.asarray([day], np.int32), parcel_id=["a"], year=2021, **more,
    )  # fmt: skip


def dense(x, y, strength):
    """(1 + λ DᵀD)⁻¹ y with D of divided second differences."""
    rows = []
    for i in range(1, len(x) - 1):
        a, b = x[i] - x[i - 1], x[i + 1] - x[i]
        row = np.zeros(len(x))
        row[i - 1 : i + 2] = 2 / (a * (a + b)), -2 / (a * b), 2 / (b * (a + b))
        rows.append(np.sqrt((a + b) / 2) * row)
    penalty = np.asarray(rows)
    return np.linalg.solve(np.eye(len(x)) + strength * penalty.T @ penalty, y)


def test_three_days_by_hand():
    # D = [1 −2 1]: z = y − λ/(1 + 6 λ) (y0 − 2 y1 + y2) [1 −2 1]; λ = 1, y = 0 7 0 gives 2 3 2
    made = smooth(one([0, 1, 2], [0, 7, 0]), Whittaker(1.0))
    np.testing.assert_allclose(made.values[0, :, 0], [2, 3, 2], rtol=1e-6)


def test_regular_spacing_is_the_familiar_parameter_by_the_cube():
    y = np.sin(np.arange(9.0))[None, :, None]
    mask, day = np.ones((1, 9), bool), np.arange(9)[None]
    np.testing.assert_allclose(whittaker(y, mask, day * 10, 50_000.0), whittaker(y, mask, day, 50.0), rtol=1e-9)


def test_a_line_stays_and_great_strength_gives_the_regression():
    x = np.asarray([3, 8, 9, 20, 41, 44])
    line = 0.2 + 0.01 * x
    np.testing.assert_allclose(smooth(one(x, line), Whittaker(1e4)).values[0, :, 0], line, rtol=1e-6)
    y = np.asarray([0.1, 0.5, 0.2, 0.9, 0.3, 0.4])
    fitted = np.polyval(np.polyfit(x, y, 1), x)
    np.testing.assert_allclose(smooth(one(x, y), Whittaker(1e9)).values[0, :, 0], fitted, atol=1e-4)


def test_masked_dates_neither_weigh_nor_change():
    x, y = [0, 5, 7, 20, 22, 30], [0.1, 0.9, 0.4, 0.2, 0.5, 0.7]
    mask = [True, False, True, True, True, True]
    made = smooth(one(x, y, mask), Whittaker(100.0))
    keep = np.flatnonzero(mask)
    np.testing.assert_allclose(
        made.values[0, keep, 0], dense(np.asarray(x)[keep], np.asarray(y)[keep], 100.0), rtol=1e-5
    )
    assert made.values[0, 1, 0] == 0
    assert made.mask.tolist() == [mask]


def test_fewer_than_three_are_left_alone():
    made = smooth(one([0, 5, 7], [0.1, 0.9, 0.4], [True, False, True]), Whittaker(100.0))
    np.testing.assert_allclose(made.values[0, :, 0], [0.1, 0, 0.4], rtol=1e-6)
    made = smooth(one([0, 5], [0.1, 0.9]), Whittaker(100.0))
    np.testing.assert_allclose(made.values[0, :, 0], [0.1, 0.9], rtol=1e-6)


def test_bands_with_masks_of_their_own():
    x, y = np.arange(5), np.asarray([[0.1, 1], [0.7, 2], [0.3, 9], [0.2, 4], [0.6, 1]])
    seen = np.ones((1, 5, 2), bool)
    seen[0, 2, 1] = False
    made = smooth(one(x, y, band_mask=seen), Whittaker(3.0))
    np.testing.assert_allclose(made.values[0, :, 0], dense(x, y[:, 0], 3.0), rtol=1e-5)
    keep = [0, 1, 3, 4]
    np.testing.assert_allclose(made.values[0, keep, 1], dense(x[keep], y[keep, 1], 3.0), rtol=1e-5)
    assert made.values[0, 2, 1] == 0


@given(st.integers(0, 2**32), st.floats(0.01, 1e6))
def test_agrees_with_dense_algebra(seed, strength):
    rng = np.random.default_rng(seed)
    n, t = int(rng.integers(1, 4)), int(rng.integers(1, 15))
    x = np.cumsum(rng.integers(1, 30, (n, t)), axis=1)
    y, mask = rng.random((n, t, 2)), rng.random((n, t)) < 0.8
    found = whittaker(y, mask, x, strength)
    for i in range(n):
        keep = np.flatnonzero(mask[i])
        expected = y[i].copy()
        if len(keep) >= 3:
            expected[keep] = dense(x[i, keep].astype(float), y[i, keep], strength)
        np.testing.assert_allclose(found[i], expected, rtol=1e-6, atol=1e-8)


def test_gaps_are_filled_in_time_and_told_by_their_pixels():
    s = one(
        [0, 10, 30, 40, 50], [[9, 9], [1, 2], [0, 0], [4, 8], [0, 0]], [False, True, False, True, False],
        pixels=np.asarray([[0, 12, 0, 7, 0]]),
    )  # fmt: skip
    made = fill_linear(s)
    assert made.mask.tolist() == [[False, True, True, True, False]]
    np.testing.assert_allclose(made.values[0], [[0, 0], [1, 2], [3, 6], [4, 8], [0, 0]])
    assert made.pixels is not None
    assert made.pixels.tolist() == [[0, 12, 0, 7, 0]]
    bare = fill_linear(one([0, 1, 2], [1, 0, 3], [True, False, True]))
    assert bare.pixels is not None
    assert bare.pixels.tolist() == [[1, 0, 1]]
    empty = fill_linear(one([0, 1], [0, 0], [False, False]))
    assert not empty.mask.any()


def test_gaps_of_single_bands():
    seen = np.asarray([[[True, True], [False, True], [True, False]]])
    made = fill_linear(one([0, 1, 2], [[1, 1], [0, 2], [3, 0]], band_mask=seen))
    np.testing.assert_allclose(made.values[0], [[1, 1], [2, 2], [3, 0]])
    assert made.band_mask is not None
    assert made.band_mask.tolist() == [[[True, True], [True, True], [True, False]]]


@pytest.mark.parametrize(("window", "order"), [(3, 0), (3, 1), (5, 2), (7, 3), (9, 5), (21, 2)])
def test_savitzky_golay_of_a_complete_series_is_the_familiar_filter(window, order):
    rng = np.random.default_rng(window)
    y = rng.random((3, 21, 2))
    day = np.tile(10 * np.arange(21), (3, 1))
    found = savitzky_golay(y, np.ones((3, 21), bool), day, window, order)
    np.testing.assert_allclose(found, savgol_filter(y, window, order, axis=1, mode="interp"), atol=1e-10)


@given(st.integers(0, 2**32), st.sampled_from([(3, 1), (5, 2), (7, 4)]))
def test_savitzky_golay_fits_the_clear_dates_around(seed, kind):
    window, order = kind
    rng = np.random.default_rng(seed)
    n, t = int(rng.integers(1, 4)), int(rng.integers(1, 15))
    x = np.cumsum(rng.integers(1, 30, (n, t)), axis=1)
    y, mask = rng.random((n, t, 2)), rng.random((n, t)) < 0.8
    found = savitzky_golay(y, mask, x, window, order)
    for i in range(n):
        keep = np.flatnonzero(mask[i])
        expected = y[i].copy()
        for j, date in enumerate(keep if len(keep) >= window else []):
            first = min(max(j - window // 2, 0), len(keep) - window)
            part = keep[first : first + window]
            for c in range(2):
                fit = np.polynomial.Polynomial.fit(x[i, part], y[i, part, c], order)
                expected[date, c] = fit(x[i, date])
        np.testing.assert_allclose(found[i], expected, atol=1e-7)


def test_savitzky_golay_leaves_polynomials_and_short_series():
    x = np.asarray([3, 8, 9, 20, 41, 44])
    square = 0.2 + 0.01 * x + 0.001 * x**2
    np.testing.assert_allclose(smooth(one(x, square), SavitzkyGolay(5, 2)).values[0, :, 0], square, rtol=1e-5)
    made = smooth(one([0, 5, 7, 9], [0.1, 0.9, 0.4, 0.3], [True, False, True, True]), SavitzkyGolay(5, 2))
    np.testing.assert_allclose(made.values[0, :, 0], [0.1, 0, 0.4, 0.3], rtol=1e-6)


def test_how_smoothing_is_written():
    assert parse_smoothing("whittaker:1e3") == Whittaker(1000.0)
    assert parse_smoothing("savgol:7:3") == SavitzkyGolay(7, 3)
    assert parse_smoothing("savgol:5") == SavitzkyGolay(5, 2)
    penalties = ("whittaker", "whittaker:", "whittaker:0", "whittaker:-1", "whittaker:inf", "whittaker:1:2", "mean:3")
    windows = (
        "savgol",
        "savgol:4:2",
        "savgol:5:5",
        "savgol:1:0",
        "savgol:9:6",
        "savgol:5:-1",
        "savgol:5:2:1",
        "savgol:x",
    )
    for text in (*penalties, *windows):
        with pytest.raises(UsageError, match="expected whittaker:λ"):
            parse_smoothing(text)
