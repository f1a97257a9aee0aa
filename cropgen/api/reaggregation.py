"""How the series of a run were aggregated from scenes, so that others are aggregated alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cropgen.core.errors import DataError, MissingInputError
from cropgen.core.paths import Workspace
from cropgen.core.recipe import TrainRecipe, validate
from cropgen.core.run import RunFolder
from cropgen.models.checkpoint import load_model
from cropgen.series.site import POSITION
from cropgen.series.store import SeriesStore

if TYPE_CHECKING:
    from cropgen.imagery.aggregate import AggregateOptions

_INSTEAD = "make the series of these parcels as those were made, and give them with --data instead of --scenes"


def options_like(workspace: Workspace, run: Path, columns: Mapping[str, Any]) -> AggregateOptions:
    """The options by which the series of a run were aggregated, for the parcels of another layer: its bands alone, and
    pixel sets where the run looks at them.

    Arguments:
        columns: fields of `ParcelColumns` of that layer.

    Raises:
        MissingInputError: the run did not record how its series were made, and they are gone.
        DataError: they are no aggregate of scenes, were changed since, or the run needs more than scenes give.
    """
    from cropgen.imagery.aggregate import AggregateOptions

    folder, spec = RunFolder(run), load_model(run).spec
    source = _source(workspace, folder)
    if source.get("kind") != "aggregate" or source.get("transforms"):
        kind = "series that were transformed" if source.get("transforms") else f"{source.get('kind', 'other')} series"
        raise DataError(
            f"--scenes: {folder.run_id} learnt from {kind}, not from an aggregate of scenes as it is made of these",
            hint=_INSTEAD,
        )
    added = {band for channel in source.get("channels", ()) for band in channel["bands"]}
    beyond = [
        name for name in (*spec.bands, *spec.site) if name in added or (name in spec.site and name not in POSITION)
    ]
    if beyond:
        raise DataError(
            f"--scenes: {folder.run_id} needs {', '.join(dict.fromkeys(beyond))} too, which scenes do not give",
            hint=_INSTEAD,
        )
    made = validate(AggregateOptions, source["options"], where=f"options of the series of {folder.run_id}")
    bands = tuple(dict.fromkeys(_read_from(band, made) for band in spec.bands))
    changed = {"parcels": dict(columns), "bands": bands, "pixels": made.pixels if spec.pixel_bands else 0}
    return validate(AggregateOptions, made.model_dump() | changed, where="arguments")


def _source(workspace: Workspace, run: RunFolder) -> dict[str, Any]:
    """Where the series of a run come from: as the run recorded it, or as the store says where an older run did not.

    Raises:
        MissingInputError, DataError: see `options_like`.
    """
    data = run.read_manifest()["data"]
    if "source" in data:
        return data["source"]
    section = TrainRecipe.read(run.recipe).data
    where = workspace.root / section.series
    if not where.exists():
        raise MissingInputError(
            f"--scenes: {run.run_id} learnt from {where}, which is not there: how it was aggregated is not known",
            hint="put the series back, or aggregate the scenes with the same options and give the store with --data",
        )
    store = SeriesStore.open(where)
    if section.standardise == "none" and store.fingerprint() != data["fingerprint"]:
        raise DataError(
            f"--scenes: {where} is not the series that {run.run_id} learnt from: expected {data['fingerprint'][:12]}, "
            f"got {store.fingerprint()[:12]}",
            hint="put that series back, or train again on this one",
        )
    return store.source


def _read_from(band: str, made: AggregateOptions) -> str:
    """The band of the scenes that a band of the series is a statistic of."""
    suffixes = [f"_{name}" for name in made.statistics if name != "mean"]
    found = next((suffix for suffix in suffixes if band.endswith(suffix) and band not in made.bands), "")
    return band.removesuffix(found)
