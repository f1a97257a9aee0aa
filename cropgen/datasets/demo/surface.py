"""Reflectance of every field on every day: crops, catch crops and straw over soil.

Each surface gives three spectra: its reflectance, and the slopes of that with the logarithm of leaf area and of soil
brightness, from which pixels inside a field differ to first order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cropgen.datasets.demo.canopy import canopy_reflectance, soil_reflectance
from cropgen.datasets.demo.crops import CATCH_CROP, CROPS, Crop, Growth, Leaves, Sward
from cropgen.datasets.demo.farming import Traits, catch_crops, draw_traits, sow
from cropgen.datasets.demo.leaf import LeafTraits, leaf_optics
from cropgen.datasets.demo.phenology import Cover, Development, cover_of
from cropgen.datasets.demo.spectra import ASPHALT, PETALS, WATER
from cropgen.datasets.demo.weather import Weather

_STEP = 0.2
WOOD = Crop(
    "", "wood",
    Growth((1, 0), 4, 260, 2700, 0.020, 0.0050, 5.0, 9000, (900, 0)),
    Leaves(1.8, 46.0, 0.0120, 0.0060, 0.62, 0.80), (0, 0), drought=0.15, persistence=0.25,
)  # fmt: skip
VERGE = Crop(
    "", "verge", Sward(820, 60, 900, 80, 240, 0.010, 3.0), Leaves(1.5, 36.0, 0.012, 0.0055, 0.50, 0.95), (0, 0)
)


@dataclass(frozen=True)
class Soils:
    """The soil of each field.

    Arguments:
        sandy: (P,) bool.
        brightness, redness: (P,) see `canopy.soil_reflectance`.
    """

    sandy: np.ndarray
    brightness: np.ndarray
    redness: np.ndarray


@dataclass
class _Layer:
    """A stand of leaves, (P, T) each but for the traits (P,)."""

    green: np.ndarray
    dead: np.ndarray
    petals: np.ndarray
    traits: dict[str, np.ndarray]


@dataclass(frozen=True)
class SeasonLayers:
    """Main and catch crop of one harvest year on the days asked for.

    Arguments:
        main, catch: stands of leaves.
        harvest: (P,) day.
        residue: (P,) cover of straw at harvest.
    """

    main: _Layer
    catch: _Layer
    harvest: np.ndarray
    residue: np.ndarray


class Season:
    """What is grown on every field in one harvest year; drawn once, then asked for any days.

    Arguments:
        crop: (P,) index in `CROPS`; the two numbers beyond it are woods and verges.
    """

    def __init__(
        self, year: int, crop: np.ndarray, sandy: np.ndarray, weather: Weather, generator: np.random.Generator
    ) -> None:
        self.crop, self._kinds = crop, (*CROPS, WOOD, VERGE)
        self._rows = {k: np.flatnonzero(crop == k) for k in range(len(self._kinds))}
        self._stands = {k: sow(self._kinds[k], year, sandy[r], weather, generator) for k, r in self._rows.items()}
        self._traits = draw_traits(len(crop), generator)
        growth = [self._kinds[k].growth for k in crop]
        spring = np.array([isinstance(g, Growth) and g.sowing[0] > 20 for g in growth])
        grown = spring & (generator.random(len(crop)) < 0.6)
        self._catch = catch_crops(year, sandy, grown, weather, generator)
        self._catch_traits = draw_traits(len(crop), generator)

    def layers(self, day: np.ndarray, development: Development) -> SeasonLayers:
        """The stands on the days (T,)."""
        shape = (len(self.crop), len(day))
        green, dead, petals = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        harvest, residue = np.zeros(shape[0]), np.zeros(shape[0])
        for k, rows in self._rows.items():
            if len(rows):
                cover = cover_of(self._kinds[k], self._stands[k], day, development)
                green[rows], dead[rows], petals[rows] = cover.green, cover.dead, cover.petals
                harvest[rows], residue[rows] = cover.harvest, self._kinds[k].residue
        leaves = [self._kinds[k].leaves for k in self.crop]
        main = _Layer(green, dead, petals, _leaf_parameters(leaves, self._traits))
        cover: Cover = cover_of(CATCH_CROP, self._catch, day, development)
        traits = _leaf_parameters([CATCH_CROP.leaves] * shape[0], self._catch_traits)
        return SeasonLayers(main, _Layer(cover.green, cover.dead, cover.petals, traits), harvest, residue)


def _leaf_parameters(leaves: list[Leaves], traits: Traits) -> dict[str, np.ndarray]:
    def mean(name: str) -> np.ndarray:
        return np.array([getattr(leaf, name) for leaf in leaves])

    return {
        "layers": mean("layers"),
        "chlorophyll": mean("chlorophyll") * traits.chlorophyll,
        "water": mean("water") * traits.water,
        "dry_matter": mean("dry_matter") * traits.dry_matter,
        "extinction": mean("extinction") * traits.extinction,
        "clumping": mean("clumping"),
    }


def field_spectra(
    this: SeasonLayers, following: SeasonLayers, soils: Soils, tillage: np.ndarray, day: np.ndarray, weather: Weather
) -> np.ndarray:
    """Reflectance of the fields and its slopes.

    Arguments:
        this, following: the stands of the harvest year the days lie in, and of the next, sown in the autumn.
        tillage: (P,) days from harvest to tillage.
        day: (T,) days since 1970-01-01.
    Returns: (P, T, 3, 10): reflectance, its slope with ln leaf area, its slope with ln soil brightness.
    """
    layer = _highest([this.main, following.main, this.catch, following.catch])
    moisture = np.clip(
        weather.surface_moisture()[weather.index(day)] * np.where(soils.sandy, 0.75, 0.95)[:, None], 0.0, 0.85
    )
    since = day - this.harvest[:, None]
    straw = this.residue[:, None] * np.exp(-np.maximum(since, 0) / 90.0) * (since >= 0) * (since < tillage[:, None])
    fresh = 1.0 - 0.15 * ((since >= tillage[:, None]) & (since < tillage[:, None] + 45))

    def soil(factor: float) -> np.ndarray:
        bare = soil_reflectance(soils.brightness[:, None] * fresh * factor, moisture, soils.redness[:, None])
        return bare + straw[..., None] * (_straw(moisture) - bare)

    leaf, depth, extinction = _leaf_of(layer)
    petals = layer.petals[..., None]

    def seen(area: float, brightness: float) -> np.ndarray:
        leaves = canopy_reflectance(*leaf, soil(brightness), depth * area, extinction)
        return leaves + petals * (PETALS - leaves)

    up, down = 1 + _STEP, 1 / (1 + _STEP)
    run = 2 * np.log(up)
    slopes = (seen(up, 1.0) - seen(down, 1.0)) / run, (seen(1.0, up) - seen(1.0, down)) / run
    return np.stack([seen(1.0, 1.0), *slopes], axis=2)


def _highest(layers: list[_Layer]) -> _Layer:
    """At each place and day the stand with the most leaves."""
    area = np.stack([layer.green + layer.dead for layer in layers])
    best = area.argmax(0)[None]

    def pick(arrays: list[np.ndarray]) -> np.ndarray:
        return np.take_along_axis(np.stack(arrays), best, axis=0)[0]

    shape = area.shape[1:]
    traits = {
        name: pick([np.broadcast_to(layer.traits[name][:, None], shape) for layer in layers])
        for name in layers[0].traits
    }
    return _Layer(
        pick([layer.green for layer in layers]),
        pick([layer.dead for layer in layers]),
        pick([layer.petals for layer in layers]),
        traits,
    )


def _leaf_of(layer: _Layer) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray, np.ndarray]:
    """Optics of the mean leaf, effective leaf area and extinction, (P, T, …)."""
    area = layer.green + layer.dead
    alive = layer.green / np.maximum(area, 1e-6)
    traits = layer.traits
    optics = leaf_optics(LeafTraits(
        layers=traits["layers"],
        chlorophyll=traits["chlorophyll"] * np.maximum(alive, 0.01) ** 0.8,
        carotenoids=traits["chlorophyll"] * (0.05 + 0.15 * alive),
        brown=0.9 * (1 - alive),
        water=traits["water"] * (0.08 + 0.92 * alive),
        dry_matter=traits["dry_matter"] * (1.3 - 0.3 * alive),
    ))  # fmt: skip
    return optics, area * traits["clumping"], traits["extinction"]


def _straw(moisture: np.ndarray) -> np.ndarray:
    """Straw lying on the soil, dry or rained on: an endless canopy of dead leaves."""
    ones = np.ones_like(moisture)
    leaf = leaf_optics(
        LeafTraits(1.6 * ones, 1.0 * ones, 3.0 * ones, 0.9 * ones, 0.001 + 0.012 * moisture, 0.009 * ones)
    )
    return canopy_reflectance(*leaf, 0.2 * np.ones_like(leaf[0]), 6.0 * ones, 0.6 * ones)


def constant_spectra(days: int) -> np.ndarray:
    """(2, T, 3, 10) roads and water; their slope with leaf area is none, with brightness their own reflectance."""
    still = np.stack([ASPHALT, WATER])
    spectra = np.stack([still, np.zeros_like(still), 0.5 * still], axis=1)
    return np.broadcast_to(spectra[:, None], (2, days, 3, spectra.shape[-1]))


def draw_soils(sandy: np.ndarray, generator: np.random.Generator) -> Soils:
    """Dark, slightly red loam on the plateau, bright sand in the valley."""
    brightness = np.exp(generator.normal(0.0, 0.10, len(sandy))) * np.where(sandy, 0.88, 0.62)
    redness = generator.normal(0.0, 0.05, len(sandy)) + np.where(sandy, -0.03, 0.10)
    return Soils(sandy, brightness, redness)


def draw_tillage(count: int, generator: np.random.Generator) -> np.ndarray:
    """(P,) days from harvest to tillage; a third of the fields are left until the winter."""
    late = generator.random(count) < 0.33
    return np.where(late, 120.0, 5.0) + generator.exponential(25.0, count)
