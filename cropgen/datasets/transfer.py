"""One request for one file: what comes is appended to a part file, so that the next request can go on behind it.

The library is `requests`: it reads raw bytes as they come and honours the proxies and certificates that a user's
environment sets up. Its retries are not used, because only the part file knows where to go on. `pooch` does not resume.

    200    the whole file; what was there is dropped
    206    the rest, if it begins where the part ends and the entity tag still holds
    408, 429, 5xx, and connections that drop or crawl    worth another attempt (`Again`)
    everything else    final for this address
"""

from __future__ import annotations

import email.utils
import io
import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

import requests
import urllib3

from cropgen.core.errors import CorruptInputError, CropgenError, innermost_reason
from cropgen.core.files import remove, write_text
from cropgen.datasets.addresses import is_loopback, is_safe
from cropgen.datasets.manifest import RemoteFile

if TYPE_CHECKING:
    from requests.sessions import Session

_CHUNK = 1 << 18
_MOST_REDIRECTS = 8
_SLOWEST = 1024
_FREE_SPACE = "free space; what came is kept, and the same command goes on behind it"
_AGENT = "cropgen (+https://github.com/cropgen/cropgen)"


class Again(Exception):
    """Worth another attempt.

    Arguments:
        reason: a few words.
        wait: seconds the server asks for; None leaves them to the caller.
    """

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class Stopped(Exception):
    """The download was told to stop."""


class UnwritableError(CropgenError):
    """What comes cannot be written here; no other address changes that."""


@dataclass(frozen=True)
class Wire:
    """What all requests of a download share.

    Arguments:
        timeout: seconds without an answer, or with less than 1 KiB, after which a connection counts as dropped.
        insecure: redirects to plain http are followed.
        stop: set when no more bytes are wanted.
        received: called with the number of bytes that arrived; negative when some are dropped. It may wait.
        expected: called with a file's path and its size as the server states it, where the server does.
        say: one line a user wants to know.
    """

    timeout: float
    insecure: bool
    stop: threading.Event
    received: Callable[[int], None]
    expected: Callable[[str, int], None]
    say: Callable[[str], None]


class Part:
    """A file on its way: `<name>.part`, and beside it what the server called that version of it."""

    def __init__(self, target: Path) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self.notes = target.with_name(f"{target.name}.part.json")

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    def drop(self) -> None:
        remove(self.path)
        remove(self.notes)

    def finish(self, target: Path) -> None:
        """Move into place."""
        self.path.replace(target)
        remove(self.notes)

    @property
    def url(self) -> str | None:
        """The address the part came from, where that is known."""
        return self._noted().get("url")

    def tag_of(self, url: str) -> str | None:
        """What `If-Range` needs, if the part came from this address."""
        notes = self._noted()
        return notes.get("tag") if notes.get("url") == url else None

    def note(self, url: str, tag: str | None) -> None:
        """Record where what follows comes from.

        Raises:
            UnwritableError: the disk is full or the folder cannot be written.
        """
        try:
            write_text(self.notes, json.dumps({"url": url, "tag": tag}) + "\n")
        except CropgenError as error:
            raise UnwritableError(error.message, hint=_FREE_SPACE) from error

    def unwritable(self, error: OSError) -> UnwritableError:
        return UnwritableError(f"cannot write {self.path}: {error.strerror or error}", hint=_FREE_SPACE)

    def _noted(self) -> dict[str, str | None]:
        try:
            return json.loads(self.notes.read_text(encoding="utf-8"))
        except (OSError, json.JSONDecodeError):
            return {}


def new_session() -> Session:
    """A session of one thread."""
    session = requests.Session()
    session.headers.update({"User-Agent": _AGENT, "Accept": "*/*", "Accept-Encoding": "identity"})
    return session


def transfer(session: Session, url: str, part: Part, file: RemoteFile, wire: Wire) -> None:
    """Ask once, and append what comes until the part is whole.

    Raises:
        Again: the part is not whole yet.
        Stopped: it is not wanted any more.
        CorruptInputError: the server offers something else than the file.
        UnwritableError: the disk is full or the folder cannot be written.
        CropgenError: the server refuses.
    """
    tag = part.tag_of(url)
    begin = part.size if tag is not None or file.has_digest else 0
    headers = {"Range": f"bytes={begin}-"} if begin else {}
    if begin and tag is not None:
        headers["If-Range"] = tag
    try:
        with _open(session, url, headers, wire) as response:
            if response.status_code == requests.codes.requested_range_not_satisfiable:
                _settle(response, part, wire)
                return
            _require_success(response, url)
            begin = _begin_of(response, begin)
            if begin < part.size:
                wire.received(begin - part.size)
            total = _total(response, begin)
            _require_sound(response, url, file, total)
            if total is not None:
                wire.expected(file.path, total)
            part.note(url, _tag(response))
            _append(response, part, begin, total, wire)
    except requests.exceptions.SSLError as error:
        raise CropgenError(
            f"{url}: the server's certificate is not accepted: {innermost_reason(error)}",
            hint="behind a proxy that inspects traffic, set REQUESTS_CA_BUNDLE to its certificates",
        ) from error
    except (requests.exceptions.ConnectionError, requests.exceptions.Timeout, urllib3.exceptions.HTTPError) as error:
        raise Again(f"connection failed: {innermost_reason(error)}") from error
    except requests.exceptions.RequestException as error:
        raise CropgenError(f"{url} cannot be asked for: {error}", hint="check the proxy variables") from error


def _open(session: Session, url: str, headers: dict[str, str], wire: Wire) -> requests.Response:
    """The answer behind redirects, each of them checked."""
    at = url
    for _ in range(_MOST_REDIRECTS):
        response = session.get(
            at, headers=headers, stream=True, allow_redirects=False, timeout=(wire.timeout, wire.timeout)
        )
        if not response.is_redirect:
            return response
        response.close()
        target = urljoin(at, response.headers["Location"])
        if not is_safe(target, insecure=wire.insecure) or (is_loopback(target) and not is_loopback(at)):
            raise CropgenError(
                f"{url} redirects to {target}, which is not https", hint="refused; ask the host, or use a mirror"
            )
        if urlsplit(target).netloc != urlsplit(at).netloc:
            wire.say(f"{urlsplit(at).netloc} redirects to {urlsplit(target).netloc}")
        at = target
    raise CropgenError(f"{url} redirects more than {_MOST_REDIRECTS} times", hint="ask the host, or use a mirror")


def _require_success(response: requests.Response, url: str) -> None:
    status = response.status_code
    if status in (200, 206):
        return
    if status in (408, 429) or status >= 500:
        raise Again(f"{status} {response.reason}", _retry_after(response.headers.get("Retry-After")))
    hints = {
        401: "the host wants a login; download it by hand and use --from DIR",
        403: "the host denies it, perhaps until its terms are accepted there; get it by hand and use --from DIR",
        404: "the file is no longer there; look for a newer version of cropgen, or use --from DIR",
    }
    raise CropgenError(
        f"{url}: the server answers {status} {response.reason}", hint=hints.get(status, "use a mirror, or --from DIR")
    )


def _retry_after(text: str | None) -> float | None:
    """Seconds of a `Retry-After` header, given as such or as a date."""
    if text is None:
        return None
    if text.strip().isdigit():
        return float(text)
    try:
        return max((email.utils.parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds(), 0.0)
    except (ValueError, TypeError):
        return None


def _settle(response: requests.Response, part: Part, wire: Wire) -> None:
    """Nothing is left behind the part: it is whole, or not what the server has."""
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    if not total.isdigit() or int(total) != part.size:
        wire.received(-part.size)
        part.drop()
        raise Again("the server's file is shorter than what came of it")


def _begin_of(response: requests.Response, asked: int) -> int:
    """Where the answer begins in the file."""
    if response.status_code != 206:
        return 0
    start = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
    if start != str(asked):
        raise Again(f"asked for bytes from {asked}, got from {start or 'nowhere'}")
    return asked


def _total(response: requests.Response, begin: int) -> int | None:
    """Bytes of the whole file, where the server says so."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        return None
    length = response.headers.get("Content-Length", "")
    return begin + int(length) if length.isdigit() else None


def _tag(response: requests.Response) -> str | None:
    """A strong entity tag, else the date of the last change."""
    tag = response.headers.get("ETag")
    return tag if tag is not None and not tag.startswith("W/") else response.headers.get("Last-Modified")


def _require_sound(response: requests.Response, url: str, file: RemoteFile, total: int | None) -> None:
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind in ("text/html", "application/xhtml+xml") and not file.path.endswith((".html", ".htm")):
        raise CorruptInputError(
            f"{url}: expected {file.path}, got a web page, perhaps a login",
            hint="open the address in a browser; get the file by hand and use --from DIR",
        )
    if total is not None and file.size_bytes is not None and total != file.size_bytes:
        raise CorruptInputError(
            f"{url}: expected {file.size_bytes:,} bytes, the server offers {total:,}",
            hint="the host has another version of the file; look for a newer version of cropgen",
        )


def _append(response: requests.Response, part: Part, begin: int, total: int | None, wire: Wire) -> None:
    at, since, lately = begin, time.monotonic(), 0
    with _opened(part, begin) as sink:
        while chunk := response.raw.read1(_CHUNK, decode_content=True):
            if wire.stop.is_set():
                raise Stopped
            _write(sink, chunk, part)
            at, lately = at + len(chunk), lately + len(chunk)
            came = time.monotonic()
            wire.received(len(chunk))
            since += time.monotonic() - came
            if time.monotonic() - since >= wire.timeout:
                if lately < _SLOWEST:
                    raise Again(f"less than 1 KiB came within {wire.timeout:g} s")
                since, lately = time.monotonic(), 0
    if total is not None and at != total:
        raise Again(f"the connection closed at byte {at:,} of {total:,}")


def _opened(part: Part, begin: int) -> io.FileIO:
    """The part, to be written behind its first `begin` bytes; what else it holds is dropped."""
    try:
        sink = part.path.open("r+b" if part.path.is_file() else "xb", buffering=0)
        sink.truncate(begin)
        sink.seek(begin)
    except OSError as error:
        raise part.unwritable(error) from error
    return sink


def _write(sink: io.FileIO, chunk: bytes, part: Part) -> None:
    view = memoryview(chunk)
    try:
        while view:
            view = view[sink.write(view) :]
    except OSError as error:
        raise part.unwritable(error) from error
