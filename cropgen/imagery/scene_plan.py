"""What of a catalogue's items is needed for parcels: which pieces of ground, which windows, how many bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import shapely
from pyproj import Transformer
from shapely.geometry.base import BaseGeometry

from cropgen.core.errors import MissingInputError
from cropgen.core.progress import Reporter
from cropgen.imagery.remote import Access, patiently, version_of
from cropgen.imagery.scene import Grid, metres_to_units
from cropgen.imagery.stac import footprint_of, remote_header
from cropgen.imagery.stac_items import Asset, Item
from cropgen.series.bands import LAND_BANDS, SCENE_CLASSIFICATION, normalise_band
from cropgen.series.geometry import WGS84

MARGIN = 300.0
"""Metres around the parcels that come with them, so that masks may be dilated."""
_MOST_PIECES = 32
_CELL = 0.25
_HALF_CIRCLE = 180.0
_BLOCK = 512
_USUAL_DENSITY = {SCENE_CLASSIFICATION: 0.05}
_DENSITY = 1.4

Bounds = tuple[float, float, float, float]
Folders = Mapping[str | tuple[str, str], str]
"""Id or granule of items that were fetched before → their folder."""


@dataclass(frozen=True)
class Target:
    """One file to have: a window of one band of one item.

    Arguments:
        path: below the folder of scenes.
        bounds: (west, south, east, north) on the item's grid.
        share: of the whole raster.
        pixels: in the window.
    """

    item: Item
    asset: Asset
    path: str
    bounds: Bounds
    share: float
    pixels: int


class ParcelBoxes:
    """The boxes around parcels, in degrees and in whatever system a grid has.

    Arguments:
        frame: parcels, any number of layers joined, in one coordinate system.
    """

    def __init__(self, frame: gpd.GeoDataFrame) -> None:
        shapes = frame.geometry.to_numpy()
        box = shapely.bounds(shapes)
        box = box[np.isfinite(box).all(1)]
        self._corners = box[:, [0, 1, 0, 3, 2, 1, 2, 3]].reshape(-1, 4, 2)
        self._crs = frame.crs
        self._known: dict[str, np.ndarray] = {}
        self._degrees = self._in_degrees()
        if not len(self._degrees):
            raise MissingInputError("the parcel layer holds no geometry", hint="check the parcel layer")
        self._tree = shapely.STRtree(shapely.box(*self._degrees.T))

    def within(self, crs: str) -> np.ndarray:
        """(N, 4) west, south, east, north of every parcel."""
        if crs not in self._known:
            x, y = self._moved(crs)
            self._known[crs] = np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)
        return self._known[crs]

    def _moved(self, crs: str) -> tuple[np.ndarray, np.ndarray]:
        """x and y (N, 4) of the corners."""
        move = Transformer.from_crs(self._crs, crs, always_xy=True)
        return move.transform(self._corners[..., 0], self._corners[..., 1])

    def _in_degrees(self) -> np.ndarray:
        """(M, 4) the boxes in degrees; a parcel across the antimeridian has one on either side of it."""
        box = self.within(WGS84)
        across = np.flatnonzero(box[:, 2] - box[:, 0] > _HALF_CIRCLE)
        lon = self._moved(WGS84)[0][across]
        east, west = box[across], box[across]
        east[:, 0], east[:, 2] = np.where(lon > 0, lon, _HALF_CIRCLE).min(1), _HALF_CIRCLE
        west[:, 0], west[:, 2] = -_HALF_CIRCLE, np.where(lon < 0, lon, -_HALF_CIRCLE).max(1)
        found = np.concatenate([np.delete(box, across, axis=0), east, west])
        return found[np.isfinite(found).all(1)]

    def meet(self, footprint: BaseGeometry | None) -> bool:
        """Whether a parcel lies in a footprint in degrees; true where none is known."""
        return footprint is None or len(self._tree.query(footprint, predicate="intersects")) > 0

    def around(self, grid: Grid) -> Bounds | None:
        """The box around the parcels that meet a grid, with a margin, in whole blocks; None where none does."""
        box = self.within(grid.crs)
        west, south, east, north = grid.bounds
        box = box[(box[:, 2] > west) & (box[:, 0] < east) & (box[:, 3] > south) & (box[:, 1] < north)]
        if not len(box):
            return None
        margin, step = metres_to_units(grid.crs, MARGIN), _BLOCK * grid.pixel_size
        low, high = box[:, :2].min(0) - margin, box[:, 2:].max(0) + margin
        return (
            max(west + np.floor((low[0] - west) / step) * step, west),
            max(north - np.ceil((north - low[1]) / step) * step, south),
            min(west + np.ceil((high[0] - west) / step) * step, east),
            min(north - np.floor((north - high[1]) / step) * step, north),
        )

    def pieces(self) -> list[BaseGeometry]:
        """Convex pieces in degrees that hold all parcels: one around each group of neighbouring cells."""
        box = self._degrees
        centre = (box[:, :2] + box[:, 2:]) / 2
        size = _CELL
        while True:
            cells, of_parcel = np.unique(np.floor(centre / size).astype(np.int64), axis=0, return_inverse=True)
            low = cells * size
            joined = shapely.get_parts(shapely.union_all(shapely.box(*low.T, *(low + size * 1.001).T)))
            if len(joined) <= _MOST_PIECES:
                break
            size *= 2
        tree = shapely.STRtree(joined)
        of_cell = tree.query(shapely.points(low + size / 2), predicate="intersects")[1]
        group = of_cell[of_parcel.reshape(-1)]
        corners = box[:, [0, 1, 0, 3, 2, 1, 2, 3]].reshape(-1, 4, 2)
        points = [shapely.MultiPoint(corners[group == i].reshape(-1, 2)) for i in range(len(joined))]
        return [piece.convex_hull.buffer(1e-4, quad_segs=1) for piece in points]


def wanted_bands(bands: Sequence[str]) -> tuple[str, ...]:
    """The bands asked for, or all that look at the surface; and the scene classification."""
    named = [normalise_band(band) or band for band in bands] or list(LAND_BANDS)
    return tuple(dict.fromkeys([*named, SCENE_CLASSIFICATION]))


def plan_targets(
    items: Iterable[Item], boxes: ParcelBoxes, bands: Sequence[str], folders: Folders, access: Access,
    report: Reporter,
) -> list[Target]:  # fmt: skip
    """The files needed, ordered by folder and band.

    Arguments:
        items: of distinct granules.
    """
    taken = dict(folders)
    targets: list[Target] = []
    windows: dict[Grid, Bounds | None] = {}
    for item in items:
        missing = [band for band in bands if band not in item.assets]
        if missing:
            report.warn(f"item {item.id} left out: it lacks {', '.join(missing)}")
            continue
        if not boxes.meet(footprint_of(item.geometry)):
            continue
        chosen = [item.assets[band] for band in bands]
        grids = [asset.grid or remote_header(asset.address, access).grid for asset in chosen]
        finest = min(grids, key=lambda grid: grid.pixel_size)
        if finest not in windows:
            windows[finest] = boxes.around(finest)
        bounds = windows[finest]
        if bounds is not None:
            folder = _folder(item, taken)
            targets += [
                _target(item, a, grid, f"{folder}/{a.band}.tif", bounds) for a, grid in zip(chosen, grids, strict=True)
            ]
    return sorted(targets, key=lambda target: target.path)


def _folder(item: Item, taken: dict[str | tuple[str, str], str]) -> str:
    """The folder of the granule, whichever processing of it is there; else `<tile>/<date>`, with a number behind it for
    further granules of that day."""
    folder = taken.get(item.granule) or taken.get(item.id)
    if folder is None:
        used, number, folder = set(taken.values()), 1, f"{item.tile}/{item.date}"
        while folder in used:
            number += 1
            folder = f"{item.tile}/{item.date}_{number}"
        taken[item.granule] = folder
    return folder


def _target(item: Item, asset: Asset, grid: Grid, path: str, bounds: Bounds) -> Target:
    rows, columns = grid.window(bounds).shape
    whole = grid.shape[0] * grid.shape[1]
    return Target(item, asset, path, bounds, rows * columns / whole, rows * columns)


def estimate(targets: Sequence[Target], access: Access) -> int:
    """Bytes that will come: the windows' share of each file, by stated sizes, else by the size of one file per band."""
    density: dict[str, float] = {}
    total = 0.0
    for target in targets:
        band, size = target.asset.band, target.asset.size
        if size is not None:
            total += size * target.share
            continue
        if band not in density:
            density[band] = _density(target, access)
        total += density[band] * target.pixels
    return round(total)


def _density(target: Target, access: Access) -> float:
    """Bytes per pixel of the file that a target is cut from."""
    size = patiently(lambda: version_of(target.asset.address, access), access).size
    if size is None:
        return _USUAL_DENSITY.get(target.asset.band, _DENSITY)
    return size * target.share / max(target.pixels, 1)
