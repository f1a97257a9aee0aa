"""Daily weather as channels of a series: the mean of the ten days up to each date, at the nearest place.

    temperature     air temperature in °C
    precipitation   mm a day

Read are tables (csv, parquet) of one line per day, or per day and place, and grids (NetCDF, zarr) over time, latitude
and longitude in degrees. A table may name places by `parcel_id`, by `lon` and `lat`, or, where it has neither, parcels
by `id`; one without is the weather of all parcels. Names are recognised (`t2m`, `tmean`, `rain`, `tp` …). Grids in
kelvin and metres, as ECMWF gives them, are converted by their stated units, and units that are not known are refused;
tables, and grids that state no units, hold °C and mm. A window that misses days is the mean of those there are.

Reference: ERA5-Land: a state-of-the-art global reanalysis dataset for land applications, Muñoz-Sabater et al., 2021
(the usual source).
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from cropgen.core.errors import CorruptInputError, SchemaError
from cropgen.core.files import require_input
from cropgen.series.columns import as_text
from cropgen.series.schema import ParcelSeries

if TYPE_CHECKING:
    import xarray

DAYS = 10
NAMES: dict[str, tuple[str, ...]] = {
    "temperature": ("temperature", "t2m", "tmean", "temp", "tavg", "temperature_2m", "2m_temperature"),
    "precipitation": ("precipitation", "precip", "prec", "rain", "tp", "rr", "total_precipitation"),
}
_TIME = ("date", "time", "day", "valid_time")
_PLACE = {"lat": ("lat", "latitude", "y"), "lon": ("lon", "longitude", "x"), "parcel_id": ("parcel_id",), "id": ("id",)}
_UNITS: dict[str, dict[tuple[float, float], str]] = {
    "temperature": {
        (1.0, 0.0): r"°? ?c|deg ?c|(degrees? )?celsius",
        (1.0, -273.15): r"°? ?k|deg ?k|(degrees? )?kelvins?",
    },
    "precipitation": {
        (1.0, 0.0): r"mm|millimet(re|er)s?|kg ?(/ ?m|m(\*\*|\^)?-)(\*\*|\^)?2",
        (1000.0, 0.0): r"m|met(re|er)s?",
    },
}
"""(gain, shift) to °C and mm of the units that are known, in lower case."""
_A_DAY = re.compile(r" ?(/ ?|per )(d|day)$| (d|day)(\*\*|\^)?-1$")
_ZONE = re.compile(r"(:\d\d(?:\.\d+)?) ?(?:Z|[+-]\d\d(?::?\d\d)?)$")
_FULL_CIRCLE, _POLE = 360.0, 90.0


@dataclass(frozen=True)
class Weather:
    """Daily values of K places.

    Arguments:
        name: of the file.
        bands: names of the V variables.
        first: first day, since 1970-01-01.
        values: (D, K, V) one value a day; NaN where missing.
        lon, lat: (K,) degrees, or None where places have no position.
        parcel_id: (K,) parcels the places are, or None.
    """

    name: str
    bands: tuple[str, ...]
    first: int
    values: np.ndarray
    lon: np.ndarray | None = None
    lat: np.ndarray | None = None
    parcel_id: np.ndarray | None = None

    @property
    def facts(self) -> dict[str, object]:
        return {"kind": "weather", "source": self.name, "bands": list(self.bands), "mean_of_days": DAYS}

    def at(self, series: ParcelSeries) -> np.ndarray:
        """(N, T, V) means of the ten days up to each date; NaN for dates and parcels without any."""
        finite = np.isfinite(self.values)
        total, count = (
            np.concatenate([np.zeros((1, *part.shape[1:])), np.cumsum(part, axis=0)])
            for part in (np.where(finite, self.values, 0).astype(np.float64), finite)
        )
        place = self._places(series)
        last = np.clip(series.day.astype(np.int64) - self.first + 1, 0, len(self.values))
        since = np.clip(series.day.astype(np.int64) - self.first + 1 - DAYS, 0, len(self.values))
        where = np.maximum(place, 0)[:, None]
        with np.errstate(invalid="ignore"):
            mean = (total[last, where] - total[since, where]) / (count[last, where] - count[since, where])
        mean[place < 0] = np.nan
        return mean.astype(np.float32)

    def _places(self, series: ParcelSeries) -> np.ndarray:
        """(N,) place of each row: the parcel itself, the nearest, or the only one; −1 where there is none."""
        if self.parcel_id is not None:
            number = {name: k for k, name in enumerate(self.parcel_id.tolist())}
            return np.array([number.get(name, -1) for name in series.parcel_id.tolist()], np.int64)
        if self.lon is None or self.lat is None:
            return np.zeros(len(series), np.int64)
        known = np.isfinite(series.lon) & np.isfinite(series.lat)
        found = np.full(len(series), -1, np.int64)
        here = _on_sphere(series.lon[known], series.lat[known])
        found[known] = KDTree(_on_sphere(self.lon, self.lat)).query(here)[1]
        return found


def _on_sphere(lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
    """(K, 3) points of the unit sphere."""
    east, north = np.radians(lon), np.radians(lat)
    return np.stack([np.cos(north) * np.cos(east), np.cos(north) * np.sin(east), np.sin(north)], axis=1)


def open_weather(path: Path) -> Weather:
    """Read daily weather.

    Raises:
        MissingInputError: there is no such file.
        CorruptInputError: it cannot be read.
        SchemaError: it holds no dates, no variable that is known, units that are not, what should be a number and is
            none, positions that are not in degrees, or several lines for one day and place.
    """
    require_input(path, "weather")
    try:
        if path.suffix in (".nc", ".zarr"):
            import xarray

            with xarray.open_dataset(path, engine="zarr" if path.suffix == ".zarr" else None) as grid:
                frame = _frame_of(grid, path)
        else:
            frame = pd.read_parquet(path) if path.suffix in (".parquet", ".pq") else _read_csv(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CorruptInputError(f"{path} cannot be read: {reason}", hint="check the file") from error
    return _from_table(frame, path)


def _find(names: Sequence[Hashable], known: Sequence[str]) -> str | None:
    spoken = {str(name).strip().casefold(): str(name) for name in names}
    return next((spoken[name] for name in known if name in spoken), None)


def _read_csv(path: Path) -> pd.DataFrame:
    """A table whose ids are text: 001 is not 1."""
    names = list(pd.read_csv(path, nrows=0).columns)
    ids = [_find(names, _PLACE[role]) for role in ("parcel_id", "id")]
    return pd.read_csv(path, dtype={name: "str" for name in ids if name is not None})


def _conversion(band: str, unit: str, where: str) -> tuple[float, float]:
    """(gain, shift) from a stated unit to °C or mm; unstated is taken for these.

    Raises:
        SchemaError: the unit is not known.
    """
    spoken = " ".join(unit.replace("_", " ").casefold().split())
    if band == "precipitation":
        spoken = _A_DAY.sub("", spoken)
    if not spoken:
        return 1.0, 0.0
    for factors, pattern in _UNITS[band].items():
        if re.fullmatch(pattern, spoken):
            return factors
    expected = "K or degC" if band == "temperature" else "m or mm"
    raise SchemaError(
        f"{where}: expected {band} in {expected}, got units {unit!r}",
        hint="convert it to daily means in degC or daily sums in mm, and state the units",
    )


def _frame_of(grid: xarray.Dataset, path: Path) -> pd.DataFrame:
    """A grid as a table of one line per time and cell, in °C and mm."""
    columns: dict[str, xarray.DataArray] = {}
    for band, known in NAMES.items():
        name = _find(list(grid.data_vars), known)
        if name is not None:
            gain, shift = _conversion(band, str(grid[name].attrs.get("units", "")), f"{path}: {name}")
            columns[band] = grid[name] * gain + shift
    if not columns:
        return pd.DataFrame({str(name): [] for name in grid.variables})
    import xarray

    return xarray.Dataset(columns).to_dataframe().reset_index()


def _from_table(frame: pd.DataFrame, path: Path) -> Weather:
    time = _find(list(frame.columns), _TIME)
    columns = {band: name for band, known in NAMES.items() if (name := _find(list(frame.columns), known)) is not None}
    if time is None or not columns:
        missing = "a date" if time is None else "temperature or precipitation"
        raise SchemaError(
            f"{path}: expected a column of {missing}, got {', '.join(map(str, frame.columns)) or 'nothing'}",
            hint="name the columns date, temperature and precipitation",
        )
    day = _days_of(pd.Series(frame[time]))
    if not len(day) or np.isnat(day).any():
        raise SchemaError(f"{path}: column {time} holds no date in some lines", hint="write dates as YYYY-MM-DD")
    number = day.astype(np.int64)
    place, facts = _places_of(frame, path)
    if pd.DataFrame({"day": day, "place": place}).duplicated().any():
        raise SchemaError(
            f"{path}: several lines for one day and place",
            hint="give daily means and sums, and name places by parcel_id, or lon and lat",
        )
    values = np.full((int(number.max() - number.min()) + 1, int(place.max()) + 1, len(columns)), np.nan)
    values[number - number.min(), place] = np.stack([_numbers(frame, name, path) for name in columns.values()], axis=1)
    return Weather(path.name, tuple(columns), int(number.min()), values, **facts)


def _days_of(times: pd.Series) -> np.ndarray:
    """(M,) datetime64[D] of a column of dates, NaT where there is none: the days that its clocks show, in any zone."""
    if isinstance(times.dtype, pd.DatetimeTZDtype):
        times = times.dt.tz_localize(None)
    elif not pd.api.types.is_datetime64_dtype(times.dtype):
        times = times.astype(str).str.replace(_ZONE, r"\1", regex=True)
    return pd.to_datetime(times, format="ISO8601", errors="coerce").to_numpy().astype("datetime64[D]")


def _numbers(frame: pd.DataFrame, name: str, path: Path) -> np.ndarray:
    """(M,) float64 values of a column; NaN where there is none.

    Raises:
        SchemaError: a value is no number.
    """
    column = pd.Series(frame[name])
    found = pd.Series(pd.to_numeric(column, errors="coerce"))
    wrong = column[found.isna().to_numpy() & column.notna().to_numpy()].tolist()
    if wrong:
        raise SchemaError(
            f"{path}: column {name}: expected numbers, got {wrong[0]!r} in {len(wrong)} lines",
            hint="write numbers with a decimal point, and leave empty what is missing",
        )
    return found.to_numpy(np.float64, na_value=np.nan)


def _places_of(frame: pd.DataFrame, path: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(M,) number of the place of each line, and what the places are told by.

    Raises:
        SchemaError: a line has no place, or positions are not in degrees.
    """
    lat, lon, parcel, number = (_find(list(frame.columns), known) for known in _PLACE.values())
    if parcel is None and (lat is None or lon is None):
        parcel = number
    if parcel is not None:
        if pd.Series(frame[parcel]).isna().to_numpy().any():
            raise SchemaError(f"{path}: column {parcel} is empty in some lines", hint="name the parcel of every line")
        place, names = pd.factorize(as_text(pd.Series(frame[parcel])))
        return place, {"parcel_id": np.asarray(names, dtype=np.str_)}
    if lat is not None and lon is not None:
        x, y = _numbers(frame, lon, path), _numbers(frame, lat, path)
        far = ~((np.abs(x) <= _FULL_CIRCLE) & (np.abs(y) <= _POLE))
        if far.any():
            raise SchemaError(
                f"{path}: expected {lon} and {lat} in degrees in every line, got {x[far][0]:g} and {y[far][0]:g}",
                hint="give longitude and latitude; transform projected coordinates first",
            )
        place, cells = pd.factorize(pd.MultiIndex.from_arrays([x, y]))
        where = np.array(cells.tolist(), np.float64)
        return place, {"lon": where[:, 0], "lat": where[:, 1]}
    return np.zeros(len(frame), np.int64), {}
