"""A Sentinel-2 tile and its parcels, simulated: what aggregation is timed on.

The tile has the size, data type, block size and compression of the published 10 m bands (10980 × 10980, uint16, blocks
of 1024, deflate with horizontal differences). Reflectance is a smooth field plus noise of 25 counts, which makes files
of about the size of real ones (see `compressed` of the results). Dates are hard links to one date: they cost a reader
as much as others would, and the disk nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely

SIZE, PIXEL, BLOCK = 10_980, 10.0, 1024
WEST, NORTH, CRS = 600_000.0, 5_000_040.0, "EPSG:32631"
BANDS = ("B02", "B03", "B04", "B08")
FIRST = "20210401"
_NOISE = 25.0
_BYTES = 2


def write_band(path: Path, seed: int) -> None:
    """Write one band."""
    rng, size = np.random.default_rng(seed), SIZE
    path.parent.mkdir(parents=True, exist_ok=True)
    level = rng.uniform(600, 3000, (size // 60 + 3, size // 60 + 3)).astype(np.float32)
    along = np.arange(size, dtype=np.float32) / 60
    whole, part = along.astype(int), along % 1
    with rasterio.open(
        path, "w", driver="GTiff", width=size, height=size, count=1, dtype="uint16", crs=CRS, nodata=0, tiled=True,
        transform=rasterio.Affine(PIXEL, 0, WEST, 0, -PIXEL, NORTH), blockxsize=BLOCK, blockysize=BLOCK,
        compress="deflate", predictor=2, zlevel=6, num_threads=2,
    ) as raster:  # fmt: skip
        raster.scales, raster.offsets = (1e-4,), (-0.1,)
        for top in range(0, size, BLOCK):
            rows = slice(top, min(top + BLOCK, size))
            upper = level[whole[rows]] * (1 - part[rows, None]) + level[whole[rows] + 1] * part[rows, None]
            smooth = upper[:, whole] * (1 - part) + upper[:, whole + 1] * part
            noisy = smooth + rng.standard_normal(smooth.shape, dtype=np.float32) * _NOISE + 1000
            window = rasterio.windows.Window(0, top, size, smooth.shape[0])
            raster.write(np.clip(noisy, 1, 20_000).astype("uint16"), 1, window=window)


def write_scenes(folder: Path) -> Path:
    """A folder of one date with four bands; what is there is kept."""
    for seed, band in enumerate(BANDS):
        path = folder / FIRST / f"{band}.tif"
        if not path.is_file():
            write_band(path, seed)
    return folder


def link_scenes(scenes: Path, folder: Path, dates: int) -> Path:
    """A folder of dates five days apart, all linked to one."""
    for number in range(dates):
        day = np.datetime64("2021-04-01") + 5 * number
        place = folder / str(day).replace("-", "")
        place.mkdir(parents=True, exist_ok=True)
        for path in (scenes / FIRST).glob("*.tif"):
            if not (place / path.name).exists():
                os.link(path, place / path.name)
    return folder


def compressed(folder: Path) -> float:
    """Bytes on disk of the first date per byte of its values."""
    files = sorted((folder / FIRST).glob("*.tif"))
    return sum(path.stat().st_size for path in files) / (len(files) * SIZE**2 * _BYTES)


def parcels(count: int, seed: int = 0) -> gpd.GeoDataFrame:
    """Some parcels strewn over a tile, each in a cell of its own: polygons of twelve corners.

    Areas are log-normal about 2.5 ha, less where so many parcels leave each less room.
    """
    rng = np.random.default_rng(seed)
    side = int(np.ceil(np.sqrt(count)))
    step = SIZE * PIXEL / side
    cell = rng.permutation(side * side)[:count]
    row, column = np.divmod(cell, side)
    radius = np.sqrt(rng.lognormal(np.log(25_000), 0.6, count) / np.pi)
    radius = np.minimum(radius, 0.45 * step)
    angle = np.sort(rng.uniform(0, 2 * np.pi, (count, 12)), axis=1)
    reach = radius[:, None] * rng.uniform(0.75, 1.1, (count, 12))
    x = WEST + (column[:, None] + 0.5) * step + reach * np.cos(angle)
    y = NORTH - (row[:, None] + 0.5) * step + reach * np.sin(angle)
    shapes = shapely.polygons(np.stack([x, y], axis=-1))
    shapes = shapely.make_valid(shapes)
    kept = shapely.get_type_id(shapes) == 3
    ids = np.char.add("P", np.arange(int(kept.sum())).astype(str))
    return gpd.GeoDataFrame({"parcel_id": ids, "year": 2021}, geometry=shapes[kept], crs=CRS)
