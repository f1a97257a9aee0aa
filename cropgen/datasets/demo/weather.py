"""Daily weather of the demo region, and what it does to soils and development.

Air temperature is a yearly cosine plus seasonal anomalies of the year plus first-order autoregressive noise; rain is a
two-state Markov chain of dry and wet days with exponential amounts (Stochastic simulation of daily precipitation,
temperature, and solar radiation, C. W. Richardson, 1981). A bucket of plant-available water per soil balances rain
against evaporation after Hargreaves and Samani (1985).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

LATITUDE = 48.6
_LAG = 0.78
_SUMMER_SOLSTICE = 172


@dataclass(frozen=True)
class Climate:
    """How one year departs from the normal, by season (winter, spring, summer, autumn).

    Arguments:
        warmth: temperature anomaly in K.
        wetness: factor on the chance that a dry day is followed by a wet one.
    """

    warmth: tuple[float, float, float, float]
    wetness: tuple[float, float, float, float]


_CLIMATES = (
    Climate(warmth=(0.6, 1.2, 1.5, 0.8), wetness=(0.9, 0.55, 0.50, 0.9)),  # an early, hot and dry year
    Climate(warmth=(2.0, -0.4, 1.4, 1.8), wetness=(1.2, 1.50, 0.75, 1.1)),  # a mild winter, a wet and late spring
    Climate(warmth=(-0.6, -1.3, -0.2, 0.0), wetness=(1.0, 1.10, 1.50, 0.8)),  # a cold spring and a wet summer
)
"""The years 3n, 3n + 1 and 3n + 2: 2022, 2023 and 2021 in the default region."""


@dataclass(frozen=True)
class Weather:
    """Daily weather from 1 July before the first year.

    Arguments:
        first_day: days since 1970-01-01 of element 0.
        temperature: (D,) daily mean air temperature, °C.
        rain: (D,) mm.
        daylength: (D,) hours.
        radiation: (D,) extraterrestrial, MJ/m².
    """

    first_day: int
    temperature: np.ndarray
    rain: np.ndarray
    daylength: np.ndarray
    radiation: np.ndarray

    def index(self, day: np.ndarray | int) -> np.ndarray:
        """Positions of days since 1970-01-01 in the daily arrays, held inside them."""
        return np.clip(np.asarray(day) - self.first_day, 0, len(self.temperature) - 1)

    def heat_sum(self, base: float) -> np.ndarray:
        """(D,) degree days above `base` since the first day."""
        return np.cumsum(np.maximum(self.temperature - base, 0.0))

    def photothermal_sum(self, base: float) -> np.ndarray:
        """(D,) degree days of a long-day plant: a day counts by its length, from 0.45 at 8 h to 1 at 15 h."""
        light = np.clip((self.daylength - 8.0) / 7.0, 0.0, 1.0)
        return np.cumsum(np.maximum(self.temperature - base, 0.0) * (0.45 + 0.55 * light))

    def soil_water(self, capacity: float) -> np.ndarray:
        """(D,) filling 0–1 of a bucket of `capacity` mm; evaporation slows as it empties.

        Crops evaporate three quarters of the reference 0.0023 Rₐ (T + 17.8) √10 K (Hargreaves and Samani).
        """
        warm = np.maximum(self.temperature + 3.0, 0.0)
        demand = 0.75 * 0.0023 * 0.408 * self.radiation * (warm + 14.8) * np.sqrt(10.0) * np.minimum(warm / 12.0, 1.0)
        filling = np.empty(len(self.rain))
        water = 0.8 * capacity
        for day, (gain, loss) in enumerate(zip(self.rain, demand, strict=True)):
            water = min(capacity, max(0.0, water + gain - loss * min(1.0, 1.6 * water / capacity)))
            filling[day] = water / capacity
        return filling

    def surface_moisture(self) -> np.ndarray:
        """(D,) wetness 0–1 of the uppermost soil: filled by 8 mm of rain, dried within days, faster when warm."""
        moisture = np.empty(len(self.rain))
        state = 0.6
        for day, (gain, warmth) in enumerate(zip(self.rain, self.temperature, strict=True)):
            state = min(1.0, state * np.exp(-0.05 - 0.012 * max(warmth, 0.0)) + gain / 8.0)
            moisture[day] = state
        return moisture


def days_from(year: int, month: int = 1, day: int = 1) -> int:
    """Days since 1970-01-01."""
    return int(np.datetime64(f"{year:04d}-{month:02d}-{day:02d}", "D").astype(np.int64))


def simulate_weather(first_year: int, last_year: int, generator: np.random.Generator) -> Weather:
    """Weather from 1 July before `first_year` to 31 December of `last_year`."""
    first, last = days_from(first_year - 1, 7), days_from(last_year, 12, 31)
    day = np.arange(first, last + 1)
    date = day.astype("datetime64[D]")
    year = date.astype("datetime64[Y]").astype(int) + 1970
    of_year = (date - date.astype("datetime64[Y]")).astype(int)
    warmth = _seasonal(year, of_year, "warmth")
    wetness = _seasonal(year, of_year, "wetness")
    noise = np.zeros(len(day))
    shocks = generator.normal(0.0, 2.2, len(day))
    for i in range(1, len(day)):
        noise[i] = _LAG * noise[i - 1] + shocks[i]
    return Weather(first, normal_temperature(of_year) + warmth + noise, _rain(wetness, generator), *_daylight(of_year))


def normal_temperature(of_year: np.ndarray | int) -> np.ndarray:
    """Mean air temperature in °C of each day of a normal year."""
    return 10.6 - 9.2 * np.cos(2 * np.pi * (np.asarray(of_year) - 20) / 365.25)


def _seasonal(year: np.ndarray, of_year: np.ndarray, name: str) -> np.ndarray:
    """The anomaly of each day, interpolated between mid-seasons (January, April, July, October)."""
    centres = np.array([15, 105, 196, 288])
    knots, values = [], []
    for y in range(int(year.min()) - 1, int(year.max()) + 2):
        knots += list((y - int(year.min())) * 365.25 + centres)
        values += list(getattr(_CLIMATES[y % len(_CLIMATES)], name))
    return np.interp((year - year.min()) * 365.25 + of_year, knots, values)


def _rain(wetness: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    chance, amount = generator.random(len(wetness)), generator.exponential(5.2, len(wetness))
    rain = np.zeros(len(wetness))
    for i in range(1, len(wetness)):
        wet = chance[i] < (0.58 if rain[i - 1] > 0 else min(0.9, 0.27 * wetness[i]))
        rain[i] = amount[i] if wet else 0.0
    return rain


def _daylight(of_year: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Length of the day in hours and extraterrestrial radiation in MJ/m²."""
    declination, latitude = solar_declination(of_year), np.radians(LATITUDE)
    sunset = np.arccos(np.clip(-np.tan(latitude) * np.tan(declination), -1, 1))
    standing = sunset * np.sin(latitude) * np.sin(declination)
    passing = np.cos(latitude) * np.cos(declination) * np.sin(sunset)
    return 24.0 / np.pi * sunset, 37.6 * (standing + passing)


def solar_declination(of_year: np.ndarray) -> np.ndarray:
    """Radians, from the day of the year."""
    return np.radians(23.44) * np.cos(2 * np.pi * (np.asarray(of_year) - _SUMMER_SOLSTICE) / 365.25)
