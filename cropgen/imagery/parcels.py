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
from cropgen.series.parcel_spool import Polygons

OVERLAP_SHARE = 0.1
"""An overlap is reported from this share of the smaller parcel's area; its pixels count in both parcels anyway."""
_AT_A_TIME = 5_000
_NEIGHBOURS = 20_000
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


def find_overlaps(polygons: Polygons) -> Overlaps:
    """Pairs of polygons that share more than `OVERLAP_SHARE` of the smaller one's area.

    Some thousands of neighbours at a time are compared with those whose boxes meet theirs, again some thousands.

    Arguments:
        polygons: N valid ones in one coordinate system.
    """
    box = polygons.bounds
    pairs, share = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    for these in parts_of(_along_curve(polygons), _NEIGHBOURS):
        shapes, reach = polygons.shapes(these), box[these]
        tree, last = shapely.STRtree(shapes), these.max()
        west, south, east, north = *reach[:, :2].min(0), *reach[:, 2:].max(0)
        meets = (box[:last, 2] >= west) & (box[:last, 0] <= east) & (box[:last, 3] >= south) & (box[:last, 1] <= north)
        for those in parts_of(np.flatnonzero(meets), _NEIGHBOURS):
            found = _overlaps(tree, shapes, these, polygons.shapes(those), those)
            pairs.append(found.pairs)
            share.append(found.share)
    joined = np.concatenate(pairs)
    order = np.lexsort((joined[:, 1], joined[:, 0]))
    return Overlaps(joined[order], np.concatenate(share)[order])


def _overlaps(
    tree: shapely.STRtree, shapes: np.ndarray, ranks: np.ndarray, earlier: np.ndarray, earlier_ranks: np.ndarray
) -> Overlaps:
    """The overlaps of some polygons, which stand in a tree, with those of lower rank among others."""
    first, second = tree.query(earlier, predicate="intersects")
    once = earlier_ranks[first] < ranks[second]
    first, second = first[once], second[once]
    share = shapely.area(shapely.intersection(earlier[first], shapes[second]))
    smaller = np.minimum(shapely.area(earlier[first]), shapely.area(shapes[second]))
    share = share / np.maximum(smaller, np.finfo(float).tiny)
    large = share > OVERLAP_SHARE
    return Overlaps(np.stack([earlier_ranks[first], ranks[second]], axis=1)[large], share[large])


def shards(polygons: Polygons, size: int) -> Iterator[np.ndarray]:
    """Positions of parcels in groups of at most `size` that lie together; each group in the order of the input.

    Neighbours are found along a Hilbert curve through the parcels' boxes.
    """
    if len(polygons) <= size:
        yield np.arange(len(polygons))
        return
    along = _along_curve(polygons)
    for part in np.array_split(along, -(-len(along) // size)):
        yield np.sort(part)


def _along_curve(polygons: Polygons) -> np.ndarray:
    """Positions of polygons along a Hilbert curve through the middles of their boxes."""
    box = polygons.bounds
    if not len(box):
        return np.zeros(0, np.int64)
    middle = (box[:, :2] + box[:, 2:]) / 2.0
    whole = np.concatenate([middle.min(0), middle.max(0)])
    parts = (gpd.GeoSeries(shapely.box(*box[part].T)) for part in parts_of(np.arange(len(box))))
    place = [part.hilbert_distance(total_bounds=whole).to_numpy() for part in parts]
    return np.argsort(np.concatenate(place), kind="stable")


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
        across = Transformer.from_crs(CRS.from_wkt(grid.crs), self._crs, always_xy=True)
        west, south, east, north = across.transform_bounds(*grid.bounds, densify_pts=21)
        if not np.isfinite([west, south, east, north]).all() or east < west:
            return np.arange(len(self))
        margin = _MARGIN * max(east - west, north - south)
        box = self._polygons.bounds
        meets = (box[:, 2] >= west - margin) & (box[:, 0] <= east + margin)
        return np.flatnonzero(meets & (box[:, 3] >= south - margin) & (box[:, 1] <= north + margin))

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
            outline[broken] = shapely.make_valid(outline[broken])
        west, south, east, north = grid.bounds
        box = shapely.bounds(outline)
        meets = (box[:, 2] > west) & (box[:, 0] < east) & (box[:, 3] > south) & (box[:, 1] < north)
        outline = outline[meets]
        inner = shapely.buffer(outline, -metres_to_units(grid.crs, buffer)) if buffer > 0 else outline
        return ParcelShapes(ranks[meets], outline, inner)


def parts_of(ranks: np.ndarray, size: int = _AT_A_TIME) -> list[np.ndarray]:
    """Ranks a few thousand at a time."""
    return [ranks[first : first + size] for first in range(0, len(ranks), size)]
