"""`aggregate` and `import`: two ways to a series store of one's own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cropgen.api.requests import require_name, require_year
from cropgen.core.errors import UsageError
from cropgen.core.files import guard_output, require_input
from cropgen.core.paths import Workspace
from cropgen.core.progress import Reporter, Silent
from cropgen.core.recipe import validate
from cropgen.core.tally import Tally

if TYPE_CHECKING:
    from cropgen.imagery.channels import Addition
    from cropgen.imagery.options import AggregateOptions


@dataclass(frozen=True)
class StoreResult:
    """What went into a series store.

    Arguments:
        dropped: reason → how many are left out, and the first ids.
    """

    series: Path
    rows: int
    years: tuple[int, ...]
    bands: tuple[str, ...]
    classes: int
    dropped: dict[str, Tally[str]] = field(default_factory=dict)
    dry_run: bool = False


def _store_path(workspace: Workspace, name: str | None, output: Path | None, default: str) -> Path:
    if name is not None and output is not None:
        raise UsageError("--name and --output exclude each other", hint="--output is the store itself")
    require_name(name)
    return output or workspace.data / (name or default) / "series.zarr"


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in options.items() if value is not None}


def aggregate(
    workspace: Workspace,
    scenes: Path,
    parcels: Sequence[Path],
    *,
    name: str | None = None,
    output: Path | None = None,
    columns: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    engine: str | None = None,
    jobs: int = 1,
    scheduler: str | None = None,
    resume: bool = False,
    keep_work: bool = False,
    add: Sequence[str] = (),
    overwrite: bool = False,
    dry_run: bool = False,
    report: Reporter | None = None,
) -> StoreResult:
    """Average the clear pixels of every band over every parcel and date.

    Arguments:
        columns: fields of `ParcelColumns` that are not to be recognised; None means recognised.
        options: fields of `AggregateOptions` that differ from the defaults; None means the default.
        engine, jobs, scheduler: where acquisitions are computed, see `cropgen.core.engine`.
        resume: use what an earlier run for the same output left, and replace the output.
        keep_work: leave the results of single acquisitions for a later `resume`.
        add: further channels as KIND=PATH, see `cropgen.imagery.channels`.

    Raises:
        UsageError, DataError, UnfinishedError: see `cropgen.imagery.aggregate`.
    """
    from cropgen.core.engine import Engine
    from cropgen.imagery.aggregate import AggregateOptions
    from cropgen.imagery.aggregate import aggregate as run_aggregation
    from cropgen.imagery.channels import Addition

    report = report or Silent()
    require_year((columns or {}).get("year"))
    require_input(scenes, "scenes")
    additions = [Addition.parse(text) for text in add]
    for one in additions:
        one.check()
    for path in parcels:
        require_input(path, "parcels")
    default = scenes.resolve().parent.name if scenes.name in {"scenes", "imagery"} else scenes.stem
    store = _store_path(workspace, name, output, default)
    guard_output(store, overwrite=overwrite or resume)
    place = Engine.chosen(engine, jobs, scheduler)
    chosen = validate(AggregateOptions, _given(options or {}) | {"parcels": _given(columns or {})}, where="arguments")
    report.info(f"aggregating {scenes} over {', '.join(str(p) for p in parcels)} into {store}")
    if dry_run:
        return StoreResult(store, 0, (), (), 0, dry_run=True)
    plain = store.with_name(f".{store.name}.optical") if additions else store
    done = run_aggregation(
        scenes, list(parcels), plain, chosen, report,
        overwrite=overwrite or bool(additions), engine=place, resume=resume, keep_work=keep_work or bool(additions),
    )  # fmt: skip
    if additions:
        _add(additions, plain, store, parcels, chosen, report, overwrite=overwrite or resume, keep_work=keep_work)
    return stored(store, done.dropped)


def _add(
    additions: Sequence[Addition], plain: Path, store: Path, parcels: Sequence[Path], options: AggregateOptions,
    report: Reporter, *, overwrite: bool, keep_work: bool,
) -> None:  # fmt: skip
    """Join further channels to an aggregated store, which is then removed; what it was made of stays for `resume` until
    the channels are there."""
    from cropgen.core.files import remove
    from cropgen.imagery.channels import add_channels, open_channels
    from cropgen.series.store import SeriesStore

    try:
        with open_channels(additions, list(parcels), options, store, report) as channels:
            add_channels(SeriesStore.open(plain), store, channels, report, overwrite=overwrite)
    finally:
        remove(plain)
    if not keep_work:
        remove(plain.with_name(f".{plain.name}.work"))


def import_table(
    workspace: Workspace,
    table: Path,
    *,
    parcels: Path | None = None,
    mapping: Path | None = None,
    options: Mapping[str, Any] | None = None,
    name: str | None = None,
    output: Path | None = None,
    overwrite: bool = False,
    dry_run: bool = False,
    report: Reporter | None = None,
) -> StoreResult:
    """Read a long or wide table of band values.

    Arguments:
        mapping: TOML file with fields of `TableMapping`.
        options: fields of `TableMapping`; they win over the file. None means the default.

    Raises:
        UsageError, DataError: see `cropgen.series.tables`.
    """
    import tomllib

    from cropgen.series.mapping import TableMapping
    from cropgen.series.tables import import_table as run_import

    report = report or Silent()
    require_year((options or {}).get("year"))
    require_input(table, "table")
    document: dict[str, Any] = {}
    if mapping is not None:
        TableMapping.read(require_input(mapping, "mapping"))
        document = tomllib.loads(mapping.read_text(encoding="utf-8"))
    chosen = validate(TableMapping, document | _given(options or {}), where="arguments")
    stem = table.name.partition(".")[0]
    store = _store_path(workspace, name, output, stem)
    guard_output(store, overwrite=overwrite)
    report.info(f"importing {table} into {store}")
    if dry_run:
        return StoreResult(store, 0, (), (), 0, dry_run=True)
    done = run_import(table, store, chosen, parcels, report, overwrite=overwrite)
    return stored(store, done.dropped)


def stored(store: Path, dropped: dict[str, Tally[str]]) -> StoreResult:
    """What a finished store holds."""
    import numpy as np

    from cropgen.series.store import SeriesStore

    opened = SeriesStore.open(store)
    years = tuple(np.unique(opened.column("year")).tolist())
    return StoreResult(store, len(opened), years, opened.bands, len(opened.legend), dropped)
