"""Sentinel-2 bands: their names, what else they are called, and where in the spectrum they look.

Band names are two digits (`B02`, `B8A`). Tables and cubes write them in many ways; `normalise_band` knows the usual
ones. Wavelengths and widths are those of MSI on Sentinel-2A.

Reference: Sentinel-2 User Handbook, European Space Agency, 2015, table of spectral bands.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class BandInfo:
    """One spectral band.

    Arguments:
        name: canonical name.
        resolution: ground sampling distance in metres.
        wavelength: central wavelength in nanometres.
        width: band width in nanometres.
        common: the colour or region of the spectrum it stands for.
    """

    name: str
    resolution: int
    wavelength: float
    width: float
    common: str


SENTINEL2: dict[str, BandInfo] = {
    info.name: info
    for info in (
        BandInfo("B01", 60, 442.7, 20, "coastal"),
        BandInfo("B02", 10, 492.7, 65, "blue"),
        BandInfo("B03", 10, 559.8, 35, "green"),
        BandInfo("B04", 10, 664.6, 30, "red"),
        BandInfo("B05", 20, 704.1, 14, "rededge1"),
        BandInfo("B06", 20, 740.5, 14, "rededge2"),
        BandInfo("B07", 20, 782.8, 19, "rededge3"),
        BandInfo("B08", 10, 832.8, 105, "nir"),
        BandInfo("B8A", 20, 864.7, 21, "nir08"),
        BandInfo("B09", 60, 945.1, 19, "nir09"),
        BandInfo("B10", 60, 1373.5, 29, "cirrus"),
        BandInfo("B11", 20, 1613.7, 90, "swir16"),
        BandInfo("B12", 20, 2202.4, 174, "swir22"),
    )
}
LAND_BANDS = tuple(name for name, info in SENTINEL2.items() if info.resolution < 60)
"""The ten bands that look at the surface; B01, B09 and B10 look at the atmosphere."""

SCENE_CLASSIFICATION = "SCL"

_COMMON = {
    **{info.common: name for name, info in SENTINEL2.items()},
    "narrownir": "B8A", "nirnarrow": "B8A", "nirbroad": "B08", "nir2": "B8A", "watervapour": "B09",
    "swir1": "B11", "swir2": "B12", "re1": "B05", "re2": "B06", "re3": "B07", "coastalaerosol": "B01",
    "scl": SCENE_CLASSIFICATION, "sceneclassification": SCENE_CLASSIFICATION,
}  # fmt: skip
_BAND_TOKEN = re.compile(r"(?<![A-Za-z0-9])B0?(8A|1[0-2]|[1-9])(?![A-Za-z0-9])", re.IGNORECASE)
_SCL_TOKEN = re.compile(r"(?<![A-Za-z0-9])SCL(?![A-Za-z0-9])", re.IGNORECASE)


def normalise_band(name: str) -> str | None:
    """The canonical Sentinel-2 name of a band, or None for anything else.

    Understood are `B2`, `B02`, `b8a`, `B08A`, prefixes and suffixes set off by a sign (`S2-L2A-B02`, `B4_mean`,
    `T31UFS_20210605_B11_20m`), the common names (`blue`, `nir`, `red-edge-1`, `swir16`) and `SCL`.
    """
    text = name.strip()
    spaced = re.sub(r"[_\W]+", " ", text)
    found = set(_BAND_TOKEN.findall(spaced))
    if len({token.upper() for token in found}) == 1:
        token = found.pop().upper()
        return "B8A" if token == "8A" else f"B{int(token):02d}"
    if _SCL_TOKEN.search(spaced):
        return SCENE_CLASSIFICATION
    return _COMMON.get(re.sub(r"[_\W]+", "", text).casefold())


def is_reflectance(name: str) -> bool:
    """True for a spectral band of Sentinel-2, false for indices, classifications and everything else."""
    return name in SENTINEL2


def order_bands(names: Iterable[str]) -> tuple[str, ...]:
    """Names without repetition: Sentinel-2 bands by wavelength first, the rest in the order given."""
    distinct = list(dict.fromkeys(names))
    position = {name: i for i, name in enumerate(SENTINEL2)}
    return tuple(sorted(distinct, key=lambda name: position.get(name, len(position))))
