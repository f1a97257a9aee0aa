"""From the columns of a parcel layer to the five that cropgen uses: parcel_id, year, region, code and name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import numpy as np
import pandas as pd

from cropgen.core.errors import UsageError
from cropgen.series.columns import as_text, as_years, column, factorized, merge_codes
from cropgen.series.crop_codes import translate
from cropgen.series.hcat import with_hcat
from cropgen.series.legend import Legend
from cropgen.series.parcel_columns import ParcelColumns, Roles, recognise, year_in_name
from cropgen.series.parcel_files import FileLayer

_LOST = ("?", "\ufffd")


@dataclass(frozen=True)
class ParcelTable:
    """The attributes of the parcels of one file.

    Arguments:
        frame: parcel_id, year, region, code, name (text; "" unknown), a row per parcel.
        roles: the columns they came from.
        hcat: crop code → HCAT code, where known beyond the code itself.
        remarks: what a user must not miss.
    """

    frame: pd.DataFrame
    roles: Roles
    hcat: dict[str, str]
    remarks: tuple[str, ...]


def legend_of(codes: np.ndarray, names: np.ndarray, title: str, hcat: Mapping[str, str] | None = None) -> Legend:
    """A legend of the codes that occur, each with the first name that goes with it; HCAT codes are known as such.

    Arguments:
        hcat: crop code → HCAT code, beyond those known by themselves.
    """
    first: dict[str, str] = {}
    for code, name in zip(codes, names, strict=True):
        if name:
            first.setdefault(str(code), str(name))
    legend = Legend.from_codes(title, (str(code) for code in np.unique(codes) if code), first)
    stated = (replace(crop, hcat=(hcat or {}).get(crop.code)) for crop in legend.classes)
    return with_hcat(Legend(title, tuple(stated)))


def merged_classes(code: np.ndarray, name: np.ndarray, merge: Mapping[str, str]) -> tuple[np.ndarray, np.ndarray]:
    """Codes and names after merging; a class that was merged is named by its new code."""
    merged = merge_codes(code, merge)
    return merged.astype(object), np.where(merged == code.astype(str), name, "").astype(object)


def roles_of(layer: FileLayer, columns: ParcelColumns, default_year: int | None) -> tuple[Roles, Callable[[], int]]:
    """The columns of a layer by role, and the harvest year of parcels without a column of it.

    Raises:
        SchemaError, UsageError: see `recognise`; the year is asked for only where it is needed, and may be unknown.
    """
    where = str(layer.file.path)

    def stated() -> int:
        if isinstance(columns.year, int):
            return columns.year
        names = (layer.file.path.stem, PurePosixPath(layer.file.member).stem)
        found = next((year for name in names if (year := year_in_name(name, where=where)) is not None), default_year)
        if found is None:
            raise UsageError(f"{where}: the harvest year of the parcels is not known", hint="give --year YYYY")
        return found

    return recognise(layer.fields, columns, where=where, year=stated), stated


def parcel_table(
    raw: pd.DataFrame, roles: Roles, columns: ParcelColumns, year: Callable[[], int], *, where: str, rows_of: str = ""
) -> ParcelTable:
    """The attributes of the parcels of one file, a crop code for each that has one.

    Arguments:
        raw: the columns of the roles, a row per parcel.
        year: the harvest year where no column states it.
        rows_of: put before row numbers that serve as ids, so that those of several files differ.

    Raises:
        UsageError, SchemaError, DataError: no year, or a table of crop codes that cannot be used.
    """
    kinds = kind_table(raw, roles, columns, year, where=where)
    frame = kinds.frame
    frame.insert(0, "parcel_id", parcel_ids(raw, roles.id, rows_of=rows_of))
    return kinds


def kind_table(
    raw: pd.DataFrame,
    roles: Roles,
    columns: ParcelColumns,
    year: Callable[[], int],
    *,
    where: str,
    parcels: np.ndarray | None = None,
) -> ParcelTable:
    """The attributes of kinds of parcels: those of a parcel without its id.

    Arguments:
        raw: the columns of the roles other than the id, a row per kind, in the order in which the kinds are met.
        parcels: (N,) how many parcels are of each kind; None: one each.

    Raises:
        UsageError, SchemaError, DataError: as `parcel_table`.
    """
    remarks: list[str] = []
    label = _first_filled(raw, roles, where, remarks)
    roles = replace(roles, label=label)
    code, name = _text(raw, label, where), _text(raw, roles.name, where)
    remarks += _losses(where, {label: code, roles.name: name})
    code = name if label is None else code
    years = (
        np.full(len(raw), year(), np.int16) if roles.year is None else as_years(column(raw, roles.year), where=where)
    )
    hcat: dict[str, str] = {}
    if columns.crop_codes is not None or columns.to == "hcat":
        country, latest = roles.register.country if roles.register else "", int(years.max())
        means = translate(
            code, name, columns.crop_codes, country=country, year=latest, where=where, parcels=parcels
        )  # fmt: skip
        remarks += means.remarks
        code, name, hcat = means.applied(columns.to)
    if columns.merge:
        code, name = merged_classes(code, name, columns.merge)
    frame = pd.DataFrame({"year": years, "region": _text(raw, roles.region, where), "code": code, "name": name})
    return ParcelTable(frame, roles, hcat, tuple(remarks))


def _text(raw: pd.DataFrame, name: str | None, where: str) -> np.ndarray:
    """A column as text (N,) object, equal texts one object; "" where there is no column."""
    if name is None:
        return np.full(len(raw), "", dtype=object)
    place, distinct = factorized(column(raw, name), where=where)
    texts = np.append(as_text(pd.Series(distinct)).astype(object), "")
    return texts[place]


def _first_filled(raw: pd.DataFrame, roles: Roles, where: str, remarks: list[str]) -> str | None:
    """The column of crop codes, or the first of those that could be meant where it is empty."""
    label = roles.label
    if label is None or raw.empty or _is_filled(raw, label, where):
        return label
    filled = next((other for other in roles.others.get("label", ()) if _is_filled(raw, other, where)), None)
    if filled is None and roles.name is None:
        return label
    remarks.append(f"{where}: column {label} is empty; crops are taken from {filled or roles.name}")
    return filled


def _is_filled(raw: pd.DataFrame, name: str, where: str) -> bool:
    """Whether a column has a value that is more than blanks."""
    return bool((_text(raw, name, where) != "").any())


def _losses(where: str, texts: Mapping[str | None, np.ndarray]) -> list[str]:
    """One line for each column in which letters were replaced, with the first such text."""
    found = {name: _damaged(content) for name, content in texts.items() if name}
    return [f"{where}: letters of column {c} were lost before the file was made: {v!r}" for c, v in found.items() if v]


def _damaged(texts: np.ndarray) -> str | None:
    """The first text in which a letter was replaced."""
    return next((str(t) for t in pd.unique(texts) if any(mark in str(t).rstrip("?") for mark in _LOST)), None)


def parcel_ids(raw: pd.DataFrame, parts: tuple[str, ...], *, rows_of: str = "", first: int = 0) -> np.ndarray:
    """Ids (N,) object: columns joined by `/`, or row numbers; "" where a part is missing.

    Arguments:
        first: number of the first row.
    """
    if not parts:
        numbers = range(first, first + len(raw))
        return np.asarray([f"{rows_of}:{row}" if rows_of else str(row) for row in numbers], dtype=object)
    texts = [as_text(column(raw, part)) for part in parts]
    if len(texts) == 1:
        return texts[0].astype(object)
    whole = np.all([text != "" for text in texts], axis=0)
    return np.asarray(["/".join(t) if ok else "" for ok, *t in zip(whole, *texts, strict=True)], dtype=object)
