"""Where the sun and the satellite stand, and what that does to reflectance.

Reflectance seen from a slanted orbit is that seen from the nadir times the ratio of two Ross-Li models with fixed
weights (the c-factor of Roy and others, 2016; the weights used here are of that order, not copied from the paper).

References:
    On the derivation of kernels for kernel-driven models of bidirectional reflectance, W. Wanner, X. Li, A. H.
        Strahler, 1995.
    A general method to normalize Landsat reflectance data to nadir BRDF adjusted reflectance, D. P. Roy and others,
        2016.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cropgen.datasets.demo.spectra import BRDF
from cropgen.datasets.demo.weather import LATITUDE, solar_declination


@dataclass(frozen=True)
class Orbit:
    """One relative orbit over the region.

    Arguments:
        name: as in product names.
        phase: day of the ten-day cycle on which it passes.
        hour: UTC.
        zenith, azimuth: of the satellite seen from the ground, degrees.
    """

    name: str
    phase: int
    hour: float
    zenith: float
    azimuth: float


ORBITS = (Orbit("R051", 2, 10.83, 8.6, 103.0), Orbit("R008", 9, 10.67, 9.4, 287.0))


def sun_position(of_year: int, hour: float) -> tuple[float, float]:
    """Zenith and azimuth of the sun in degrees at a UTC hour near the region's longitude of 3° E."""
    declination = float(solar_declination(np.asarray(of_year)))
    latitude = np.radians(LATITUDE)
    angle = np.radians(15.0 * (hour + 0.2 - 12.0))
    up = np.sin(latitude) * np.sin(declination) + np.cos(latitude) * np.cos(declination) * np.cos(angle)
    south = np.sin(latitude) * np.cos(declination) * np.cos(angle) - np.cos(latitude) * np.sin(declination)
    west = np.cos(declination) * np.sin(angle)
    return float(np.degrees(np.arccos(up))), float(180.0 + np.degrees(np.arctan2(west, south)))


def ross_thick(sun: float, view: float, relative: float) -> float:
    """Volumetric kernel; zenith angles and relative azimuth in radians."""
    cosine = np.cos(sun) * np.cos(view) + np.sin(sun) * np.sin(view) * np.cos(relative)
    phase = np.arccos(np.clip(cosine, -1, 1))
    return float(((np.pi / 2 - phase) * cosine + np.sin(phase)) / (np.cos(sun) + np.cos(view)) - np.pi / 4)


def li_sparse(sun: float, view: float, relative: float) -> float:
    """Geometric kernel for spherical crowns two heights above ground (reciprocal form); angles in radians."""
    cosine = np.cos(sun) * np.cos(view) + np.sin(sun) * np.sin(view) * np.cos(relative)
    secants = 1 / np.cos(sun) + 1 / np.cos(view)
    tangents = np.tan(sun) * np.tan(view) * np.sin(relative)
    distance = np.tan(sun) ** 2 + np.tan(view) ** 2 - 2 * np.tan(sun) * np.tan(view) * np.cos(relative)
    overlap_angle = np.arccos(np.clip(2 * np.sqrt(distance + tangents**2) / secants, -1, 1))
    overlap = (overlap_angle - np.sin(overlap_angle) * np.cos(overlap_angle)) * secants / np.pi
    return float(overlap - secants + (1 + cosine) / (2 * np.cos(sun) * np.cos(view)))


def view_factor(orbit: Orbit, of_year: int) -> np.ndarray:
    """(10,) ratio of the reflectance seen from the orbit to that seen from the nadir."""
    zenith, azimuth = sun_position(of_year, orbit.hour)
    sun, view, relative = np.radians(zenith), np.radians(orbit.zenith), np.radians(orbit.azimuth - azimuth)
    seen = BRDF @ np.array([1.0, li_sparse(sun, view, relative), ross_thick(sun, view, relative)])
    nadir = BRDF @ np.array([1.0, li_sparse(sun, 0.0, 0.0), ross_thick(sun, 0.0, 0.0)])
    return seen / nadir
