"""Files in the published layout of TimeSen2Crop, from a seed, and the truth they were made from."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HEADER = "B1,B2,B3,B4,B5,B6,B7,B8,B9,Flag"
MEANING = ("B02", "B03", "B04", "B05", "B06", "B07", "B8A", "B11", "B12")
ROOT = "TimeSen2Crop"


@dataclass(frozen=True)
class Tile:
    """A folder of the archive.

    Arguments:
        name: a tile, or `2019_33UVP`.
        dates: (T,) datetime64[D].
        pixels: (class, number) → (T, 10) integers: reflectance × 10,000 in the order of `MEANING`, and the flag.
    """

    name: str
    dates: np.ndarray
    pixels: dict[tuple[int, int], np.ndarray]


def make(seed: int, names: tuple[str, ...] = ("33TUN", "33UVP", "2019_33UVP"), per_class: int = 3) -> list[Tile]:
    """Tiles, each with its own number of dates; the first lacks class 7, and pixel 1 is missing everywhere."""
    tiles = []
    for position, name in enumerate(names):
        random = np.random.default_rng([seed, position])
        start = np.datetime64("2018-09-01" if name.startswith("2019") else "2017-09-01")
        dates = start + np.sort(random.choice(365, 5 + 2 * position, replace=False))
        pixels = {}
        for crop in range(16):
            for number in range(per_class + 1):
                if number != 1 and not (crop == 7 and position == 0):
                    bands = random.integers(1, 9000, (len(dates), 9))
                    pixels[crop, number] = np.column_stack([bands, random.integers(0, 4, len(dates))])
        tiles.append(Tile(name, dates, pixels))
    return tiles


def contents(tiles: list[Tile]) -> dict[str, str]:
    """Path below the root folder → text of every file; classes in the order of a file listing."""
    files = {}
    for tile in tiles:
        days = [str(d).replace("-", "") for d in tile.dates]
        files[f"{tile.name}/dates.csv"] = "\n".join(["acquisition_date", *days]) + "\n"
        for crop, number in sorted(tile.pixels, key=lambda key: (str(key[0]), str(key[1]))):
            lines = [",".join(map(str, line)) for line in tile.pixels[crop, number].tolist()]
            files[f"{tile.name}/{crop}/{number}.csv"] = "\n".join([HEADER, *lines]) + "\n"
    return files


def write_zip(folder: Path, tiles: list[Tile]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{ROOT}.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{ROOT}/", "")
        for name, text in contents(tiles).items():
            archive.writestr(f"{ROOT}/{name}", text)
    return path


def write_folder(folder: Path, tiles: list[Tile]) -> Path:
    """The same unpacked, with the line ends of another system."""
    for name, text in contents(tiles).items():
        path = folder / ROOT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("\n", "\r\n"), encoding="utf-8", newline="")
    return folder / ROOT
