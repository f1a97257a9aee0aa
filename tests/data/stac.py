"""A small STAC catalogue on a server of this machine: COGs of one tile, items in the dialects of three catalogues.

    region = Region(server)
    region.add("2021-06-05", dialect="earth-search", baseline="05.00", applied=True)
    region.write_static()       → address of a static catalogue
    region.serve_api()          → address of an API that searches, with pages of two

Bands are B04 and B08 at 10 m and SCL at 20 m; `truth` holds their reflectance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import rasterio
import shapely
import shapely.geometry

from .server import FileServer

UTM = "EPSG:32631"
WEST, NORTH, SIZE = 600_000.0, 5_700_000.0, 1040
_TILE = 130
_NAMES = {
    "earth-search": {"B04": "red", "B08": "nir", "SCL": "scl"},
    "planetary-computer": {"B04": "B04", "B08": "B08", "SCL": "SCL"},
    "cdse": {"B04": "B04_10m", "B08": "B08_10m", "SCL": "SCL_20m"},
}


def outline(west: float = WEST, north: float = NORTH, side: float = SIZE * 10.0) -> shapely.Geometry:
    """A square of a tile in degrees."""
    return gpd.GeoSeries([shapely.box(west, north - side, west + side, north)], crs=UTM).to_crs(4326).iloc[0]


def write_parcels(path: Path, corners: Mapping[str, tuple[float, float]], side: float = 60.0) -> Path:
    """Squares by the distance of their north-western corner from that of the tile, in metres east and south."""
    shapes = [shapely.box(WEST + x, NORTH - y - side, WEST + x + side, NORTH - y) for x, y in corners.values()]
    gpd.GeoDataFrame({"parcel_id": list(corners), "year": 2021}, geometry=shapes, crs=UTM).to_file(path)
    return path


class Region:
    """What the catalogue holds.

    Arguments:
        server: serves the rasters.
        base: address of the rasters in place of the server's, such as `s3://bucket`.
    """

    def __init__(self, server: FileServer, base: str | None = None) -> None:
        self.server = server
        self.base = base or server.url("").rstrip("/")
        self.items: list[dict[str, Any]] = []
        self.truth: dict[str, np.ndarray] = {}

    def add(
        self,
        date: str,
        *,
        dialect: str = "planetary-computer",
        baseline: str = "05.00",
        applied: bool | None = None,
        cloud: float = 10.0,
        tile: str = "31UFS",
        name: str | None = None,
        west: float = WEST,
        bands: tuple[str, ...] = ("B04", "B08", "SCL"),
        stated_grid: bool = True,
        checksums: bool = False,
    ) -> dict[str, Any]:
        """Write the rasters of one item and describe them.

        Arguments:
            applied: `earthsearch:boa_offset_applied`; the numbers are stored accordingly.
            stated_grid: whether the item says on which grid its assets are.
            checksums: whether it states sizes and multihashes.
        """
        identity = name or f"S2A_{tile}_{date.replace('-', '')}_0_L2A"
        draw = np.random.default_rng(int(date.replace("-", "")))
        shifted = baseline >= "04.00" and not applied
        assets: dict[str, Any] = {}
        for band in bands:
            metres, size = (20, SIZE // 2) if band == "SCL" else (10, SIZE)
            path = self.server.folder / "cogs" / identity / f"{band}.tif"
            if band == "SCL":
                stored = np.array([4, 4, 4, 5, 8], "uint8")[
                    np.tile(draw.integers(0, 5, (_TILE, _TILE)), (size // _TILE, size // _TILE))
                ]
            else:
                numbers = np.tile(draw.integers(100, 4000, (_TILE, _TILE)), (size // _TILE, size // _TILE))
                self.truth[f"{identity}/{band}"] = numbers / 1e4
                stored = (numbers + (1000 if shifted else 0)).astype("uint16")
            write_cog(path, stored, metres, west)
            assets[_NAMES[dialect][band]] = self._asset(band, path, dialect, metres, size, west, shifted, checksums)
        side = SIZE * 10.0
        item = {
            "type": "Feature", "stac_version": "1.0.0", "id": identity, "collection": "sentinel-2-l2a",
            "stac_extensions": [], "links": [], "bbox": list(outline(west, NORTH, side).bounds),
            "geometry": shapely.geometry.mapping(outline(west, NORTH, side)), "assets": assets,
            "properties": {
                "datetime": f"{date}T10:56:18.024000Z", "eo:cloud_cover": cloud, "proj:epsg": 32631,
                "updated": f"{date}T20:00:00Z", **_facts(dialect, tile, baseline, applied),
            },
        }  # fmt: skip
        if not stated_grid:
            for asset in assets.values():
                del asset["proj:shape"], asset["proj:transform"]
        self.items.append(item)
        return item

    def _asset(
        self, band: str, path: Path, dialect: str, metres: int, size: int, west: float, shifted: bool, checksums: bool
    ) -> dict[str, Any]:
        asset: dict[str, Any] = {
            "href": f"{self.base}/{path.relative_to(self.server.folder).as_posix()}", "roles": ["data"],
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "proj:shape": [size, size], "proj:transform": [metres, 0, west, 0, -metres, NORTH],
        }  # fmt: skip
        if band != "SCL" and dialect == "earth-search":
            asset["raster:bands"] = [{"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": -0.1}]
        if band != "SCL" and dialect == "cdse":
            asset |= {"raster:scale": 0.0001, "raster:offset": -0.1 if shifted else 0.0, "nodata": 0}
        if checksums:
            content = path.read_bytes()
            asset |= {"file:size": len(content), "file:checksum": f"1220{hashlib.sha256(content).hexdigest()}"}
        return asset

    def write_static(self) -> str:
        """A catalogue of files that cannot be searched; its address."""
        links = []
        for item in self.items:
            path = self.server.folder / "static" / f"{item['id']}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(item))
            links.append({"rel": "item", "href": f"./{path.name}", "type": "application/json"})
        catalog = {"type": "Catalog", "stac_version": "1.0.0", "id": "static", "description": "Static.", "links": links}
        (self.server.folder / "static" / "catalog.json").write_text(json.dumps(catalog))
        return self.server.url("static/catalog.json")

    def serve_api(self, page: int = 2) -> str:
        """An API with item search; its landing page."""
        landing = {
            "type": "Catalog", "stac_version": "1.0.0", "id": "api", "description": "Searches.",
            "conformsTo": ["https://api.stacspec.org/v1.0.0/core", "https://api.stacspec.org/v1.0.0/item-search"],
            "links": [{"rel": "search", "href": self.server.url("api/search"), "method": "POST"}],
        }  # fmt: skip
        self.server.routes["api"] = lambda body, headers: json.dumps(landing).encode()
        self.server.routes["api/search"] = lambda body, headers: json.dumps(self._search(body, page)).encode()
        return self.server.url("api")

    def _search(self, body: bytes, page: int) -> dict[str, Any]:
        asked = json.loads(body)
        first, last = (text[:10] for text in asked["datetime"].split("/"))
        ground = shapely.geometry.shape(asked["intersects"])
        found = [
            item
            for item in self.items
            if first <= item["properties"]["datetime"][:10] <= last
            and shapely.geometry.shape(item["geometry"]).intersects(ground)
            and item["collection"] in asked.get("collections", [item["collection"]])
        ]
        begin = int(asked.get("token", 0))
        links = []
        if begin + page < len(found):
            links = [{"rel": "next", "href": self.server.url("api/search"), "method": "POST", "merge": True,
                      "body": {"token": str(begin + page)}}]  # fmt: skip
        return {"type": "FeatureCollection", "features": found[begin : begin + page], "links": links}


def _facts(dialect: str, tile: str, baseline: str, applied: bool | None) -> dict[str, Any]:
    if dialect == "earth-search":
        flag = {} if applied is None else {"earthsearch:boa_offset_applied": applied}
        return {"grid:code": f"MGRS-{tile}", "s2:processing_baseline": baseline, **flag}
    if dialect == "cdse":
        return {"grid:code": f"MGRS-{tile}", "processing:version": baseline}
    return {"s2:mgrs_tile": tile, "s2:processing_baseline": baseline}


def write_cog(path: Path, stored: np.ndarray, metres: float, west: float = WEST) -> Path:
    """A raster as catalogues serve them: blocks, no statement of scale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with rasterio.open(
        path, "w", driver="COG", width=stored.shape[1], height=stored.shape[0], count=1, dtype=stored.dtype, crs=UTM,
        transform=rasterio.Affine(metres, 0, west, 0, -metres, NORTH), nodata=0, BLOCKSIZE=256, COMPRESS="DEFLATE",
        LEVEL=1, OVERVIEWS="NONE",
    ) as raster:  # fmt: skip
        raster.write(stored, 1)
    return path
