"""`transform`: a series store into composites, smoothed or gap-filled series."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cropgen.api.data import StoreResult, stored
from cropgen.core.errors import UsageError
from cropgen.core.files import guard_output, require_input
from cropgen.core.paths import Workspace
from cropgen.core.progress import Reporter, Silent
from cropgen.core.recipe import validate


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
        name, output: the new store is data/NAME/series.zarr, or `output` itself.
        options: fields of `TransformOptions` that differ from the defaults; None means the default.

    Raises:
        UsageError, DataError: see `cropgen.series.rewrite`.
    """
    from cropgen.series.rewrite import TransformOptions, transform_store
    from cropgen.series.store import SeriesStore

    report = report or Silent()
    path = require_input(series, "series store")
    path = path / "series.zarr" if (path / "series.zarr").is_dir() else path
    if (name is None) == (output is None):
        raise UsageError("the new store needs a name", hint="give --name NAME, or --output STORE")
    store = output or workspace.data / str(name) / "series.zarr"
    guard_output(store, overwrite=overwrite)
    given = {key: value for key, value in (options or {}).items() if value is not None}
    chosen = validate(TransformOptions, given, where="arguments")
    report.info(f"transforming {path} into {store}")
    if dry_run:
        return StoreResult(store, 0, (), (), 0, dry_run=True)
    transform_store(SeriesStore.open(path), store, chosen, report, overwrite=overwrite)
    return stored(store, {})
