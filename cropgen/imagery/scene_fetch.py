"""`fetch scenes`: search a catalogue for what shows parcels, and bring the windows and bands needed.

    data/<name>/items.json                      what the search found
    data/<name>/scenes/<tile>/<date>/<band>.tif  a window each, see scene_files.py
    data/<name>/scenes/ledger.jsonl             what each of them is

A window holds all parcels of a tile, a margin and whole blocks. A run that broke off is continued by the same command:
files whose source, window and calibration are as the ledger says are not fetched again. Where a granule is here in
another processing, its files are replaced. What is wrong with one file (it is gone, or damaged at its source) is told
at the end, and the others come; no network, no credentials and no space end the run at once.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path

import geopandas as gpd
import pandas as pd

from cropgen.core.errors import CorruptInputError, CropgenError, DataError, MissingInputError, UnfinishedError
from cropgen.core.files import remove, sha256_file
from cropgen.core.locking import exclusive
from cropgen.core.progress import Reporter
from cropgen.imagery.catalogs import Catalog
from cropgen.imagery.checksums import COPIES, Checksum, verified_copy
from cropgen.imagery.remote import Access, Again, address_host, open_raster, patiently, version_of
from cropgen.imagery.scene_files import Ledger, Piece, covers, read_piece, seems_corrected, window_of, write_piece
from cropgen.imagery.scene_plan import ParcelBoxes, Target, estimate, plan_targets, wanted_bands
from cropgen.imagery.stac import Query, newest, read_items, remote_header, search, write_items
from cropgen.imagery.stac_items import Item, parse_item
from cropgen.series.geometry import read_layer

SCENES, ITEMS = "scenes", "items.json"


@dataclass(frozen=True)
class SceneQuery:
    """Which scenes.

    Arguments:
        first, last: ISO dates, both included.
        max_cloud: per cent of an item.
        bands: beside the scene classification; empty: all that look at the surface.
    """

    catalog: Catalog
    first: str
    last: str
    max_cloud: float = 60.0
    bands: tuple[str, ...] = ()


@dataclass
class ScenePlan:
    """What a search found.

    Arguments:
        documents: the items as the catalogue gave them.
        here: files of which some version is here.
        estimate: bytes of the files that are not.
    """

    documents: list[dict[str, object]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    here: int = 0
    estimate: int = 0

    @property
    def items(self) -> int:
        return len({target.item.id for target in self.targets})

    @property
    def dates(self) -> list[str]:
        return sorted({target.item.date for target in self.targets})

    @property
    def tiles(self) -> list[str]:
        return sorted({target.item.tile for target in self.targets})


def plan_scenes(
    query: SceneQuery, parcels: Sequence[Path], folder: Path, access: Access, report: Reporter
) -> ScenePlan:
    """Search, and tell which windows of what was found are needed; nothing is written.

    Arguments:
        folder: `data/<name>`.

    Raises:
        DataError: nothing was found, or the parcels cannot be used.
        UnfinishedError, CropgenError: see `cropgen.imagery.stac.search`.
    """
    boxes = ParcelBoxes(_joined(parcels))
    pieces = boxes.pieces()
    report.info(f"searching {query.catalog.url} in {len(pieces)} piece{'s' if len(pieces) > 1 else ''} of ground")
    documents = search(query.catalog, Query(query.first, query.last, query.max_cloud, pieces), access)
    found = [parse_item(document) for document in documents]
    ledger = Ledger.read(folder / SCENES)
    folders = ledger.folders([*_before(folder / ITEMS), *found])
    targets = plan_targets(newest(found, report), boxes, wanted_bands(query.bands), folders, access, report)
    if not targets:
        raise DataError(
            f"{query.catalog.name} has no scene of these parcels from {query.first} to {query.last} with at most "
            f"{query.max_cloud:g} % cloud ({len(documents)} items found)",
            hint="widen --from, --to or --max-cloud, or name another --catalog",
        )
    used = {target.item.id for target in targets}
    missing = [target for target in targets if not ledger.has(target)]
    _tell_mixtures(targets, ledger, report)
    return ScenePlan(
        [document for document in documents if document["id"] in used], targets, len(targets) - len(missing),
        estimate(missing, access),
    )  # fmt: skip


def _before(path: Path) -> list[Item]:
    """What the search before found, where it can be read: lines of older ledgers need it."""
    try:
        return [parse_item(document) for document in read_items(path)[0]] if path.is_file() else []
    except DataError:
        return []


def _tell_mixtures(targets: Sequence[Target], ledger: Ledger, report: Reporter) -> None:
    """Warn of files of another processing that stay beside those of a plan, because their bands are not asked for."""
    items, paths = {target.path.rpartition("/")[0]: target.item.id for target in targets}, {t.path for t in targets}
    left = [r for r in ledger.all() if items.get(r.folder, r.item) != r.item and r.path not in paths]
    if left:
        report.warn(
            f"{len(left)} files of other items stay beside those of newer ones, first {left[0].path} of "
            f"{left[0].item}; ask for {', '.join(sorted({r.band for r in left}))} with --bands to replace them"
        )


def _joined(parcels: Sequence[Path]) -> gpd.GeoDataFrame:
    frames = [read_layer(path, columns=())[["geometry"]] for path in parcels]
    same = [frame.to_crs(frames[0].crs) for frame in frames]
    return gpd.GeoDataFrame(pd.concat(same, ignore_index=True), geometry="geometry", crs=frames[0].crs)


def fetch_scenes(plan: ScenePlan, query: SceneQuery, folder: Path, access: Access, report: Reporter, jobs: int) -> int:
    """Bring what a plan needs and is not here.

    Returns:
        Files that were brought.

    Raises:
        UnfinishedError: the network failed, the disk is full, or files are missing at their source; what came is kept.
        CropgenError: the server refuses.
    """
    with exclusive(folder, report):
        for left in folder.glob(f"{COPIES}*"):
            remove(left)
        _require_space(plan, folder)
        write_items(folder / ITEMS, query.catalog, plan.documents)
        (folder / SCENES).mkdir(exist_ok=True)
        courier = _Courier(folder / SCENES, Ledger.read(folder / SCENES), access, report)
        return _bring_all(plan.targets, courier, report, jobs)


def _require_space(plan: ScenePlan, folder: Path) -> None:
    free = shutil.disk_usage(folder).free
    if plan.estimate > free:
        raise UnfinishedError(
            f"{folder} needs about {plan.estimate / 1e9:,.2f} GB and has {free / 1e9:,.2f} GB free",
            hint="free space, choose another --workspace, or ask for fewer --bands or dates",
        )


def _bring_all(targets: Sequence[Target], courier: _Courier, report: Reporter, jobs: int) -> int:
    failed: list[str] = []
    brought = 0
    with ThreadPoolExecutor(jobs) as pool, report.task("fetching scenes (files)", len(targets)) as task:
        waiting = [pool.submit(courier.bring, target) for target in targets]
        try:
            for done in as_completed(waiting):
                try:
                    brought += done.result()
                except DataError as error:
                    failed.append(error.message)
                task.advance()
        finally:
            courier.stop.set()
            pool.shutdown(cancel_futures=True)
    if failed:
        raise UnfinishedError(
            f"{len(failed)} of {len(targets)} files cannot be fetched: {sorted(failed)[0]}",
            hint="the others are here; the same command tries these again",
        )
    return brought


class _Courier:
    """Brings files; safe to use from several threads."""

    def __init__(self, folder: Path, ledger: Ledger, access: Access, report: Reporter) -> None:
        self.stop = threading.Event()
        self._folder = folder
        self._ledger = ledger
        self._access = access
        self._report = report
        self._doubted: set[str] = set()

    def bring(self, target: Target) -> bool:
        """Have one file; true where it had to be brought."""
        address, access = target.asset.address, self._access
        version = patiently(lambda: version_of(address, access), access, self.stop)
        source = target.asset.checksum or f"{version.tag} {version.size}"
        grid = target.asset.grid or remote_header(address, access).grid
        if self._ledger.holds(target, source, window_of(grid, target)):
            return False
        checksum = Checksum.parse(target.asset.checksum) if covers(window_of(grid, target), grid) else None
        piece = self._read(target, checksum)
        self._doubt(piece, target)
        self._ledger.put(write_piece(piece, target, source, self._folder, verified=checksum is not None))
        return True

    def _read(self, target: Target, checksum: Checksum | None) -> Piece:
        """Read the window of a target; a file that is needed whole and has a checksum is brought whole and verified."""
        address, access = target.asset.address, self._access

        def window(place: str) -> Piece:
            return open_raster(place, access, lambda raster: read_piece(raster, target, self.stop))

        def attempt() -> Piece:
            if checksum is None:
                return window(address)
            with verified_copy(address, access, checksum, self._folder.parent, self.stop) as copy:
                return window(str(copy))

        try:
            return patiently(attempt, access, self.stop)
        except UnfinishedError as error:
            if self.stop.is_set():
                raise
            try:
                version_of(address, access)
            except (Again, CropgenError):
                raise error from None
            raise CorruptInputError(error.message, hint=f"it is damaged at {address_host(address)}") from error

    def _doubt(self, piece: Piece, target: Target) -> None:
        if target.item.id in self._doubted or not seems_corrected(piece, target):
            return
        self._doubted.add(target.item.id)
        self._report.warn(
            f"{target.item.id}: much of {target.asset.band} is below zero with the offset that the catalogue states "
            f"({target.asset.offset:g}); it may be taken off already. Another --collection or --catalog may say better"
        )


@dataclass(frozen=True)
class Verdict:
    """A fetched file read again: `ok`, `missing` or `damaged`."""

    path: str
    state: str
    expected: str
    got: str


def verify_scenes(folder: Path, report: Reporter) -> list[Verdict]:
    """Read every file of a folder of scenes again and compare it with the ledger.

    Raises:
        MissingInputError: nothing was fetched there.
    """
    records = Ledger.read(folder / SCENES).all()
    if not records:
        raise MissingInputError(f"no scenes were fetched into {folder}", hint="name the folder with --name")
    found = []
    with report.task("verifying scenes (files)", len(records)) as task:
        for record in records:
            path = folder / SCENES / record.path
            got = sha256_file(path) if path.is_file() else ""
            state = "ok" if got == record.sha256 else "damaged" if got else "missing"
            found.append(Verdict(record.path, state, record.sha256, got))
            task.advance()
    return found
