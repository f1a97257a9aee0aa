"""`transform`: a series store into composites, smoothed or gap-filled series."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cropgen.api.data import StoreResult, stored
from cropgen.api.requests import require_name
from cropgen.core.errors import UsageError
from cropgen.core.files import guard_output, require_input
from cropgen.core.paths import Workspace
from cropgen.core.progress import Reporter, Silent
from cropgen.core.recipe import validate

if TYPE_CHECKING:
    from cropgen.series.rewrite import TransformOptions


def transform(
    workspace: Workspace,
    series: Path,
    *,
    name: str | None = None,
    output: Path | None = None,
    options: Mapping[str, Any] | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    report: Reporter | None = None,
) -> StoreResult:
    """Write the composites, smoothed or gap-filled series of a store as a new store.

    Arguments:
        series: a store, or the folder it is in.
        name, output: the new store is data/NAME/series.zarr, or `output` itself; with neither, NAME is the name of the
            data set and what is done to it, such as demo-10D or demo-month-median-filled.
        options: fields of `TransformOptions` that differ from the defaults; None means the default.

    Raises:
        UsageError, DataError: see `cropgen.series.rewrite`.
    """
    from cropgen.series.rewrite import TransformOptions, transform_store
    from cropgen.series.store import SeriesStore

    report = report or Silent()
    path = require_input(series, "series store")
    path = path / "series.zarr" if (path / "series.zarr").is_dir() else path
    if name is not None and output is not None:
        raise UsageError("the new store has two names", hint="give --name NAME or --output STORE, not both")
    require_name(name)
    given = {key: value for key, value in (options or {}).items() if value is not None}
    chosen = validate(TransformOptions, given, where="arguments")
    store = output or workspace.data / (name or _name_of(path, chosen)) / "series.zarr"
    guard_output(store, overwrite=overwrite)
    report.info(f"transforming {path} into {store}")
    if dry_run:
        return StoreResult(store, 0, (), (), 0, dry_run=True)
    transform_store(SeriesStore.open(path), store, chosen, report, overwrite=overwrite)
    return stored(store, {})


def _name_of(path: Path, options: TransformOptions) -> str:
    done = [path.parent.name if path.name == "series.zarr" else path.stem]
    if options.composite:
        done += [options.composite] if options.statistic == "mean" else [options.composite, options.statistic]
    done += ["smooth"] if options.smooth else []
    done += ["filled"] if options.interpolate != "none" else []
    return "-".join(done)
