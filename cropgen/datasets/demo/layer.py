"""The parcel layer of a year, as a farmers' declaration would hold it."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import shapely

from cropgen.datasets.demo.crops import CROPS
from cropgen.datasets.demo.landscape import CRS, Landscape


def parcel_table(land: Landscape, crop: np.ndarray, year: int) -> gpd.GeoDataFrame:
    """Id, crop, year, region, area and outline of every parcel.

    Arguments:
        crop: (P,) index in `CROPS`.
    """
    return gpd.GeoDataFrame(
        {
            "parcel_id": [f"P{i + 1:06d}" for i in range(len(land.fields))],
            "crop_code": [CROPS[k].code for k in crop],
            "crop_name": [CROPS[k].name for k in crop],
            "year": np.full(len(crop), year, dtype=np.int32),
            "region": np.where(land.sandy, "valley", "plateau"),
            "area_ha": np.round(shapely.area(land.fields) / 1e4, 3),
        },
        geometry=land.fields,
        crs=CRS,
    )


def write_parcels(path: Path, land: Landscape, crop: np.ndarray, year: int) -> None:
    """Write a GeoPackage whose bytes depend on its content only: its date of change is the end of the year."""
    before = pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")
    pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": f"{year}-12-31T00:00:00.000Z"})
    try:
        pyogrio.write_dataframe(parcel_table(land, crop, year), path, layer=f"parcels_{year}", driver="GPKG")
    finally:
        pyogrio.set_gdal_config_options({"OGR_CURRENT_DATE": before})
