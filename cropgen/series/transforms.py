"""Transforms of the container: label-free standardisation of each region and year.

Every region-year r is brought to a common level and spread, band by band, by what was clearly observed there:

    x' = (x − m_r) / s_r · s + m

m_r and s_r are mean and standard deviation of the clear observations of r; m and s are one level and spread for all,
those of the store a model was trained on: the mean of its m_r and the root of the mean of its s_r², weighted by
observations. It takes out what sensor, processing and weather add to a whole region-year, and with it whatever differs
because other crops grow there; where class shares differ it therefore hurts, and it is off unless asked for. A band
that does not vary in a region-year is only moved.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cropgen.core.errors import CorruptInputError, DataError, SchemaError
from cropgen.core.files import write_text
from cropgen.core.progress import Reporter, Silent
from cropgen.series.layout import read_attributes
from cropgen.series.pixel_sets import UNIT, PixelSets, to_units
from cropgen.series.schema import ParcelSeries
from cropgen.series.season import SeasonEnd
from cropgen.series.store import SeriesStore

Standardise = Literal["none", "region-year"]
STANDARDISATION = "standardisation.json"
STANDARDISATION_SCHEMA = 1
_CHUNK = 16384


@dataclass(frozen=True)
class Spread:
    """Level and spread of C bands.

    Arguments:
        mean, scale: (C,) float64; a scale is above 0.
    """

    mean: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations (C,) of clear observations, to be merged without loss."""

    count: np.ndarray
    mean: np.ndarray
    square: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, clear: np.ndarray) -> Moments:
        """Moments of values (N, T, C) where `clear` (N, T, C)."""
        count = clear.sum((0, 1)).astype(np.float64)
        kept = np.where(clear, values, 0).astype(np.float64)
        mean = kept.sum((0, 1)) / np.maximum(count, 1)
        return cls(count, mean, (np.where(clear, kept - mean, 0) ** 2).sum((0, 1)))

    def merged(self, other: Moments) -> Moments:
        """Moments of both sets of observations.

        Reference:
            Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, Chan, Golub and LeVeque, 1982.
        """
        count = self.count + other.count
        weight = other.count / np.maximum(count, 1)
        apart = other.mean - self.mean
        return Moments(
            count, self.mean + weight * apart, self.square + other.square + self.count * weight * apart**2
        )  # fmt: skip

    def spread(self) -> Spread:
        scale = np.sqrt(self.square / np.maximum(self.count, 1))
        return Spread(self.mean, np.where(scale > 0, scale, 1.0))


@dataclass(frozen=True)
class Standardisation:
    """The map of each region-year to a common level and spread.

    Arguments:
        bands: names of the C bands.
        groups: (region, year) → level and spread there.
        common: what every region-year is brought to.
    """

    bands: tuple[str, ...]
    groups: dict[tuple[str, int], Spread]
    common: Spread

    @classmethod
    def fit(cls, parts: Iterable[ParcelSeries], common: Spread | None = None) -> Standardisation:
        """Learn the region-years of a series that comes in parts; no label is looked at.

        Arguments:
            common: None takes that of the parts themselves.

        Raises:
            DataError: nothing was clearly observed.
        """
        found: dict[tuple[str, int], Moments] = {}
        bands: tuple[str, ...] = ()
        for part in parts:
            bands = part.bands
            for key, rows in _region_years(part):
                series = part.take(rows)
                moments = Moments.of(series.values, _clear(series))
                found[key] = found[key].merged(moments) if key in found else moments
        if not any(m.count.any() for m in found.values()):
            raise DataError(
                "no clear date to standardise by", hint="check the clear classes, the cloud mask and --until"
            )
        return cls(bands, {key: m.spread() for key, m in found.items()}, common or _pooled(list(found.values())))

    def apply(self, series: ParcelSeries) -> ParcelSeries:
        """The series on the common level and spread, its pixels moved as their parcels are.

        Raises:
            SchemaError: its bands are others.
            DataError: it holds a region-year that was not learnt.
        """
        if series.bands != self.bands:
            raise SchemaError(
                f"standardisation of bands {', '.join(self.bands)} does not fit {', '.join(series.bands)}",
                hint="standardise before bands are selected",
            )
        values, sets = np.zeros_like(series.values), series.pixel_sets
        pixels = None if sets is None else np.zeros_like(sets.values)
        for key, rows in _region_years(series):
            if key not in self.groups:
                raise DataError(f"region {key[0] or '–'} in {key[1]} has no statistics", hint="read it from its store")
            here = self.groups[key]
            mapped = (series.values[rows] - here.mean) / here.scale * self.common.scale + self.common.mean
            values[rows] = np.where(_clear(series.take(rows)), mapped, 0)
            if sets is not None and pixels is not None:
                pixels[rows] = self._mapped_pixels(sets.take(rows), here)
        return replace(series, values=values, pixel_sets=sets and replace(sets, values=pixels))

    def _mapped_pixels(self, sets: PixelSets, here: Spread) -> np.ndarray:
        """(N, T, S, P) int16 pixels of a region-year on the common level and spread; 0 where they are not clear."""
        place = [self.bands.index(band) for band in sets.bands]
        gain = self.common.scale[place] / here.scale[place]
        moved = (sets.values * UNIT - here.mean[place]) * gain + self.common.mean[place]
        return np.where(sets.mask[..., None], to_units(moved), 0).astype(np.int16)


def _region_years(series: ParcelSeries) -> Iterable[tuple[tuple[str, int], np.ndarray]]:
    """Each region and year with its rows."""
    keys = np.stack([series.region.astype(np.str_), series.year.astype(np.str_)], 1)
    distinct, which = np.unique(keys, axis=0, return_inverse=True)
    for number, (region, year) in enumerate(distinct.tolist()):
        yield (region, int(year)), np.flatnonzero(which.reshape(-1) == number)


def _clear(series: ParcelSeries) -> np.ndarray:
    clear = series.mask[..., None] if series.band_mask is None else series.band_mask
    return np.broadcast_to(clear, series.values.shape)


def _pooled(groups: list[Moments]) -> Spread:
    count = np.maximum(sum(m.count for m in groups), 1)
    mean = sum(m.count * m.mean for m in groups) / count
    scale = np.sqrt(sum(m.square for m in groups) / count)
    return Spread(mean, np.where(scale > 0, scale, 1.0))


class StandardisedStore(SeriesStore):
    """A series store whose rows are read standardised; made by `open_series`."""

    def __init__(self, path: Path, attributes: dict[str, Any], standardisation: Standardisation) -> None:
        super().__init__(path, attributes)
        self.standardisation = standardisation

    def read(self, rows: slice | np.ndarray | None = None, *, pixel_bands: Sequence[str] = ()) -> ParcelSeries:
        return self.standardisation.apply(super().read(rows, pixel_bands=pixel_bands))

    def fingerprint(self) -> str:
        return hashlib.sha256(f"region-year {super().fingerprint()}".encode()).hexdigest()


def open_series(
    path: Path,
    standardise: Standardise = "none",
    common: Spread | None = None,
    report: Reporter | None = None,
    until: SeasonEnd | None = None,
) -> SeriesStore:
    """Open a store, to be read as it is or standardised by the statistics of its own region-years.

    The statistics take one pass over the store and memory for one chunk.

    Arguments:
        common: level and spread to bring every region-year to: those of the training; None takes the store's own.
        until: the last day whose observations count in the statistics; the rows are not cut. None: all do.

    Raises:
        DataError: the store cannot be read, or nothing was clearly observed in it.
    """
    store = SeriesStore.open(path)
    if standardise == "none":
        return store
    report = report or Silent()
    with report.task("standardising", len(store)) as task:

        def parts() -> Iterable[ParcelSeries]:
            for rows in store.chunks(_CHUNK):
                yield store.read(rows) if until is None else until.cut(store.read(rows))
                task.advance(rows.stop - rows.start)

        learnt = Standardisation.fit(parts(), common)
    return StandardisedStore(path, read_attributes(path), learnt)


def save_spread(folder: Path, bands: tuple[str, ...], spread: Spread) -> None:
    """Keep in a run folder what the training's region-years were brought to."""
    document = {
        "standardisation": STANDARDISATION_SCHEMA, "by": "region-year", "bands": list(bands),
        "mean": spread.mean.tolist(), "scale": spread.scale.tolist(),
    }  # fmt: skip
    write_text(folder / STANDARDISATION, json.dumps(document, indent=1) + "\n")


def load_spread(folder: Path, bands: tuple[str, ...]) -> Spread | None:
    """What `save_spread` kept, for a store of these bands; None for a run that was not standardised.

    Bands that the training did not have are brought to mean 0 and scale 1.

    Raises:
        CorruptInputError, SchemaError: the file is not JSON, or not of this version.
    """
    path = folder / STANDARDISATION
    if not path.is_file():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CorruptInputError(f"{path} is not JSON: {error}", hint="train the run again") from error
    if not isinstance(document, dict) or document.get("standardisation") != STANDARDISATION_SCHEMA:
        raise SchemaError(f"{path} is not a standardisation of schema {STANDARDISATION_SCHEMA}", hint="train again")
    known = dict(zip(document["bands"], zip(document["mean"], document["scale"], strict=True), strict=True))
    mean, scale = np.array([known.get(band, (0.0, 1.0)) for band in bands]).T
    return Spread(mean, scale)
