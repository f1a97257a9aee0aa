"""Unpacking archives that come from elsewhere: nothing leaves the folder, nothing but files and folders comes out.

Refused: absolute names, `..`, links, devices, encrypted or repeated entries, more entries or bytes than allowed, and
more bytes per byte of archive than any honest data set has. What is truncated or fails its checksum is corrupt. The
folder appears when all of it is there.
"""

from __future__ import annotations

import gzip
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from cropgen.core.errors import CorruptInputError
from cropgen.core.files import atomic_output

_CHUNK = 1 << 20
_GENEROUS = 64 << 20
_ZIP_MAGIC = b"PK"
_GZIP_MAGIC = b"\x1f\x8b"
_BROKEN = (
    zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, struct.error, EOFError, UnicodeDecodeError,
)  # fmt: skip
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


@dataclass(frozen=True)
class Limits:
    """What may come out of an archive.

    Arguments:
        total_bytes: of all files together.
        entries: files and folders.
        ratio: bytes out per byte of archive; archives that unpack to less than 64 MiB are not judged by it.
    """

    total_bytes: int
    entries: int = 100_000
    ratio: float = 400.0


@dataclass(frozen=True)
class _Entry:
    name: str
    is_folder: bool
    content: IO[bytes] | None


def extract_archive(archive: Path, folder: Path, limits: Limits) -> list[Path]:
    """Unpack a zip, tar or tar.gz archive.

    Arguments:
        folder: comes into being whole, in place of what was there.

    Returns:
        Paths of the files relative to `folder`, sorted.

    Raises:
        CorruptInputError: the archive is truncated, damaged, of another kind, or holds what is refused.
        CropgenError: the folder cannot be written.
    """
    written: dict[str, int] = {}
    with atomic_output(folder) as part:
        part.mkdir()
        budget = _Budget(archive, limits)
        try:
            for entry in _entries(archive):
                budget.count_entry()
                target = part / _inside(entry.name, archive)
                if entry.is_folder:
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                if target.exists():
                    raise _refused(archive, f"{entry.name} is in it twice")
                target.parent.mkdir(parents=True, exist_ok=True)
                written[target.relative_to(part).as_posix()] = _copy(entry, target, budget)
        except _BROKEN as error:
            raise CorruptInputError(
                f"{archive} is truncated or damaged: {error or type(error).__name__}",
                hint="fetch it again; what was unpacked is removed",
            ) from error
    return [Path(name) for name in sorted(written)]


class _Budget:
    def __init__(self, archive: Path, limits: Limits) -> None:
        self._archive = archive
        self._limits = limits
        self._entries = 0
        self._bytes = 0
        self._most = max(int(limits.ratio * archive.stat().st_size), _GENEROUS)

    def count_entry(self) -> None:
        self._entries += 1
        if self._entries > self._limits.entries:
            raise _refused(self._archive, f"it has more than {self._limits.entries:,} entries")

    def count_bytes(self, number: int) -> None:
        self._bytes += number
        if self._bytes > self._limits.total_bytes:
            raise _refused(self._archive, f"it unpacks to more than the {self._limits.total_bytes:,} bytes expected")
        if self._bytes > self._most:
            raise _refused(self._archive, f"it unpacks to more than {self._limits.ratio:.0f} times its size")


def _refused(archive: Path, why: str) -> CorruptInputError:
    return CorruptInputError(
        f"{archive} is refused: {why}", hint="this is not the published archive; nothing of it was kept"
    )


def _inside(name: str, archive: Path) -> PurePosixPath:
    """The entry's path, if it is relative and stays where it is put."""
    path = PurePosixPath(name)
    drive = ":" in (path.parts[0] if path.parts else "")
    if not name or "\\" in name or "\0" in name or path.is_absolute() or drive or ".." in path.parts:
        raise _refused(archive, f"entry {name!r} would be written outside")
    return path


def _copy(entry: _Entry, target: Path, budget: _Budget) -> int:
    size = 0
    with target.open("xb") as sink:
        while entry.content is not None and (chunk := entry.content.read(_CHUNK)):
            budget.count_bytes(len(chunk))
            sink.write(chunk)
            size += len(chunk)
    return size


def _entries(archive: Path) -> Iterator[_Entry]:
    with archive.open("rb") as stream:
        magic = stream.read(2)
    if magic == _ZIP_MAGIC:
        return _zip_entries(archive)
    return _tar_entries(archive, compressed=magic == _GZIP_MAGIC)


def _zip_entries(archive: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(archive) as opened:
        for info in opened.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _refused(archive, f"entry {info.filename!r} is a link or a device")
            if info.flag_bits & 0x1 or info.compress_type not in _ZIP_METHODS:
                raise _refused(archive, f"entry {info.filename!r} is encrypted or packed by an unusual method")
            if info.is_dir():
                yield _Entry(info.filename, True, None)
                continue
            with opened.open(info) as content:
                yield _Entry(info.filename, False, content)


def _tar_entries(archive: Path, *, compressed: bool) -> Iterator[_Entry]:
    if not compressed:
        _require_end(archive)
    with gzip.open(archive) if compressed else archive.open("rb") as stream:
        with tarfile.open(fileobj=stream, mode="r|") as opened:
            for info in opened:
                if not (info.isreg() or info.isdir()):
                    raise _refused(archive, f"entry {info.name!r} is a link or a device")
                yield _Entry(info.name, info.isdir(), opened.extractfile(info) if info.isreg() else None)
        while compressed and stream.read(_CHUNK):
            pass  # the checksum of the compressed stream stands at its end


def _require_end(archive: Path) -> None:
    """A tar file ends with two blocks of zeros; without them it was cut."""
    with archive.open("rb") as stream:
        stream.seek(max(archive.stat().st_size - 1024, 0))
        if stream.read() != bytes(1024):
            raise tarfile.ReadError("its end is missing")
