"""A file server on this machine that can be told to misbehave.

It serves a folder with ranges, entity tags and `If-Range`, as a good server does, and what `routes` compute.
`script(path, Fault(...), ...)` makes the next requests of a path go wrong, one fault per request; after the last fault
the path is served well again.

    with serve(folder) as server:
        server.script("a.zip", Fault(drop_after=1000), Fault(status=500))
        fetch(server.url("a.zip"))
        server.requests  # what was asked: [Asked("a.zip", None), Asked("a.zip", "bytes=1000-"), …]
"""

from __future__ import annotations

import contextlib
import hashlib
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

_CHUNK = 1 << 16


@dataclass(frozen=True)
class Fault:
    """How one request goes wrong.

    Arguments:
        status: answered instead of 200 or 206.
        headers: sent beside the others, in place of them where names agree.
        body: sent instead of the file.
        drop_after: bytes of the answer after which the connection is cut; the length announced is that of the whole.
        bytes_per_second: as slow as that.
        no_range: the range asked for is ignored, and the whole file is sent.
        redirect: address sent with status 302.
        hold: the answer waits until this is set.
    """

    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None
    drop_after: int | None = None
    bytes_per_second: float | None = None
    no_range: bool = False
    redirect: str | None = None
    hold: threading.Event | None = None


@dataclass(frozen=True)
class Asked:
    """A request as it came.

    Arguments:
        path: without the leading slash.
        range: the header, or None.
    """

    path: str
    range: str | None
    method: str = "GET"


class FileServer:
    """What a running server serves, how it misbehaves, and what it was asked.

    `routes` maps paths to functions of the body and the headers of a request that give the JSON of the answer; what
    `keys` maps is only served to requests with that `Authorization`.
    """

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.requests: list[Asked] = []
        self.always: dict[str, Fault] = {}
        self.routes: dict[str, Callable[[bytes, Mapping[str, str]], bytes]] = {}
        self.keys: dict[str, str] = {}
        self._scripts: dict[str, deque[Fault]] = defaultdict(deque)
        self._guard = threading.Lock()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}"

    def script(self, path: str, *faults: Fault) -> None:
        """The next requests of `path` go wrong in this order."""
        self._scripts[path].extend(faults)

    def asked(self, path: str) -> list[str | None]:
        """Range headers of the requests of a path, in order."""
        return [request.range for request in self.requests if request.path == path]

    def take(self, path: str, wanted: str | None, method: str) -> Fault:
        """Note a request and say how it goes."""
        with self._guard:
            self.requests.append(Asked(path, wanted, method))
            script = self._scripts[path]
            return script.popleft() if script else self.always.get(path, Fault())


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: FileServer

    def log_message(self, format: str, *args: object) -> None:
        """Nothing on stderr."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        wanted = self.headers.get("Range")
        fault = self.files.take(path, wanted, self.command)
        if fault.hold is not None:
            fault.hold.wait()
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._answer(path, wanted, fault)

    def _answer(self, path: str, wanted: str | None, fault: Fault) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        key = next((key for prefix, key in self.files.keys.items() if path.startswith(prefix)), None)
        if key is not None and self.headers.get("Authorization") != key:
            self._send(401, b"who are you?", {"Content-Type": "text/plain"}, fault)
            return
        if path in self.files.routes and (fault.status or 200) < 400:
            answer = self.files.routes[path](body, dict(self.headers))
            self._send(200, answer, {"Content-Type": "application/json"}, fault)
            return
        if fault.redirect is not None:
            self._send(302, b"", {"Location": fault.redirect}, fault)
            return
        file = self.files.folder / path
        if fault.body is not None or (fault.status or 200) >= 400:
            self._send(fault.status or 200, fault.body or b"", {"Content-Type": "text/plain"}, fault)
        elif not file.is_file():
            self._send(404, b"not here", {"Content-Type": "text/plain"}, fault)
        else:
            self._send_file(file.read_bytes(), wanted, fault)

    def _send_file(self, content: bytes, wanted: str | None, fault: Fault) -> None:
        tag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        headers = {"Content-Type": "application/octet-stream", "ETag": tag, "Accept-Ranges": "bytes"}
        changed = self.headers.get("If-Range") not in (None, tag)
        if wanted is None or fault.no_range or changed:
            self._send(fault.status or 200, content, headers, fault)
            return
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, end = int(first), min(int(last or len(content)), len(content) - 1)
        if start >= len(content):
            self._send(416, b"", {"Content-Range": f"bytes */{len(content)}"}, fault)
            return
        headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        self._send(fault.status or 206, content[start : end + 1], headers, fault)

    def _send(self, status: int, body: bytes, headers: dict[str, str], fault: Fault) -> None:
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers | fault.headers).items():
            self.send_header(name, value)
        self.end_headers()
        body = b"" if self.command == "HEAD" else body
        sent = body if fault.drop_after is None else body[: fault.drop_after]
        step = _CHUNK if fault.bytes_per_second is None else max(int(fault.bytes_per_second / 20), 1)
        for start in range(0, len(sent), step):
            self.wfile.write(sent[start : start + step])
            if fault.bytes_per_second is not None:
                self.wfile.flush()
                time.sleep(step / fault.bytes_per_second)
        if fault.drop_after is not None:
            self.close_connection = True


@contextlib.contextmanager
def serve(folder: Path) -> Iterator[FileServer]:
    """Serve a folder on a free port of this machine until the block ends."""

    class Handler(_Handler):
        pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            """Clients that hang up are no news."""

    server = Server(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    Handler.files = FileServer(folder, server.server_address[1])
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Handler.files
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
