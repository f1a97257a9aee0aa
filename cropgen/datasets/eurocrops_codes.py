"""From what was declared to HCAT edition 3: the codes of EuroCrops, version 1 and 2.

Version 1 states the HCAT code of every parcel, of edition 2 or 3. Version 2 states the national code; a table gives
its HCAT 4 class and use by region. Edition 4 numbers the tree anew (digits 2-1-2-2-2-1 of its levels) but keeps most
names, so a class is found by its name, or by the name of the nearest class above it. Maize declared as fodder or green
is silage maize, as edition 3 has it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from cropgen.core.errors import CorruptInputError, MissingInputError, SchemaError
from cropgen.series.hcat import canonical, code_of_name

_HCAT4_LEVELS = (9, 7, 5, 3)
_MAIZE, _SILAGE = "3301010600", "3301090400"
_GREEN = ("Fodder/Forage", "Harvested Green")
_COLUMNS = ("nuts", "original_code", "original_name", "translated_name", "hcat4_code", "hcat4_name", "usage_name")
_AGAIN = "fetch it again"


@dataclass(frozen=True)
class Declared:
    """What a declaration means.

    Arguments:
        hcat: code in edition 3; "" where it has none or several.
        name: what was declared, in English.
        original: the same in the language of the source.
        original_code: national code.
        hcat4, usage: code in edition 4 and use, where stated.
        ambiguous: the table gives the national code several meanings.
    """

    hcat: str
    name: str = ""
    original: str = ""
    original_code: str = ""
    hcat4: str = ""
    usage: str = ""
    ambiguous: bool = False


@cache
def declared_in_v1(code: str, name: str, translated: str, original: str) -> Declared:
    """A declaration of version 1: HCAT code, else HCAT name."""
    return Declared(canonical(code) or code_of_name(name) or "", translated or name.replace("_", " "), original)


class NationalCodes:
    """The national codes of a region in version 2.

    Arguments:
        folder: with `eurocrops.csv` and `hcat4.csv`.
        region: as the table writes it in small letters, e.g. `be2`.

    Raises:
        MissingInputError, CorruptInputError, SchemaError: a table is missing, unreadable, or lacks a column.
    """

    def __init__(self, folder: Path, region: str) -> None:
        table = _read(folder / "eurocrops.csv", _COLUMNS)
        tree = _read(folder / "hcat4.csv", ("hcat4_code", "hcat4_name"))
        self._hcat4 = dict(zip(tree["hcat4_code"], tree["hcat4_name"], strict=True))
        self._meanings: dict[str, list[Declared]] = defaultdict(list)
        rows = table[table["nuts"].str.casefold() == region.casefold()]
        for row in rows.loc[:, list(_COLUMNS)].itertuples(index=False):
            self._add(*(str(value).strip() for value in row))
        self._plain: dict[str, list[str]] = defaultdict(list)
        for code in self._meanings:
            self._plain[_plain(code)].append(code)

    def __getitem__(self, code: str) -> Declared:
        """The meaning of a national code; leading zeros count only where they tell two codes apart."""
        if code not in self._meanings:
            same = self._plain.get(_plain(code), [])
            if len(same) != 1:
                return Declared("", original_code=code)
            code = same[0]
        meanings = self._meanings[code]
        first = meanings[0]
        if len({m.hcat for m in meanings}) == 1:
            return first
        return Declared("", first.name, first.original, code, ambiguous=True)

    def _add(self, _: str, code: str, original: str, translated: str, hcat4: str, hcat4_name: str, usage: str) -> None:
        found = self._edition3(hcat4, hcat4_name)
        if found == _MAIZE and usage in _GREEN:
            found = _SILAGE
        self._meanings[code].append(Declared(found, translated, original, code, hcat4, usage))

    def _edition3(self, code: str, name: str) -> str:
        above = (self._hcat4.get(code[:digits].ljust(10, "0"), "") for digits in _HCAT4_LEVELS)
        return next((found for each in (name, *above) if each and (found := code_of_name(each))), "")


def _plain(code: str) -> str:
    whole = code.removesuffix(".0")
    return whole.lstrip("0") or "0" if whole.isdigit() else code.casefold()


def _read(path: Path, columns: tuple[str, ...]) -> pd.DataFrame:
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
    except FileNotFoundError as error:
        raise MissingInputError(f"table of crop codes not found: {path}", hint=_AGAIN) from error
    except (ValueError, OSError) as error:
        raise CorruptInputError(f"{path} cannot be read: {error}", hint=_AGAIN) from error
    if missing := [c for c in columns if c not in table]:
        raise SchemaError(f"{path}: column {missing[0]} missing; it has {', '.join(table.columns)}", hint=_AGAIN)
    return table


def remark(where: str, unlisted: Mapping[str, int], what: str) -> str:
    """One line on declarations that have no single HCAT code, the most frequent first."""
    ordered = sorted(unlisted.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{name or 'nothing'} ({count:,})" for name, count in ordered[:6])
    more = f" and {len(ordered) - 6} more" if len(ordered) > 6 else ""
    return f"{where}: {sum(unlisted.values()):,} parcels {what}: {listed}{more}"
