"""Acquisitions, and the folder of cloud-optimised GeoTIFFs that each becomes."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
from affine import Affine

from cropgen.datasets.demo.sensor import NODATA, OFFSET, SCALE, rescaled
from cropgen.datasets.demo.viewing import ORBITS, Orbit
from cropgen.datasets.demo.weather import Weather, days_from

BASELINE = "05.09"
_CYCLE = 10
_LOST = 0.12
_CLEAREST = 0.80


@dataclass(frozen=True)
class Acquisition:
    """One pass of a satellite.

    Arguments:
        day: days since 1970-01-01.
        orbit: which.
        cover: part of the scene under clouds, 0–1.
        hazy: spread of the atmospheric correction's error.
    """

    day: int
    orbit: Orbit
    cover: float
    hazy: float

    @property
    def date(self) -> np.datetime64:
        return np.datetime64(self.day, "D")

    @property
    def of_year(self) -> int:
        return int((self.date - self.date.astype("datetime64[Y]")).astype(int))

    @property
    def name(self) -> str:
        return f"{str(self.date).replace('-', '')}_{self.orbit.name}"

    @property
    def moment(self) -> str:
        hours = int(self.orbit.hour)
        minutes = round((self.orbit.hour - hours) * 60)
        return f"{self.date}T{hours:02d}:{minutes:02d}:21Z"


def plan_acquisitions(year: int, weather: Weather, generator: np.random.Generator) -> list[Acquisition]:
    """The passes of a calendar year that a user would keep: those below 80 % cloud.

    Each orbit repeats every ten days; a few passes are lost. Clouds follow the rain of the days around.
    """
    kept = []
    for day in range(days_from(year), days_from(year + 1)):
        for orbit in ORBITS:
            if day % _CYCLE != orbit.phase:
                continue
            around = weather.index(np.arange(day - 1, day + 2))
            wet = np.array([0.25, 0.5, 0.25]) @ (weather.rain[around] > 0.3)
            winter = 0.5 + 0.5 * np.cos(2 * np.pi * (day - days_from(year)) / 365.25)
            cover = generator.beta(0.40 + 3.2 * wet + 2.0 * winter, 1.35 - 0.6 * wet)
            cover = float(0.0 if cover < 0.02 else cover)
            hazy = float(0.003 + 0.005 * generator.random() * (1.3 - 0.5 * winter))
            if generator.random() > _LOST and cover <= _CLEAREST:
                kept.append(Acquisition(day, orbit, cover, hazy))
    return kept


def write_scene(
    folder: Path, bands: dict[str, np.ndarray], classification: np.ndarray, transform: Affine, crs: str,
    acquisition: Acquisition,
) -> None:  # fmt: skip
    """Write one date: a raster per band, the classification, and `metadata.json`.

    Arguments:
        folder: is created.
        bands: name → (h, w) uint16 on the 10 m or the 20 m grid.
        classification: (h, w) uint8 on the 20 m grid.
        transform: of the 10 m grid.
    """
    folder.mkdir(parents=True)
    width = next(iter(bands.values())).shape[1]
    for name, image in {**bands, "SCL": classification}.items():
        spacing = rescaled(transform, width / image.shape[1])
        _write_raster(folder / f"{name}.tif", image, spacing, crs, reflectance=name != "SCL")
    document = {
        "datetime": acquisition.moment,
        "orbit": acquisition.orbit.name,
        "processing_level": "L2A",
        "processing_baseline": BASELINE,
        "cloud_cover": round(100 * float(np.isin(classification, (8, 9, 10)).mean()), 2),
        "scale": SCALE,
        "offset": OFFSET,
        "nodata": NODATA,
        "origin": "simulated: cropgen demo region",
    }
    (folder / "metadata.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _write_raster(path: Path, image: np.ndarray, transform: Affine, crs: str, *, reflectance: bool) -> None:
    """A cloud-optimised GeoTIFF; the scenes are too small to need overviews."""
    profile = {
        "driver": "COG", "width": image.shape[1], "height": image.shape[0], "count": 1, "dtype": image.dtype,
        "crs": crs, "transform": transform, "nodata": NODATA, "compress": "DEFLATE", "level": 1, "blocksize": 256,
        "predictor": "STANDARD" if reflectance else "NO", "overviews": "NONE",
    }  # fmt: skip
    with rasterio.open(path, "w", **profile) as raster:
        raster.write(image, 1)
        raster.set_band_description(1, path.stem)
        if reflectance:
            raster.scales, raster.offsets = (SCALE,), (OFFSET,)
