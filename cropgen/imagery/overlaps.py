"""Parcels of one year that cover the same ground.

Boxes that share ground are found by sweeping over strips of the land from south to north: in a strip boxes are sorted
by their western side, and each is compared with those that begin before it ends. A pair counts in the strip in which
the more southern of its common sides lies, so once. Only then are polygons read, those of such pairs, some thousands at
a time; a pair whose boxes share too little ground for an overlap that counts is let go before it is intersected.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import shapely

from cropgen.series.polygon_file import Polygons

OVERLAP_SHARE = 0.1
"""An overlap is reported from this share of the smaller parcel's area; its pixels count in both parcels anyway."""
_AT_A_TIME = 1 << 17
_PAIRS = 10_000
_MOST_STRIPS = 1 << 16
_ROUNDING = 1e-9


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

    Arguments:
        polygons: N valid ones in one coordinate system.
    """
    pairs, share = [np.zeros((0, 2), np.int64)], [np.zeros(0)]
    for candidates in _pairs_of_boxes(polygons):
        found = _overlapping(polygons, candidates)
        pairs.append(found.pairs)
        share.append(found.share)
    joined = np.concatenate(pairs)
    order = np.lexsort((joined[:, 1], joined[:, 0]))
    return Overlaps(joined[order], np.concatenate(share)[order])


def _overlapping(polygons: Polygons, candidates: np.ndarray) -> Overlaps:
    """Which of some pairs (Q, 2) overlap."""
    ranks, place = np.unique(candidates, return_inverse=True)
    shapes = polygons.shapes(ranks)
    area, box = shapely.area(shapes), shapely.bounds(shapes)
    first, second = place.reshape(-1, 2).T
    smaller = np.minimum(area[first], area[second])
    sides = np.minimum(box[first, 2:], box[second, 2:]) - np.maximum(box[first, :2], box[second, :2])
    possible = np.maximum(sides, 0).prod(1) > OVERLAP_SHARE * (1 - _ROUNDING) * smaller
    first, second, smaller = first[possible], second[possible], smaller[possible]
    share = shapely.area(shapely.intersection(shapes[first], shapes[second]))
    share = share / np.maximum(smaller, np.finfo(float).tiny)
    large = share > OVERLAP_SHARE
    return Overlaps(candidates[possible][large].astype(np.int64), share[large])


@dataclass(frozen=True)
class _Strips:
    """Strips of equal height from south to north."""

    south: float
    height: float
    count: int

    def of(self, y: np.ndarray) -> np.ndarray:
        """The strip of each northing."""
        return np.clip((y - self.south) / self.height, 0, self.count - 1).astype(np.int64)


def _pairs_of_boxes(polygons: Polygons) -> Iterator[np.ndarray]:
    """Pairs (Q, 2), first < second, of polygons whose boxes share ground, each once."""
    if len(polygons) < 2:
        return
    strips = _strips(polygons)
    entering = np.zeros(strips.count + 1, np.int64)
    for _, box in polygons.boxes():
        entering += np.bincount(strips.of(box[:, 1]), minlength=len(entering))
        entering[1:] -= np.bincount(strips.of(box[:, 3]), minlength=len(entering))[:-1]
    filled, first = np.cumsum(np.cumsum(entering)[:-1]), 0
    while first < strips.count:
        before = int(filled[first - 1]) if first else 0
        stop = max(int(np.searchsorted(filled, before + _AT_A_TIME, side="right")), first + 1)
        yield from _sweep(polygons, strips, first, stop)
        first = stop


def _strips(polygons: Polygons) -> _Strips:
    """Strips twice as high as the boxes are on average."""
    _, south, _, north = polygons.extent()
    heights = sum(float((box[:, 3] - box[:, 1]).sum()) for _, box in polygons.boxes())
    height = max(2 * heights / len(polygons), (north - south) / _MOST_STRIPS, np.finfo(float).tiny)
    return _Strips(float(south), height, int((north - south) / height) + 1)


def _sweep(polygons: Polygons, strips: _Strips, first: int, stop: int) -> Iterator[np.ndarray]:
    """The pairs that count in some strips, some thousands at a time."""
    rank, box = _within(polygons, strips, first, stop)
    low, high = strips.of(box[:, 1]), strips.of(box[:, 3])
    start = np.maximum(low, first)
    number = np.minimum(high, stop - 1) - start + 1
    entry = np.repeat(np.arange(len(rank)), number)
    strip = np.repeat(start - np.cumsum(number) + number, number) + np.arange(len(entry))
    order = np.lexsort((box[entry, 0], strip))
    entry, strip = entry[order], strip[order]
    origin, width = box[:, 0].min(initial=np.inf), 1 + np.ptp(box[:, ::2]) if len(box) else 1.0
    west = (strip - first) * width + (box[entry, 0] - origin)
    east = (strip - first) * width + (box[entry, 2] - origin)
    ends = np.searchsorted(west, east, side="right")
    after = np.maximum(ends - np.arange(len(entry)) - 1, 0)
    done = np.concatenate([[0], np.cumsum(after)])
    begin = 0
    while begin < len(entry):
        end = max(int(np.searchsorted(done, done[begin] + _PAIRS, side="right")) - 1, begin + 1)
        count = after[begin:end]
        one = np.repeat(np.arange(begin, end), count)
        other = one + 1 + np.arange(len(one)) - np.repeat(np.cumsum(count) - count, count)
        yield from _met(entry[one], entry[other], strip[one], rank, box, low)
        begin = end


def _met(
    one: np.ndarray, other: np.ndarray, strip: np.ndarray, rank: np.ndarray, box: np.ndarray, low: np.ndarray
) -> Iterator[np.ndarray]:
    """Of some comparisons the pairs of ranks whose boxes share ground and count in the strip; none where none does."""
    a, b = box[one], box[other]
    meets = (np.minimum(a[:, 2:], b[:, 2:]) > np.maximum(a[:, :2], b[:, :2])).all(1)
    meets &= np.maximum(low[one], low[other]) == strip
    if meets.any():
        yield np.sort(np.stack([rank[one[meets]], rank[other[meets]]], axis=1), axis=1)


def _within(polygons: Polygons, strips: _Strips, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
    """Ranks (K,) and boxes (K, 4) of the polygons that reach into some strips."""
    ranks, boxes = [np.zeros(0, np.int64)], [np.zeros((0, 4))]
    for begin, box in polygons.boxes():
        there = np.flatnonzero((strips.of(box[:, 1]) < stop) & (strips.of(box[:, 3]) >= first))
        ranks.append(begin + there)
        boxes.append(box[there])
    return np.concatenate(ranks), np.concatenate(boxes)
