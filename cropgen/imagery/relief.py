"""Elevation and slope as channels of a series, read off an elevation raster at a point inside each parcel.

    elevation   metres, as the raster says
    slope       degrees, from the eight neighbours of the pixel: tan s = √(p² + q²),
                p = ((z₃ + 2z₆ + z₉) − (z₁ + 2z₄ + z₇)) / 8Δx,   q = ((z₇ + 2z₈ + z₉) − (z₁ + 2z₂ + z₃)) / 8Δy

with z₁ … z₉ row by row. Both are the same at every date. Rasters in degrees are measured in metres at the parcel's
latitude. A pixel at the edge of the raster, or beside missing data, has no slope.

Reference: Hill Shading and the Reflectance Map, B. K. P. Horn, 1981.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyproj

from cropgen.core.files import require_input
from cropgen.imagery.masks import is_valid
from cropgen.imagery.raster import RasterLayer, read_header
from cropgen.imagery.scene import Window
from cropgen.series.geometry import WGS84
from cropgen.series.schema import ParcelSeries

_CELL = 1024
_METRES_PER_DEGREE = 111_320.0


@dataclass(frozen=True)
class Relief:
    """An elevation raster.

    Arguments:
        name: of the file.
        layer: its band.
    """

    name: str
    layer: RasterLayer
    bands: tuple[str, ...] = ("elevation", "slope")

    @property
    def facts(self) -> dict[str, object]:
        return {"kind": "relief", "source": self.name, "bands": list(self.bands)}

    def at(self, series: ParcelSeries) -> np.ndarray:
        """(N, T, 2) elevation and slope, the same at all dates; NaN outside the raster."""
        found = self.here(series.lon, series.lat).astype(np.float32)
        return np.repeat(found[:, None], series.mask.shape[1], axis=1)

    def here(self, lon: np.ndarray, lat: np.ndarray) -> np.ndarray:
        """(N, 2) elevation in metres and slope in degrees at points; NaN where they are not known."""
        grid, found = self.layer.grid, np.full((len(lon), 2), np.nan)
        x, y = pyproj.Transformer.from_crs(WGS84, grid.crs, always_xy=True).transform(lon, lat)
        a, _, c, _, e, f = grid.transform
        with np.errstate(invalid="ignore"):
            column, row = np.floor((np.asarray(x) - c) / a), np.floor((np.asarray(y) - f) / e)
            inside = (row >= 1) & (row < grid.shape[0] - 1) & (column >= 1) & (column < grid.shape[1] - 1)
        place = np.flatnonzero(inside)
        row, column = row[place].astype(np.int64), column[place].astype(np.int64)
        wide, high = self._pixel_size(lat[place])
        cell = (row // _CELL) * (1 << 20) + column // _CELL
        for number in np.unique(cell):
            mine = np.flatnonzero(cell == number)
            z = self._around(row[mine], column[mine])
            found[place[mine], 0] = z[:, 1, 1]
            found[place[mine], 1] = slope(z, wide[mine], high[mine])
        return found

    def _pixel_size(self, lat: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(N,) width and height in metres of the pixels at some latitudes."""
        a, e = self.layer.grid.transform[0], -self.layer.grid.transform[4]
        system = pyproj.CRS.from_wkt(self.layer.grid.crs)
        if system.is_geographic:
            return a * _METRES_PER_DEGREE * np.cos(np.radians(lat)), np.full(len(lat), e * _METRES_PER_DEGREE)
        unit = system.axis_info[0].unit_conversion_factor
        return np.full(len(lat), a * unit), np.full(len(lat), e * unit)

    def _around(self, row: np.ndarray, column: np.ndarray) -> np.ndarray:
        """(N, 3, 3) elevations around pixels, NaN where missing."""
        window = Window(int(row.min()) - 1, int(row.max()) + 2, int(column.min()) - 1, int(column.max()) + 2)
        stored = self.layer.read(window)
        height = stored.astype(np.float64) * (self.layer.scale or 1.0) + self.layer.offset
        height[~is_valid(stored, self.layer.nodata)] = np.nan
        step = np.arange(-1, 2)
        return height[(row - window.top)[:, None, None] + step[:, None], (column - window.left)[:, None, None] + step]


def slope(z: np.ndarray, wide: np.ndarray, high: np.ndarray) -> np.ndarray:
    """(N,) slope in degrees of elevations (N, 3, 3) on pixels of some width and height (N,) in metres."""
    across = (z[:, :, 2] - z[:, :, 0]) @ [1, 2, 1] / (8 * wide)
    down = (z[:, 2] - z[:, 0]) @ [1, 2, 1] / (8 * high)
    return np.degrees(np.arctan(np.hypot(across, down)))


def open_relief(path: Path) -> Relief:
    """Open an elevation raster.

    Raises:
        MissingInputError: there is no such file.
        CorruptInputError, SchemaError: it cannot be opened, or states no coordinate system.
    """
    head = read_header(require_input(path, "elevation raster"), "no date")
    return Relief(path.name, RasterLayer(path, "no date", head.grid, head.scale, head.offset, head.nodata))
