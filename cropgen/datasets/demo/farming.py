"""What farmers decide: rotations, sowing, varieties, catch crops, tillage.

Nothing here sees a parcel's shape, size, position inside its sub-region or id; only soil and weather matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cropgen.datasets.demo.crops import CATCH_CROP, CROPS, Crop, Growth, Sward
from cropgen.datasets.demo.phenology import Stands
from cropgen.datasets.demo.weather import Weather, days_from, normal_temperature

_SWARDS = np.array([isinstance(crop.growth, Sward) for crop in CROPS])
_NEWCOMERS = np.array([crop.newcomer for crop in CROPS])
_GRASSLAND = next(i for i, crop in enumerate(CROPS) if crop.name == "grassland")
_NEW_STANDS = np.where(np.arange(len(CROPS)) == _GRASSLAND, 0.0, np.where(_SWARDS, 0.4, 1.0))
_SHARES = np.array([crop.share for crop in CROPS])


@dataclass(frozen=True)
class Traits:
    """How the stands of one parcel differ from the crop's mean, (P,) factors each."""

    chlorophyll: np.ndarray
    water: np.ndarray
    dry_matter: np.ndarray
    extinction: np.ndarray


def rotate_crops(
    sandy: np.ndarray, years: tuple[int, ...], last: int | None, generator: np.random.Generator
) -> dict[int, np.ndarray]:
    """The crop (index in `CROPS`) of every parcel in every year.

    Swards stay (grassland always, alfalfa with 70 %); other parcels draw anew, rarely the same crop twice; shares
    drift a little from year to year. The newcomer is grown in year `last` only.

    Arguments:
        sandy: (P,) bool: the valley's shares or the plateau's.
    Returns: year → (P,) int
    """
    count = len(sandy)
    crops: dict[int, np.ndarray] = {}
    previous = np.full(count, -1)
    for year in years:
        weight = _SHARES * generator.lognormal(0.0, 0.12, (len(CROPS), 1))
        weight = weight * np.where(_NEWCOMERS & (year != last), 0.0, 1.0)[:, None]
        chance = np.where(sandy[:, None], weight[:, 1], weight[:, 0])
        if (previous >= 0).all():
            chance = chance * _NEW_STANDS
            chance[np.arange(count), previous] *= 0.25
        drawn = _draw(chance, generator)
        stays = (previous >= 0) & ((previous == _GRASSLAND) | (_SWARDS[previous] & (generator.random(count) < 0.7)))
        previous = crops[year] = np.where(stays, previous, drawn)
    return crops


def _draw(chance: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    total = np.cumsum(chance, axis=1)
    return (generator.random((len(chance), 1)) * total[:, -1:] > total).sum(1)


def sow(crop: Crop, year: int, sandy: np.ndarray, weather: Weather, generator: np.random.Generator) -> Stands:
    """Draw the stands of one crop on parcels (P,) in one harvest year.

    Cold or wet weather in the month before the usual day delays spring sowing, and loam takes longer to warm than sand.
    """
    count = len(sandy)
    start = days_from(year)
    vigour = np.exp(generator.normal(-0.02, 0.15, count)) * np.where(sandy, 0.92, 1.0)
    earliness = np.exp(generator.normal(0.0, 0.040, count))
    if isinstance(crop.growth, Sward):
        sward = crop.growth
        first = np.maximum(generator.normal(sward.first, sward.spread, count), 250.0)
        step = np.maximum(generator.normal(sward.interval, sward.interval_spread, count), 330.0)
        cuts = first[:, None] + step[:, None] * np.arange(8) + generator.normal(0, 45, (count, 8))
        nothing = np.full(count, start)
        return Stands(year, nothing, nothing, earliness, vigour, sandy, np.maximum.accumulate(cuts, axis=1))
    growth: Growth = crop.growth
    usual = int(start + growth.sowing[0])
    month = weather.index(np.arange(usual - 30, usual))
    normal = float(normal_temperature((usual - 15 - start) % 365))
    delay = np.clip(
        1.8 * (normal - weather.temperature[month].mean()) + 0.10 * (weather.rain[month].sum() - 55), -8, 16
    )
    delay = delay if growth.sowing[0] > 0 else 0.3 * delay
    spread = generator.normal(0.0, growth.sowing[1], count)
    sowing = np.round(usual + delay + spread + np.where(sandy, -4.0, 3.0)).astype(int)
    latest = np.round(start + generator.normal(*growth.latest, count)).astype(int)
    if crop.silage:
        early = generator.random(count) < crop.silage
        latest = np.where(early, latest - 32, latest)
    return Stands(year, sowing, latest, earliness, vigour, sandy, np.zeros((count, 0)))


def catch_crops(
    year: int, sandy: np.ndarray, grown: np.ndarray, weather: Weather, generator: np.random.Generator
) -> Stands:
    """Winter cover before the spring crops of `year` where it is `grown`; elsewhere the stand has no vigour."""
    stands = sow(CATCH_CROP, year, sandy, weather, generator)
    vigour = stands.vigour * generator.choice([0.35, 0.7, 1.1], len(sandy)) * grown
    return Stands(year, stands.sowing, stands.latest, stands.earliness, vigour, sandy, stands.cuts)


def draw_traits(count: int, generator: np.random.Generator) -> Traits:
    """Leaf chemistry and posture of the variety and the fertiliser of each parcel."""
    spread = np.array([0.09, 0.08, 0.09, 0.07])
    factor = np.exp(generator.normal(0.0, 1.0, (4, count)) * spread[:, None])
    return Traits(*factor)
