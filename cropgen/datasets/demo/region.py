"""`make_demo`: from arguments to a folder of scenes and parcel layers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import cropgen.datasets.demo.clouds as clouds
import cropgen.datasets.demo.sensor as sensor
import cropgen.datasets.demo.surface as surface
from cropgen.core.errors import UsageError
from cropgen.core.files import atomic_output, guard_output
from cropgen.core.progress import Reporter, Silent
from cropgen.datasets.demo.crops import CROPS
from cropgen.datasets.demo.farming import rotate_crops
from cropgen.datasets.demo.landscape import CRS, Landscape, divide_land
from cropgen.datasets.demo.layer import write_parcels
from cropgen.datasets.demo.phenology import Development
from cropgen.datasets.demo.scenes import Acquisition, plan_acquisitions, write_scene
from cropgen.datasets.demo.spectra import BANDS
from cropgen.datasets.demo.viewing import sun_position, view_factor
from cropgen.datasets.demo.weather import Weather, simulate_weather

FULL_REGION = 2000
DEFAULT_YEARS = (2021, 2022, 2023)
DEFAULT_SEED = 0
_SMALLEST_REGION = 50
_SCENES = "scenes"


@dataclass(frozen=True)
class DemoRegion:
    """What `make_demo` wrote.

    Arguments:
        folder: the whole.
        scenes: one folder per date below it.
        parcels: year → GeoPackage.
        dates: number of scenes.
    """

    folder: Path
    scenes: Path
    parcels: dict[int, Path]
    dates: int


@dataclass(frozen=True)
class _Ground:
    """What stays over the years: the land, how it falls into pixels, and its soils."""

    land: Landscape
    soils: surface.Soils
    ten: sensor.csr_matrix
    twenty: sensor.csr_matrix
    brightness: np.ndarray


def stream(seed: int, *purpose: str | int) -> np.random.Generator:
    """A generator of its own for each purpose, so that one part can change without shifting the others."""
    text = "/".join(str(part) for part in ("demo", seed, *purpose))
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:16], "little"))


def make_demo(
    folder: Path,
    *,
    parcels: int = FULL_REGION,
    years: Sequence[int] = DEFAULT_YEARS,
    seed: int = DEFAULT_SEED,
    overwrite: bool = False,
    report: Reporter | None = None,
) -> DemoRegion:
    """Simulate a region and write it: `scenes/<date>_<orbit>/<band>.tif` and `parcels_<year>.gpkg`.

    Equal arguments give equal bytes; the folder appears whole or not at all.

    Arguments:
        folder: created; its parent may exist.
        parcels: fields in each year's layer; the area grows with it.
        years: consecutive calendar years.
        seed: every random number derives from it.
    Raises:
        UsageError: fewer than 50 parcels, or years that are not consecutive.
        OutputExistsError: the folder exists and `overwrite` is false.
    """
    chosen = _checked(parcels, years)
    guard_output(folder, overwrite=overwrite, folder=True)
    report = report or Silent()
    with atomic_output(folder) as part:
        part.mkdir(parents=True)
        dates = _simulate(part, parcels, chosen, seed, report)
    layers = {year: folder / _layer_name(year) for year in chosen}
    report.info(f"{parcels} parcels, {len(chosen)} years, {dates} scenes in {folder}")
    return DemoRegion(folder, folder / _SCENES, layers, dates)


def _simulate(folder: Path, parcels: int, years: tuple[int, ...], seed: int, report: Reporter) -> int:
    """Write the region into an empty folder; returns the number of scenes."""
    with report.task("Laying out fields", None):
        ground = _lay_out(parcels, seed)
    weather = simulate_weather(years[0], years[-1] + 1, stream(seed, "weather"))
    development = Development(weather)
    crops = _grow_units(ground, years, seed)
    seasons = {year: _season(year, crop, ground, weather, seed) for year, crop in crops.items()}
    for year in years:
        write_parcels(folder / _layer_name(year), ground.land, crops[year][:parcels], year)
    plan = {year: plan_acquisitions(year, weather, stream(seed, "orbits", year)) for year in years}
    dates = sum(map(len, plan.values()))
    with report.task("Taking scenes", dates) as task:
        for year, passes in plan.items():
            spectra = _year_spectra(seasons[year], seasons[year + 1], ground, passes, development, year, seed)
            leaf_area = _leaf_texture(ground.land.width, year, seed)
            for i, acquisition in enumerate(passes):
                task.note(str(acquisition.date))
                _take_scene(folder / _SCENES, acquisition, spectra[:, i], leaf_area, ground, seed)
                task.advance()
    return dates


def _layer_name(year: int) -> str:
    return f"parcels_{year}.gpkg"


def _checked(parcels: int, years: Sequence[int]) -> tuple[int, ...]:
    if parcels < _SMALLEST_REGION:
        raise UsageError(
            f"the demo region needs at least {_SMALLEST_REGION} parcels, got {parcels}",
            hint="ask for more with --parcels",
        )
    ordered = tuple(sorted({int(year) for year in years}))
    consecutive = bool(ordered) and ordered[-1] - ordered[0] == len(ordered) - 1
    if not consecutive or ordered[0] < 1980 or ordered[-1] > 2199:
        raise UsageError(
            f"years must be consecutive, between 1980 and 2199; got {', '.join(map(str, years)) or 'none'}",
            hint="for example 2021 2022 2023",
        )
    return ordered


def _lay_out(parcels: int, seed: int) -> _Ground:
    """Units are numbered: parcels, woods, verges, roads, river."""
    land = divide_land(parcels, stream(seed, "land"))
    grown = len(land.fields) + len(land.woods)
    shapes = [(land.roads, grown + 1)]
    shapes += [(shape, i) for i, shape in enumerate((*land.fields, *land.woods))]
    shapes.append((land.river, grown + 2))
    fine = sensor.burn_units(shapes, grown, land.transform, land.width)
    coarse = fine[::2, ::2]
    generator = stream(seed, "soil")
    soils = surface.draw_soils(np.concatenate([land.sandy, land.wood_sandy, [False]]), generator)
    brightness = sensor.texture(land.width, generator, ((22.0, 0.07), (5.0, 0.05), (1.2, 0.03)))
    units = grown + 3
    return _Ground(land, soils, sensor.mixing_matrix(fine, units), sensor.mixing_matrix(coarse, units), brightness)


def _grow_units(ground: _Ground, years: tuple[int, ...], seed: int) -> dict[int, np.ndarray]:
    """Crop index of every unit with soil, for each year and the one after the last."""
    land = ground.land
    last = max(years)
    newest = last if len(years) > 1 else None
    crops = rotate_crops(land.sandy, (*years, last + 1), newest, stream(seed, "rotation"))
    others = np.array([len(CROPS)] * len(land.woods) + [len(CROPS) + 1])
    return {year: np.concatenate([crop, others]) for year, crop in crops.items()}


def _season(year: int, crop: np.ndarray, ground: _Ground, weather: Weather, seed: int) -> surface.Season:
    return surface.Season(year, crop, ground.soils.sandy, weather, stream(seed, "farming", year))


def _year_spectra(
    this: surface.Season, following: surface.Season, ground: _Ground, passes: list[Acquisition],
    development: Development, year: int, seed: int,
) -> np.ndarray:  # fmt: skip
    """(units, dates, 3, 10) reflectance of all units at the year's passes, and its slopes."""
    day = np.array([acquisition.day for acquisition in passes])
    tillage = surface.draw_tillage(len(ground.soils.sandy), stream(seed, "tillage", year))
    grown = surface.field_spectra(
        this.layers(day, development), following.layers(day, development), ground.soils, tillage, day,
        development.weather,
    )  # fmt: skip
    return np.concatenate([grown, surface.constant_spectra(len(day))]).astype(np.float32)


def _leaf_texture(width: int, year: int, seed: int) -> np.ndarray:
    """(w, w) departures of ln leaf area: patches of good and poor growth, and gaps."""
    return sensor.texture(width, stream(seed, "growth", year), ((14.0, 0.10), (4.0, 0.10), (1.0, 0.07)))


def _take_scene(
    scenes: Path, acquisition: Acquisition, spectra: np.ndarray, leaf_area: np.ndarray, ground: _Ground, seed: int
) -> None:
    """Render one pass on both grids, put the sky over it, and write it."""
    generator = stream(seed, "scene", acquisition.day, acquisition.orbit.name)
    width = ground.land.width
    seen = spectra * view_factor(acquisition.orbit, acquisition.of_year).astype(np.float32)
    seen *= np.exp(generator.normal(0.0, 0.008, len(BANDS))).astype(np.float32)
    sun = sun_position(acquisition.of_year, acquisition.orbit.hour)
    sky = clouds.draw_sky(width, acquisition.cover, sun, acquisition.hazy, generator)
    bands: dict[str, np.ndarray] = {}
    images: dict[int, np.ndarray] = {}
    for names, mixing, half in ((sensor.TEN_METRES, ground.ten, False), (sensor.TWENTY_METRES, ground.twenty, True)):
        index = [BANDS.index(name) for name in names]
        growth, soil = (sensor.halved(f) if half else f for f in (leaf_area, ground.brightness))
        above = clouds.on_twenty_metres(sky) if half else sky
        image = clouds.through(above, sensor.render(mixing, seen[..., index], growth, soil), names)
        images[half] = image
        counts = sensor.digital_numbers(image, generator)
        bands |= {name: counts[..., i] for i, name in enumerate(names)}
    scl = clouds.classify(clouds.on_twenty_metres(sky), sensor.halved(images[False]), generator)
    write_scene(scenes / acquisition.name, bands, scl, ground.land.transform, CRS, acquisition)
