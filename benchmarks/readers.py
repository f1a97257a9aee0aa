"""Real data kept beside the repository, read into the container.

Every reader takes the folder of its data set and returns the seasons, their legend and the geometry of each row.
"""

from __future__ import annotations

import gzip
import json
import warnings
from pathlib import Path
from typing import NamedTuple

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import rasterio.features
import shapely
import xarray as xr

from cropgen.core.files import require_input
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries

_REFLECTANCE = 1e-4
_ARKANSAS_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
_ARKANSAS_CROPS = {"0": "corn", "1": "cotton", "2": "rice", "3": "soybean", "4": "other"}
_BAVARIA_BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
_FRANCE_BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
_MISSING = 65535
_MODIS_DAYS = np.arange(23) * 16
_MODIS_BANDS = ("RED", "NIR", "BLUE", "MIR", "NDVI", "EVI")


class RealData(NamedTuple):
    """Seasons, their legend, and one geometry per row."""

    series: ParcelSeries
    legend: Legend
    geometry: gpd.GeoSeries


def _days(dates: np.ndarray) -> np.ndarray:
    return dates.astype("datetime64[D]").astype(np.int32)


def arkansas(root: Path) -> RealData:
    """10,000 Sentinel-2 pixels of 2021 with labels of the Cropland Data Layer, in two sub-regions `Z0` and `Z1`.

    36 ten-day composites stand at the middle of their dekad; 0 in all bands is a missing composite.
    """
    cubes, labels, regions, ids, points = [], [], [], [], []
    for zone in ("Z0", "Z1"):
        tables = [_arkansas_table(root, dekad, zone) for dekad in range(1, 37)]
        cubes.append(np.stack([t[list(_ARKANSAS_BANDS)].to_numpy(np.float64) for t in tables], axis=1))
        labels.append(tables[0]["crop_label"].to_numpy(np.int32))
        where = [json.loads(text)["coordinates"] for text in tables[0][".geo"]]
        points.append(np.asarray(where, np.float64))
        regions += [zone] * len(where)
        ids += [f"{zone}-{row}" for row in range(len(where))]
    values, place = np.concatenate(cubes) * _REFLECTANCE, np.concatenate(points)
    middle = [f"2021-{month:02d}-{day:02d}" for month in range(1, 13) for day in (5, 15, 25)]
    series = ParcelSeries.build(
        bands=_ARKANSAS_BANDS, values=values, mask=(values != 0).any(-1),
        day=np.tile(_days(np.asarray(middle, "datetime64[D]")), (len(values), 1)), parcel_id=ids, year=2021,
        region=regions, label=np.concatenate(labels), lon=place[:, 0], lat=place[:, 1],
    )  # fmt: skip
    legend = Legend.from_codes("cdl-arkansas", _ARKANSAS_CROPS, _ARKANSAS_CROPS)
    return RealData(series, legend, gpd.GeoSeries.from_xy(place[:, 0], place[:, 1], crs="EPSG:4326"))


def _arkansas_table(root: Path, dekad: int, zone: str) -> pd.DataFrame:
    path = require_input(root / f"ARK_T{dekad:02d}_{zone}.csv.gz", "Arkansas composite")
    with gzip.open(path, "rt", encoding="utf-8") as stream:
        return pd.read_csv(stream)


def central_asia(root: Path, *, region: str = "Fergana", first_year: int = 2015, last_year: int = 2018) -> RealData:
    """Field polygons with 16-day NDVI of the survey year; every crop whose name begins with `wheat` is one class."""
    attributes = pd.read_csv(require_input(root / "DERIVED_attributes_from_rds.csv", "field attributes"))
    ndvi = pd.read_csv(require_input(root / "CAWa_CropType_time-series.csv", "NDVI series")).to_numpy(np.float64)
    fields = gpd.read_file(require_input(root / "CAWa_CropType_samples.shp", "field polygons"))
    rows = np.flatnonzero((attributes["region"] == region) & attributes["year"].between(first_year, last_year))
    attributes, ndvi, geometry = attributes.iloc[rows], ndvi[rows], fields.geometry.iloc[rows].reset_index(drop=True)
    crop = attributes["label_1"].where(~attributes["label_1"].str.startswith("wheat"), "wheat").tolist()
    legend = Legend.from_codes("cawa", crop)
    year = attributes["year"].to_numpy(np.int16)
    start = _days((year.astype(np.int64) - 1970).astype("datetime64[Y]"))
    inside = geometry.representative_point()
    series = ParcelSeries.build(
        bands=("NDVI",), values=ndvi[..., None], mask=np.isfinite(ndvi), day=start[:, None] + _MODIS_DAYS,
        parcel_id=[f"field-{row}" for row in rows], year=year, region=region, label=legend.encode(crop),
        lon=inside.x.to_numpy(), lat=inside.y.to_numpy(),
    )  # fmt: skip
    return RealData(series, legend, geometry)


def modis(root: Path) -> RealData:
    """2,115 MODIS pixels of Mato Grosso, six bands on 23 dates of 16 days, labelled by the season from September on.

    The year of a row is that of its harvest: seasons that begin in September 2015 are of 2016.
    """
    import rdata

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        (table,) = rdata.read_rda(require_input(root / "samples_mt_9classes.rda", "MODIS samples")).values()
    crop = [str(name) for name in table["label"]]
    legend = Legend.from_codes("mato-grosso", crop)
    days = np.stack([season["Index"].to_numpy() for season in table["time_series"]]).astype(np.int32)
    values = np.stack([season[[b.lower() for b in _MODIS_BANDS]].to_numpy() for season in table["time_series"]])
    place = table[["longitude", "latitude"]].to_numpy(np.float64)
    series = ParcelSeries.build(
        bands=_MODIS_BANDS, values=values, mask=np.isfinite(values).all(-1), day=days,
        parcel_id=[f"{lon:.4f} {lat:.4f}" for lon, lat in place],
        year=days[:, 0].astype("datetime64[D]").astype("datetime64[Y]").astype(np.int64) + 1971,
        region="Mato Grosso", label=legend.encode(crop), lon=place[:, 0], lat=place[:, 1],
    )  # fmt: skip
    return RealData(series, legend, gpd.GeoSeries.from_xy(place[:, 0], place[:, 1], crs="EPSG:4326"))


def france(root: Path) -> RealData:
    """500 parcels of the French register of 2023 with nine Sentinel-2 bands at ten-day steps from September 2022 on.

    65535 is a missing composite (46 % of the cells); seasons are cut at the end of October 2023.
    """
    table = pd.read_parquet(require_input(root / "timeseries/dekad_2023_FRA_LPIS_POLY_110.geoparquet", "series"))
    table = table[table["timestamp"] < "2023-11-01"]
    parcel, row = np.unique(table["sample_id"].astype(str), return_inverse=True)
    column = ((table["timestamp"] - table["timestamp"].min()).dt.days // 10).to_numpy()
    raw = table[[f"S2-L2A-{band}" for band in _FRANCE_BANDS]].to_numpy()
    values = np.zeros((len(parcel), column.max() + 1, len(_FRANCE_BANDS)))
    mask = np.zeros(values.shape[:2], bool)
    day = np.zeros(values.shape[:2], np.int32)
    day[:] = _days(np.datetime64(table["timestamp"].min(), "D") + 10 * np.arange(column.max() + 1))
    values[row, column], mask[row, column] = raw * _REFLECTANCE, (raw < _MISSING).all(1)
    day[row, column] = _days(table["timestamp"].to_numpy())
    first = table.groupby("sample_id", observed=True).first().loc[parcel]
    crop = first["ewoc_code"].astype(str).tolist()
    legend = Legend.from_codes("worldcereal", crop)
    place = first[["lon", "lat"]].to_numpy(np.float64)
    series = ParcelSeries.build(
        bands=_FRANCE_BANDS, values=values, mask=mask, day=day, parcel_id=parcel.tolist(), year=2023, region="France",
        label=legend.encode(crop), lon=place[:, 0], lat=place[:, 1],
    )  # fmt: skip
    return RealData(series, legend, gpd.GeoSeries.from_xy(place[:, 0], place[:, 1], crs="EPSG:4326"))


def bavaria(root: Path) -> RealData:
    """301 Bavarian parcels of 2018 with half-monthly Sentinel-2 means (top of atmosphere), clouds left in."""
    table = pd.read_excel(require_input(root / "Test_bavaria.xlsx", "parcel means")).sort_values(["id", "Date"])
    parcels = gpd.read_file(require_input(root / "Test_area.shp", "parcels"))
    count = len(parcels)
    columns = [f"{name.replace('B0', 'B')}_mean" for name in _BAVARIA_BANDS]
    values = table[columns].to_numpy(np.float64).reshape(count, -1, len(columns)) * _REFLECTANCE
    code = table.groupby("id")["NC"].first().astype(str).tolist()
    names = dict(zip(parcels["NC_ant"].astype(int).astype(str), parcels["Nutz_ant"], strict=True))
    legend = Legend.from_codes("bavaria", code, names | {"400": "Mais", "600": "Kartoffeln"})
    inside = parcels.geometry.representative_point()
    series = ParcelSeries.build(
        bands=_BAVARIA_BANDS, values=values, mask=np.asarray(np.isfinite(values).all(-1)),
        day=_days(table["Date"].to_numpy()).reshape(count, -1), parcel_id=parcels["Feld"].to_numpy(str), year=2018,
        label=legend.encode(code), lon=inside.x.to_numpy(), lat=inside.y.to_numpy(),
    )  # fmt: skip
    return RealData(series, legend, parcels.geometry)


def patch_parcels(patch: Path) -> gpd.GeoDataFrame:
    """The crop raster burned into a patch as parcels of at least half a hectare: id, crop code, year, polygon."""
    with xr.open_dataset(next(patch.glob("OUTPUT*.nc")), engine="h5netcdf", mask_and_scale=False) as data:
        codes = data["CT"].to_numpy().astype("int32")
        x, y, attributes = data["x"].to_numpy(), data["y"].to_numpy(), dict(data.attrs)
    if y[1] > y[0]:
        codes, y = codes[::-1], y[::-1]
    transform = rasterio.Affine(10, 0, x[0] - 5, 0, -10, y[0] + 5)
    found = list(rasterio.features.shapes(codes, mask=codes > 0, transform=transform))
    frame = gpd.GeoDataFrame(
        {
            "parcel_id": [f"{patch.name[-4:]}-{row}" for row in range(len(found))],
            "crop_code": [str(int(value)) for _, value in found],
            "year": int(str(attributes["end_date"])[:4]),
        },
        geometry=[shapely.geometry.shape(outline) for outline, _ in found],
        crs=int(str(attributes["epsg"])),
    )
    return frame[frame.area >= 5000].reset_index(drop=True)
