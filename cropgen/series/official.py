"""Official protocols: which rows of a published data set are learnt from and which are tested on, as data.

A data set's manifest states its protocols as `[[protocols]]` tables; a reader leaves them in the store under
`source["protocols"]`. Years and regions say most of them; where a benchmark publishes lists of parcels, the reader
leaves them beside the store as `splits/<split>.json` (`cropgen.series.splits.Split.save`), which says of which rows it
speaks: `facts["rows_digest"]` is their `rows_digest`.

    [[protocols]]
    name = "breizhcrops-fold1"
    title = "train on three regions of Brittany, test on the fourth"
    notes = "macro-F1 over 9 classes is capped near 7/9: sunflower and nuts cannot be tested"
    train = { regions = ["frh01", "frh02", "frh03"], years = [2017] }
    test = { regions = ["frh04"], years = [2017] }
"""

from __future__ import annotations

import difflib
import hashlib
import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import Field

from cropgen.core.errors import DataError, SchemaError, UsageError
from cropgen.core.recipe import Section, validate
from cropgen.series.legend import UNKNOWN, CropClass, Legend, spread_colour
from cropgen.series.splits import Split

if TYPE_CHECKING:
    import pandas

    from cropgen.series.store import SeriesStore

_NAME = r"^[a-z0-9][a-z0-9.-]*$"
SPLITS = "splits"


class Side(Section):
    """Rows of some years and regions; nothing named means all."""

    years: tuple[int, ...] = Field((), description="harvest years; empty: all")
    regions: tuple[str, ...] = Field((), description="regions of the store; empty: all")

    def keep(self, index: pandas.DataFrame, where: str) -> np.ndarray:
        """(N,) bool: the rows of this side.

        Raises:
            DataError: a year or region is not in the store.
        """
        kept = np.ones(len(index), bool)
        for column, wanted in (("year", self.years), ("region", self.regions)):
            present = index[column].to_numpy()
            lacking = [str(value) for value in wanted if not (present == value).any()]
            if lacking:
                raise DataError(
                    f"{where} needs {column} {', '.join(lacking)}; the store has "
                    f"{', '.join(map(str, np.unique(present.astype(str)))) or 'none'}",
                    hint=f"fetch the data set again with every {column} the protocol names",
                )
            if wanted:
                kept &= np.isin(present, list(wanted))
        return kept


@dataclass(frozen=True)
class OfficialRows:
    """Ascending rows of an index, disjoint.

    Arguments:
        train: learnt from.
        validation: published for choices; empty where none are.
        test: tested on.
    """

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


class OfficialProtocol(Section):
    """One published way to split a data set."""

    name: str = Field(pattern=_NAME, description="what `evaluate --protocol` takes")
    title: str = Field(min_length=1, description="one line for a list")
    notes: str = Field("", description="what a reader of the scores must know")
    train: Side = Field(Side.model_validate({}), description="years and regions learnt from")
    validation: Side | None = Field(None, description="years and regions published for choices, where there are any")
    test: Side = Field(Side.model_validate({}), description="years and regions tested on")
    split: str | None = Field(
        None, pattern=_NAME, description="file splits/<split>.json beside the store that lists the rows of each side"
    )
    classes: tuple[str, ...] = Field((), description="codes that are learnt and scored; empty: all of the legend")
    merge: dict[str, tuple[str, ...]] = Field(
        default_factory=dict,
        description="new code → patterns of the codes it stands for, the first match holds, so that ['*'] is the rest",
    )

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> Self:
        """Check a `[[protocols]]` table.

        Raises:
            UsageError: a key is unknown or has a wrong value.
        """
        return validate(cls, document, where=f"protocol {document.get('name', '')}".strip())

    def to_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json", exclude_defaults=True)

    def rows(self, index: pandas.DataFrame, split: Split | None = None) -> OfficialRows:
        """The rows of each side.

        Arguments:
            index: the store's index.
            split: what `splits/<split>.json` holds, for protocols that name one.

        Raises:
            DataError: the store lacks a year or region, or a side is empty.
            SchemaError: sides overlap, or the split is missing or of another store.
        """
        none = Side.model_validate({})
        sides = {
            "train": self.train.keep(index, self.name), "test": self.test.keep(index, self.name),
            "validation": (self.validation or none).keep(index, self.name),
        }  # fmt: skip
        if self.split is not None:
            for role, kept in sides.items():
                kept &= self._listed(split, role, len(index))
        elif self.validation is None:
            sides["validation"][:] = False
        sides["train"] &= ~sides["validation"]
        if (sides["test"] & (sides["train"] | sides["validation"])).any():
            raise SchemaError(f"{self.name}: rows are learnt from and tested on", hint="correct the protocol's sides")
        for role in ("train", "test"):
            if not sides[role].any():
                raise DataError(f"{self.name}: no row to {role} on", hint="see cropgen info for what the store holds")
        return OfficialRows(*(np.flatnonzero(sides[role]) for role in ("train", "validation", "test")))

    def _listed(self, split: Split | None, role: str, rows: int) -> np.ndarray:
        if split is None:
            raise SchemaError(f"{self.name}: its split {self.split} was not given", hint="fetch the data set again")
        listed = getattr(split, role)
        if listed.size and not 0 <= listed.min() <= listed.max() < rows:
            raise SchemaError(
                f"{self.name}: split {self.split} names row {listed.max()} of a store of {rows}",
                hint="fetch the data set again",
            )
        return np.isin(np.arange(rows), listed)

    def legend(self, legend: Legend) -> tuple[Legend, np.ndarray]:
        """The legend that is scored, and for each class of `legend` (K,) int32 its position there, −1 where left out.

        Raises:
            SchemaError: a class is not in the legend.
        """
        if self.merge:
            return self._merged(legend)
        absent = [code for code in self.classes if code not in legend.codes]
        if absent:
            raise SchemaError(
                f"{self.name}: class {absent[0]} is not in legend {legend.name}: {', '.join(legend.codes)}",
                hint="fetch the data set with the class mapping the protocol was made for",
            )
        scored = legend.subset(legend.encode(self.classes)) if self.classes else legend
        return scored, legend.translation(scored)

    def _merged(self, legend: Legend) -> tuple[Legend, np.ndarray]:
        groups = list(self.merge)
        place = np.full(len(legend), UNKNOWN, np.int32)
        for position, code in enumerate(legend.codes):
            if self.classes and code not in self.classes:
                continue
            fits = (k for k, g in enumerate(groups) if any(fnmatchcase(code, p) for p in self.merge[g]))
            place[position] = next(fits, UNKNOWN)
        empty = [group for k, group in enumerate(groups) if not (place == k).any()]
        if empty:
            raise SchemaError(
                f"{self.name}: no class of legend {legend.name} becomes {empty[0]}", hint="correct the protocol"
            )
        classes = tuple(CropClass(group, group, spread_colour(k)) for k, group in enumerate(groups))
        return Legend(f"{legend.name}, {self.name}", classes), place


def official_protocols(store: SeriesStore) -> tuple[OfficialProtocol, ...]:
    """The protocols a store brings along.

    Raises:
        UsageError: one of them is not of the schema.
    """
    return tuple(OfficialProtocol.from_json(table) for table in store.source.get("protocols", ()))


def find_official(store: SeriesStore, name: str) -> OfficialProtocol:
    """A protocol of a store by name.

    Raises:
        UsageError: it brings none of that name; the message lists those it brings.
    """
    found = {protocol.name: protocol for protocol in official_protocols(store)}
    if name in found:
        return found[name]
    near = difflib.get_close_matches(name, found, n=1)
    raise UsageError(
        f"unknown protocol {name!r}; this data set brings {', '.join(found) or 'none of its own'}",
        hint=f"did you mean {near[0]}?" if near else "see cropgen evaluate --help for the general ones",
    )


def split_path(store_path: Path, name: str) -> Path:
    """Where the split `name` of a store lies: `splits/<name>.json` beside it."""
    return store_path.parent / SPLITS / f"{name}.json"


def rows_digest(store: SeriesStore) -> str:
    """Hex SHA-256 of region, parcel id and year of the rows of a store, in their order; transforms keep it."""
    digest = hashlib.sha256()
    for name in ("region", "parcel_id", "year"):
        digest.update(json.dumps(store.column(name).tolist()).encode())
    return digest.hexdigest()


def official_rows(store: SeriesStore, protocol: OfficialProtocol, index: pandas.DataFrame) -> OfficialRows:
    """The rows of each side of a protocol, its split read where it names one.

    Raises:
        MissingInputError, CorruptInputError, SchemaError, DataError: see `Split.load` and `OfficialProtocol.rows`; or
            the split was made for other rows than those of the store.
    """
    return protocol.rows(index, None if protocol.split is None else _read_split(store, protocol.split))


def _read_split(store: SeriesStore, name: str) -> Split:
    """A split of a store; of one that does not say for which rows it was made, only the range can be checked."""
    path = split_path(store.path, name)
    split = Split.load(path)
    if split.facts.get("rows_digest") not in (None, rows_digest(store)):
        raise SchemaError(
            f"{path} was made for other rows than those of {store.path}",
            hint="fetch the data set again, or make the store again in a folder of its own",
        )
    return split
