"""From scenes and parcel polygons to the container: `aggregate`.

Rules, in the order they act:

    season      an acquisition serves the parcels of year Y when its date lies in the season of Y
    pixels      centre inside the parcel shrunk by `buffer` metres; see zonal.py for small parcels
    clear       scene class among `clear`, and no band of the pixel's grid without data
    one date    a parcel's observation counts when `min_pixels` pixels (or all, when it has fewer) and `min_share` of
                its pixels are clear, and every band has a clear pixel
    one day     of several acquisitions of a day a parcel takes the one with the most clear pixels (the first by name
                where equal), so neighbouring tiles and orbits never give two observations of one day

Parcels without a pixel in any scene are left out and reported; parcels that are never clear are kept, all masked.
Memory is bounded by one shard of parcels (pixels, dates and bands) and a stripe of rows of one raster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np

from cropgen.core.errors import DataError
from cropgen.core.files import atomic_output, guard_output
from cropgen.core.progress import Reporter
from cropgen.imagery.calibration import Calibrator, calibrator
from cropgen.imagery.options import AggregateOptions, AggregateReport
from cropgen.imagery.parcels import find_overlaps, shards
from cropgen.imagery.scene import Acquisition
from cropgen.imagery.selection import (
    by_season,
    choose_bands,
    only_year,
    require_overlap,
    usable_acquisitions,
)
from cropgen.imagery.shard import ShardSeries, aggregate_shard
from cropgen.imagery.sources import open_scenes
from cropgen.series.geometry import ParcelLayer, interior_lonlat, read_parcels
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

__all__ = ["AggregateOptions", "AggregateReport", "aggregate"]


@dataclass(frozen=True)
class _Plan:
    """What is settled before the first pixel is read."""

    layer: ParcelLayer
    legend: Legend
    acquisitions: Mapping[int, Sequence[Acquisition]]
    bands: tuple[str, ...]
    calibrator: Calibrator
    options: AggregateOptions


def aggregate(
    scenes: Path | Sequence[Path],
    parcels: Path | Sequence[Path],
    output: Path,
    options: AggregateOptions,
    report: Reporter,
    *,
    overwrite: bool = False,
) -> AggregateReport:
    """Average the clear pixels of every band over every parcel and date, and write the container.

    Arguments:
        scenes: a folder of rasters by date, a NetCDF or zarr cube, a folder of cubes, or several of these.
        parcels: one or more vector files, e.g. one per year.
        output: the series store to write.

    Raises:
        MissingInputError, CorruptInputError, SchemaError, DataError: an input cannot be used; see the message.
        UsageError: options that do not fit the input.
        OutputExistsError: `output` exists and `overwrite` is false.
    """
    guard_output(output, overwrite=overwrite)
    plan, source_name = _prepare(scenes, parcels, options, report)
    issues = plan.layer.issues
    result = AggregateReport(
        years=tuple(plan.acquisitions), bands=plan.bands, repaired=issues.repaired, dropped=issues.dropped
    )
    source = {"kind": "aggregate", "scenes": source_name, "options": options.model_dump(mode="json")}
    with atomic_output(output) as part:
        store = SeriesStore.create(part, bands=plan.bands, legend=plan.legend, crs=plan.layer.crs, source=source)
        for year in plan.acquisitions:
            _aggregate_year(plan, year, store, result, report)
        if not result.rows:
            raise DataError("no parcel has a pixel in the scenes", hint="check that both cover the same ground")
    result.clear_dates /= result.rows
    result.warn(report)
    return result


def _prepare(
    scenes: Path | Sequence[Path], parcels: Path | Sequence[Path], options: AggregateOptions, report: Reporter
) -> tuple[_Plan, str]:
    source = open_scenes(scenes, report)
    bands = choose_bands(source.acquisitions, options.bands)
    usable = usable_acquisitions(source, bands, masked=bool(options.clear), report=report)
    layer = read_parcels(parcels, options.parcels, default_year=only_year(usable), report=report)
    require_overlap(layer.frame, usable)
    first = parcels if isinstance(parcels, Path) else parcels[0]
    plan = _Plan(
        layer=layer,
        legend=layer.legend(options.legend or first.stem),
        acquisitions=by_season(layer, usable, options.season),
        bands=bands,
        calibrator=calibrator(usable, bands, options.scale, options.offset, report),
        options=options,
    )
    return plan, source.name


def _aggregate_year(plan: _Plan, year: int, store: SeriesStore, result: AggregateReport, report: Reporter) -> None:
    frame = plan.layer.of_year(year)
    acquisitions = plan.acquisitions[year]
    ids = frame["parcel_id"].to_numpy(str)
    overlaps = find_overlaps(frame.geometry)
    pairs = zip(overlaps.pairs.tolist(), overlaps.share.tolist(), strict=True)
    result.overlaps.extend((str(ids[a]), str(ids[b]), share) for (a, b), share in pairs)
    result.dates[year] = len({a.day for a in acquisitions})
    parts = list(shards(frame.geometry, plan.options.shard))
    with report.task(f"Aggregating {year}", total=len(parts) * len(acquisitions)) as task:
        for rows in parts:
            part = frame.iloc[rows].reset_index(drop=True)
            shard = aggregate_shard(
                part.geometry, overlaps.layer[rows], acquisitions, plan.bands, plan.calibrator, plan.options, task
            )
            _append(store, plan.legend, part, shard, result)


def _append(
    store: SeriesStore, legend: Legend, frame: gpd.GeoDataFrame, shard: ShardSeries, result: AggregateReport
) -> None:
    outside = frame["parcel_id"].to_numpy(str)[~shard.covered]
    if len(outside):
        result.dropped.setdefault("outside the scenes", []).extend(outside.tolist())
    rows = np.flatnonzero(shard.covered)
    if not len(rows):
        return
    kept = frame.iloc[rows].reset_index(drop=True)
    seen = np.asarray((shard.pixels[rows] > 0).any(0))
    if not seen.any():
        seen = np.arange(len(seen)) < 1
    lon, lat = interior_lonlat(kept.geometry)
    pixels = shard.pixels[rows][:, seen]
    series = ParcelSeries.build(
        bands=store.bands,
        values=shard.values[rows][:, seen],
        mask=pixels > 0,
        day=np.broadcast_to(shard.day[seen], pixels.shape),
        parcel_id=kept["parcel_id"].to_numpy(str),
        year=kept["year"].to_numpy(),
        region=kept["region"].to_numpy(str),
        label=legend.encode(kept["code"]),
        lon=lon,
        lat=lat,
        pixels=pixels,
    )
    store.append(series, kept.geometry)
    result.rows += len(series)
    result.clear_dates += float(series.clear_dates.sum())
    result.never_clear.extend(series.parcel_id[series.clear_dates == 0].tolist())
    result.coarse.extend(series.parcel_id[shard.coarse[rows]].tolist())
