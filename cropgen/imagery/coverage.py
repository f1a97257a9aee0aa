"""Polygons to weighted pixels: how much of each pixel a polygon covers.

The weight of a pixel is the exact share of its area inside the polygon, computed by exactextract once per grid and kept
as runs, so every date is one sparse product. Pixels of equal weight beside each other become one run.

Reference: exactextract, Daniel Baston, 2018–2026, https://github.com/isciences/exactextract.
"""

from __future__ import annotations

import warnings
from typing import Any

import exactextract
import geopandas as gpd
import numpy as np
import shapely
from exactextract.raster import NumPyRasterSource

from cropgen.imagery.scanline import RUN, make_runs
from cropgen.imagery.scene import Grid


def runs_of_coverage(shapes: np.ndarray, grid: Grid) -> np.ndarray:
    """The pixels of the grid that each polygon covers, weighted by the share of the pixel.

    Arguments:
        shapes: (P,) polygons in the coordinate system of the grid; empty ones have no pixel.

    Returns:
        (R,) RUN by parcel (position in `shapes`), row and column; all inside the grid.
    """
    filled = np.flatnonzero(~shapely.is_empty(shapes))
    if not len(filled):
        return np.zeros(0, RUN)
    bounds = shapely.total_bounds(shapes[filled])
    window = grid.window((bounds[0], bounds[1], bounds[2], bounds[3]))
    if 0 in window.shape:
        return np.zeros(0, RUN)
    cells = _cells(shapes[filled], grid.window_affine(window), window.shape, grid.crs)
    count = np.array([len(ids) for ids in cells["cell_id"]])
    position = np.concatenate(cells["cell_id"]).astype(np.int64)
    weight = np.concatenate(cells["coverage"]).astype(np.float32)
    parcel = np.repeat(filled[np.asarray(cells["number"])], count)
    row, column = np.divmod(position, window.shape[1])
    runs = make_runs(parcel, row + window.top, column + window.left, np.ones(len(row), np.int64), weight)
    return _joined(runs[runs["weight"] > 0])


def _cells(shapes: np.ndarray, affine: Any, shape: tuple[int, int], crs: str) -> dict[str, Any]:
    rows, columns = shape
    nothing = np.broadcast_to(np.zeros((), np.uint8), shape)
    west, north = affine.c, affine.f
    raster = NumPyRasterSource(
        nothing, west, north + affine.e * rows, west + affine.a * columns, north, srs_wkt=crs
    )  # fmt: skip
    frame = gpd.GeoDataFrame({"number": np.arange(len(shapes))}, geometry=shapes, crs=crs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table: Any = exactextract.exact_extract(
            raster, frame, ["cell_id", "coverage"], include_cols=["number"], output="pandas"
        )
    return {name: list(table[name]) for name in ("number", "cell_id", "coverage")}


def _joined(runs: np.ndarray) -> np.ndarray:
    """Neighbouring pixels of one parcel, row and weight as one run."""
    runs = runs[np.lexsort((runs["left"], runs["row"], runs["parcel"]))]
    follows = np.ones(max(len(runs) - 1, 0), bool)
    for name in ("parcel", "row", "weight"):
        follows &= runs[name][1:] == runs[name][:-1]
    follows &= runs["left"][1:] == runs["left"][:-1] + 1
    first = np.flatnonzero(np.concatenate([[True], ~follows])) if len(runs) else np.zeros(0, np.intp)
    joined = runs[first]
    joined["width"] = np.diff(np.append(first, len(runs)))
    return joined
