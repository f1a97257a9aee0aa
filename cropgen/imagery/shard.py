"""One shard of parcels through all acquisitions of a season."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import shapely

from cropgen.core.progress import Task
from cropgen.imagery.calibration import Calibrator
from cropgen.imagery.masks import clear_table
from cropgen.imagery.options import AggregateOptions
from cropgen.imagery.parcels import shapes_in
from cropgen.imagery.scene import Acquisition, Grid
from cropgen.imagery.zonal import ParcelMeans, ParcelShapes, PixelPlan, parcel_means, plan_pixels

_PLANS_KEPT = 32


@dataclass(frozen=True)
class ShardSeries:
    """P parcels on T days.

    Arguments:
        day: (T,) days since 1970-01-01, ascending.
        values: (P, T, C) float32 reflectance; NaN where not observed.
        pixels: (P, T) int32 clear pixels of the observation; 0 where not observed.
        covered: (P,) bool, the parcel has a pixel in some scene.
        coarse: (P,) bool, it holds no pixel centre of some grid.
    """

    day: np.ndarray
    values: np.ndarray
    pixels: np.ndarray
    covered: np.ndarray
    coarse: np.ndarray


class _Plans:
    """The parcels' pixels on each grid, found on first use; the last few grids are kept."""

    def __init__(self, geometry: gpd.GeoSeries, layer: np.ndarray, buffer: float) -> None:
        self._geometry = geometry
        self._layer = layer
        self._buffer = buffer
        self._shapes: dict[str, ParcelShapes] = {}
        self._plans: dict[tuple[Grid, Grid | None], PixelPlan] = {}
        self.coarse = np.zeros(len(geometry), bool)

    def shapes(self, crs: str) -> ParcelShapes:
        if crs not in self._shapes:
            self._shapes[crs] = shapes_in(self._geometry, self._layer, crs, self._buffer)
        return self._shapes[crs]

    def meet(self, grid: Grid) -> bool:
        """Whether any parcel's box meets the grid."""
        west, south, east, north = grid.bounds
        box = shapely.bounds(self.shapes(grid.crs).outline)
        return bool(((box[:, 2] > west) & (box[:, 0] < east) & (box[:, 3] > south) & (box[:, 1] < north)).any())

    def __call__(self, grid: Grid, class_grid: Grid | None) -> PixelPlan:
        key = (grid, class_grid)
        if key not in self._plans:
            while len(self._plans) >= _PLANS_KEPT:
                del self._plans[next(iter(self._plans))]
            self._plans[key] = plan_pixels(grid, self.shapes(grid.crs), class_grid)
            self.coarse |= self._plans[key].coarse
        return self._plans[key]


def aggregate_shard(
    geometry: gpd.GeoSeries,
    layer: np.ndarray,
    acquisitions: Sequence[Acquisition],
    bands: Sequence[str],
    calibrator: Calibrator,
    options: AggregateOptions,
    task: Task,
) -> ShardSeries:
    """Average every acquisition over P parcels and keep the best observation of each day.

    Arguments:
        geometry: (P,) polygons.
        layer: (P,) int, apart for parcels that overlap.
        acquisitions: ordered by day and key.
    """
    plans = _Plans(geometry, layer, options.buffer)
    clear = clear_table(options.clear) if options.clear else None
    day = np.unique([a.day for a in acquisitions])
    parcels = len(geometry)
    values = np.full((parcels, len(day), len(bands)), np.nan, np.float32)
    pixels = np.zeros((parcels, len(day)), np.int32)
    covered = np.zeros(parcels, bool)
    for acquisition in acquisitions:
        if plans.meet(acquisition.layers[bands[0]].grid):
            calibration = calibrator.of(acquisition, bands)
            means = parcel_means(acquisition, bands, plans, clear, calibration, options.nodata)
            t = int(np.searchsorted(day, acquisition.day))
            better = _counts(means, options) & (means.pixels > pixels[:, t])
            values[better, t] = means.values[better]
            pixels[better, t] = means.pixels[better]
            covered |= means.total > 0
        task.advance()
    return ShardSeries(day, values, pixels, covered, plans.coarse)


def _counts(means: ParcelMeans, options: AggregateOptions) -> np.ndarray:
    """(P,) bool: enough of the parcel was clear."""
    enough = np.minimum(options.min_pixels, means.total)
    return (means.pixels >= np.maximum(enough, 1)) & (means.pixels >= options.min_share * means.total)
