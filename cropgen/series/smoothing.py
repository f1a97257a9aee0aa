"""Smoothing and gap filling of irregular series.

**Whittaker.** Of the observations (x_i, y_i) of a parcel and band, in days and in units of the band, the smooth series
z is the least of

    Σ_i (y_i − z_i)² + λ Σ_i w_i (z[x_{i−1}, x_i, x_{i+1}])²,   w_i = (x_{i+1} − x_{i−1}) / 2

where z[·,·,·] is the second derivative by divided differences, so the penalty is λ ∫ z″² for any spacing: λ is in
days³, and for a regular spacing of h days the familiar parameter is λ / h³. A straight line is not changed. Only clear
dates weigh, and values stay at the dates they were observed; fewer than three are left as they are.

**Savitzky–Golay.** Each observation is replaced by the value at its day of the polynomial of some order that fits the
`window` clear observations around it best (least squares, over the days as they are). Where the series begins and ends
the first and the last window serve all their dates. On a series without gaps at equal spacing that is the familiar
filter with its ends interpolated. Only clear dates count; a series of fewer than `window` is left as it is.

**Linear.** A date without an observation between two with one gets the value on the line between them. Before the
first and after the last nothing is filled.

Reference: A perfect smoother, P. H. C. Eilers, 2003 (Whittaker smoothing). Smoothing and differentiation of data by
simplified least squares procedures, A. Savitzky and M. J. E. Golay, 1964.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cropgen.core.errors import UsageError
from cropgen.series.schema import ParcelSeries

_WHITTAKER, _SAVGOL = "whittaker", "savgol"
_ORDER = 2
_HIGHEST_ORDER = 5
_LEAST = 3


@dataclass(frozen=True)
class Whittaker:
    """Smoothing by a penalty on curvature.

    Arguments:
        strength: λ in days³.
    """

    strength: float

    def __call__(self, values: np.ndarray, mask: np.ndarray, day: np.ndarray) -> np.ndarray:
        return whittaker(values, mask, day, self.strength)


@dataclass(frozen=True)
class SavitzkyGolay:
    """Smoothing by polynomials that fit a window.

    Arguments:
        window: clear observations, an odd number.
        order: of the polynomials, below `window`.
    """

    window: int
    order: int

    def __call__(self, values: np.ndarray, mask: np.ndarray, day: np.ndarray) -> np.ndarray:
        return savitzky_golay(values, mask, day, self.window, self.order)


Smoother = Whittaker | SavitzkyGolay


def parse_smoothing(text: str) -> Smoother:
    """What `whittaker:1000`, `savgol:7:3`, or `savgol:7` (of order 2) says.

    Raises:
        UsageError: it is not written so, or a number is out of range.
    """
    name, *numbers = text.split(":")
    try:
        if name == _WHITTAKER and len(numbers) == 1 and 0 < float(numbers[0]) < np.inf:
            return Whittaker(float(numbers[0]))
        if name == _SAVGOL and len(numbers) in (1, 2):
            window, order = int(numbers[0]), int(numbers[1]) if len(numbers) == 2 else _ORDER
            if window % 2 and window >= _LEAST and 0 <= order < min(window, _HIGHEST_ORDER + 1):
                return SavitzkyGolay(window, order)
    except ValueError:
        pass
    raise UsageError(
        f"smoothing {text!r}: expected {_WHITTAKER}:λ, λ above 0, or {_SAVGOL}:WINDOW:ORDER, an odd number and one "
        f"below it, {_HIGHEST_ORDER} at most",
        hint=f"for example --smooth {_WHITTAKER}:1000, or --smooth {_SAVGOL}:7:2",
    )


def smooth(series: ParcelSeries, smoother: Smoother) -> ParcelSeries:
    """The series with each band smoothed over its clear dates."""
    if series.band_mask is None:
        found = smoother(series.values, series.mask, series.day)
    else:
        bands = range(len(series.bands))
        apart = [smoother(series.values[..., [c]], series.band_mask[..., c], series.day) for c in bands]
        found = np.concatenate(apart, axis=-1)
    seen = series.mask[..., None] if series.band_mask is None else series.band_mask
    return replace(series, values=np.where(seen, found, 0).astype(np.float32), pixel_sets=None)


def savitzky_golay(values: np.ndarray, mask: np.ndarray, day: np.ndarray, window: int, order: int) -> np.ndarray:
    """Smooth values (N, T, C) where `mask` (N, T), at days (N, T); what is masked is returned as it was."""
    result = values.astype(np.float64)
    rows = np.flatnonzero(mask.sum(1) >= window)
    place = np.argsort(~mask[rows], axis=1, kind="stable")
    count, along = mask[rows].sum(1)[:, None], np.arange(mask.shape[1])
    first = np.clip(along - window // 2, 0, count - window)
    around = np.take_along_axis(place[:, None], first[..., None] + np.arange(window), 2)
    x = np.take_along_axis(day[rows].astype(np.float64), place, 1)
    near = np.take_along_axis(day[rows].astype(np.float64)[:, None], around, 2) - x[..., None]
    weight = _value_at_zero(near, order)
    y = np.take_along_axis(result[rows][:, None], around[..., None], 2)
    fitted = np.einsum("ntw,ntwc->ntc", weight, y)
    row, date = np.nonzero(along < count)
    result[rows[row], place[row, date]] = fitted[row, date]
    return result


def _value_at_zero(x: np.ndarray, order: int) -> np.ndarray:
    """Weights (…, W) of observations at places x (…, W) in the value at 0 of the polynomial that fits them best."""
    scale = np.maximum(np.abs(x).max(-1, keepdims=True), 1.0)
    powers = (x / scale)[..., None] ** np.arange(order + 1)
    basis, triangle = np.linalg.qr(powers)
    unit = np.zeros((*x.shape[:-1], order + 1, 1))
    unit[..., 0, 0] = 1.0
    return (basis @ np.linalg.solve(triangle.swapaxes(-1, -2), unit))[..., 0]


def whittaker(values: np.ndarray, mask: np.ndarray, day: np.ndarray, strength: float) -> np.ndarray:
    """Smooth values (N, T, C) where `mask` (N, T), at days (N, T); what is masked is returned as it was.

    The normal equations have five diagonals; they are solved for all rows at once.
    """
    n, dates, _ = values.shape
    if dates < 3:
        return values.astype(np.float64)
    order = np.argsort(~mask, axis=1, kind="stable")
    x = np.take_along_axis(day.astype(np.float64), order, 1)
    y = np.take_along_axis(values.astype(np.float64), order[..., None], 1)
    here = np.take_along_axis(mask, order, 1)
    solved = _solve(*_normal(x, here, strength), y)
    whole = (mask.sum(1) >= 3)[:, None, None] & here[..., None]
    result = np.empty((n, dates, values.shape[2]))
    np.put_along_axis(result, order[..., None], np.where(whole, solved, y), 1)
    return result


def _normal(x: np.ndarray, here: np.ndarray, strength: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Diagonals (N, T), (N, T − 1), (N, T − 2) of 1 + λ DᵀD; rows of D without three observations are 0."""
    inside = here[:, 2:]
    left = np.where(inside, np.maximum(x[:, 1:-1] - x[:, :-2], 1), 1)
    right = np.where(inside, np.maximum(x[:, 2:] - x[:, 1:-1], 1), 1)
    scale = np.sqrt((left + right) / 2) * 2 * np.sqrt(strength) * inside
    a = scale / (left * (left + right))
    b = -scale / (left * right)
    c = scale / (right * (left + right))
    main = np.ones_like(x)
    main[:, :-2] += a * a
    main[:, 1:-1] += b * b
    main[:, 2:] += c * c
    first = np.zeros_like(x[:, 1:])
    first[:, :-1] += a * b
    first[:, 1:] += b * c
    return main, first, a * c


def _solve(main: np.ndarray, first: np.ndarray, second: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Solve symmetric systems of five diagonals for (N, T, C) by L D Lᵀ."""
    n, dates = main.shape
    pivot = np.ones((n, dates + 2))
    near, far = np.zeros((n, dates + 2)), np.zeros((n, dates + 2))
    z = np.zeros((n, dates + 4, y.shape[2]))
    for t in range(dates):
        before, two = pivot[:, t - 1], pivot[:, t - 2]
        far[:, t] = second[:, t - 2] / two if t > 1 else 0
        near[:, t] = (first[:, t - 1] - far[:, t] * two * near[:, t - 1]) / before if t > 0 else 0
        pivot[:, t] = main[:, t] - near[:, t] ** 2 * before - far[:, t] ** 2 * two
        z[:, t] = y[:, t] - near[:, t, None] * z[:, t - 1] - far[:, t, None] * z[:, t - 2]
    for t in reversed(range(dates)):
        later = near[:, t + 1, None] * z[:, t + 1] + far[:, t + 2, None] * z[:, t + 2]
        z[:, t] = z[:, t] / pivot[:, t, None] - later
    return z[:, :dates]


def fill_linear(series: ParcelSeries) -> ParcelSeries:
    """The series with gaps between observations filled; filled dates are clear with 0 pixels behind them.

    A series without pixel counts gets them: 1 at each observation.
    """
    seen = series.mask[..., None] if series.band_mask is None else series.band_mask
    dates = seen.shape[1]
    place = np.arange(dates)[None, :, None]
    before = np.maximum.accumulate(np.where(seen, place, -1), axis=1)
    after = np.minimum.accumulate(np.where(seen, place, dates)[:, ::-1], axis=1)[:, ::-1]
    gap = ~seen & (before >= 0) & (after < dates)
    low, high = np.maximum(before, 0), np.minimum(after, dates - 1)
    day = series.day.astype(np.float64)[..., None]
    x0, x1 = np.take_along_axis(day, low, 1), np.take_along_axis(day, high, 1)
    share = np.where(gap, (day - x0) / np.maximum(x1 - x0, 1), 0)
    wide = np.broadcast_to(low, series.values.shape), np.broadcast_to(high, series.values.shape)
    y0, y1 = (np.take_along_axis(series.values.astype(np.float64), each, 1) for each in wide)
    values = np.where(gap, y0 + share * (y1 - y0), series.values).astype(np.float32)
    pixels = np.where(series.mask, 1, 0) if series.pixels is None else series.pixels
    return replace(
        series, values=values, mask=series.mask | gap.any(-1), pixel_sets=None, pixels=pixels.astype(np.int32),
        band_mask=None if series.band_mask is None else seen | gap,
    )  # fmt: skip
