"""The polygons of a parcel file a few thousand at a time, in the order of its rows, without their attributes.

OGR formats    one stream of well-known binary; layers with arcs, measures or collections, which OGR has to put into
               line segments and coordinates first, in stretches of rows
GeoParquet     row by row as it is decoded; polygons in another encoding than well-known binary are read at once
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any, NamedTuple

import geopandas as gpd
import numpy as np
import pyarrow.parquet as pq
import pyogrio
import shapely
from pyogrio.raw import open_arrow

from cropgen.series.parcel_files import FileLayer, main_geometry, parquet_source, readable
from cropgen.series.polygon_file import Box

_SIMPLE = 6
_THOUSANDS, _WITH_Z = 1000, 1
_BUFFER = 1 << 20


class Place(NamedTuple):
    """What a layer says of where it lies: its coordinate system, and west, south, east and north of all its geometries;
    None each where it says nothing."""

    system: Any
    box: Box | None


def stated_place(layer: FileLayer) -> Place:
    """Where a layer says that it lies; a box that only a look at all geometries would tell is not stated.

    Raises:
        CorruptInputError: it cannot be read.
    """
    file = layer.file
    with readable(file.path):
        if not file.is_parquet:
            said = pyogrio.read_info(file.address, layer=layer.name, **file.options)
            return Place(said["crs"], said["total_bounds"])
        bare: Any = io.BytesIO()
        with parquet_source(file) as source:
            schema = pq.read_schema(source)
        pq.write_table(schema.empty_table(), bare)
        _, facts = main_geometry(schema)
        box = facts.get("bbox") or ()
        return Place(gpd.read_parquet(bare).crs, (*box[:2], *box[len(box) // 2 :][:2]) if len(box) in (4, 6) else None)


def polygon_batches(layer: FileLayer, rows: int) -> Iterator[np.ndarray]:
    """The geometries (R,) of a layer, R at most `rows`; None where a row has none.

    Raises:
        CorruptInputError: it cannot be read.
    """
    parts = _of_parquet(layer, rows) if layer.file.is_parquet else _of_ogr(layer, rows)
    while True:
        with readable(layer.file.path):
            part = next(parts, None)
        if part is None:
            return
        yield part


def _of_ogr(layer: FileLayer, rows: int) -> Iterator[np.ndarray]:
    file, done = layer.file, 0
    options: dict[str, Any] = {"layer": layer.name, "columns": [], **file.options}
    with open_arrow(file.address, batch_size=rows, use_pyarrow=True, **options) as (facts, stream):
        place = facts["geometry_name"] or "wkb_geometry"
        for batch in stream:
            binary = batch.column(place).to_numpy(zero_copy_only=False)
            if not _is_plain(binary):
                break
            yield shapely.from_wkb(binary)
            done += len(binary)
        else:
            return
    while True:
        frame = pyogrio.read_dataframe(file.address, skip_features=done, max_features=rows, **options)
        if not len(frame):
            return
        yield frame.geometry.to_numpy()
        done += len(frame)


def _is_plain(binary: np.ndarray) -> bool:
    """Whether well-known binary holds only points, lines and polygons, in one or many parts, without measures."""
    for order in (b"\x00", b"\x01"):
        heads = b"".join(one[1:5] for one in binary if one is not None and one[:1] == order)
        kind = np.frombuffer(heads, ">u4" if order == b"\x00" else "<u4")
        if (kind % _THOUSANDS > _SIMPLE).any() or (kind // _THOUSANDS > _WITH_Z).any():
            return False
    return True


def _of_parquet(layer: FileLayer, rows: int) -> Iterator[np.ndarray]:
    with parquet_source(layer.file) as source:
        main, facts = main_geometry(pq.read_schema(source))
        if facts["encoding"] != "WKB":
            shapes = gpd.read_parquet(source, columns=[main]).geometry.to_numpy()
            yield from (shapes[first : first + rows] for first in range(0, len(shapes), rows))
            return
        file = pq.ParquetFile(source, pre_buffer=False, buffer_size=_BUFFER)
        for batch in file.iter_batches(batch_size=rows, columns=[main]):
            yield shapely.from_wkb(batch.column(0).to_numpy(zero_copy_only=False))
