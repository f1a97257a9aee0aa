"""Weather, development and farming."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cropgen.datasets.demo.crops import CROPS, Growth, Sward
from cropgen.datasets.demo.farming import rotate_crops, sow
from cropgen.datasets.demo.phenology import Development, Stands, cover_of
from cropgen.datasets.demo.weather import Weather, days_from, simulate_weather

NAMES = [crop.name for crop in CROPS]


@pytest.fixture(scope="module")
def weather() -> Weather:
    return simulate_weather(2021, 2024, np.random.default_rng(3))


def steady(temperature: float, rain: float) -> Weather:
    """Two years and a half of one temperature, some rain each day, and days of 12 hours."""
    days = days_from(2023) - days_from(2020, 7)
    same = np.ones(days)
    return Weather(days_from(2020, 7), temperature * same, rain * same, 12.0 * same, 25.0 * same)


def stands(growth: Growth, year: int = 2021, count: int = 1) -> Stands:
    sowing = np.full(count, days_from(year) + round(growth.sowing[0]))
    one = np.ones(count)
    return Stands(
        year, sowing, np.full(count, days_from(year) + 364), one, one, np.zeros(count, bool), np.zeros((count, 0))
    )


def test_heat_sums_are_counted_by_hand():
    weather = steady(14.0, 5.0)
    np.testing.assert_allclose(weather.heat_sum(8.0)[:3], [6.0, 12.0, 18.0])
    np.testing.assert_allclose(weather.heat_sum(20.0), 0.0)


def test_a_bucket_stays_full_in_rain_and_empties_without():
    assert steady(15.0, 30.0).soil_water(100.0)[-1] > 0.9
    dry = steady(15.0, 0.0).soil_water(100.0)
    assert (np.diff(dry) <= 0).all()
    assert 0 <= dry[-1] < 0.01


def test_days_are_longest_in_june_and_twelve_hours_in_march(weather):
    day = weather.index(days_from(2021) + np.arange(365))
    assert weather.daylength[day].argmax() == pytest.approx(172, abs=2)
    assert weather.daylength[day[79]] == pytest.approx(12.0, abs=0.2)
    assert weather.daylength[day].max() == pytest.approx(16.0, abs=0.4)


def test_the_three_years_differ(weather):
    spring = [weather.heat_sum(6.0)[weather.index([days_from(y, 3), days_from(y, 7)])] for y in (2021, 2022, 2023)]
    cold, warm, _ = (end - start for start, end in spring)
    assert warm > 1.2 * cold


def test_leaf_area_follows_the_published_form():
    """Without drought, at 20 °C: L(T) is the formula of the module, computed here from days alone."""
    crop = next(c for c in CROPS if c.name == "sugar beet")
    growth = crop.growth
    assert isinstance(growth, Growth)
    sown = days_from(2021) + round(growth.sowing[0])
    day = sown + np.array([10, 50, 90, 130])
    cover = cover_of(crop, stands(growth), day, Development(steady(20.0, 50.0)))
    heat = (20.0 - growth.base) * np.array([10, 50, 90, 130])
    risen = 1 / (1 + np.exp(-growth.rise_rate * (heat - growth.rise)))
    expected = growth.area * (risen - np.exp(growth.fall_rate * (heat - growth.fall)))
    np.testing.assert_allclose(cover.green[0], np.maximum(expected, 0), rtol=1e-9)


def test_nothing_stands_before_sowing_or_after_harvest():
    for crop in CROPS:
        if isinstance(crop.growth, Sward):
            continue
        stand = stands(crop.growth)
        cover = cover_of(crop, stand, np.array([stand.sowing[0] - 1]), Development(steady(15.0, 10.0)))
        assert cover.green.max() == cover.dead.max() == 0
        after = cover_of(crop, stand, cover.harvest, Development(steady(15.0, 10.0)))
        assert after.green.max() == after.dead.max() == 0


def test_drought_shrinks_and_hastens():
    crop = next(c for c in CROPS if c.name == "soybean")
    assert isinstance(crop.growth, Growth)
    day = days_from(2021, 7, 15) + np.arange(1)
    wet = cover_of(crop, stands(crop.growth), day, Development(steady(18.0, 20.0)))
    dry = cover_of(crop, stands(crop.growth), day, Development(steady(18.0, 0.5)))
    assert dry.green[0, 0] < wet.green[0, 0]
    assert dry.harvest[0] < wet.harvest[0]


def test_a_cut_takes_the_leaves_and_they_regrow():
    crop = next(c for c in CROPS if c.name == "alfalfa")
    start = days_from(2021)
    one, none = np.ones(1), np.full(1, start)
    cuts = np.array([[500.0, 5000.0]])
    stand = Stands(2021, none, none, one, one, np.zeros(1, bool), cuts)
    development = Development(steady(14.0, 20.0))  # 10 degree days above 4 °C each day: the cut is on day 50
    green = cover_of(crop, stand, start + np.array([49, 51, 90]), development).green[0]
    assert green[1] < 0.3 * green[0]
    assert green[2] > 0.9 * green[0]


def test_a_cold_spring_delays_spring_sowing_only_a_little_in_autumn(weather):
    growth = next(c for c in CROPS if c.name == "spring barley")
    sandy = np.zeros(400, bool)
    cold = replace(weather, temperature=weather.temperature - 4.0)
    usual = sow(growth, 2021, sandy, weather, np.random.default_rng(0)).sowing
    late = sow(growth, 2021, sandy, cold, np.random.default_rng(0)).sowing
    assert 3 < (late - usual).mean() <= 24


def test_the_newcomer_is_only_grown_in_the_last_year_and_grassland_stays():
    sandy = np.arange(3000) % 2 == 0
    crops = rotate_crops(sandy, (2021, 2022, 2023, 2024), 2023, np.random.default_rng(1))
    hemp, grassland = NAMES.index("hemp"), NAMES.index("grassland")
    assert [int((crops[y] == hemp).any()) for y in crops] == [0, 0, 1, 0]
    was = crops[2021] == grassland
    assert was.any()
    assert ((crops[2023] == grassland) == was).all()


def test_sub_regions_grow_different_crops_and_all_crops_appear():
    sandy = np.arange(4000) % 2 == 0
    crop = rotate_crops(sandy, (2023,), 2023, np.random.default_rng(1))[2023]
    maize, beet = NAMES.index("grain maize"), NAMES.index("sugar beet")
    assert (crop[sandy] == maize).mean() > 2 * (crop[~sandy] == maize).mean()
    assert (crop[~sandy] == beet).mean() > 3 * (crop[sandy] == beet).mean()
    assert set(crop) == set(range(len(CROPS)))


def test_codes_are_unique_hcat_codes():
    codes = [crop.code for crop in CROPS]
    assert len(set(codes)) == len(codes) >= 8
    assert all(len(code) == 10 and code.startswith("33") and code.isdigit() for code in codes)
