"""A whole table, read in chunks, as parcel seasons and their observations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cropgen.core.errors import DataError, SchemaError
from cropgen.core.progress import Reporter
from cropgen.series.attributes import Attributes, SecondTable
from cropgen.series.columns import as_text, column
from cropgen.series.frames import open_table
from cropgen.series.mapping import Columns, TableMapping, resolve
from cropgen.series.observations import Observations
from cropgen.series.unfold import unfold

_FARTHEST = {"lon": 360.0, "lat": 90.0}


@dataclass(frozen=True)
class Gathered:
    """A table read to its end.

    Arguments:
        layout: long or wide.
        bands: names of the C bands.
        seasons: one row per region, parcel and season in order of appearance: parcel_id, year, code, name, region
            ("" unknown), lon, lat (NaN unknown).
        relabelled: ids of parcels that carry several codes in a year; the first is kept.
        observations: unsorted, as stored, NaN where a band is missing.
        missing: observations without any value.
        unclear: observations the clear column rules out.
        without_attributes: ids of rows for which the second table holds nothing, of their year where it has years.
        nameless: rows without a parcel id, which are left out: `row` and its number, counted from 0.
    """

    layout: str
    bands: tuple[str, ...]
    seasons: pd.DataFrame
    relabelled: list[str]
    observations: Observations
    missing: int
    unclear: int
    without_attributes: list[str]
    nameless: list[str]


class _Seasons:
    """Numbers for (region, parcel id, year), given in order of appearance, with what is known of each."""

    def __init__(self) -> None:
        self._number: dict[tuple[str, str, int], int] = {}
        self._facts: list[pd.DataFrame] = []

    def number(self, region: np.ndarray, ids: np.ndarray, year: np.ndarray) -> np.ndarray:
        """(M,) int64 season of each observation."""
        place, places = pd.factorize(region)
        code, names = pd.factorize(ids)
        key = (place.astype(np.int64) * len(names) + code) * 65_536 + year
        distinct, first, inverse = np.unique(key, return_index=True, return_inverse=True)
        season = np.empty(len(distinct), np.int64)
        for i in np.argsort(first, kind="stable").tolist():
            row = first[i]
            who = (str(places[place[row]]), str(names[code[row]]), int(year[row]))
            season[i] = self._number.setdefault(who, len(self._number))
        return season[inverse]

    def learn(self, frame: pd.DataFrame, columns: Columns, line: np.ndarray, season: np.ndarray) -> None:
        """Note code, name and place of the seasons of a chunk."""
        known = pd.DataFrame({"season": season, "line": line}).drop_duplicates()
        rows = known["line"].to_numpy()
        facts = {"season": known["season"].to_numpy()}
        for role, name in (("code", columns.label), ("name", columns.name)):
            if name is not None:
                facts[role] = as_text(column(frame, name))[rows]
        for role, name in (("lon", columns.lon), ("lat", columns.lat)):
            if name is not None:
                facts[role] = _degrees(column(frame, name), name, _FARTHEST[role])[rows]
        self._facts.append(pd.DataFrame(facts).drop_duplicates())

    def frame(self) -> tuple[pd.DataFrame, list[str], np.ndarray]:
        """All seasons, the ids of those with several codes, and the row (numbers,) of each number.

        A season whose region is nowhere stated is that of the only region its parcel id and year have.
        """
        known = list(self._number)
        regions: dict[tuple[str, int], list[int]] = {}
        for number, (region, name, year) in enumerate(known):
            if region:
                regions.setdefault((name, year), []).append(number)
        same = np.arange(len(known))
        for number, (region, name, year) in enumerate(known):
            if not region and len(found := regions.get((name, year), [])) == 1:
                same[max(number, found[0])] = min(number, found[0])
                known[min(number, found[0])] = known[found[0]]
        kept, row = np.unique(same, return_inverse=True)
        seasons = pd.DataFrame([known[k] for k in kept], columns=["region", "parcel_id", "year"])
        facts = pd.concat(self._facts, ignore_index=True).replace("", np.nan)
        facts["season"] = row[facts["season"].to_numpy()]
        codes = facts.groupby("season")["code"].nunique() if "code" in facts else pd.Series(dtype=int)
        first = facts.groupby("season").first().reindex(seasons.index)
        for role in ("code", "name"):
            seasons[role] = first[role].fillna("").astype(str) if role in first else ""
        for role in ("lon", "lat"):
            seasons[role] = first[role].astype(float) if role in first else np.nan
        several = codes.index.to_numpy(np.int64)[codes.to_numpy() > 1]
        return seasons, seasons["parcel_id"].to_numpy(str)[several].tolist(), row


def _degrees(values: pd.Series, name: str, farthest: float) -> np.ndarray:
    """(N,) float64 degrees, NaN where a cell is empty.

    Raises:
        SchemaError: a cell holds something else.
    """
    degrees = np.asarray(pd.to_numeric(values, errors="coerce"), np.float64)
    given = values.notna().to_numpy() & (as_text(values) != "")
    wrong = np.flatnonzero((np.isnan(degrees) & given) | (np.abs(degrees) > farthest))
    if len(wrong):
        raise SchemaError(
            f"column {name}: expected degrees up to {farthest:g}, got {str(as_text(values.iloc[wrong[:1]])[0])!r}",
            hint="give longitude and latitude in degrees (WGS 84), or the polygons with --parcels",
        )
    return degrees


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
    nameless: list[str] = []
    missing = unclear = 0
    with report.task(f"Reading {path.name}", total=None) as task:
        for chunk in table.chunks([c for c in columns.used if c in table.columns], text=columns.text):
            frame = _named(chunk, columns, nameless)
            if attributes is not None and len(frame):
                frame = _named(attributes.join(frame, mapping, table), columns, nameless)
            task.advance(len(chunk))
            if frame.empty:
                continue
            found = unfold(frame, columns, mapping, str(path))
            ids = frame.index.to_numpy().astype(str) if columns.id is None else as_text(column(frame, columns.id))
            region = np.full(len(frame), "") if columns.region is None else as_text(column(frame, columns.region))
            season = seasons.number(region[found.line], ids[found.line], found.year)
            seasons.learn(frame, columns, found.line, season)
            empty = np.isnan(found.values).all(1)
            missing += int((empty & found.clear).sum())
            unclear += int((~found.clear).sum())
            parts.append(Observations(season, found.day, found.values).keep(~empty & found.clear))
    if not parts and nameless:
        raise DataError(
            f"{path}: no row has an id in column {columns.id!r}", hint="name the column of the id with --id-column"
        )
    if not parts:
        raise DataError(f"{path} holds no row", hint="check the export")
    frame, relabelled, row = seasons.frame()
    season, day, values = (np.concatenate([getattr(p, name) for p in parts]) for name in ("row", "day", "values"))
    joined = Observations(row[season], day, values)
    absent = [] if attributes is None else list(attributes.absent)
    return Gathered(columns.layout, columns.bands, frame, relabelled, joined, missing, unclear, absent, nameless)


def _named(frame: pd.DataFrame, columns: Columns, nameless: list[str]) -> pd.DataFrame:
    """The rows with an id; the others are noted by their number. A frame without the column of the id is as it was."""
    if columns.id is None or columns.id not in frame.columns:
        return frame
    named = as_text(column(frame, columns.id)) != ""
    nameless.extend(f"row {row}" for row in frame.index[~named])
    return frame if named.all() else frame.loc[named]
