"""Parcel means: each parcel's pixels are found once per grid, then every date is one weighted count per band.

A pixel belongs to a parcel when its centre lies in the parcel's inner polygon (the outline, shrunk by the buffer). A
parcel without such a pixel takes the pixels whose centre lies in its outline; without any, all pixels its outline
touches. The mean of band c over the clear pixels P of a parcel is

    x_c = scale · (1/|P|) Σ_{p ∈ P} v_c(p) + offset.

Every band is averaged on its own grid; the scene classification is looked up at the pixel centre, so one of 20 m serves
its four pixels of 10 m. Grids are passed through in stripes of rows, so memory does not grow with the scene.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from rasterio import features

from cropgen.imagery.masks import is_clear, is_valid
from cropgen.imagery.scene import Acquisition, Grid, Layer, Window
from cropgen.series.bands import SCENE_CLASSIFICATION

_STRIPE_PIXELS = 4_000_000
_BLOCK_ROWS = 256


@dataclass(frozen=True)
class ParcelShapes:
    """P parcels in one coordinate system.

    Arguments:
        outline: (P,) polygons.
        inner: (P,) outlines after the inward buffer; empty where nothing is left.
        layer: (P,) int; parcels that overlap each other have different layers.
    """

    outline: np.ndarray
    inner: np.ndarray
    layer: np.ndarray

    def __len__(self) -> int:
        return len(self.outline)


@dataclass(frozen=True)
class Stripe:
    """Parcel pixels in a run of rows of one grid.

    Arguments:
        window: the part of the grid that is read.
        pixel: (M,) position in the window, row-major.
        parcel: (M,) parcel index.
        class_window, class_pixel: the same pixels in the grid of the scene classification; −1 outside it.
    """

    window: Window
    pixel: np.ndarray
    parcel: np.ndarray
    class_window: Window | None = None
    class_pixel: np.ndarray | None = None


@dataclass(frozen=True)
class PixelPlan:
    """The pixels of P parcels on one grid.

    Arguments:
        stripes: the pixels, by runs of rows.
        total: (P,) pixels per parcel; 0 outside the grid.
        coarse: (P,) bool, the parcel holds no pixel centre of its inner polygon and took the fall-back.
    """

    stripes: tuple[Stripe, ...]
    total: np.ndarray
    coarse: np.ndarray


@dataclass(frozen=True)
class ParcelMeans:
    """One acquisition over P parcels: values (P, C) reflectance, NaN without clear pixels; pixels (P,) clear ones on
    the finest grid, 0 where any band has none; total (P,) pixels on the finest grid."""

    values: np.ndarray
    pixels: np.ndarray
    total: np.ndarray


def plan_pixels(grid: Grid, shapes: ParcelShapes, class_grid: Grid | None) -> PixelPlan:
    """Find every parcel's pixels on a grid."""
    pixel, parcel = _burn_inner(grid, shapes)
    coarse = np.bincount(parcel, minlength=len(shapes)) == 0
    west, south, east, north = grid.bounds
    near = coarse & shapely.intersects(shapes.outline, shapely.box(west, south, east, north))
    extra = [_burn_one(grid, shapes.outline[p], p) for p in np.flatnonzero(near).tolist()]
    pixel = np.concatenate([pixel, *(positions for positions, _ in extra)])
    parcel = np.concatenate([parcel, *(owner for _, owner in extra)])
    order = np.argsort(pixel, kind="stable")
    pixel, parcel = pixel[order], parcel[order]
    stripes = tuple(_stripes(grid, pixel, parcel, class_grid))
    total = np.bincount(parcel, minlength=len(shapes))
    return PixelPlan(stripes, total, coarse & (total > 0))


def _burn_inner(grid: Grid, shapes: ParcelShapes) -> tuple[np.ndarray, np.ndarray]:
    """(pixel, parcel): flat positions whose centre lies in an inner polygon, by layer and stripe."""
    pixels, parcels = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    bounds = shapely.bounds(shapes.inner)
    columns = grid.shape[1]
    for layer in np.unique(shapes.layer):
        members = np.flatnonzero((shapes.layer == layer) & ~np.isnan(bounds[:, 0]))
        if not len(members):
            continue
        box = bounds[members]
        extent = grid.window((box[:, 0].min(), box[:, 1].min(), box[:, 2].max(), box[:, 3].max()))
        for window in _cut(extent):
            north = grid.transform[5] + grid.transform[4] * window.top
            south = grid.transform[5] + grid.transform[4] * window.bottom
            inside = members[(box[:, 3] > south) & (box[:, 1] < north)]
            if not len(inside):
                continue
            burnt = features.rasterize(
                ((shapes.inner[p], p + 1) for p in inside),
                out_shape=window.shape,
                transform=grid.window_affine(window),
                dtype="int32",
            )
            owner = np.asarray(burnt).ravel()
            hit = np.flatnonzero(owner)
            rows, cols = np.divmod(hit, window.shape[1])
            pixels.append((rows + window.top) * columns + cols + window.left)
            parcels.append(owner[hit].astype(np.int64) - 1)
    return np.concatenate(pixels), np.concatenate(parcels)


def _burn_one(grid: Grid, outline: shapely.Geometry, parcel: int) -> tuple[np.ndarray, np.ndarray]:
    window = grid.window(tuple(shapely.bounds(outline)))
    if 0 in window.shape:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    for all_touched in (False, True):
        burnt = features.rasterize(
            [(outline, 1)], window.shape, transform=grid.window_affine(window), all_touched=all_touched, dtype="uint8"
        )
        rows, cols = np.nonzero(burnt)
        if len(rows):
            break
    pixel = (rows + window.top) * grid.shape[1] + cols + window.left
    return pixel, np.full(len(pixel), parcel, np.int64)


def _cut(extent: Window) -> Iterator[Window]:
    """Runs of rows of at most some four million pixels, ending on rows at which tiled rasters begin a block."""
    rows, columns = extent.shape
    if not rows or not columns:
        return
    height = max(_STRIPE_PIXELS // columns, 1)
    if height > _BLOCK_ROWS:
        height -= height % _BLOCK_ROWS
    top = extent.top
    while top < extent.bottom:
        bottom = min((top // height + 1) * height, extent.bottom)
        yield Window(top, bottom, extent.left, extent.right)
        top = bottom


def _stripes(grid: Grid, pixel: np.ndarray, parcel: np.ndarray, class_grid: Grid | None) -> Iterator[Stripe]:
    if not len(pixel):
        return
    row, column = np.divmod(pixel, grid.shape[1])
    extent = Window(int(row[0]), int(row[-1]) + 1, int(column.min()), int(column.max()) + 1)
    for run in _cut(extent):
        part = slice(*np.searchsorted(row, (run.top, run.bottom)))
        if part.start == part.stop:
            continue
        r, c = row[part], column[part]
        window = Window(int(r[0]), int(r[-1]) + 1, int(c.min()), int(c.max()) + 1)
        position = _position(r, c, window)
        if class_grid is None:
            yield Stripe(window, position, parcel[part])
        else:
            yield Stripe(window, position, parcel[part], *_in_class_grid(grid, class_grid, r, c))


def _position(row: np.ndarray, column: np.ndarray, window: Window) -> np.ndarray:
    return ((row - window.top) * window.shape[1] + column - window.left).astype(np.intp)


def _in_class_grid(grid: Grid, other: Grid, row: np.ndarray, column: np.ndarray) -> tuple[Window, np.ndarray]:
    r, c = grid.rows_in(other)[row], grid.columns_in(other)[column]
    inside = (r >= 0) & (c >= 0)
    if not inside.any():
        return Window(0, 0, 0, 0), np.full(len(r), -1, np.intp)
    window = Window(int(r[inside].min()), int(r.max()) + 1, int(c[inside].min()), int(c.max()) + 1)
    return window, np.where(inside, _position(r, c, window), -1)


def parcel_means(
    acquisition: Acquisition,
    bands: Sequence[str],
    plan_of: Callable[[Grid, Grid | None], PixelPlan],
    clear: np.ndarray | None,
    calibration: Mapping[str, tuple[float, float]],
    nodata: float | None = None,
) -> ParcelMeans:
    """Means of all bands over all parcels at one acquisition.

    Arguments:
        plan_of: the pixels of the parcels on a grid, with a second grid of the scene classification.
        clear: (256,) bool table of clear scene classes; None: every valid pixel counts.
        calibration: band → (scale, offset).
        nodata: stored value that means missing, besides those of the layers.
    """
    classes = acquisition.layers[SCENE_CLASSIFICATION] if clear is not None else None
    by_grid: dict[Grid, list[str]] = {}
    for band in bands:
        by_grid.setdefault(acquisition.layers[band].grid, []).append(band)
    finest = min(by_grid, key=lambda g: g.pixel_size)
    columns: dict[str, np.ndarray] = {}
    counts: dict[Grid, np.ndarray] = {}
    for grid, members in by_grid.items():
        plan = plan_of(grid, classes.grid if classes else None)
        layers = [acquisition.layers[band] for band in members]
        counts[grid], sums = _accumulate(plan, layers, classes, clear, nodata)
        for band, total in zip(members, sums, strict=True):
            scale, offset = calibration[band]
            with np.errstate(invalid="ignore", divide="ignore"):
                columns[band] = total / counts[grid] * scale + offset
    seen = np.logical_and.reduce([count > 0 for count in counts.values()])
    return ParcelMeans(
        values=np.stack([columns[band] for band in bands], axis=1),
        pixels=np.where(seen, counts[finest], 0),
        total=plan_of(finest, classes.grid if classes else None).total,
    )


def _accumulate(
    plan: PixelPlan, layers: Sequence[Layer], classes: Layer | None, clear: np.ndarray | None, nodata: float | None
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Clear pixels (P,) and sums (P,) of every layer; a pixel counts when it is valid in all of them."""
    parcels = len(plan.total)
    count = np.zeros(parcels, np.int64)
    sums = [np.zeros(parcels) for _ in layers]
    for stripe in plan.stripes:
        keep = _clear_pixels(stripe, classes, clear)
        if keep is not None and not keep.any():
            continue
        pixel = stripe.pixel if keep is None else stripe.pixel[keep]
        parcel = stripe.parcel if keep is None else stripe.parcel[keep]
        values = [layer.read(stripe.window).ravel()[pixel] for layer in layers]
        valid = np.logical_and.reduce(
            [is_valid(v, layer.nodata) & is_valid(v, nodata) for v, layer in zip(values, layers, strict=True)]
        )
        if not valid.all():
            parcel, values = parcel[valid], [v[valid] for v in values]
        count += np.bincount(parcel, minlength=parcels)
        for total, v in zip(sums, values, strict=True):
            total += np.bincount(parcel, weights=v, minlength=parcels)
    return count, sums


def _clear_pixels(stripe: Stripe, classes: Layer | None, clear: np.ndarray | None) -> np.ndarray | None:
    if classes is None or clear is None:
        return None
    window, position = stripe.class_window, stripe.class_pixel
    if window is None or position is None or 0 in window.shape:
        return np.zeros(len(stripe.pixel), bool)
    good = is_clear(classes.read(window), clear).ravel()
    return np.where(position >= 0, good[position], False)
