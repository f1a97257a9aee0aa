"""The series of BreizhCrops as its publisher stores them: one h5 array or one csv file per parcel.

An h5 array holds float64 columns without names, in an order that differs between levels:

    L1C  B1 B2 B3 B4 B5 B6 B7 B8 B8A B9 B10 B11 B12 QA10 QA20 QA60 doa
    L2A  doa B2 B3 B4 B5 B6 B7 B8 B8A B11 B12 CLD EDG SAT

A csv file has a header, L1C in alphabetical order (B1, B10, B11, …), an unnamed first column with the image's name,
and `label` and `id` (L1C) or `code_cultu` and `id` (L2A) beside the bands. `doa`, the date of acquisition, is a date in
csv and a time stamp in h5: nanoseconds in the published files, microseconds in those that pandas ≥ 3 compiled.

Bands are means over the parcel of reflectance × 10,000. `QA60` is the mean of a bit field (1024 opaque cloud, 2048
cirrus), `CLD`, `EDG` and `SAT` are means of the masks for clouds, image edge and saturation, whose smallest flag is 1.
A mean divided by the smallest flag is thus never less than the share of the parcel that is flagged.

Reference: BreizhCrops: A Time Series Dataset for Crop Type Mapping, M. Rußwurm, C. Pelletier, M. Zollner, S. Lefèvre,
M. Körner, 2020.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv

from cropgen.core.errors import CorruptInputError, MissingInputError, SchemaError
from cropgen.datasets.members import FolderMembers, Members, ZipMembers
from cropgen.series.bands import LAND_BANDS, SENTINEL2, normalise_band

_PER_DAY = {"s": 86_400, "ms": 86_400_000, "us": 86_400_000_000, "ns": 86_400_000_000_000}
_LEAST = {"ns": 1e17, "us": 1e14, "ms": 1e11, "s": 1e8}


@dataclass(frozen=True)
class Level:
    """A processing level: columns of its h5 arrays, bands of the container, and its flags.

    Arguments:
        columns: of an h5 array, in order.
        bands: canonical names, in the order of the container; the columns of an h5 array have the same order.
        flags: column → value of its smallest flag.
    """

    columns: tuple[str, ...]
    bands: tuple[str, ...]
    flags: dict[str, float]

    @property
    def band_columns(self) -> list[str]:
        """The columns of the bands, in the order of the container."""
        named = {normalise_band(c): c for c in self.columns}
        return [named[band] for band in self.bands]


LEVELS = {
    "L1C": Level(
        (
            "B1", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B9", "B10", "B11", "B12", "QA10", "QA20", "QA60",
            "doa",
        ),
        tuple(SENTINEL2),
        {"QA60": 1024.0},
    ),
    "L2A": Level(
        ("doa", "B2", "B3", "B4", "B5", "B6", "B7", "B8", "B8A", "B11", "B12", "CLD", "EDG", "SAT"),
        LAND_BANDS,
        {"CLD": 1.0, "EDG": 1.0, "SAT": 1.0},
    ),
}  # fmt: skip


class Observations(NamedTuple):
    """The observations of N parcels, one parcel after the other, each by day.

    Arguments:
        values: (R, C) float64, reflectance × 10,000.
        flagged: (R,) float64, at most this share of the parcel is flagged.
        day: (R,) int64, days since 1970-01-01.
        length: (N,) int64, observations of each parcel.
    """

    values: np.ndarray
    flagged: np.ndarray
    day: np.ndarray
    length: np.ndarray


def _gathered(values: np.ndarray, flagged: np.ndarray, day: np.ndarray, row: np.ndarray, count: int) -> Observations:
    """Observations of N parcels from the bands (R, C), flagged share, day (NaN: unknown) and parcel (R,) of each.

    An observation without a value in every column is left out; of several on one day the first stands. The published
    h5 files were made so from the csv files, and both give the same series.
    """
    if not math.isfinite(values.sum() + flagged.sum() + day.sum()):
        whole = np.isfinite(values).all(1) & np.isfinite(flagged) & np.isfinite(day)
        values, flagged, day, row = values[whole], flagged[whole], day[whole], row[whole]
    day = day.astype(np.int64)
    step = np.diff(row)
    if (step < 0).any() or (np.diff(day)[step == 0] <= 0).any():
        order = np.lexsort((day, row))
        first = np.ones(len(order), bool)
        first[1:] = (np.diff(row[order]) != 0) | (np.diff(day[order]) != 0)
        kept = order[first]
        values, flagged, day, row = values[kept], flagged[kept], day[kept], row[kept]
    return Observations(values, flagged, day, np.bincount(row, minlength=count))


class SeriesFiles(Protocol):
    """Series of one region and year, by the `path` that its index names."""

    def read(self, paths: Sequence[str]) -> Observations:
        """Observations of some parcels; a parcel without a series has length 0.

        Raises:
            CorruptInputError, SchemaError: what is stored is damaged, or not of the published layout.
        """
        ...


@contextmanager
def open_series(folder: Path, region: str, level: str) -> Iterator[SeriesFiles]:
    """The series of a region: its h5 file, else its archive of csv files, else the folder this unpacks to.

    Arguments:
        folder: of the year and level.

    Raises:
        MissingInputError: there is none of them.
        CorruptInputError: the file cannot be opened.
    """
    h5, archive, unpacked = folder / f"{region}.h5", folder / f"{region}.zip", folder / region / "csv"
    if h5.is_file():
        with _open_h5(h5) as opened:
            yield H5Series(h5, opened, LEVELS[level])
    elif archive.is_file() or unpacked.is_dir():
        with ZipMembers(archive) if archive.is_file() else FolderMembers(unpacked) as members:
            yield CsvSeries(archive if archive.is_file() else unpacked, members, LEVELS[level])
    else:
        raise MissingInputError(
            f"no series of {region} in {folder}: expected {h5.name}, {archive.name} or {region}/csv/",
            hint="fetch the region again, or bring one of these files",
        )


def _open_h5(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise CorruptInputError(f"{path} is no whole HDF5 file: {error}", hint="fetch it again") from error


class H5Series:
    """An h5 file of one array per parcel."""

    def __init__(self, path: Path, opened: h5py.File, level: Level) -> None:
        self._path = path
        self._file = opened
        self._level = level
        self._groups: dict[str, h5py.h5g.GroupID] = {}

    def read(self, paths: Sequence[str]) -> Observations:
        arrays = [self._array(name) for name in paths]
        columns = self._level.columns
        stored = np.concatenate(arrays) if arrays else np.zeros((0, len(columns)))
        first = columns.index(self._level.band_columns[0])
        flagged = [stored[:, columns.index(c)] / least for c, least in self._level.flags.items()]
        return _gathered(
            stored[:, first : first + len(self._level.bands)],
            np.max(flagged, axis=0),
            days_of(stored[:, columns.index("doa")], str(self._path)),
            np.repeat(np.arange(len(arrays)), [len(a) for a in arrays]),
            len(arrays),
        )

    def _array(self, path: str) -> np.ndarray:
        """One parcel's array, read without the conveniences of h5py, which cost more than the reading."""
        folder, _, name = path.rpartition("/")
        try:
            if folder not in self._groups:
                self._groups[folder] = h5py.h5g.open(self._file.id, folder.encode() or b"/")
            array = h5py.h5d.open(self._groups[folder], name.encode())
            content = np.empty(array.shape)
            array.read(h5py.h5s.ALL, h5py.h5s.ALL, content)
        except KeyError:
            return np.empty((0, len(self._level.columns)))
        except (OSError, RuntimeError) as error:
            raise CorruptInputError(f"{self._path}: {path}: {error}", hint="fetch it again") from error
        if content.shape[1:] != (len(self._level.columns),):
            raise SchemaError(
                f"{self._path}: {path}: expected {len(self._level.columns)} columns "
                f"({' '.join(self._level.columns)}), got an array of shape {content.shape}",
                hint="is this a file of the other level?",
            )
        return content


class CsvSeries:
    """An archive or a folder of one csv file per parcel."""

    def __init__(self, path: Path, members: Members, level: Level) -> None:
        self._path = path
        self._members = members
        self._level = level
        self._position = {PurePosixPath(name).name: i for i, name in enumerate(members.names)}

    def read(self, paths: Sequence[str]) -> Observations:
        names = [PurePosixPath(path).name for path in paths]
        length = np.zeros(len(names), np.int64)
        grouped: dict[bytes, list[tuple[int, bytes]]] = {}
        for row, name in enumerate(names):
            if name in self._position:
                header, _, body = self._members.read(self._position[name]).replace(b"\r", b"").partition(b"\n")
                body = b"".join(line + b"\n" for line in body.split(b"\n") if line)
                length[row] = body.count(b"\n")
                grouped.setdefault(header, []).append((row, body))
        empty = np.zeros((0, len(self._level.bands) + 2))
        table = np.concatenate([empty, *(self._parse(header, bodies) for header, bodies in grouped.items())])
        parcels = np.asarray([row for bodies in grouped.values() for row, _ in bodies], np.int64)
        row = np.repeat(parcels, length[parcels])
        return _gathered(table[:, :-2], table[:, -2], table[:, -1], row, len(names))

    def _parse(self, header: bytes, bodies: list[tuple[int, bytes]]) -> np.ndarray:
        """(R, C + 2) float64: bands, flagged share, day; NaN where a cell is empty."""
        names = [name.strip('"') or f"column {i}" for i, name in enumerate(header.decode("utf-8").split(","))]
        bands, flags = self._level.band_columns, list(self._level.flags)
        if missing := [c for c in (*bands, *flags, "doa") if c not in names]:
            raise SchemaError(
                f"{self._path}: columns missing in a csv file: {', '.join(missing)}; it has {', '.join(names)}",
                hint="is this an archive of the other level?",
            )
        text = b"".join(body for _, body in bodies)
        if not text:
            return np.zeros((0, len(bands) + 2))
        types: dict[str, pa.DataType] = dict.fromkeys((*bands, *flags), pa.float64())
        try:
            table = pa_csv.read_csv(
                pa.BufferReader(text),
                read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(text) + 1),
                convert_options=pa_csv.ConvertOptions(
                    column_types={**types, "doa": pa.timestamp("s")}, include_columns=[*bands, *flags, "doa"]
                ),
            )
        except pa.ArrowInvalid as error:
            raise CorruptInputError(
                f"{self._path}: a csv file cannot be read: {error}", hint="fetch it again"
            ) from error
        when = table["doa"].cast(pa.int64()).to_numpy() / _PER_DAY["s"]
        flagged = np.max([table[c].to_numpy() / least for c, least in self._level.flags.items()], axis=0)
        return np.column_stack([*(table[c].to_numpy() for c in bands), flagged, np.floor(when)])


def days_of(stamp: np.ndarray, where: str) -> np.ndarray:
    """Days since 1970-01-01 (R,) of time stamps, whose unit is told by their size.

    Raises:
        CorruptInputError: they are of no unit between seconds and nanoseconds.
    """
    if not len(stamp):
        return np.zeros(0, np.int64)
    smallest = stamp.min()
    for unit, least in _LEAST.items():
        if smallest >= least:
            return np.floor_divide(stamp.astype(np.int64), _PER_DAY[unit])
    raise CorruptInputError(
        f"{where}: date of acquisition {smallest:g}: expected seconds to nanoseconds since 1970", hint="fetch it again"
    )
