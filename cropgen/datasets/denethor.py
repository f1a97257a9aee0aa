"""DENETHOR: fields of Brandenburg with daily Planet Fusion images and Sentinel-1 and -2 stacks.

The host is retired; the user brings the folder. Both published layouts are understood, and parts are told by what they
hold: every path names its tile (`train` or `test`), and the last of these words in it counts.

    *train*.geojson                        labels of a tile: fid, crop_id 1–9, polygon
    …/Train/PF-SR/2018-01-31.tif           Planet Fusion (PF), or …_train_source_planet_…_2018_01_31/sr.tif
    …/s2_train.zip, s1_train_asc.zip       Sentinel stacks (S2, S1), or the folders they unpack to

The tile to learn from is of 2018, the one to test on of 2019 and elsewhere. Fields up to `min_area` are left out, as
the publisher does. Series are means over the pixels whose centre is in the field.

Reference: DENETHOR: The DynamicEarthNET dataset for Harmonized, inter-Operable, analysis-Ready, daily crop monitoring
from space, L. Kondmann et al., 2021.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import geopandas as gpd
import numpy as np
from pydantic import Field

from cropgen.core.errors import DataError, MissingInputError, SchemaError
from cropgen.core.recipe import Section
from cropgen.datasets.denethor_images import Grid, PlanetImages, average
from cropgen.datasets.denethor_patch import Patch, PatchImages, find_patches
from cropgen.datasets.reader import Prepared, Request, Shard, StoreSpec, fill_store
from cropgen.series.geometry import interior_lonlat, read_layer
from cropgen.series.legend import CropClass, Legend
from cropgen.series.schema import ParcelSeries

BANDS = {
    "PF": ("B02", "B03", "B04", "B08"),
    "S2": ("B01", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12"),
    "S1": ("VV_ascending", "VH_ascending", "VV_descending", "VH_descending"),
}
YEARS = {"train": 2018, "test": 2019}
_REFLECTANCE = 1e-4
_ORBITS = {"asc": "ascending", "des": "descending"}
_TILE = re.compile(r"(?<![a-z])(train|test)(?![a-z])")
_ORBIT = re.compile(r"(?<![a-z])(asc|des)")

LEGEND = Legend(
    "denethor",
    (
        CropClass("1", "wheat (Weizen)", "#e0c03c", "3301010100"),
        CropClass("2", "rye (Roggen)", "#dfa587", "3301010300"),
        CropClass("3", "barley (Gerste)", "#d8b365", "3301010400"),
        CropClass("4", "oats (Hafer)", "#a39a3c", "3301010500"),
        CropClass("5", "corn (Mais)", "#e58606", "3301010600"),
        CropClass("6", "oil seeds (Ölsaaten)", "#f2e205", "3301060800"),
        CropClass("7", "root crops (Hackfrüchte)", "#b4453f", "3301290000"),
        CropClass("8", "meadows (Wiesen)", "#3f7d4e", "3302000000"),
        CropClass("9", "forage crops (Ackerfutter)", "#58aaa4", "3301090000"),
    ),
)


class DenethorOptions(Section):
    """How DENETHOR is read."""

    min_area: float = Field(1000.0, ge=0, description="fields up to this area are left out, m²")
    max_cloud: float = Field(
        40.0, ge=0, le=255, description="S2: mean cloud probability of a field below which a date is clear, of 255"
    )


class DenethorReader:
    """Reads DENETHOR from a folder that the user brings."""

    Options: ClassVar[type[Section]] = DenethorOptions

    def prepare(self, request: Request) -> Prepared:
        """See `cropgen.datasets.reader.Reader`."""
        level = request.selection.level or "PF"
        tiles = [t for t in request.selection.regions if YEARS[t] in request.selection.years]
        if not tiles:
            raise DataError("tile train is of 2018, tile test of 2019", hint="choose the region with its year")
        spec = StoreSpec(
            bands=BANDS[level],
            legend=LEGEND,
            source={"level": level, "min_area_m2": request.options.min_area},
        )
        read = {"PF": _planet, "S2": _sentinel2, "S1": _sentinel1}[level]

        def shards(begin: int) -> Iterator[Shard]:
            for tile in tiles[begin:]:
                yield _shard(request, tile, read(_Brought(request, tile)))

        return fill_store(request, spec, shards)


@dataclass(frozen=True)
class _Means:
    """Series of the fields of a tile: values (N, T, C), clear (N, T), days (T,), pixels (N, T) where counted."""

    fields: _Fields
    values: np.ndarray
    clear: np.ndarray
    days: np.ndarray
    pixels: np.ndarray | None = None


@dataclass(frozen=True)
class _Fields:
    """Fields of a tile in the coordinate system of its images, and who was left out."""

    frame: gpd.GeoDataFrame
    dropped: Mapping[str, list[str]]


@dataclass(frozen=True)
class _Brought:
    """What of the folder belongs to one tile."""

    request: Request
    tile: str

    def images(self) -> PlanetImages:
        """The images of Planet Fusion.

        Raises:
            MissingInputError: there are none.
        """
        files = self.request.files
        paths = [
            p for p in sorted(files.rglob("*.tif")) if self._is_mine(p) and "PF-SR" in (p.parent.name, p.stem.upper())
        ]
        paths = paths or [p for p in sorted(files.rglob("sr.tif")) if self._is_mine(p)]
        if not paths:
            raise self._lacking("image of Planet Fusion", f"…/{self.tile.title()}/PF-SR/{YEARS[self.tile]}-01-01.tif")
        return PlanetImages(paths)

    def stack(self, array: str, orbit: str = "") -> Patch:
        """The Sentinel stack with an array.

        Raises:
            MissingInputError: there is none.
        """
        for patch in find_patches(self.request.files):
            of_orbit = not orbit or _last(_ORBIT, patch.where) == orbit
            if _last(_TILE, patch.where) == self.tile and of_orbit and array in patch.files:
                return patch
        name = f"s1_{self.tile}_{orbit}.zip" if orbit else f"s2_{self.tile}.zip"
        raise self._lacking(f"stack with {array}", name)

    def fields(self, grid: Grid) -> _Fields:
        """Labelled fields, in the coordinate system of a grid.

        Raises:
            MissingInputError: there are none.
            SchemaError: an attribute is missing or of another kind, or a field is given twice or has no `fid`.
        """
        labels = [p for p in sorted(self.request.files.rglob("*.geojson")) if self._is_mine(p)]
        if not labels:
            raise self._lacking("labels", f"crops_{self.tile}_{YEARS[self.tile]}.geojson")
        layer = read_layer(labels[0]).to_crs(grid.crs)
        if missing := [c for c in ("fid", "crop_id") if c not in layer]:
            raise SchemaError(f"{labels[0]}: attribute {missing[0]} missing", hint="bring the published labels")
        if layer["fid"].hasnans or not layer["fid"].is_unique:
            raise SchemaError(f"{labels[0]}: a field is given twice, or has no fid", hint="bring the published labels")
        ids, codes = (_numbers(layer, column, labels[0]) for column in ("fid", "crop_id"))
        label = LEGEND.encode(codes.tolist())
        small, unlisted = layer.area.to_numpy() <= self.request.options.min_area, label < 0
        dropped = {"small": ids[small].tolist(), "crop outside the legend": ids[unlisted & ~small].tolist()}
        rows = np.flatnonzero(~small & ~unlisted)
        frame = layer.iloc[rows].assign(label=label[rows], parcel=ids[rows]).reset_index(drop=True)
        return _Fields(gpd.GeoDataFrame(frame), {reason: who for reason, who in dropped.items() if who})

    def _is_mine(self, path: Path) -> bool:
        return _last(_TILE, path.relative_to(self.request.files).as_posix()) == self.tile

    def _lacking(self, what: str, example: str) -> MissingInputError:
        return MissingInputError(
            f"{self.request.files}: no {what} of tile {self.tile}, such as {example}",
            hint="bring the published folders, with train or test in their names",
        )


def _numbers(layer: gpd.GeoDataFrame, column: str, path: Path) -> np.ndarray:
    """A column of numbers as text, "" where it is null; one null alone makes its numbers floating.

    Raises:
        SchemaError: one is not whole.
    """
    values = layer[column]
    if values.dtype.kind == "f":
        numbers = values.to_numpy(float)
        strange = numbers[~np.isnan(numbers) & (numbers % 1 != 0)]
        if len(strange):
            raise SchemaError(
                f"{path}: attribute {column}: expected whole numbers, got {strange[0]:g}",
                hint="bring the published labels",
            )
        values = values.astype("Int64")
    return values.astype("string").fillna("").to_numpy(str)


def _last(words: re.Pattern[str], path: str) -> str:
    """The last of some words in a path, "" where there is none."""
    return next(iter(reversed(words.findall(path.lower()))), "")


def _planet(brought: _Brought) -> _Means:
    images = brought.images()
    fields = brought.fields(images.grid)
    values, seen = average(
        images, images.grid.fields(fields.frame.geometry), len(fields.frame), brought.request.report, "Planet Fusion"
    )
    return _Means(fields, values * _REFLECTANCE, seen > 0, images.days, seen)


def _sentinel2(brought: _Brought) -> _Means:
    patch = brought.stack("bands.npy")
    bands, clouds = PatchImages(patch, "bands.npy", len(BANDS["S2"])), PatchImages(patch, "clp.npy", 1)
    fields = brought.fields(bands.grid)
    raster, count, report = bands.grid.fields(fields.frame.geometry), len(fields.frame), brought.request.report
    values, seen = average(bands, raster, count, report, "Sentinel-2")
    probability, _ = average(clouds, raster, count, report, "cloud probability")
    clear = (seen > 0) & (probability[..., 0] < brought.request.options.max_cloud)
    order = np.argsort(bands.days, kind="stable")
    return _Means(fields, values[:, order] * _REFLECTANCE, clear[:, order], bands.days[order], seen[:, order])


def _sentinel1(brought: _Brought) -> _Means:
    """Both orbits on the union of their days; a channel that was not observed on a day is NaN."""
    stacks = {orbit: brought.stack("vv.npy", orbit) for orbit in _ORBITS}
    images = [PatchImages(stacks[orbit], name, 1) for orbit in _ORBITS for name in ("vv.npy", "vh.npy")]
    fields = brought.fields(images[0].grid)
    count, report = len(fields.frame), brought.request.report
    days = np.unique(np.concatenate([image.days for image in images]))
    values = np.full((count, len(days), len(images)), np.nan)
    for channel, image in enumerate(images):
        raster = image.grid.fields(fields.frame.geometry.to_crs(image.grid.crs))
        mean, _ = average(image, raster, count, report, f"Sentinel-1 {BANDS['S1'][channel]}")
        once, first = np.unique(image.days, return_index=True)
        values[:, np.searchsorted(days, once), channel] = mean[:, first, 0]
    return _Means(fields, values, np.asarray(np.isfinite(values).any(-1)), days)


def _shard(request: Request, tile: str, means: _Means) -> Shard:
    _require_year(means.days, tile, request.files)
    frame, seen = means.fields.frame, np.isfinite(means.values).any((1, 2))
    rows = np.flatnonzero(seen)
    geometry = gpd.GeoSeries(frame.geometry.to_numpy()[rows], crs=frame.crs)
    lon, lat = interior_lonlat(geometry)
    ids = frame["parcel"].to_numpy(str)
    values = means.values[rows]
    series = ParcelSeries.build(
        bands=BANDS[request.selection.level or "PF"],
        values=values,
        mask=means.clear[rows],
        day=np.tile(means.days, (len(rows), 1)),
        parcel_id=[f"{tile}-{i}" for i in ids[rows]],
        year=YEARS[tile],
        region=tile,
        label=frame["label"].to_numpy(np.int32)[rows],
        lon=lon,
        lat=lat,
        band_mask=np.isfinite(values) if means.pixels is None else None,
        pixels=None if means.pixels is None else means.pixels[rows],
    )
    lost = {} if seen.all() else {"no pixel inside": ids[~seen].tolist()}
    return Shard(series, geometry, {**means.fields.dropped, **lost})


def _require_year(days: np.ndarray, tile: str, files: Path) -> None:
    """Most days of a tile's images are of its year.

    Raises:
        SchemaError: they are of another, as those of the other tile are.
    """
    dates = days.astype("datetime64[D]")
    if 2 * int((dates.astype("datetime64[Y]") == np.datetime64(str(YEARS[tile]))).sum()) <= len(dates):
        raise SchemaError(
            f"{files}: expected images of {YEARS[tile]} for tile {tile}, got {dates.min()} to {dates.max()}",
            hint="bring the published folders; the last train or test in a path says which tile it is of",
        )
