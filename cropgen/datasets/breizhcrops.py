"""BreizhCrops: parcels of Brittany with every Sentinel-2 observation of 2017 and 2018.

Files, relative to the folder of the data set:

    <year>/<level>/<region>.csv      index: CODE_CULTU, path, id, sequencelength; it is read, never rewritten
    <year>/<level>/<region>.h5       one array per parcel (2017); or <region>.zip, or <region>/csv/: one csv per parcel
    <year>/<region>.shp              outlines, where they were fetched
    classmapping.csv, classmapping_icml.csv, codes.csv

Every observation is kept with its date. One is clear where at most `max_flagged` of the parcel is flagged; what is
not clear is masked. Series of 2018 exist as csv files only.

Reference: BreizhCrops: A Time Series Dataset for Crop Type Mapping, M. Rußwurm, C. Pelletier, M. Zollner, S. Lefèvre,
M. Körner, 2020.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import geopandas as gpd
import numpy as np
import pandas as pd
from pydantic import Field

from cropgen.core.errors import CorruptInputError, DataError, MissingInputError, SchemaError
from cropgen.core.recipe import Section
from cropgen.datasets.breizhcrops_legend import Grouping, read_legend
from cropgen.datasets.breizhcrops_series import LEVELS, Observations, SeriesFiles, open_series
from cropgen.datasets.reader import Prepared, Request, Shard, StoreSpec, fill_store
from cropgen.series.geometry import interior_lonlat, read_layer
from cropgen.series.legend import UNKNOWN
from cropgen.series.schema import ParcelSeries

_REFLECTANCE = np.float32(1e-4)
_ROWS = 2048
_COLUMNS = {"CODE_CULTU": "code", "path": "path", "id": "id"}
_OUTLINE_ID = ("ID", "ID_PARCEL")


class BreizhCropsOptions(Section):
    """How BreizhCrops is read."""

    classes: Grouping = Field("isprs", description="isprs: nine classes; workshop: thirteen; register: every crop code")
    unlisted: Literal["drop", "keep"] = Field("drop", description="parcels of no class: left out, or kept unlabelled")
    max_flagged: float = Field(
        0.05, ge=0, description="share of a parcel flagged as cloud, edge or saturated at a clear date; inf: all are"
    )


class BreizhCropsReader:
    """Reads BreizhCrops in its published layout."""

    Options: ClassVar[type[Section]] = BreizhCropsOptions

    def prepare(self, request: Request) -> Prepared:
        """See `cropgen.datasets.reader.Reader`."""
        level = request.selection.level or "L1C"
        legend, position = read_legend(request.files, request.options.classes)
        source = _Source(request.files, level, position, request.options)
        parts = [p for p in source.parts(request.selection.years, request.selection.regions) if p.rows]
        if not parts:
            raise DataError("no parcel of the selection has both a series and a class", hint="choose other regions")
        spec = StoreSpec(
            bands=LEVELS[level].bands,
            legend=legend,
            source={
                "level": level, "reflectance": {"L1C": "top of atmosphere", "L2A": "surface"}[level],
                "clear": f"at most {request.options.max_flagged:g} of the parcel flagged by "
                + ", ".join(LEVELS[level].flags),
            },
            rows=sum(p.rows for p in parts),
        )  # fmt: skip
        return fill_store(request, spec, lambda begin: source.shards(parts, begin))


@dataclass(frozen=True)
class _Part:
    year: int
    region: str
    rows: int

    @property
    def shards(self) -> int:
        return -(-self.rows // _ROWS)


@dataclass(frozen=True)
class _Index:
    """What the index of a region says of the parcels that are read: id, path and class, and who is left out."""

    id: np.ndarray
    path: np.ndarray
    label: np.ndarray
    dropped: Mapping[str, list[str]]


@dataclass(frozen=True)
class _Outlines:
    """Outlines of a region: ids (M,), shapes (M + 1,) whose last is None, coordinate system."""

    ids: pd.Index
    shapes: np.ndarray
    crs: Any

    def of(self, ids: np.ndarray) -> gpd.GeoSeries:
        """The outlines of some parcels, None where there is none."""
        return gpd.GeoSeries(self.shapes[self.ids.get_indexer(pd.Index(ids))], crs=self.crs)


@dataclass(frozen=True)
class _Source:
    files: Path
    level: str
    position: Mapping[str, int]
    options: BreizhCropsOptions

    def parts(self, years: tuple[int, ...], regions: tuple[str, ...]) -> Iterator[_Part]:
        """Year by year the regions that were fetched; at least one region of every year is there."""
        for year in years:
            found = [r for r in regions if self._index_file(year, r).is_file()]
            if not found:
                raise MissingInputError(
                    f"index not found: {self._index_file(year, regions[0])}",
                    hint=f"fetch {year} {self.level} again, or choose another year",
                )
            for region in found:
                yield _Part(year, region, len(self._index(year, region).id))

    def shards(self, parts: list[_Part], begin: int) -> Iterator[Shard]:
        """Shards of every part in turn, those before `begin` skipped without being read."""
        first = 0
        for part in parts:
            if first + part.shards > begin:
                yield from self._part_shards(part, max(begin - first, 0))
            first += part.shards

    def _part_shards(self, part: _Part, begin: int) -> Iterator[Shard]:
        index = self._index(part.year, part.region)
        outlines = self._outlines(part)
        with open_series(self._folder(part.year), part.region, self.level) as series:
            for number in range(begin, part.shards):
                rows = slice(number * _ROWS, (number + 1) * _ROWS)
                yield self._shard(part, index, rows, series, outlines, index.dropped if number == 0 else {})

    def _shard(
        self, part: _Part, index: _Index, rows: slice, series: SeriesFiles, outlines: _Outlines | None,
        dropped: Mapping[str, list[str]],
    ) -> Shard:  # fmt: skip
        read = series.read(index.path[rows].tolist())
        ids, label = index.id[rows], index.label[rows]
        there = read.length > 0
        lost = {"no series in the file": ids[~there].tolist()} if not there.all() else {}
        ids, label = ids[there], label[there]
        geometry = None if outlines is None else outlines.of(ids)
        lon, lat = (None, None) if geometry is None else interior_lonlat(geometry)
        values, mask, day = padded(read, self.options.max_flagged)
        built = ParcelSeries.build(
            bands=LEVELS[self.level].bands, values=values, mask=mask, day=day, parcel_id=ids, year=part.year,
            region=part.region, label=label, lon=lon, lat=lat,
        )  # fmt: skip
        return Shard(built, geometry, {**dropped, **lost})

    def _folder(self, year: int) -> Path:
        return self.files / str(year) / self.level

    def _index_file(self, year: int, region: str) -> Path:
        return self._folder(year) / f"{region}.csv"

    def _index(self, year: int, region: str) -> _Index:
        """The index of a region.

        Raises:
            CorruptInputError, SchemaError: it cannot be read, or lacks a column.
        """
        path = self._index_file(year, region)
        try:
            table = pd.read_csv(path, dtype=str, keep_default_na=False)
        except (ValueError, OSError) as error:
            raise CorruptInputError(f"{path} cannot be read: {error}", hint="fetch it again") from error
        if missing := [c for c in (*_COLUMNS, "sequencelength") if c not in table]:
            raise SchemaError(
                f"{path}: column {missing[0]} missing; it has {', '.join(table.columns)}", hint="fetch it again"
            )
        empty = table["sequencelength"].to_numpy(float) <= 0
        label = np.asarray([self.position.get(code, UNKNOWN) for code in table["CODE_CULTU"].tolist()], np.int32)
        unlisted = (label == UNKNOWN) & ~empty & (self.options.unlisted == "drop")
        dropped = {"no observation": empty, "crop outside the legend": unlisted}
        ids = table["id"].to_numpy(str)
        keep = ~empty & ~unlisted
        return _Index(
            ids[keep], table["path"].to_numpy(str)[keep], label[keep],
            {reason: ids[who].tolist() for reason, who in dropped.items() if who.any()},
        )  # fmt: skip

    def _outlines(self, part: _Part) -> _Outlines | None:
        """Outlines by parcel id, or None where they were not fetched."""
        path = self.files / str(part.year) / f"{part.region}.shp"
        if not path.is_file():
            return None
        layer = read_layer(path)
        column = next((c for c in _OUTLINE_ID if c in layer), None)
        if column is None:
            raise SchemaError(f"{path}: no column {' or '.join(_OUTLINE_ID)}", hint="fetch the outlines again")
        ids, first = np.unique(layer[column].to_numpy(str), return_index=True)
        return _Outlines(pd.Index(ids), np.concatenate([layer.geometry.to_numpy()[first], np.full(1, None)]), layer.crs)


def padded(read: Observations, max_flagged: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Observations of the N parcels that have any as reflectance (N, T, C) float32, mask (N, T) and day (N, T) int32.

    Padding is at the end, masked, and repeats the last day.
    """
    length = read.length[read.length > 0]
    last = np.cumsum(length) - 1
    row = np.repeat(np.arange(len(length)), length)
    slot = np.arange(len(read.day)) - np.repeat(last + 1 - length, length)
    shape = (len(length), int(length.max(initial=0)))
    values = np.zeros((*shape, read.values.shape[1]), np.float32)
    values[row, slot] = read.values.astype(np.float32) * _REFLECTANCE
    mask = np.zeros(shape, bool)
    mask[row, slot] = read.flagged <= max_flagged
    day = np.repeat(read.day[last].astype(np.int32)[:, None], shape[1], axis=1)
    day[row, slot] = read.day
    return values, mask, day
