"""Tables in, chunk by chunk: csv (also gz and other compressions), parquet, geoparquet, xlsx."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cropgen.core.errors import CorruptInputError, DataError, SchemaError, UsageError
from cropgen.core.files import require_input

_PARQUET = (".parquet", ".geoparquet", ".pq")
_EXCEL = (".xlsx", ".xlsm")
_CSV = (".csv", ".tsv", ".txt")
_COMPRESSED = (".gz", ".bz2", ".xz", ".zst", ".zip")
_CHUNK_ROWS = 200_000
_NO_VALUE = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
]  # fmt: skip
_WHOLE = re.compile(r"^(-?\d+)\.0+$")


@dataclass(frozen=True)
class Table:
    """A table on disk.

    Arguments:
        path: the file.
        columns: names of its columns.
        sheet: sheet of an xlsx file.
        separator: of a csv file.
    """

    path: Path
    columns: tuple[str, ...]
    sheet: str | None = None
    separator: str = ","

    def chunks(
        self, columns: Sequence[str], rows: int = _CHUNK_ROWS, *, text: Collection[str] = ()
    ) -> Iterator[pd.DataFrame]:
        """The named columns in runs of at most `rows` rows, indexed by row number.

        Arguments:
            text: columns of a csv file that are read as they are written: 0101 stays 0101, NA stays NA, and only empty
                cells are missing. Whole numbers that an export wrote with a decimal point lose it. Of an xlsx file
                they keep words such as NA too, of a parquet file all digits of whole numbers beside missing ones.

        Raises:
            CorruptInputError: the file cannot be read to its end.
        """
        try:
            yield from self._read(list(columns), rows, text)
        except (OSError, EOFError, ValueError, pa.ArrowException) as error:
            raise _corrupt(self.path, error) from error

    def _read(self, columns: list[str], rows: int, text: Collection[str]) -> Iterator[pd.DataFrame]:
        kind = _kind(self.path)
        if kind == "csv":
            exact = [name for name in columns if name in text]
            with pd.read_csv(
                self.path, sep=self.separator, usecols=columns, chunksize=rows, dtype_backend="numpy_nullable",
                dtype=dict.fromkeys(exact, "string"), keep_default_na=False, na_values=_missing(columns, text),
            ) as reader:  # fmt: skip
                for frame in reader:
                    plain = {name: frame[name].str.replace(_WHOLE, r"\1", regex=True) for name in exact}
                    yield frame.assign(**plain)
        elif kind == "excel":
            with pd.ExcelFile(self.path) as book:
                header = pd.read_excel(book, sheet_name=self.sheet or 0, nrows=0).columns
                missing = _missing(header, text)
                frame = pd.read_excel(book, sheet_name=self.sheet or 0, keep_default_na=False, na_values=missing)
            yield frame.rename(columns=str).reindex(columns=columns)
        else:
            first = 0
            for batch in pq.ParquetFile(self.path).iter_batches(rows, columns=columns):
                table = pa.Table.from_batches([batch]).replace_schema_metadata(None)
                frame = table.to_pandas()
                whole = [n for n in columns if n in text and pa.types.is_integer(table.schema.field(n).type)]
                frame = frame.assign(**{n: table.column(n).to_pandas(integer_object_nulls=True) for n in whole})
                frame.index = pd.RangeIndex(first, first + len(frame))
                first += len(frame)
                yield frame


def _missing(columns: Iterable[Hashable], text: Collection[str]) -> dict[Hashable, list[str]]:
    """Column → what means that a value is missing: an empty cell, and words for it where the column is no text."""
    return {name: [""] if str(name) in text else _NO_VALUE for name in columns}


def open_table(path: Path, sheet: str | None = None) -> Table:
    """Find out what a file is and read the names of its columns.

    Raises:
        MissingInputError: it is not there.
        UsageError: it is no table of a known kind.
        CorruptInputError: it cannot be read.
        DataError: it is empty.
    """
    require_input(path, "table")
    kind = _kind(path)
    try:
        if kind == "parquet":
            return Table(path, tuple(pq.read_schema(path).names))
        if kind == "excel":
            return Table(path, _excel_columns(path, sheet), sheet)
        separator = _separator(path)
        header = pd.read_csv(path, sep=separator, nrows=1)
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path} is empty", hint="check the export") from error
    except (OSError, EOFError, ValueError, KeyError, pa.ArrowException) as error:
        raise _corrupt(path, error) from error
    if header.empty:
        raise DataError(f"{path} holds no row", hint="check the export")
    return Table(path, tuple(str(c) for c in header.columns), separator=separator)


def _excel_columns(path: Path, sheet: str | None) -> tuple[str, ...]:
    with pd.ExcelFile(path) as book:
        if sheet is not None and sheet not in book.sheet_names:
            raise SchemaError(
                f"{path} has no sheet {sheet!r}; found {', '.join(map(str, book.sheet_names))}",
                hint="name one of these",
            )
        header = pd.read_excel(book, sheet_name=sheet or 0, nrows=1)
    if header.empty:
        raise DataError(f"{path} holds no row", hint="check the export, or name another sheet")
    return tuple(str(c) for c in header.columns)


def _kind(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    for kind, known in (("parquet", _PARQUET), ("excel", _EXCEL), ("csv", _CSV)):
        if last in known:
            return kind
    raise UsageError(
        f"{path.name} is not a table cropgen reads", hint=f"expected {', '.join((*_CSV, *_PARQUET, *_EXCEL))}"
    )


def _separator(path: Path) -> str:
    first = pd.read_csv(path, sep="\x1f", header=None, nrows=1, dtype=str, quoting=csv.QUOTE_NONE, engine="python")
    sample = str(first.iat[0, 0])
    try:
        return csv.Sniffer().sniff(sample, delimiters=",;\t|").delimiter
    except csv.Error:
        return ","


def _corrupt(path: Path, error: Exception) -> CorruptInputError:
    detail = str(error).splitlines()[0] if str(error) else type(error).__name__
    hint = "save it as UTF-8" if isinstance(error, UnicodeDecodeError) else "export or fetch the file again"
    return CorruptInputError(f"cannot read the table {path}: {detail}", hint=hint)
