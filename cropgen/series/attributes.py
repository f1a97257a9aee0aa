"""A second table with further columns of the parcels, joined to a table chunk by chunk.

both have an id and a year     by both; the year of the table is its column or the stated one
both have an id                by id. Where an id has several rows that differ, one for each year, and seasons are those
                               of the dates, by id and year of the date; where they differ otherwise: error
neither                        row by row
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from cropgen.core.errors import SchemaError
from cropgen.series.columns import Role, as_text, as_years, column, find_column
from cropgen.series.frames import Table, open_table
from cropgen.series.mapping import Columns, TableMapping
from cropgen.series.unfold import to_days, years_of

_SHOWN = 5


@dataclass(frozen=True)
class SecondTable:
    """The second table, whole.

    Arguments:
        path: the file.
        frame: all of its columns.
    """

    path: Path
    frame: pd.DataFrame

    @classmethod
    def read(cls, table: Table, mapping: TableMapping) -> Self | None:
        """The table a mapping names; its path is relative to the folder of the first, or else to the current one.

        Raises:
            MissingInputError, CorruptInputError, SchemaError, DataError, UsageError: it cannot be read.
        """
        if mapping.attributes is None:
            return None
        beside = table.path.parent / mapping.attributes
        second = open_table(beside if beside.exists() else Path(mapping.attributes))
        roles: tuple[Role, ...] = ("id", "label", "name", "region")
        stated = {"id": mapping.id, "label": mapping.label, "name": mapping.name, "region": mapping.region}
        text = {stated[role] or find_column(second.columns, role, None, where=str(second.path)) for role in roles}
        named = {name for name in text if name is not None}
        return cls(second.path, pd.concat(second.chunks(second.columns, text=named), ignore_index=True))

    @property
    def columns(self) -> list[str]:
        return [str(name) for name in self.frame.columns]


@dataclass
class Attributes:
    """What the second table adds to the rows of the first.

    Arguments:
        frame: the columns it adds, indexed by id, by id and year, or by row.
        columns: the columns of the first table by role. Without a year, where that of the date is joined by.
        by: what joins them.
        absent: ids of the rows of the first table that the second does not have, filled by `join`.
    """

    frame: pd.DataFrame
    columns: Columns
    by: tuple[str, ...]
    absent: dict[str, None] = field(default_factory=dict)

    @classmethod
    def of(cls, second: SecondTable, columns: Columns, mapping: TableMapping, table: Table) -> Self:
        """Find out what joins two tables.

        Raises:
            SchemaError: rows of one parcel, or of one parcel and year, differ and nothing tells which is meant.
        """
        frame, there, where = second.frame, second.columns, str(second.path)
        added = frame.loc[:, [name for name in columns.used if name in there and name not in table.columns]]
        id_column = None
        if columns.id is not None and columns.id in table.columns:
            id_column = find_column(there, "id", columns.id if columns.id in there else None, where=where)
        if id_column is None:
            return cls(added, columns, ())
        named = as_text(column(frame, id_column)) != ""
        frame, added = frame.loc[named], added.loc[named]
        ids = as_text(column(frame, id_column))
        own = columns.year if isinstance(columns.year, str) and columns.year in there else None
        year = find_column(there, "year", own, where=where)
        if year is not None and year not in added.columns and columns.year is not None:
            joined = _by_id_and_year(added, ids, as_years(column(frame, year), where=where), where)
            return cls(joined, columns, ("id", "year"))
        dated = columns.layout == "long" and columns.date in table.columns
        if year is not None and mapping.year is None and dated and _differing(added, pd.factorize(ids)[0]):
            joined = _by_id_and_year(added.drop(columns=year), ids, as_years(column(frame, year), where=where), where)
            return cls(joined, replace(columns, year=None), ("id", "year"))
        return cls(_first_of(added, pd.Index(ids), where, "id"), columns, ("id",))

    def join(self, chunk: pd.DataFrame, mapping: TableMapping, table: Table) -> pd.DataFrame:
        """A chunk of the first table with the columns of the second.

        Raises:
            SchemaError: there is no id and the second table has fewer rows, or a date or year cannot be read.
        """
        if not self.by:
            return self._row_by_row(chunk, table)
        ids = as_text(column(chunk, str(self.columns.id)))
        keys = pd.Index(ids)
        if "year" in self.by:
            keys = pd.MultiIndex.from_arrays([ids, self._years(chunk, mapping, str(table.path))])
        self.absent.update(dict.fromkeys(np.unique(ids[~keys.isin(self.frame.index)]).tolist()))
        found = self.frame.reindex(keys)
        return chunk.assign(**{name: column(found, name).array for name in self.frame.columns})

    def _years(self, chunk: pd.DataFrame, mapping: TableMapping, where: str) -> np.ndarray:
        year = self.columns.year
        if isinstance(year, int):
            return np.full(len(chunk), year, np.int16)
        if year is not None:
            return as_years(column(chunk, year), where=where)
        return years_of(to_days(column(chunk, str(self.columns.date)), mapping.date_format, where))

    def _row_by_row(self, chunk: pd.DataFrame, table: Table) -> pd.DataFrame:
        if int(chunk.index[-1]) >= len(self.frame):
            raise SchemaError(
                f"{table.path}: the attributes hold {len(self.frame)} rows, fewer than the table, and no id to join by",
                hint="give both tables an id column, or as many rows",
            )
        part = self.frame.iloc[chunk.index.to_numpy()]
        return chunk.assign(**{name: column(part, name).array for name in self.frame.columns})


def _by_id_and_year(added: pd.DataFrame, ids: np.ndarray, years: np.ndarray, where: str) -> pd.DataFrame:
    return _first_of(added, pd.MultiIndex.from_arrays([ids, years]), where, "id and year")


def _first_of(added: pd.DataFrame, keys: pd.Index, where: str, what: str) -> pd.DataFrame:
    """The columns of each key, indexed by it: the first value there is.

    Raises:
        SchemaError: rows of one key differ.
    """
    if keys.is_unique:
        return added.set_axis(keys)
    code, distinct = pd.factorize(keys)
    differing = _differing(added, code)
    if differing is not None:
        name, which = differing
        told = [" of ".join(map(str, key)) if isinstance(key, tuple) else str(key) for key in distinct[which].tolist()]
        more = f" and {len(told) - _SHOWN} more" if len(told) > _SHOWN else ""
        raise SchemaError(
            f"{where}: column {name!r} holds several values for one {what}: {', '.join(told[:_SHOWN])}{more}",
            hint="give one row per parcel, or per parcel and year with a year column in both tables",
        )
    first = np.unique(code, return_index=True)[1]
    filled = {name: column(added, name).groupby(code).first().array for name in added.columns}
    return added.iloc[first].set_axis(distinct).assign(**filled)


def _differing(added: pd.DataFrame, code: np.ndarray) -> tuple[str, np.ndarray] | None:
    """The first column in which rows of one code differ, and those codes."""
    for name in added.columns:
        counts = column(added, name).groupby(code).nunique().to_numpy()
        if (counts > 1).any():
            return str(name), np.flatnonzero(counts > 1)
    return None
