"""What the product metadata of Sentinel-2 says: `MTD_MSIL2A.xml`, `MTD_MSIL1C.xml`.

    reflectance = (stored + add offset) / quantification value

From processing baseline 04.00 on (January 2022, and everything reprocessed since) stored numbers are shifted by 1000,
and the metadata list an add offset of −1000 for every band; before, they list none. Products of both kinds share a
season, so each product is read by its own metadata. Old Sen2Cor wrote the same elements with the prefix `L2A_`.

Reference: Sentinel-2 Products Specification Document, issue 14.9, European Space Agency, 2021.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from xml.etree import ElementTree

from cropgen.core.errors import CorruptInputError, SchemaError
from cropgen.series.bands import SENTINEL2, normalise_band

OFFSET_BASELINE = (4, 0)
"""The first processing baseline whose numbers are shifted."""
ADD_OFFSET = -1000.0
QUANTIFICATION = 10_000.0

_QUANTIFICATION = ("BOA_QUANTIFICATION_VALUE", "QUANTIFICATION_VALUE")
_OFFSETS = ("BOA_ADD_OFFSET", "RADIO_ADD_OFFSET")
_BANDS = tuple(SENTINEL2)
_SENSED = re.compile(r"_S(\d{8}T\d{6})_")


@dataclass(frozen=True)
class ProductMetadata:
    """A product as its metadata describe it.

    Arguments:
        level: `L2A` or `L1C`.
        sensed: start of sensing, ISO, UTC.
        baseline: processing baseline, (5, 9) for 05.09.
        made: time of processing, ISO; orders products that show the same.
        strip: what was sensed: the time the data strip begins, the same after a reprocessing.
        quantification: stored numbers per unit of reflectance.
        offsets: band → number added to the stored one.
        nodata, saturated: stored numbers that are no measurement.
    """

    level: str
    sensed: str
    baseline: tuple[int, int]
    made: str
    strip: str
    quantification: float
    offsets: Mapping[str, float]
    nodata: float
    saturated: float

    def calibration(self, band: str) -> tuple[float, float]:
        """(scale, offset) such that reflectance = scale · stored + offset."""
        return 1.0 / self.quantification, self.offsets.get(band, 0.0) / self.quantification

    @property
    def says_too_little(self) -> bool:
        """No offset is listed where the baseline has one."""
        return not self.offsets and self.baseline >= OFFSET_BASELINE


def parse_product(document: bytes, where: str) -> ProductMetadata:
    """Read the metadata of a product.

    Arguments:
        document: the XML file.
        where: its name, for messages.

    Raises:
        CorruptInputError: it is no XML.
        SchemaError: sensing time or processing baseline is missing, or a number is none.
    """
    try:
        root = ElementTree.fromstring(document)
    except ElementTree.ParseError as error:
        raise CorruptInputError(f"cannot read {where}: {error}", hint="fetch the product again") from error
    elements: dict[str, list[ElementTree.Element]] = {}
    for element in root.iter():
        elements.setdefault(_name(element.tag), []).append(element)
    try:
        return _product(elements, where)
    except ValueError as error:
        raise SchemaError(f"{where}: {error}", hint="fetch the product again") from error


def parse_baseline(text: str) -> tuple[int, int]:
    """(5, 9) of `05.09`.

    Raises:
        ValueError: it is none.
    """
    found = re.fullmatch(r"\s*N?(\d\d?)\.?(\d\d)\s*", text)
    if not found:
        raise ValueError(f"{text!r} is no processing baseline")
    return int(found[1]), int(found[2])


def _name(tag: str) -> str:
    return tag.rpartition("}")[2].removeprefix("L2A_")


def _product(elements: Mapping[str, list[ElementTree.Element]], where: str) -> ProductMetadata:
    def text(*names: str) -> str:
        found = next((e.text for name in names for e in elements.get(name, ()) if e.text), None)
        if found is None:
            raise SchemaError(
                f"{where} has no {names[0]}", hint="expected MTD_MSIL2A.xml or MTD_MSIL1C.xml of a product"
            )
        return found.strip()

    names = {
        e.get("bandId", ""): normalise_band(e.get("physicalBand", "")) for e in elements.get("Spectral_Information", ())
    }
    special = _special_values(elements)
    granules = [*elements.get("Granule", ()), *elements.get("Granules", ())]
    strips = [found[1] for g in granules if (found := _SENSED.search(g.get("datastripIdentifier", "")))]
    sensed = text("PRODUCT_START_TIME", "DATATAKE_SENSING_START")
    return ProductMetadata(
        level="L1C" if "1C" in text("PROCESSING_LEVEL", "PRODUCT_TYPE") else "L2A",
        sensed=sensed.removesuffix("Z"),
        baseline=parse_baseline(text("PROCESSING_BASELINE")),
        made=text("GENERATION_TIME").removesuffix("Z") if "GENERATION_TIME" in elements else "",
        strip=strips[0] if strips else sensed,
        quantification=float(text(*_QUANTIFICATION)),
        offsets=_offsets(elements, names),
        nodata=special.get("NODATA", 0.0),
        saturated=special.get("SATURATED", 65535.0),
    )


def _offsets(elements: Mapping[str, list[ElementTree.Element]], names: Mapping[str, str | None]) -> dict[str, float]:
    listed = [e for name in _OFFSETS for e in elements.get(name, ())]
    offsets = {}
    for element in listed:
        number = element.get("band_id", element.get("bandId", ""))
        band = names.get(number) or (_BANDS[int(number)] if number.isdigit() and int(number) < len(_BANDS) else None)
        if band is not None:
            offsets[band] = float(element.text or "nothing")
    return offsets


def _special_values(elements: Mapping[str, list[ElementTree.Element]]) -> dict[str, float]:
    """NODATA and SATURATED, by name."""
    values = {}
    for group in elements.get("Special_Values", ()):
        parts = {_name(e.tag): (e.text or "").strip() for e in group}
        values[parts.get("SPECIAL_VALUE_TEXT", "")] = float(parts.get("SPECIAL_VALUE_INDEX") or "nothing")
    return values
