"""STAC catalogues: search them, and read the windows of what they hold in place.

`pystac-client` searches: it knows the paging and the dialects of the APIs, and static catalogues, which cannot be
searched, are walked. Values are read by rasterio, window by window, as stored and on the grid they were made on:
`odc-stac` would resample them into a cube of its own, which neither keeps the stored numbers nor the pixels of a file.

`items.json`, an ItemCollection as `fetch scenes` and `stac-client search` write it, opens as scenes.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import shapely
import shapely.errors
import shapely.geometry
from rasterio.io import DatasetReader
from shapely.geometry.base import BaseGeometry

from cropgen.core.errors import (
    CorruptInputError,
    CropgenError,
    MissingDependencyError,
    MissingInputError,
    SchemaError,
    UnfinishedError,
)
from cropgen.core.files import write_text
from cropgen.core.progress import Reporter
from cropgen.imagery.catalogs import CATALOGS, Catalog
from cropgen.imagery.raster import Header, RasterLayer, header_of, raster_window
from cropgen.imagery.remote import Access, Again, open_raster, patiently, require_success
from cropgen.imagery.scene import Acquisition, Layer, Window
from cropgen.imagery.stac_items import Asset, Item, parse_item
from cropgen.series.bands import SCENE_CLASSIFICATION

_PAGE = 200


@dataclass(frozen=True)
class Query:
    """What is searched for.

    Arguments:
        first, last: ISO dates, both included.
        max_cloud: per cent of an item; items that do not say are kept.
        pieces: polygons in degrees; items that meet one are found.
    """

    first: str
    last: str
    max_cloud: float
    pieces: Sequence[BaseGeometry]


@dataclass(frozen=True)
class RemoteLayer(RasterLayer):
    """One band of one item, read where it is."""

    access: Access = field(default_factory=Access)

    @property
    def narrow(self) -> bool:
        return False

    def read(self, window: Window) -> np.ndarray:
        def work(raster: DatasetReader) -> np.ndarray:
            return raster.read(self.band, window=raster_window(window))

        return patiently(lambda: open_raster(str(self.path), self.access, work), self.access)


@dataclass(frozen=True)
class StacItems:
    """Items as scenes."""

    name: str
    acquisitions: Sequence[Acquisition]


def search(catalog: Catalog, query: Query, access: Access) -> list[dict[str, Any]]:
    """The items of a catalogue that show a place in a time, as documents, ordered by id.

    Raises:
        MissingDependencyError: `pystac-client` is not installed.
        UnfinishedError: the catalogue does not answer.
        CropgenError: it refuses.
        MissingInputError: there is no such catalogue or collection.
    """
    try:
        import pystac_client
        from pystac.errors import STACError
        from pystac_client.errors import ClientTypeError
        from pystac_client.exceptions import APIError
        from pystac_client.warnings import PystacClientWarning
    except ImportError as error:
        raise MissingDependencyError(
            "searching catalogues needs pystac-client, which is not installed", hint="pip install 'cropgen[stac]'"
        ) from error
    import requests

    try:
        with warnings.catch_warnings():  # what a static catalogue lacks is expected of it
            warnings.simplefilter("ignore", PystacClientWarning)
            client = pystac_client.Client.open(catalog.url, stac_io=_wire(catalog, access))
            found = {item["id"]: item for item in _matching(client, catalog, query)}
    except APIError as error:
        if status := getattr(error, "status_code", None):
            _refused(status, catalog)
        raise _silent(catalog, error) from error
    except (requests.exceptions.RequestException, OSError) as error:
        raise _silent(catalog, error) from error
    except (STACError, ClientTypeError, KeyError, ValueError, TypeError) as error:
        raise SchemaError(f"{catalog.url} is no STAC catalogue: {error}", hint="give its landing page") from error
    return [found[name] for name in sorted(found)]


def _wire(catalog: Catalog, access: Access) -> Any:
    """What asks the catalogue: patiently, and with the headers of its host."""
    from pystac_client.stac_api_io import StacApiIO
    from urllib3 import Retry

    again = Retry(
        access.retries, backoff_factor=access.backoff, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None,
        raise_on_status=False,
    )  # fmt: skip
    return StacApiIO(headers=access.headers(catalog.url), timeout=access.timeout, max_retries=again)


def _matching(client: Any, catalog: Catalog, query: Query) -> Iterator[dict[str, Any]]:
    if client.conforms_to("ITEM_SEARCH"):
        collections = [catalog.collection] if catalog.collection else None
        items: Iterable[dict[str, Any]] = (
            item
            for piece in query.pieces
            for item in client.search(
                collections=collections, intersects=shapely.geometry.mapping(piece), limit=_PAGE,
                datetime=f"{query.first}T00:00:00Z/{query.last}T23:59:59Z",
            ).items_as_dicts()
        )  # fmt: skip
    else:
        items = (_as_document(item) for item in client.get_items(recursive=True))
        if catalog.collection:
            items = (item for item in items if item.get("collection") == catalog.collection)
    for item in items:
        if _meets(item, query):
            yield item


def _as_document(item: Any) -> dict[str, Any]:
    """An item of a static catalogue, its addresses absolute."""
    item.make_asset_hrefs_absolute()
    return item.to_dict(include_self_link=False, transform_hrefs=False)


def _meets(item: Mapping[str, Any], query: Query) -> bool:
    properties = item.get("properties") or {}
    date = str(properties.get("datetime") or properties.get("start_datetime") or "")[:10]
    cloud = properties.get("eo:cloud_cover")
    if not query.first <= date <= query.last or (cloud is not None and cloud > query.max_cloud):
        return False
    shape = footprint_of(item.get("geometry"))
    return shape is None or any(shape.intersects(piece) for piece in query.pieces)


def footprint_of(geometry: Any) -> BaseGeometry | None:
    """A GeoJSON geometry; None where there is none, or it is broken."""
    try:
        return shapely.make_valid(shapely.geometry.shape(geometry)) if geometry else None
    except (shapely.errors.ShapelyError, KeyError, ValueError, TypeError):
        return None


def newest(items: Iterable[Item], report: Reporter) -> list[Item]:
    """Of items that show the same granule of one data strip, the one of the newest processing.

    Those with a scene classification come first: a catalogue may hold Level-1C beside Level-2A.
    """
    kept: dict[tuple[str, str], Item] = {}
    left_out = 0
    for item in sorted(items, key=lambda i: (SCENE_CLASSIFICATION in i.assets, i.baseline, i.updated, i.id)):
        left_out += item.granule in kept
        kept[item.granule] = item
    if left_out:
        report.info(f"{left_out} items left out: newer or further processings of the same are there")
    return sorted(kept.values(), key=lambda i: (i.sensed, i.id))


def write_items(path: Path, catalog: Catalog, documents: Sequence[Mapping[str, Any]]) -> None:
    """Write what was found as an ItemCollection that `open_items` and other STAC tools read."""
    facts = {
        "url": catalog.url,
        "collection": catalog.collection,
        "endpoint": catalog.endpoint,
        "tokens": catalog.tokens,
    }
    document = {"type": "FeatureCollection", "features": list(documents), "catalog": facts}
    write_text(path, json.dumps(document, indent=1) + "\n")


def read_items(path: Path) -> tuple[list[dict[str, Any]], Access]:
    """The items of an ItemCollection, and how its addresses are reached.

    Raises:
        CorruptInputError, SchemaError: it is no JSON, or none of items.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CorruptInputError(f"cannot read {path}: {error}", hint="search again, or remove the file") from error
    features = document.get("features") if isinstance(document, dict) else None
    if not isinstance(features, list):
        raise SchemaError(f"{path} is no ItemCollection", hint="expected the items of a STAC search as GeoJSON")
    facts = document.get("catalog") or {}
    if not facts:
        facts = next((vars(c) for c in CATALOGS.values() if c.url in path.read_text(encoding="utf-8")), {})
    access = Access(
        endpoint=facts.get("endpoint"),
        tokens=facts.get("tokens"),
        own_host=urlsplit(facts.get("url") or "").netloc or None,
    )
    return features, access


def open_items(path: Path, report: Reporter) -> StacItems:
    """Open an ItemCollection; headers are read only of assets whose grid the catalogue does not state.

    Raises:
        CorruptInputError, SchemaError: it is none.
        UnfinishedError, CropgenError, MissingInputError: an address does not answer, refuses, or holds nothing.
    """
    features, access = read_items(path)
    items = newest([parse_item(feature) for feature in features], report)
    acquisitions = []
    for item in items:
        layers: dict[str, Layer] = {band: remote_layer(item, asset, access) for band, asset in item.assets.items()}
        if layers:
            acquisitions.append(Acquisition(item.id, item.day, layers))
    if not acquisitions:
        raise MissingInputError(f"no Sentinel-2 band in the items of {path}", hint="search a Sentinel-2 collection")
    return StacItems(path.stem, tuple(acquisitions))


def remote_layer(item: Item, asset: Asset, access: Access) -> RemoteLayer:
    """A band of an item as a layer."""
    grid = asset.grid if asset.grid is not None else remote_header(asset.address, access).grid
    stamp = asset.checksum or f"{item.id} {item.updated} {asset.size or ''}"
    return RemoteLayer(asset.address, item.date, grid, asset.scale, asset.offset, asset.nodata, stamp, access=access)


def remote_header(address: str, access: Access) -> Header:
    """What a raster behind an address says about itself."""
    return patiently(lambda: open_raster(address, access, header_of), access)


def access_to(catalog: Catalog, **how: Any) -> Access:
    """How the addresses of a catalogue are reached.

    Arguments:
        how: other fields of `Access`.
    """
    host = urlsplit(catalog.url).netloc or None
    return Access(endpoint=catalog.endpoint, tokens=catalog.tokens, own_host=host, **how)


def _refused(status: int, catalog: Catalog) -> None:
    try:
        require_success(status, "", catalog.url)
    except Again as error:
        raise UnfinishedError(str(error), hint="the catalogue is down; try again later") from error


def _silent(catalog: Catalog, error: Exception) -> CropgenError:
    if isinstance(error, FileNotFoundError):
        return MissingInputError(f"no catalogue at {catalog.url}", hint="give its landing page or catalog.json")
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return UnfinishedError(f"{catalog.url} does not answer: {text}", hint="check the connection, and try again")
