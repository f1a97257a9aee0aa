"""Polygons to runs of pixels: every row of pixel centres is a line that crosses the rings of a polygon.

A pixel belongs to a polygon when its centre lies inside. Between two crossings x₀ < x₁ of row r, in columns, lie the
pixels ⌊x₀ + ½⌋ ≤ column < ⌊x₁ + ½⌋; rings fill by the even-odd rule. Centres on an edge are told as GDAL does: in at
the top, the right and a level bottom, out at the left. All polygons are crossed at once, each on its own: where they
overlap, a pixel belongs to both. Runs reach beyond the grid where polygons do.

Reference: Computer Graphics: Principles and Practice, Foley, van Dam, Feiner and Hughes, 1990, section 3.6.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import shapely
from rasterio import features

from cropgen.imagery.scene import Grid, Window

_POLYGON = 3
RUN = np.dtype([("parcel", "<i4"), ("row", "<i4"), ("left", "<i4"), ("width", "<i4"), ("weight", "<f4")])
"""`width` pixels from column `left` of a row, each counting `weight` for the parcel."""


def runs_of_centres(shapes: np.ndarray, grid: Grid) -> np.ndarray:
    """The pixels whose centre lies in each polygon.

    Arguments:
        shapes: (P,) polygons in the coordinate system of the grid; empty ones have no pixel.

    Returns:
        (R,) RUN, by parcel (position in `shapes`), row and column; rows and columns may lie outside the grid.
    """
    edges = _edges(shapes, grid)
    parcel, row, x = _crossings(edges)
    order = _along_rows(parcel, row, x)
    x = x[order]
    left = np.floor(x[0::2] + 0.5).astype(np.int64)
    right = np.floor(x[1::2] + 0.5).astype(np.int64)
    full = np.flatnonzero(right > left)
    runs = make_runs(parcel[order[0::2]][full], row[order[0::2]][full], left[full], (right - left)[full])
    level = _level_runs(edges)
    return _united(np.concatenate([runs, level])) if len(level) else runs


def make_runs(
    parcel: np.ndarray, row: np.ndarray, left: np.ndarray, width: np.ndarray, weight: np.ndarray | float = 1.0
) -> np.ndarray:
    """(R,) RUN of its columns."""
    runs = np.empty(len(parcel), RUN)
    for name, content in (("parcel", parcel), ("row", row), ("left", left), ("width", width), ("weight", weight)):
        runs[name] = content
    return runs


def runs_of_touched(shape: shapely.Geometry, parcel: int, grid: Grid) -> np.ndarray:
    """The pixels that one polygon touches; (R,) RUN of one pixel each."""
    west, south, east, north = shapely.bounds(shape)
    a, _, c, _, e, f = grid.transform
    top, left = int(np.floor((north - f) / e)), int(np.floor((west - c) / a))
    window = Window(top, int(np.ceil((south - f) / e)) + 1, left, int(np.ceil((east - c) / a)) + 1)
    burnt = features.rasterize(
        [(shape, 1)], window.shape, transform=grid.window_affine(window), all_touched=True, dtype="uint8"
    )
    rows, columns = np.nonzero(burnt)
    return make_runs(np.full(len(rows), parcel), rows + top, columns + left, np.ones(len(rows), np.int64))


class _Edges(NamedTuple):
    """Edges of rings from (x0, y0) to (x1, y1), in columns and rows: the polygon of each, whether its ring is
    clockwise."""

    parcel: np.ndarray
    clockwise: np.ndarray
    x0: np.ndarray
    y0: np.ndarray
    x1: np.ndarray
    y1: np.ndarray


def _edges(shapes: np.ndarray, grid: Grid) -> _Edges:
    parts, owner = shapes, np.arange(len(shapes))
    while (shapely.get_type_id(parts) != _POLYGON).any():
        parts, inner = shapely.get_parts(parts, return_index=True)
        owner = owner[inner]
    rings, of_part = shapely.get_rings(parts, return_index=True)
    place, ring = shapely.get_coordinates(rings, return_index=True)
    a, _, c, _, e, f = grid.transform
    column, line = (place[:, 0] - c) / a, (place[:, 1] - f) / e
    edge = np.flatnonzero(ring[1:] == ring[:-1])
    x0, y0, x1, y1 = column[edge], line[edge], column[edge + 1], line[edge + 1]
    return _Edges(owner[of_part][ring[edge]], ~shapely.is_ccw(rings)[ring[edge]], x0, y0, x1, y1)


def _crossings(edges: _Edges) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(parcel, row, column as a real number) of every crossing of an edge with a row of centres.

    Every edge is followed downwards, so that two polygons cross the edge they share at the same place.
    """
    parcel, _, x0, y0, x1, y1 = edges
    down = y1 >= y0
    x0, x1 = np.where(down, x0, x1), np.where(down, x1, x0)
    y0, y1 = np.where(down, y0, y1), np.where(down, y1, y0)
    first = np.ceil(y0 - 0.5).astype(np.int64)
    count = np.ceil(y1 - 0.5).astype(np.int64) - first
    with np.errstate(invalid="ignore", divide="ignore"):
        slope = (x1 - x0) / (y1 - y0)
    parcel, x0, y0, slope = (np.repeat(column, count) for column in (parcel, x0, y0, slope))
    row = np.repeat(first - np.cumsum(count) + count, count) + np.arange(len(parcel))
    return parcel, row, (row + 0.5 - y0) * slope + x0


def _level_runs(edges: _Edges) -> np.ndarray:
    """(R,) RUN of level edges along a row of centres that have their ring above them."""
    parcel, clockwise, x0, y0, x1, y1 = edges
    level = np.flatnonzero((y0 == y1) & (y0 - 0.5 == np.floor(y0)) & ((x0 > x1) == clockwise))
    left = np.floor(np.minimum(x0, x1)[level] + 0.5).astype(np.int64)
    right = np.floor(np.maximum(x0, x1)[level] + 0.5).astype(np.int64)
    runs = make_runs(parcel[level], np.floor(y0[level]), left, right - left)
    return runs[runs["width"] > 0]


def _united(runs: np.ndarray) -> np.ndarray:
    """Runs by parcel, row and column, those that meet or overlap made one."""
    runs = runs[np.lexsort((runs["left"], runs["row"], runs["parcel"]))]
    left = runs["left"].astype(np.int64)
    line = np.concatenate([[True], (runs["row"][1:] != runs["row"][:-1]) | (runs["parcel"][1:] != runs["parcel"][:-1])])
    shift = np.cumsum(line) * (int(np.ptp(left)) + int(runs["width"].max()) + 1)
    reach = np.maximum.accumulate(left + runs["width"] + shift)
    first = np.flatnonzero(np.concatenate([[True], (left + shift)[1:] > reach[:-1]]) | line)
    united = runs[first]
    united["width"] = (reach - shift)[np.append(first[1:], len(runs)) - 1] - left[first]
    return united


def _along_rows(parcel: np.ndarray, row: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The order of crossings by parcel, row and column; rows with two crossings need no sorting by column."""
    if not len(row):
        return np.zeros(0, np.intp)
    top = row.min()
    key = parcel * (row.max() - top + 1) + row - top
    order = np.argsort(key)
    key = key[order]
    pair = order.reshape(-1, 2)
    order = np.where((x[pair[:, 0]] > x[pair[:, 1]])[:, None], pair[:, ::-1], pair).ravel()
    again = np.flatnonzero(key[1:-1:2] == key[2::2])
    if len(again):
        crowded = np.flatnonzero(np.isin(key, key[1:-1:2][again]))
        order[crowded] = order[crowded][np.lexsort((x[order[crowded]], key[crowded]))]
    return order
