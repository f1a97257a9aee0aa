"""Files in the published layout of BreizhCrops, from a seed, and the truth they were made from.

Names, headers, column orders and dtypes are the published ones: h5 arrays are float64 with the date in nanoseconds, csv
columns of L1C are alphabetical, the csv's first column is the image's name without a header, some rows lack values,
some days come twice, some parcels have no observation (and no csv file), and some have a crop that no class covers.
"""

from __future__ import annotations

import tarfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import h5py
import numpy as np
import shapely

BANDS = {
    "L1C": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B10", "B11", "B12"),
    "L2A": ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12"),
}
FLAGS = {"L1C": {"QA60": 1024.0}, "L2A": {"CLD": 1.0, "EDG": 1.0, "SAT": 1.0}}
H5_COLUMNS = {
    "L1C": [
        "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12", "QA10", "QA20", "QA60", "doa",
    ],
    "L2A": ["doa", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12", "CLD", "EDG", "SAT"],
}  # fmt: skip
CSV_COLUMNS = {
    "L1C": [
        "B1", "B10", "B11", "B12", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "QA10", "QA20", "QA60", "doa",
        "label", "id",
    ],
    "L2A": [
        "doa", "id", "code_cultu", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12", "CLD", "EDG", "SAT",
    ],
}  # fmt: skip
CLASSES = (
    ("barley", ("ORH", "ORP")), ("wheat", ("BTH", "BTP")), ("rapeseed", ("CZH", "CZP")),
    ("corn", ("MID", "MIE", "MIS")), ("sunflower", ("TRN",)), ("orchards", ("VRG", "PWT", "PFR", "AGR")),
    ("nuts", ("CAB", "CTG", "NOS", "NOX", "PIS")), ("permanent meadows", ("PPH", "PRL")),
    ("temporary meadows", ("PTR", "RGA")),
)  # fmt: skip
UNLISTED = ("SPH", "TTH")
_FLAGGED = np.asarray([0.0] * 6 + [0.01, 0.2, 1.0, 1.0])
_NANOSECONDS = 86_400_000_000_000
_CODES = (
    "Code Culture;Libellé Culture;Code Groupe Culture;Libellé Groupe Culture\n"
    "BTH;Blé tendre d'hiver;1;Blé tendre\nBTP;Blé tendre de printemps;1;Blé tendre\nMIS;Maïs;2;Maïs grain et ensilage\n"
    "MIE;Maïs ensilage;2;Maïs grain et ensilage\nSPH;Surface pastorale;18;Prairies permanentes\n"
)


@dataclass(frozen=True)
class Parcel:
    """What is known of one parcel: (T, C) bands × 10,000 in the order of `BANDS`, (T,) days, (T, F) flags."""

    id: int
    code: str
    day: np.ndarray
    bands: np.ndarray
    flags: np.ndarray


def parcels(seed: int, count: int, *, year: int = 2017, level: str = "L1C", dates: int = 30) -> Iterator[Parcel]:
    """Parcels of a region; every seventh has a crop that no class covers, every eleventh has no observation."""
    random = np.random.default_rng([seed, year, sorted(BANDS).index(level)])
    start = np.datetime64(f"{year}-01-01").astype("datetime64[D]").astype(int)
    listed = [code for _, codes in CLASSES for code in codes]
    for number in range(count):
        code = UNLISTED[number % 2] if number % 7 == 6 else listed[random.integers(len(listed))]
        length = 0 if number % 11 == 10 else int(random.integers(dates // 2, dates + 1))
        day = start + np.sort(random.choice(365, length, replace=False))
        bands = random.uniform(1, 6000, (length, len(BANDS[level])))
        least = np.asarray(list(FLAGS[level].values()))
        flags = _FLAGGED[random.integers(len(_FLAGGED), size=(length, len(least)))] * least
        yield Parcel(10_000 + 7 * number, code, day, bands, flags)


def write_tables(folder: Path) -> None:
    """`codes.csv` and both class mappings; the thirteen classes are represented by three."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [(k, name, code) for k, (name, codes) in enumerate(CLASSES) for code in codes]
    lines = [f"{i},{k},{name},{code}" for i, (k, name, code) in enumerate(rows)]
    (folder / "classmapping.csv").write_text("\n".join([",id,classname,code", *lines]) + "\n", encoding="utf-8")
    workshop = ",id,classname,code\n0,1,wheat,BTH\n1,0,barley,ORH\n2,2,misc.,SPH\n"
    (folder / "classmapping_icml.csv").write_text(workshop, encoding="utf-8")
    (folder / "codes.csv").write_text(_CODES, encoding="utf-8")


def series_path(year: int, level: str, region: str, parcel: int) -> str:
    return f"{year}/{level}/{region}/csv/{parcel}.csv"


def write_index(folder: Path, made: list[Parcel], region: str, year: int, level: str) -> Path:
    """The index as published, before the package rewrites it."""
    quality = {"L1C": "meanQA60", "L2A": "meanCLD"}[level]
    lines = [f",{quality},id,CODE_CULTU,path,idx,sequencelength"]
    for number, parcel in enumerate(made):
        mean = parcel.flags[:, 0].mean() if len(parcel.day) else 0.0
        where = series_path(year, level, region, parcel.id)
        lines.append(f"{number},{mean},{parcel.id},{parcel.code},{where},{number + 1},{len(parcel.day)}")
    path = folder / str(year) / level / f"{region}.csv"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def h5_table(parcel: Parcel, level: str, per_day: int = _NANOSECONDS) -> np.ndarray:
    """A parcel as its h5 array: (T, 17) or (T, 14) float64."""
    columns = _columns(parcel, level)
    columns["doa"] = parcel.day.astype(np.int64) * per_day
    return np.column_stack([columns[name] for name in H5_COLUMNS[level]]).astype(np.float64)


def write_h5(folder: Path, made: list[Parcel], region: str, year: int, level: str, per_day: int = _NANOSECONDS) -> Path:
    path = folder / str(year) / level / f"{region}.h5"
    path.parent.mkdir(parents=True, exist_ok=True)
    with h5py.File(path, "w") as file:
        parent = series_path(year, level, region, 0).rpartition("/")[0]
        group = file.create_group(parent).id
        for parcel in made:
            table = h5_table(parcel, level, per_day)
            space = h5py.h5s.create_simple(table.shape)
            array = h5py.h5d.create(group, f"{parcel.id}.csv".encode(), h5py.h5t.IEEE_F64LE, space)
            array.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(table))
    return path


def csv_text(parcel: Parcel, level: str) -> str:
    """A parcel as its raw csv: rows with a missing value and second images of a day are in it as well."""
    columns: dict[str, list[str]] = {k: [repr(float(x)) for x in v] for k, v in _columns(parcel, level).items()}
    columns["doa"] = [str(np.datetime64(int(d), "D")) for d in parcel.day]
    lines = [",".join(["", *CSV_COLUMNS[level]])]
    for t in range(len(parcel.day)):
        cells = {name: column[t] for name, column in columns.items()}
        cells |= {"label": parcel.code, "code_cultu": parcel.code, "id": str(parcel.id)}
        image = f"{cells['doa'].replace('-', '')}T111442_20170104T111436_T30UXU"
        whole = ",".join([image, *(cells[name] for name in CSV_COLUMNS[level])])
        lacking = ",".join([image, *("" if name == "B4" else cells[name] for name in CSV_COLUMNS[level])])
        later = ",".join([image, *(("9999.0" if name[0] == "B" else cells[name]) for name in CSV_COLUMNS[level])])
        lines += {0: [lacking, whole], 1: [whole, later]}.get(t % 5, [whole])
    return "\n".join(lines) + "\n"


def write_csv_folder(folder: Path, made: list[Parcel], region: str, year: int, level: str) -> Path:
    path = folder / str(year) / level / region / "csv"
    path.mkdir(parents=True, exist_ok=True)
    for parcel in (p for p in made if len(p.day)):
        (path / f"{parcel.id}.csv").write_text(csv_text(parcel, level), encoding="utf-8")
    return path


def write_csv_zip(folder: Path, made: list[Parcel], region: str, year: int, level: str) -> Path:
    path = folder / str(year) / level / f"{region}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for parcel in (p for p in made if len(p.day)):
            archive.writestr(f"{parcel.id}.csv", csv_text(parcel, level))
    return path


def write_outlines(folder: Path, made: list[Parcel], region: str, year: int) -> gpd.GeoSeries:
    """Squares in Lambert-93, in another order than the index, without an outline of the last parcel."""
    rows = made[-2::-1]
    squares = [shapely.box(2e5 + 100 * p.id, 6.8e6, 2e5 + 100 * p.id + 80, 6.8e6 + 80) for p in rows]
    column = "ID" if year == 2017 else "ID_PARCEL"
    attributes = {column: [str(p.id) for p in rows], "CODE_CULTU": [p.code for p in rows]}
    frame = gpd.GeoDataFrame(attributes, geometry=squares, crs="EPSG:2154")
    path = folder / str(year) / f"{region}.shp"
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_file(path)
    return gpd.GeoSeries(squares, index=[p.id for p in rows], crs=frame.crs)


def pack_tar(archive: Path, files: list[Path]) -> Path:
    """A tar.gz of files without folders, as the h5 files and the outlines are published."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(archive, "w:gz") as tar:
        for path in files:
            tar.add(path, arcname=path.name)
    return archive


def _columns(parcel: Parcel, level: str) -> dict[str, np.ndarray]:
    names = [b.replace("B0", "B") for b in BANDS[level]]
    columns = {name: parcel.bands[:, i] for i, name in enumerate(names)}
    columns |= {name: parcel.flags[:, i] for i, name in enumerate(FLAGS[level])}
    return columns | {"QA10": np.zeros(len(parcel.day)), "QA20": np.zeros(len(parcel.day))}
