"""From the statistics of single acquisitions to one observation per parcel and day.

    whole      where an acquisition of the day holds the parcel whole, only such acquisitions count; of several the one
               with the most clear pixels is taken, the first by name where equal
    in parts   a parcel that no tile of the season holds whole is put together, day by day, from the tiles of one grid
               system in all bands, each pixel from one tile; of several the one with the most clear pixels is taken
    a part     a parcel that is whole in some tile, but in none of the day, takes the part with the most clear pixels

An observation counts when `min_pixels` pixels (or all, when the parcel has fewer) and `min_share` of its pixels are
clear, and every band has a clear pixel. Pixels are those of the whole parcel, whatever part of it a tile holds.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cropgen.imagery.options import AggregateOptions
from cropgen.imagery.pixels import TilePixels
from cropgen.imagery.scene import Grid
from cropgen.imagery.statistics import Statistic, combined
from cropgen.imagery.unit import Unit

_ROUNDING = 1e-9


@dataclass(frozen=True)
class ShardSeries:
    """P parcels on T days.

    Arguments:
        day: (T,) days since 1970-01-01, ascending.
        values: (P, T, S·C) float32 reflectance; NaN where not observed.
        pixels: (P, T) int32 clear pixels of the observation; 0 where not observed.
        chosen: (P, T) int32, which unit was taken; −1 where not observed, or put together of several.
        covered: (P,) bool, the parcel has a pixel in some scene.
        coarse: (P,) bool, it holds no pixel centre of some grid.
    """

    day: np.ndarray
    values: np.ndarray
    pixels: np.ndarray
    chosen: np.ndarray
    covered: np.ndarray
    coarse: np.ndarray


class _View(NamedTuple):
    """What one unit saw of a shard: K parcels by their place in the shard."""

    unit: int
    place: np.ndarray
    facts: np.ndarray
    rows: np.ndarray
    pixels: np.ndarray


class Season:
    """The finished units of one season.

    Arguments:
        units: ordered by day and name.
        split: (N,) bool by rank, parcels that no tile holds whole.
    """

    def __init__(
        self, units: Sequence[Unit], split: np.ndarray, statistics: Sequence[Statistic], options: AggregateOptions
    ) -> None:
        self._units = units
        self._split = split
        self._statistics = statistics
        self._options = options
        self._tiles: Mapping[TilePixels, tuple[np.ndarray, np.ndarray]] = {
            tile: (tile.members, tile.facts) for tile in dict.fromkeys(unit.tile for unit in units)
        }
        self.day = np.unique([unit.acquisition.day for unit in units])

    def shard(self, first: int, stop: int) -> ShardSeries:
        """The observations of the parcels with ranks `first` ≤ rank < `stop`."""
        parcels, days = stop - first, len(self.day)
        reading = self._units[0].reading
        columns = len(reading.statistics) * len(reading.bands)
        values = np.full((parcels, days, columns), np.nan, np.float32)
        best, chosen = np.zeros((parcels, days)), np.full((parcels, days), -1, np.int32)
        for t, views in self._by_day(first, stop):
            whole = np.zeros(parcels, bool)
            for view in views:
                whole[view.place[view.facts["whole"]]] = True
            split = self._split[first:stop] & ~whole
            for view in views:
                eligible = view.facts["whole"] | ~(whole | split)[view.place]
                better = eligible & self._counts(view.pixels, view.facts["total"])
                better &= view.pixels > best[view.place, t]
                place = view.place[better]
                values[place, t] = view.rows["values"][better]
                best[place, t], chosen[place, t] = view.pixels[better], view.unit
            if split.any():
                self._put_together(views, np.flatnonzero(split), values[:, t], best[:, t])
        pixels = np.where(best > 0, np.maximum(np.rint(best), 1), 0).astype(np.int32)
        return ShardSeries(self.day, values, pixels, chosen, *self._seen(first, stop))

    def _by_day(self, first: int, stop: int) -> Iterator[tuple[int, list[_View]]]:
        days = np.array([unit.acquisition.day for unit in self._units])
        for t, day in enumerate(self.day):
            found = (self._view(u, first, stop) for u in np.flatnonzero(days == day).tolist())
            yield t, [view for view in found if view is not None]

    def _view(self, number: int, first: int, stop: int) -> _View | None:
        unit = self._units[number]
        members, facts = self._tiles[unit.tile]
        part = slice(*np.searchsorted(members, [first, stop]).tolist())
        if part.start == part.stop:
            return None
        rows = unit.rows()[part]
        weight = rows["weight"]
        pixels = np.where((weight > 0).all(1), weight[:, unit.tile.finest], 0.0)
        return _View(number, members[part] - first, facts[part], rows, pixels)

    def _seen(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        covered, coarse = np.zeros(stop - first, bool), np.zeros(stop - first, bool)
        for members, facts in self._tiles.values():
            part = slice(*np.searchsorted(members, [first, stop]).tolist())
            place = members[part] - first
            covered[place] |= facts["inside"][part] > 0
            coarse[place] |= facts["coarse"][part]
        return covered, coarse

    def _counts(self, pixels: np.ndarray, total: np.ndarray) -> np.ndarray:
        """Bool: enough of the parcel was clear."""
        least = np.maximum(np.minimum(self._options.min_pixels, total), self._options.min_share * total)
        return (pixels > 0) & (pixels >= least * (1 - _ROUNDING))

    def _put_together(self, views: Sequence[_View], split: np.ndarray, values: np.ndarray, best: np.ndarray) -> None:
        """Fill in the parcels (places in the shard) that are seen in parts."""
        systems: dict[object, dict[TilePixels, list[_View]]] = {}
        for view in views:
            tile = self._units[view.unit].tile
            systems.setdefault(tuple(map(lattice, tile.grids)), {}).setdefault(tile, []).append(view)
        for tiles in systems.values():
            parts = [self._part(tile, group, split) for tile, group in tiles.items()]
            weight = np.stack([part[0] for part in parts])
            joined = combined(self._statistics, np.stack([part[1] for part in parts]), weight)
            pixels = np.where((weight.sum(0) > 0).all(1), sum(part[2] for part in parts), 0.0)
            total = np.max([part[3] for part in parts], axis=0)
            better = self._counts(pixels, total) & (pixels > best[split])
            values[split[better]] = joined[better].reshape(-1, values.shape[1])
            best[split[better]] = pixels[better]

    def _part(self, tile: TilePixels, views: Sequence[_View], split: np.ndarray) -> tuple[np.ndarray, ...]:
        """What the acquisition of a tile that is clearest for each parcel saw: weight (P, C), values (P, S, C), pixels
        on the finest grid (P,), and the whole parcel's pixels (P,)."""
        reading = self._units[views[0].unit].reading
        layers = self._units[views[0].unit].acquisition.layers
        grid_of = [tile.grids.index(layers[band].grid) for band in reading.bands]
        weight = np.zeros((len(split), len(reading.bands)))
        values = np.zeros((len(split), len(reading.statistics), len(reading.bands)))
        pixels, total = np.zeros(len(split)), np.zeros(len(split))
        for view in views:
            here, mine = np.isin(view.place, split), np.isin(split, view.place)
            seen = view.rows["weight"][here]
            total[mine] = view.facts["total"][here]
            better = seen[:, tile.finest] > pixels[mine]
            target = np.flatnonzero(mine)[better]
            weight[target] = seen[better][:, grid_of]
            values[target] = view.rows["values"][here][better].reshape(-1, *values.shape[1:])
            pixels[target] = seen[better, tile.finest]
        return weight, values, pixels, total


def lattice(grid: Grid) -> tuple[object, ...]:
    """What grids share whose pixels coincide where they overlap: coordinate system, pixel size and phase."""
    a, _, c, _, e, f = grid.transform
    phase = tuple(round((value / size) % 1, 4) % 1 for value, size in ((c, a), (f, e)))
    return grid.crs, round(a, 9), round(e, 9), phase
