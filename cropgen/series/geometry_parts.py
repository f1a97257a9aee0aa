"""The geometry beside the arrays of a store: GeoParquet parts, one per shard, named by their first row."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cropgen.core.errors import CorruptInputError
from cropgen.core.files import atomic_output, remove
from cropgen.series.layout import REMAKE

if TYPE_CHECKING:
    import geopandas

GEOMETRY = "parcels.parquet"


def write_part(store: Path, first: int, geometry: geopandas.GeoSeries, parcel_id: np.ndarray, year: np.ndarray) -> None:
    """Write the geometry of a shard that begins at row `first`; what an interrupted append left there goes."""
    import geopandas

    for row, path in _parts(store).items():
        if row >= first:
            remove(path)
    frame = geopandas.GeoDataFrame(
        {"parcel_id": parcel_id, "year": year}, geometry=geometry.to_numpy(), crs=geometry.crs
    )  # fmt: skip
    with atomic_output(store / GEOMETRY / f"{first:010d}.parquet") as part:
        frame.to_parquet(part, index=False, schema_version="1.1.0")


def read_parts(store: Path, rows: int) -> dict[int, geopandas.GeoDataFrame]:
    """The parts among the committed rows, by first row, ascending.

    Raises:
        CorruptInputError: a part cannot be read.
    """
    parts = {first: path for first, path in _parts(store).items() if first < rows}
    return {first: _read(path) for first, path in sorted(parts.items())}


def read_rows(store: Path, rows: slice) -> geopandas.GeoSeries | None:
    """The geometry of consecutive rows, null where a shard had none; only the parts that hold them are read.

    Returns:
        None when none of these parts has geometry.

    Raises:
        CorruptInputError: a part cannot be read.
    """
    import geopandas
    import pandas

    parts = sorted(_parts(store).items())
    ends = [first for first, _ in parts[1:]] + [rows.stop]
    found = []
    for (first, path), end in zip(parts, ends, strict=False):
        if first >= rows.stop or end <= rows.start:
            continue
        frame = _read(path)
        frame.index = pandas.RangeIndex(first, first + len(frame))
        found.append(frame.geometry.loc[rows.start : rows.stop - 1])
    if not any(len(part) for part in found):
        return None
    shapes = pandas.concat(found).reindex(pandas.RangeIndex(rows.start, rows.stop))
    return geopandas.GeoSeries(shapes.to_numpy(), crs=found[0].crs)


def same_crs(recorded: str, other: Any) -> bool:
    """Whether two coordinate systems are one."""
    import pyproj

    return other is not None and pyproj.CRS(recorded) == pyproj.CRS(other)


def _parts(store: Path) -> dict[int, Path]:
    return {int(path.stem): path for path in (store / GEOMETRY).glob("[0-9]*.parquet")}


def _read(path: Path) -> geopandas.GeoDataFrame:
    import geopandas

    try:
        return geopandas.read_parquet(path)
    except (OSError, ValueError) as error:
        raise CorruptInputError(f"{path} cannot be read: {error}", hint=REMAKE) from error
