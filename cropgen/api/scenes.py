"""`fetch scenes`: Sentinel-2 over parcels, from a STAC catalogue into the workspace."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cropgen.api.fetch import VerifyResult
from cropgen.core.errors import MissingInputError, UsageError
from cropgen.core.files import require_input
from cropgen.core.paths import Workspace
from cropgen.core.progress import Reporter, Silent


@dataclass(frozen=True)
class ScenesRequest:
    """Which scenes, and how they come.

    Arguments:
        parcels: vector files; scenes come where they lie.
        first, last: ISO dates, both included.
        max_cloud: per cent of an item.
        catalog: a known name, an address, or the `catalog.json` of a static catalogue.
        collection, endpoint: in place of the catalogue's own.
        bands: beside the scene classification; empty: all that look at the surface.
        name: folder of `data/`; default: that of the parcel file.
        jobs, retries, timeout: files side by side, further attempts, seconds of silence that are a drop.
    """

    parcels: tuple[Path, ...]
    first: str
    last: str
    max_cloud: float = 60.0
    catalog: str = "earth-search"
    collection: str | None = None
    endpoint: str | None = None
    bands: tuple[str, ...] = ()
    name: str | None = None
    jobs: int = 4
    retries: int = 5
    timeout: float = 30.0
    dry_run: bool = False


@dataclass(frozen=True)
class ScenesResult:
    """What was found, and what of it was brought.

    Arguments:
        files: windows needed; `here` of them were here before, `fetched` were brought.
        estimated_bytes: of those that were not here.
    """

    name: str
    catalog: str
    scenes: Path
    items: int
    dates: tuple[str, ...]
    tiles: tuple[str, ...]
    files: int
    here: int
    estimated_bytes: int
    fetched: int
    dry_run: bool


def fetch_scenes(workspace: Workspace, request: ScenesRequest, *, report: Reporter | None = None) -> ScenesResult:
    """Search a catalogue for scenes of parcels, and bring the windows and bands needed.

    Raises:
        UsageError: dates, bands or catalogue are none.
        MissingDependencyError: `pystac-client` is not installed.
        DataError: nothing was found, or the parcels cannot be used.
        UnfinishedError: a part is here; the same call goes on.
        CropgenError: the server refuses.
    """
    from cropgen.imagery.catalogs import find_catalog
    from cropgen.imagery.scene_fetch import SCENES, SceneQuery, plan_scenes
    from cropgen.imagery.scene_fetch import fetch_scenes as bring
    from cropgen.imagery.stac import access_to

    reporter = report or Silent()
    for path in request.parcels:
        require_input(path, "parcels")
    first, last = _season(request)
    catalog = find_catalog(request.catalog, collection=request.collection, endpoint=request.endpoint)
    name = request.name or request.parcels[0].stem
    folder = workspace.data / name
    query = SceneQuery(catalog, first, last, request.max_cloud, request.bands)
    access = access_to(catalog, retries=request.retries, timeout=request.timeout)
    plan = plan_scenes(query, request.parcels, folder, access, reporter)
    reporter.info(
        f"{plan.items} items on {len(plan.dates)} dates in {len(plan.tiles)} tiles: {len(plan.targets)} files, "
        f"{plan.here} of them here; about {plan.estimate / 1e6:,.1f} MB to fetch"
    )
    fetched = 0 if request.dry_run else bring(plan, query, folder, access, reporter, request.jobs)
    return ScenesResult(
        name, catalog.name, folder / SCENES, plan.items, tuple(plan.dates), tuple(plan.tiles), len(plan.targets),
        plan.here, plan.estimate, fetched, request.dry_run,
    )  # fmt: skip


def _season(request: ScenesRequest) -> tuple[str, str]:
    """First and last day as YYYY-MM-DD, which is how catalogues want what ISO writes in several ways."""
    from datetime import date

    def day(flag: str, text: str) -> str:
        try:
            return date.fromisoformat(text).isoformat()
        except ValueError as error:
            raise UsageError(f"{flag} {text!r} is no date", hint=f"for example {flag} 2023-10-01") from error

    first, last = day("--from", request.first), day("--to", request.last)
    if first > last:
        raise UsageError(f"--from {first} comes after --to {last}", hint="exchange them")
    return first, last


def verify_scenes(workspace: Workspace, name: str | None = None, *, report: Reporter | None = None) -> VerifyResult:
    """Read every fetched window again and compare it with what it was.

    Arguments:
        name: a folder of `data/`; None means all that hold scenes.

    Raises:
        MissingInputError: nothing was fetched.
    """
    from cropgen.imagery.scene_fetch import SCENES
    from cropgen.imagery.scene_fetch import verify_scenes as verify
    from cropgen.imagery.scene_files import LEDGER

    found = sorted(path.parents[1] for path in workspace.data.glob(f"*/{SCENES}/{LEDGER}"))
    chosen = found if name is None else [workspace.data / name]
    if not chosen:
        raise MissingInputError(f"no scenes were fetched into {workspace.data}", hint="cropgen fetch scenes --help")
    verdicts = [(folder.name, verdict) for folder in chosen for verdict in verify(folder, report or Silent())]
    return VerifyResult(tuple({"dataset": folder, **vars(verdict)} for folder, verdict in verdicts))
