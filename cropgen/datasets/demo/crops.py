"""The crops of the demo region: codes, development, leaves, and where they are grown.

Codes and names are those of the Hierarchical Crop and Agriculture Taxonomy, version 3 (EuroCrops, M. Schneider and
others, 2023). Leaf traits and degree days are plausible settings for the northern half of France, not measurements:
they were set so that stages come at the usual time of the year.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Growth:
    """Development of a sown crop in degree days from sowing.

    Arguments:
        sowing: mean day of the harvest year (negative: the autumn before) and its spread between farms.
        base: temperature in °C below which nothing grows.
        rise, fall: degree days of half the leaf area and of no green leaf (Tᵢ, Tₛ).
        rise_rate, fall_rate: per degree day (a, b).
        area: largest leaf area index.
        ripening: degree days from `fall` to harvest.
        latest: mean day of the year by which it is harvested in any case, and its spread.
        long_day: winter crops develop by day length too.
    """

    sowing: tuple[float, float]
    base: float
    rise: float
    fall: float
    rise_rate: float
    fall_rate: float
    area: float
    ripening: float
    latest: tuple[float, float]
    long_day: bool = False


@dataclass(frozen=True)
class Sward:
    """A perennial stand that is cut.

    Arguments:
        first, spread: degree days above 4 °C from 1 January to the first cut, and its spread.
        interval, interval_spread: degree days between cuts.
        rise, rise_rate: regrowth after a cut.
        area: leaf area index before a cut.
    """

    first: float
    spread: float
    interval: float
    interval_spread: float
    rise: float
    rise_rate: float
    area: float


@dataclass(frozen=True)
class Leaves:
    """Leaf traits and stand geometry: see `leaf.LeafTraits`; `extinction` and `clumping` as in `canopy`."""

    layers: float
    chlorophyll: float
    water: float
    dry_matter: float
    extinction: float
    clumping: float


@dataclass(frozen=True)
class Crop:
    """One crop.

    Arguments:
        code, name: HCAT code as text, and what a reader calls it.
        growth: how it develops.
        leaves: what it looks like.
        share: weight among the parcels of the plateau and of the valley.
        drought: sensitivity, 0–1.
        flowers: cover of petals at full bloom, degree days of full bloom, width.
        persistence: standing dead matter as a part of the largest leaf area.
        residue: cover of straw after harvest.
        silage: part of the fields that is cut a month before ripeness.
        newcomer: grown in the last year only.
    """

    code: str
    name: str
    growth: Growth | Sward
    leaves: Leaves
    share: tuple[float, float]
    drought: float = 0.5
    flowers: tuple[float, float, float] | None = None
    persistence: float = 0.35
    residue: float = 0.5
    silage: float = 0.0
    newcomer: bool = False


CEREAL = Leaves(1.5, 44.0, 0.013, 0.0055, 0.48, 0.95)

CROPS: tuple[Crop, ...] = (
    Crop("3301010101", "winter wheat",
         Growth((-78, 9), 0, 640, 1900, 0.0070, 0.0060, 5.2, 150, (220, 6), long_day=True),
         CEREAL, (25, 17), persistence=0.45, residue=0.65),
    Crop("3301010401", "winter barley",
         Growth((-88, 8), 0, 570, 1640, 0.0070, 0.0065, 4.8, 130, (200, 4), long_day=True),
         Leaves(1.5, 42.0, 0.0125, 0.0052, 0.50, 0.95), (12, 10), persistence=0.45, residue=0.65),
    Crop("3301010402", "spring barley",
         Growth((76, 7), 0, 560, 1580, 0.0085, 0.0068, 4.2, 130, (220, 6)),
         Leaves(1.5, 42.0, 0.0125, 0.0052, 0.50, 0.95), (7, 3), drought=0.7, persistence=0.45, residue=0.6),
    Crop("3301060401", "winter rapeseed",
         Growth((-125, 6), 0, 960, 2400, 0.0050, 0.0060, 4.6, 140, (205, 6), long_day=True),
         Leaves(1.8, 47.0, 0.018, 0.0058, 0.60, 0.95), (11, 7), flowers=(0.30, 1240, 95), residue=0.5),
    Crop("3301020600", "peas",
         Growth((74, 6), 2, 450, 1120, 0.0095, 0.0090, 3.8, 90, (212, 6)),
         Leaves(1.7, 43.0, 0.019, 0.0046, 0.60, 0.92), (3.0, 1.5), drought=0.8, residue=0.35),
    Crop("3301010600", "grain maize",
         Growth((116, 7), 8, 400, 1420, 0.0110, 0.0070, 4.3, 130, (290, 14)),
         Leaves(1.5, 47.0, 0.0145, 0.0055, 0.56, 0.85), (8, 22), drought=0.6, persistence=0.55, residue=0.55,
         silage=0.25),
    Crop("3301010900", "sorghum",
         Growth((138, 6), 8, 375, 1290, 0.0110, 0.0070, 3.8, 130, (285, 13)),
         Leaves(1.5, 42.0, 0.0130, 0.0058, 0.50, 0.80), (0.5, 5.0), drought=0.3, persistence=0.55, residue=0.55),
    Crop("3301060500", "sunflower",
         Growth((108, 7), 6, 500, 1480, 0.0095, 0.0075, 3.6, 150, (272, 9)),
         Leaves(1.7, 45.0, 0.0180, 0.0058, 0.64, 0.82), (2.5, 9), drought=0.4, flowers=(0.07, 1000, 90), residue=0.3),
    Crop("3301160000", "soybean",
         Growth((126, 6), 6, 500, 1500, 0.0105, 0.0095, 4.9, 110, (278, 9)),
         Leaves(1.6, 44.0, 0.0130, 0.0046, 0.70, 0.92), (1.0, 5.5), drought=0.7, residue=0.35),
    Crop("3301290700", "sugar beet",
         Growth((86, 7), 3, 740, 3300, 0.0090, 0.0040, 4.4, 100, (297, 20)),
         Leaves(1.9, 47.0, 0.0210, 0.0050, 0.68, 0.90), (11, 1.5), drought=0.5, residue=0.2),
    Crop("3301030000", "potatoes",
         Growth((108, 7), 4, 540, 1650, 0.0100, 0.0085, 4.2, 60, (255, 12)),
         Leaves(1.8, 45.0, 0.0205, 0.0046, 0.68, 0.88), (5, 2.0), drought=0.7, residue=0.15),
    Crop("3301090301", "alfalfa",
         Sward(560, 90, 520, 80, 190, 0.016, 4.6),
         Leaves(1.6, 46.0, 0.0155, 0.0048, 0.56, 0.98), (3, 4), drought=0.2),
    Crop("3302000000", "grassland",
         Sward(560, 190, 700, 260, 230, 0.011, 3.8),
         Leaves(1.5, 39.0, 0.0125, 0.0050, 0.50, 0.98), (8, 12), drought=0.6),
    Crop("3301061000", "hemp",
         Growth((117, 7), 4, 560, 2050, 0.0105, 0.0070, 5.4, 60, (244, 12)),
         Leaves(1.6, 45.0, 0.0150, 0.0058, 0.60, 0.92), (3, 4), drought=0.4, residue=0.3, newcomer=True),
)  # fmt: skip

CATCH_CROP = Crop(
    "", "catch crop",
    Growth((-110, 12), 2, 420, 1500, 0.0080, 0.0060, 2.6, 0, (60, 18)),
    Leaves(1.7, 42.0, 0.018, 0.0050, 0.58, 0.98), (0, 0), persistence=0.3, residue=0.2,
)  # fmt: skip
"""Mustard, phacelia, volunteers or weeds between a harvest and the next spring crop."""
