"""CropHarvest in its published layout, from a seed: labels.geojson, features.tar.gz, test_features.tar.gz."""

from __future__ import annotations

import io
import json
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

RAW_BANDS = (
    "VV", "VH", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B11", "B12", "temperature_2m",
    "total_precipitation", "elevation", "slope", "NDVI",
)  # fmt: skip
PLACES = {
    "kenya": (36.0, 0.5), "kenya-non-crop": (38.0, -1.0), "lem-brazil": (-45.8, -12.2), "togo": (1.0, 8.0),
    "togo-eval": (1.1, 8.1), "central-asia": (66.0, 39.0),
}  # fmt: skip
KINDS: dict[str, tuple[tuple[str | None, str | None, int], ...]] = {
    "kenya": (("maize", "cereals", 1), ("cassava", "root_tuber", 1), (None, None, 1)),
    "kenya-non-crop": ((None, None, 0), ("forest", "non_crop", 0)),
    "lem-brazil": (("coffee", "beverage_spice", 1), ("soybean", "oilseeds", 1), ("pasture", "non_crop", 0)),
    "togo": ((None, None, 1), (None, None, 0)),
    "togo-eval": ((None, None, 1), (None, None, 0)),
    "central-asia": (("winter wheat", "cereals", 1), ("Cotton", "other", 1)),
}
ENDS = {"central-asia": "2017-02-01T00:00:00", "togo": "2020-02-01T00:00:00", "togo-eval": "2020-02-01T00:00:00"}


@dataclass(frozen=True)
class Point:
    """A labelled point; array (12, 18) as stored, None where the publisher has none."""

    index: int
    dataset: str
    lon: float
    lat: float
    label: str | None
    group: str | None
    is_crop: int
    is_test: bool
    end: str
    array: np.ndarray | None

    @property
    def id(self) -> str:
        return f"{self.index}_{self.dataset}"


@dataclass(frozen=True)
class Tests:
    """A file of test pixels: x (N, 12, 18), y (N,) 1, 0 or −1, lats, lons (N,)."""

    name: str
    x: np.ndarray
    y: np.ndarray
    lats: np.ndarray
    lons: np.ndarray


def arrays(rng: np.random.Generator, count: int) -> np.ndarray:
    """(count, 12, 18) float64: dB, counts, K, m, m, degrees, and the NDVI of the wrong columns, as it is published."""
    x = np.empty((count, 12, 18))
    x[..., :2] = rng.uniform(-25, -5, (count, 12, 2))
    x[..., 2:13] = rng.integers(50, 8000, (count, 12, 11))
    x[..., 13] = rng.uniform(280, 310, (count, 12))
    x[..., 14] = rng.uniform(0, 0.3, (count, 12))
    x[..., 15] = rng.uniform(0, 2500, (count, 1))
    x[..., 16] = rng.uniform(0, 30, (count, 1))
    wrong_near, wrong_red = x[..., RAW_BANDS.index("B7")], x[..., RAW_BANDS.index("B3")]
    x[..., 17] = (wrong_near - wrong_red) / (wrong_near + wrong_red)
    return x


def points(seed: int, count: int = 8) -> list[Point]:
    """`count` points of every campaign; some without an array, some inside test regions."""
    rng = np.random.default_rng(seed)
    made = []
    for dataset, (lon, lat) in PLACES.items():
        x = arrays(rng, count)
        for number in range(count):
            label, group, crop = KINDS[dataset][number % len(KINDS[dataset])]
            test = dataset == "togo-eval" or (dataset == "kenya" and number == 0)
            stored = None if number == count - 1 and not test else x[number]
            here = (lon + float(rng.uniform(-0.1, 0.1)), lat + float(rng.uniform(-0.1, 0.1)))
            end = ENDS.get(dataset, "2021-02-01T00:00:00")
            made.append(Point(number, dataset, *here, label, group, crop, test, end, stored))
    return made


def pixels(seed: int, count: int) -> list[Tests]:
    rng = np.random.default_rng(seed + 1)
    names = ("Kenya_maize_2020_0_0", "Kenya_maize_2020_1_0", "Brazil_coffee_2021_0_0", "togo-eval")
    return [
        Tests(
            name, arrays(rng, count), rng.integers(0 if name == "togo-eval" else -1, 2, count),
            rng.uniform(-12, 9, count), rng.uniform(-45, 35, count),
        )
        for name in names
    ]  # fmt: skip


def write_labels(folder: Path, made: list[Point]) -> Path:
    features = []
    for p in made:
        properties: dict[str, Any] = {
            "harvest_date": None, "planting_date": None, "label": p.label, "classification_label": p.group,
            "index": p.index, "is_crop": p.is_crop, "lat": p.lat, "lon": p.lon, "dataset": p.dataset,
            "collection_date": "2021-08-01T00:00:00", "export_end_date": p.end, "is_test": p.is_test,
            "externally_contributed_dataset": False,
        }  # fmt: skip
        geometry = {"type": "Point", "coordinates": [p.lon, p.lat]}
        features.append({"type": "Feature", "properties": properties, "geometry": geometry})
    system = {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}}
    path = folder / "labels.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": system, "features": features}), encoding="utf-8")
    return path


def h5(**content: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for key, array in content.items():
            file.create_dataset(key, data=array)
    return buffer.getvalue()


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    """A tar.gz with its folders as members, as it is published."""
    with tarfile.open(path, "w:gz") as tar:
        for folder in sorted({str(Path(name).parent) for name in members}):
            entry = tarfile.TarInfo(folder)
            entry.type = tarfile.DIRTYPE
            tar.addfile(entry)
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def write_features(folder: Path, made: list[Point]) -> Path:
    rng = np.random.default_rng(5)
    stored = [p for p in made if p.array is not None]
    ordered = [stored[i] for i in rng.permutation(len(stored))]
    members = {f"features/arrays/{p.id}.h5": h5(array=p.array) for p in ordered if p.array is not None}
    members["features/normalizing_dict.h5"] = h5(mean=np.zeros(18), std=np.ones(18))
    return write_archive(folder / "features.tar.gz", members)


def write_tests(folder: Path, made: list[Tests]) -> Path:
    members = {f"test_features/{t.name}.h5": h5(x=t.x, y=t.y, lats=t.lats, lons=t.lons) for t in made}
    return write_archive(folder / "test_features.tar.gz", members)


def write(folder: Path, seed: int = 1, count: int = 8) -> tuple[list[Point], list[Tests]]:
    folder.mkdir(parents=True, exist_ok=True)
    made, tests = points(seed, count), pixels(seed, 18)
    write_labels(folder, made)
    write_features(folder, made)
    write_tests(folder, tests)
    return made, tests
