"""Rows of the container put together: what parcels are, beside what was seen of them."""

from __future__ import annotations

from dataclasses import dataclass

import geopandas as gpd
import numpy as np
import pandas as pd

from cropgen.imagery.assemble import ShardSeries
from cropgen.imagery.options import AggregateReport
from cropgen.series.geometry import interior_lonlat
from cropgen.series.legend import Legend
from cropgen.series.parcel_spool import SpooledParcels
from cropgen.series.pixel_sets import PixelSets
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore


@dataclass(frozen=True)
class ParcelShard:
    """Parcels that are written together.

    Arguments:
        first, stop: their ranks, `first` ≤ rank < `stop`.
        frame: as `geometry.ParcelLayer` holds them.
        lon, lat: (N,) degrees of a point inside each.
    """

    first: int
    stop: int
    frame: gpd.GeoDataFrame
    lon: np.ndarray
    lat: np.ndarray

    @classmethod
    def read(cls, parcels: SpooledParcels, first: int, stop: int) -> ParcelShard:
        """The parcels of some ranks, from the files where they are."""
        frame = parcels.frame(first, stop)
        return cls(first, stop, frame, *interior_lonlat(frame.geometry))


def append_shard(
    store: SeriesStore, legend: Legend, parcels: ParcelShard, seen: ShardSeries, sets: PixelSets | None,
    result: AggregateReport,
) -> None:  # fmt: skip
    """Write the parcels of a shard that lie in some scene, on the dates that show any of them."""
    result.leave_out(parcels.frame["parcel_id"].to_numpy(str)[~seen.covered].tolist())
    rows = np.flatnonzero(seen.covered)
    if not len(rows):
        return
    kept = parcels.frame.iloc[rows].reset_index(drop=True)
    shown = np.asarray((seen.pixels[rows] > 0).any(0))
    if not shown.any():
        shown = np.arange(len(shown)) < 1
    place, codes = pd.factorize(kept["code"])
    pixels = seen.pixels[rows][:, shown]
    series = ParcelSeries.build(
        bands=store.bands,
        values=seen.values[rows][:, shown],
        mask=pixels > 0,
        day=np.broadcast_to(seen.day[shown], pixels.shape),
        parcel_id=kept["parcel_id"].to_numpy(str),
        year=kept["year"].to_numpy(),
        region=kept["region"].to_numpy(str),
        label=legend.encode(codes)[place],
        lon=parcels.lon[rows],
        lat=parcels.lat[rows],
        pixels=pixels,
        pixel_sets=None if sets is None else sets.take(rows).at_dates(shown),
    )
    store.append(series, kept.geometry)
    result.rows += len(series)
    result.clear_dates += float(series.clear_dates.sum())
    result.never_clear.add(series.parcel_id[series.clear_dates == 0].tolist())
    result.coarse.add(series.parcel_id[seen.coarse[rows]].tolist())
