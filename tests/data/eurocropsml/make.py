"""EuroCropsML in its published layout, from a seed: `preprocess.zip` with one npz file per parcel, `split.zip`."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

BANDS = ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12")
CODES = ("3301010101", "3301010401", "3301060401", "3302000000", "3399000000")
NUTS3 = {"EE": ("EE001", "EE008"), "LV": ("LV003", "LV007", "LV00A"), "PT": ("PT16B",)}
SHOTS = ("1", "5", "all")


@dataclass(frozen=True)
class Parcel:
    """A parcel: its file's name, stored numbers (T, 13), dates (T,), centre (lon, lat)."""

    name: str
    data: np.ndarray
    dates: np.ndarray
    center: np.ndarray

    @property
    def code(self) -> str:
        return self.name.removesuffix(".npz").rpartition("_")[2]

    @property
    def id(self) -> str:
        return self.name.rpartition("_")[0]


def parcels(seed: int, count: int) -> list[Parcel]:
    """`count` parcels of every country in no order of names."""
    rng = np.random.default_rng(seed)
    made = []
    for regions in NUTS3.values():
        for number in range(count):
            dates = rng.choice(365, size=rng.integers(4, 20), replace=False)
            day = np.sort(np.datetime64("2021-01-01") + dates)
            name = f"{rng.choice(regions)}_{rng.integers(10**6, 10**7)}_{CODES[number % len(CODES)]}.npz"
            center = np.asarray([rng.uniform(21, 28), rng.uniform(56, 59)])
            made.append(Parcel(name, rng.integers(100, 9000, (len(day), 13)), day, center))
    return [made[i] for i in rng.permutation(len(made))]


def npz(parcel: Parcel) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, data=parcel.data, dates=parcel.dates, center=parcel.center)
    return buffer.getvalue()


def write_preprocess(folder: Path, made: list[Parcel]) -> Path:
    path = folder / "preprocess.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("preprocess/", "")
        for parcel in made:
            archive.writestr(f"preprocess/{parcel.name}", npz(parcel))
    return path


def lists(made: list[Parcel], sources: tuple[str, ...]) -> dict[str, dict[str, list[str]]]:
    """Path inside a case → its lists: pretraining 80 % and 20 % of the sources, shots of half of Estonia."""
    source = sorted(p.name for p in made if p.name.startswith(sources))
    target = sorted(p.name for p in made if p.name.startswith("EE"))
    cut, half, rest = len(source) * 4 // 5, len(target) // 2, len(target) * 3 // 4
    found = {"pretrain/region_split.json": {"train": source[:cut], "val": source[cut:]}}
    for shots in SHOTS:
        train: list[str] = []
        for code in CODES:
            of_class = [name for name in target[:half] if f"_{code}." in name]
            train += of_class if shots == "all" else of_class[: int(shots)]
        path = f"finetune/region_split_{shots}.json"
        found[path] = {"train": train, "val": target[half:rest], "test": target[rest:]}
    return found


def write_split(folder: Path, made: list[Parcel]) -> Path:
    path = folder / "split.zip"
    cases = {"latvia_vs_estonia": ("LV",), "latvia_portugal_vs_estonia": ("LV", "PT")}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for case, sources in cases.items():
            for inside, sides in lists(made, sources).items():
                archive.writestr(f"split/{case}/{inside}", json.dumps(sides))
            archive.writestr(f"split/{case}/meta/region_split.json", json.dumps({"train": {}, "val": {}}))
            archive.writestr(f"split/{case}/counts/finetune/region_split.csv", "0,3301010101,3\n")
    return path


def write(folder: Path, seed: int = 1, count: int = 40) -> list[Parcel]:
    folder.mkdir(parents=True, exist_ok=True)
    made = parcels(seed, count)
    write_preprocess(folder, made)
    write_split(folder, made)
    return made
