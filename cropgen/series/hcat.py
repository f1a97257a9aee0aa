"""One tree of crops for all data sets: the Hierarchical Crop and Agriculture Taxonomy (HCAT), edition 3.

A code has ten digits, two per level, and zeros below its own level, so a parent is a code cut short:

    level 1  30 00 00 00 00  characteristics      4  33 01 01 00 00  cereal
          2  33 00 00 00 00  crop type            5  33 01 01 01 00  common soft wheat
          3  33 01 00 00 00  arable crops         6  33 01 01 01 01  winter common soft wheat

The tree is `hcat.csv`; `hcat_sets.csv` says what the classes of other legends are in it (rpg: codes of the French
parcel register; cropharvest: labels of CropHarvest; hcat4: names that edition 4 changed). Edition 2 differs by the
summer forms of cereals, which edition 3 counts as spring forms, and by one misplaced vegetable.

Reference: EuroCrops: The Largest Harmonized Open Crop Dataset Across the European Union, M. Schneider, T. Schelte,
F. Schmitz, M. Körner, 2023.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np

from cropgen.core.errors import UsageError
from cropgen.series.legend import UNKNOWN, CropClass, Legend

LEVELS = range(1, 7)
ROOT = "3000000000"
_SUMMER, _SPRING = "03", "02"
_MOVED = {"3301290900": "3301180000"}
_REGISTER = "breizhcrops-register"
_SETS = {_REGISTER: "rpg", "cropharvest-types": "cropharvest", "cropharvest-groups": "cropharvest"}
_NUMBER = re.compile(r"(\d{10})(?:\.0*)?")
_SHOWN = 6


@dataclass(frozen=True)
class HcatClass:
    """A node of the tree.

    Arguments:
        code: ten digits.
        name: as the taxonomy writes it, words joined by `_`.
        colour: `#rrggbb`; classes of one branch have related colours.
    """

    code: str
    name: str
    colour: str

    @property
    def level(self) -> int:
        return level_of(self.code)

    @property
    def parent(self) -> str | None:
        """Code of the class above; None at the root."""
        return None if self.code == ROOT else ancestor(self.code, self.level - 1)

    def crop_class(self, code: str | None = None) -> CropClass:
        """The entry of a legend, under its own code or another."""
        return CropClass(code or self.code, self.name.replace("_", " "), self.colour, self.code)


def _rows(name: str) -> Iterator[dict[str, str]]:
    with Path(__file__).with_name(name).open(encoding="utf-8", newline="") as file:
        yield from csv.DictReader(line for line in file if not line.startswith("#"))


@cache
def tree() -> Mapping[str, HcatClass]:
    """Every class by code, ascending."""
    return {row["code"]: HcatClass(**row) for row in _rows("hcat.csv")}


@cache
def _names() -> Mapping[str, str]:
    return {node.name: node.code for node in tree().values()}


@cache
def _sets() -> Mapping[tuple[str, str], str]:
    return {(row["set"], row["code"]): row["hcat"] for row in _rows("hcat_sets.csv")}


def canonical(code: str | None) -> str | None:
    """The code in edition 3 of a code of edition 2 or 3, even one made a number by a table; None for anything else."""
    match = _NUMBER.fullmatch((code or "").strip())
    if match is None:
        return None
    text = _MOVED.get(match[1], match[1])
    if text not in tree() and text.endswith(_SUMMER):
        text = text.removesuffix(_SUMMER) + _SPRING
    return text if text in tree() else None


def code_of_name(name: str) -> str | None:
    """The code of a class by its name in edition 2, 3 or 4, words joined by `_` or blanks; None where there is none."""
    plain = re.sub(r"\W+", "_", name.strip().casefold()).strip("_")
    found = _names().get(plain) or _names().get(plain.replace("summer_", "spring_", 1))
    return found or _sets().get(("hcat4", plain))


def code_in_set(name: str, code: str) -> str | None:
    """The HCAT code of a class of another legend of `hcat_sets.csv`; None where it is ambiguous or has none."""
    return _sets().get((name, code))


def level_of(code: str) -> int:
    """1 to 6."""
    if code == ROOT:
        return 1
    return max(2 + k for k in range(5) if k == 0 or code[2 * k : 2 * k + 2] != "00")


def ancestor(code: str, level: int) -> str:
    """The class at a level above a code; a code that is not below that level is returned as it is."""
    if level < level_of(code):
        return ROOT if level <= 1 else code[: 2 * (level - 1)].ljust(10, "0")
    return code


def hcat_of(crop: CropClass, legend: str = "") -> str | None:
    """The HCAT code of an entry of a legend: the one it states, its own code, or that of its set; None where none is.

    Arguments:
        crop: the entry.
        legend: the name of its legend, by which the set is found.
    """
    known = canonical(crop.hcat) or canonical(crop.code)
    return known if known or legend not in _SETS else code_in_set(_SETS[legend], crop.code.rpartition("/")[2])


def with_hcat(legend: Legend) -> Legend:
    """The legend with the taxonomy's code at every entry that has one.

    An entry without a name of its own, or with the taxonomy's, gets the name and the colour of the taxonomy.
    """

    def dressed(crop: CropClass) -> CropClass:
        code = hcat_of(crop, legend.name)
        if code is None:
            return crop
        nameless = crop.name in (crop.code, "") or code_of_name(crop.name) == code
        return tree()[code].crop_class(crop.code) if nameless else replace(crop, hcat=code)

    return Legend(legend.name, tuple(dressed(crop) for crop in legend.classes))


@dataclass(frozen=True)
class RollUp:
    """A legend seen at one level of the tree.

    Arguments:
        legend: classes of that level, and those coarser ones that cannot be told apart further; ascending.
        place: (K,) int32, for each class of the old legend its position in the new one, −1 where it has no HCAT code.
        unmapped: positions (M,) in the old legend of the classes without an HCAT code.
        coarse: positions in the old legend of the classes above the level: they may overlap with finer ones.
    """

    legend: Legend
    place: np.ndarray
    unmapped: np.ndarray
    coarse: np.ndarray

    def remarks(self, old: Legend, counts: np.ndarray | None = None) -> tuple[str, ...]:
        """One line on the classes that have no code and one on the ambiguous ones; none where there are none.

        Arguments:
            old: the legend that was rolled up.
            counts: (K,) parcels of each class of it, stated where given.
        """
        kinds = ((self.unmapped, "without an HCAT code, now unknown"), (self.coarse, "coarser than the level, kept"))
        return tuple(_line(old, who, what, counts) for who, what in kinds if len(who))


def _line(legend: Legend, who: np.ndarray, what: str, counts: np.ndarray | None) -> str:
    shown = [f"{legend.codes[i]} {legend.names[i]}" + (f" ({counts[i]:,})" if counts is not None else "") for i in who]
    listed = ", ".join(shown[:_SHOWN]) + (f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else "")
    total = f", {int(counts[who].sum()):,} parcels" if counts is not None else ""
    return f"{len(who)} of {len(legend)} classes {what}{total}: {listed}"


def roll_up(legend: Legend, level: int) -> RollUp:
    """Merge the classes of a legend that share an ancestor at a level.

    Raises:
        UsageError: there is no such level, or no class of the legend has an HCAT code.
    """
    if level not in LEVELS:
        raise UsageError(f"HCAT level: expected 1 to 6, got {level}", hint="3 is arable crops, 4 cereal, 5 wheat")
    codes = [hcat_of(crop, legend.name) for crop in legend.classes]
    rolled = [None if code is None else ancestor(code, level) for code in codes]
    present = sorted({code for code in rolled if code is not None})
    if not present:
        raise UsageError(
            f"no class of legend {legend.name} has an HCAT code: {', '.join(legend.codes[:_SHOWN])}",
            hint="use a data set with HCAT codes, or parcels with a column of them",
        )
    new = Legend(f"{legend.name}, HCAT level {level}", tuple(tree()[code].crop_class() for code in present))
    place = np.asarray([UNKNOWN if code is None else present.index(code) for code in rolled], np.int32)
    coarse = np.asarray([code is not None and level_of(code) < level for code in rolled], bool)
    overlaps = np.asarray([bool(c) and _has_finer(rolled[i], present) for i, c in enumerate(coarse)], bool)
    return RollUp(new, place, np.flatnonzero(place == UNKNOWN), np.flatnonzero(overlaps))


def _has_finer(code: str | None, present: Sequence[str]) -> bool:
    """Whether a class below `code` is present, so that a parcel of `code` might belong to it."""
    return code is not None and any(other != code and ancestor(other, level_of(code)) == code for other in present)
