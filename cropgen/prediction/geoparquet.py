"""Predictions as GeoParquet 1.1: the columns of the layer, and a probability column per class."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pyproj

_GROUP_ROWS = 65_536


def write_geoparquet(
    path: Path,
    schema: pa.Schema,
    batches: Iterator[pa.RecordBatch],
    *,
    geometry: str,
    crs: str | None,
    metadata: dict[str, str],
) -> None:
    """Stream batches into one file.

    Arguments:
        schema: of the batches, the geometry (WKB) included.
        geometry: name of the geometry column.
        crs: WKT or authority code; None is written as unknown.
        metadata: CROPGEN_… items of the file.

    Raises:
        OSError: the file cannot be written.
    """
    column = {"encoding": "WKB", "geometry_types": [], "crs": None if crs is None else pyproj.CRS(crs).to_json_dict()}
    geo = {"version": "1.1.0", "primary_column": geometry, "columns": {geometry: column}}
    described = schema.with_metadata({"geo": json.dumps(geo), **metadata})
    described = pa.schema([field.remove_metadata() for field in described], metadata=described.metadata)
    waiting: list[pa.RecordBatch] = []
    with pq.ParquetWriter(path, described, compression="zstd") as writer:
        for batch in batches:
            waiting.append(batch)
            if sum(b.num_rows for b in waiting) >= _GROUP_ROWS:
                writer.write_table(_table(waiting, described))
                waiting = []
        if waiting:
            writer.write_table(_table(waiting, described))


def _table(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches([pa.RecordBatch.from_arrays(b.columns, schema=schema) for b in batches])
