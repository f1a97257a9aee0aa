"""The Sentinel stacks of DENETHOR: folders or zip archives in the layout of eo-learn patches.

    [data/]BANDS.npy[.gz]   (T, H, W, 12) reflectance × 10,000       S2
    [data/]CLP.npy[.gz]     (T, H, W, 1) cloud probability 0–255     S2
    [data/]VV.npy[.gz] …    (T, H, W, 1 or 2) backscatter            S1, likewise VH
    timestamp.pkl[.gz]      list of datetime
    bbox.pkl[.gz]           a bounding box object of the package sentinelhub

Names are in upper or lower case. The two pickles are never loaded, which could run anything: their instructions are
listed, and the few facts wanted are picked out. Arrays are read as streams, a stripe of one date at a time.

Reference: Python Language Services, pickletools — Tools for pickle developers, Python Software Foundation, 2023.
"""

from __future__ import annotations

import gzip
import pickletools
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import numpy as np
from rasterio import Affine

from cropgen.core.errors import CorruptInputError, SchemaError
from cropgen.datasets.denethor_images import ROWS, Grid

_ARRAYS = {"bands.npy", "vv.npy"}
_CORNERS = ("min_x", "min_y", "max_x", "max_y")
_CRS = re.compile(r"(?:EPSG:)?(\d{4,5})")
_STAMP_BYTES = 10
_AGAIN = "bring the stack again as it was published"


@dataclass(frozen=True)
class Patch:
    """One stack.

    Arguments:
        where: its path relative to what the user brought.
        files: plain lower-case name (`bands.npy`, `bbox.pkl`) → opens its unpacked content.
    """

    where: str
    files: Mapping[str, Callable[[], IO[bytes]]]

    def open(self, name: str) -> IO[bytes]:
        """A file of the stack, unpacked.

        Raises:
            SchemaError: it is not there.
        """
        if name not in self.files:
            raise SchemaError(f"{self.where}: {name} is missing; it has {', '.join(sorted(self.files))}", hint=_AGAIN)
        return self.files[name]()

    def grid(self, height: int, width: int) -> Grid:
        """The grid of an image of this size within the bounding box."""
        (west, south, east, north), crs = read_bounds(self._content("bbox.pkl"), self.where)
        transform = Affine((east - west) / width, 0, west, 0, (south - north) / height, north)
        return Grid(crs, transform, height, width)

    def days(self) -> np.ndarray:
        """(T,) int32 days since 1970-01-01 of the images."""
        return read_days(self._content("timestamp.pkl"), self.where)

    def _content(self, name: str) -> bytes:
        try:
            with self.open(name) as stream:
                return stream.read()
        except (OSError, EOFError, zipfile.BadZipFile) as error:
            raise CorruptInputError(f"{self.where}: {name} cannot be read: {error}", hint=_AGAIN) from error


def find_patches(files: Path) -> list[Patch]:
    """Every stack below a folder, unpacked ones before archives."""
    folders: dict[Path, dict[str, Callable[[], IO[bytes]]]] = {}
    for path in sorted(p for p in files.rglob("*") if p.is_file()):
        root = path.parent.parent if path.parent.name.lower() == "data" else path.parent
        folders.setdefault(root, {})[_plain(path.name)] = _file_opener(path)
    found = [Patch(r.relative_to(files).as_posix(), f) for r, f in folders.items() if _ARRAYS & f.keys()]
    for path in sorted(files.rglob("*.zip")):
        found += _in_archive(path, path.relative_to(files).as_posix())
    return found


def _in_archive(path: Path, where: str) -> list[Patch]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile) as error:
        raise CorruptInputError(f"{path} is no whole zip archive: {error}", hint=_AGAIN) from error
    roots: dict[PurePosixPath, dict[str, Callable[[], IO[bytes]]]] = {}
    for name in sorted(n for n in names if not n.endswith("/")):
        inside = PurePosixPath(name)
        root = inside.parent.parent if inside.parent.name.lower() == "data" else inside.parent
        roots.setdefault(root, {})[_plain(inside.name)] = _member_opener(path, name)
    return [Patch(f"{where}/{root}", f) for root, f in roots.items() if _ARRAYS & f.keys()]


def _plain(name: str) -> str:
    return name.lower().removesuffix(".gz")


def _file_opener(path: Path) -> Callable[[], IO[bytes]]:
    return lambda: cast("IO[bytes]", gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb"))


def _member_opener(archive: Path, name: str) -> Callable[[], IO[bytes]]:
    def opened() -> IO[bytes]:
        member = zipfile.ZipFile(archive).open(name)  # noqa: SIM115, it holds the archive open until it is closed
        return cast("IO[bytes]", gzip.open(member)) if name.lower().endswith(".gz") else member

    return opened


class PatchImages:
    """One array of a stack as images.

    Arguments:
        patch: the stack.
        name: of the array, such as `bands.npy`.
        channels: how many channels to read; further ones are left out.

    Raises:
        SchemaError: the array is not (T, H, W, C) with at least these channels, or T is not the number of dates.
    """

    nodata: float | None = None

    def __init__(self, patch: Patch, name: str, channels: int) -> None:
        self._patch, self._name, self.channels = patch, name, channels
        self.days = patch.days()
        with patch.open(name) as stream:
            self._shape, self._dtype = self._header(stream)
        self.grid = patch.grid(self._shape[1], self._shape[2])

    def stripes(self) -> Iterator[tuple[int, int, np.ndarray]]:
        dates, height, width, channels = self._shape
        with self._patch.open(self._name) as stream:
            self._header(stream)
            for date in range(dates):
                for row in range(0, height, ROWS):
                    rows = min(ROWS, height - row)
                    raw = self._read(stream, rows * width * channels * self._dtype.itemsize)
                    stripe = np.frombuffer(raw, self._dtype).reshape(rows, width, channels)
                    yield date, row, stripe[..., : self.channels]

    def _read(self, stream: IO[bytes], size: int) -> bytes:
        try:
            raw = stream.read(size)
        except (OSError, EOFError, zipfile.BadZipFile) as error:
            raise CorruptInputError(f"{self._where} cannot be read: {error}", hint=_AGAIN) from error
        if len(raw) < size:
            raise CorruptInputError(f"{self._where} is truncated", hint=_AGAIN)
        return raw

    def _header(self, stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
        try:
            version = np.lib.format.read_magic(stream)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(stream)
        except (OSError, EOFError, ValueError, zipfile.BadZipFile) as error:
            raise CorruptInputError(f"{self._where} is no NumPy array: {error}", hint=_AGAIN) from error
        fits = len(shape) == 4 and shape[0] == len(self.days) and shape[3] >= self.channels
        if not fits or fortran or dtype.kind not in "fiu":
            raise SchemaError(
                f"{self._where}: expected numbers of shape ({len(self.days)} dates, rows, columns, ≥ {self.channels}), "
                f"got {dtype} {shape}",
                hint=_AGAIN,
            )
        return shape, dtype

    @property
    def _where(self) -> str:
        return f"{self._patch.where}/{self._name}"


def read_days(content: bytes, where: str) -> np.ndarray:
    """Days since 1970-01-01 (T,) int32 of a pickled list of datetimes, without loading it.

    A pickled datetime is ten bytes: the year in two, then month, day, hour, minute, second and microseconds in three;
    protocol 2 writes them as text.
    """
    days = []
    for argument in _arguments(content, where):
        raw = argument.encode("latin-1", "ignore") if isinstance(argument, str) else argument
        if isinstance(raw, bytes) and len(raw) == _STAMP_BYTES and 0x07 <= raw[0] <= 0x08 and 1 <= raw[2] <= 12:
            days.append(f"{raw[0] * 256 + raw[1]:04d}-{raw[2]:02d}-{raw[3]:02d}")
    if not days:
        raise SchemaError(f"{where}: no date in timestamp.pkl", hint=_AGAIN)
    return np.asarray(days, "datetime64[D]").astype(np.int32)


def read_bounds(content: bytes, where: str) -> tuple[tuple[float, ...], str]:
    """West, south, east, north and the coordinate system of a pickled bounding box, without loading it."""
    corners: dict[str, float] = {}
    crs, key = None, ""
    for argument in _arguments(content, where):
        if isinstance(argument, str):
            key = argument
            if match := _CRS.fullmatch(argument):
                crs = f"EPSG:{match[1]}"
        elif isinstance(argument, (int, float)) and key in _CORNERS:
            corners.setdefault(key, float(argument))
    missing = [name for name in _CORNERS if name not in corners]
    if missing or crs is None:
        lacking = ", ".join(missing) or "the coordinate system"
        raise SchemaError(f"{where}: {lacking} not found in bbox.pkl", hint=_AGAIN)
    return tuple(corners[name] for name in _CORNERS), crs


def _arguments(content: bytes, where: str) -> Iterator[Any]:
    """What a pickle would push: text, bytes and numbers, in order; positions in its memory are left out."""
    try:
        for instruction, argument, _ in pickletools.genops(content):
            if argument is not None and not instruction.name.endswith(("GET", "PUT", "FRAME", "PROTO")):
                yield argument
    except ValueError as error:
        raise CorruptInputError(f"{where}: a pickle is damaged: {error}", hint=_AGAIN) from error
