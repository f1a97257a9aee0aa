"""A whole table, read in chunks, as parcel seasons and their observations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cropgen.core.errors import DataError
from cropgen.core.progress import Reporter
from cropgen.series.attributes import Attributes, SecondTable
from cropgen.series.columns import as_text, column
from cropgen.series.frames import open_table
from cropgen.series.mapping import Columns, TableMapping, resolve
from cropgen.series.observations import Observations
from cropgen.series.unfold import unfold


@dataclass(frozen=True)
class Gathered:
    """A table read to its end.

    Arguments:
        layout: long or wide.
        bands: names of the C bands.
        seasons: one row per parcel season in order of appearance: parcel_id, year, code, name, region ("" unknown),
            lon, lat (NaN unknown).
        relabelled: ids of parcels that carry several codes in a year; the first is kept.
        observations: unsorted, as stored, NaN where a band is missing.
        missing: observations without any value.
        unclear: observations the clear column rules out.
        without_attributes: ids of rows for which the second table holds nothing, of their year where it has years.
    """

    layout: str
    bands: tuple[str, ...]
    seasons: pd.DataFrame
    relabelled: list[str]
    observations: Observations
    missing: int
    unclear: int
    without_attributes: list[str]


class _Seasons:
    """Numbers for (parcel id, year), given in order of appearance, with what is known of each."""

    def __init__(self) -> None:
        self._number: dict[tuple[str, int], int] = {}
        self._facts: list[pd.DataFrame] = []

    def number(self, ids: np.ndarray, year: np.ndarray) -> np.ndarray:
        """(M,) int64 season of each observation."""
        code, names = pd.factorize(ids)
        key = code.astype(np.int64) * 65_536 + year
        distinct, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        season = np.empty(len(distinct), np.int64)
        for i in np.argsort(first, kind="stable").tolist():
            who = (str(names[distinct[i] // 65_536]), int(year[first[i]]))
            season[i] = self._number.setdefault(who, len(self._number))
        return season[inverse]

    def learn(self, frame: pd.DataFrame, columns: Columns, line: np.ndarray, season: np.ndarray) -> None:
        """Note code, name, region and place of the seasons of a chunk."""
        known = pd.DataFrame({"season": season, "line": line}).drop_duplicates()
        rows = known["line"].to_numpy()
        facts = {"season": known["season"].to_numpy()}
        for role, name in (("code", columns.label), ("name", columns.name), ("region", columns.region)):
            if name is not None:
                facts[role] = as_text(column(frame, name))[rows]
        for role, name in (("lon", columns.lon), ("lat", columns.lat)):
            if name is not None:
                facts[role] = np.array(pd.to_numeric(column(frame, name), errors="coerce"), dtype=np.float64)[rows]
        self._facts.append(pd.DataFrame(facts).drop_duplicates())

    def frame(self) -> tuple[pd.DataFrame, list[str]]:
        """All seasons, and the ids of those with several codes."""
        seasons = pd.DataFrame(list(self._number), columns=["parcel_id", "year"])
        facts = pd.concat(self._facts, ignore_index=True).replace("", np.nan)
        codes = facts.groupby("season")["code"].nunique() if "code" in facts else pd.Series(dtype=int)
        first = facts.groupby("season").first().reindex(seasons.index)
        for role in ("code", "name", "region"):
            seasons[role] = first[role].fillna("").astype(str) if role in first else ""
        for role in ("lon", "lat"):
            seasons[role] = first[role].astype(float) if role in first else np.nan
        several = codes.index.to_numpy(np.int64)[codes.to_numpy() > 1]
        return seasons, seasons["parcel_id"].to_numpy(str)[several].tolist()


def gather(path: Path, mapping: TableMapping, report: Reporter) -> Gathered:
    """Read a table and its attributes.

    Raises:
        MissingInputError, CorruptInputError, SchemaError, DataError, UsageError: it cannot be used; see the message.
    """
    table = open_table(path, mapping.sheet)
    second = SecondTable.read(table, mapping)
    names = [*table.columns, *(c for c in (() if second is None else second.columns) if c not in table.columns)]
    columns = resolve(mapping, names, str(path))
    attributes = None if second is None else Attributes.of(second, columns, mapping, table)
    columns = columns if attributes is None else attributes.columns
    seasons = _Seasons()
    parts: list[Observations] = []
    missing = unclear = 0
    with report.task(f"Reading {path.name}", total=None) as task:
        for chunk in table.chunks([c for c in columns.used if c in table.columns], text=columns.text):
            frame = chunk if attributes is None else attributes.join(chunk, mapping, table)
            found = unfold(frame, columns, mapping, str(path))
            ids = frame.index.to_numpy().astype(str) if columns.id is None else as_text(column(frame, columns.id))
            season = seasons.number(ids[found.line], found.year)
            seasons.learn(frame, columns, found.line, season)
            empty = np.isnan(found.values).all(1)
            missing += int((empty & found.clear).sum())
            unclear += int((~found.clear).sum())
            parts.append(Observations(season, found.day, found.values).keep(~empty & found.clear))
            task.advance(len(frame))
    if not parts:
        raise DataError(f"{path} holds no row", hint="check the export")
    joined = Observations(*(np.concatenate([getattr(p, name) for p in parts]) for name in ("row", "day", "values")))
    frame, relabelled = seasons.frame()
    absent = [] if attributes is None else list(attributes.absent)
    return Gathered(columns.layout, columns.bands, frame, relabelled, joined, missing, unclear, absent)
