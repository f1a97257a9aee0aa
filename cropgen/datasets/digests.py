"""Whether bytes are what a manifest, or the first download, says they are."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cropgen.core.errors import CorruptInputError
from cropgen.datasets.lock import LockedFile, Trust
from cropgen.datasets.manifest import RemoteFile

_CHUNK = 1 << 20
_MAGIC = {
    ".zip": b"PK", ".gz": b"\x1f\x8b", ".parquet": b"PAR1", ".h5": b"\x89HDF", ".geojson": b"{", ".gpkg": b"SQLite",
}  # fmt: skip
_PAGE = (b"<!doctype html", b"<html")


@dataclass(frozen=True)
class Digests:
    """Size and hex digests of a file's bytes."""

    size_bytes: int
    sha256: str
    md5: str | None


def digests_of(path: Path, *, md5: bool = False) -> Digests:
    """Read a file once; MD5 only where a publisher states it."""
    sha, other, size = hashlib.sha256(), hashlib.md5(usedforsecurity=False), 0
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            sha.update(chunk)
            size += len(chunk)
            if md5:
                other.update(chunk)
    return Digests(size, sha.hexdigest(), other.hexdigest() if md5 else None)


def check(path: Path, file: RemoteFile, earlier: LockedFile | None, origin: str) -> tuple[Digests, Trust]:
    """Compare a file with what is published, and else with its first download.

    Arguments:
        origin: where it came from, for the message.

    Returns:
        Its digests, and what vouches for it.

    Raises:
        CorruptInputError: it is not what it should be; the message has both digests.
    """
    _require_kind(path, file, origin)
    found = digests_of(path, md5=file.md5 is not None)
    if file.size_bytes is not None and found.size_bytes != file.size_bytes:
        raise _differs(file, origin, "size", f"{file.size_bytes:,} bytes", f"{found.size_bytes:,}")
    if file.sha256 is not None and found.sha256 != file.sha256:
        raise _differs(file, origin, "SHA-256", file.sha256, found.sha256)
    if file.md5 is not None and found.md5 != file.md5:
        raise _differs(file, origin, "MD5", file.md5, str(found.md5))
    if earlier is not None and found.sha256 != earlier.sha256 and not file.has_digest:
        raise CorruptInputError(
            f"{file.path} from {origin} is not what was first fetched on {earlier.fetched}: SHA-256 expected "
            f"{earlier.sha256}, got {found.sha256}",
            hint=f"if the publisher changed it and you accept that, delete {earlier.path} from the lock file",
        )
    return found, "sha256" if file.sha256 else "md5" if file.md5 else "first use"


def _differs(file: RemoteFile, origin: str, what: str, expected: str, got: str) -> CorruptInputError:
    return CorruptInputError(
        f"{file.path} from {origin}: {what} expected {expected}, got {got}",
        hint="it is not used; fetch again, and if it stays so the host has another version of the file",
    )


def _require_kind(path: Path, file: RemoteFile, origin: str) -> None:
    """The first bytes are those of the kind of file its name promises."""
    with path.open("rb") as stream:
        head = stream.read(512)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text[:15].lower().startswith(_PAGE):
        raise CorruptInputError(
            f"{file.path} from {origin}: expected {file.path}, got a web page, perhaps a login",
            hint="open the address in a browser; get the file by hand and use --from DIR",
        )
    magic = _MAGIC.get(Path(file.path).suffix.lower())
    if magic is not None and not text.startswith(magic):
        raise CorruptInputError(
            f"{file.path} from {origin}: its first bytes are not those of a {Path(file.path).suffix} file",
            hint="get the file by hand and use --from DIR",
        )
