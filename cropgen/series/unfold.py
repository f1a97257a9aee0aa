"""One chunk of a table as loose observations: who, when, and the value of every band."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cropgen.core.errors import SchemaError, UsageError
from cropgen.series.columns import as_text, as_years, column
from cropgen.series.mapping import Cell, Columns, TableMapping

_TRUE = {"1", "1.0", "true", "yes", "clear"}


@dataclass(frozen=True)
class Unfolded:
    """M observations of one chunk.

    Arguments:
        line: (M,) row of the chunk each comes from.
        year: (M,) int16, harvest year.
        day: (M,) int32, days since 1970-01-01.
        values: (M, C) float32; NaN where missing.
        clear: (M,) bool.
    """

    line: np.ndarray
    year: np.ndarray
    day: np.ndarray
    values: np.ndarray
    clear: np.ndarray


def unfold(frame: pd.DataFrame, columns: Columns, mapping: TableMapping, where: str) -> Unfolded:
    """Read a chunk by the resolved columns.

    Raises:
        SchemaError: a value is no number, no date or no year; the message names column and value.
        UsageError: a date cannot be told without a year or a start.
    """
    build = _long if columns.layout == "long" else _wide
    return build(frame, columns, mapping, where)


def _long(frame: pd.DataFrame, columns: Columns, mapping: TableMapping, where: str) -> Unfolded:
    day = to_days(column(frame, str(columns.date)), mapping.date_format, where)
    year = _stated_years(frame, columns, where)
    clear = np.ones(len(frame), bool)
    if columns.clear is not None:
        accepted = {v.casefold() for v in mapping.clear_values} or _TRUE
        clear = np.isin(np.char.lower(as_text(column(frame, columns.clear))), sorted(accepted))
    values = np.stack([_numbers(column(frame, c), mapping, where) for c in columns.band_columns.values()], axis=1)
    return Unfolded(np.arange(len(frame)), years_of(day) if year is None else year, day, values, clear)


def _wide(frame: pd.DataFrame, columns: Columns, mapping: TableMapping, where: str) -> Unfolded:
    steps: dict[tuple[str, str], dict[str, str]] = {}
    for name, cell in columns.cells.items():
        steps.setdefault((cell.kind, cell.text), {})[cell.band] = name
    rows = len(frame)
    year = _stated_years(frame, columns, where)
    start = _start(frame, columns, mapping, where)
    days, values = [], []
    for (kind, text), bands in steps.items():
        day = _step_day(Cell("", kind, text), year, start, mapping, where)  # pyright: ignore[reportArgumentType]
        days.append(np.broadcast_to(day, (rows,)))
        values.append(
            np.stack(
                [
                    _numbers(column(frame, bands[b]), mapping, where)
                    if b in bands
                    else np.full(rows, np.nan, np.float32)
                    for b in columns.bands
                ],
                axis=1,
            )
        )
    day = np.stack(days, axis=1).ravel().astype(np.int32)
    line = np.repeat(np.arange(rows), len(steps))
    return Unfolded(
        line,
        years_of(day) if year is None else year[line],
        day,
        np.stack(values, axis=1).reshape(-1, len(columns.bands)),
        np.ones(len(line), bool),
    )


def _stated_years(frame: pd.DataFrame, columns: Columns, where: str) -> np.ndarray | None:
    if isinstance(columns.year, int):
        return np.full(len(frame), columns.year, np.int16)
    return None if columns.year is None else as_years(column(frame, columns.year), where=where)


def years_of(day: np.ndarray) -> np.ndarray:
    """(R,) int16 calendar years of days since 1970-01-01."""
    return (day.astype("datetime64[D]").astype("datetime64[Y]").astype(np.int64) + 1970).astype(np.int16)


def _numbers(values: pd.Series, mapping: TableMapping, where: str) -> np.ndarray:
    """(R,) float32 with NaN for missing values.

    Raises:
        SchemaError: a value is not a number.
    """
    numbers = np.array(pd.to_numeric(values, errors="coerce"), dtype=np.float64)
    wrong = np.isnan(numbers) & values.notna().to_numpy()
    if wrong.any():
        raise SchemaError(
            f"{where}: column {values.name!r} holds {values.to_numpy()[wrong][0]!r}, expected a number",
            hint="clean the column, or leave it out of the bands",
        )
    numbers[~np.isfinite(numbers) | np.isin(numbers, mapping.nodata)] = np.nan
    return numbers.astype(np.float32)


def to_days(values: pd.Series, date_format: str | None, where: str) -> np.ndarray:
    """(R,) int32 days since 1970-01-01 (UTC) of dates: stated format, ISO, or whole numbers YYYYMMDD.

    A time with an offset from UTC counts for its day in UTC, one without any for the day it states.

    Raises:
        SchemaError: a value is not such a date.
    """
    if pd.api.types.is_datetime64_any_dtype(values.dtype):
        dates = values
    elif date_format is None and pd.api.types.is_numeric_dtype(values.dtype):
        dates = pd.to_datetime(pd.Series(as_text(values), values.index), format="%Y%m%d", errors="coerce")
    else:
        dates = pd.to_datetime(values.astype(str), format=date_format or "ISO8601", errors="coerce", utc=True)
    found = dates if getattr(dates.dtype, "tz", None) is None else dates.dt.tz_convert("UTC").dt.tz_localize(None)
    missing = np.asarray(pd.isna(found))
    if missing.any():
        raise SchemaError(
            f"{where}: {values.name!r} holds {values.to_numpy()[missing][0]!r}, which is not a date",
            hint="say how dates are written with --date-format, e.g. %d.%m.%Y",
        )
    return np.asarray(found).astype("datetime64[D]").astype(np.int32)


def _start(frame: pd.DataFrame, columns: Columns, mapping: TableMapping, where: str) -> np.ndarray | None:
    """Day (R,) or (1,) of step 0."""
    if columns.start is not None:
        return to_days(column(frame, columns.start), mapping.date_format, where)
    if mapping.start is None:
        return None
    return to_days(pd.Series([mapping.start], name="start"), mapping.date_format, where)


def _step_day(
    cell: Cell, year: np.ndarray | None, start: np.ndarray | None, mapping: TableMapping, where: str
) -> np.ndarray:
    """Day (R,) or (1,) of one step."""
    text = mapping.dates.get(cell.text, cell.text)
    if cell.kind == "date" or (cell.text in mapping.dates and len(text) > len("MM-DD")):
        return to_days(pd.Series([text], name=cell.text), mapping.date_format, where)
    if cell.kind == "doy":
        return _first_of_year(year, where) + int(text) - 1
    if cell.text in mapping.dates:
        return _in_year(_first_of_year(year, where), text, where)
    if start is None or not text.isdigit():
        raise UsageError(
            f"{where}: the date of step {cell.text!r} is not known",
            hint="give `dates` for every step in the mapping, or `start` and `interval` of numbered steps",
        )
    return _after(start, int(text), mapping.interval)


def _first_of_year(year: np.ndarray | None, where: str) -> np.ndarray:
    if year is None:
        raise UsageError(f"{where}: the year of the dates is not known", hint="give --year YYYY or its column")
    return (year.astype(np.int64) - 1970).astype("datetime64[Y]").astype("datetime64[D]").astype(np.int32)


def _in_year(first: np.ndarray, text: str, where: str) -> np.ndarray:
    try:
        month, day = (int(part) for part in text.split("-"))
    except ValueError as error:
        raise UsageError(f"{where}: {text!r} is not MM-DD", hint="write 02-15 or 2018-02-15 in `dates`") from error
    months = first.astype("datetime64[D]").astype("datetime64[M]") + (month - 1)
    return months.astype("datetime64[D]").astype(np.int32) + day - 1


def _after(start: np.ndarray, steps: int, interval: Any) -> np.ndarray:
    """The day `steps` intervals after `start`.

    Calendar intervals count periods of 1, 2 or 3 parts of a month from the one that holds `start`, each dated by its
    first day.
    """
    if isinstance(interval, int):
        return start + steps * interval
    parts, length = {"month": (1, 31), "half-month": (2, 15), "dekad": (3, 10)}[interval]
    date = start.astype("datetime64[D]")
    month = date.astype("datetime64[M]")
    part = np.minimum((date - month.astype("datetime64[D]")).astype(np.int64) // length, parts - 1)
    turn, part = np.divmod(part + steps, parts)
    return (month + turn).astype("datetime64[D]").astype(np.int32) + (part * length).astype(np.int32)
