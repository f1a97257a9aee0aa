"""The files of a data set on disk: which are here, whether they are sound, and how archives and folders become them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath

from cropgen.core.archives import Limits, extract_archive
from cropgen.core.errors import CorruptInputError, MissingInputError
from cropgen.core.files import atomic_output, remove, remove_leftovers
from cropgen.core.progress import Reporter
from cropgen.datasets.digests import check, digests_of
from cropgen.datasets.lock import FetchLock, LockedFile, LockedMember
from cropgen.datasets.manifest import RemoteFile
from cropgen.datasets.transfer import Part

_UNPUBLISHED_LIMIT = 4 << 30
_MOST_ENTRIES = 1000


def is_here(file: RemoteFile, files: Path, lock: FetchLock) -> bool:
    """Whether a file was fetched and its size is still what it was."""
    entry = lock.get(file.path)
    if entry is None or entry.suspect:
        return False
    if file.unpack is not None:
        return bool(entry.members) and all(_has_size(files / m.path, m.size_bytes) for m in entry.members)
    return _has_size(files / file.path, entry.size_bytes)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def settle(file: RemoteFile, entry: LockedFile, files: Path, lock: FetchLock, *, keep_archive: bool) -> None:
    """Unpack a whole archive where the manifest says so, and record the file.

    Raises:
        CorruptInputError: the archive is damaged, refused, or does not hold what it must; it is removed.
    """
    archive = files / file.path
    if file.unpack is not None:
        try:
            members = _unpack(archive, file, files)
        except CorruptInputError:
            remove(archive)
            raise
        entry = entry.model_copy(update={"members": members})
        if not keep_archive:
            remove(archive)
    lock.put(entry)


def _unpack(archive: Path, file: RemoteFile, files: Path) -> tuple[LockedMember, ...]:
    """Everything in an archive goes into one folder; folders inside are dropped, as publishers' own readers do."""
    sizes = [m.size_bytes for m in file.members]
    total = sum(s for s in sizes if s) + (1 << 20) if all(sizes) else _UNPUBLISHED_LIMIT
    scratch = _scratch(archive)
    target = files / str(file.unpack)
    try:
        found = extract_archive(archive, scratch, Limits(total, _MOST_ENTRIES))
        content = {path.name: path for path in found if not path.name.startswith("._") and "__MACOSX" not in path.parts}
        for member in file.members:
            _require_member(member.path, member.size_bytes, scratch, content, archive)
        target.mkdir(parents=True, exist_ok=True)
        members = []
        for name, path in sorted(content.items()):
            placed = target / name
            (scratch / path).replace(placed)
            digests = digests_of(placed)
            relative = placed.relative_to(files).as_posix()
            members.append(LockedMember(path=relative, size_bytes=digests.size_bytes, sha256=digests.sha256))
        return tuple(members)
    finally:
        remove(scratch)


def _scratch(archive: Path) -> Path:
    """Where an archive is unpacked before its members are moved."""
    return archive.with_name(f".{archive.name}.unpacked")


def clear(wanted: Sequence[RemoteFile], files: Path) -> None:
    """Remove what killed processes left beside files; the caller alone holds the data set."""
    for file in wanted:
        target = files / file.path
        for path in (target, _scratch(target), Part(target).notes):
            remove_leftovers(path)
        remove(_scratch(target))


def _require_member(path: str, size: int | None, scratch: Path, content: dict[str, Path], archive: Path) -> None:
    name = PurePosixPath(path).name
    if name not in content:
        raise CorruptInputError(f"{archive} does not hold {name}", hint="this is not the published archive")
    found = (scratch / content[name]).stat().st_size
    if size is not None and found != size:
        raise CorruptInputError(
            f"{archive}: {name}: expected {size:,} bytes, got {found:,}", hint="this is not the published archive"
        )


def adopt(
    wanted: Sequence[RemoteFile], files: Path, lock: FetchLock, report: Reporter, *, keep_archives: bool
) -> list[RemoteFile]:
    """Record files that lie in place without a record, for example after the process was killed.

    Returns:
        The files that are still missing.
    """
    missing = []
    for file in wanted:
        if is_here(file, files, lock):
            continue
        path, earlier = files / file.path, lock.get(file.path)
        if path.is_file() and not (earlier is not None and earlier.suspect and file.unpack is None):
            try:
                _bring(file, path, str(files), files, lock, keep_archive=keep_archives)
                continue
            except CorruptInputError as error:
                report.warn(f"{error.message}; it is fetched anew")
        missing.append(file)
    return missing


def _bring(file: RemoteFile, path: Path, origin: str, files: Path, lock: FetchLock, *, keep_archive: bool) -> None:
    """Check a file that lies at `path`, copy it where it belongs, and settle it."""
    found, trust = check(path, file, lock.get(file.path), origin)
    target = files / file.path
    if path != target:
        with atomic_output(target) as part:
            shutil.copyfile(path, part)
    entry = LockedFile(
        path=file.path, origin=origin, fetched=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        size_bytes=found.size_bytes, sha256=found.sha256, verified=trust,
    )  # fmt: skip
    settle(file, entry, files, lock, keep_archive=keep_archive)


def usable_in_place(wanted: Sequence[RemoteFile], folder: Path, *, folders: bool) -> bool:
    """Whether a reader can read a user's folder as it is: every needed file at its path, archives unpacked.

    Arguments:
        folders: the reader takes the folder that was unpacked from an archive in place of the archive.
    """
    packed = [file for file in wanted if _is_packed(file, folder)]
    by_hand = [file for file in wanted if folders and file not in packed and _is_by_hand(file, folder)]
    others = [file for file in wanted if not file.optional and file not in packed and file not in by_hand]
    return (bool(by_hand) or not packed) and all(_is_open(file, folder) for file in others)


def check_packed(wanted: Sequence[RemoteFile], folder: Path, lock: FetchLock) -> None:
    """Verify the archives of a user's folder that a reader reads in place, beside others that were unpacked.

    Raises:
        CorruptInputError: one is not what it should be.
    """
    for file in wanted:
        if _is_packed(file, folder):
            check(folder / file.path, file, lock.get(file.path), str(folder))


def _is_packed(file: RemoteFile, folder: Path) -> bool:
    """Whether an archive that readers read as it is published lies in a folder."""
    return _stays_packed(file) and (folder / file.path).is_file()


def _is_by_hand(file: RemoteFile, folder: Path) -> bool:
    return _stays_packed(file) and (folder / file.path.partition(".")[0]).is_dir()


def _stays_packed(file: RemoteFile) -> bool:
    return file.unpack is None and file.path.endswith((".zip", ".tar.gz"))


def _is_open(file: RemoteFile, folder: Path) -> bool:
    if file.unpack is not None:
        return all((folder / m.path).is_file() for m in file.members)
    return not _stays_packed(file) and (folder / file.path).is_file()


def bring_from(
    folder: Path, wanted: Sequence[RemoteFile], files: Path, lock: FetchLock, report: Reporter, *, keep_archives: bool
) -> None:
    """Copy files from a user's folder, found by path or by name, verified as if they were downloaded.

    Raises:
        MissingInputError: some are not there; the message names them.
        CorruptInputError: one is not what it should be.
    """
    missing = []
    with report.task(f"bringing files from {folder}", len(wanted)) as task:
        for file in wanted:
            name = PurePosixPath(file.path).name
            found = next((p for p in (folder / file.path, folder / name) if p.is_file()), None)
            if found is not None:
                _bring(file, found, str(folder), files, lock, keep_archive=keep_archives)
            elif file.optional:
                report.warn(f"{file.path} is left out: not in {folder}")
            else:
                missing.append(file.path)
            task.advance()
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise MissingInputError(f"{folder} lacks {shown}", hint="put them there under these names")


@dataclass(frozen=True)
class Verdict:
    """What a verification found.

    Arguments:
        path: relative to the data set's folder of files.
        state: `ok`, `missing` or `corrupt`.
        trust: what vouched for the file when it came.
        expected, got: SHA-256, empty where the file is missing.
    """

    path: str
    state: str
    trust: str
    expected: str
    got: str


def verify(files: Path, lock: FetchLock, report: Reporter, advance: Callable[[float], None]) -> list[Verdict]:
    """Read every recorded file again; what is not sound is marked, and fetched anew next time.

    Arguments:
        advance: called with the bytes read.
    """
    verdicts = []
    for entry in lock.all():
        parts = [(m.path, m.sha256) for m in entry.members]
        if not parts or (files / entry.path).is_file():
            parts.append((entry.path, entry.sha256))
        found = [_judge(files, path, expected, entry.verified, advance) for path, expected in parts]
        if any(verdict.state != "ok" for verdict in found) != entry.suspect:
            lock.put(entry.model_copy(update={"suspect": not entry.suspect}))
        verdicts += found
    for verdict in verdicts:
        if verdict.state != "ok":
            report.warn(f"{verdict.path} is {verdict.state}")
    return verdicts


def _judge(files: Path, path: str, expected: str, trust: str, advance: Callable[[float], None]) -> Verdict:
    if not (files / path).is_file():
        return Verdict(path, "missing", trust, expected, "")
    digests = digests_of(files / path)
    advance(digests.size_bytes)
    return Verdict(path, "ok" if digests.sha256 == expected else "corrupt", trust, expected, digests.sha256)
