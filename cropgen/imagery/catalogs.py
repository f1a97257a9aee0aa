"""STAC catalogues that hold Sentinel-2, and how each of them differs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

from cropgen.core.errors import UsageError


@dataclass(frozen=True)
class Catalog:
    """One catalogue.

    Arguments:
        name: as `--catalog` takes it.
        url: its landing page, or the `catalog.json` of a static one.
        collection: searched by default; None: all.
        endpoint: of its s3 addresses, None for Amazon's.
        tokens: address of its access tokens.
        login: what it wants before it hands out values.
    """

    name: str
    url: str
    collection: str | None = None
    endpoint: str | None = None
    tokens: str | None = None
    login: str = "none"


CATALOGS: dict[str, Catalog] = {
    catalog.name: catalog
    for catalog in (
        Catalog("earth-search", "https://earth-search.aws.element84.com/v1", "sentinel-2-l2a"),
        Catalog(
            "planetary-computer",
            "https://planetarycomputer.microsoft.com/api/stac/v1",
            "sentinel-2-l2a",
            tokens="https://planetarycomputer.microsoft.com/api/sas/v1/token/sentinel-2-l2a",
        ),
        Catalog(
            "cdse",
            "https://stac.dataspace.copernicus.eu/v1",
            "sentinel-2-l2a",
            endpoint="https://eodata.dataspace.copernicus.eu",
            login="s3 keys of the Copernicus Data Space",
        ),
    )
}


def find_catalog(text: str, *, collection: str | None = None, endpoint: str | None = None) -> Catalog:
    """A catalogue by name, or one of the user's by its address.

    Arguments:
        collection, endpoint: in place of the catalogue's own.

    Raises:
        UsageError: it is neither.
    """
    known = CATALOGS.get(text)
    if known is None:
        if "://" not in text and not Path(text).is_file():
            raise UsageError(
                f"no catalogue {text!r}: expected {', '.join(CATALOGS)}, an address, or a catalog.json",
                hint="for example --catalog https://stac.example.org/v1",
            )
        known = Catalog(urlsplit(text).netloc or text, text)
    if known.tokens is not None and collection is not None:
        known = replace(known, tokens=f"{known.tokens.rpartition('/')[0]}/{collection}")
    return replace(known, collection=collection or known.collection, endpoint=endpoint or known.endpoint)
