"""One band in one raster that GDAL opens: a GeoTIFF, a JPEG 2000 file, a member of a zip.

Pixels of plain GeoTIFFs on this machine are read without GDAL (tiff_blocks.py), which gives the same in less time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from rasterio._err import CPLE_BaseError  # what GDAL says when a file is closed is not among the public errors
from rasterio.enums import MaskFlags
from rasterio.errors import RasterioError
from rasterio.windows import Window as RasterWindow

from cropgen.core.errors import CorruptInputError, SchemaError
from cropgen.imagery.panels import PANEL_COLUMNS
from cropgen.imagery.scene import Grid, Window
from cropgen.imagery.tiff_blocks import has_columns, read_window

GDAL_ERRORS = (RasterioError, CPLE_BaseError, OSError)
ENVIRONMENT: dict[str, Any] = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "CPL_LOG_ERRORS": "OFF"}


@dataclass(frozen=True)
class RasterLayer:
    """One band in one file.

    Arguments:
        path: a file, or a name that GDAL understands.
        stamp: changes when the content does.
        band: which of the file's bands, from 1.
        masked: the file has a mask, by which pixels are `nodata`.
    """

    path: Path | str
    date: str
    grid: Grid
    scale: float | None
    offset: float
    nodata: float | None
    stamp: str = ""
    band: int = 1
    masked: bool = False

    @property
    def narrow(self) -> bool:
        """Whether it is read panel by panel."""
        return self.band == 1 and not self.masked and has_columns(self.path, PANEL_COLUMNS)

    def read(self, window: Window) -> np.ndarray:
        values = read_window(self.path, window) if self.band == 1 and not self.masked else None
        if values is not None:
            return values
        try:
            with rasterio.Env(**ENVIRONMENT), rasterio.open(self.path) as raster:
                values = raster.read(self.band, window=raster_window(window), masked=self.masked)
                return values.filled(self.nodata) if isinstance(values, np.ma.MaskedArray) else values
        except GDAL_ERRORS as error:
            raise corrupt_raster(self.path, self.date, error) from error


@dataclass(frozen=True)
class Header:
    """What a raster says about itself.

    Arguments:
        whole_numbers: values are stored as integers.
        masked: a mask or an alpha band in the file says which pixels are data.
    """

    grid: Grid
    bands: int
    dtype: str
    scale: float
    offset: float
    nodata: float | None
    masked: bool

    @property
    def whole_numbers(self) -> bool:
        return bool(np.issubdtype(np.dtype(self.dtype), np.integer))


def read_header(path: Path | str, date: str) -> Header:
    """Open a raster and read what it says about its first band.

    Raises:
        CorruptInputError: it cannot be opened.
        SchemaError: it states no coordinate system.
    """
    try:
        with rasterio.Env(**ENVIRONMENT), rasterio.open(path) as raster:
            return header_of(raster)
    except GDAL_ERRORS as error:
        raise corrupt_raster(path, date, error) from error


def header_of(raster: Any) -> Header:
    """The header of an open raster.

    Raises:
        SchemaError: it states no coordinate system, or its grid is not north-up.
    """
    if raster.crs is None:
        raise SchemaError(
            f"{raster.name} states no coordinate system", hint="assign it, e.g. gdal_edit.py -a_srs EPSG:…"
        )
    try:
        a, b, c, d, e, f = tuple(raster.transform)[:6]
        grid = Grid(raster.crs.to_wkt(), (a, b, c, d, e, f), raster.shape)
    except SchemaError as error:
        raise SchemaError(f"{raster.name}: {error.message}", hint=error.hint) from error
    return Header(
        grid, raster.count, raster.dtypes[0], float(raster.scales[0]), float(raster.offsets[0]), raster.nodata,
        MaskFlags.per_dataset in raster.mask_flag_enums[0],
    )  # fmt: skip


def file_stamp(path: Path) -> str:
    """Size and time of the last change of a file."""
    state = path.stat()
    return f"{state.st_size}-{state.st_mtime_ns}"


def raster_window(window: Window) -> RasterWindow:
    """The same window for rasterio."""
    rows, columns = window.shape
    return RasterWindow(window.left, window.top, columns, rows)  # pyright: ignore[reportCallIssue]


def corrupt_raster(path: Path | str, date: str, error: Exception) -> CorruptInputError:
    """The error for a raster that cannot be read."""
    return CorruptInputError(
        f"cannot read the raster of {date}: {path}: {str(error).splitlines()[0]}",
        hint="fetch this file again, or remove the date's folder",
    )
