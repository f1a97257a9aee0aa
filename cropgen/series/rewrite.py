"""Transforms of a store into another: composites, smoothing, gap filling. Parcel by parcel, in constant memory.

The order is: composite, smooth, fill. What was done is recorded in the new store under `source["transforms"]`, with the
fingerprint of the store it was done to; everything else of the source is kept. Pixel sets are left behind.

A filled value is not observed. The container shows values only where its mask is true, so the mask is true there and
the pixel count is 0: that is how models, and `cropgen info`, tell it from an observation.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from cropgen.core.errors import UsageError
from cropgen.core.files import atomic_output, guard_output, remove, sha256_tree
from cropgen.core.progress import Reporter, Silent
from cropgen.core.recipe import Section
from cropgen.series.composites import Periods, Statistic, composite, require_bands
from cropgen.series.geometry_parts import read_rows
from cropgen.series.official import SPLITS
from cropgen.series.schema import ParcelSeries
from cropgen.series.smoothing import Smoother, fill_linear, parse_smoothing, smooth
from cropgen.series.store import SeriesStore

_SHARD = 4096


class TransformOptions(Section):
    """What becomes of each series."""

    composite: str | None = Field(None, description="one value per period: a number of days such as 10D, or month")
    statistic: Statistic = Field("mean", description="of the observations of a period: mean, median or max-ndvi")
    smooth: str | None = Field(None, description="whittaker:λ, λ in days³; or savgol:WINDOW:ORDER, in observations")
    interpolate: Literal["none", "linear"] = Field("none", description="periods without an observation: none, linear")


def transform_store(
    store: SeriesStore,
    output: Path,
    options: TransformOptions,
    report: Reporter | None = None,
    *,
    overwrite: bool = False,
) -> SeriesStore:
    """Write the transformed series of a store; memory does not grow with the number of parcels.

    Arguments:
        output: the new store.

    Raises:
        UsageError: nothing to do, an option is none, filling without periods to fill, or the splits beside `output` are
            those of another store.
        DataError: the store cannot be read, or has no clear date.
        OutputExistsError: `output` exists, or splits are beside it, and `overwrite` is false.
    """
    report = report or Silent()
    periods, smoother = _checked(store, options)
    guard_output(output, overwrite=overwrite)
    if output.resolve() == store.path.resolve():
        raise UsageError(f"{output} is the store that is read", hint="name another output")
    _check_splits(store.path, output, overwrite=overwrite)
    if store.pixels:
        report.warn(f"{store.path}: pixel sets are not transformed and left behind")
    if periods is not None:
        periods = periods.spanning(_dates(store, report))
    record = {**options.model_dump(mode="json"), "of": store.fingerprint()}
    source = {**store.source, "transforms": [*store.source.get("transforms", ()), record]}
    with atomic_output(output) as part, report.task("transforming", len(store)) as task:
        made = SeriesStore.create(part, bands=store.bands, legend=store.legend, crs=store.crs, source=source)
        for rows in store.chunks(_SHARD):
            series = transformed(store.read(rows), periods, smoother, options)
            made.append(series, read_rows(store.path, rows))
            task.advance(rows.stop - rows.start)
    _keep_splits(store.path, output)
    return SeriesStore.open(output)


def transformed(
    series: ParcelSeries, periods: Periods | None, smoother: Smoother | None, options: TransformOptions
) -> ParcelSeries:
    """Some rows of a store, transformed; each depends on itself alone.

    Arguments:
        periods: those of the whole store; None keeps the dates.
        smoother: None leaves values as they are.
    """
    if periods is not None:
        series = composite(series, periods, options.statistic)
    if smoother is not None:
        series = smooth(series, smoother)
    return fill_linear(series) if options.interpolate == "linear" else series


def _checked(store: SeriesStore, options: TransformOptions) -> tuple[Periods | None, Smoother | None]:
    if options.composite is None and options.smooth is None:
        raise UsageError(
            "nothing to transform", hint="give --composite 10D, --smooth whittaker:1000 or savgol:7:2, or both"
        )
    if options.composite is None and options.interpolate != "none":
        raise UsageError("--interpolate fills periods, and there are none", hint="add --composite 10D")
    periods = None if options.composite is None else Periods.parse(options.composite)
    require_bands(store.bands, options.statistic)
    return periods, None if options.smooth is None else parse_smoothing(options.smooth)


def _dates(store: SeriesStore, report: Reporter) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Mask, day and year of the rows, in parts; no value is read."""
    whole = store.dataset()
    with report.task("reading dates", len(store)) as task:
        for rows in store.chunks(_SHARD):
            part = whole[["mask", "day", "year"]].isel(parcel=rows)
            yield part["mask"].to_numpy(), part["day"].to_numpy(), part["year"].to_numpy()
            task.advance(rows.stop - rows.start)


def _check_splits(old: Path, new: Path, *, overwrite: bool) -> None:
    """Refuse a folder whose splits cannot give way to those of a store.

    Raises:
        UsageError: they are those of another store in the folder.
        OutputExistsError: they are in the way, and `overwrite` is false.
    """
    there, here = old.parent / SPLITS, new.parent / SPLITS
    if not here.is_dir() or _alike(there, here):
        return
    others = [each for each in new.parent.glob("*.zarr") if each.resolve() != new.resolve()]
    if others and there.is_dir():
        raise UsageError(
            f"{here} holds the splits of {others[0]}, and {old} has others of its own",
            hint="give each a folder of its own: choose another output with -o",
        )
    if not others and there.is_dir():
        guard_output(here, overwrite=overwrite, folder=True)


def _keep_splits(old: Path, new: Path) -> None:
    """Published lists of parcels stand beside a store; rows are the same in both. Those of a store that was replaced
    are replaced too, unless another store is beside them."""
    there, here = old.parent / SPLITS, new.parent / SPLITS
    if _alike(there, here):
        return
    if there.is_dir():
        with atomic_output(here) as part:
            shutil.copytree(there, part)
    elif not any(each.resolve() != new.resolve() for each in new.parent.glob("*.zarr")):
        remove(here)


def _alike(there: Path, here: Path) -> bool:
    """Whether two folders of splits are one, hold the same, or are both absent."""
    if there.resolve() == here.resolve() or not (there.is_dir() or here.is_dir()):
        return True
    return there.is_dir() and here.is_dir() and sha256_tree(there) == sha256_tree(here)


def observed(series: ParcelSeries, source: dict[str, Any]) -> np.ndarray:
    """(N, T) bool: clear dates that were observed, without those that a transform filled."""
    filled = any(step.get("interpolate") == "linear" for step in source.get("transforms", ()))
    return series.mask & (series.pixels > 0) if filled and series.pixels is not None else series.mask
