"""How the container is laid out on disk: its arrays, its attributes, and the digest of its rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr

from cropgen.core.errors import CorruptInputError, SchemaError
from cropgen.series.schema import SCHEMA_VERSION, ParcelSeries

AXES: dict[str, tuple[str, ...]] = {
    "values": ("parcel", "date", "band"), "mask": ("parcel", "date"), "day": ("parcel", "date"),
    "band_mask": ("parcel", "date", "band"), "pixels": ("parcel", "date"),
    "pixel_values": ("parcel", "date", "pixel", "pixel_band"), "pixel_mask": ("parcel", "date", "pixel"),
    "parcel_shape": ("parcel", "feature"),
    "parcel_id": ("parcel",), "year": ("parcel",), "region": ("parcel",), "label": ("parcel",), "lon": ("parcel",),
    "lat": ("parcel",), "clear_dates": ("parcel",),
}  # fmt: skip
_CHUNK_BYTES = 2 << 20
_PIXEL_CHUNK_BYTES = 8 << 20
_INDEX_ROWS = 1 << 16
TEXT = ("parcel_id", "region")
DTYPES: dict[str, str] = {
    "values": "float32", "mask": "bool", "day": "int32", "band_mask": "bool", "pixels": "int32",
    "pixel_values": "int16", "pixel_mask": "bool", "parcel_shape": "float32",
    "parcel_id": "str", "year": "int16", "region": "str", "label": "int32", "lon": "float64", "lat": "float64",
    "clear_dates": "int32",
}  # fmt: skip
PIXEL_SETS = {"pixel_values": "values", "pixel_mask": "mask", "parcel_shape": "shape"}
OPTIONAL = ("band_mask", "pixels", *PIXEL_SETS)
INDEX = ("parcel_id", "year", "region", "label", "lon", "lat", "clear_dates")
_KEYS: dict[str, type] = {
    "bands": list, "legend": dict, "source": dict, "rows": int, "dates": int, "fields": list, "digest": str,
}  # fmt: skip
REMAKE = "make the store again with `cropgen aggregate` or `cropgen import`"


def by_date(name: str) -> bool:
    """Whether an array of the store has dates."""
    return "date" in AXES[name]


def shape_of(name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of an array of the store, from the sizes of its axes."""
    return tuple(sizes[axis] for axis in AXES[name])


def array_of(group: zarr.Group, name: str, path: Path, expected: tuple[int, ...]) -> zarr.Array:
    """An array of the store at `path`, checked to hold its rows and dates.

    Raises:
        CorruptInputError: it is missing, no array, or smaller than `expected`.
    """
    try:
        array = group[name]
    except KeyError as error:
        raise CorruptInputError(f"{path}: array {name} is missing", hint=REMAKE) from error
    except ValueError as error:
        raise CorruptInputError(f"{path}: array {name} cannot be read: {error}", hint=REMAKE) from error
    if not isinstance(array, zarr.Array):
        raise CorruptInputError(f"{path}: {name}: expected an array, got a group", hint=REMAKE)
    if array.ndim != len(expected) or any(has < needs for has, needs in zip(array.shape, expected, strict=True)):
        raise CorruptInputError(f"{path}: array {name}: expected shape {expected}, got {array.shape}", hint=REMAKE)
    return array


def chunks_of(name: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of a chunk: a power of two of parcels, so that one of values holds about 2 MiB and one of pixels 8 MiB."""
    if not by_date(name):
        rows = _INDEX_ROWS
    elif "pixel" in AXES[name]:
        parcel = 2 * sizes["date"] * sizes["pixel"] * sizes["pixel_band"]
        rows = 1 << max(0, (_PIXEL_CHUNK_BYTES // max(parcel, 1)).bit_length() - 1)
    else:
        rows = 1 << max(8, (_CHUNK_BYTES // (4 * sizes["date"] * max(sizes["band"], 1))).bit_length() - 1)
    return (rows, *(max(size, 1) for size in shape_of(name, sizes)[1:]))


def field_of(series: ParcelSeries, name: str) -> np.ndarray | None:
    """The array of a container that is stored under a name; None where the container has none."""
    if name in PIXEL_SETS:
        return None if series.pixel_sets is None else getattr(series.pixel_sets, PIXEL_SETS[name])
    return series.clear_dates.astype(np.int32) if name == "clear_dates" else getattr(series, name)


def read_attributes(path: Path) -> dict[str, Any]:
    """The attributes of a store, checked.

    Raises:
        SchemaError: the folder is not a series store of this version.
        CorruptInputError: its metadata is not JSON.
    """
    metadata = path / "zarr.json"
    if not metadata.is_file():
        raise SchemaError(f"{path} is not a series store: it has no zarr.json", hint=REMAKE)
    try:
        document = json.loads(metadata.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptInputError(f"{metadata} is not JSON: {error}", hint=REMAKE) from error
    attributes = document.get("attributes") if isinstance(document, dict) else None
    if not isinstance(attributes, dict) or "cropgen_series" not in attributes:
        raise SchemaError(f"{path} is a zarr folder but not a series store", hint=REMAKE)
    if attributes["cropgen_series"] != SCHEMA_VERSION:
        raise SchemaError(
            f"{path}: expected series schema {SCHEMA_VERSION}, got {attributes['cropgen_series']}", hint=REMAKE
        )
    for key, kind in _KEYS.items():
        if not isinstance(attributes.get(key), kind):
            raise SchemaError(f"{path}: attribute {key}: expected {kind.__name__}, got {attributes.get(key)!r}")
    return {"crs": None, "pixel_sets": None, "growth": None, **attributes}


def sorted_rows(rows: slice | np.ndarray | None, count: int) -> tuple[slice | np.ndarray, np.ndarray | None]:
    """Rows as an ascending unit slice or ascending unique positions, and how to bring the result into order."""
    if rows is None:
        return slice(0, count), None
    if isinstance(rows, slice):
        start, stop, step = rows.indices(count)
        if step == 1:
            return slice(start, max(start, stop)), None
        rows = np.arange(start, stop, step)
    rows = np.asarray(rows)
    positions = np.flatnonzero(rows) if rows.dtype == bool else rows.astype(np.int64)
    if rows.dtype == bool and len(rows) != count:
        raise IndexError(f"boolean rows: expected {count}, got {len(rows)}")
    if len(positions) and not (-count <= positions.min() and positions.max() < count):
        raise IndexError(f"rows outside 0..{count - 1}")
    unique, inverse = np.unique(positions % count, return_inverse=True)
    if len(unique) and unique[-1] - unique[0] + 1 == len(unique):
        first = int(unique[0])
        return slice(first, first + len(unique)), inverse
    return unique, inverse


def chained_digest(previous: str, fields: dict[str, np.ndarray]) -> str:
    """Hex SHA-256 of the digest of the earlier rows followed by the arrays of a shard."""
    digest = hashlib.sha256(previous.encode())
    for name, content in fields.items():
        if name in TEXT:
            raw = json.dumps(content.tolist()).encode()
        else:
            raw = np.ascontiguousarray(content, dtype=np.dtype(DTYPES[name]).newbyteorder("<")).tobytes()
        digest.update(f"{name}{content.shape}".encode())
        digest.update(raw)
    return digest.hexdigest()
