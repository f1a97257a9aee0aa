"""Parcels made ready for rasters: overlaps told, cut into shards that lie together, shrunk by the buffer."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS, Transformer

from cropgen.imagery.pixels import ParcelShapes
from cropgen.imagery.scene import Grid, metres_to_units

OVERLAP_SHARE = 0.1
"""An overlap is reported from this share of the smaller parcel's area; its pixels count in both parcels anyway."""
_AT_A_TIME = 5_000
_MARGIN = 0.002


@dataclass(frozen=True)
class Overlaps:
    """Parcels of one year that cover the same ground.

    Arguments:
        pairs: (Q, 2) int, positions of the parcels, first < second.
        share: (Q,) overlap as a share of the smaller parcel's area.
    """

    pairs: np.ndarray
    share: np.ndarray


def find_overlaps(geometry: gpd.GeoSeries) -> Overlaps:
    """Pairs of polygons that share more than `OVERLAP_SHARE` of the smaller one's area.

    Arguments:
        geometry: (N,) valid polygons in one coordinate system.
    """
    shapes = geometry.to_numpy()
    first, second = shapely.STRtree(shapes).query(shapes, predicate="intersects")
    once = first < second
    first, second = first[once], second[once]
    area = shapely.area(shapes)
    share = shapely.area(shapely.intersection(shapes[first], shapes[second]))
    share = share / np.maximum(np.minimum(area[first], area[second]), np.finfo(float).tiny)
    large = share > OVERLAP_SHARE
    pairs = np.stack([first, second], axis=1)[large]
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    return Overlaps(pairs[order], share[large][order])


def shards(geometry: gpd.GeoSeries, size: int) -> Iterator[np.ndarray]:
    """Positions of parcels in groups of at most `size` that lie together; each group in the order of the input.

    Neighbours are found along a Hilbert curve through the parcels' boxes.
    """
    if len(geometry) <= size:
        yield np.arange(len(geometry))
        return
    along = np.argsort(geometry.hilbert_distance().to_numpy(), kind="stable")
    for part in np.array_split(along, -(-len(along) // size)):
        yield np.sort(part)


class SeasonParcels:
    """The parcels of one year in the order of the output.

    Arguments:
        geometry: (N,) valid polygons; a parcel's position is its rank.
    """

    def __init__(self, geometry: gpd.GeoSeries) -> None:
        self._shapes = geometry.to_numpy()
        self._crs = CRS.from_user_input(geometry.crs)
        self._box = shapely.bounds(self._shapes)

    def __len__(self) -> int:
        return len(self._shapes)

    def near(self, grid: Grid) -> np.ndarray:
        """Ranks of the parcels that may meet a grid, ascending: all that do are among them."""
        across = Transformer.from_crs(CRS.from_wkt(grid.crs), self._crs, always_xy=True)
        west, south, east, north = across.transform_bounds(*grid.bounds, densify_pts=21)
        if not np.isfinite([west, south, east, north]).all() or east < west:
            return np.arange(len(self))
        margin = _MARGIN * max(east - west, north - south)
        box = self._box
        meets = (box[:, 2] >= west - margin) & (box[:, 0] <= east + margin)
        return np.flatnonzero(meets & (box[:, 3] >= south - margin) & (box[:, 1] <= north + margin))

    def digest(self, ranks: np.ndarray) -> str:
        """Hex digest of the coordinate system and the geometry of some parcels, in their order, and of their ranks."""
        digest = hashlib.sha256(self._crs.to_wkt().encode())
        for part in parts_of(ranks):
            digest.update(part.astype("<i8").tobytes())
            digest.update(b"".join(shapely.to_wkb(self._shapes[part])))
        return digest.hexdigest()

    def shapes(self, ranks: np.ndarray, grid: Grid, buffer: float) -> ParcelShapes:
        """Those of some parcels whose box meets a grid, in its coordinate system.

        Arguments:
            buffer: inward, in metres; a parcel that vanishes has an empty inner polygon.
        """
        outline, system = self._shapes[ranks], CRS.from_wkt(grid.crs)
        if system != self._crs:
            outline = gpd.GeoSeries(outline, crs=self._crs).to_crs(system).to_numpy()
            broken = ~shapely.is_valid(outline)
            outline[broken] = shapely.make_valid(outline[broken])
        west, south, east, north = grid.bounds
        box = shapely.bounds(outline)
        meets = (box[:, 2] > west) & (box[:, 0] < east) & (box[:, 3] > south) & (box[:, 1] < north)
        outline = outline[meets]
        inner = shapely.buffer(outline, -metres_to_units(grid.crs, buffer)) if buffer > 0 else outline
        return ParcelShapes(ranks[meets], outline, inner)


def parts_of(ranks: np.ndarray) -> list[np.ndarray]:
    """Ranks a few thousand at a time."""
    return [ranks[first : first + _AT_A_TIME] for first in range(0, len(ranks), _AT_A_TIME)]
