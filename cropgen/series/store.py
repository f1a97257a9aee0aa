"""The container on disk: a zarr v3 group that grows in shards, with the parcels' geometry beside the arrays.

    series.zarr/
      zarr.json            schema number, bands, legend, source, and the committed extent: rows, dates, growth, fields
      values/ mask/ day/   (parcel, date[, band]) arrays, chunked by parcels; band_mask/ and pixels/ where known
      pixel_values/ …      (parcel, date, pixel[, pixel_band]) pixel sets where there are any, with pixel_mask/ and
                           parcel_shape/; read only when asked for
      parcel_id/ …         (parcel,) arrays: year, region, label, lon, lat, clear_dates
      parcels.parquet/     GeoParquet parts, one per shard with geometry, named by their first row

A shard is written behind the committed rows and then committed by one replacement of `zarr.json`, so an interrupted
append leaves the store as it was. Chunks carry checksums and are always written, so a missing or truncated chunk is an
error and never reads as cloud.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import zarr
from zarr.codecs import ZstdCodec

from cropgen.core.errors import CorruptInputError, OutputExistsError, SchemaError
from cropgen.core.files import atomic_output, require_input
from cropgen.core.locking import sole_writer
from cropgen.series.chunk_files import Growth, grown, growth_of_files, missing_chunk
from cropgen.series.geometry_parts import GEOMETRY, read_parts, same_crs, write_part
from cropgen.series.layout import (
    AXES,
    DTYPES,
    INDEX,
    OPTIONAL,
    PIXEL_SETS,
    REMAKE,
    TEXT,
    array_of,
    by_date,
    chained_digest,
    chunks_of,
    field_of,
    read_attributes,
    shape_of,
    sorted_rows,
)
from cropgen.series.legend import Legend
from cropgen.series.pixel_sets import SHAPE, PixelSets, require_pixel_sets
from cropgen.series.schema import SCHEMA_VERSION, ParcelSeries

if TYPE_CHECKING:
    import geopandas
    import pandas
    import xarray


class SeriesStore:
    """A series store on disk; made by `create` or `open`."""

    def __init__(self, path: Path, attributes: dict[str, Any]) -> None:
        self.path = path
        self._attributes = attributes
        self._told: tuple[int, Growth] = (0, [])
        self.bands: tuple[str, ...] = tuple(attributes["bands"])
        self.legend = Legend.from_json(attributes["legend"])

    @classmethod
    def create(
        cls, path: Path, *, bands: tuple[str, ...], legend: Legend, crs: str | None = None, source: dict | None = None
    ) -> Self:
        """Make an empty store.

        Arguments:
            path: a folder that does not exist yet.
            bands: names of the C bands.
            legend: what labels are positions of.
            crs: coordinate system of the geometry; None takes that of the first geometry appended.
            source: JSON-able facts about where the series comes from.

        Raises:
            OutputExistsError: something is at `path`.
        """
        if path.exists():
            raise OutputExistsError(f"{path} exists", hint="choose another folder, or pass --overwrite")
        attributes = {
            "cropgen_series": SCHEMA_VERSION, "bands": list(bands), "legend": legend.to_json(), "crs": crs,
            "source": source or {}, "rows": 0, "dates": 0, "growth": [], "fields": [], "digest": "",
        }  # fmt: skip
        with atomic_output(path) as part:
            zarr.create_group(part, zarr_format=3, attributes=attributes)
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a store and check that it is whole as far as its metadata tells.

        Raises:
            MissingInputError: nothing is at `path`.
            SchemaError: it is not a series store of this version.
            CorruptInputError: an array is missing, truncated or of another shape.
        """
        require_input(path, "series store")
        attributes = read_attributes(path)
        store = cls(path, attributes)
        group = store._group("r")
        for name in attributes["fields"]:
            store._check_array(group, name)
        return store

    def __len__(self) -> int:
        return self._attributes["rows"]

    @property
    def dates(self) -> int:
        """T: dates of the longest row."""
        return self._attributes["dates"]

    @property
    def crs(self) -> str | None:
        """Coordinate system of the geometry as WKT or an authority code."""
        return self._attributes["crs"]

    @property
    def pixel_bands(self) -> tuple[str, ...]:
        """Names of the bands of the pixel sets; empty where there are none."""
        return tuple(self._pixel_sets["bands"])

    @property
    def pixels(self) -> int:
        """S: places in a pixel set, 0 where there are none."""
        return self._pixel_sets["pixels"]

    @property
    def source(self) -> dict[str, Any]:
        """Facts about where the series comes from, as given to `create`."""
        return self._attributes["source"]

    def fingerprint(self) -> str:
        """Hex SHA-256 of bands, legend and every row, as recorded when the rows were appended.

        It depends on the rows and on how they were cut into shards, not on compression, time or place.
        """
        head = [SCHEMA_VERSION, list(self.bands), self._attributes["legend"], len(self), self._attributes["digest"]]
        return hashlib.sha256(json.dumps(head, sort_keys=True).encode()).hexdigest()

    def append(self, series: ParcelSeries, geometry: geopandas.GeoSeries | None = None) -> None:
        """Add one shard of rows; an interruption leaves the store as it was.

        Arguments:
            series: N rows with the bands of the store; shards may differ in their number of dates.
            geometry: N geometries aligned to the rows, in the coordinate system of the store.

        Raises:
            SchemaError: bands, labels, fields or the coordinate system do not fit the store.
            UsageError: another process is writing.
        """
        with self._lock():
            self._attributes = read_attributes(self.path)
            crs = self._check_shard(series, geometry)
            if not len(series):
                return
            if series.pixel_sets is not None:
                self._attributes["pixel_sets"] = series.pixel_sets.kind
            fields = {name: array for name in DTYPES if (array := field_of(series, name)) is not None}
            if self._has("band_mask") and series.band_mask is None:
                fields["band_mask"] = np.broadcast_to(series.mask[..., None], series.values.shape)
            with ThreadPoolExecutor(1) as beside:
                shapes = None
                if geometry is not None:
                    shapes = beside.submit(write_part, self.path, len(self), geometry, series.parcel_id, series.year)
                with zarr.config.set({"array.write_empty_chunks": True}):
                    self._write(fields)
                if shapes is not None:
                    shapes.result()
            self._commit(series, fields, crs)

    def read(self, rows: slice | np.ndarray | None = None, *, pixel_bands: Sequence[str] = ()) -> ParcelSeries:
        """Rows as a container in memory; only the chunks that hold them are read.

        Arguments:
            rows: a slice, an index array in any order (repeats allowed), a boolean array, or None for all.
            pixel_bands: bands whose pixel sets are read too; empty: they are left alone.

        Raises:
            SchemaError: there are no pixel sets of these bands.
            CorruptInputError: a chunk is missing or truncated; the message names the array.
        """
        plain = [name for name in self._fields if name != "clear_dates" and name not in PIXEL_SETS]
        content: dict[str, Any] = {name: self._read_field(name, rows) for name in plain}
        series = ParcelSeries(bands=self.bands, **content)
        return replace(series, pixel_sets=self._read_pixels(rows, pixel_bands)) if pixel_bands else series

    def column(self, name: str, rows: slice | np.ndarray | None = None) -> np.ndarray:
        """One value per row of parcel_id, year, region, label, lon, lat or clear_dates, read alone."""
        if name not in INDEX:
            raise KeyError(f"{name!r} is not one of {', '.join(INDEX)}")
        return self._read_field(name, rows)

    def index(self) -> pandas.DataFrame:
        """One line per row in store order: parcel_id, year, region, label, lon, lat, clear_dates."""
        import pandas

        return pandas.DataFrame({name: self._read_field(name, None) for name in INDEX})

    def geometry(self) -> geopandas.GeoDataFrame | None:
        """parcel_id, year and geometry of every row in store order; null where a shard had none.

        Returns:
            None when no shard had geometry.
        """
        import geopandas
        import pandas

        parts = read_parts(self.path, len(self))
        if not parts:
            return None
        index = self.index()[["parcel_id", "year"]]
        placed = [frame.set_index(pandas.RangeIndex(first, first + len(frame))) for first, frame in parts.items()]
        shapes = pandas.concat(placed).geometry.reindex(index.index)
        return geopandas.GeoDataFrame(index, geometry=shapes, crs=placed[0].crs)

    def dataset(self) -> xarray.Dataset:
        """The store as a lazy xarray data set over (parcel, date, band); nothing is read until it is asked for.

        Raises:
            CorruptInputError: a chunk is missing; xarray would read it as cloud.
        """
        import xarray

        if not len(self):
            return xarray.Dataset(coords={"band": list(self.bands)})
        group = self._group("r")
        for name in self._attributes["fields"]:
            self._whole_array(group, name, slice(0, len(self)))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=f".*{GEOMETRY}.*")
            whole = xarray.open_zarr(self.path, consolidated=False, chunks=None, zarr_format=3)
        kept = whole[list(self._attributes["fields"])]
        extent = {"parcel": slice(0, len(self)), "date": slice(0, self.dates)}
        cut = kept.isel({k: v for k, v in extent.items() if k in kept.sizes})
        named = cut.assign_coords(band=list(self.bands))
        return named.assign_coords(pixel_band=list(self.pixel_bands)) if self.pixels else named

    def chunks(self, rows: int = 4096) -> Iterator[slice]:
        """Consecutive slices of at most `rows` rows that cover the store."""
        for start in range(0, len(self), rows):
            yield slice(start, min(start + rows, len(self)))

    @property
    def _fields(self) -> tuple[str, ...]:
        return tuple(self._attributes["fields"]) or tuple(n for n in DTYPES if n not in OPTIONAL)

    @property
    def _pixel_sets(self) -> dict[str, Any]:
        return self._attributes["pixel_sets"] or {"bands": [], "pixels": 0}

    def _shape_of(self, name: str, rows: int, dates: int) -> tuple[int, ...]:
        return shape_of(name, self._sizes(rows, dates))

    def _sizes(self, rows: int, dates: int) -> dict[str, int]:
        return {
            "parcel": rows, "date": dates, "band": len(self.bands), "pixel": self.pixels,
            "pixel_band": len(self.pixel_bands), "feature": len(SHAPE),
        }  # fmt: skip

    def _has(self, name: str) -> bool:
        return name in self._attributes["fields"]

    def _group(self, mode: Any) -> zarr.Group:
        return zarr.open_group(self.path, mode=mode, zarr_format=3, use_consolidated=False)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        (self.path / GEOMETRY).mkdir(exist_ok=True)
        with sole_writer(self.path / GEOMETRY / ".lock", self.path, "wait for it"):
            yield

    def _check_array(self, group: zarr.Group, name: str) -> zarr.Array:
        return array_of(group, name, self.path, self._shape_of(name, len(self), self.dates))

    def _check_shard(self, series: ParcelSeries, geometry: geopandas.GeoSeries | None) -> str | None:
        if series.bands != self.bands:
            raise SchemaError(
                f"{self.path}: expected bands {', '.join(self.bands)}, got {', '.join(series.bands)}",
                hint="order and names must be those of the store",
            )
        top = int(series.label.max(initial=-1))
        if top >= len(self.legend) or int(series.label.min(initial=-1)) < -1:
            raise SchemaError(f"{self.path}: label {top} is outside the legend of {len(self.legend)} classes")
        if len(self) and self._has("pixels") != (series.pixels is not None):
            raise SchemaError(f"{self.path}: pixel counts must be given with every shard or with none")
        kind = None if series.pixel_sets is None else series.pixel_sets.kind
        if len(self) and kind != self._attributes["pixel_sets"]:
            held = self._attributes["pixel_sets"]
            raise SchemaError(f"{self.path}: pixel sets of every shard must be alike: expected {held}, got {kind}")
        if geometry is None:
            return self.crs
        if len(geometry) != len(series):
            raise SchemaError(f"{self.path}: {len(geometry)} geometries for {len(series)} rows")
        crs = None if geometry.crs is None else geometry.crs.to_string()
        if self.crs is not None and not same_crs(self.crs, geometry.crs):
            raise SchemaError(
                f"{self.path}: expected geometry in {self.crs}, got {crs}", hint="reproject it before it is appended"
            )
        return self.crs or crs

    def _write(self, fields: dict[str, np.ndarray]) -> None:
        group = self._group("r+")
        start, stop = len(self), len(self) + len(fields["year"])
        for name in [n for n in DTYPES if n in group and not self._has(n)]:
            del group[name]
        for name, content in fields.items():
            if not self._has(name):
                self._create_array(group, name, dates=content.shape[1] if by_date(name) else 0)
            array = self._check_array(group, name)
            if not by_date(name):
                array.resize(self._shape_of(name, stop, 0))
                array[start:stop] = content
                continue
            dates = max(array.shape[1], content.shape[1])
            array.resize(self._shape_of(name, stop, dates))
            padding = [(0, 0), (0, dates - content.shape[1])] + [(0, 0)] * (content.ndim - 2)
            array[start:stop] = np.pad(content, padding)

    def _create_array(self, group: zarr.Group, name: str, dates: int) -> None:
        dates = max(dates, self.dates, 1)
        array = group.create_array(
            name,
            shape=self._shape_of(name, len(self), dates),
            chunks=chunks_of(name, self._sizes(0, dates)),
            dtype=DTYPES[name],
            compressors=ZstdCodec(level=3, checksum=True),
            dimension_names=AXES[name],
        )
        if name == "band_mask":
            for rows_before in self.chunks():
                mask = self._read_field("mask", rows_before)
                array[rows_before, : mask.shape[1]] = np.repeat(mask[..., None], len(self.bands), axis=-1)

    def _commit(self, series: ParcelSeries, fields: dict[str, np.ndarray], crs: str | None) -> None:
        update: dict[str, Any] = {
            "rows": len(self) + len(series),
            "dates": max(self.dates, series.values.shape[1]),
            "fields": [n for n in DTYPES if n in fields or self._has(n)],
            "digest": chained_digest(self._attributes["digest"], fields),
            "crs": crs,
        }
        stated = self._attributes["growth"]
        update |= {"growth": grown(stated, len(self), update["dates"])} if stated is not None else {}
        update |= {"pixel_sets": self._pixel_sets} if self.pixels else {}
        self._group("r+").attrs.update(update)
        self._attributes = {**self._attributes, **update}

    def _read_field(self, name: str, rows: slice | np.ndarray | None) -> np.ndarray:
        if not len(self):
            empty = np.zeros(self._shape_of(name, 0, 0), np.str_ if name in TEXT else DTYPES[name])
            return empty if rows is None or isinstance(rows, slice) else empty[rows]
        wanted, inverse = sorted_rows(rows, len(self))
        array = self._whole_array(self._group("r"), name, wanted)
        dates = (slice(0, self.dates),) if by_date(name) else ()
        try:
            content = array[(wanted, *dates)] if isinstance(wanted, slice) else array.oindex[(wanted, *dates)]
        except (RuntimeError, ValueError, OSError) as error:
            raise CorruptInputError(f"{self.path}: array {name} cannot be read: {error}", hint=REMAKE) from error
        content = np.asarray(content)
        if name in TEXT:
            content = np.asarray(content.tolist(), dtype=np.str_)
        return content if inverse is None else content[inverse]

    def _read_pixels(self, rows: slice | np.ndarray | None, bands: Sequence[str]) -> PixelSets | None:
        require_pixel_sets(self.pixel_bands, bands, str(self.path))
        content: dict[str, Any] = {part: self._read_field(name, rows) for name, part in PIXEL_SETS.items()}
        return PixelSets(bands=self.pixel_bands, **content).select_bands(bands)

    def _whole_array(self, group: zarr.Group, name: str, rows: slice | np.ndarray) -> zarr.Array:
        """An array that has every chunk of these rows."""
        array = self._check_array(group, name)
        growth = self._growth() if by_date(name) and self.dates > array.chunks[1] else []
        if chunk := missing_chunk(self.path / name, array.chunks, rows, growth):
            raise CorruptInputError(f"{self.path}: array {name}: chunk {chunk} is missing", hint=REMAKE)
        return array

    def _growth(self) -> Growth:
        """Where the rows grew to more dates; told from the files, once, where the store does not say it."""
        if self._attributes["growth"] is not None:
            return self._attributes["growth"]
        if self._told[0] != len(self):
            chunks = {n: self._check_array(self._group("r"), n).chunks for n in self._fields if by_date(n)}
            self._told = len(self), growth_of_files(self.path, chunks, len(self), self.dates)
        return self._told[1]
