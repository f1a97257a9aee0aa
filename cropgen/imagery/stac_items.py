"""STAC items of Sentinel-2, as each catalogue writes them: which asset is which band, and what its numbers mean.

                      assets            offset of baselines from 04.00 on
    earth-search      `red`, `scl`      taken off already where `earthsearch:boa_offset_applied`, whatever
                                        `raster:bands` says; older baselines never have one
    planetary-computer `B04`, `SCL`     in the numbers, stated nowhere: from `s2:processing_baseline`
    cdse              `B04_10m`         in the numbers, stated per band (`raster:offset`)

Where an item states a scale and an offset they hold; where it states none, reflectance = 0.0001 · stored, less 0.1 from
baseline 04.00 on. A known fault of earth-search: some items of 2022 to 2025 say that the offset was not taken off
although it was. The values show it, and `fetch scenes` warns.

Reference: SpatioTemporal Asset Catalog specification 1.0 and 1.1, with the raster, projection and file extensions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from rasterio.crs import CRS
from rasterio.errors import CRSError

from cropgen.core.errors import SchemaError
from cropgen.imagery.safe_metadata import ADD_OFFSET, OFFSET_BASELINE, QUANTIFICATION, parse_baseline
from cropgen.imagery.scene import Grid
from cropgen.series.bands import SENTINEL2, is_reflectance, normalise_band

_TILE = re.compile(r"(?<![A-Z0-9])(?:MGRS-|T)?(\d{1,2}[C-X][A-Z]{2})(?![A-Z0-9])")
_SENSED = re.compile(r"_S(\d{8}T\d{6})_")
_BASELINES = ("s2:processing_baseline", "processing:version", "sentinel:processing_baseline", "processing:baseline")
_APPLIED = ("earthsearch:boa_offset_applied", "sentinel:boa_offset_applied")
_METRES = re.compile(r"_(\d\d)m$")


@dataclass(frozen=True)
class Asset:
    """One band of one item.

    Arguments:
        scale, offset: reflectance = scale · stored + offset.
        grid: as the catalogue states it, None where it does not.
        size: bytes of the whole file, where stated.
        checksum: multihash of the whole file in hex, where stated.
    """

    band: str
    address: str
    scale: float
    offset: float
    nodata: float | None
    grid: Grid | None
    size: int | None
    checksum: str | None


@dataclass(frozen=True)
class Item:
    """One granule at one time.

    Arguments:
        sensed: ISO, UTC.
        strip: what was sensed; the same after a reprocessing.
        cloud: per cent, None where the catalogue does not say.
        baseline: processing baseline, (0, 0) where unknown.
        updated: when the catalogue changed it last.
        geometry: GeoJSON of the ground it shows.
    """

    id: str
    tile: str
    sensed: str
    strip: str
    cloud: float | None
    baseline: tuple[int, int]
    updated: str
    geometry: Mapping[str, Any] | None
    assets: Mapping[str, Asset]

    @property
    def date(self) -> str:
        return self.sensed[:10]

    @property
    def granule(self) -> tuple[str, str]:
        """Tile and strip: what it shows, whoever processed it."""
        return self.tile, self.strip

    @property
    def day(self) -> int:
        return int(np.datetime64(self.date, "D").astype(np.int64))


def parse_item(document: Mapping[str, Any]) -> Item:
    """Read one item.

    Raises:
        SchemaError: it has no id or no date, or a number is none.
    """
    properties: Mapping[str, Any] = document.get("properties") or {}
    name, sensed = document.get("id"), properties.get("datetime") or properties.get("start_datetime")
    if not isinstance(name, str) or not isinstance(sensed, str):
        raise SchemaError(f"item {name or '?'} has no id or no datetime", hint="expected STAC items with a datetime")
    baseline = _baseline(properties)
    strip = _SENSED.search(str(properties.get("s2:datastrip_id", properties.get("eopf:datastrip_id", ""))))
    cloud = properties.get("eo:cloud_cover")
    try:
        assets = {asset.band: asset for asset in _assets(document, properties, baseline)}
    except (TypeError, ValueError, KeyError, CRSError) as error:
        raise SchemaError(f"item {name}: {error}", hint="the catalogue's item is not as its extensions say") from error
    return Item(
        name, _tile(name, properties, assets), sensed, strip[1] if strip else sensed[:19],
        None if cloud is None else float(cloud), baseline, str(properties.get("updated", "")),
        document.get("geometry"), assets,
    )  # fmt: skip


def _baseline(properties: Mapping[str, Any]) -> tuple[int, int]:
    for key in _BASELINES:
        try:
            return parse_baseline(str(properties[key]))
        except (KeyError, ValueError):
            continue
    return 0, 0


def _tile(name: str, properties: Mapping[str, Any], assets: Mapping[str, Asset]) -> str:
    """The MGRS tile, or where there is none the corner of the grid."""
    for text in (properties.get("grid:code"), properties.get("s2:mgrs_tile"), name.replace("_", " ")):
        if found := _TILE.search(str(text or "")):
            return found[1].zfill(5)
    corners = sorted(asset.grid.bounds for asset in assets.values() if asset.grid is not None)
    return f"{corners[0][0]:.0f}_{corners[0][3]:.0f}" if corners else "tile"


def _assets(document: Mapping[str, Any], properties: Mapping[str, Any], baseline: tuple[int, int]) -> Iterator[Asset]:
    """The finest asset of every band."""
    assets: Mapping[str, Mapping[str, Any]] = document.get("assets") or {}
    named = [(band, key) for key in assets if (band := normalise_band(key)) is not None]
    known = {band for band, _ in named}
    named += [(band, key) for key in assets if (band := _single_band(assets[key])) is not None and band not in known]
    chosen: dict[str, tuple[float, str]] = {}
    for band, key in named:
        metres = _resolution(key, assets[key], band)
        if band not in chosen or metres < chosen[band][0]:
            chosen[band] = (metres, key)
    for band, (_, key) in chosen.items():
        yield _asset(band, assets[key], properties, baseline)


def _single_band(asset: Mapping[str, Any]) -> str | None:
    """The band of an asset whose key says nothing, but whose one band is named."""
    bands = asset.get("eo:bands") or asset.get("bands") or []
    if len(bands) != 1 or "data" not in asset.get("roles", ["data"]):
        return None
    return normalise_band(str(bands[0].get("name", "")))


def _resolution(key: str, asset: Mapping[str, Any], band: str) -> float:
    if found := _METRES.search(key):
        return float(found[1])
    transform = asset.get("proj:transform")
    if transform:
        return float(transform[0])
    return float(asset.get("gsd") or (SENTINEL2[band].resolution if band in SENTINEL2 else 20))


def _asset(band: str, asset: Mapping[str, Any], properties: Mapping[str, Any], baseline: tuple[int, int]) -> Asset:
    described = (asset.get("raster:bands") or asset.get("bands") or [{}])[0]

    def stated(name: str) -> Any:
        found = [described.get(name), described.get(f"raster:{name}"), asset.get(f"raster:{name}"), asset.get(name)]
        return next((value for value in found if value is not None), None)

    scale, offset = 1.0, 0.0
    if is_reflectance(band):
        scale = float(stated("scale") if stated("scale") is not None else 1 / QUANTIFICATION)
        offset = _offset(stated("offset"), scale, properties, baseline)
    nodata = stated("nodata")
    size, checksum = asset.get("file:size"), asset.get("file:checksum")
    return Asset(
        band, str(asset["href"]), scale, offset,
        float(nodata) if nodata is not None else 0.0 if is_reflectance(band) else None,
        _grid(asset, properties), int(size) if size else None, str(checksum).lower() if checksum else None,
    )  # fmt: skip


def _offset(stated: Any, scale: float, properties: Mapping[str, Any], baseline: tuple[int, int]) -> float:
    applied = next((properties[key] for key in _APPLIED if key in properties), None)
    shifted = baseline >= OFFSET_BASELINE
    if applied is not None and (applied or not shifted):
        return 0.0
    if stated is not None:
        return float(stated)
    return ADD_OFFSET * scale if shifted else 0.0


def _grid(asset: Mapping[str, Any], properties: Mapping[str, Any]) -> Grid | None:
    def stated(name: str) -> Any:
        return asset.get(name, properties.get(name))

    shape, transform = stated("proj:shape"), stated("proj:transform")
    code, number, text = stated("proj:code"), stated("proj:epsg"), stated("proj:wkt2")
    if not shape or not transform or not (code or number or text):
        return None
    crs = CRS.from_user_input(code or (f"EPSG:{number}" if number else text))
    a, b, c, d, e, f = (float(value) for value in transform[:6])
    return Grid(crs.to_wkt(), (a, b, c, d, e, f), (int(shape[0]), int(shape[1])))
