"""Means over fields of the images of DENETHOR, a stripe of one date in memory at a time."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import geopandas as gpd
import numpy as np
import rasterio
import rasterio.features
from rasterio.errors import RasterioError
from rasterio.windows import Window

from cropgen.core.errors import CorruptInputError, SchemaError
from cropgen.core.progress import Reporter

ROWS = 512
_DATE = re.compile(r"(20\d\d)[-_]?([01]\d)[-_]?([0-3]\d)(?!\d)")


@dataclass(frozen=True)
class Grid:
    """Where the pixels of an image are."""

    crs: Any
    transform: Any
    height: int
    width: int

    def fields(self, shapes: gpd.GeoSeries) -> np.ndarray:
        """(H, W) int32: 1 + position of the field whose inside a pixel's centre is in, 0 where there is none."""
        if shapes.empty:
            return np.zeros((self.height, self.width), np.int32)
        numbered = zip(shapes.to_numpy(), range(1, len(shapes) + 1), strict=True)
        return rasterio.features.rasterize(
            numbered, out_shape=(self.height, self.width), transform=self.transform, fill=0, dtype="int32"
        )


class Images(Protocol):
    """T images of one grid.

    Arguments:
        days: (T,) int32 days since 1970-01-01, in the order of the images.
        channels: C.
        nodata: a pixel with this value in all channels was not seen; None: every finite one was.
    """

    @property
    def grid(self) -> Grid: ...

    @property
    def days(self) -> np.ndarray: ...

    @property
    def channels(self) -> int: ...

    @property
    def nodata(self) -> float | None: ...

    def stripes(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Every image in turn: its position, the first row of a stripe, and the stripe (rows, W, C)."""
        ...


def average(images: Images, fields: np.ndarray, count: int, report: Reporter, what: str) -> tuple[np.ndarray, ...]:
    """Means of the pixels seen in each field.

    Arguments:
        fields: (H, W) int32, as `Grid.fields` gives.
        count: N, number of fields.

    Returns:
        means (N, T, C) float64, NaN where no pixel was seen; pixels (N, T) int64 that were.
    """
    total = np.zeros((len(images.days), count + 1, images.channels))
    seen = np.zeros((len(images.days), count + 1), np.int64)
    with report.task(what, len(images.days)) as task:
        previous = 0
        for date, row, stripe in images.stripes():
            field = fields[row : row + len(stripe)]
            inside = field > 0
            numbers, pixels = field[inside], stripe[inside]
            valid = np.isfinite(pixels).all(1)
            if images.nodata is not None:
                valid &= (pixels != images.nodata).any(1)
            numbers, pixels = numbers[valid], pixels[valid]
            seen[date] += np.bincount(numbers, minlength=count + 1)
            for channel in range(images.channels):
                total[date, :, channel] += np.bincount(numbers, weights=pixels[:, channel], minlength=count + 1)
            task.advance(date - previous)
            previous = date
        task.advance(len(images.days) - previous)
    seen, total = seen[:, 1:].T, total[:, 1:].transpose(1, 0, 2)
    return np.where(seen[..., None] > 0, total / np.maximum(seen, 1)[..., None], np.nan), seen


def date_in(name: str) -> np.datetime64 | None:
    """The last date that a path names, as 2018-01-31, 2018_01_31 or 20180131."""
    found = _DATE.findall(name)
    try:
        return np.datetime64("-".join(found[-1]), "D") if found else None
    except ValueError:
        return None


class PlanetImages:
    """Daily GeoTIFFs of Planet Fusion: blue, green, red, near infrared, uint16, 0 outside the image.

    Arguments:
        paths: of the images of one tile.

    Raises:
        SchemaError: an image has no date in its path, or another grid or number of bands than the first.
        CorruptInputError: one cannot be opened.
    """

    channels = 4
    nodata: float | None = 0.0

    def __init__(self, paths: Sequence[Path]) -> None:
        dated = {path: date_in(path.parent.name + "/" + path.stem) for path in paths}
        if undated := [path for path, date in dated.items() if date is None]:
            raise SchemaError(f"{undated[0]}: no date in its name", hint="keep the names of the publisher")
        self._paths = sorted(paths, key=lambda path: (str(dated[path]), path))
        self.days = np.asarray([dated[path] for path in self._paths], "datetime64[D]").astype(np.int32)
        with _opened(self._paths[0]) as first:
            self.grid = Grid(first.crs, first.transform, first.height, first.width)

    def stripes(self) -> Iterator[tuple[int, int, np.ndarray]]:
        for position, path in enumerate(self._paths):
            with _opened(path) as image:
                grid = Grid(image.crs, image.transform, image.height, image.width)
                if grid != self.grid or image.count != self.channels:
                    raise SchemaError(
                        f"{path}: expected {self.channels} bands on the grid of {self._paths[0]}, got {image.count}",
                        hint="keep the images of one tile together",
                    )
                for row in range(0, grid.height, ROWS):
                    window = Window(0, row, grid.width, min(ROWS, grid.height - row))  # pyright: ignore[reportCallIssue]
                    try:
                        stripe = image.read(window=window)
                    except RasterioError as error:
                        raise CorruptInputError(f"{path} cannot be read: {error}", hint="bring it again") from error
                    yield position, row, np.moveaxis(stripe, 0, -1)


def _opened(path: Path) -> Any:
    try:
        return rasterio.open(path)
    except RasterioError as error:
        raise CorruptInputError(f"{path} cannot be opened: {error}", hint="bring the image again") from error
