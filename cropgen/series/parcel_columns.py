"""Which column of a parcel layer holds what: named by the user, known of a register, or of a usual name.

A register is recognised by columns that only it has (`signs`), whatever their letters' case. Of a role that neither
the user nor a register settles, the usual names decide (`cropgen.series.columns.KNOWN_NAMES`). Whatever was taken is
said, and so is every other column that could have been meant.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from cropgen.core.errors import UsageError
from cropgen.core.recipe import Section
from cropgen.series.columns import KNOWN_NAMES, Role, require_column

ROW_NUMBER = "row-number"
_ROWS = frozenset({"gid", "fid", "objectid"})
Target = Literal["source", "hcat"]
_FLAGS: dict[Role, str] = {
    "id": "--id-column", "label": "--label-column", "name": "--name-column", "region": "--region-column",
    "year": "--year",
}  # fmt: skip


class ParcelColumns(Section):
    """Which attribute of a parcel layer holds what; what is not named is recognised by its usual names."""

    layer: str | None = Field(None, description="layer of the file; needed where it holds several")
    id: str | None = Field(
        None, description="column of the parcel id, several joined by +, or row-number; without any, the row number"
    )
    label: str | None = Field(None, description="column of the crop code")
    name: str | None = Field(None, description="column of the crop name")
    region: str | None = Field(None, description="column of the region")
    merge: dict[str, str] = Field(default_factory=dict, description='crop codes made one, e.g. {"wheat*" = "wheat"}')
    year: str | int | None = Field(
        None, description="harvest year, or its column; without any, the four digits in the file name"
    )
    crs: str | None = Field(None, description="coordinate system, where the file states none or a wrong one")
    encoding: str | None = Field(None, description="encoding of text, where the file states a wrong one")
    crop_codes: str | None = Field(
        None, description="table of crop codes with their HCAT codes, or a folder of one per country"
    )
    to: Target = Field("source", description="codes kept: those of the source, or those of HCAT")


@dataclass(frozen=True)
class Register:
    """A parcel register and the names it gives its columns.

    Arguments:
        title: what it is.
        country: by which tables of crop codes are named; "" where there are none.
        signs: columns that tell it from others.
        id: columns that together are unique; (`row-number`,) where none are; () leaves it to the usual names.
        label, name, year: columns; "" leaves it to the usual names, `{year}` stands for the harvest year.
        also: columns that could be meant as crop code too.
    """

    title: str
    country: str
    signs: tuple[str, ...]
    id: tuple[str, ...] = ()
    label: str = ""
    name: str = ""
    year: str = ""
    also: tuple[str, ...] = ()


_NONE = (ROW_NUMBER,)
REGISTERS: tuple[Register, ...] = (
    Register("EuroCrops", "", ("ec_hcat_c", "ec_hcat_n"), label="ec_hcat_c", name="ec_hcat_n"),
    Register("Austria, declared fields", "at", ("snar_code", "snar_bezeichnung", "geo_id"), ("geo_id",), "snar_code",
             "snar_bezeichnung"),
    Register("Austria, reference parcels", "", ("rfl_id", "ref_art"), ("rfl_id",), "ref_art", "ref_art_bezeichnung"),
    Register("Flanders", "be_vlg", ("gwscod_h", "gwsnam_h"), ("ref_id",), "gwscod_h", "gwsnam_h",
             also=("gwscod_v", "gwscod_n", "gwscod_n2")),
    Register("Bulgaria", "", ("phbident", "usageeng"), ("phbident",), "usageeng"),
    Register("Switzerland", "", ("lnf_code", "nutzung", "bezugsjahr"), ("nutzungsidentifikator",), "lnf_code",
             "nutzung", "bezugsjahr"),
    Register("Brandenburg", "de_bb", ("antragjahr", "ref_ident", "code_bez"), _NONE, "code", "code_bez", "antragjahr"),
    Register("Schleswig-Holstein, field blocks", "", ("flik", "hbn"), ("flik",), "hbn"),
    Register("Denmark", "dk", ("afgkode", "afgroede"), ("journalnr", "marknr"), "afgkode", "afgroede"),
    Register("Catalonia", "", ("campanya", "cultiu", "grup"), _NONE, "cultiu", year="campanya", also=("grup",)),
    Register("Finland", "fi", ("peruslohkotunnus", "kasvikoodi"), ("peruslohkotunnus", "lohkonumero"), "kasvikoodi",
             "kasvikoodi_selite_fi", "vuosi"),
    Register("France", "fr", ("id_parcel", "code_cultu"), ("id_parcel",), "code_cultu", also=("code_group",)),
    Register("Croatia", "hr", ("land_use_id", "jpaid"), _NONE, "land_use_id"),
    Register("Italy, AI4Boundaries", "", ("cropfield", "original_code", "off_id"), ("cropfield",), "original_code"),
    Register("JECAM", "", ("croptype1", "landcover", "sitename"), ("id",), "croptype1", year="acquidate",
             also=("croptype2", "croptype3", "landcover")),
    Register("Japan", "", ("polygon_uuid", "land_type"), ("polygon_uuid",), "land_type", "land_type_en", "issue_year"),
    Register("Netherlands", "nl", ("gewas", "gewascode", "jaar"), _NONE, "gewascode", "gewas", "jaar"),
    Register("Portugal", "pt", ("cul_id", "cul_codigo"), ("cul_id",), "cul_codigo", "ct_português"),
    Register("Sweden", "se", ("blockid", "skiftesbet", "grdkod_mar"), ("blockid", "skiftesbet"), "grdkod_mar",
             year="arslager", also=("grdkod_und",)),
    Register("California", "", ("uniqueid", "main_crop"), ("uniqueid",), "main_crop", also=("symb_class",)),
    Register("United States, Crop Sequence Boundaries", "", ("csbid", "csbyears"), ("csbid",), "CDL{year}"),
    Register("Ireland", "ie", ("localid", "specificlanduse_title", "dataset_title"), ("localid",),
             "specificlanduse_title"),
    Register("Wallonia", "be_wal", ("localid", "specificlanduse_title", "identifier_codespace"), ("localid",),
             "specificlanduse_title"),
    Register("INSPIRE existing land use", "", ("localid", "specificlanduse_title"), ("localid",),
             "specificlanduse_title"),
)  # fmt: skip
"""Known registers, the more particular first."""


@dataclass(frozen=True)
class Roles:
    """The columns of a layer by role, as they are written in the file.

    Arguments:
        id: columns joined by `/`; () is the row number.
        label, name, region, year: None where there is none.
        register: None where it is not a known one.
        others: columns that could have been meant, by role.
    """

    id: tuple[str, ...]
    label: str | None
    name: str | None
    region: str | None
    year: str | None
    register: Register | None
    others: Mapping[Role, tuple[str, ...]]

    @property
    def needed(self) -> list[str]:
        """Every column to read, each once."""
        single = (self.label, self.name, self.region, self.year)
        return list(dict.fromkeys([*self.id, *(c for c in single if c), *self.others.get("label", ())]))

    def told(self, where: str) -> str:
        """One line on what was taken."""
        said = {"id": "/".join(self.id) or "the row number", "crop code": self.label, "crop name": self.name,
                "year": self.year, "region": self.region}  # fmt: skip
        kind = f" ({self.register.title})" if self.register else ""
        return f"{where}{kind}: " + ", ".join(f"{role} from {name}" for role, name in said.items() if name)

    def doubts(self, where: str, fields: Sequence[str]) -> list[str]:
        """One line for each role that another column could play, or that none was found for."""
        taken = {"id": "/".join(self.id), "label": self.label, "name": self.name}
        words: dict[Role, str] = {"id": "parcel id", "label": "crop code", "name": "crop name"}
        lines = [
            f"{where}: {words[role]} is taken from {taken[role]}; {', '.join(also)} could be meant too: "
            f"choose with {_FLAGS[role]}"
            for role, also in self.others.items()
        ]
        if self.label is None and self.name is None:
            shown = ", ".join(fields[:20]) + (" …" if len(fields) > 20 else "")
            lines.append(f"{where}: no column of crops is known among {shown}; name it with --label-column")
        return lines


def is_register(fields: Sequence[str]) -> bool:
    """Whether these are the columns of a known register with crops."""
    return _register(fields) is not None


def _register(fields: Sequence[str]) -> Register | None:
    folded = {field.casefold() for field in fields}
    return next((r for r in REGISTERS if folded.issuperset(r.signs)), None)


def recognise(fields: Sequence[str], columns: ParcelColumns, *, where: str, year: Callable[[], int]) -> Roles:
    """The column of each role.

    Arguments:
        fields: columns of the layer.
        columns: what the user named.
        where: the file, for messages.
        year: gives the harvest year, asked where a register has a column of crops for each.

    Raises:
        SchemaError: a named column is not there.
        UsageError: there is a column of crops for each of several years, and the year is none of them or not known.
    """
    register = _register(fields)
    folded = {field.casefold(): field for field in reversed(fields)}
    ids, other_ids = _id_columns(fields, folded, columns.id, register, where)
    known = "" if columns.label else _yearly(register, year, fields, where)
    label, labels = _role("label", folded, fields, columns.label, known, where)
    name, _ = _role("name", folded, fields, columns.name, register.name if register else "", where)
    region, _ = _role("region", folded, fields, columns.region, "", where)
    column = _year_column(fields, folded, columns, register, where)
    also = tuple(folded[a] for a in register.also if a in folded) if register and columns.label is None else ()
    others: dict[Role, tuple[str, ...]] = {"id": other_ids, "label": also or labels}
    return Roles(ids, label, name, region, column, register, {role: names for role, names in others.items() if names})


def identity_columns(
    fields: Sequence[str], columns: ParcelColumns, *, where: str
) -> tuple[tuple[str, ...], str | None]:
    """The columns that tell parcels apart, as `recognise` takes them: those of the id (none: the row number), and that
    of the year.

    Raises:
        SchemaError: a named column is not there.
    """
    register, folded = _register(fields), {field.casefold(): field for field in reversed(fields)}
    ids, _ = _id_columns(fields, folded, columns.id, register, where)
    return ids, _year_column(fields, folded, columns, register, where)


def _year_column(
    fields: Sequence[str], folded: Mapping[str, str], columns: ParcelColumns, register: Register | None, where: str
) -> str | None:
    if isinstance(columns.year, int):
        return None
    return _role("year", folded, fields, columns.year, register.year if register else "", where)[0]


def _yearly(register: Register | None, year: Callable[[], int], fields: Sequence[str], where: str) -> str:
    """The column of crops of a register, of the harvest year where there is one for each."""
    if register is None or "{year}" not in register.label:
        return register.label if register else ""
    pattern = re.compile(register.label.replace("{year}", r"(\d{4})"), re.IGNORECASE)
    years = sorted(int(found[1]) for field in fields if (found := pattern.fullmatch(field)))
    if (wanted := year()) not in years:
        raise UsageError(
            f"{where}: crops of {years[0]} to {years[-1]}, not of {wanted}", hint="say which with --year YYYY"
        )
    return register.label.format(year=wanted)


def _role(
    role: Role, folded: Mapping[str, str], fields: Sequence[str], wanted: str | None, known: str, where: str
) -> tuple[str | None, tuple[str, ...]]:
    """The column of a role, and those of usual names that could have been meant instead."""
    if wanted is not None:
        return require_column(fields, wanted, where=where, what=role), ()
    if known.casefold() in folded:
        return folded[known.casefold()], ()
    usual = [folded[name] for name in KNOWN_NAMES[role] if name in folded]
    return (usual[0], tuple(c for c in usual[1:] if c.casefold() not in _ROWS)) if usual else (None, ())


def _id_columns(
    fields: Sequence[str], folded: Mapping[str, str], wanted: str | None, register: Register | None, where: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if wanted == ROW_NUMBER:
        return (), ()
    if wanted is not None:
        parts = [wanted] if wanted in fields else wanted.split("+")
        return tuple(require_column(fields, part.strip(), where=where, what="id") for part in parts), ()
    if register and register.id == _NONE:
        return (), ()
    if register and register.id and all(part in folded for part in register.id):
        return tuple(folded[part] for part in register.id), ()
    found, others = _role("id", folded, fields, None, "", where)
    return (found,) if found else (), others


def year_in_name(name: str, *, where: str) -> int | None:
    """The year a file name states; days such as 28-03-2024 are no harvest years.

    Raises:
        UsageError: it states several.
    """
    plain = re.sub(r"\d{1,2}[-._]\d{1,2}[-._]\d{4}|\d{4}[-._]\d{2}[-._]\d{2}(?!\d)", " ", name)
    years = sorted({int(digits) for digits in re.findall(r"(?<!\d)(19\d\d|20\d\d)(?!\d)", plain)})
    if len(years) > 1:
        raise UsageError(
            f"{where}: its name states the years {', '.join(map(str, years))}", hint="say which with --year YYYY"
        )
    return years[0] if years else None
