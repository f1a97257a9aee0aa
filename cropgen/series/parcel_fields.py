"""The attributes of a parcel file, read a stretch of rows at a time: ids go to disk, all else is held once per kind.

A kind is what a parcel is apart from its id: one combination of the values in the columns of crop, region and year.
There are few of them, so that what a column holds as a whole (is it empty, in which encoding is it, which crops have no
HCAT code) is told from the kinds and how many parcels are of each.

    <name>.ids    the ids one after another, UTF-8
    <name>.npy    ROW of every parcel: where its id lies, and its kind
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyogrio.raw import open_arrow

from cropgen.core.growing import GrowingArray
from cropgen.series.columns import column, factorized
from cropgen.series.parcel_columns import Roles
from cropgen.series.parcel_files import (
    EncodingEvidence,
    FileLayer,
    decode_again,
    encoding_remark,
    parquet_source,
    read_fields,
    readable,
)
from cropgen.series.parcel_table import parcel_ids

ROW = np.dtype([("id", "<i8"), ("length", "<i4"), ("kind", "<i4")])
"""An id begins at byte `id` and has `length` bytes."""
_BUFFER = 1 << 20
_Encodings = dict[str, tuple[str, str]]


@dataclass(frozen=True)
class Fields:
    """What the columns of a file hold.

    Arguments:
        kinds: the columns, a row per kind, in the order in which kinds are met.
        parcels: (K,) how many parcels are of each.
        remarks: one line on each column put right.
    """

    kinds: pd.DataFrame
    parcels: np.ndarray
    remarks: list[str]


def spool_fields(
    layer: FileLayer, roles: Roles, ids: BinaryIO, rows: Path, *, encoding: str | None, rows_of: str, size: int
) -> Fields:
    """Read the columns of a layer and write the ids.

    What an encoding is stated for by the user, or what is not in the encoding that the file states, is read at once.

    Arguments:
        ids: the ids are added here.
        rows: `.npy` file for ROW.
        rows_of: put before row numbers that serve as ids.
        size: rows held at a time.

    Raises:
        DataError: the columns cannot be read, or hold lists.
    """
    writer, begin = _Writer(roles, ids, rows, rows_of, str(layer.file.path)), ids.tell()
    if not roles.needed:
        count = max(layer.features, 0)
        return writer.write(pd.DataFrame(index=pd.RangeIndex(a, min(a + size, count))) for a in range(0, count, size))
    try:
        if encoding is not None:
            raise UnicodeError
        found = writer.write(_streamed(layer, roles.needed, size))
    except UnicodeError:
        ids.seek(begin)
        ids.truncate()
        frame, remarks = read_fields(layer, roles.needed, geometry=False, encoding=encoding)
        whole = writer.write([frame])
        return Fields(whole.kinds, whole.parcels, remarks)
    if layer.file.is_parquet:
        return found
    wrong = writer.encodings
    if wrong:
        ids.seek(begin)
        ids.truncate()
        writer.write(_streamed(layer, roles.needed, size), wrong)
    return Fields(found.kinds, found.parcels, _put_right(layer, found.kinds, wrong))


def _put_right(layer: FileLayer, kinds: pd.DataFrame, wrong: _Encodings) -> list[str]:
    """One line on each column whose text was decoded by the wrong table, in the order of the layer's columns; that of
    the kinds is put right."""
    path = layer.file.path
    said = {name: encoding_remark(path, name, right) for name, (_, right) in wrong.items()}
    for name in kinds.columns:
        one = pd.DataFrame({name: kinds[name]})
        for line in decode_again(one, [name], path):
            said[name] = line
        kinds[name] = one[name]
    return [said[name] for name in layer.fields if name in said]


def _streamed(layer: FileLayer, columns: Sequence[str], size: int) -> Iterator[pd.DataFrame]:
    """Columns of a layer, so many rows at a time.

    Raises:
        CorruptInputError: they cannot be read.
        UnicodeError: text is not in the encoding that the file states.
    """
    batches = _of_parquet(layer, columns, size) if layer.file.is_parquet else ogr_batches(layer, columns, size)
    while True:
        with readable(layer.file.path):
            batch = next(batches, None)
        if batch is None:
            return
        if not is_text(batch):
            raise UnicodeError
        frame = pa.Table.from_batches([batch]).to_pandas(ignore_metadata=True, integer_object_nulls=True)
        yield frame[list(columns)]


def _of_parquet(layer: FileLayer, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
    with parquet_source(layer.file) as source:
        file = pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER)
        yield from file.iter_batches(batch_size=size, columns=list(columns))


def ogr_batches(layer: FileLayer, columns: Sequence[str], size: int) -> Iterator[pa.RecordBatch]:
    """Columns of a layer as GDAL reads them, so many rows at a time."""
    options: dict[str, Any] = {"layer": layer.name, "columns": list(columns), "read_geometry": False}
    options |= {"batch_size": size, "use_pyarrow": True, **layer.file.options}
    with open_arrow(layer.file.address, **options) as (_, stream):
        yield from stream


def is_text(content: pa.RecordBatch | pa.Array) -> bool:
    """Whether all text is UTF-8."""
    try:
        content.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


class _Writer:
    """Writes the ids and kinds of rows that come in stretches."""

    def __init__(self, roles: Roles, ids: BinaryIO, rows: Path, rows_of: str, where: str) -> None:
        self._parts = roles.id
        self._kind_columns = [name for name in roles.needed if name not in roles.id or name in _besides(roles)]
        self._ids = ids
        self._rows = rows
        self._rows_of = rows_of
        self._where = where
        self._evidence = {name: EncodingEvidence() for name in self._parts}

    @property
    def encodings(self) -> _Encodings:
        """Columns of ids whose text was decoded by the wrong table: that one and the right one."""
        found = {name: evidence.verdict for name, evidence in self._evidence.items()}
        return {name: verdict for name, verdict in found.items() if verdict is not None}

    def write(self, frames: Iterable[pd.DataFrame], wrong: _Encodings | None = None) -> Fields:
        """Write all rows anew.

        Arguments:
            wrong: what to put right in the columns of ids.
        """
        kinds = _Kinds(self._kind_columns, self._where)
        with GrowingArray(self._rows, ROW) as rows:
            for frame in frames:
                part = np.zeros(len(frame), ROW)
                part["kind"] = kinds.add(frame)
                for name, (decoded, right) in (wrong or {}).items():
                    frame[name] = [
                        t if not isinstance(t, str) else t.encode(decoded).decode(right) for t in frame[name]
                    ]
                self._write_ids(frame, len(rows), part)
                rows.append(part)
        return Fields(kinds.frame(), kinds.parcels(), [])

    def _write_ids(self, frame: pd.DataFrame, first: int, part: np.ndarray) -> None:
        for name in self._parts:
            if isinstance(frame[name].dtype, pd.StringDtype):
                self._evidence[name].add(_foreign(column(frame, name)))
        texts = _texts(frame, self._parts, self._rows_of, first)
        offset = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
        part["length"] = np.diff(offset)
        part["id"] = self._ids.tell() + offset[:-1] - offset[0]
        data = texts.buffers()[2]
        if data is not None:
            self._ids.write(memoryview(data)[offset[0] : offset[-1]])


def _besides(roles: Roles) -> set[str | None]:
    """Columns of other roles than the id."""
    return {roles.label, roles.name, roles.region, roles.year, *roles.others.get("label", ())}


def _foreign(texts: pd.Series) -> list[str]:
    """The texts that hold other letters than those of ASCII."""
    held = pa.array(texts, pa.large_string(), from_pandas=True)
    return held.filter(pc.call_function("invert", [pc.call_function("string_is_ascii", [held])])).to_pylist()


def _texts(frame: pd.DataFrame, parts: tuple[str, ...], rows_of: str, first: int) -> Any:
    """Ids as an Arrow array of large strings without nulls, as `parcel_ids` writes them."""
    if len(parts) == 1 and len(frame):
        held = column(frame, parts[0])
        if isinstance(held.dtype, pd.StringDtype):
            texts = pa.array(held, pa.large_string(), from_pandas=True).fill_null("")
            return pc.call_function("utf8_trim_whitespace", [texts])
        if pd.api.types.is_integer_dtype(held.dtype) and not held.hasnans:
            return pa.array(held.to_numpy()).cast(pa.large_string())
    if not parts and not rows_of:
        return pa.array(np.arange(first, first + len(frame))).cast(pa.large_string())
    ids = parcel_ids(frame, parts, rows_of=rows_of, first=first)
    return pa.array(ids, pa.large_string())


class _Kinds:
    """The distinct combinations of some columns, numbered as they are met."""

    def __init__(self, columns: Sequence[str], where: str) -> None:
        self._columns = list(columns)
        self._where = where
        self._known: dict[tuple[object, ...], int] = {}
        self._parcels: list[int] = []

    def add(self, frame: pd.DataFrame) -> np.ndarray:
        """(N,) the kind of each row."""
        joined = np.zeros(len(frame), np.int64)
        held = []
        for name in self._columns:
            place, distinct = factorized(column(frame, name), where=self._where)
            held.append((place, [*distinct.tolist(), None]))
            joined = np.unique(joined, return_inverse=True)[1] * (len(distinct) + 1) + place + 1
        _, first, inverse, count = np.unique(joined, return_index=True, return_inverse=True, return_counts=True)
        number = np.zeros(len(first), np.int64)
        for j in np.argsort(first).tolist():
            key = tuple(distinct[place[first[j]]] for place, distinct in held)
            number[j] = self._known.setdefault(key, len(self._known))
            self._parcels += [0] * (len(self._known) - len(self._parcels))
            self._parcels[number[j]] += int(count[j])
        return number[inverse]

    def frame(self) -> pd.DataFrame:
        """The columns, a row per kind."""
        values = list(zip(*self._known, strict=True)) if self._known else [()] * len(self._columns)
        held = {name: pd.Series(list(each)) for name, each in zip(self._columns, values, strict=True)}
        return pd.DataFrame(held, index=pd.RangeIndex(len(self._known)))

    def parcels(self) -> np.ndarray:
        """(K,) rows of each kind."""
        return np.array(self._parcels, np.int64)
