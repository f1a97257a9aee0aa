"""The cloud masks of Level-1C products, told in the classes of the Level-2A scene classification.

Level-1C has no scene classification. Its products hold a coarser mask of clouds: bits of a 60 m raster
(`MSK_CLASSI_B00.jp2`: opaque clouds, cirrus, snow) from processing baseline 04.00 on, polygons (`MSK_CLOUDS_B00.gml`:
opaque clouds, cirrus) before. Opaque clouds become class 9, cirrus 10, snow 11, and everything else class 4, although
the mask knows nothing of vegetation, and nothing of cloud shadows: they stay in the series.

Reference: Sentinel-2 Products Specification Document, issue 14.9, European Space Agency, 2021.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.features
import shapely

from cropgen.core.errors import CorruptInputError
from cropgen.imagery.raster import ENVIRONMENT, GDAL_ERRORS, corrupt_raster, raster_window
from cropgen.imagery.scene import Grid, Window

CLEAR, OPAQUE, CIRRUS, SNOW = 4, 9, 10, 11
_NAMED = {"OPAQUE": OPAQUE, "CIRRUS": CIRRUS}


@dataclass(frozen=True)
class MaskRaster:
    """Classes from the three bands of `MSK_CLASSI_B00.jp2`."""

    path: str
    date: str
    grid: Grid
    stamp: str
    scale: float | None = 1.0
    offset: float = 0.0
    nodata: float | None = None

    def read(self, window: Window) -> np.ndarray:
        try:
            with rasterio.Env(**ENVIRONMENT), rasterio.open(self.path) as raster:
                opaque, cirrus, snow = raster.read([1, 2, 3], window=raster_window(window)) > 0
        except GDAL_ERRORS as error:
            raise corrupt_raster(self.path, self.date, error) from error
        return np.select([opaque, cirrus, snow], [OPAQUE, CIRRUS, SNOW], CLEAR).astype(np.uint8)


@dataclass(frozen=True)
class MaskPolygons:
    """Classes from the polygons of `MSK_CLOUDS_B00.gml`, drawn where a window asks for them.

    Arguments:
        shapes: (class, polygon as WKB), opaque clouds last, so that they win.
    """

    shapes: tuple[tuple[int, bytes], ...]
    grid: Grid
    stamp: str
    scale: float | None = 1.0
    offset: float = 0.0
    nodata: float | None = None

    def read(self, window: Window) -> np.ndarray:
        classes = np.full(window.shape, CLEAR, np.uint8)
        drawn = [(shapely.from_wkb(shape), number) for number, shape in self.shapes]
        if drawn and classes.size:
            rasterio.features.rasterize(drawn, out=classes, transform=self.grid.window_affine(window))
        return classes


def parse_clouds(document: bytes, where: str) -> tuple[tuple[int, bytes], ...]:
    """The polygons of a cloud mask, each as (class, WKB).

    Raises:
        CorruptInputError: it is no XML, or a ring is none.
    """
    found: list[tuple[int, bytes]] = []
    try:
        for feature in ElementTree.fromstring(document).iterfind(".//{*}MaskFeature"):
            number = _NAMED.get((feature.findtext("{*}maskType") or "").strip())
            if number is None:
                continue
            for polygon in feature.iterfind(".//{*}Polygon"):
                outer, *holes = [_ring(ring) for ring in polygon.iterfind(".//{*}posList")]
                found.append((number, shapely.to_wkb(shapely.Polygon(outer, holes))))
    except (ElementTree.ParseError, ValueError) as error:
        raise CorruptInputError(
            f"cannot read the cloud mask {where}: {error}", hint="fetch the product again"
        ) from error
    return tuple(sorted(found, key=lambda shape: -shape[0]))


def _ring(positions: ElementTree.Element) -> np.ndarray:
    values = np.array((positions.text or "").split(), dtype=np.float64)
    return values.reshape(-1, int(positions.get("srsDimension", "2")))[:, :2]
