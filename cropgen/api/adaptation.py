"""A run adapted to the parcels it is to predict: what `predict --adapt` does first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from cropgen.api.training import keep_typicality
from cropgen.core.errors import OutputExistsError
from cropgen.core.files import atomic_output
from cropgen.core.paths import Workspace
from cropgen.core.progress import Reporter
from cropgen.core.run import RunFolder
from cropgen.prediction.predict import PredictOptions, parcel_rows
from cropgen.training.adapt import (
    Target,
    accepted,
    adapted_name,
    fit_target,
    reread,
    same_adaptation,
    target_rows,
    write_adapted,
)


@dataclass(frozen=True)
class Adapted:
    """The run to predict with.

    Arguments:
        run: the adapted run, or the parent where there was nothing to adapt to or the guard refused.
        rows: parcel seasons that were, or would be, learnt from without labels.
    """

    run: Path
    rows: int


def adapt(
    workspace: Workspace,
    run: Path,
    parcels: Path,
    series: Path,
    options: PredictOptions,
    report: Reporter,
    *,
    dry_run: bool = False,
) -> Adapted:
    """Fit a run again with the parcels to be predicted as unlabelled rows, into a run folder of its own.

    The folder lies beside the run and is called `<run>-adapted-<name of the layer>`; one that was made from the same
    run and the same series is used again.

    Raises:
        UsageError: the run is adapted already, or its model cannot adapt.
        MissingInputError: the series it learnt from are gone.
        OutputExistsError: a run of that name was adapted to other series.
        DataError: those series have changed, the parcels have none, or their season is not over.
    """
    parent = RunFolder(run)
    planned = reread(parent, workspace.root, report)
    store, rows = parcel_rows(run, parcels, series, options, report)
    target = Target(parcels.stem, store, target_rows(planned, store, rows, parent.read_manifest()["seed"]))
    made = RunFolder(run.with_name(adapted_name(parent, target.name)))
    if not len(target.rows):
        report.info("every parcel with a clear date was learnt from already: nothing to adapt to")
        return Adapted(run, 0)
    if same_adaptation(made, parent, target):
        report.info(f"{made.run_id} is adapted to these parcels already")
        return Adapted(made.path, len(target.rows))
    if made.path.exists() and not options.overwrite:
        raise OutputExistsError(
            f"{made.path} was adapted to other series", hint="rename the parcel layer, or pass --overwrite"
        )
    if dry_run:
        return Adapted(made.path, len(target.rows))
    report.info(f"adapting {parent.run_id} to {len(target.rows)} parcels of {target.name}, without labels")
    with made.lock():
        fitted, data = fit_target(parent, planned, target, report)
        if not accepted(fitted):
            return Adapted(run, 0)
        with atomic_output(made.path) as part:
            part.mkdir()
            write_adapted(RunFolder(part), made.run_id, parent, fitted, target, workspace.root)
            keep_typicality(RunFolder(part), fitted.model, replace(planned, data=data), report)
    return Adapted(made.path, len(target.rows))
