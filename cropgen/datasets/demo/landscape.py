"""The land: fields, roads, verges, woods and a river, as polygons.

A square is halved again and again across its longer side at uneven places and angles: the first cuts become roads, the
later ones verges and ditches between fields. A smooth displacement then bends all lines together, so that neighbours
still fit and few fields are rectangles; the river cuts through what lies in its way.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np
import shapely
from affine import Affine
from shapely.affinity import rotate
from shapely.geometry import LineString, Polygon, box
from shapely.geometry.base import BaseGeometry
from shapely.ops import split

CRS = "EPSG:32631"
_ORIGIN = (500_000.0, 5_382_000.0)
_MARGIN = 100.0
_FIELD_AREA = 18_000.0
_FIELDS_PER_BLOCK = 14
_SMALLEST = 2_500.0
_WOODED = 0.05


@dataclass(frozen=True)
class Landscape:
    """The polygons of a region in metres of `CRS`.

    Arguments:
        fields: (P,) polygons of the parcels, in the order of their ids.
        woods: (W,) polygons.
        roads: the area between blocks.
        river: its water.
        sandy: (P,) bool, parcels in the valley; wood_sandy: (W,) the same for woods.
        width: pixels of 10 m along each side of the scenes, even.
        transform: of the 10 m grid.
    """

    fields: np.ndarray
    woods: np.ndarray
    roads: BaseGeometry
    river: BaseGeometry
    sandy: np.ndarray
    wood_sandy: np.ndarray
    width: int
    transform: Affine


def divide_land(parcels: int, generator: np.random.Generator) -> Landscape:
    """Lay out a landscape with exactly `parcels` fields."""
    pieces = int(np.ceil(parcels * (1 + _WOODED))) + 2
    side = 20.0 * np.ceil(np.sqrt(pieces * _FIELD_AREA) / 20.0)
    square = box(_ORIGIN[0], _ORIGIN[1], _ORIGIN[0] + side, _ORIGIN[1] + side)
    blocks = _halve([square], max(1, pieces // _FIELDS_PER_BLOCK), generator)
    cut = _halve([block.buffer(-3.5, join_style="mitre") for block in blocks], pieces, generator)
    bend = _Bend(generator)
    river_line = bend(_river(side, generator))
    bank = river_line.buffer(24.0)
    fields = np.array(
        [
            _largest(bend(piece).buffer(-gap).difference(bank))
            for piece, gap in zip(cut, generator.choice([1.0, 1.8, 3.0], len(cut), p=[0.5, 0.35, 0.15]), strict=True)
        ]
    )
    order = generator.permutation(len(fields))
    order = order[np.argsort(shapely.area(fields[order]) < _SMALLEST, kind="stable")]
    fields, woods = fields[order[:parcels]], fields[order[parcels:]]
    roads = bend(square).difference(shapely.union_all([bend(block).buffer(-3.0) for block in blocks])).difference(bank)
    width = int((side + 2 * _MARGIN) / 10.0)
    transform = Affine(10.0, 0.0, _ORIGIN[0] - _MARGIN, 0.0, -10.0, _ORIGIN[1] + side + _MARGIN)
    river = river_line.buffer(15.0)
    sandy, wood_sandy = (_in_valley(group, river_line, side) for group in (fields, woods))
    return Landscape(fields, woods, roads, river, sandy, wood_sandy, width, transform)


def _halve(pieces: list[Polygon], count: int, generator: np.random.Generator) -> list[Polygon]:
    """Cut the largest piece in two until there are `count`; a random factor keeps sizes uneven."""
    heap = [(-piece.area, i, piece) for i, piece in enumerate(pieces)]
    heapq.heapify(heap)
    serial = len(heap)
    while len(heap) < count:
        _, _, piece = heapq.heappop(heap)
        for part in _cut(piece, generator):
            heapq.heappush(heap, (-part.area * float(generator.uniform(0.45, 1.6)), serial, part))
            serial += 1
    return [piece for _, _, piece in sorted(heap, key=lambda item: item[1])]


def _cut(piece: Polygon, generator: np.random.Generator) -> list[Polygon]:
    """Two or more parts of a polygon, cut roughly across its longer side."""
    corners = shapely.get_coordinates(shapely.oriented_envelope(piece))[:4]
    if np.hypot(*(corners[1] - corners[0])) < np.hypot(*(corners[2] - corners[1])):
        corners = np.roll(corners, -1, axis=0)
    along = corners[1] - corners[0]
    across = corners[2] - corners[1]
    centre = corners[0] + along * generator.uniform(0.36, 0.64) + across / 2
    line = LineString([centre - across * 2, centre + across * 2])
    line = rotate(line, float(generator.normal(0.0, 9.0)), origin=(float(centre[0]), float(centre[1])))
    return [part for part in split(piece, line).geoms if isinstance(part, Polygon)]


def _river(side: float, generator: np.random.Generator) -> LineString:
    """A line across the square, west to east, that wanders about its middle."""
    x = np.linspace(-200.0, side + 200.0, 200)
    phase = generator.uniform(0, 2 * np.pi, 2)
    y = 0.42 * side + 0.10 * side * np.sin(4.0 * x / side + phase[0]) + 0.03 * side * np.sin(13.0 * x / side + phase[1])
    return LineString(np.column_stack([x + _ORIGIN[0], y + _ORIGIN[1]]))


def _in_valley(shapes: np.ndarray, river: BaseGeometry, side: float) -> np.ndarray:
    """(N,) bool: nearer to the river than a bound that half of the land meets."""
    points = shapely.point_on_surface(shapes)
    return shapely.distance(points, river) < 0.23 * side


def _largest(shape: BaseGeometry) -> BaseGeometry:
    parts = shapely.get_parts(shape)
    return parts[np.argmax(shapely.area(parts))] if len(parts) else Polygon()


class _Bend:
    """A smooth displacement of the plane, at most about 25 m, that moves equal points equally."""

    def __init__(self, generator: np.random.Generator) -> None:
        length = np.array([900.0, 620.0, 410.0, 210.0, 150.0])
        amplitude = np.array([11.0, 8.0, 6.0, 3.5, 2.5])
        angle, phase = generator.uniform(0, 2 * np.pi, (2, 5)), generator.uniform(0, 2 * np.pi, (2, 5))
        self._wave = 2 * np.pi / length * np.stack([np.cos(angle), np.sin(angle)])
        self._phase, self._amplitude = phase, amplitude

    def _moved(self, points: np.ndarray) -> np.ndarray:
        phase = np.einsum("pc,cdk->pdk", points - np.array(_ORIGIN), self._wave) + self._phase
        return points + (np.sin(phase) * self._amplitude).sum(-1)

    def __call__(self, shape: BaseGeometry) -> BaseGeometry:
        return shapely.make_valid(shapely.transform(shapely.segmentize(shape, 25.0), self._moved))
