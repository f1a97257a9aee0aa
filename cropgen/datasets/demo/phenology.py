"""Leaf area through the season.

A sown crop follows the canopy structure model in degree days T since sowing,

    L(T) = m · Lmax · [ 1/(1 + e^(−a (T − Tᵢ))) − e^(b (T − Tₛ)) ]₊ ,

where drought S, the water deficit summed since sowing, shrinks the stand, m = e^(−s S/45), and hastens it,
T ← T + 5 s S. Dead leaves stay standing until harvest. A sward regrows after each cut along the same rise.

Reference: Use of coupled canopy structure dynamic and radiative transfer models to estimate biophysical canopy
    characteristics, B. Koetz, F. Baret, H. Poilvé, J. Hill, 2005 (after Baret, 1986).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from cropgen.datasets.demo.crops import Crop, Growth, Sward
from cropgen.datasets.demo.weather import Weather, days_from

_CUT_BASE = 4.0
_DEFICIT = 0.45


@dataclass(frozen=True)
class Stands:
    """Stands of one crop in one harvest year, as farmers sow them.

    Arguments:
        year: harvest year.
        sowing: (P,) days since 1970-01-01; swards ignore it.
        latest: (P,) day of the harvest if ripeness has not come before.
        earliness: (P,) factor on the degree days to each stage (variety).
        vigour: (P,) factor on leaf area.
        sandy: (P,) bool, which soil.
        cuts: (P, 8) degree days from 1 January to each cut; empty for sown crops.
    """

    year: int
    sowing: np.ndarray
    latest: np.ndarray
    earliness: np.ndarray
    vigour: np.ndarray
    sandy: np.ndarray
    cuts: np.ndarray


@dataclass(frozen=True)
class Cover:
    """What stands on the field at given days, (P, T) each.

    Arguments:
        green, dead: leaf area index.
        petals: cover 0–1.
        harvest: (P,) day of harvest.
    """

    green: np.ndarray
    dead: np.ndarray
    petals: np.ndarray
    harvest: np.ndarray


class Development:
    """Degree days and drought of a weather record, looked up by day."""

    def __init__(self, weather: Weather) -> None:
        self.weather = weather
        self._heat: dict[tuple[float, bool], np.ndarray] = {}
        filling = [weather.soil_water(capacity) for capacity in (150.0, 85.0)]
        self._stress = np.stack([np.cumsum(np.maximum(_DEFICIT - f, 0.0) / _DEFICIT) for f in filling])

    def heat(self, base: float, long_day: bool) -> np.ndarray:
        """(D,) cumulated degree days."""
        if (base, long_day) not in self._heat:
            total = self.weather.photothermal_sum(base) if long_day else self.weather.heat_sum(base)
            self._heat[base, long_day] = total
        return self._heat[base, long_day]

    def stress(self, sandy: np.ndarray, start: np.ndarray, day: np.ndarray) -> np.ndarray:
        """Water deficit summed from `start` to `day` on loam or sand, in days of full drought."""
        soil = sandy.astype(int)
        at = self.weather.index
        return np.maximum(self._stress[soil, at(day)] - self._stress[soil, at(start)], 0.0)


def cover_of(crop: Crop, stands: Stands, day: np.ndarray, development: Development) -> Cover:
    """What stands of `crop` look like on the days (T,)."""
    if isinstance(crop.growth, Sward):
        return _sward(crop, crop.growth, stands, day, development)
    return _sown(crop, crop.growth, stands, day, development)


def _column(values: np.ndarray) -> np.ndarray:
    return values[:, None]


def _sown(crop: Crop, growth: Growth, stands: Stands, day: np.ndarray, development: Development) -> Cover:
    heat = development.heat(growth.base, growth.long_day)
    sown, sandy = _column(stands.sowing), _column(stands.sandy)
    stress = crop.drought * development.stress(sandy, sown, day)
    at = development.weather.index
    age = heat[at(day)] - heat[at(sown)] + 5.0 * stress
    stage = age / _column(stands.earliness)
    size = _column(stands.vigour) * growth.area * np.exp(-stress / 45.0)
    risen = expit(growth.rise_rate * (stage - growth.rise))
    fallen = np.exp(np.minimum(growth.fall_rate * (stage - growth.fall), 5.0))
    harvest = _harvest_day(crop, growth, stands, development)
    alive = (day >= sown) & (day < _column(harvest))
    green = size * np.maximum(risen - fallen, 0.0) * alive
    dead = np.maximum(crop.persistence * size * risen - green, 0.0) * alive
    petals = np.zeros_like(green)
    if crop.flowers is not None:
        cover, full, width = crop.flowers
        petals = cover * np.exp(-(((stage - full) / width) ** 2)) * np.minimum(_column(stands.vigour), 1.0) * alive
    return Cover(green, dead, petals, harvest)


def _harvest_day(crop: Crop, growth: Growth, stands: Stands, development: Development) -> np.ndarray:
    """(P,) the day ripeness is reached, or `latest` if that comes first."""
    heat = development.heat(growth.base, growth.long_day)
    every = np.arange(days_from(stands.year), days_from(stands.year) + 365)
    sown = _column(stands.sowing)
    at = development.weather.index
    stress = crop.drought * development.stress(_column(stands.sandy), sown, every)
    age = heat[at(every)] - heat[at(sown)] + 5.0 * stress
    ripe = age > _column(stands.earliness) * (growth.fall + growth.ripening)
    first = np.where(ripe.any(1), ripe.argmax(1), 400) + every[0]
    return np.minimum(first, stands.latest)


def _sward(crop: Crop, sward: Sward, stands: Stands, day: np.ndarray, development: Development) -> Cover:
    heat = development.heat(_CUT_BASE, False)
    at = development.weather.index
    start = days_from(stands.year)
    since_new_year = np.broadcast_to(heat[at(day)] - heat[at(start)], (len(stands.vigour), len(day)))
    cuts = np.concatenate([np.full((len(stands.vigour), 1), -150.0), stands.cuts], axis=1)
    passed = cuts[:, None, :] <= since_new_year[..., None]
    last = np.where(passed, cuts[:, None, :], -150.0).max(-1)
    stress = crop.drought * development.stress(_column(stands.sandy), np.full((1, 1), start), day)
    regrowth = (since_new_year - last) / _column(stands.earliness)
    chill = np.clip((12.0 - development.weather.temperature[at(day - 5)]) / 14.0, 0.0, 1.0)
    size = _column(stands.vigour) * sward.area * np.exp(-stress / 45.0) * (1 - 0.45 * chill)
    green = np.maximum(size * expit(sward.rise_rate * (regrowth - sward.rise)), 0.5)
    dead = 0.12 * green + 0.25 * np.minimum(stress / 20.0, 2.0)
    never = np.full(len(stands.vigour), days_from(stands.year + 1))
    inside = np.broadcast_to((day >= start) & (day < never[0]), green.shape)
    return Cover(green * inside, dead * inside, np.zeros_like(green), never)
