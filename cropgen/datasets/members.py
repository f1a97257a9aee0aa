"""Many small files as they are published: in a zip archive of up to millions of members, or unpacked in a folder.

The standard library keeps an object of half a kilobyte per member and opens each through several layers. Here the
central directory becomes an array and a list of names, and a member is one read, one inflation and one checksum.

Reference: .ZIP File Format Specification 6.3.10, PKWARE Inc., 2022.
"""

from __future__ import annotations

import os
import struct
import zlib
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol, Self

import numpy as np

from cropgen.core.errors import CorruptInputError
from cropgen.core.files import require_input

_AGAIN = "fetch the archive again"
_END = struct.Struct("<4sHHHHIIH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQHHIIQQQQ")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_SIGNATURE = b"PK\x05\x05"
_STORED, _DEFLATED = 0, 8
_SLACK = 256
_FULL32 = 0xFFFFFFFF


class Members(Protocol):
    """Small files by position; closed by leaving a `with` block."""

    @property
    def names(self) -> Sequence[str]:
        """Paths of the files, `/` between the parts, in a fixed order."""
        ...

    def read(self, position: int) -> bytes:
        """The whole content of a file.

        Raises:
            CorruptInputError: it cannot be read, or is not what its checksum says.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(self, *raised: object) -> None: ...


class FolderMembers:
    """The files below a folder, sorted by path.

    Arguments:
        folder: where to look.
        pattern: of the paths, as `Path.rglob` takes it.
    """

    def __init__(self, folder: Path, pattern: str = "*.csv") -> None:
        self._folder = require_input(folder, "folder")
        self.names: Sequence[str] = sorted(p.relative_to(folder).as_posix() for p in folder.rglob(pattern))

    def read(self, position: int) -> bytes:
        path = self._folder / self.names[position]
        try:
            return path.read_bytes()
        except OSError as error:
            raise CorruptInputError(f"{path} cannot be read: {error}", hint="bring the file again") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        """Nothing is held open."""


class _Entry(NamedTuple):
    name: str
    offset: int
    packed: int
    crc: int
    method: int


class ZipMembers:
    """The files of a zip archive, in the order of its central directory; folders are left out.

    Arguments:
        path: the archive.

    Raises:
        MissingInputError: it is not there.
        CorruptInputError: it is no zip archive, truncated, encrypted, or packed by an unusual method.
    """

    def __init__(self, path: Path) -> None:
        self._path = require_input(path, "archive")
        self._file = path.open("rb")
        try:
            self.names, self._places = self._listed()
        except (struct.error, UnicodeDecodeError, OSError) as error:
            self._file.close()
            raise CorruptInputError(f"{path} is no whole zip archive: {error}", hint=_AGAIN) from error
        except CorruptInputError:
            self._file.close()
            raise

    def read(self, position: int) -> bytes:
        offset, packed, crc, method = self._places[position].tolist()
        name = self.names[position]
        try:
            raw = self._at(offset, _LOCAL.size + len(name) + _SLACK + packed)
            magic, *_, name_length, extra_length = _LOCAL.unpack_from(raw)
            begin = _LOCAL.size + name_length + extra_length
            if magic != b"PK\x03\x04":
                raise self._broken(f"{name} does not begin where the directory says")
            if begin + packed > len(raw):
                raw = self._at(offset, begin + packed)
            body = raw[begin : begin + packed]
            content = zlib.decompress(body, -zlib.MAX_WBITS) if method == _DEFLATED else body
        except (struct.error, zlib.error, OSError) as error:
            raise self._broken(f"{name}: {error}") from error
        if zlib.crc32(content) != crc:
            raise self._broken(f"{name} differs from its checksum")
        return content

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *raised: object) -> None:
        self._file.close()

    def _at(self, offset: int, size: int) -> bytes:
        self._file.seek(offset)
        return self._file.read(size)

    def _broken(self, why: str) -> CorruptInputError:
        return CorruptInputError(f"{self._path} is damaged: {why}", hint=_AGAIN)

    def _listed(self) -> tuple[Sequence[str], np.ndarray]:
        """Names of the members, and where and how each is packed."""
        names: list[str] = []
        places = array("q")
        for entry in self._entries():
            if not entry.name.endswith("/"):
                names.append(entry.name)
                places.extend(entry[1:])
        return names, np.frombuffer(places, np.int64).reshape(len(names), len(_Entry._fields) - 1)

    def _entries(self) -> Iterator[_Entry]:
        count, size, begin = self._directory()
        directory = self._at(begin, size)
        at, number = 0, 0
        while at < size and directory[at : at + 4] != _SIGNATURE:
            magic, _, _, flags, method, _, _, crc, packed, full, *lengths, _, _, _, offset = _ENTRY.unpack_from(
                directory, at
            )
            if magic != b"PK\x01\x02":
                raise self._broken("its directory is not whole")
            at += _ENTRY.size
            encoding = "utf-8" if flags & 0x800 else "cp437"
            name = directory[at : at + lengths[0]].decode(encoding)
            if flags & 1 or method not in (_STORED, _DEFLATED):
                raise self._broken(f"{name} is encrypted or packed by an unusual method")
            if _FULL32 in (packed, full, offset):
                extra = directory[at + lengths[0] : at + lengths[0] + lengths[1]]
                packed, offset = _wide(extra, full, packed, offset)
            yield _Entry(name, offset, packed, crc, method)
            at += sum(lengths)
            number += 1
        if number < count:
            raise self._broken(f"its directory lists {number:,} of {count:,} members")

    def _directory(self) -> tuple[int, int, int]:
        """Entries, bytes and offset of the central directory.

        Without the 64-bit record the entries are counted in 16 bits, and some writers let the count begin anew.
        """
        length = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(length - _END.size - 0xFFFF - _END64_LOCATOR.size, 0))
        tail = self._file.read()
        at = tail.rfind(b"PK\x05\x06")
        if at < 0:
            raise self._broken("its end is missing")
        _, _, _, _, count, size, begin, _ = _END.unpack_from(tail, at)
        locator = at - _END64_LOCATOR.size
        if locator >= 0 and tail[locator : locator + 4] == b"PK\x06\x07":
            self._file.seek(_END64_LOCATOR.unpack_from(tail, locator)[2])
            *_, count, size, begin = _END64.unpack(self._file.read(_END64.size))
        if begin + size > length:
            raise self._broken("its directory lies beyond its end")
        return count, size, begin


def _wide(extra: bytes, full: int, packed: int, offset: int) -> tuple[int, int]:
    """Packed size and offset where 32 bits do not hold them: the fields that are full follow in 64 bits, in order."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            if full == _FULL32:
                next(wide)
            packed = next(wide) if packed == _FULL32 else packed
            offset = next(wide) if offset == _FULL32 else offset
        at += 4 + length
    return packed, offset
