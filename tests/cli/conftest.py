"""A small workspace made by code: a table with polygons, a scene folder, a trained run; and the real process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import shapely
from rasterio import Affine

CRS = "EPSG:32631"
ORIGIN = (500_000.0, 5_400_000.0)
CROPS = {"0101": "wheat", "0102": "maize", "0103": "beet"}


@dataclass(frozen=True)
class Ended:
    """A process that ended."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", "NO_COLOR": "1"}


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-W", "error::DeprecationWarning:cropgen", "-m", "cropgen.cli.main", *map(str, words)]


def call(*words: str | Path, preexec: Callable[[], None] | None = None) -> Ended:
    """Run `cropgen` with these words as a process of its own."""
    done = subprocess.run(
        command(*words), capture_output=True, text=True, timeout=180, env=environment(), preexec_fn=preexec
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


def interrupted_when(ready: Callable[[], bool], *words: str | Path) -> Ended:
    """Run `cropgen` and press Ctrl-C as soon as `ready` holds."""
    process = subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )
    deadline = time.monotonic() + 120
    while not ready():
        assert process.poll() is None, "ended before it could be interrupted"
        assert time.monotonic() < deadline, "never became ready"
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "Traceback" not in err, err
    return Ended(process.returncode, out, err)


def squares(count: int, side: float = 60.0) -> list[shapely.Polygon]:
    """`count` squares in rows of eight, 80 m apart, south-east of the origin."""
    x0, y0 = ORIGIN
    corners = [(x0 + 80 * (i % 8) + 10, y0 - 80 * (i // 8) - 10) for i in range(count)]
    return [shapely.box(x, y - side, x + side, y) for x, y in corners]


def write_parcels(path: Path, count: int = 48, year: int = 2021) -> Path:
    """Parcels with id, crop, year, and columns of the user's own."""
    codes = list(CROPS)
    crop = [codes[i % 3] for i in range(count)]
    frame = gpd.GeoDataFrame(
        {
            "parcel_id": [f"P{i:03d}" for i in range(count)],
            "crop_code": crop,
            "crop_name": [CROPS[c] for c in crop],
            "year": year,
            "note": [None if i % 5 == 0 else f"n{i}" for i in range(count)],
        },
        geometry=squares(count),
        crs=CRS,
    )
    frame.to_file(path, driver="GPKG")
    return path


def write_table(path: Path, count: int = 48, cloudy: tuple[str, ...] = ()) -> Path:
    """A long table of NDVI-like seasons that differ by crop; parcels of `cloudy` are never clear."""
    draw = np.random.default_rng(0)
    codes, rows = list(CROPS), []
    for parcel in range(count):
        name, kind = f"P{parcel:03d}", parcel % 3
        for month in range(1, 13):
            season = np.exp(-(((month - 4 - 2.5 * kind) / 2.0) ** 2))
            red, nir = 0.15 - 0.1 * season, 0.2 + 0.25 * season
            noise = draw.normal(0, 0.012, 2)
            clear = 0 if name in cloudy else 1
            rows.append((name, f"2021-{month:02d}-15", red + noise[0], nir + noise[1], codes[kind], clear))
    pd.DataFrame(rows, columns=["parcel_id", "date", "B04", "B08", "crop_code", "clear"]).to_csv(path, index=False)
    return path


def write_scenes(folder: Path, dates: tuple[str, ...] = ("20210415", "20210615", "20210815")) -> Path:
    """A folder per date with B04, B08 at 10 m and SCL at 20 m over the squares; all clear."""
    draw = np.random.default_rng(1)
    for date in dates:
        (folder / date).mkdir(parents=True)
        for band, size, step in (("B04", 80, 10), ("B08", 80, 10), ("SCL", 40, 20)):
            shape = (size, size)
            data = np.full(shape, 4, np.uint8) if band == "SCL" else draw.integers(1500, 4000, shape).astype(np.uint16)
            profile = {
                "driver": "GTiff", "height": size, "width": size, "count": 1, "dtype": data.dtype, "crs": CRS,
                "transform": Affine(step, 0, ORIGIN[0], 0, -step, ORIGIN[1]), "nodata": 0, "tiled": False,
            }  # fmt: skip
            with rasterio.open(folder / date / f"{band}.tif", "w", **profile) as target:
                target.write(data, 1)
                if band != "SCL":
                    target.scales, target.offsets = (1e-4,), (-0.1,)
    return folder


@pytest.fixture(scope="session")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a store of 48 parcels (P047 never clear) and a run of `tgem` called `base`."""
    root = tmp_path_factory.mktemp("workspace")
    table = write_table(root / "fields.csv", cloudy=("P047",))
    parcels = write_parcels(root / "parcels.gpkg")
    made = call("import", table, "--parcels", parcels, "--clear-column", "clear", "--workspace", root)
    assert made.code == 0, made.err
    trained = call("train", "--model", "tgem", "--labels", "50%", "--name", "base", "--workspace", root)
    assert trained.code == 0, trained.err
    return root
