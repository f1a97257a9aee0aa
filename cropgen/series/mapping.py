"""How the columns of a table become parcels, dates and bands: stated by the user, or recognised.

    long    one row per parcel and date: a date column, and one column per band
    wide    one row per parcel: columns whose names hold band and date, by a pattern such as `{band}_{date}`

A pattern is literal text with these parts; `{any}` skips what varies without meaning:

    {band}   a band name (B04, NDVI, …)
    {date}   a date, read by `date_format` or as ISO
    {doy}    day of the year, 1 to 366, of the row's year
    {step}   a name that `dates` explains, or a number counted from `start` in steps of `interval`
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from cropgen.core.errors import SchemaError, UsageError
from cropgen.core.recipe import Section, read_toml
from cropgen.series.bands import LAND_BANDS, normalise_band, order_bands
from cropgen.series.columns import find_column, require_column
from cropgen.series.parcel_columns import ParcelColumns, Target

INDICES = ("NDVI", "EVI", "EVI2", "SAVI", "NDWI", "NDMI", "NDRE", "REIP", "NBR", "LAI")
"""Vegetation indices that are recognised as bands where a table has no spectral band."""
_PREFERRED = ("mean", "median", "avg")
_PARTS = {
    "band": r"(?P<band>.+?)",
    "date": r"(?P<date>\d{4}.*?\d{1,2})",
    "doy": r"(?P<doy>\d{1,3})",
    "step": r"(?P<step>[A-Za-z0-9]+)",
    "any": r".*?",
}
_GUESSES = ("{band}_{date}", "{date}_{band}", "{band}-{date}", "{band}.{date}", "{band} {date}")


class TableMapping(Section):
    """How a table is read. Everything has a default or is recognised; a TOML file may hold any of it."""

    layout: Literal["auto", "long", "wide"] = Field("auto", description="one row per parcel and date, or per parcel")
    id: str | None = Field(None, description="column of the parcel id; without any, the row number from 0 (wide)")
    label: str | None = Field(None, description="column of the crop code")
    name: str | None = Field(None, description="column of the crop name")
    region: str | None = Field(None, description="column of the region")
    merge: dict[str, str] = Field(default_factory=dict, description='crop codes made one, e.g. {"wheat*" = "wheat"}')
    year: str | int | None = Field(
        None, description="harvest year, or its column (years or dates); without any, the year of each date"
    )
    lon: str | None = Field(None, description="column of the longitude, degrees")
    lat: str | None = Field(None, description="column of the latitude, degrees")
    date: str | None = Field(None, description="column of the date (long)")
    date_format: str | None = Field(None, description="strptime format of dates; default: ISO, or YYYYMMDD")
    bands: dict[str, str] = Field(
        default_factory=dict, description="band = column (long) or the text at {band} (wide); empty: recognised"
    )
    pattern: str | None = Field(None, description="names of the value columns (wide), e.g. {band}_{date}")
    dates: dict[str, str] = Field(
        default_factory=dict, description="date of each {step}: YYYY-MM-DD, or MM-DD in the row's year"
    )
    start: str | None = Field(
        None,
        description="date of {step} 0, or the column that holds it; of a calendar interval, any day of its first "
        "period",
    )
    interval: Literal["month", "half-month", "dekad"] | int = Field(
        "month",
        description="time between steps: a number of days from `start` on, or a calendar unit, whose first day a step "
        "has",
    )
    scale: float | dict[str, float] | None = Field(
        None,
        description="reflectance per unit, spectral bands only, or one factor per band of any kind; default: 0.0001 "
        "where values are no reflectance",
    )
    offset: float = Field(0.0, description="added after scaling, spectral bands only")
    nodata: tuple[float, ...] = Field((65535.0, -9999.0, -32768.0), description="values that mean missing")
    clear: str | None = Field(None, description="column that says whether an observation is clear (long)")
    clear_values: tuple[str, ...] = Field((), description="its values that mean clear; empty: 1 or true")
    attributes: str | None = Field(
        None,
        description="second table with further columns, joined by id, by id and year where both have them, or row by "
        "row where neither has an id",
    )
    sheet: str | None = Field(None, description="sheet of an xlsx file; default: the first")
    legend: str | None = Field(None, description="name of the legend; default: that of the table")
    crop_codes: str | None = Field(None, description="table of crop codes with their HCAT codes, of one country")
    to: Target = Field("source", description="codes kept: those of the source, or those of HCAT")
    parcels: ParcelColumns = Field(ParcelColumns.model_validate({}), description="columns of the parcel polygons")

    @classmethod
    def read(cls, path: Path) -> TableMapping:
        """The mapping a TOML file holds.

        Raises:
            MissingInputError, UsageError: no such file, not TOML, or a key that is unknown or wrong.
        """
        return read_toml(cls, path)


@dataclass(frozen=True)
class Cell:
    """What one value column of a wide table holds: which band, and the text that tells its date."""

    band: str
    kind: Literal["date", "doy", "step"]
    text: str


@dataclass(frozen=True)
class Columns:
    """A mapping resolved against the columns of a table; None is a role nothing plays."""

    layout: Literal["long", "wide"]
    bands: tuple[str, ...]
    band_columns: dict[str, str]
    cells: dict[str, Cell]
    id: str | None
    label: str | None
    name: str | None
    region: str | None
    year: str | int | None
    lon: str | None
    lat: str | None
    date: str | None
    start: str | None
    clear: str | None

    @property
    def text(self) -> set[str]:
        """The columns that hold ids, codes and names, which are text however they look."""
        return {c for c in (self.id, self.label, self.name, self.region) if c is not None}

    @property
    def used(self) -> list[str]:
        """The columns that are read."""
        named = [self.id, self.label, self.name, self.region, self.year, self.lon, self.lat, self.date, self.start]
        wanted = [c for c in (*named, self.clear) if isinstance(c, str)]
        return list(dict.fromkeys([*wanted, *self.band_columns.values(), *self.cells]))


def resolve(mapping: TableMapping, columns: Sequence[str], where: str) -> Columns:
    """Find the column of every role.

    Raises:
        SchemaError: a named column is missing, or no band or date is recognised; the columns found are listed.
        UsageError: the mapping contradicts itself.
    """
    names = [str(c) for c in columns]
    date = find_column(names, "date", mapping.date, where=where) if mapping.layout != "wide" else None
    pattern = _pattern(mapping, names) if mapping.layout != "long" and mapping.date is None else None
    if mapping.layout == "wide" or mapping.pattern or (pattern and date is None):
        cells = wide_cells(mapping, names, pattern, where)
        bands, band_columns, layout, date = order_bands(c.band for c in cells.values()), {}, "wide", None
    else:
        if date is None:
            raise _unrecognised(names, where)
        band_columns = long_bands(mapping, names, where)
        bands, cells, layout = tuple(band_columns), {}, "long"
    start = mapping.start if mapping.start in names else None
    year = mapping.year if isinstance(mapping.year, int) else find_column(names, "year", mapping.year, where=where)
    clear = None if mapping.clear is None else require_column(names, mapping.clear, where=where, what="clear")
    identifier = find_column(names, "id", mapping.id, where=where)
    if identifier is None and layout == "long":
        raise SchemaError(f"{where}: no parcel id among {', '.join(names[:40])}", hint="name it with --id-column")
    return Columns(
        layout=layout, bands=bands, band_columns=band_columns, cells=cells, id=identifier,
        label=find_column(names, "label", mapping.label, where=where),
        name=find_column(names, "name", mapping.name, where=where),
        region=find_column(names, "region", mapping.region, where=where),
        year=year,
        lon=find_column(names, "lon", mapping.lon, where=where),
        lat=find_column(names, "lat", mapping.lat, where=where),
        date=date, start=start, clear=clear,
    )  # fmt: skip


def _unrecognised(names: Sequence[str], where: str) -> SchemaError:
    listed = ", ".join(names[:40]) + (" …" if len(names) > 40 else "")
    return SchemaError(
        f"{where}: neither a date column (long) nor columns named by band and date (wide) were recognised; "
        f"found {listed}",
        hint="name the date column with --date-column, or give --pattern such as {band}_{date}",
    )


def long_bands(mapping: TableMapping, names: Sequence[str], where: str) -> dict[str, str]:
    """Band → column of a long table: as stated, else the surface bands of Sentinel-2, else vegetation indices.

    Of several columns for one band the one called mean, median or average is taken.

    Raises:
        SchemaError: a stated column is missing, none is recognised, or several claim one band.
    """
    if mapping.bands:
        return {b: require_column(names, c, where=where, what=f"band {b}") for b, c in mapping.bands.items()}
    claims: dict[str, list[str]] = {}
    for name in names:
        band = normalise_band(name)
        if band in LAND_BANDS:
            claims.setdefault(band, []).append(name)
    if not claims:
        for name in names:
            index = next((i for i in INDICES if re.search(rf"(?<![A-Za-z0-9]){i}(?![A-Za-z0-9])", _spaced(name))), None)
            if index:
                claims.setdefault(index, []).append(name)
    if not claims:
        raise SchemaError(f"{where}: no band among {', '.join(names[:40])}", hint="say which with --bands B04=COLUMN")
    return {
        band: _preferred(band, claims[band], where, hint=f"choose with --bands {band}=COLUMN")
        for band in order_bands(claims)
    }


def _preferred(band: str, columns: Sequence[str], where: str, *, hint: str) -> str:
    """The only column that claims a band, or the one called mean, median or average.

    Raises:
        SchemaError: several could be meant; the hint is as given.
    """
    if len(columns) == 1:
        return columns[0]
    for word in _PREFERRED:
        matching = [c for c in columns if word in _spaced(c).casefold().split()]
        if len(matching) == 1:
            return matching[0]
    raise SchemaError(f"{where}: columns {', '.join(columns)} all look like band {band}", hint=hint)


def _spaced(text: str) -> str:
    return re.sub(r"[_\W]+", " ", text)


def _pattern(mapping: TableMapping, names: Sequence[str]) -> str | None:
    """The pattern of the value columns: as stated, or the guess that fits the most columns."""
    if mapping.pattern is not None:
        return mapping.pattern
    fits = {guess: sum(bool(_compiled(guess).fullmatch(n)) for n in names) for guess in _GUESSES}
    best = max(fits, key=lambda guess: fits[guess])
    return best if fits[best] else None


def _compiled(pattern: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", pattern)
    unknown = [part for part in parts[1::2] if part not in _PARTS]
    if unknown:
        raise UsageError(f"pattern {pattern!r}: unknown part {{{unknown[0]}}}", hint=f"parts: {', '.join(_PARTS)}")
    return re.compile("".join(_PARTS[p] if i % 2 else re.escape(p) for i, p in enumerate(parts)))


def wide_cells(mapping: TableMapping, names: Sequence[str], pattern: str | None, where: str) -> dict[str, Cell]:
    """Column → what it holds, for the columns a pattern fits.

    Without stated bands the surface bands of Sentinel-2 are read, or all bands where there is none of them. Of several
    columns for one band and date the one with the stated text is taken, else the one called mean, median or average.

    Raises:
        SchemaError: the pattern fits no column, or several claim one band and date.
        UsageError: it tells no date, or no band where several are possible.
    """
    if pattern is None:
        raise _unrecognised(names, where)
    expression = _compiled(pattern)
    kinds = [kind for kind in ("date", "doy", "step") if kind in expression.groupindex]
    if len(kinds) != 1:
        raise UsageError(f"pattern {pattern!r} must hold one of {{date}}, {{doy}}, {{step}}", hint="e.g. {band}_{date}")
    if "band" not in expression.groupindex and len(mapping.bands) != 1:
        raise UsageError(f"pattern {pattern!r} holds no {{band}}", hint="name the one band, e.g. --bands NDVI")
    renamed = {text: band for band, text in mapping.bands.items()}
    cells: dict[str, Cell] = {}
    stated: set[str] = set()
    for name in names:
        match = expression.fullmatch(name)
        if match is None or (kinds[0] == "step" and mapping.dates and match["step"] not in mapping.dates):
            continue
        text = match.groupdict().get("band")
        band = next(iter(mapping.bands)) if text is None else renamed.get(text, normalise_band(text) or text)
        cells[name] = Cell(band, kinds[0], match[kinds[0]])  # pyright: ignore[reportArgumentType]
        stated |= {name} if text in renamed else set()
    if mapping.bands:
        cells = {name: cell for name, cell in cells.items() if cell.band in mapping.bands}
    elif any(cell.band in LAND_BANDS for cell in cells.values()):
        cells = {name: cell for name, cell in cells.items() if cell.band in LAND_BANDS}
    if not cells:
        raise SchemaError(
            f"{where}: pattern {pattern!r} fits no column of {', '.join(names[:40])}", hint="check --pattern"
        )
    return _one_each(cells, stated, where)


def _one_each(cells: dict[str, Cell], stated: set[str], where: str) -> dict[str, Cell]:
    """One column for each band and date: of several a stated one, else the preferred."""
    claims: dict[Cell, list[str]] = {}
    for name, cell in cells.items():
        claims.setdefault(cell, []).append(name)
    chosen: dict[str, Cell] = {}
    for cell, columns in claims.items():
        hint = f"choose with --bands {cell.band}=TEXT, the text at {{band}}, or with a narrower --pattern"
        chosen[_preferred(cell.band, [n for n in columns if n in stated] or columns, where, hint=hint)] = cell
    return chosen
