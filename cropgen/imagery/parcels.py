"""Parcels made ready for rasters: cut into shards that lie together, shrunk by the buffer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS, Transformer

from cropgen.imagery.pixels import ParcelShapes
from cropgen.imagery.scene import Grid, metres_to_units
from cropgen.series.geometry import polygonal
from cropgen.series.polygon_file import Box, Polygons

_AT_A_TIME = 5_000
_MARGIN = 0.002


def shards(polygons: Polygons, size: int) -> Iterator[np.ndarray]:
    """Positions of parcels in groups of at most `size` that lie together; each group in the order of the input.

    Neighbours are found along a Hilbert curve through the parcels' boxes.
    """
    if len(polygons) <= size:
        yield np.arange(len(polygons), dtype=np.uint32)
        return
    along = _along_curve(polygons)
    for part in np.array_split(along, -(-len(along) // size)):
        yield np.sort(part)


def _along_curve(polygons: Polygons) -> np.ndarray:
    """Positions uint32 of polygons along a Hilbert curve through the middles of their boxes."""
    lows, highs = [], []
    for _, box in polygons.boxes():
        middle = (box[:, :2] + box[:, 2:]) / 2.0
        lows.append(middle.min(0))
        highs.append(middle.max(0))
    if not lows:
        return np.zeros(0, np.uint32)
    whole = np.concatenate([np.min(lows, axis=0), np.max(highs, axis=0)])
    place = np.arange(len(polygons), dtype=np.uint64)
    for first, box in polygons.boxes():
        along = gpd.GeoSeries(shapely.box(*box.T)).hilbert_distance(total_bounds=whole).to_numpy()
        place[first : first + len(box)] |= along.astype(np.uint64) << np.uint64(32)
    place.sort()
    return place.astype(np.uint32)


def box_on(grid: Grid, system: CRS, box: Box) -> Box:
    """A box in the coordinate system of a grid; everything where it has no place for it."""
    placed = _box_across(box, system, CRS.from_wkt(grid.crs))
    return placed if np.isfinite(placed).all() else grid.bounds


def _box_across(box: Box, here: CRS, there: CRS) -> Box:
    """A box in another coordinate system; infinite where it has no place there."""
    if here == there:
        return box
    return Transformer.from_crs(here, there, always_xy=True).transform_bounds(*box, densify_pts=21)


def box_around(grid: Grid, system: CRS) -> Box | None:
    """A box in a coordinate system that holds a grid; None where the grid is torn there, or has no place.

    The sides of a grid are short enough to be followed by some points on each, those of a country are not.
    """
    west, south, east, north = _box_across(grid.bounds, CRS.from_wkt(grid.crs), system)
    if not np.isfinite([west, south, east, north]).all() or east < west:
        return None
    margin = _MARGIN * max(east - west, north - south)
    return west - margin, south - margin, east + margin, north + margin


class SeasonParcels:
    """The parcels of one year in the order of the output.

    Arguments:
        polygons: N valid ones; a parcel's position is its rank.
    """

    def __init__(self, polygons: Polygons) -> None:
        self._polygons = polygons
        self._crs = polygons.crs

    def __len__(self) -> int:
        return len(self._polygons)

    def near(self, grid: Grid) -> np.ndarray:
        """Ranks of the parcels that may meet a grid, ascending: all that do are among them."""
        box = box_around(grid, self._crs)
        return np.arange(len(self), dtype=np.uint32) if box is None else self._polygons.meeting(np.array(box))

    def digest(self, ranks: np.ndarray) -> str:
        """Hex digest of the coordinate system and the geometry of some parcels, in their order, and of their ranks."""
        digest = hashlib.sha256(self._crs.to_wkt().encode())
        for part in parts_of(ranks):
            digest.update(part.astype("<i8").tobytes())
            digest.update(b"".join(self._polygons.binary(part)))
        return digest.hexdigest()

    def shapes(self, ranks: np.ndarray, grid: Grid, buffer: float) -> ParcelShapes:
        """Those of some parcels whose box meets a grid, in its coordinate system.

        Arguments:
            buffer: inward, in metres; a parcel that vanishes has an empty inner polygon.
        """
        outline, system = self._polygons.shapes(ranks), CRS.from_wkt(grid.crs)
        if system != self._crs:
            outline = gpd.GeoSeries(outline, crs=self._crs).to_crs(system).to_numpy()
            broken = ~shapely.is_valid(outline)
            outline[broken] = [polygonal(shape) for shape in shapely.make_valid(outline[broken])]
        west, south, east, north = grid.bounds
        box = shapely.bounds(outline)
        meets = (box[:, 2] > west) & (box[:, 0] < east) & (box[:, 3] > south) & (box[:, 1] < north)
        outline = outline[meets]
        inner = shapely.buffer(outline, -metres_to_units(grid.crs, buffer)) if buffer > 0 else outline
        return ParcelShapes(ranks[meets], outline, inner)


def parts_of(ranks: np.ndarray, size: int = _AT_A_TIME) -> list[np.ndarray]:
    """Ranks a few thousand at a time."""
    return [ranks[first : first + size] for first in range(0, len(ranks), size)]
