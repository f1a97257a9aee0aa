"""Further channels of a series store: what was measured of its parcels besides reflectance, joined by parcel and date.

    s1=FOLDER       backscatter of Sentinel-1, aggregated over the same parcels (backscatter.py)
    weather=FILE    air temperature and precipitation (weather.py)
    dem=FILE        elevation and slope (relief.py)

A channel answers for the dates at which a parcel was clearly seen, so that a date has every band: a date that held
backscatter alone would be one without reflectance, which models that read all bands of a date cannot use. A date for
which a channel knows nothing is masked, and reported.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from cropgen.core.errors import SchemaError, UsageError
from cropgen.core.files import atomic_output, guard_output, require_input
from cropgen.core.progress import Reporter
from cropgen.imagery.backscatter import open_backscatter
from cropgen.imagery.options import AggregateOptions
from cropgen.imagery.relief import open_relief
from cropgen.imagery.weather import open_weather
from cropgen.series.geometry_parts import read_rows
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

KINDS = ("s1", "s1-db", "weather", "dem")
_SHARD = 2048


class Channel(Protocol):
    """A source of further bands.

    Arguments:
        bands: names of its C bands.
        facts: JSON-able account of where they come from and what they mean.
    """

    @property
    def bands(self) -> tuple[str, ...]: ...

    @property
    def facts(self) -> dict[str, object]: ...

    def at(self, series: ParcelSeries) -> np.ndarray:
        """(N, T, C) values at the dates of some rows; NaN where nothing is known."""
        ...


@dataclass(frozen=True)
class Addition:
    """What is added, as `--add` takes it: KIND=PATH.

    Arguments:
        kind: one of `KINDS`.
    """

    kind: str
    path: Path

    @classmethod
    def parse(cls, text: str) -> Addition:
        """Read KIND=PATH.

        Raises:
            UsageError: it is neither of the kinds.
        """
        kind, sign, path = text.partition("=")
        if not sign or not path or kind not in KINDS:
            raise UsageError(f"--add {text}: expected KIND=PATH", hint=f"kinds: {', '.join(KINDS)}")
        return cls(kind, Path(path))

    def check(self) -> None:
        """See that the source is there and can be read, as far as that takes no time.

        Raises:
            DataError: it is not, or cannot.
        """
        require_input(self.path, self.kind)
        if self.kind == "weather":
            open_weather(self.path)
        elif self.kind == "dem":
            open_relief(self.path)


@contextlib.contextmanager
def open_channels(
    additions: Sequence[Addition], parcels: Sequence[Path], options: AggregateOptions, beside: Path, report: Reporter
) -> Iterator[list[Channel]]:
    """Open what is to be added; what is written meanwhile lies beside a store and is removed afterwards.

    Arguments:
        parcels, options: of the optical series.

    Raises:
        DataError: a source cannot be used; see the message.
    """
    with contextlib.ExitStack() as stack:
        channels: list[Channel] = []
        for number, one in enumerate(additions):
            if one.kind == "weather":
                channels.append(open_weather(one.path))
            elif one.kind == "dem":
                channels.append(open_relief(one.path))
            else:
                scratch, decibels = beside.with_name(f".{beside.name}.s1-{number}"), one.kind == "s1-db"
                opened = open_backscatter(one.path, parcels, options, scratch, report, decibels=decibels)
                channels.append(stack.enter_context(opened))
        yield channels


def add_channels(
    store: SeriesStore, output: Path, channels: Sequence[Channel], report: Reporter, *, overwrite: bool = False
) -> SeriesStore:
    """Write a store with the bands of channels behind its own; rows, dates, geometry and pixel sets stay.

    Raises:
        SchemaError: a band is there already.
        OutputExistsError: `output` exists and `overwrite` is false.
    """
    guard_output(output, overwrite=overwrite)
    added = [band for channel in channels for band in channel.bands]
    repeated = sorted({band for band in added if (*store.bands, *added).count(band) > 1})
    if repeated:
        raise SchemaError(f"the band {repeated[0]} would be there twice", hint="add it once")
    source = {**store.source, "channels": [dict(channel.facts) for channel in channels]}
    bands, lost = (*store.bands, *added), 0
    with atomic_output(output) as part, report.task("adding channels", len(store)) as task:
        made = SeriesStore.create(part, bands=bands, legend=store.legend, crs=store.crs, source=source)
        for rows in store.chunks(_SHARD):
            before = store.read(rows, pixel_bands=store.pixel_bands)
            series = joined(before, channels)
            lost += int(before.mask.sum() - series.mask.sum())
            made.append(series, read_rows(store.path, rows))
            task.advance(rows.stop - rows.start)
    if lost:
        report.warn(f"{lost} clear dates are masked: no value of {', '.join(added)} is known there")
    return SeriesStore.open(output)


def joined(series: ParcelSeries, channels: Sequence[Channel]) -> ParcelSeries:
    """Some rows with the bands of channels behind their own."""
    values = [series.values, *(channel.at(series) for channel in channels)]
    known = np.logical_and.reduce([np.isfinite(part).all(-1) for part in values])
    own = series.band_mask
    if own is not None:
        further = sum(part.shape[2] for part in values[1:])
        own = np.concatenate([own, np.repeat(series.mask[..., None], further, axis=2)], axis=2) & known[..., None]
    return ParcelSeries.build(
        bands=(*series.bands, *(band for channel in channels for band in channel.bands)),
        values=np.concatenate(values, axis=2), mask=series.mask & known, day=series.day, parcel_id=series.parcel_id,
        year=series.year, region=series.region, label=series.label, lon=series.lon, lat=series.lat, band_mask=own,
        pixels=series.pixels, pixel_sets=series.pixel_sets,
    )  # fmt: skip
