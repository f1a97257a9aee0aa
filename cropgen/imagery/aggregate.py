"""From scenes and parcel polygons to the container: `aggregate`.

Rules, in the order they act:

    season      an acquisition serves the parcels of year Y when its date lies in the season of Y
    pixels      centre inside the parcel shrunk by `buffer` metres, or all pixels by the share covered; see pixels.py
    clear       by the masks (masks.py), and no band of the pixel's grid without data
    one day     one observation per parcel and day, of the acquisition that saw most of it clear; see assemble.py

The pixels of the parcels on a tile are found once and serve every date and band. Then each acquisition is a unit of
work, done in any order by any engine, whose result is kept in a work folder beside the output (ledger.py). At last the
rows are put together shard by shard and written in the order of the parcels, so that what comes out does not depend on
how the work was cut, interrupted or resumed.

Parcels without a pixel in any scene are left out and reported; parcels that are never clear are kept, all masked.
A unit holds a cell of one raster at a time for each thread, assembling one shard of parcels: neither the scene nor the
number of parcels decides how much memory they take.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

import numpy as np

from cropgen.core.collecting import older_objects_spared
from cropgen.core.cores import cores
from cropgen.core.engine import Engine, Outcome, run_units
from cropgen.core.errors import CropgenError, DataError, UnfinishedError
from cropgen.core.files import atomic_output, guard_output
from cropgen.core.progress import Reporter
from cropgen.core.tally import MOST
from cropgen.core.threads import in_order, one_ahead, short_turns
from cropgen.imagery.ahead import Lookahead
from cropgen.imagery.assemble import Season
from cropgen.imagery.calibration import Calibrator, calibrator
from cropgen.imagery.ledger import WorkFolder, unit_key
from cropgen.imagery.options import AggregateOptions, AggregateReport
from cropgen.imagery.overlaps import find_overlaps
from cropgen.imagery.parcel_shard import ParcelShard, append_shard
from cropgen.imagery.parcels import SeasonParcels, shards
from cropgen.imagery.pixel_sample import check_inside, keep_samples
from cropgen.imagery.pixel_sets import gather_sets
from cropgen.imagery.scene import Acquisition
from cropgen.imagery.selection import (
    by_season,
    choose_bands,
    only_year,
    require_overlap,
    usable_acquisitions,
)
from cropgen.imagery.sources import open_scenes
from cropgen.imagery.statistics import Statistic, statistics_of
from cropgen.imagery.tiles import Grids, find_tiles, grids_of
from cropgen.imagery.unit import Unit, aggregate_unit
from cropgen.imagery.zonal import Reading
from cropgen.series.legend import Legend
from cropgen.series.parcel_polygons import Place
from cropgen.series.parcel_spool import SpooledLayer, SpooledParcels, spool_parcels
from cropgen.series.store import SeriesStore

__all__ = ["AggregateOptions", "AggregateReport", "aggregate"]

_FEW_PARCELS = 1 << 16
_FEW_VALUES = 1 << 23
_WITH_PIXELS = 2048


@dataclass(frozen=True)
class _Plan:
    """What is settled before the first pixel is read."""

    layer: SpooledLayer
    legend: Legend
    acquisitions: Mapping[int, Sequence[Acquisition]]
    bands: tuple[str, ...]
    statistics: tuple[Statistic, ...]
    calibrator: Calibrator
    options: AggregateOptions

    @property
    def columns(self) -> tuple[str, ...]:
        """The bands of the container."""
        return tuple(statistic.band(band) for statistic in self.statistics for band in self.bands)


@dataclass(frozen=True)
class _Year:
    """The parcels of a year in the order of the output, first rank and end of each shard that is written at a time,
    and the units that see them."""

    parcels: SpooledParcels
    shards: tuple[tuple[int, int], ...]
    units: tuple[Unit, ...]
    split: np.ndarray


def aggregate(
    scenes: Path | Sequence[Path],
    parcels: Path | Sequence[Path],
    output: Path,
    options: AggregateOptions,
    report: Reporter,
    *,
    overwrite: bool = False,
    engine: Engine | None = None,
    resume: bool = False,
    keep_work: bool = False,
) -> AggregateReport:
    """Take the statistics of the clear pixels of every band over every parcel and date, and write the container.

    Arguments:
        scenes: a folder of rasters by date, a NetCDF or zarr cube, a folder of cubes, or several of these.
        parcels: one or more vector files, e.g. one per year.
        output: the series store to write.
        engine: where acquisitions are computed; None means here.
        resume: use what an earlier run for the same output left; an existing output is replaced.
        keep_work: leave the results of single acquisitions for a later `resume`, which does only what changed.

    Raises:
        DataError: an input cannot be used; see the message.
        UsageError: options that do not fit the input, or another process writes this output.
        OutputExistsError: `output` exists, and neither `overwrite` nor `resume` is true.
        UnfinishedError: some acquisitions failed, or the disk is full; the rest is kept for `resume`.
    """
    guard_output(output, overwrite=overwrite or resume)
    engine = engine or Engine()
    with older_objects_spared(), short_turns(), WorkFolder.beside(output, resume=resume) as work:
        idle = engine.kind == "serial" and cores() > 1 and not work.worth_keeping
        try:
            with work.parcels() as spool, Lookahead(wanted=idle) as ahead:
                plan, source = _prepare(scenes, parcels, options, spool, ahead, report)
                result = _aggregate(plan, source, output, engine, work, ahead, report)
        finally:
            if not work.worth_keeping:
                work.discard()
        work.tidy() if keep_work else work.discard()
    result.warn(report)
    return result


def _aggregate(
    plan: _Plan, source_name: str, output: Path, engine: Engine, work: WorkFolder, ahead: Lookahead, report: Reporter
) -> AggregateReport:
    issues = plan.layer.issues
    result = AggregateReport(
        years=tuple(plan.acquisitions), bands=plan.columns, repaired=issues.repaired, dropped=issues.dropped
    )
    with ThreadPoolExecutor(1) as beside:
        years = [_plan_year(plan, year, work, engine, ahead, result, report) for year in plan.acquisitions]
        wanted = [(year.parcels, *shard) for year in years if year.units for shard in year.shards]
        shards = one_ahead(lambda shard: ParcelShard.read(*shard), wanted, beside)
        _run(years, engine, report)
        ahead.close()
        _write(plan, years, shards, source_name, output, work, result, report)
    result.clear_dates /= result.rows
    return result


def _write(
    plan: _Plan, years: Sequence[_Year], shards: Iterator[ParcelShard], source_name: str, output: Path,
    work: WorkFolder, result: AggregateReport, report: Reporter,
) -> None:  # fmt: skip
    """Write the store.

    Raises:
        DataError: it would hold no parcel.
        UnfinishedError: it cannot be written.
    """
    source = {"kind": "aggregate", "scenes": source_name, "options": plan.options.model_dump(mode="json")}
    try:
        with atomic_output(output) as part:
            store = SeriesStore.create(part, bands=plan.columns, legend=plan.legend, crs=plan.layer.crs, source=source)
            for year in years:
                _assemble(plan, year, shards, store, result, report)
            if not result.rows:
                work.discard()
                raise DataError("no parcel has a pixel in the scenes", hint="check that both cover the same ground")
    except DataError:
        raise
    except CropgenError as error:
        raise UnfinishedError(
            f"every acquisition is done, but the store is not: {error.message}", hint="repeat the command with --resume"
        ) from error


def _prepare(
    scenes: Path | Sequence[Path],
    parcels: Path | Sequence[Path],
    options: AggregateOptions,
    spool: Path,
    ahead: Lookahead,
    report: Reporter,
) -> tuple[_Plan, str]:
    statistics = statistics_of(options.statistics)
    source = open_scenes(scenes, report)
    bands = choose_bands(source.acquisitions, options.bands)
    check_inside(bands, options.pixels)
    usable = usable_acquisitions(source, bands, options.mask, report)

    def begun(place: Place) -> None:
        if place.box is not None:
            ahead.begin(usable, bands, place.system, place.box)

    layer = spool_parcels(
        parcels, options.parcels, spool, default_year=only_year(usable), report=report, threads=cores(), begun=begun
    )
    polygons = layer.parcels.polygons
    require_overlap(polygons, usable)
    chosen = by_season(layer, usable, options.season)
    ahead.begin(chain.from_iterable(chosen.values()), bands, polygons.crs, polygons.extent())
    first = parcels if isinstance(parcels, Path) else parcels[0]
    plan = _Plan(
        layer=layer,
        legend=layer.legend(options.legend or first.stem),
        acquisitions=chosen,
        bands=bands,
        statistics=statistics,
        calibrator=calibrator(usable, bands, options.scale, options.offset, report),
        options=options,
    )
    return plan, source.name


def _plan_year(
    plan: _Plan, year: int, work: WorkFolder, engine: Engine, ahead: Lookahead, result: AggregateReport,
    report: Reporter,
) -> _Year:  # fmt: skip
    """Order the parcels of a year, find their pixels on every tile, and name the units."""
    parcels, options = plan.layer.of_year(year), plan.options
    overlaps = find_overlaps(parcels.polygons)
    ids = parcels.ids(overlaps.pairs[:MOST].ravel()).reshape(-1, 2).tolist()
    told = [(a, b, share) for (a, b), share in zip(ids, overlaps.share[:MOST].tolist(), strict=True)]
    result.overlaps.add(told, len(overlaps.share))
    result.dates[year] = len({a.day for a in plan.acquisitions[year]})
    parts = list(shards(parcels.polygons, options.shard))
    sizes = [len(part) for part in parts]
    parcels = parcels.take(np.concatenate(parts))
    acquisitions = [(a, grids_of(a, plan.bands)) for a in plan.acquisitions[year]]
    with report.task(f"Finding the pixels of the parcels of {year}", total=None):
        wanted: dict[Grids, set[int]] = {}
        for acquisition, grids in acquisitions:
            wanted.setdefault(grids, set()).add(acquisition.day)
        tiles, split = find_tiles(wanted, SeasonParcels(parcels.polygons), options, work, cores())
        samples = keep_samples(tiles, parcels.ids, options.pixels, work)
    threads = max(cores() // engine.jobs, 1) if engine.kind != "dask" else 1
    units = []
    for acquisition, grids in acquisitions:
        if grids in tiles:
            calibration = plan.calibrator.of(acquisition, plan.bands)
            reading = Reading(plan.bands, plan.statistics, options.mask, calibration, options.nodata)
            names = (*plan.bands, *options.mask.names(acquisition))
            sample = samples.get(grids)
            key = unit_key((sample or tiles[grids]).folder.name, acquisition, names, reading.facts())
            units.append(Unit(ahead.at(acquisition), tiles[grids], reading, work.unit(key), threads, sample))
    most = _WITH_PIXELS if options.pixels else len(parcels)
    stops = _stops(sizes, result.dates[year] * len(plan.columns))
    return _Year(parcels, tuple(_shards(stops, most)), tuple(units), split)


def _stops(sizes: Sequence[int], values: int) -> tuple[int, ...]:
    """Where the rows end that are put together at a time: shards joined as long as they are small.

    Arguments:
        sizes: parcels of each shard.
        values: of a parcel.
    """
    stops, held = [0], 0
    for size in sizes:
        if held and (held + size > _FEW_PARCELS or (held + size) * values > _FEW_VALUES):
            stops.append(stops[-1])
            held = 0
        stops[-1] += size
        held += size
    return tuple(stops)


def _shards(stops: Sequence[int], most: int) -> Iterator[tuple[int, int]]:
    """First rank and end of shards of at most so many parcels, none across a stop."""
    for start, stop in zip((0, *stops[:-1]), stops, strict=True):
        for first in range(start, stop, most):
            yield first, min(first + most, stop)


def _run(years: Sequence[_Year], engine: Engine, report: Reporter) -> None:
    """Do the units that are not done.

    Raises:
        UnfinishedError: some failed, and others are done.
        CropgenError: the failure itself where nothing was done.
    """
    units = {unit.folder: unit for year in years for unit in year.units}
    waiting = [unit for unit in units.values() if not unit.done]
    failures: list[tuple[str, CropgenError]] = []
    with report.task("Aggregating", total=len(units)) as task:
        task.advance(len(units) - len(waiting))
        for outcome in _outcomes(waiting, engine):
            if outcome.failure is not None:
                failures.append((waiting[outcome.position].acquisition.key, outcome.failure))
            task.advance()
    if not failures:
        return
    key, first = failures[0]
    if len(failures) == len(units):
        raise first
    raise UnfinishedError(
        f"{len(failures)} of {len(units)} acquisitions failed, first {key}: {first.message}",
        hint=f"{first.hint or 'see to it'}; then repeat the command with --resume",
    ) from first


def _outcomes(units: Sequence[Unit], engine: Engine) -> Iterator[Outcome[None]]:
    """What becomes of units. In this process as many are done side by side as there are cores, which share the cores
    out; those that keep pixels, which need more memory, one after another."""
    if engine.kind != "serial" or not units:
        return run_units(aggregate_unit, units, engine)
    beside = 1 if any(unit.sample is not None for unit in units) else min(cores(), len(units))
    shared = [replace(unit, threads=max(cores() // beside, 1)) for unit in units]

    def done(number: int) -> Outcome[None]:
        return replace(next(run_units(aggregate_unit, shared[number : number + 1])), position=number)

    return in_order(done, range(len(shared)), beside)


def _assemble(
    plan: _Plan, year: _Year, shards: Iterator[ParcelShard], store: SeriesStore, result: AggregateReport,
    report: Reporter,
) -> None:  # fmt: skip
    """Put the observations of a year together and append them, shard by shard."""
    if not year.units:
        result.leave_out(year.parcels.ids(slice(MOST)).tolist(), len(year.parcels))
        return
    season = Season(year.units, year.split, plan.statistics, plan.options)
    with report.task("Writing", total=len(year.parcels)) as task:
        for parcels in islice(shards, len(year.shards)):
            seen = season.shard(parcels.first, parcels.stop)
            outlines = parcels.frame.geometry
            sets = gather_sets(year.units, seen, parcels.first, outlines) if plan.options.pixels else None
            append_shard(store, plan.legend, parcels, seen, sets, result)
            task.advance(parcels.stop - parcels.first)
