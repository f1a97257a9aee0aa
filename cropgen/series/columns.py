"""Which column of somebody's table holds what: named by the user, or recognised by its usual names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from cropgen.core.errors import SchemaError

if TYPE_CHECKING:
    import pandas as pd

Role = Literal["id", "label", "name", "year", "region", "date", "lon", "lat"]

KNOWN_NAMES: dict[str, tuple[str, ...]] = {
    "id": (
        "parcel_id", "parcelid", "field_id", "fieldid", "id_parcel", "sample_id", "sampleid", "plot_id", "gid", "id",
        "fid", "objectid",
    ),
    "label": (
        "crop_code", "cropcode", "code_cultu", "ec_hcat_c", "hcat_code", "hcat", "ewoc_code", "croptype_label",
        "crop_type", "croptype", "crop", "label_code", "label", "class_code", "class", "culture", "nc_ant", "nc",
    ),
    "name": ("crop_name", "cropname", "ec_hcat_n", "hcat_name", "label_name", "class_name", "nutz_ant"),
    "year": ("year", "harvest_year", "season", "campaign"),
    "region": ("region", "nuts3", "nuts", "tile", "zone"),
    "date": ("date", "timestamp", "time", "datetime", "acquisition_date", "day"),
    "lon": ("lon", "longitude", "long"),
    "lat": ("lat", "latitude"),
}  # fmt: skip
"""Usual names of each role, the better first; letters' case does not matter."""


def find_column(columns: Sequence[str], role: Role, wanted: str | None, *, where: str) -> str | None:
    """The column that plays a role: the wanted one, or the first of the usual names that is there.

    Raises:
        SchemaError: `wanted` is given and is not a column.
    """
    if wanted is not None:
        return require_column(columns, wanted, where=where, what=role)
    folded = {str(column).casefold(): column for column in reversed(columns)}
    return next((folded[name] for name in KNOWN_NAMES[role] if name in folded), None)


def require_column(columns: Iterable[str], wanted: str, *, where: str, what: str) -> str:
    """`wanted`, when it is one of the columns.

    Raises:
        SchemaError: it is not; the message lists the columns found.
    """
    found = [str(column) for column in columns]
    if wanted not in found:
        raise SchemaError(
            f"{where}: no column {wanted!r} for {what}; found {', '.join(found[:40])}{' …' if len(found) > 40 else ''}",
            hint=f"name the {what} column as it is written in the file",
        )
    return wanted


def column(frame: pd.DataFrame, name: str) -> pd.Series:
    """One column of a frame."""
    return cast("pd.Series", frame[name])


def factorized(values: pd.Series, *, where: str) -> tuple[np.ndarray, pd.Index]:
    """Which distinct value each of a column (N,) is, −1 where it is missing, and the distinct values.

    Raises:
        SchemaError: a value is a list.
    """
    import pandas as pd

    try:
        place, distinct = pd.factorize(values)
    except TypeError as error:
        wrong = next(np.asarray(item).tolist() for item in values if np.ndim(item))
        raise SchemaError(
            f"{where}: column {values.name!r} holds lists such as {wrong}, expected one value per parcel",
            hint="name another column, e.g. with --label-column, or write one value per parcel",
        ) from error
    return place, pd.Index(distinct)


def as_text(values: pd.Series) -> np.ndarray:
    """Identifiers and codes as text (N,) unicode: whole numbers without a decimal point, missing values as "".

    A column of whole numbers with gaps is read as floating point by most readers; 115.0 is written 115 again.
    """
    import pandas as pd

    if pd.api.types.is_float_dtype(values.dtype):
        numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
        return np.asarray([_number_text(x) for x in numbers], dtype=np.str_)
    text = values.astype(object).where(values.notna(), "")
    return np.asarray([str(item).strip() for item in text], dtype=np.str_)


def merge_codes(codes: np.ndarray, merge: Mapping[str, str]) -> np.ndarray:
    """Codes (N,) with those that fit a pattern replaced; the first fitting pattern decides.

    Arguments:
        merge: pattern → code; `*` stands for any text, so `{"wheat*": "wheat"}` makes all kinds of wheat one.
    """
    distinct, position = np.unique(codes.astype(str), return_inverse=True)
    merged = [next((new for old, new in merge.items() if fnmatchcase(code, old)), code) for code in distinct.tolist()]
    return np.asarray(merged, dtype=np.str_)[position]


def _number_text(number: float) -> str:
    if np.isnan(number):
        return ""
    return str(int(number)) if float(number).is_integer() else repr(float(number))


def as_years(values: pd.Series, *, where: str) -> np.ndarray:
    """Years (N,) int16 of a column of years or of dates; a time with an offset counts for its year in UTC.

    Raises:
        SchemaError: a value is neither.
    """
    import pandas as pd

    if not pd.api.types.is_datetime64_any_dtype(values.dtype):
        numbers = np.asarray(pd.to_numeric(values, errors="coerce"), dtype=np.float64)
        if ((numbers >= 1900) & (numbers <= 2200)).all():
            return numbers.astype(np.int16)
    dates = pd.Series(pd.to_datetime(values.astype(str), errors="coerce", format="mixed", utc=True))
    if dates.isna().any():
        wrong = values.to_numpy()[dates.isna().to_numpy()][0]
        raise SchemaError(
            f"{where}: column {values.name!r} holds {wrong!r}, expected a year or a date",
            hint="name the column of the harvest year, or give the year itself",
        )
    return dates.dt.year.to_numpy().astype(np.int16)
