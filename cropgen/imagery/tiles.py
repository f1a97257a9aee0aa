"""The tiles of a season: which grids the acquisitions lie on, and the pixels of the parcels on each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

import numpy as np

from cropgen.core.run import fingerprint
from cropgen.imagery.assemble import lattice
from cropgen.imagery.ledger import WorkFolder, tile_key
from cropgen.imagery.options import AggregateOptions
from cropgen.imagery.parcels import SeasonParcels, parts_of
from cropgen.imagery.pixels import TilePixels, write_owned, write_pixels
from cropgen.imagery.scene import Acquisition, Grid, Window

Grids = tuple[Grid, ...]


def grids_of(acquisition: Acquisition, bands: Iterable[str]) -> Grids:
    """The distinct grids of some bands, in the order of the bands."""
    return tuple(dict.fromkeys(acquisition.layers[band].grid for band in bands))


def find_tiles(
    wanted: Mapping[Grids, set[int]],
    parcels: SeasonParcels,
    options: AggregateOptions,
    work: WorkFolder,
    threads: int = 1,
) -> tuple[dict[Grids, TilePixels], np.ndarray]:
    """The pixels of the parcels on every tile, taken from the work folder where they are there.

    Tiles near no parcel are left out. Where a parcel is whole in no tile, tiles of one grid system that have a day in
    common share its pixels out: each belongs to the first that holds it, from west to east and north to south.

    Arguments:
        wanted: the days on which each tile was seen.

    Returns:
        the tiles, and (N,) bool by rank: parcels that are seen but lie whole in no tile.
    """
    tiles: dict[Grids, TilePixels] = {}
    for grids in wanted:
        tile = _find(grids, parcels, options, work, threads)
        if len(tile.members):
            tiles[grids] = tile
    seen, whole = np.zeros(len(parcels), bool), np.zeros(len(parcels), bool)
    for tile in tiles.values():
        members, facts = tile.members, tile.facts
        seen[members[facts["inside"] > 0]] = True
        whole[members[facts["whole"] & (facts["inside"] > 0)]] = True
    split = seen & ~whole
    if not split.any():
        return tiles, split
    beside = {
        grids: [other for near, other in tiles.items() if wanted[near] & wanted[grids] and _comes_first(other, tile)]
        for grids, tile in tiles.items()
    }
    return {grids: _owned(tile, beside[grids], split, work) for grids, tile in tiles.items()}, split


def _find(
    grids: Grids, parcels: SeasonParcels, options: AggregateOptions, work: WorkFolder, threads: int
) -> TilePixels:
    whole = min(grids, key=lambda g: g.pixel_size)
    near = parcels.near(whole)
    key = tile_key(grids, parcels.digest(near), [options.method, options.buffer])
    tile = TilePixels(work.tile(key), grids)
    if not tile.folder.is_dir():
        parts = [partial(parcels.shapes, part, whole, options.buffer) for part in parts_of(near)]
        write_pixels(tile.folder, grids, parts, options.method, threads)
    return tile


def _owned(tile: TilePixels, earlier: Iterable[TilePixels], split: np.ndarray, work: WorkFolder) -> TilePixels:
    """The tile less the pixels of split parcels that belong to earlier tiles."""
    shared = split[tile.members]
    taken = [[_window(grid, other.grids[g]) for other in earlier] for g, grid in enumerate(tile.grids)]
    taken = [[window for window in windows if 0 not in window.shape] for windows in taken]
    if not shared.any() or not any(taken):
        return tile
    key = fingerprint("owned", tile.folder.name, np.flatnonzero(shared).tolist(), taken)[:32]
    owned = TilePixels(work.tile(key), tile.grids)
    if not owned.folder.is_dir():
        write_owned(owned.folder, tile, shared, taken)
    return owned


def _comes_first(tile: TilePixels, other: TilePixels) -> bool:
    """Whether a tile of the same grid systems lies further west, or else further north, or else reaches further."""
    same = [lattice(grid) for grid in tile.grids] == [lattice(grid) for grid in other.grids]
    return same and _place(tile) < _place(other)


def _place(tile: TilePixels) -> tuple[float, ...]:
    west, south, east, north = tile.grids[tile.finest].bounds
    return west, -north, -east, south


def _window(grid: Grid, other: Grid) -> Window:
    """The part of a grid that another of the same system covers."""
    a, _, c, _, e, f = grid.transform
    west, _, _, north = other.bounds
    top, left = round((north - f) / e), round((west - c) / a)
    rows, columns = grid.shape
    top_in, left_in = min(max(top, 0), rows), min(max(left, 0), columns)
    bottom, right = min(max(top + other.shape[0], top_in), rows), min(max(left + other.shape[1], left_in), columns)
    return Window(top_in, bottom, left_in, right)
