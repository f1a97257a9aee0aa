"""Backscatter of Sentinel-1 as channels of a series: VV and VH in decibels at the dates of the optical series.

A folder of rasters by date, VV.tif and VH.tif on one grid, calibrated and terrain-corrected, is aggregated over the
same parcels. Means over pixels are means of power,

    γ = 10 log₁₀ (mean of linear backscatter) dB,

then read at each optical date on the line between the acquisitions before and after it, held at the ends of the season.
A power of 0 is none: it is what fills a raster beside the swath, and counts as missing.
Radar sees through clouds, so its own dates are regular and close. Rasters that hold decibels already (`s1-db`) are
averaged as they are, which lies lower by the speckle they keep: prefer linear power.

Reference: Understanding the temporal behavior of crops using Sentinel-1 and Sentinel-2-like data for agricultural
applications, Veloso et al., 2017.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cropgen.core.errors import SchemaError
from cropgen.core.files import remove
from cropgen.core.progress import Reporter
from cropgen.imagery.aggregate import aggregate
from cropgen.imagery.options import AggregateOptions
from cropgen.imagery.scene import source_bands
from cropgen.imagery.sources import open_scenes
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

POLARISATIONS = ("VV", "VH", "HH", "HV")
_LEAST_POWER = 1e-6


@dataclass(frozen=True)
class Backscatter:
    """Aggregated backscatter.

    Arguments:
        name: of the folder.
        store: the parcels' series.
        decibels: the values are decibels already.
        row: (parcel id, year) → row of the store.
    """

    name: str
    store: SeriesStore
    decibels: bool
    row: dict[tuple[str, int], int]

    @property
    def bands(self) -> tuple[str, ...]:
        return self.store.bands

    @property
    def facts(self) -> dict[str, object]:
        stored = "decibels" if self.decibels else "power"
        return {"kind": "s1", "source": self.name, "bands": list(self.bands), "unit": "dB", "averaged": stored}

    def at(self, series: ParcelSeries) -> np.ndarray:
        """(N, T, C) decibels at the dates of some rows; NaN for parcels that were never seen."""
        keys = zip(series.parcel_id.tolist(), series.year.tolist(), strict=True)
        row = np.array([self.row.get(key, -1) for key in keys], np.int64)
        found = np.full((*series.mask.shape, len(self.bands)), np.nan, np.float32)
        known = np.flatnonzero(row >= 0)
        if not len(known):
            return found
        seen = self.store.read(row[known])
        values = seen.values if self.decibels else 10 * np.log10(np.maximum(seen.values, _LEAST_POWER))
        for n, mask, day, value in zip(known.tolist(), seen.mask, seen.day, values, strict=True):
            if mask.any():
                for band in range(len(self.bands)):
                    found[n, :, band] = np.interp(series.day[n], day[mask], value[mask, band])
        return found


@contextlib.contextmanager
def open_backscatter(
    folder: Path, parcels: Sequence[Path], options: AggregateOptions, scratch: Path, report: Reporter, *, decibels: bool
) -> Iterator[Backscatter]:
    """Aggregate a folder of backscatter over parcels; what is written to do so is removed afterwards.

    Arguments:
        options: of the optical series: parcels, season, buffer and method are its.
        scratch: where the series is kept meanwhile.

    Raises:
        SchemaError: there is no polarisation among the bands.
        DataError: see `cropgen.imagery.aggregate`.
    """
    found = source_bands(open_scenes(folder, report).acquisitions)
    bands = tuple(band for band in POLARISATIONS if band in found)
    if not bands:
        raise SchemaError(
            f"{folder}: expected rasters named {', '.join(POLARISATIONS)}, got {', '.join(found)}",
            hint="name each date's files VV.tif and VH.tif",
        )
    plain: dict[str, object] = {
        "bands": bands, "clear": (), "cloud_probability": None, "statistics": ("mean",), "pixels": 0, "min_pixels": 1,
        "min_share": 0.0, "scale": None, "offset": None, "nodata": options.nodata if decibels else 0.0,
    }  # fmt: skip
    try:
        aggregate(folder, parcels, scratch, options.model_copy(update=plain), report, overwrite=True)
        store = SeriesStore.open(scratch)
        keys = zip(store.column("parcel_id").tolist(), store.column("year").tolist(), strict=True)
        yield Backscatter(folder.name, store, decibels, {key: row for row, key in enumerate(keys)})
    finally:
        remove(scratch)
