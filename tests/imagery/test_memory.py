"""Memory does not grow with the parcels, but for a few bytes each."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely

from cropgen.core.progress import Silent
from cropgen.imagery import aggregate as module
from cropgen.imagery import ahead, overlaps, pixels, zonal
from cropgen.imagery.aggregate import AggregateOptions, aggregate
from cropgen.series import layout, parcel_spool, polygon_file
from tests.imagery.scene_files import NORTH, UTM, WEST, write_date

FEW, MANY = 8_000, 60_000
MOST_BYTES = 100  # threads that read beside each other move the peak by half a megabyte: some 10 bytes a parcel
STEP = 40.0


def region(folder: Path, side: int) -> tuple[Path, Path]:
    """A square of so many parcels along each side, as densely strewn whatever their number."""
    size = int(side * STEP / 10)
    write_date(folder / "scenes" / "20210605", {"B04": np.full((size, size), 3000)})
    east, south = (axis.ravel() * STEP for axis in np.meshgrid(np.arange(side), np.arange(side)))
    shapes = shapely.box(WEST + east, NORTH - south - 31, WEST + east + 31, NORTH - south)
    columns = {"id": [f"p{i}" for i in range(side**2)], "crop": np.array(["rye", "oats"])[np.arange(side**2) % 2]}
    gpd.GeoDataFrame(columns, geometry=shapes, crs=UTM).to_parquet(folder / "p_2021.parquet")
    return folder / "scenes", folder / "p_2021.parquet"


def peak(folder: Path, parcels: int) -> int:
    scenes, layer = region(folder, int(parcels**0.5))
    options = AggregateOptions.model_validate({"buffer": 0, "clear": (), "shard": 2048})
    tracemalloc.start()
    try:
        assert aggregate(scenes, layer, folder / "series.zarr", options, Silent()).rows == int(parcels**0.5) ** 2
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_a_parcel_more_is_a_few_bytes_more(tmp_path, monkeypatch):
    for place in (overlaps, parcel_spool, polygon_file, zonal):
        monkeypatch.setattr(place, "_AT_A_TIME", 2048)
    for place in (ahead, pixels):
        monkeypatch.setattr(place, "CELL_ROWS", 64)
        monkeypatch.setattr(place, "CELL_COLUMNS", 256)
    monkeypatch.setattr(module, "_FEW_PARCELS", 2048)
    monkeypatch.setattr(layout, "_INDEX_ROWS", 2048)
    _, few, many = (peak(tmp_path / str(count), count) for count in (100, FEW, MANY))
    assert (many - few) / (MANY - FEW) < MOST_BYTES
