"""Daily weather as channels of a series: the mean of the ten days up to each date, at the nearest place.

    temperature     air temperature in °C
    precipitation   mm a day

Read are tables (csv, parquet) of one line per day, or per day and place, and grids (NetCDF, zarr) over time, latitude
and longitude. A table may name places by `parcel_id`, or by `lon` and `lat`; one without is the weather of all parcels.
Names are recognised (`t2m`, `tmean`, `rain`, `tp` …). Grids in kelvin and metres, as ECMWF gives them, are converted by
their stated units; tables hold °C and mm. A window that misses days is the mean of those there are.

Reference: ERA5-Land: a state-of-the-art global reanalysis dataset for land applications, Muñoz-Sabater et al., 2021
(the usual source).
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.spatial import KDTree

from cropgen.core.errors import CorruptInputError, SchemaError
from cropgen.core.files import require_input
from cropgen.series.schema import ParcelSeries

if TYPE_CHECKING:
    import xarray

DAYS = 10
NAMES: dict[str, tuple[str, ...]] = {
    "temperature": ("temperature", "t2m", "tmean", "temp", "tavg", "temperature_2m", "2m_temperature"),
    "precipitation": ("precipitation", "precip", "prec", "rain", "tp", "rr", "total_precipitation"),
}
_TIME = ("date", "time", "day", "valid_time")
_PLACE = {"lat": ("lat", "latitude", "y"), "lon": ("lon", "longitude", "x"), "parcel_id": ("parcel_id", "id")}
_CONVERT: dict[tuple[str, str], tuple[float, float]] = {("temperature", "k"): (1.0, -273.15),
                                                        ("precipitation", "m"): (1000.0, 0.0)}  # fmt: skip


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
        SchemaError: it holds no dates, no variable that is known, or several lines for one day and place.
    """
    require_input(path, "weather")
    try:
        if path.suffix in (".nc", ".zarr"):
            import xarray

            with xarray.open_dataset(path, engine="zarr" if path.suffix == ".zarr" else None) as grid:
                frame = _frame_of(grid)
        else:
            frame = pd.read_parquet(path) if path.suffix in (".parquet", ".pq") else pd.read_csv(path)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise CorruptInputError(f"{path} cannot be read: {reason}", hint="check the file") from error
    return _from_table(frame, path)


def _find(names: Sequence[Hashable], known: Sequence[str]) -> str | None:
    spoken = {str(name).strip().casefold(): str(name) for name in names}
    return next((spoken[name] for name in known if name in spoken), None)


def _frame_of(grid: xarray.Dataset) -> pd.DataFrame:
    """A grid as a table of one line per time and cell, in °C and mm."""
    columns: dict[str, xarray.DataArray] = {}
    for band, known in NAMES.items():
        name = _find(list(grid.data_vars), known)
        if name is not None:
            unit = str(grid[name].attrs.get("units", "")).strip().casefold()
            gain, shift = _CONVERT.get((band, unit), (1.0, 0.0))
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
    day = pd.to_datetime(frame[time], errors="coerce").to_numpy().astype("datetime64[D]")
    if not len(day) or np.isnat(day).any():
        raise SchemaError(f"{path}: column {time} holds no date in some lines", hint="write dates as YYYY-MM-DD")
    number = day.astype(np.int64)
    place, facts = _places_of(frame)
    if pd.DataFrame({"day": day, "place": place}).duplicated().any():
        raise SchemaError(
            f"{path}: several lines for one day and place",
            hint="give daily means and sums, and name places by parcel_id, or lon and lat",
        )
    values = np.full((int(number.max() - number.min()) + 1, int(place.max()) + 1, len(columns)), np.nan)
    values[number - number.min(), place] = frame[list(columns.values())].to_numpy(np.float64)
    return Weather(path.name, tuple(columns), int(number.min()), values, **facts)


def _places_of(frame: pd.DataFrame) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """(M,) number of the place of each line, and what the places are told by."""
    lat, lon, parcel = (_find(list(frame.columns), _PLACE[role]) for role in ("lat", "lon", "parcel_id"))
    if parcel is not None:
        place, names = pd.factorize(frame[parcel].astype(str))
        return place, {"parcel_id": np.asarray(names, dtype=np.str_)}
    if lat is not None and lon is not None:
        place, cells = pd.factorize(pd.MultiIndex.from_arrays([frame[lon], frame[lat]]))
        where = np.array(cells.tolist(), np.float64)
        return place, {"lon": where[:, 0], "lat": where[:, 1]}
    return np.zeros(len(frame), np.int64), {}
