"""Clouds, their shadows, haze, and a scene classification that gets most of it right.

Clouds are where a smooth random field exceeds the level that gives the scene its cloud cover; they thin out towards
their edges. A pixel under a cloud of opacity α shows (1 − α) ρ + α ρ_cloud. Shadows lie away from the sun at a distance
of the cloud's height. Haze adds a path reflectance that falls with wavelength as λ^−1.6 and dims what lies
below; the part the atmospheric correction removed is left out, the error it left is in.

The classification knows opacity only roughly: thin edges and veils are missed, shadows are shifted, bright soils are at
times taken for clouds. Its codes are those of the Sentinel-2 scene classification.

Reference: Sentinel-2 Level-2A algorithm theoretical basis document, J. Louis and others (scene classification).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.ndimage import binary_dilation

from cropgen.datasets.demo.sensor import halved, smooth_field
from cropgen.datasets.demo.spectra import BANDS, WAVELENGTH

NO_DATA, DARK, SHADOW, VEGETATION, SOIL, WATER, UNCLASSIFIED, CLOUD_MEDIUM, CLOUD_HIGH, CIRRUS = (
    0, 2, 3, 4, 5, 6, 7, 8, 9, 10,
)  # fmt: skip
_CLOUD = np.array([0.62, 0.60, 0.58, 0.585, 0.59, 0.595, 0.60, 0.60, 0.45, 0.36])
_VEIL = np.array([0.34, 0.31, 0.29, 0.285, 0.28, 0.28, 0.275, 0.27, 0.16, 0.10])
_DIFFUSE = np.array([0.40, 0.31, 0.24, 0.21, 0.19, 0.17, 0.15, 0.14, 0.07, 0.05])
"""What light remains in a cloud's shadow: blue sky."""


@dataclass(frozen=True)
class Sky:
    """What lies between the ground and the satellite, on the 10 m grid.

    Arguments:
        opacity, veil, shadow, haze: (h, w) float32, 0–1; haze is an error of the correction and may be negative.
    """

    opacity: np.ndarray
    veil: np.ndarray
    shadow: np.ndarray
    haze: np.ndarray


def draw_sky(width: int, cover: float, sun: tuple[float, float], hazy: float, generator: np.random.Generator) -> Sky:
    """A sky with clouds over the part `cover` of the scene.

    Arguments:
        sun: zenith and azimuth, degrees.
        hazy: spread of the error that the atmospheric correction leaves, in reflectance at 550 nm.
    """
    room = 64
    shape = (width + 2 * room, width + 2 * room)
    field = smooth_field(shape, 42.0, generator) + 0.55 * smooth_field(shape, 14.0, generator)
    field += 0.22 * smooth_field(shape, 5.0, generator)
    level = np.quantile(field, 1.0 - cover) if cover > 0 else np.inf
    opacity = np.clip((field - level) / 0.45, 0.0, 1.0).astype(np.float32)
    height = generator.uniform(70.0, 220.0) / 10.0 * np.tan(np.radians(min(sun[0], 70.0)))
    away = np.radians(sun[1] + 180.0)
    down = room + int(np.clip(height * np.cos(away), -room, room))
    left = room - int(np.clip(height * np.sin(away), -room, room))
    shadow = opacity[down : down + width, left : left + width]
    cloud = opacity[room : room + width, room : room + width]
    high = smooth_field((width, width), 70.0, generator)
    veil = np.clip((high - generator.uniform(0.3, 2.6)) * 0.45, 0.0, 0.5).astype(np.float32)
    haze = np.float32(hazy) * (smooth_field((width, width), 110.0, generator) * 0.5 + np.float32(generator.normal()))
    return Sky(cloud, veil, (shadow * (1 - cloud)).astype(np.float32), haze)


def through(sky: Sky, reflectance: np.ndarray, bands: tuple[str, ...]) -> np.ndarray:
    """Reflectance (h, w, C) of the ground seen through the sky, whose fields are on the same grid."""
    index = [BANDS.index(name) for name in bands]

    def of(spectrum: np.ndarray) -> np.ndarray:
        return spectrum[index].astype(np.float32)

    path = of((WAVELENGTH / 550.0) ** -1.6)
    lit = reflectance * (1 - sky.shadow[..., None] * (1 - of(_DIFFUSE)))
    hazed = lit + sky.haze[..., None] * path * (1 - lit)
    veiled = hazed + sky.veil[..., None] * (of(_VEIL) * 1.6 - hazed)
    return veiled + sky.opacity[..., None] * (of(_CLOUD) - veiled)


def on_twenty_metres(sky: Sky) -> Sky:
    """The same sky on the 20 m grid."""
    return Sky(*(halved(field) for field in (sky.opacity, sky.veil, sky.shadow, sky.haze)))


def classify(sky: Sky, ground: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """The scene classification (h, w) uint8 on the 20 m grid.

    Arguments:
        sky: on the 20 m grid.
        ground: (h, w, 4) reflectance as seen in B02, B03, B04 and B08, on the 20 m grid.
    """
    shape = sky.opacity.shape
    jitter = 0.10 * smooth_field(shape, 4.0, generator)
    cut = generator.uniform(0.18, 0.40)
    opacity = sky.opacity + jitter
    blue, green, red, near = np.moveaxis(ground, -1, 0)
    ndvi = (near - red) / np.maximum(near + red, 1e-3)
    scl = np.where(ndvi > 0.42, VEGETATION, SOIL).astype(np.uint8)
    scl[(near < green) & (near < 0.10)] = WATER
    scl[(ndvi > 0.36) & (ndvi <= 0.42) & (jitter > 0.12)] = UNCLASSIFIED
    scl[(sky.shadow + 0.5 * jitter > 0.42) & (near < 0.22)] = SHADOW
    scl[(sky.veil + 0.4 * jitter > 0.16)] = CIRRUS
    scl[opacity > cut] = UNCLASSIFIED
    scl[np.asarray(binary_dilation(opacity > cut + 0.10), dtype=bool)] = CLOUD_MEDIUM
    scl[opacity > 0.72] = CLOUD_HIGH
    false_alarm = (scl == SOIL) & (blue > 0.155) & (jitter > 0.05)
    scl[false_alarm] = CLOUD_MEDIUM
    return scl
