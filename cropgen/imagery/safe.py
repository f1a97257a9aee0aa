"""Sentinel-2 products as ESA publishes them: SAFE folders and zips, Level-2A and Level-1C.

    S2A_MSIL2A_20210605T105031_N0300_R051_T31UFS_20210605T141312.SAFE/
        MTD_MSIL2A.xml                                        time, baseline, quantification, offsets: safe_metadata.py
        GRANULE/L2A_T31UFS_A031093_20210605T105050/
            IMG_DATA/R10m/T31UFS_20210605T105031_B02_10m.jp2  bands; where two resolutions hold one band, the finer
            IMG_DATA/R20m/T31UFS_20210605T105031_SCL_20m.jp2  scene classification
            QI_DATA/MSK_CLDPRB_20m.jp2                        layer `CLDPRB`: probability of cloud in per cent

Level-1C has its bands directly in IMG_DATA, and in place of a scene classification a mask of clouds: safe_masks.py.
A granule is an acquisition. Zips are read in place. Of two products that show the same granule of one data strip, that
of Level-2A is taken, then the one of the newer processing baseline. Saturated pixels are handed out as missing.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cropgen.core.errors import CorruptInputError, MissingInputError
from cropgen.core.files import files_below
from cropgen.core.progress import Reporter
from cropgen.imagery.raster import RasterLayer, file_stamp, read_header
from cropgen.imagery.safe_masks import MaskPolygons, MaskRaster, parse_clouds
from cropgen.imagery.safe_metadata import ADD_OFFSET, ProductMetadata, parse_product
from cropgen.imagery.scene import Acquisition, Layer, Window
from cropgen.series.bands import SCENE_CLASSIFICATION, SENTINEL2, is_reflectance, normalise_band

CLOUD_PROBABILITY = "CLDPRB"
_METADATA = re.compile(r"(?:^|/)MTD_MSIL(?:2A|1C)\.xml$|(?:^|/)S2\w_\w+_MTD_SAF\w+\.xml$")
_GRANULE = re.compile(r"(?:^|/)GRANULE/([^/]+)/(.+)$")
_HEAD = 4096
_TILE = re.compile(r"_T?(\d\d[A-Z]{3})(?:_|$)")


@dataclass(frozen=True)
class SafeLayer(RasterLayer):
    """A spectral band.

    Arguments:
        saturated: the stored number of pixels that were too bright.
    """

    saturated: float = 65535.0

    def read(self, window: Window) -> np.ndarray:
        values = super().read(window)
        return np.where(values == self.saturated, np.asarray(self.nodata, values.dtype), values)


@dataclass(frozen=True)
class SafeProducts:
    """Products, opened: metadata and headers were read, values were not."""

    name: str
    acquisitions: Sequence[Acquisition]


@dataclass(frozen=True)
class _Product:
    """The files of a product, in a folder or a zip; `root` is the way to them inside it."""

    path: Path
    root: str
    members: tuple[str, ...]

    @property
    def name(self) -> str:
        return Path(self.root).name.removesuffix(".SAFE") if self.root else self.path.name.removesuffix(".SAFE")

    def read(self, member: str) -> bytes:
        try:
            if self.path.is_dir():
                return (self.path / member).read_bytes()
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(f"{self.root}/{member}" if self.root else member)
        except (OSError, zipfile.BadZipFile, zlib.error) as error:
            raise _broken(self.path, error) from error

    def gdal_name(self, member: str) -> str:
        if self.path.is_dir():
            return str(self.path / member)
        return f"/vsizip/{{{self.path}}}/{self.root}/{member}" if self.root else f"/vsizip/{{{self.path}}}/{member}"

    def stamp(self, member: str) -> str:
        return file_stamp(self.path / member if self.path.is_dir() else self.path)


def find_products(path: Path) -> list[Path]:
    """The SAFE folders and zips that a path is, or holds; empty where it is something else."""
    if path.is_file():
        if path.suffix.lower() == ".zip" and _in_zip(path) is not None:
            return [path]
        return [path.parent] if _METADATA.search(path.name) else []
    if any(_METADATA.search(member.name) for member in path.glob("*.xml")):
        return [path]
    files = list(files_below(path))
    folders = {found.parent for found in files if _METADATA.search(found.name)}
    zips = [found for found in files if found.suffix.lower() == ".zip" and _in_zip(found) is not None]
    return sorted([*folders, *zips])


def open_products(name: str, paths: Sequence[Path], report: Reporter) -> SafeProducts:
    """Read the metadata of products and the headers of their bands.

    Raises:
        CorruptInputError: a product is cut short, or cannot be read.
        SchemaError: its metadata say too little.
        MissingInputError: it holds no band.
    """
    opened: dict[tuple[str, str], tuple[str, tuple[int, int], str, Acquisition]] = {}
    for path in paths:
        product = _product(path)
        metadata = _metadata_of(product, report)
        for granule, acquisition in _acquisitions(product, metadata, report):
            tile = _TILE.search(granule)
            key = (metadata.strip, tile[1] if tile else granule)
            candidate = (metadata.level, metadata.baseline, metadata.made, acquisition)
            known = opened.get(key)
            if known is not None:
                older, newer = sorted([known, candidate], key=lambda c: c[:3])
                reason = "a newer baseline or processing" if older[0] == newer[0] else "Level-2A"
                report.info(f"{older[3].key} left out: {newer[3].key} shows the same, of {reason}")
                candidate = newer
            opened[key] = candidate
    levels = [level for level, *_ in opened.values()]
    if len(set(levels)) > 1:
        report.warn(
            f"{name}: {levels.count('L1C')} acquisitions of Level-1C (top of atmosphere) beside "
            f"{levels.count('L2A')} of Level-2A (surface): reflectances of both in one series"
        )
    acquisitions = [acquisition for *_, acquisition in opened.values()]
    return SafeProducts(name, tuple(sorted(acquisitions, key=lambda a: (a.day, a.key))))


def _in_zip(path: Path) -> str | None:
    """The metadata file in a zip; None where it holds no product."""
    try:
        with zipfile.ZipFile(path) as archive:
            return next((n for n in archive.namelist() if _METADATA.search(n) and "/GRANULE/" not in n), None)
    except (OSError, zipfile.BadZipFile) as error:
        if path.name.startswith("S2") or _begins_as_product(path):
            raise _broken(path, error) from error
        return None


def _begins_as_product(path: Path) -> bool:
    """Whether the first members of a zip that was cut short are those of a product."""
    try:
        with path.open("rb") as stream:
            return b".SAFE/" in stream.read(_HEAD)
    except OSError:
        return False


def _product(path: Path) -> _Product:
    if path.is_dir():
        files = sorted(found.relative_to(path).as_posix() for found in files_below(path))
        return _Product(path, "", tuple(files))
    root = (_in_zip(path) or "").rpartition("/")[0]
    with zipfile.ZipFile(path) as archive:
        names = sorted(n.removeprefix(root).lstrip("/") for n in archive.namelist() if n.startswith(root))
    return _Product(path.resolve(), root, tuple(names))


def _metadata_of(product: _Product, report: Reporter) -> ProductMetadata:
    member = next(m for m in product.members if _METADATA.search(m) and "/" not in m)
    metadata = parse_product(product.read(member), f"{product.name}/{member}")
    if not metadata.says_too_little:
        return metadata
    major, minor = metadata.baseline
    report.warn(
        f"{product.name}: baseline {major:02d}.{minor:02d}, and {member} lists no offsets; {ADD_OFFSET:g} is assumed"
    )
    return ProductMetadata(**{**vars(metadata), "offsets": dict.fromkeys(SENTINEL2, ADD_OFFSET)})


def _acquisitions(product: _Product, metadata: ProductMetadata, report: Reporter) -> Iterable[tuple[str, Acquisition]]:
    """(granule, acquisition) of each granule of a product."""
    granules: dict[str, list[tuple[str, str]]] = {}
    for member in product.members:
        if found := _GRANULE.search(member):
            granules.setdefault(found[1], []).append((found[2], member))
    granules = {name: files for name, files in granules.items() if any(_is_image(inner) for inner, _ in files)}
    if not granules:
        raise MissingInputError(
            f"{product.path} holds no band (GRANULE/*/IMG_DATA/*.jp2)", hint="fetch the product again"
        )
    for granule, files in granules.items():
        key = product.name if len(granules) == 1 else f"{product.name}/{granule}"
        layers = _layers(product, metadata, files)
        if SCENE_CLASSIFICATION not in layers:
            report.info(f"{key}: neither a scene classification nor a mask of clouds")
        day = int(np.datetime64(metadata.sensed, "D").astype(np.int64))
        yield granule, Acquisition(key, day, layers)


def _is_image(inner: str) -> bool:
    return inner.startswith("IMG_DATA/") and inner.endswith(".jp2")


def _layers(product: _Product, metadata: ProductMetadata, files: Sequence[tuple[str, str]]) -> dict[str, Layer]:
    layers: dict[str, Layer] = {}
    for inner, member in files:
        band = normalise_band(Path(inner).stem) if _is_image(inner) else None
        if Path(inner).name == "MSK_CLDPRB_20m.jp2":
            band = CLOUD_PROBABILITY
        if band is not None:
            layer = _layer(product, metadata, band, member)
            if band not in layers or layer.grid.pixel_size < layers[band].grid.pixel_size:
                layers[band] = layer
    if SCENE_CLASSIFICATION not in layers:
        mask = _cloud_mask(product, metadata, files, layers)
        layers |= {} if mask is None else {SCENE_CLASSIFICATION: mask}
    return layers


def _layer(product: _Product, metadata: ProductMetadata, band: str, member: str) -> RasterLayer:
    path, date, stamp = product.gdal_name(member), metadata.sensed[:10], product.stamp(member)
    grid = read_header(path, date).grid
    if not is_reflectance(band):
        return RasterLayer(path, date, grid, 1.0, 0.0, None, stamp)
    scale, offset = metadata.calibration(band)
    return SafeLayer(path, date, grid, scale, offset, metadata.nodata, stamp, saturated=metadata.saturated)


def _cloud_mask(
    product: _Product, metadata: ProductMetadata, files: Sequence[tuple[str, str]], layers: dict[str, Layer]
) -> Layer | None:
    named = {Path(inner).name: member for inner, member in files if inner.startswith("QI_DATA/")}
    date = metadata.sensed[:10]
    if (member := named.get("MSK_CLASSI_B00.jp2")) is not None:
        path = product.gdal_name(member)
        return MaskRaster(path, date, read_header(path, date).grid, product.stamp(member))
    polygons = next((m for name, m in named.items() if re.search(r"MSK_CLOUDS\w*_B00\w*\.gml$", name)), None)
    if polygons is not None:
        grid = max((layer.grid for layer in layers.values()), key=lambda grid: grid.pixel_size)
        return MaskPolygons(
            parse_clouds(product.read(polygons), f"{product.name}/{polygons}"), grid, product.stamp(polygons)
        )
    return None


def _broken(path: Path, error: Exception) -> CorruptInputError:
    detail = str(error) or type(error).__name__
    return CorruptInputError(f"cannot read the product {path}: {detail}", hint="fetch the product again")
