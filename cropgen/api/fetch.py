"""`fetch`: the data sets, what of them is here, and how they come."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cropgen.core.errors import MissingInputError, UsageError
from cropgen.core.files import guard_output
from cropgen.core.paths import Workspace
from cropgen.core.progress import Reporter, Silent
from cropgen.core.tally import Tally

if TYPE_CHECKING:
    from cropgen.datasets.fetch import PlannedFile, Sources
    from cropgen.datasets.manifest import DatasetManifest, Selection


@dataclass(frozen=True)
class DatasetListing:
    """A data set and its state in a workspace."""

    name: str
    title: str
    years: tuple[int, ...]
    regions: tuple[str, ...]
    levels: tuple[str, ...]
    parcels: int
    classes: int
    size: str
    licence: str
    citation: str
    state: str


@dataclass(frozen=True)
class FetchRequest:
    """Which data set, which part of it, and how it may come.

    Arguments:
        name: of a manifest.
        regions, years, level: the part wanted; nothing named means the manifest's defaults.
        store: folder of `data/` for what is prepared; default: the data set's name.
        options: of the data set's reader.
        brought: a folder with the files, instead of the network.
        offline: no connection is opened.
        prepare: False stops when the files are here.
        keep_archives: archives stay beside what was unpacked.
        jobs, retries, timeout, limit_rate: see `cropgen.datasets.download.DownloadOptions`.
        manifests: a folder of manifests, instead of the package's.
        insecure: those manifests may name plain http.
        parcels: simulated by the demo region.
    """

    name: str
    regions: tuple[str, ...] = ()
    years: tuple[int, ...] = ()
    level: str | None = None
    store: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    brought: Path | None = None
    offline: bool = False
    prepare: bool = True
    keep_archives: bool = False
    jobs: int = 4
    retries: int = 5
    timeout: float = 30.0
    limit_rate: float | None = None
    manifests: Path | None = None
    insecure: bool = False
    parcels: int | None = None
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class FetchedFile:
    """One file of a fetch.

    Arguments:
        download_bytes: published size of what is downloaded, None where it is not.
        exact: that size is not rounded.
        disk_bytes: published size of what is left on disk, archives unpacked.
        here: it is in place.
        kept: bytes of an unfinished download.
        vouched: sha256, md5, or first use.
    """

    path: str
    url: str
    download_bytes: int | None
    exact: bool
    disk_bytes: int | None
    here: bool
    kept: int
    vouched: str


@dataclass(frozen=True)
class FetchResult:
    """What was brought, and where.

    Arguments:
        scenes: a folder of scenes, for the demo region.
        parcels: parcel layers, where there are any.
        series: the prepared container, where there is one.
        rows: parcels in it.
        dropped: reason → how many, and the first ids.
    """

    name: str
    folder: Path
    facts: dict[str, Any]
    dry_run: bool
    scenes: Path | None = None
    parcels: tuple[Path, ...] = ()
    series: Path | None = None
    files: tuple[FetchedFile, ...] = ()
    rows: int = 0
    dropped: dict[str, Tally[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Simulated:
    """The demo region in a workspace."""

    name: str
    folder: Path
    scenes: Path
    parcels: tuple[Path, ...]
    facts: dict[str, Any]


@dataclass(frozen=True)
class VerifyResult:
    """What a verification found: per file its data set, path, state, digests expected and got."""

    files: tuple[dict[str, str], ...]

    @property
    def sound(self) -> bool:
        return all(file["state"] == "ok" for file in self.files)


def list_datasets(
    workspace: Workspace, *, manifests: Path | None = None, insecure: bool = False
) -> list[DatasetListing]:
    """Every data set that can be fetched, and what of it is here."""
    from cropgen.datasets.catalog import list_datasets as read_manifests
    from cropgen.datasets.catalog import state_in

    return [
        DatasetListing(
            m.name, m.title, m.years, m.regions, m.levels, m.parcels, m.classes, _bytes(m.size_bytes), m.licence,
            m.citation, state_in(m, workspace.data).text,
        )
        for m in read_manifests(manifests, insecure=insecure)
    ]  # fmt: skip


def _bytes(size: int) -> str:
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def simulate(
    workspace: Workspace,
    *,
    parcels: int | None = None,
    seed: int | None = None,
    name: str = "demo",
    overwrite: bool = False,
    report: Reporter | None = None,
) -> Simulated:
    """Make the demo region in the workspace.

    Arguments:
        name: folder of `data/`.

    Raises:
        OutputExistsError: it is here and `overwrite` is false.
    """
    from cropgen.datasets.demo import DEFAULT_SEED, FULL_REGION, make_demo

    folder = workspace.data / name
    guard_output(folder, overwrite=overwrite, folder=True)
    wanted = parcels or FULL_REGION
    region = make_demo(
        folder, parcels=wanted, seed=DEFAULT_SEED if seed is None else seed, overwrite=overwrite, report=report
    )
    return Simulated(
        name, folder, region.scenes, tuple(region.parcels.values()), {"parcels": wanted, "scenes": region.dates}
    )


def fetch(workspace: Workspace, request: FetchRequest, *, report: Reporter | None = None) -> FetchResult:
    """Bring a data set into the workspace, verified, and prepare it for training.

    Raises:
        UsageError: there is no such data set, region, year or level.
        OutputExistsError: something else was prepared there, and `overwrite` is false.
        MissingInputError: files are missing and may not be downloaded.
        UnfinishedError: a download broke off; the same call goes on behind what came.
        DataError: a file is not what it should be.
    """
    from cropgen.datasets.catalog import find_dataset

    manifest = find_dataset(request.name, request.manifests, insecure=request.insecure)
    reporter = report or Silent()
    if manifest.kind == "simulated":
        return _fetch_simulated(workspace, manifest, request, reporter)
    selection = manifest.select(request.regions, request.years, request.level)
    return _fetch_files(workspace, manifest, selection, request, reporter)


def _fetch_simulated(
    workspace: Workspace, manifest: DatasetManifest, request: FetchRequest, report: Reporter
) -> FetchResult:
    from cropgen.datasets.demo import DEFAULT_YEARS, FULL_REGION

    if request.regions or request.years or request.level or request.brought or request.options:
        raise UsageError(f"{manifest.name} is simulated as a whole", hint="only --parcels changes what is made")
    name = request.store or manifest.name
    folder = workspace.data / name
    facts = {"data set": manifest.title, "licence": manifest.licence, "parcels": request.parcels or FULL_REGION}
    if request.dry_run:
        guard_output(folder, overwrite=request.overwrite, folder=True)
        layers = tuple(folder / f"parcels_{year}.gpkg" for year in DEFAULT_YEARS)
        return FetchResult(manifest.name, folder, facts, dry_run=True, scenes=folder / "scenes", parcels=layers)
    made = simulate(workspace, parcels=request.parcels, name=name, overwrite=request.overwrite, report=report)
    return FetchResult(manifest.name, folder, facts | made.facts, False, scenes=made.scenes, parcels=made.parcels)


def _fetch_files(
    workspace: Workspace, manifest: DatasetManifest, selection: Selection, request: FetchRequest, report: Reporter
) -> FetchResult:
    from cropgen.core.locking import exclusive
    from cropgen.datasets.fetch import (
        describe_options,
        fetch_files,
        guard_prepared,
        has_reader,
        plan,
        prepare,
        reader_options,
    )

    if request.parcels is not None:
        raise UsageError(f"--parcels is for the demo region, not {manifest.name}", hint="use --regions")
    home, folder = workspace.data / manifest.name, workspace.data / (request.store or manifest.name)
    preparing = request.prepare and has_reader(manifest.name)
    if request.dry_run:
        files = tuple(_described(p) for p in plan(manifest, selection, home))
        facts = _facts(manifest, selection, files)
        if preparing and (options := describe_options(manifest.name)):
            facts["--set"] = options
        return FetchResult(manifest.name, folder, facts, True, files=files)
    options = reader_options(manifest.name, request.options) if preparing else None
    if options is not None:
        guard_prepared(folder, selection, options, overwrite=request.overwrite)
    if manifest.licence_note:
        report.info(f"licence: {manifest.licence}; {' '.join(manifest.licence_note.split())}")
    with exclusive(home, report):
        source = fetch_files(manifest, selection, home, _sources(request), report)
        files = tuple(_described(p) for p in plan(manifest, selection, home))
        facts = _facts(manifest, selection, files)
        if options is None:
            return FetchResult(manifest.name, source, facts, False, files=files)
        done = prepare(manifest, selection, options, source, home, folder, report, overwrite=request.overwrite)
    parcels, dropped = tuple(done.parcels), dict(done.dropped)
    return FetchResult(manifest.name, folder, facts, False, None, parcels, done.series, files, done.rows, dropped)


def _sources(request: FetchRequest) -> Sources:
    from cropgen.datasets.download import DownloadOptions
    from cropgen.datasets.fetch import Sources

    options = DownloadOptions(
        jobs=request.jobs, retries=request.retries, timeout=request.timeout, limit_rate=request.limit_rate,
        insecure=request.insecure,
    )  # fmt: skip
    return Sources(request.brought, request.offline, request.keep_archives, options)


def _described(planned: PlannedFile) -> FetchedFile:
    file = planned.file
    vouched = "sha256" if file.sha256 else "md5" if file.md5 else "first use"
    size = file.size_bytes or file.about_bytes
    disk = file.bytes_on_disk or (file.about_bytes if file.unpack is None else None)
    return FetchedFile(
        file.path, file.url, size, file.size_bytes is not None, disk, planned.here, planned.kept, vouched
    )


def _facts(manifest: DatasetManifest, selection: Selection, files: tuple[FetchedFile, ...]) -> dict[str, Any]:
    facts: dict[str, Any] = {"data set": manifest.title, "licence": manifest.licence, "citation": manifest.citation}
    facts["regions"] = ", ".join(selection.regions)
    facts["years"] = ", ".join(str(year) for year in selection.years)
    if selection.level is not None:
        facts["level"] = selection.level
    if manifest.retired is not None:
        facts["not served"] = " ".join(manifest.retired.split())
    if files:
        known = [f.disk_bytes for f in files if f.disk_bytes is not None]
        unknown = len(files) - len(known)
        facts["on disk"] = f"{sum(known):,} bytes" + (f", and {unknown} files of unpublished size" if unknown else "")
        facts["here"] = f"{sum(f.here for f in files)} of {len(files)} files"
    return facts


def verify(
    workspace: Workspace, name: str | None = None, *, manifests: Path | None = None, insecure: bool = False,
    report: Reporter | None = None,
) -> VerifyResult:  # fmt: skip
    """Read every fetched file again and compare it with what it was.

    Arguments:
        name: one data set; None means all that are here.

    Raises:
        UsageError: there is no such data set.
        MissingInputError: nothing was fetched.
    """
    from cropgen.core.locking import exclusive
    from cropgen.datasets.catalog import find_dataset
    from cropgen.datasets.catalog import list_datasets as read_manifests
    from cropgen.datasets.inventory import verify as verify_files
    from cropgen.datasets.layout import FILES
    from cropgen.datasets.lock import FetchLock

    reporter = report or Silent()
    known = read_manifests(manifests, insecure=insecure)
    chosen = known if name is None else [find_dataset(name, manifests, insecure=insecure)]
    found: list[dict[str, str]] = []
    for manifest in chosen:
        home = workspace.data / manifest.name
        entries = FetchLock.read(home).all()
        if not entries:
            continue
        total = sum(e.size_bytes for e in entries) / 1e6
        with exclusive(home, reporter), reporter.task(f"verifying {manifest.name} (MB)", round(total)) as task:
            advance = lambda n: task.advance(n / 1e6)  # noqa: E731 - one line, used once
            verdicts = verify_files(home / FILES, FetchLock.read(home), reporter, advance)
        found += [{"dataset": manifest.name, **vars(verdict)} for verdict in verdicts]
    if not found:
        what = f"of {name} " if name is not None else ""
        raise MissingInputError(
            f"nothing {what}was fetched into {workspace.data}", hint="files read in place by --from are not recorded"
        )
    return VerifyResult(tuple(found))
