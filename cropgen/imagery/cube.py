"""NetCDF and zarr cubes as scenes: variables per band over (time, y, x), or one variable with a band axis.

Understood are cubes of openEO back-ends, of xarray and of the WorldCereal extractions. Several files over one place,
such as a 10 m and a 20 m cube, are joined by time stamp; files over different places stay apart. A time stamp that a
cube repeats (two tiles of one datatake) is an acquisition each time, the n-th of one file being the n-th of the others.
Values are read as stored, in blocks of dates, because many cubes keep all dates of a place in one chunk.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from pyproj import CRS
from pyproj.exceptions import CRSError

from cropgen.core.errors import CorruptInputError, SchemaError
from cropgen.core.progress import Reporter
from cropgen.imagery.scene import Acquisition, Grid, Window
from cropgen.series.bands import SCENE_CLASSIFICATION, is_reflectance, normalise_band

NETCDF_SUFFIXES = (".nc", ".nc4", ".h5", ".netcdf")
_TIME = ("t", "time", "timestamp", "date")
_ROW = ("y", "lat", "latitude", "northing")
_COLUMN = ("x", "lon", "longitude", "easting")
_BAND = ("bands", "band", "variable", "channel")
_BLOCK_VALUES = 4_000_000
_READ_ERRORS = (OSError, RuntimeError, ValueError, LookupError, TypeError)
_CLASSIC = (b"CDF\x01", b"CDF\x02")


class CubeVariable:
    """One band of a cube, read in blocks of dates of which the last is kept.

    Arguments:
        array: (time, row, column), lazy.
        path: for messages.
        flip: whether rows run from south to north.
        stamp: changes when the file does.
    """

    def __init__(self, array: xr.DataArray, path: Path, *, flip: bool, stamp: str = "") -> None:
        self._array = array
        self._path = path
        self._flip = flip
        self.stamp = stamp
        self._block: tuple[Window, int, np.ndarray] | None = None

    def read(self, date: int, window: Window) -> np.ndarray:
        """Stored values (rows, columns) of the `date`-th time.

        Raises:
            CorruptInputError: the file cannot be read there.
        """
        if self._block is not None:
            known, first, values = self._block
            if known == window and first <= date < first + len(values):
                return values[date - first]
        length = max(_BLOCK_VALUES // max(window.shape[0] * window.shape[1], 1), 1)
        first = date - date % length
        rows = slice(window.top, window.bottom)
        if self._flip:
            height = self._array.shape[1]
            rows = slice(height - window.bottom, height - window.top)
        part = self._array[first : first + length, rows, window.left : window.right]
        try:
            values = np.asarray(part.to_numpy())
        except _READ_ERRORS as error:
            when = str(self._array[self._array.dims[0]].to_numpy()[date])[:10]
            raise _corrupt(self._path, f" at {when}", error) from error
        values = values.view(_meant_type(self._array))
        values = values[:, ::-1] if self._flip else values
        self._block = (window, first, values)
        return values[date - first]


@dataclass(frozen=True)
class CubeLayer:
    """One band at one time."""

    variable: CubeVariable
    date: int
    grid: Grid
    scale: float | None
    offset: float
    nodata: float | None

    @property
    def stamp(self) -> str:
        """Changes when the file does."""
        return self.variable.stamp

    def read(self, window: Window) -> np.ndarray:
        return self.variable.read(self.date, window)


@dataclass(frozen=True)
class CubeSet:
    """Cubes, opened: coordinates were read, values were not."""

    name: str
    acquisitions: Sequence[Acquisition]


@dataclass
class _Place:
    """Files over one place: their layers by time stamp and how often it came before.

    Arguments:
        name: the end of the first file's path that tells it from the other files.
    """

    name: str
    grid: Grid
    times: dict[tuple[np.datetime64, int], dict[str, CubeLayer]]


@dataclass(frozen=True)
class _File:
    """A cube as found: its bands (time, row, column), and every attribute that may tell the coordinate system."""

    path: Path
    bands: dict[str, xr.DataArray]
    attributes: tuple[dict[Any, Any], ...]


def open_cubes(name: str, files: Sequence[Path], report: Reporter) -> CubeSet:
    """Open cubes and join those over one place.

    Raises:
        CorruptInputError: a file cannot be opened.
        SchemaError: no file holds bands over time, or one states no coordinate system.
    """
    found = [file for file in map(_open, files) if file.bands]
    spectral = [file for file in found if any(normalise_band(band) for band in file.bands)]
    chosen = spectral or found
    if not chosen:
        raise SchemaError(
            f"{name}: no band over time, y and x in {', '.join(p.name for p in files[:5])}",
            hint="expected variables with dimensions (t, y, x), or one with a band dimension",
        )
    used = {file.path for file in chosen}
    skipped = [path.name for path in files if path not in used]
    if skipped:
        report.info(f"files without Sentinel-2 bands are not read: {', '.join(skipped[:5])}")
    places: list[_Place] = []
    names = _names_of(sorted(used))
    for file in chosen:
        undated = _add_file(places, file, names[file.path])
        if undated:
            report.warn(f"{file.path}: {undated} steps without a date are left out")
    acquisitions = [
        Acquisition(_key(place, time, again), int(time.astype("datetime64[D]").astype(np.int64)), layers)
        for place in places
        for (time, again), layers in place.times.items()
    ]
    return CubeSet(name, tuple(sorted(acquisitions, key=lambda a: (a.day, a.key))))


def _key(place: _Place, time: np.datetime64, again: int) -> str:
    return f"{place.name} {str(time)[:19]}" + (f" ({again + 1})" if again else "")


def _open(path: Path) -> _File:
    try:
        if path.is_file():
            dataset = xr.open_dataset(path, engine=_engine(path), mask_and_scale=False)
        else:
            dataset = xr.open_dataset(path, engine="zarr", mask_and_scale=False, consolidated=False, chunks=None)
    except _READ_ERRORS as error:
        raise _corrupt(path, "", error) from error
    attributes = [dict(variable.attrs) for variable in dataset.variables.values()]
    return _File(path, dict(_bands(dataset, path)), (*attributes, dict(dataset.attrs)))


def _engine(path: Path) -> str:
    """What reads a file: NetCDF-4 is HDF5; GDAL writes the classic format unless told otherwise."""
    with path.open("rb") as file:
        return "scipy" if file.read(4) in _CLASSIC else "h5netcdf"


def _bands(dataset: xr.Dataset, path: Path) -> Iterator[tuple[str, xr.DataArray]]:
    """(name, (time, row, column)) of every variable over time and space."""
    time, row, column, band = (_dimension(dataset, names) for names in (_TIME, _ROW, _COLUMN, _BAND))
    if time is None or row is None or column is None:
        return
    if not np.issubdtype(dataset[time].dtype, np.datetime64):
        raise SchemaError(f"{path}: {time} holds no dates", hint="add CF units such as 'days since 2020-01-01'")
    for name, array in dataset.data_vars.items():
        if set(array.dims) == {time, row, column}:
            yield str(name), array.transpose(time, row, column)
        elif band is not None and set(array.dims) == {time, row, column, band}:
            for i, label in enumerate(array[band].to_numpy()):
                yield str(label), array.isel({band: i}).transpose(time, row, column)


def _dimension(dataset: xr.Dataset, names: Sequence[str]) -> str | None:
    return next((name for name in names if name in dataset.sizes), None)


def _names_of(paths: Sequence[Path]) -> dict[Path, str]:
    """As much of the end of each path as tells them apart, without suffix."""
    ways = {path: path.with_suffix("").parts for path in paths}
    depth = 1
    while len({way[-depth:] for way in ways.values()}) < len(ways) and depth < max(map(len, ways.values())):
        depth += 1
    return {path: "/".join(way[-depth:]) for path, way in ways.items()}


def _add_file(places: list[_Place], file: _File, name: str) -> int:
    """Add the layers of a file to its place; how many of its times are none."""
    stamp, undated = cube_stamp(file.path), 0
    for raw_name, array in file.bands.items():
        band = normalise_band(raw_name) or raw_name
        grid, flip = _grid(array, file)
        place = next((p for p in places if p.grid.same_ground(grid)), None)
        if place is None:
            place = _Place(name, grid, {})
            places.append(place)
        variable = CubeVariable(array, file.path, flip=flip, stamp=stamp)
        scale, offset, nodata = _encoding(array, band)
        seen: Counter[np.datetime64] = Counter()
        times = array[array.dims[0]].to_numpy()
        undated = int(np.isnat(times).sum())
        for i, time in enumerate(times):
            if np.isnat(time):
                continue
            layers = place.times.setdefault((time, seen[time]), {})
            seen[time] += 1
            known = layers.get(band)
            if known is None or grid.pixel_size < known.grid.pixel_size:
                layers[band] = CubeLayer(variable, i, grid, scale, offset, nodata)
    return undated


def _encoding(array: xr.DataArray, band: str) -> tuple[float | None, float, float | None]:
    """(scale or None when unstated, offset, nodata) from the CF attributes of a variable."""
    stated = {**array.encoding, **array.attrs}
    scale = stated.get("scale_factor")
    nodata = stated.get("_FillValue", stated.get("missing_value"))
    if nodata is None and is_reflectance(band) and np.issubdtype(array.dtype, np.integer):
        nodata = 0
    if nodata is not None and _meant_type(array) != array.dtype:
        nodata = np.asarray(nodata).astype(array.dtype).view(_meant_type(array))
    if band == SCENE_CLASSIFICATION:
        scale = 1.0
    return (
        None if scale is None else float(scale),
        float(stated.get("add_offset", 0.0)),
        None if nodata is None else float(np.asarray(nodata).item()),
    )


def _meant_type(array: xr.DataArray) -> np.dtype[Any]:
    """The type of the values: the classic format and SNAP keep numbers without a sign as such with one, and say so."""
    stated = str({**array.encoding, **array.attrs}.get("_Unsigned", "")).lower() == "true"
    return np.dtype(array.dtype.str.replace("i", "u")) if stated and array.dtype.kind == "i" else array.dtype


def _grid(array: xr.DataArray, file: _File) -> tuple[Grid, bool]:
    """The grid of an array, and whether its rows run from south to north."""
    _, row, column = (str(d) for d in array.dims)
    x, dx = _axis(array, column, file.path)
    y, dy = _axis(array, row, file.path)
    if dx < 0:
        raise SchemaError(f"{file.path}: {column} runs from east to west", hint="sort the cube by x")
    top = y[-1] if dy > 0 else y[0]
    transform = (dx, 0.0, float(x[0]) - dx / 2, 0.0, -abs(dy), float(top) + abs(dy) / 2)
    return Grid(_crs(array, file), transform, (len(y), len(x))), dy > 0


def _axis(array: xr.DataArray, name: str, path: Path) -> tuple[np.ndarray, float]:
    if name not in array.coords:
        raise SchemaError(f"{path}: {name} has no coordinates", hint="keep the coordinates of the cube when saving")
    values = np.asarray(array[name].to_numpy(), dtype=np.float64)
    if len(values) < 2:
        raise SchemaError(f"{path}: only {len(values)} pixel along {name}", hint="give a cube of at least 2×2 pixels")
    step = (values[-1] - values[0]) / (len(values) - 1)
    if step == 0 or np.abs(np.diff(values) - step).max() > 0.01 * abs(step):
        raise SchemaError(f"{path}: {name} is not evenly spaced", hint="resample the cube to a regular grid")
    return values, float(step)


def _crs(array: xr.DataArray, file: _File) -> str:
    for attributes in file.attributes:
        for key in ("crs_wkt", "spatial_ref", "crs", "epsg"):
            found = _parse_crs(attributes[key]) if key in attributes else None
            if found is not None:
                return found.to_wkt()
    if array.dims[1] in ("lat", "latitude"):
        return CRS.from_epsg(4326).to_wkt()
    raise SchemaError(f"{file.path} states no coordinate system", hint="add a spatial_ref variable with crs_wkt")


def _parse_crs(value: Any) -> CRS | None:
    text = str(np.asarray(value).item())
    code = re.search(r"epsg:(\d+)$", text, re.IGNORECASE) or re.fullmatch(r"(\d{4,6})", text)
    try:
        return CRS.from_epsg(int(code.group(1))) if code else CRS.from_user_input(text)
    except CRSError:
        return None


def cube_stamp(path: Path) -> str:
    """Size and time of the last change of a file, or of all files of a zarr folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    states = [p.stat() for p in files]
    return f"{sum(s.st_size for s in states)}-{max((s.st_mtime_ns for s in states), default=0)}"


def _corrupt(path: Path, where: str, error: Exception) -> CorruptInputError:
    detail = str(error).splitlines()[0] if str(error) else type(error).__name__
    return CorruptInputError(f"cannot read the cube {path}{where}: {detail}", hint="fetch the file again")
