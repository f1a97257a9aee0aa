"""A folder of rasters as scenes: one folder per date (or a date in each file name), one file per band.

    scenes/20210605_R051/B02.tif …            the folder's name begins with the date
    scenes/S2A_31UFS_20210605_0_L2A/B02.tif   the date is somewhere in the folder's name
    scenes/anything/B02.tif + metadata.json   the document says `"datetime": "2021-06-05T10:50:31Z"`
    scenes/T31UFS_20210605T105031_B02.tif     the date is in the file's name
    scenes/2021-06-05/31UFS/B02.tif           folders below the date tell tiles and orbits apart

Where a way holds several dates, the file's own and then the deepest folder's counts. What lies under one date is one
acquisition, unless a band occurs twice in it: then a folder below the date, or a part of the file names, tells which
files belong together. Where two files of one acquisition hold one band, the finer is read.

Scale, offset and nodata come from the raster's band metadata, else from `scale` and `offset` of metadata.json. Where a
raster has a mask instead of nodata, what is masked is missing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date as calendar_date
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from cropgen.core.errors import CorruptInputError, MissingInputError, SchemaError
from cropgen.core.files import files_below
from cropgen.imagery.raster import RasterLayer, file_stamp, read_header
from cropgen.imagery.scene import Acquisition
from cropgen.series.bands import is_reflectance, normalise_band

SUFFIXES = (".tif", ".tiff", ".jp2")
_DATE = re.compile(r"(?<!\d)(19\d\d|20\d\d)-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])(?!\d)")
_RESOLUTION = re.compile(r"R?\d{2,3}m", re.IGNORECASE)


@dataclass(frozen=True)
class RasterFolder:
    """A folder of rasters, opened: headers were read, values were not."""

    name: str
    acquisitions: Sequence[Acquisition]


@dataclass(frozen=True)
class _Place:
    """What a way tells of a file: the acquisition as far as the date goes, ISO date, and how many folders that took."""

    key: str
    date: str
    depth: int


@dataclass(frozen=True)
class _File:
    """One band of a date.

    Arguments:
        folders: below the date, without those that name a resolution.
        words: of the file's name, without band and resolution.
    """

    band: str
    layer: RasterLayer
    folders: tuple[str, ...]
    words: tuple[str, ...]

    def rivals(self, other: _File) -> bool:
        """Whether both hold one band, and not of one ground at two resolutions."""
        mine, its = self.layer.grid, other.layer.grid
        return self.band == other.band and (mine.pixel_size == its.pixel_size or not mine.same_ground(its))


def open_rasters(folder: Path) -> RasterFolder:
    """Find the acquisitions of a folder and read the header of every raster.

    Raises:
        MissingInputError: there is no raster.
        CorruptInputError: a raster cannot be opened; the message names file and date.
        SchemaError: a raster states no coordinate system, no file's date can be told, metadata.json does not hold what
            it must, or one acquisition holds a band of two grounds.
    """
    files = sorted(path for path in files_below(folder) if path.suffix.lower() in SUFFIXES)
    if not files:
        raise MissingInputError(
            f"no raster in {folder}: expected {', '.join(SUFFIXES)} files, or a NetCDF or zarr cube",
            hint="give the folder that holds one folder per date",
        )
    groups: dict[tuple[str, str], list[_File]] = {}
    for path in files:
        place = _place_of(path, folder)
        if place is not None:
            groups.setdefault((place.key, place.date), []).append(_file(path, folder, place))
    if not groups:
        raise SchemaError(
            f"no date can be told for the {len(files)} rasters of {folder}, e.g. {files[0].relative_to(folder)}",
            hint="name each date's folder YYYYMMDD…, or put a metadata.json with a datetime beside the rasters",
        )
    acquisitions = [
        _acquisition(key, date, part)
        for (base, date), members in groups.items()
        for key, part in _told_apart(base, _ways(members))
    ]
    return RasterFolder(folder.name, tuple(sorted(acquisitions, key=lambda a: (a.day, a.key))))


def _place_of(path: Path, root: Path) -> _Place | None:
    """The acquisition a file belongs to; None where no date can be told."""
    parts = path.relative_to(root).parts[:-1]
    dated = [(depth, date) for depth, part in enumerate(parts, start=1) if (date := _date_in(part))]
    depth, date = dated[-1] if dated else (0, None)
    stated = None if date and depth == len(parts) else _stated_date(path.parent)
    own = stated or _date_in(path.stem.replace("T", " "))
    if date and own in (None, date):
        return _Place("/".join(parts[:depth]), date, depth)
    if own:
        key = ("/".join(parts) or path.parent.name) if stated else "/".join((*parts, own))
        return _Place(key, own, len(parts))
    if not parts and (date := _date_in(root.name)):
        return _Place(root.name, date, 0)
    return None


def _date_in(text: str) -> str | None:
    """The first day of the calendar in a text, as ISO date."""
    for found in _DATE.finditer(text):
        date = "-".join(found.groups())
        try:
            calendar_date.fromisoformat(date)
        except ValueError:
            continue
        return date
    return None


def _stated_date(folder: Path) -> str | None:
    stated = _document(folder).get("datetime")
    return _date_in(stated[:10]) if isinstance(stated, str) else None


def _file(path: Path, root: Path, place: _Place) -> _File:
    """Read the header of a file."""
    band = normalise_band(path.stem) or path.stem
    below = path.relative_to(root).parts[place.depth : -1]
    words = [word for word in re.split(r"[_\W]+", path.stem) if word and not normalise_band(word)]
    folders, named = (tuple(p for p in some if not _RESOLUTION.fullmatch(p)) for some in (below, words))
    return _File(band, _open(path, place.date, is_reflectance(band)), folders, named)


def _ways(files: Sequence[_File]) -> list[tuple[tuple[str, ...], _File]]:
    """Folders below the date and words of the name of each file, each word at one place for all."""
    deepest = max(len(file.folders) for file in files)
    return [((*file.folders, *[""] * (deepest - len(file.folders)), *file.words), file) for file in files]


def _told_apart(key: str, ways: Sequence[tuple[tuple[str, ...], _File]]) -> Iterator[tuple[str, list[_File]]]:
    """(key, files) of each acquisition among the files of a date: parted where their ways part, from the top down, when
    rivals lie on both sides."""
    if not any(way for way, _ in ways):
        yield key, [file for _, file in ways]
        return
    parts: dict[str, list[tuple[tuple[str, ...], _File]]] = {}
    bands: dict[str, list[tuple[str, _File]]] = {}
    for way, file in ways:
        part = way[0] if way else ""
        parts.setdefault(part, []).append((way[1:], file))
        bands.setdefault(file.band, []).append((part, file))
    pairs = (pair for held in bands.values() for pair in combinations(held, 2))
    if not any(part != other and one.rivals(two) for (part, one), (other, two) in pairs):
        yield from _told_apart(key, [(way[1:], file) for way, file in ways])
        return
    for part, some in parts.items():
        yield from _told_apart(f"{key}/{part}" if part else key, some)


def _document(folder: Path) -> dict[str, Any]:
    path = folder / "metadata.json"
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptInputError(f"cannot read {path}: {error}", hint="repair or remove the file") from error
    if not isinstance(document, dict):
        raise SchemaError(
            f"{path}: expected an object with datetime, scale and offset, got {type(document).__name__}",
            hint="repair or remove the file",
        )
    properties = document.get("properties")
    return {**properties, **document} if isinstance(properties, dict) else document


def _number(folder: Path, name: str) -> float | None:
    """A number of metadata.json; None where it states none.

    Raises:
        SchemaError: it is no number.
    """
    stated = _document(folder).get(name)
    try:
        return None if stated is None else float(stated)
    except (TypeError, ValueError) as error:
        raise SchemaError(
            f"{folder / 'metadata.json'}: expected a number for {name}, got {stated!r}", hint="repair or remove it"
        ) from error


def _acquisition(key: str, date: str, files: Sequence[_File]) -> Acquisition:
    layers: dict[str, RasterLayer] = {}
    for file in files:
        known = layers.setdefault(file.band, file.layer)
        if not known.grid.same_ground(file.layer.grid):
            raise SchemaError(
                f"{known.path} and {file.layer.path} both hold {file.band} of {date}, of different ground",
                hint="put what was taken apart, such as tiles, into folders of their own below the date",
            )
        if file.layer.grid.pixel_size < known.grid.pixel_size:
            layers[file.band] = file.layer
    return Acquisition(key, int(np.datetime64(date, "D").astype(np.int64)), layers)


def _open(path: Path, date: str, reflectance: bool) -> RasterLayer:
    header = read_header(path, date)
    scale, offset = header.scale, header.offset
    if (scale, offset) == (1.0, 0.0):
        scale = _number(path.parent, "scale") if reflectance else None
        offset = (_number(path.parent, "offset") if reflectance else None) or 0.0
    nodata = header.nodata
    if nodata is None and header.whole_numbers and (reflectance or header.masked):
        nodata = 0.0
    elif nodata is None and header.masked:
        nodata = float("nan")
    return RasterLayer(path, date, header.grid, scale, offset, nodata, file_stamp(path), masked=header.masked)
