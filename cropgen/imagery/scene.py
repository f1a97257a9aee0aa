"""What a scene is: acquisitions with named layers on regular grids, whatever file they come from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from pyproj import CRS
from rasterio import Affine

from cropgen.core.errors import SchemaError


@dataclass(frozen=True)
class Window:
    """Rows `top ≤ row < bottom` and columns `left ≤ column < right` of a grid."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.bottom - self.top, self.right - self.left


@dataclass(frozen=True)
class Grid:
    """A north-up raster grid.

    Arguments:
        crs: coordinate system as WKT.
        transform: (a, 0, c, 0, e, f): x = c + a·column, y = f + e·row for pixel corners; a > 0, e < 0.
        shape: rows and columns.
    """

    crs: str
    transform: tuple[float, float, float, float, float, float]
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        a, b, _, d, e, _ = self.transform
        if b or d or a <= 0 or e >= 0:
            raise SchemaError(f"grid is not north-up: transform {self.transform}", hint="warp the scene first")

    @property
    def pixel_size(self) -> float:
        """Length of a pixel's longer side in units of the coordinate system."""
        return max(self.transform[0], -self.transform[4])

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """(west, south, east, north)."""
        a, _, c, _, e, f = self.transform
        return c, f + e * self.shape[0], c + a * self.shape[1], f

    def same_ground(self, other: Grid) -> bool:
        """Whether both lie on the same ground, to a pixel of the coarser, whatever their resolution."""
        tolerance = max(self.pixel_size, other.pixel_size) * 1.01
        return self.crs == other.crs and bool(np.allclose(self.bounds, other.bounds, rtol=0, atol=tolerance))

    def window(self, bounds: tuple[float, float, float, float]) -> Window:
        """The smallest window that holds every pixel which touches `bounds`, clipped to the grid; may be empty."""
        west, south, east, north = bounds
        a, _, c, _, e, f = self.transform
        rows, columns = self.shape
        top = int(np.clip(np.floor((north - f) / e), 0, rows))
        bottom = int(np.clip(np.ceil((south - f) / e), top, rows))
        left = int(np.clip(np.floor((west - c) / a), 0, columns))
        right = int(np.clip(np.ceil((east - c) / a), left, columns))
        return Window(top, bottom, left, right)

    def window_affine(self, window: Window) -> Affine:
        """The transform of a window's own rows and columns."""
        a, _, c, _, e, f = self.transform
        return Affine(a, 0.0, c + a * window.left, 0.0, e, f + e * window.top)

    def rows_in(self, other: Grid) -> np.ndarray:
        """(rows,) the row of `other` below each pixel centre of this grid; −1 outside."""
        centre = self.transform[5] + self.transform[4] * (np.arange(self.shape[0]) + 0.5)
        return _cell((centre - other.transform[5]) / other.transform[4], other.shape[0])

    def columns_in(self, other: Grid) -> np.ndarray:
        """(columns,) the column of `other` below each pixel centre of this grid; −1 outside."""
        centre = self.transform[2] + self.transform[0] * (np.arange(self.shape[1]) + 0.5)
        return _cell((centre - other.transform[2]) / other.transform[0], other.shape[1])


def _cell(position: np.ndarray, size: int) -> np.ndarray:
    cell = np.floor(position + 1e-9).astype(np.int64)
    return np.where((cell >= 0) & (cell < size), cell, -1)


def metres_to_units(crs: str, metres: float) -> float:
    """A distance in the units of a coordinate system; degrees by 111,320 m of a meridian degree."""
    system = CRS.from_wkt(crs)
    if system.is_geographic:
        return metres / 111_320.0
    return metres / system.axis_info[0].unit_conversion_factor


class Layer(Protocol):
    """One band of one acquisition: reflectance = scale · stored + offset, where stored is not `nodata`."""

    @property
    def grid(self) -> Grid: ...

    @property
    def scale(self) -> float | None:
        """None: the file states none."""
        ...

    @property
    def offset(self) -> float: ...

    @property
    def nodata(self) -> float | None: ...

    def read(self, window: Window) -> np.ndarray:
        """Stored values (rows, columns), before scale and offset.

        Raises:
            CorruptInputError: the values cannot be read; the message names file and date.
        """
        ...


@dataclass(frozen=True)
class Acquisition:
    """What a satellite saw at one time over one place.

    Arguments:
        key: its name, unique in the source; orders acquisitions of one day.
        day: days since 1970-01-01 (UTC).
        layers: band name → layer; all share one coordinate system.
    """

    key: str
    day: int
    layers: Mapping[str, Layer]

    @property
    def date(self) -> str:
        """ISO date."""
        return str(np.datetime64(self.day, "D"))

    @property
    def crs(self) -> str:
        return next(iter(self.layers.values())).grid.crs


class SceneSource(Protocol):
    """A set of acquisitions: a folder of COGs, a cube, and whatever else can name layers and read windows."""

    @property
    def name(self) -> str: ...

    @property
    def acquisitions(self) -> Sequence[Acquisition]: ...


def source_bands(acquisitions: Sequence[Acquisition]) -> tuple[str, ...]:
    """Names of all layers of all acquisitions, in order of appearance."""
    return tuple(dict.fromkeys(band for a in acquisitions for band in a.layers))
