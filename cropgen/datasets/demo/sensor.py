"""From surfaces to pixels: point spread, texture inside fields, and digital numbers.

A pixel is the weighted mean of the surfaces under its point spread function. The weights are computed once per grid
from the polygons on a grid of half the pixel size, so pixels on a border are mixed as a sensor mixes them.

Reference: Sentinel-2 MSI performance, S. Clerc and others (data quality reports): modulation transfer at the Nyquist
    frequency of 0.15–0.30, a Gaussian of about half a pixel.
"""

from __future__ import annotations

import numpy as np
from affine import Affine
from rasterio.features import rasterize
from scipy.ndimage import gaussian_filter
from scipy.sparse import csr_matrix
from shapely.geometry.base import BaseGeometry

SCALE = 1e-4
OFFSET = -0.1
NODATA = 0
TEN_METRES = ("B02", "B03", "B04", "B08")
TWENTY_METRES = ("B05", "B06", "B07", "B8A", "B11", "B12")
_SPREAD = 0.5
_REACH = 3
_FINE = 2
_NOISE = (0.0007, 0.004)


def burn_units(shapes: list[tuple[BaseGeometry, int]], fill: int, transform: Affine, width: int) -> np.ndarray:
    """(2·width, 2·width) int32: the unit under each cell of half a pixel; later shapes lie on top."""
    grid = rescaled(transform, 1 / _FINE)
    return rasterize(shapes, out_shape=(_FINE * width,) * 2, transform=grid, fill=fill, dtype="int32")


def rescaled(transform: Affine, factor: float) -> Affine:
    """The grid with the same corner and pixels `factor` times as wide."""
    return Affine(transform.a * factor, transform.b, transform.c, transform.d, transform.e * factor, transform.f)


def mixing_matrix(fine: np.ndarray, units: int) -> csr_matrix:
    """Weights (pixels, units) of the surfaces in each pixel; rows sum to 1.

    Arguments:
        fine: (2h, 2w) unit of each half-pixel cell.
    """
    rows, columns = fine.shape[0] // _FINE, fine.shape[1] // _FINE
    offsets = np.arange(-_REACH + 1, _REACH + 1)
    weight = np.exp(-0.5 * (((offsets - 0.5) / _FINE) / _SPREAD) ** 2)
    weight /= weight.sum()
    padded = np.pad(fine, _REACH, mode="edge")
    total = csr_matrix((rows * columns, units), dtype=np.float32)
    pixel = np.arange(rows * columns)
    for dy, wy in zip(offsets, weight, strict=True):
        parts = []
        for dx in offsets:
            y, x = _REACH + dy, _REACH + dx
            parts.append(padded[y : y + fine.shape[0] : _FINE, x : x + fine.shape[1] : _FINE].ravel())
        unit = np.stack(parts, axis=1)
        values = np.broadcast_to((wy * weight).astype(np.float32), unit.shape)
        total = total + csr_matrix((values.ravel(), (np.repeat(pixel, len(offsets)), unit.ravel())), total.shape)
    return total


def smooth_field(shape: tuple[int, int], length: float, generator: np.random.Generator) -> np.ndarray:
    """A random field (h, w) float32 of mean 0, spread 1 and correlation length `length` pixels."""
    step = max(1, int(length / 2))
    coarse = tuple(int(np.ceil(n / step)) + 2 for n in shape)
    field = gaussian_filter(generator.standard_normal(coarse, dtype=np.float32), length / step, mode="wrap")
    field = (field - field.mean()) / field.std()
    if step == 1:
        return field[: shape[0], : shape[1]]
    rows, columns = (_interpolation(n, step, m) for n, m in zip(shape, coarse, strict=True))
    return (columns @ (rows @ field).T).T


def _interpolation(count: int, step: int, coarse: int) -> csr_matrix:
    """Weights (count, coarse) float32 that interpolate linearly from knots `step` apart."""
    position = np.arange(count) / step
    knot = position.astype(int)
    part = (position - knot).astype(np.float32)
    row = np.repeat(np.arange(count), 2)
    weight = np.stack([1 - part, part], 1).ravel()
    return csr_matrix((weight, (row, np.stack([knot, knot + 1], 1).ravel())), (count, coarse))


def texture(width: int, generator: np.random.Generator, scales: tuple[tuple[float, float], ...]) -> np.ndarray:
    """(w, w) float32: a sum of smooth fields, one per (length in pixels, spread)."""
    return sum(
        (np.float32(spread) * smooth_field((width, width), length, generator) for length, spread in scales),
        np.zeros((width, width), np.float32),
    )


def halved(image: np.ndarray) -> np.ndarray:
    """Means (h/2, w/2, …) of 2 × 2 pixels."""
    return (image[::2, ::2] + image[1::2, ::2] + image[::2, 1::2] + image[1::2, 1::2]) / 4


def render(mixing: csr_matrix, spectra: np.ndarray, leaf_area: np.ndarray, brightness: np.ndarray) -> np.ndarray:
    """Reflectance of the pixels.

    Arguments:
        mixing: (pixels, units).
        spectra: (units, 3, C) as `surface.field_spectra` gives them for one day.
        leaf_area, brightness: (h, w) departures of ln leaf area and ln soil brightness inside fields.
    Returns: (h, w, C) float32
    """
    flat = spectra.reshape(len(spectra), -1).astype(np.float32)
    mixed = (mixing @ flat).reshape(*leaf_area.shape, 3, -1)
    return mixed[..., 0, :] + leaf_area[..., None] * mixed[..., 1, :] + brightness[..., None] * mixed[..., 2, :]


def digital_numbers(reflectance: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Level-2A integers (h, w, C) uint16 of reflectance with sensor noise: dark noise plus a part of the signal."""
    noise = generator.standard_normal(reflectance.shape, dtype=np.float32)
    measured = reflectance + noise * (np.float32(_NOISE[0]) + np.float32(_NOISE[1]) * np.abs(reflectance))
    return np.clip(np.round((measured - OFFSET) / SCALE), 1, 20_000).astype(np.uint16)
