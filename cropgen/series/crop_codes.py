"""Tables of national crop codes: what the codes and names of a parcel register are in HCAT.

A table is a csv file with a column of HCAT codes (or names) and one of national codes or names, as EuroCrops publishes
them for each country. Of a crop, the first of these decides:

    1. a row with its code and its name
    2. a row with its name, where all such rows mean one HCAT class
    3. a row with its code, likewise; leading zeros count only where they tell two codes apart. Where the row is named
       otherwise, codes may have changed their meaning between the years: that is reported
    4. the taxonomy itself: the code is an HCAT code, or the name is the name of a class

A folder holds one table for each country and year, named `<country>.csv` or `<country>_<year or remark>.csv`; those
of the register's country are taken together, the nearest in time first.

Reference: EuroCrops: The Largest Harmonized Open Crop Dataset Across the European Union, M. Schneider, T. Schelte,
F. Schmitz, M. Körner, 2023.
"""

from __future__ import annotations

import csv
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cropgen.core.errors import CorruptInputError, SchemaError, UsageError
from cropgen.core.files import require_input
from cropgen.series.hcat import canonical, code_in_set, code_of_name, tree

_HCAT_CODES = ("hcat3_code", "hcat2_code", "ec_hcat_c", "hcat_code", "hcat")
_HCAT_NAMES = ("hcat3_name", "hcat2_name", "ec_hcat_n", "hcat4_name", "hcat_name")
_CODES = ("original_code", "national_code", "crop_code", "code")
_NAMES = ("original_name", "original_name_de", "original_name_bw", "national_name", "crop_name", "name")
_FRANCE, _RPG = "fr", "rpg"
_SHOWN = 6
_Evidence = Literal["both", "name", "code"]


@dataclass(frozen=True)
class CodeTable:
    """National codes and names with their HCAT codes.

    Arguments:
        meanings: kind of evidence → key → HCAT codes of the rows with it.
        names: plain code → names of its rows.
    """

    meanings: Mapping[_Evidence, Mapping[tuple[str, ...], frozenset[str]]]
    names: Mapping[str, frozenset[str]]

    def look_up(self, code: str, name: str) -> tuple[str, bool]:
        """HCAT code of a crop, "" where there is none or several; and whether only a row of another name has it."""
        plain, folded = plain_code(code), _folded(name)
        evidence: tuple[tuple[_Evidence, tuple[str, ...]], ...] = (
            ("both", (plain, folded)), ("name", (folded or _folded(code),)), ("code", (plain,)),
        )  # fmt: skip
        for kind, key in evidence:
            found = self.meanings[kind].get(key, frozenset()) if all(key) else frozenset()
            if len(found) == 1:
                named = self.names.get(plain, frozenset())
                return next(iter(found)), kind == "code" and bool(folded and named and folded not in named)
        return "", False


@dataclass(frozen=True)
class Translation:
    """What the crops of N parcels are in HCAT.

    Arguments:
        code, name: (N,) object, of the source.
        hcat: (N,) object, "" where there is none.
        remarks: what a user must not miss.
    """

    code: np.ndarray
    name: np.ndarray
    hcat: np.ndarray
    remarks: tuple[str, ...]

    def applied(self, to: str) -> tuple[np.ndarray, np.ndarray, dict[str, str]]:
        """Codes and names kept, and the HCAT codes of those codes that have one meaning."""
        if to == "hcat":
            classes = {code: tree()[code].name.replace("_", " ") for code in set(self.hcat) if code}
            return self.hcat, np.asarray([classes.get(c, "") for c in self.hcat], dtype=object), {}
        pairs = pd.DataFrame({"code": self.code, "hcat": self.hcat}).drop_duplicates()
        pairs = pairs[(pairs["code"] != "") & ~pairs["code"].duplicated(keep=False) & (pairs["hcat"] != "")]
        return self.code, self.name, dict(zip(pairs["code"], pairs["hcat"], strict=True))


def translate(
    code: np.ndarray,
    name: np.ndarray,
    table: str | None,
    *,
    country: str,
    year: int,
    where: str,
    parcels: np.ndarray | None = None,
) -> Translation:
    """The HCAT codes of crops, by a table of crop codes or by what the taxonomy itself knows.

    Arguments:
        code, name: (N,) object, "" unknown.
        table: a csv file, or a folder of one per country; None where there is none.
        country: of the register, "" where unknown.
        year: of the parcels.
        where: the parcel file, for messages.
        parcels: (N,) how many parcels each crop stands for; None: one each.

    Raises:
        MissingInputError, CorruptInputError, SchemaError: no such table, or not one.
        UsageError: no crop has an HCAT code.
    """
    known = None if table is None else read_tables(Path(table), country, year)
    place, distinct = pd.factorize(pd.MultiIndex.from_arrays([code, name]))
    counts = np.bincount(place, weights=parcels, minlength=len(distinct)).astype(np.int64)
    found: list[str] = []
    unlisted: Counter[str] = Counter()
    renamed: Counter[str] = Counter()
    for (each, called), count in zip(distinct, counts.tolist(), strict=True):
        hcat, differs = ("", False) if known is None else known.look_up(each, called)
        hcat = hcat or (_self_known(each, called, country) if each or called else "")
        found.append(hcat)
        shown = " ".join(dict.fromkeys(part for part in (each, called) if part))
        if not hcat and shown:
            unlisted[shown] += count
        elif differs:
            renamed[shown] += count
    if not any(found):
        raise UsageError(
            f"{where}: no crop has an HCAT code: {', '.join(list(unlisted)[:_SHOWN]) or 'no crop is stated'}",
            hint="give a table of its country's crop codes with --crop-codes TABLE, or name another --label-column",
        )
    renaming = "have a code that the table names otherwise: check that it is of their year"
    remarks = (_line(where, unlisted, "have no HCAT code, or several"), _line(where, renamed, renaming))
    return Translation(code, name, np.asarray(found, dtype=object)[place], tuple(filter(None, remarks)))


def _self_known(code: str, name: str, country: str) -> str:
    """HCAT code of a code or name that needs no table."""
    listed = code_in_set(_RPG, code) if country == _FRANCE else None
    return canonical(code) or listed or code_of_name(name or code) or ""


def _line(where: str, crops: Counter[str], what: str) -> str:
    if not crops:
        return ""
    shown = ", ".join(f"{crop} ({count:,})" for crop, count in crops.most_common(_SHOWN))
    more = f" and {len(crops) - _SHOWN} more" if len(crops) > _SHOWN else ""
    return f"{where}: {crops.total():,} parcels {what}: {shown}{more}"


def read_tables(path: Path, country: str, year: int) -> CodeTable:
    """One table, or those of a country out of a folder: none where the country is unknown or has none.

    Raises:
        MissingInputError, CorruptInputError, SchemaError: see `translate`.
    """
    require_input(path, "table of crop codes")
    if not path.is_dir():
        return _table([_read(path, country)])
    pattern = re.compile(rf"{re.escape(country)}(_[^/]*)?\.csv", re.IGNORECASE)
    files = [file for file in sorted(path.rglob("*.csv")) if pattern.fullmatch(file.name)]
    near = sorted(files, key=lambda file: _years_apart(file, year))
    return _table([_read(file, country) for file in near if country and _fits(file)])


def _years_apart(file: Path, year: int) -> int:
    stated = re.findall(r"(?<!\d)(\d{4})(?!\d)", file.stem)
    return min((abs(int(each) - year) for each in stated), default=10_000)


def _read(path: Path, country: str) -> list[tuple[str, str, str]]:
    """Rows of a table as code, name and HCAT code; rows without one are left out."""
    table = _frame(path)
    folded = _columns(table)
    code, names = _first(folded, _CODES), [folded[n] for n in _NAMES if n in folded]
    hcat, hcat_name = _first(folded, _HCAT_CODES), _first(folded, _HCAT_NAMES)
    if not _fits(path):
        raise SchemaError(
            f"{path} is no table of crop codes: expected columns such as original_code, original_name and HCAT3_code, "
            f"got {', '.join(map(str, table.columns[:12]))}",
            hint="rename its columns, or use the tables of EuroCrops",
        )
    if "nuts" in folded and country:
        table = table.loc[[text.casefold() == country.casefold() for text in _texts(table, folded["nuts"])]]
    rows = []
    for name in names or [None]:
        columns = (_texts(table, each) for each in (code, name, hcat, hcat_name))
        for own, called, stated, hcat_called in zip(*columns, strict=True):
            means = canonical(stated) or code_of_name(hcat_called)
            if means:
                rows.append((own, called, means))
    return rows


def _fits(path: Path) -> bool:
    """Whether a file has the columns of a table of crop codes."""
    folded = _columns(_frame(path))
    return any(n in folded for n in _HCAT_CODES + _HCAT_NAMES) and any(n in folded for n in _CODES + _NAMES)


def _columns(table: pd.DataFrame) -> dict[str, str]:
    return {str(column).strip().casefold(): str(column) for column in reversed(table.columns)}


@lru_cache(maxsize=8)
def _frame(path: Path) -> pd.DataFrame:
    for encoding in ("utf-8-sig", "cp1252"):
        try:
            return pd.read_csv(path, dtype=str, keep_default_na=False, sep=None, engine="python", encoding=encoding)
        except UnicodeDecodeError:
            continue
        except (ValueError, OSError, csv.Error) as error:
            raise CorruptInputError(f"{path} cannot be read: {error}", hint="give a csv file") from error
    raise CorruptInputError(f"{path} is neither UTF-8 nor cp1252 text", hint="save it as UTF-8")


def _texts(table: pd.DataFrame, name: str | None) -> list[str]:
    return [""] * len(table) if name is None else [str(text) for text in table[name]]


def _first(folded: Mapping[str, str], names: Sequence[str]) -> str | None:
    return next((folded[name] for name in names if name in folded), None)


def _table(sources: Sequence[Sequence[tuple[str, str, str]]]) -> CodeTable:
    """Tables as one; what an earlier table says of a key hides what later ones say."""
    meanings: dict[_Evidence, dict[tuple[str, ...], frozenset[str]]] = {"both": {}, "name": {}, "code": {}}
    names: dict[str, frozenset[str]] = {}
    for rows in sources:
        here: dict[tuple[_Evidence, tuple[str, ...]], set[str]] = {}
        named: dict[str, set[str]] = {}
        for code, name, hcat in rows:
            plain, folded = plain_code(code), _folded(name)
            keys: tuple[tuple[_Evidence, tuple[str, ...]], ...] = (
                ("both", (plain, folded)), ("name", (folded,)), ("code", (plain,)),
            )  # fmt: skip
            for kind, key in keys:
                here.setdefault((kind, key), set()).add(hcat)
            named.setdefault(plain, set()).add(folded)
        for (kind, key), found in here.items():
            meanings[kind].setdefault(key, frozenset(found))
        for plain, called in named.items():
            names[plain] = names.get(plain, frozenset()) | (called - {""})
    return CodeTable(meanings, names)


def plain_code(code: str) -> str:
    """A code without blanks, decimal point and leading zeros, in small letters."""
    whole = code.strip().removesuffix(".0")
    return (whole.lstrip("0") or "0") if whole.isdigit() else whole.casefold()


def _folded(name: str) -> str:
    """A name without accents, in small letters, for comparison."""
    letters = unicodedata.normalize("NFKD", " ".join(name.split()).casefold())
    return "".join(letter for letter in letters if not unicodedata.combining(letter))
