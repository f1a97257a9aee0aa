"""Parcels made ready for rasters: shrunk by the buffer, overlaps kept apart, cut into shards that lie together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import shapely

from cropgen.imagery.scene import metres_to_units
from cropgen.imagery.zonal import ParcelShapes

OVERLAP_SHARE = 0.1
"""An overlap is reported, and its pixels go to both parcels, from this share of the smaller parcel's area."""


@dataclass(frozen=True)
class Overlaps:
    """Parcels of one year that cover the same ground.

    Arguments:
        pairs: (Q, 2) int, positions of the parcels, first < second.
        share: (Q,) overlap as a share of the smaller parcel's area.
        layer: (N,) int; parcels of a pair have different layers, parcels without overlap layer 0.
    """

    pairs: np.ndarray
    share: np.ndarray
    layer: np.ndarray


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
    return Overlaps(pairs[order], share[large][order], _layers(len(shapes), pairs[order]))


def _layers(count: int, pairs: np.ndarray) -> np.ndarray:
    """Greedy colouring in the order of the parcels: each takes the lowest layer none of its overlaps has."""
    neighbours: dict[int, list[int]] = {}
    for first, second in pairs.tolist():
        neighbours.setdefault(second, []).append(first)
    layer = np.zeros(count, np.int64)
    for parcel in sorted(neighbours):
        taken = {int(layer[other]) for other in neighbours[parcel]}
        layer[parcel] = next(i for i in range(len(taken) + 1) if i not in taken)
    return layer


def shapes_in(geometry: gpd.GeoSeries, layer: np.ndarray, crs: str, buffer: float) -> ParcelShapes:
    """The parcels in the coordinate system of a scene, with their inner polygons.

    Arguments:
        buffer: inward, in metres; a parcel that vanishes has an empty inner polygon.
    """
    outline = geometry.to_crs(crs).to_numpy()
    broken = ~shapely.is_valid(outline)
    outline[broken] = shapely.make_valid(outline[broken])
    inner = shapely.buffer(outline, -metres_to_units(crs, buffer)) if buffer > 0 else outline
    return ParcelShapes(outline, inner, layer)


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
