"""EuroCrops: declared parcels of the European Union under one taxonomy, as layers for `cropgen aggregate`.

Every region and year becomes a GeoParquet layer `<level>/<region>_<year>.parquet` in the coordinate system it was
published in:

    parcel_id       unique; in a stack a parcel keeps it through the years
    year, region    harvest year; region as it is fetched
    crop_code       HCAT code, edition 3; null where there is none, or several
    crop_name       the taxonomy's name of it
    declared        what was declared, in English; `original` in the language of the source, `original_code` its code
    hcat4_code, usage, nuts3, national_id   where they are published

Rows are read, told apart and written in batches. A finished layer is not made again after an interruption.

Reference: EuroCrops: The Largest Harmonized Open Crop Dataset Across the European Union, M. Schneider, T. Schelte,
F. Schmitz, M. Körner, 2023; EuroCrops v2.0, M. Claverie et al., 2026.
"""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from cropgen.core.errors import DataError
from cropgen.core.files import atomic_output, remove, remove_leftovers
from cropgen.core.progress import Reporter, Task
from cropgen.core.recipe import Section
from cropgen.core.tally import Tally
from cropgen.datasets.eurocrops_codes import Declared, NationalCodes, declared_in_v1, remark
from cropgen.datasets.eurocrops_layers import Batch, Layer, open_v1, open_v2, stack_years
from cropgen.datasets.layout import PREPARED, PREPARING
from cropgen.datasets.reader import Ledger, Prepared, Request, record, with_further
from cropgen.series.hcat import tree

_NO_OUTLINE, _NO_CODE = "no outline", "no HCAT code"
_TEXTS = (
    "parcel_id", "region", "crop_code", "crop_name", "declared", "original", "original_code", "hcat4_code", "usage",
    "nuts3", "national_id",
)  # fmt: skip
_SCHEMA = pa.schema(
    [pa.field(name, pa.string()) for name in _TEXTS] + [pa.field("year", pa.int16()), pa.field("geometry", pa.binary())]
)


class EuroCropsOptions(Section):
    """How EuroCrops is read."""

    unlisted: Literal["keep", "drop"] = Field(
        "keep", description="parcels without a single HCAT code: kept without a crop, or left out"
    )


class EuroCropsReader:
    """Reads EuroCrops in its published layouts."""

    Options: ClassVar[type[Section]] = EuroCropsOptions

    def prepare(self, request: Request) -> Prepared:
        """See `cropgen.datasets.reader.Reader`."""
        parts = list(_parts(request))
        if not parts:
            raise DataError("no layer of the selection is there", hint="choose other regions or years")
        ledger = Ledger(request.folder / PREPARING, request.fingerprint)
        level = request.selection.level or "v1"
        paths = [request.folder / level / f"{part.name}.parquet" for part in parts]
        remove(request.folder / PREPARED)
        for part, path in zip(parts, paths, strict=True):
            if part.name not in ledger or not path.is_file():
                path.parent.mkdir(parents=True, exist_ok=True)
                remove_leftovers(path)
                ledger[part.name] = _write(part, path, request.options, request.report)
        made = [ledger[part.name] for part in parts]
        done = Prepared(None, tuple(paths), sum(m["rows"] for m in made), _dropped(made))
        record(request, done, request.folder)
        remove(request.folder / PREPARING)
        return done


@dataclass(frozen=True)
class _Part:
    """One layer to make: its name, and how it is opened and its declarations are understood."""

    region: str
    year: int
    prefix: str
    open: Callable[[], AbstractContextManager[Layer]]
    meaning: Callable[[dict[str, list[str]], int], Declared]

    @property
    def name(self) -> str:
        return f"{self.region}_{self.year}"


def _parts(request: Request) -> Iterator[_Part]:
    """The layers of a selection, in the order of the manifest's files.

    Raises:
        MissingInputError, CorruptInputError, SchemaError: a file is missing or cannot be read.
    """
    level = request.selection.level or "v1"
    for file in request.manifest.files_of(request.selection):
        path, region = request.files / file.path, file.region
        if region is None:
            continue
        if level == "v1" and file.year is not None:
            yield _Part(region, file.year, f"{region}-", _opener(path), _meaning_v1)
            continue
        meaning = _meaning_v2(NationalCodes(path.parent, region))
        if file.year is not None:
            yield _Part(region, file.year, f"{region}-{file.year}-", _opener(path, None), meaning)
            continue
        for year in stack_years(path):
            if year in request.selection.years:
                yield _Part(region, year, f"{region}-", _opener(path, year), meaning)


def _opener(path: Path, *year: int | None) -> Callable[[], AbstractContextManager[Layer]]:
    return (lambda: open_v2(path, year[0])) if year else (lambda: open_v1(path))


def _meaning_v1(text: dict[str, list[str]], row: int) -> Declared:
    blank = [""] * (row + 1)
    return declared_in_v1(*(text.get(k, blank)[row] for k in ("hcat", "hcat_name", "translated", "original")))


def _meaning_v2(codes: NationalCodes) -> Callable[[dict[str, list[str]], int], Declared]:
    known: dict[str, Declared] = {}

    def meaning(text: dict[str, list[str]], row: int) -> Declared:
        code = text["original_code"][row]
        if code not in known:
            known[code] = codes[code]
        return known[code]

    return meaning


@dataclass
class _Fate:
    """What became of the rows of a layer."""

    rows: int = 0
    dropped: dict[str, Tally[str]] = field(default_factory=dict)
    unlisted: Counter[str] = field(default_factory=Counter)
    ambiguous: Counter[str] = field(default_factory=Counter)

    def drop(self, reason: str, parcel: str) -> None:
        self.dropped[reason] = with_further(self.dropped.get(reason), 1, [parcel])


def _write(part: _Part, path: Path, options: EuroCropsOptions, report: Reporter) -> dict[str, Any]:
    """Make one layer and say what became of its rows."""
    told = _Fate()
    with part.open() as layer, atomic_output(path) as unfinished, contextlib.ExitStack() as stack:
        schema = _SCHEMA.with_metadata({"geo": json.dumps(_geo(layer))})
        writer = stack.enter_context(pq.ParquetWriter(unfinished, schema, compression="zstd"))
        task: Task = stack.enter_context(report.task(f"preparing {part.name}", layer.rows))
        for batch in layer.batches:
            writer.write_batch(_standard(part, batch, schema, options, told))
            task.advance(len(batch.wkb))
    for counts, what in (
        (told.unlisted, "have no HCAT code"),
        (told.ambiguous, "have an ambiguous code"),
    ):
        if counts:
            report.warn(remark(part.name, counts, what))
    dropped = {reason: [d.count, d.first] for reason, d in told.dropped.items()}
    return {"rows": told.rows, "dropped": dropped}


def _standard(part: _Part, batch: Batch, schema: pa.Schema, options: EuroCropsOptions, told: _Fate) -> pa.RecordBatch:
    """The rows of a batch that are kept, under the standard columns."""
    columns: dict[str, list[Any]] = {name: [] for name in _TEXTS}
    kept: list[int] = []
    blank = [""] * len(batch.wkb)
    for row, there in enumerate(batch.wkb.is_valid().to_pylist()):
        parcel = part.prefix + batch.text["id"][row]
        meaning = part.meaning(batch.text, row)
        if not there:
            told.drop(_NO_OUTLINE, parcel)
            continue
        if not meaning.hcat:
            (told.ambiguous if meaning.ambiguous else told.unlisted)[meaning.original_code or meaning.name] += 1
            if options.unlisted == "drop":
                told.drop(_NO_CODE, parcel)
                continue
        kept.append(row)
        name = tree()[meaning.hcat].name.replace("_", " ") if meaning.hcat else ""
        values = (
            parcel, part.region, meaning.hcat, name, meaning.name, meaning.original, meaning.original_code,
            meaning.hcat4, meaning.usage, batch.text.get("nuts3", blank)[row],
            batch.text.get("national_id", blank)[row],
        )  # fmt: skip
        for column, value in zip(_TEXTS, values, strict=True):
            columns[column].append(value or None)
    told.rows += len(kept)
    year = pa.array([part.year] * len(kept), pa.int16())
    wkb = pc.cast(batch.wkb.take(pa.array(kept, pa.int64())), pa.binary())
    arrays = [pa.array(columns[name], pa.string()) for name in _TEXTS] + [year, wkb]
    return pa.record_batch(arrays, schema=schema)


def _geo(layer: Layer) -> dict[str, Any]:
    """The metadata that makes a Parquet file GeoParquet 1.1."""
    column = {"encoding": "WKB", "geometry_types": [], "crs": layer.crs.to_json_dict()}
    return {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": column}}


def _dropped(made: list[dict[str, Any]]) -> dict[str, Tally[str]]:
    found: dict[str, Tally[str]] = {}
    for layer in made:
        for reason, (count, first) in layer["dropped"].items():
            found[reason] = with_further(found.get(reason), count, first)
    return found
