"""A folder of rasters as scenes: one folder per date (or a date in each file name), one file per band.

    scenes/20210605_R051/B02.tif …            the folder's name begins with the date
    scenes/S2A_31UFS_20210605_0_L2A/B02.tif   the date is somewhere in the folder's name
    scenes/anything/B02.tif + metadata.json   the document says `"datetime": "2021-06-05T10:50:31Z"`
    scenes/T31UFS_20210605T105031_B02.tif     the date is in the file's name

Scale, offset and nodata come from the raster's band metadata, else from `scale` and `offset` of metadata.json.
Where two files hold one band, the finer is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cropgen.core.errors import CorruptInputError, MissingInputError, SchemaError
from cropgen.imagery.raster import RasterLayer, file_stamp, read_header
from cropgen.imagery.scene import Acquisition
from cropgen.series.bands import is_reflectance, normalise_band

SUFFIXES = (".tif", ".tiff", ".jp2")
_DATE = re.compile(r"(?<!\d)(19\d\d|20\d\d)-?(0[1-9]|1[0-2])-?(0[1-9]|[12]\d|3[01])(?!\d)")


@dataclass(frozen=True)
class RasterFolder:
    """A folder of rasters, opened: headers were read, values were not."""

    name: str
    acquisitions: Sequence[Acquisition]


def open_rasters(folder: Path) -> RasterFolder:
    """Find the acquisitions of a folder and read the header of every raster.

    Raises:
        MissingInputError: there is no raster.
        CorruptInputError: a raster cannot be opened; the message names file and date.
        SchemaError: a raster states no coordinate system, or no file's date can be told.
    """
    files = sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file())
    if not files:
        raise MissingInputError(
            f"no raster in {folder}: expected {', '.join(SUFFIXES)} files, or a NetCDF or zarr cube",
            hint="give the folder that holds one folder per date",
        )
    groups: dict[tuple[str, str], list[Path]] = {}
    for path in files:
        place = _date_of(path, folder)
        if place is not None:
            groups.setdefault(place, []).append(path)
    if not groups:
        raise SchemaError(
            f"no date can be told for the {len(files)} rasters of {folder}, e.g. {files[0].relative_to(folder)}",
            hint="name each date's folder YYYYMMDD…, or put a metadata.json with a datetime beside the rasters",
        )
    acquisitions = [_acquisition(key, date, members) for (key, date), members in groups.items()]
    return RasterFolder(folder.name, tuple(sorted(acquisitions, key=lambda a: (a.day, a.key))))


def _date_of(path: Path, root: Path) -> tuple[str, str] | None:
    """(key, ISO date) of the acquisition a file belongs to."""
    parts = path.relative_to(root).parts[:-1]
    for depth, part in enumerate(parts, start=1):
        if found := _DATE.search(part):
            return "/".join(parts[:depth]), "-".join(found.groups())
    stated = _document(path.parent).get("datetime")
    if isinstance(stated, str) and (found := _DATE.match(stated)):
        return "/".join(parts) or path.parent.name, "-".join(found.groups())
    if found := _DATE.search(path.stem.replace("T", " ")):
        date = "-".join(found.groups())
        return "/".join((*parts, date)), date
    if not parts and (found := _DATE.search(root.name)):
        return root.name, "-".join(found.groups())
    return None


def _document(folder: Path) -> dict[str, Any]:
    path = folder / "metadata.json"
    if not path.is_file():
        return {}
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptInputError(f"cannot read {path}: {error}", hint="repair or remove the file") from error
    properties = document.get("properties") if isinstance(document, dict) else None
    return {**properties, **document} if isinstance(properties, dict) else dict(document)


def _acquisition(key: str, date: str, files: Iterable[Path]) -> Acquisition:
    layers: dict[str, RasterLayer] = {}
    for path in files:
        band = normalise_band(path.stem) or path.stem
        layer = _open(path, date, is_reflectance(band))
        known = layers.get(band)
        if known is None or layer.grid.pixel_size < known.grid.pixel_size:
            layers[band] = layer
    return Acquisition(key, int(np.datetime64(date, "D").astype(np.int64)), layers)


def _open(path: Path, date: str, reflectance: bool) -> RasterLayer:
    header = read_header(path, date)
    stated, offset = header.scale, header.offset
    if (stated, offset) == (1.0, 0.0):
        document = _document(path.parent) if reflectance else {}
        stated, offset = document.get("scale"), document.get("offset", 0.0)
    nodata = 0.0 if header.nodata is None and reflectance and header.whole_numbers else header.nodata
    return RasterLayer(path, date, header.grid, stated, float(offset), nodata, file_stamp(path))
