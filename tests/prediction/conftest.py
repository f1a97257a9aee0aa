"""A small region: 90 parcels of three crops in two years, a store of their series, and finished runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely
import torch

from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model, save_model
from cropgen.prediction.novelty import calibrate, save_typicality
from cropgen.series.batches import make_batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import CropClass, Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

BANDS = ("B04", "B08")
LEGEND = Legend(
    "three",
    (
        CropClass("0010", "winter wheat", "#e0c040"),
        CropClass("4-1", "maïs", "#30a040"),
        CropClass("x", "fallow", "#808080"),
    ),
)
PARCELS = 90
CLOUDY = 5
RARELY_SEEN = 6


@dataclass(frozen=True)
class Region:
    folder: Path
    store: Path
    run: Path
    discriminative: Path
    parcels: gpd.GeoDataFrame
    layer: Path


def observed(year: int, seed: int) -> ParcelSeries:
    draw = np.random.default_rng(seed)
    label = np.arange(PARCELS) % 3
    start = np.datetime64(f"{year}-01-08", "D").astype(int)
    time = np.arange(10)
    season = 0.3 + 0.12 * np.sin(time[None, :, None] / 2 + label[:, None, None])
    mask = draw.random((PARCELS, 10)) > 0.25
    mask[CLOUDY] = False
    mask[RARELY_SEEN] = time == 4
    return ParcelSeries.build(
        bands=BANDS,
        values=season + 0.05 * draw.standard_normal((PARCELS, 10, 2)),
        mask=mask,
        day=np.tile(start + 32 * time, (PARCELS, 1)),
        parcel_id=[f"p{i:03d}" for i in range(PARCELS)],
        year=year,
        label=label,
    )


def geometry() -> gpd.GeoSeries:
    east, north = 500_000 + 100.0 * (np.arange(PARCELS) % 10), 5_000_000 + 100.0 * (np.arange(PARCELS) // 10)
    shapes = shapely.box(east, north, east + 90.1, north + 90.3)
    shapes[3] = shapely.MultiPolygon([shapes[3], shapely.box(0, 0, 1, 1)])
    return gpd.GeoSeries(shapes, crs="EPSG:32631")


def train(folder: Path, name: str, series: ParcelSeries) -> Path:
    torch.manual_seed(0)
    spec = InputSpec(BANDS, Calendar.fitted(series, "month"), LEGEND)
    batch = make_batch(series, spec.calendar)
    model = build_model(name, {}, spec)
    model.prepare(TrainingData(batch), Context())
    run = folder / "runs" / f"run-{name}"
    save_model(run, model.eval(), name)
    save_typicality(run, calibrate(model, batch))
    return run


@pytest.fixture(scope="session")
def region(tmp_path_factory: pytest.TempPathFactory) -> Region:
    folder = tmp_path_factory.mktemp("région")
    series = observed(2021, 0)
    store = SeriesStore.create(folder / "series.zarr", bands=BANDS, legend=LEGEND)
    store.append(series, geometry())
    store.append(observed(2022, 1), geometry())
    order = np.random.default_rng(5).permutation(PARCELS)
    shapes = geometry()
    parcels = gpd.GeoDataFrame(
        {
            "parcel_id": [*(f"p{i:03d}" for i in order), "stranger"],
            "crop_code": "declared",
            "area": np.arange(PARCELS + 1, dtype=np.float32) / 7,
            "number": np.arange(PARCELS + 1, dtype=np.int16),
        },
        geometry=[*shapes.iloc[order], None],
        crs=shapes.crs,
    )
    layer = folder / "fields_2021.gpkg"
    pyogrio.write_dataframe(parcels, layer, layer="fields", geometry_type="Unknown")
    return Region(folder, store.path, train(folder, "tgem", series), train(folder, "rf", series), parcels, layer)
