"""Small scenes and parcel layers on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely

UTM = "EPSG:32631"
WEST, NORTH = 500_000.0, 5_600_000.0


def write_raster(
    path: Path,
    values: np.ndarray,
    size: float = 10.0,
    *,
    west: float = WEST,
    north: float = NORTH,
    crs: str | None = UTM,
    nodata: float | None = 0,
    scale: float = 1e-4,
    offset: float = -0.1,
) -> Path:
    """Write one band; the first row of `values` is the northernmost."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows, columns = values.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=columns, height=rows, count=1, dtype=values.dtype, crs=crs,
        transform=rasterio.Affine(size, 0, west, 0, -size, north), nodata=nodata,
    ) as raster:  # fmt: skip
        if (scale, offset) != (1, 0):
            raster.scales, raster.offsets = (scale,), (offset,)
        raster.write(values, 1)
    return path


def write_date(folder: Path, bands: Mapping[str, np.ndarray], **options: object) -> Path:
    """One date: 10 m bands, and `B11`, `SCL` and the like at 20 m."""
    for name, values in bands.items():
        size = 10.0 if name in ("B02", "B03", "B04", "B08") else 20.0
        if name == "SCL":
            write_raster(folder / "SCL.tif", values.astype("uint8"), size, **{**options, "scale": 1, "offset": 0})
        else:
            write_raster(folder / f"{name}.tif", values.astype("uint16"), size, **options)
    return folder


def square(left: float, top: float, right: float, bottom: float) -> shapely.Polygon:
    """A rectangle in metres east and south of the scene's corner."""
    return shapely.box(WEST + left, NORTH - bottom, WEST + right, NORTH - top)


def write_parcels(path: Path, shapes: Mapping[str, shapely.Geometry | None], **columns: object) -> Path:
    """A GeoPackage of parcels of 2021."""
    frame = gpd.GeoDataFrame(
        {"parcel_id": list(shapes), "year": 2021, **columns}, geometry=list(shapes.values()), crs=UTM
    )
    frame.to_file(path)
    return path
