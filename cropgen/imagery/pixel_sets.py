"""Pixel sets of a shard of parcels, gathered from the units that its observations were taken from.

An observation that one acquisition gave takes its pixels from there. One put together of several tiles takes each pixel
from the first acquisition of the day that saw it clearly, all of one grid system: that with the most of them.

Tiles of one grid system share their lattice, so place s of a set is one pixel on the ground at all dates. A parcel that
is seen from two grid systems (UTM zones) has a sample of its own in each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import pyproj
import shapely

from cropgen.imagery.assemble import ShardSeries, lattice
from cropgen.imagery.pixel_sample import NOTHING, inside_bands
from cropgen.imagery.pixels import TilePixels
from cropgen.imagery.unit import Unit
from cropgen.series.geometry import WGS84
from cropgen.series.pixel_sets import PixelSets

_POLYGON = 3
_SQUARE_METRES = 10_000.0
_METRES = 1000.0


class _Lattice:
    """The samples of a shard of P parcels in one grid system."""

    def __init__(self, parcels: int, size: int) -> None:
        self.hash = np.full((parcels, size), NOTHING, np.uint64)

    def add(self, place: np.ndarray, hashes: np.ndarray) -> None:
        """Widen the samples by those (K, S) that a tile knows of parcels (K,)."""
        both = np.sort(np.concatenate([self.hash[place], hashes], axis=1), axis=1)
        again = both[:, 1:] == both[:, :-1]
        both[:, 1:][again] = NOTHING
        self.hash[place] = np.sort(both, axis=1)[:, : hashes.shape[1]]

    def places(self, place: np.ndarray, hashes: np.ndarray) -> np.ndarray:
        """(K, S) where the pixels of a tile's samples (K, S) stand in the samples; −1 where they do not."""
        known = self.hash[place]
        found = np.where(hashes != NOTHING, np.arange(hashes.shape[1]), -1)
        for k in np.flatnonzero((known != hashes).any(1)).tolist():
            where = np.searchsorted(known[k], hashes[k]).clip(max=hashes.shape[1] - 1)
            found[k] = np.where((known[k][where] == hashes[k]) & (hashes[k] != NOTHING), where, -1)
        return found


class _Seen(NamedTuple):
    """What a unit saw of a shard: parcels (K,) by place in the shard, places (K, S) of their pixels in the sets or −1,
    values (K, S, C) and clear (K, S)."""

    parcel: np.ndarray
    where: np.ndarray
    values: np.ndarray
    clear: np.ndarray


class _Samples:
    """The samples of the parcels with ranks `first` ≤ rank < `stop`."""

    def __init__(self, units: Sequence[Unit], first: int, stop: int) -> None:
        self._tiles: dict[TilePixels, tuple[slice, np.ndarray, np.ndarray]] = {}
        self._lattices: dict[object, _Lattice] = {}
        for unit in units:
            if unit.tile not in self._tiles and unit.sample is not None:
                members = unit.tile.members
                part = slice(*np.searchsorted(members, [first, stop]).tolist())
                parcel, hashes = members[part] - first, unit.sample.read()["hash"][part]
                self._tiles[unit.tile] = part, parcel, hashes
                self.size = hashes.shape[1]
                self._lattices.setdefault(system_of(unit), _Lattice(stop - first, self.size)).add(parcel, hashes)

    def parcels(self, unit: Unit) -> np.ndarray:
        """(K,) places in the shard of the parcels of a unit."""
        return self._tiles[unit.tile][1]

    def seen(self, unit: Unit) -> _Seen:
        """What a unit saw of the shard."""
        part, parcel, hashes = self._tiles[unit.tile]
        where = self._lattices[system_of(unit)].places(parcel, hashes)
        values, clear = unit.pixels()
        return _Seen(parcel, where, values[part], clear[part])


def system_of(unit: Unit) -> object:
    """The grid system of a unit's finest grid."""
    return lattice(unit.tile.grids[unit.tile.finest])


def gather_sets(units: Sequence[Unit], shard: ShardSeries, first: int, geometry: gpd.GeoSeries) -> PixelSets:
    """The pixel sets of the parcels with ranks `first` ≤ rank < `first` + P.

    Arguments:
        units: of the season, as `shard.chosen` numbers them; all have a sample.
        geometry: (P,) outlines.
    """
    parcels, days = shard.pixels.shape
    bands, samples = inside_bands(units[0].reading.bands), _Samples(units, first, first + parcels)
    values = np.zeros((parcels, days, samples.size, len(bands)), np.int16)
    mask = np.zeros((parcels, days, samples.size), bool)
    joined = (shard.pixels > 0) & (shard.chosen < 0)
    spare: dict[tuple[int, object], tuple[np.ndarray, np.ndarray]] = {}
    for number, unit in enumerate(units):
        t, parcel = int(np.searchsorted(shard.day, unit.acquisition.day)), samples.parcels(unit)
        taken, shared = shard.chosen[parcel, t] == number, joined[parcel, t]
        if taken.any():
            _put(values[:, t], mask[:, t], samples.seen(unit), taken)
        if shared.any():
            empty = np.zeros_like(values[:, t]), np.zeros_like(mask[:, t])
            _put(*spare.setdefault((t, system_of(unit)), empty), samples.seen(unit), shared)
    for (t, _), (seen, clear) in spare.items():
        better = joined[:, t] & (clear.sum(1) > mask[:, t].sum(1))
        values[better, t], mask[better, t] = seen[better], clear[better]
    return PixelSets(bands, values, mask, outline_features(geometry))


def _put(values: np.ndarray, mask: np.ndarray, seen: _Seen, chosen: np.ndarray) -> None:
    """Write the clear pixels of chosen parcels (K,) to their places in sets (P, S, C), (P, S), where nothing is yet."""
    k, s = np.nonzero(seen.clear & chosen[:, None] & (seen.where >= 0))
    row, column = seen.parcel[k], seen.where[k, s]
    fresh = ~mask[row, column]
    values[row[fresh], column[fresh]] = seen.values[k[fresh], s[fresh]]
    mask[row[fresh], column[fresh]] = True


def outline_features(geometry: gpd.GeoSeries) -> np.ndarray:
    """(P, 4) float32, the features `pixel_sets.SHAPE` of polygons, on the ellipsoid."""
    shapes = geometry.to_crs(WGS84).to_numpy(copy=True)
    several = (shapely.get_type_id(shapes) != _POLYGON) | (shapely.get_num_interior_rings(shapes) > 0)
    shapes[several] = shapely.normalize(shapes[several])  # areas of rings bear the sign of their direction
    earth = pyproj.Geod(ellps="WGS84")
    area, perimeter = (np.abs(column) for column in np.array([earth.geometry_area_perimeter(s) for s in shapes]).T)
    west, south, east, north = shapely.bounds(shapes).T
    with np.errstate(invalid="ignore", divide="ignore"):
        cover = shapely.area(shapes) / ((east - west) * (north - south))
        features = [area / _SQUARE_METRES, perimeter / _METRES, cover, perimeter / np.sqrt(area)]
    return np.stack(features, axis=1).astype(np.float32)
