"""Fetching a data set: plan, download or bring, verify, unpack, prepare; see `layout` for what is where."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cropgen
from cropgen.core.errors import CropgenError, MissingInputError, OutputExistsError
from cropgen.core.files import require_input
from cropgen.core.progress import Reporter
from cropgen.core.recipe import validate
from cropgen.core.run import fingerprint
from cropgen.core.tally import Tally
from cropgen.datasets.download import DownloadOptions, download
from cropgen.datasets.inventory import adopt, bring_from, check_packed, clear, is_here, settle, usable_in_place
from cropgen.datasets.layout import FILES, PREPARED, SERIES
from cropgen.datasets.lock import FetchLock, LockedFile
from cropgen.datasets.manifest import DatasetManifest, RemoteFile, Selection
from cropgen.datasets.reader import READERS, UNPACKED, Prepared, Request, reader_of
from cropgen.datasets.transfer import Part

_SLACK = 1.02


@dataclass(frozen=True)
class Sources:
    """Where files come from.

    Arguments:
        brought: a folder of the user's, instead of the network.
        offline: no connection is opened.
        keep_archives: archives stay beside what was unpacked.
    """

    brought: Path | None = None
    offline: bool = False
    keep_archives: bool = False
    download: DownloadOptions = field(default_factory=DownloadOptions)


@dataclass(frozen=True)
class PlannedFile:
    """One file of a plan.

    Arguments:
        here: it was fetched and is in place.
        kept: bytes of an unfinished download.
    """

    file: RemoteFile
    here: bool
    kept: int


def plan(manifest: DatasetManifest, selection: Selection, folder: Path) -> list[PlannedFile]:
    """The files a selection needs and their state; nothing is changed."""
    lock, files = FetchLock.read(folder), folder / FILES
    planned = []
    for file in manifest.files_of(selection):
        planned.append(PlannedFile(file, is_here(file, files, lock), _kept(file, files)))
    return planned


def _kept(file: RemoteFile, files: Path) -> int:
    """Bytes of an unfinished download."""
    return Part(files / file.path).size


def fetch_files(
    manifest: DatasetManifest, selection: Selection, folder: Path, sources: Sources, report: Reporter
) -> Path:
    """Have every file of a selection in place, sound. No other process fetches into the folder meanwhile.

    Returns:
        The folder a reader reads: the data set's own, or the one that was brought.

    Raises:
        MissingInputError: files are missing and nothing may be fetched.
        UnfinishedError, CorruptInputError, CropgenError: see `cropgen.datasets.download.download`.
    """
    wanted, lock = manifest.files_of(selection), FetchLock.read(folder)
    if sources.brought is not None:
        require_input(sources.brought, "folder of files")
        if manifest.kind == "brought":
            return sources.brought
        if usable_in_place(wanted, sources.brought, folders=manifest.name in UNPACKED):
            check_packed(wanted, sources.brought, lock)
            return sources.brought
    if manifest.kind == "brought":
        raise MissingInputError(f"{manifest.name} cannot be downloaded: {_line(manifest.retired)}", hint="--from DIR")
    files = folder / FILES
    files.mkdir(parents=True, exist_ok=True)
    clear(wanted, files)
    missing = adopt(wanted, files, lock, report, keep_archives=sources.keep_archives)
    if missing and sources.brought is not None:
        bring_from(sources.brought, missing, files, lock, report, keep_archives=sources.keep_archives)
    elif missing and sources.offline:
        _refuse_offline(missing, files, report)
    elif missing:
        _download(missing, files, lock, sources, report)
    return files


def _line(text: str | None) -> str:
    return " ".join((text or "").split())


def _refuse_offline(missing: Sequence[RemoteFile], files: Path, report: Reporter) -> None:
    for file in missing:
        if file.optional:
            report.warn(f"{file.path} is left out: not here, and --offline")
    needed = [file.path for file in missing if not file.optional]
    if needed:
        raise MissingInputError(
            f"--offline, and {len(needed)} files are not here: {', '.join(needed[:5])}",
            hint=f"put them into {files}, name a folder with --from DIR, or fetch without --offline",
        )


def _download(missing: Sequence[RemoteFile], files: Path, lock: FetchLock, sources: Sources, report: Reporter) -> None:
    _require_space(missing, files)
    unvouched = [f for f in missing if not f.has_digest and lock.get(f.path) is None]
    if unvouched:
        report.info(
            f"no digest is published for {len(unvouched)} of {len(missing)} files: what comes now is trusted, "
            f"and recorded in {lock.path}"
        )

    def whole(file: RemoteFile, entry: LockedFile) -> None:
        settle(file, entry, files, lock, keep_archive=sources.keep_archives)

    download(missing, files, lock, sources.download, report, whole)


def _require_space(missing: Sequence[RemoteFile], files: Path) -> None:
    """Refuse to begin what cannot end; unpublished sizes and what came of a file earlier count as nothing."""
    sizes = [(file.size_bytes or file.about_bytes or 0, _kept(file, files)) for file in missing]
    archives = [max(size - kept, 0) for size, kept in sizes]
    unpacked = [file.bytes_on_disk or 0 for file in missing if file.unpack is not None]
    needed, free = _SLACK * (sum(archives) + sum(unpacked)), shutil.disk_usage(files).free
    if needed > free:
        raise CropgenError(
            f"{files} needs {_room(needed)} and has {_room(free)} free",
            hint="free space, choose another --workspace, or fetch fewer --regions",
        )


def _room(size: float) -> str:
    return f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"


def prepared_in(folder: Path) -> dict[str, Any] | None:
    """What was prepared in a folder earlier: selection, options, fingerprint, and what came out."""
    path = folder / PREPARED
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError:
        return None


def guard_prepared(folder: Path, selection: Selection, options: Any, *, overwrite: bool) -> None:
    """Refuse to replace what was prepared from another selection.

    Raises:
        OutputExistsError: it is there, and `overwrite` is false.
    """
    if overwrite:
        return
    earlier = prepared_in(folder)
    if earlier is None:
        if (folder / SERIES).exists():
            raise OutputExistsError(
                f"{folder / SERIES} exists and was not fetched", hint="choose --name, or pass --overwrite"
            )
    elif earlier["selection"] != selection.to_json() or earlier["options"] != options.model_dump(mode="json"):
        raise OutputExistsError(
            f"{folder} was prepared from another selection: {json.dumps(earlier['selection'])}",
            hint="choose another --name, or pass --overwrite",
        )


def reader_options(name: str, given: Mapping[str, Any]) -> Any:
    """The options of a data set's reader, checked.

    Raises:
        UsageError: one is unknown or has a wrong value.
    """
    return validate(reader_of(name).Options, dict(given), where=f"options of {name}")


def describe_options(name: str) -> str:
    """The options of a data set's reader and their defaults, in one line; empty where it has none."""
    fields = reader_of(name).Options.model_fields.items()
    return "; ".join(
        f"{key}={field.get_default(call_default_factory=True)} ({field.description})" for key, field in fields
    )


def prepare(
    manifest: DatasetManifest, selection: Selection, options: Any, files: Path, home: Path, folder: Path,
    report: Reporter, *, overwrite: bool,
) -> Prepared:  # fmt: skip
    """Make the container, or parcel layers, of fetched files; done before from the same files, nothing is done.

    Arguments:
        options: as `reader_options` gives them.
        files: as `fetch_files` gives it.
        home: the data set's folder, with the records of its files.
        folder: where the result goes.

    Raises:
        OutputExistsError: something else was prepared there, and `overwrite` is false.
        DataError: a file is not of the published layout.
    """
    wanted = manifest.files_of(selection)
    digests = _digests(wanted, FetchLock.read(home)) if files == home / FILES else _stamps(files)
    document = {"selection": selection.to_json(), "options": options.model_dump(mode="json")}
    mark = fingerprint(manifest.name, document, digests, cropgen.__version__)
    earlier = prepared_in(folder)
    if earlier is not None and earlier["fingerprint"] == mark:
        if _is_whole(earlier, folder):
            report.info(f"{folder} is prepared already")
            return _prepared_from(earlier, folder)
    elif earlier is not None and not overwrite:
        raise OutputExistsError(
            f"{folder} was prepared from other files", hint="choose another --name, or pass --overwrite"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return reader_of(manifest.name).prepare(Request(manifest, selection, options, files, folder, mark, report))


def has_reader(name: str) -> bool:
    return name in READERS


def _digests(wanted: Sequence[RemoteFile], lock: FetchLock) -> list[Any]:
    entries = [entry for file in wanted if (entry := lock.get(file.path)) is not None]
    return [[entry.path, entry.sha256] for entry in entries]


def _stamps(folder: Path) -> list[Any]:
    """Names, sizes and times of a user's files; reading them all would take as long as preparing them."""
    found = sorted(p for p in folder.rglob("*") if p.is_file())
    return [[p.relative_to(folder).as_posix(), p.stat().st_size, p.stat().st_mtime_ns] for p in found]


def _is_whole(earlier: Mapping[str, Any], folder: Path) -> bool:
    paths = [*earlier["parcels"], *([earlier["series"]] if earlier["series"] else [])]
    return all((folder / path).exists() for path in paths)


def _prepared_from(earlier: Mapping[str, Any], folder: Path) -> Prepared:
    series = folder / earlier["series"] if earlier["series"] else None
    dropped = {reason: Tally(**d) for reason, d in earlier["dropped"].items()}
    return Prepared(series, tuple(folder / path for path in earlier["parcels"]), earlier["rows"], dropped)
