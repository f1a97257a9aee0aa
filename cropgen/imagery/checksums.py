"""Whole files against the checksum that a catalogue states for them.

`file:checksum` is a multihash: a number that names the function, the length of the digest, and the digest, in hex. It
is of the whole file, so it can be told only where the whole file is brought.

Reference: Multihash, Protocol Labs, 2014; File Info extension of STAC, version 2.1.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cropgen.core.errors import UnfinishedError
from cropgen.imagery.remote import Access, Again, download

_FUNCTIONS = {0x11: "sha1", 0x12: "sha256", 0x13: "sha512", 0x14: "sha3_512", 0x16: "sha3_256", 0xD5: "md5"}
_CHUNK = 1 << 20
COPIES = ".whole-"
"""How folders of copies are named."""


@dataclass(frozen=True)
class Checksum:
    """A digest and the function it is of, by its name in `hashlib`."""

    function: str
    digest: str

    @classmethod
    def parse(cls, multihash: str | None) -> Self | None:
        """The checksum of a multihash in hex; None where there is none, or of a function that is not known here."""
        try:
            code, rest = _number(bytes.fromhex(multihash or ""))
            length, digest = _number(rest)
        except ValueError:
            return None
        function = _FUNCTIONS.get(code)
        if function is None or length != len(digest) or length != hashlib.new(function).digest_size:
            return None
        return cls(function, digest.hex())

    def of(self, path: Path) -> str:
        """The digest of a file by the same function."""
        found = hashlib.new(self.function)
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                found.update(chunk)
        return found.hexdigest()


def _number(content: bytes) -> tuple[int, bytes]:
    """A number in groups of seven bits, the lowest first, and what comes after it."""
    number = 0
    for place, byte in enumerate(content):
        number |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return number, content[place + 1 :]
    raise ValueError("the number has no end")


@contextmanager
def verified_copy(
    address: str, access: Access, checksum: Checksum, folder: Path, stop: threading.Event
) -> Iterator[Path]:
    """A copy of a whole file that has the checksum stated, removed in the end.

    Arguments:
        folder: for the copy.

    Raises:
        Again: it has not, or the connection broke.
        MissingInputError, CropgenError: there is no file, or the server refuses.
        UnfinishedError: `stop` was set, or there is no room.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix=COPIES, ignore_cleanup_errors=True) as place:
        copy = Path(place) / Path(address).name
        try:
            with copy.open("wb") as stream:
                download(address, access, stream, stop)
        except OSError as error:
            raise UnfinishedError(
                f"cannot write {copy}: {error.strerror or error}",
                hint="free space; what came is kept, and the same command goes on",
            ) from error
        got = checksum.of(copy)
        if got != checksum.digest:
            raise Again(f"{address}: expected {checksum.function} {checksum.digest} as the catalogue states, got {got}")
        yield copy
