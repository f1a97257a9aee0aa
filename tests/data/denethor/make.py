"""A folder as users have of DENETHOR, from a seed, and the truth it was made from.

Two layouts were published: that of the challenge (`PlanetL3H/Train/PF-SR/2018-01-31.tif`, `S2/Train/s2_train.zip`,
`S1/Train/s1_train_asc.zip`, `crops_train_2018.geojson`) and that of Radiant MLHub (one folder per image with `sr.tif`,
stacks unpacked in lower case, `labels.geojson`). Fields are squares on the grids of all sensors, so that a mean over a
field is a mean over a slice.
"""

from __future__ import annotations

import datetime
import gzip
import io
import json
import pickle
import sys
import types
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import numpy as np
import rasterio
import shapely

CRS = 32633
SIDE = 240
YEARS = {"train": 2018, "test": 2019}
CORNER = {"train": (432_000.0, 5_808_000.0), "test": (408_000.0, 5_832_000.0)}
NAMES = ("Wheat", "Rye", "Barley", "Oats", "Corn", "Oil Seeds", "Root Crops", "Meadows", "Forage Crops")
PLACES = {11: (0, 0), 12: (60, 0), 13: (120, 60), 14: (180, 180), 15: (0, 120)}
CROPS = {11: 1, 12: 5, 13: 8, 14: 9, 15: 1}
SMALL, UNLISTED, OUTSIDE = 21, 22, 23
PIXEL = {"PF": 3, "S2": 10, "S1": 10}


@dataclass
class Tile:
    """A tile: its sensors' days, arrays (T, H, W, C) as stored, and the fields of `PLACES`."""

    name: str
    days: dict[str, np.ndarray] = field(default_factory=dict)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def mean(self, array: str, fid: int, sensor: str) -> np.ndarray:
        """(T, C) mean of an array over the pixels of a field."""
        east, south = PLACES[fid]
        step = PIXEL[sensor]
        rows = slice((SIDE - south - 60) // step, (SIDE - south) // step)
        return self.arrays[array][:, rows, east // step : (east + 60) // step].astype(float).mean((1, 2))


def make(seed: int, name: str, images: int = 4) -> Tile:
    """A tile; one Planet image has no value over field 11, one Sentinel-1 pixel is not finite, orbits share one day."""
    random, tile = np.random.default_rng([seed, YEARS[name]]), Tile(name)
    start = np.datetime64(f"{YEARS[name]}-01-01")
    tile.days["PF"] = start + np.arange(images)
    tile.days["S2"] = start + np.asarray([3, 8, 8, 13, 40])
    tile.days["asc"], tile.days["des"] = start + np.asarray([1, 7, 13]), start + np.asarray([2, 7, 30, 31])
    fine, coarse = SIDE // PIXEL["PF"], SIDE // PIXEL["S2"]
    tile.arrays["PF"] = random.integers(1, 9000, (images, fine, fine, 4)).astype(np.uint16)
    tile.arrays["PF"][1, 60:80, 0:20] = 0
    tile.arrays["BANDS"] = random.integers(1, 9000, (5, coarse, coarse, 12)).astype(np.uint16)
    tile.arrays["CLP"] = np.zeros((5, coarse, coarse, 1), np.uint8)
    tile.arrays["CLP"][2, :, : coarse // 2] = 200
    for orbit in ("asc", "des"):
        for channel in ("VV", "VH"):
            backscatter = random.normal(-12, 3, (len(tile.days[orbit]), coarse, coarse, 2)).astype(np.float32)
            tile.arrays[f"{channel}_{orbit}"] = backscatter
    return tile


def write_labels(path: Path, tile: Tile) -> None:
    """Fields in another coordinate system than the images, with those that must be left out."""
    east, south = CORNER[tile.name]
    squares = {fid: shapely.box(east + x, south + y, east + x + 60, south + y + 60) for fid, (x, y) in PLACES.items()}
    squares[SMALL] = shapely.box(east + 180, south, east + 210, south + 30)
    squares[UNLISTED] = shapely.box(east + 60, south + 180, east + 120, south + 240)
    squares[OUTSIDE] = shapely.box(east + 500, south, east + 560, south + 60)
    crops = CROPS | {SMALL: 2, UNLISTED: 10, OUTSIDE: 3}
    frame = gpd.GeoDataFrame(
        {
            "fid": list(squares),
            "crop_id": [crops[f] for f in squares],
            "crop_name": [(*NAMES, "Other")[crops[f] - 1] for f in squares],
        },
        geometry=list(squares.values()),
        crs=CRS,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_crs(25833).to_file(path, driver="GeoJSON")
    assert json.loads(path.read_text())["crs"]["properties"]["name"].endswith("25833")


def write_planet(path: Path, image: np.ndarray, tile: Tile) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    east, south = CORNER[tile.name]
    height, width, channels = image.shape
    transform = rasterio.Affine(SIDE / width, 0, east, 0, -SIDE / width, south + SIDE)
    with rasterio.open(
        path, "w", driver="GTiff", height=height, width=width, count=channels, dtype="uint16", crs=CRS,
        transform=transform,
    ) as sink:  # fmt: skip
        sink.write(np.moveaxis(image, -1, 0))


def challenge(folder: Path, tiles: list[Tile]) -> None:
    """The layout of the challenge: images in folders, stacks packed, their files packed again."""
    for tile in tiles:
        title, year = tile.name.title(), YEARS[tile.name]
        write_labels(folder / f"crops_{tile.name}_{year}.geojson", tile)
        for day, image in zip(tile.days["PF"], tile.arrays["PF"], strict=True):
            write_planet(folder / f"PlanetL3H/{title}/PF-SR/{day}.tif", image, tile)
            write_planet(folder / f"PlanetL3H/{title}/PF-QA/{day}.tif", image[..., :2], tile)
        _pack(folder / f"S2/{title}/s2_{tile.name}.zip", _stack(tile, "S2", ("BANDS", "CLP")))
        for orbit in ("asc", "des"):
            names = (f"VV_{orbit}", f"VH_{orbit}")
            _pack(folder / f"S1/{title}/s1_{tile.name}_{orbit}.zip", _stack(tile, orbit, names))


def mlhub(folder: Path, tiles: list[Tile]) -> None:
    """The layout of Radiant MLHub: one folder per image, stacks unpacked."""
    place = {"train": "33N_18E_242N", "test": "33N_17E_243N"}
    for tile in tiles:
        head = f"dlr_fusion_competition_germany_{tile.name}"
        where = place[tile.name]
        write_labels(folder / f"{head}_labels/{head}_labels_{where}/labels.geojson", tile)
        for day, image in zip(tile.days["PF"], tile.arrays["PF"], strict=True):
            name = f"{head}_source_planet_{where}_{str(day).replace('-', '_')}"
            write_planet(folder / f"{head}_source_planet/{name}/sr.tif", image, tile)
        stack = folder / f"{head}_source_sentinel_2/{head}_source_sentinel_2_{where}_{YEARS[tile.name]}"
        for name, content in _stack(tile, "S2", ("BANDS", "CLP")).items():
            plain = name.removesuffix(".gz").removeprefix("data/").lower()
            stack.mkdir(parents=True, exist_ok=True)
            (stack / plain).write_bytes(gzip.decompress(content) if name.endswith(".gz") else content)


def _stack(tile: Tile, sensor: str, arrays: tuple[str, ...]) -> dict[str, bytes]:
    """The files of a stack as eo-learn writes them."""
    files = {}
    for name in arrays:
        raw = io.BytesIO()
        np.save(raw, tile.arrays[name])
        files[f"data/{name.split('_')[0]}.npy.gz"] = gzip.compress(raw.getvalue(), 1)
    stamps = [
        datetime.datetime.combine(day.astype(object), datetime.time(10, 8, 7, 123), tzinfo=datetime.UTC)
        for day in tile.days[sensor]
    ]
    files["timestamp.pkl.gz"] = gzip.compress(pickle.dumps(stamps))
    files["bbox.pkl"] = pickled_box(tile)
    return files


def pickled_box(tile: Tile, protocol: int = pickle.DEFAULT_PROTOCOL) -> bytes:
    """A bounding box as the package sentinelhub pickles it."""
    east, south = CORNER[tile.name]
    with _sentinelhub() as (box, crs):
        made = box()
        made._crs = crs(str(CRS))
        made.min_x, made.min_y, made.max_x, made.max_y = east, south, east + SIDE, south + SIDE
        return pickle.dumps(made, protocol)


@contextmanager
def _sentinelhub() -> Iterator[tuple[type, type]]:
    """Stand-ins for the classes of sentinelhub, importable by their names while an object is pickled."""
    import enum

    geometry, constants = types.ModuleType("sentinelhub.geometry"), types.ModuleType("sentinelhub.constants")
    box = type("BBox", (), {"__module__": geometry.__name__})
    crs = enum.Enum("CRS", {"UTM_33N": str(CRS), "WGS84": "4326"}, module=constants.__name__)
    geometry.BBox, constants.CRS = box, crs  # type: ignore[attr-defined]
    names = {"sentinelhub": types.ModuleType("sentinelhub"), geometry.__name__: geometry, constants.__name__: constants}
    before = {name: sys.modules.get(name) for name in names}
    sys.modules.update(names)
    try:
        yield box, crs
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def _pack(path: Path, files: dict[str, bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(f"{path.stem}/{name}", content)
