"""Whatever goes wrong on the way, what has the file's name is the file."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.core.errors import CorruptInputError, CropgenError, UnfinishedError
from cropgen.core.progress import Silent
from cropgen.datasets.addresses import is_loopback, is_safe
from cropgen.datasets.digests import check
from cropgen.datasets.download import DownloadOptions, download
from cropgen.datasets.lock import FetchLock, LockedFile
from cropgen.datasets.manifest import RemoteFile
from cropgen.datasets.transfer import UnwritableError, _retry_after
from tests.data.server import Fault, FileServer, serve

CONTENT = hashlib.shake_256(b"field").digest(40_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()
FAST = DownloadOptions(retries=8, backoff=0.001, timeout=5)


class Counter(Silent):
    """Adds up what tasks were told."""

    def __init__(self) -> None:
        super().__init__()
        self.total: float | None = None
        self.done = 0.0

    @contextlib.contextmanager
    def task(self, description: str, total: float | None) -> Iterator[Counter]:
        self.total = total
        yield self

    def advance(self, amount: float = 1.0) -> None:
        self.done += amount

    def note(self, text: str) -> None:
        assert "MB/s" in text


def remote(server: FileServer, path: str = "a.bin", **facts: object) -> RemoteFile:
    return RemoteFile.model_validate({"path": path, "url": server.url(path), **facts})


def get(folder: Path, *files: RemoteFile, options: DownloadOptions = FAST) -> tuple[FetchLock, Counter]:
    lock, counter = FetchLock.read(folder), Counter()
    download(files, folder, lock, options, counter, lambda _, entry: lock.put(entry))
    return lock, counter


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "a.bin").write_bytes(CONTENT)
    with serve(tmp_path / "served") as running:
        yield running


faults = st.one_of(
    st.builds(Fault, drop_after=st.integers(0, len(CONTENT) - 1), no_range=st.booleans()),
    st.builds(Fault, status=st.sampled_from([500, 502, 503, 429, 408])),
    st.builds(Fault, no_range=st.just(True)),
)


@settings(max_examples=60, deadline=None)
@given(script=st.lists(faults, max_size=6), published=st.booleans())
def test_any_misfortune_ends_with_the_file(script: list[Fault], published: bool) -> None:
    with tempfile.TemporaryDirectory() as name, serve(Path(name)) as server:
        (Path(name) / "a.bin").write_bytes(CONTENT)
        server.script("a.bin", *script)
        folder = Path(name) / "files"
        facts = {"sha256": DIGEST, "size_bytes": len(CONTENT)} if published else {}
        lock, counter = get(folder, remote(server, **facts))
        assert (folder / "a.bin").read_bytes() == CONTENT
        assert sorted(p.name for p in folder.iterdir()) == ["a.bin", "fetch.lock.toml"]
        entry = lock.get("a.bin")
        assert entry is not None
        assert (entry.sha256, entry.size_bytes) == (DIGEST, len(CONTENT))
        assert entry.verified == ("sha256" if published else "first use")
        assert counter.done * 1e6 == pytest.approx(len(CONTENT))


def test_progress_counts_what_was_here_before(tmp_path: Path, server: FileServer) -> None:
    server.script("a.bin", Fault(drop_after=30_000))
    file = remote(server, sha256=DIGEST, size_bytes=len(CONTENT))
    with pytest.raises(UnfinishedError):
        get(tmp_path, file, options=DownloadOptions(retries=0))
    _, counter = get(tmp_path, file)
    assert counter.total == 1
    assert counter.done * 1e6 == pytest.approx(len(CONTENT))
    assert server.asked("a.bin") == [None, "bytes=30000-"]


def test_a_part_that_is_whole_already_is_only_verified(tmp_path: Path, server: FileServer) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    get(tmp_path, remote(server, sha256=DIGEST))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked("a.bin") == [f"bytes={len(CONTENT)}-"]


def test_a_part_that_is_longer_than_the_file_is_dropped(tmp_path: Path, server: FileServer) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT + b"more")
    get(tmp_path, remote(server, sha256=DIGEST))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_wrong_part_is_found_by_the_digest_and_fetched_anew(tmp_path: Path, server: FileServer) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    get(tmp_path, remote(server, sha256=DIGEST))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked("a.bin") == ["bytes=1000-", None]


def test_a_part_without_a_tag_or_a_digest_is_not_trusted(tmp_path: Path, server: FileServer) -> None:
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    get(tmp_path, remote(server))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.asked("a.bin") == [None]


def test_a_mirror_goes_on_behind_what_came_when_a_digest_vouches(tmp_path: Path, server: FileServer) -> None:
    (server.folder / "b.bin").write_bytes(CONTENT)
    server.always["a.bin"] = Fault(drop_after=9_000)
    server.script("a.bin", Fault(drop_after=10_000), Fault(status=403))
    get(tmp_path, remote(server, sha256=DIGEST, mirrors=[server.url("b.bin")]))
    assert server.asked("b.bin") == ["bytes=10000-"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_without_a_digest_a_mirror_does_not_begin_anew_behind_a_beginning(tmp_path: Path, server: FileServer) -> None:
    """Nothing tells that a mirror has the same bytes; what came stays with its address, which is asked first again."""
    (server.folder / "b.bin").write_bytes(CONTENT)
    mirrored = remote(server, path="a.bin", url=server.url("b.bin"), mirrors=[server.url("a.bin")])
    server.script("b.bin", Fault(status=403))
    server.script("a.bin", Fault(drop_after=30_000))
    with pytest.raises(UnfinishedError, match=r"a\.bin from .*a\.bin") as caught:
        get(tmp_path, mirrored, options=DownloadOptions(retries=0))
    assert "30,000 bytes are kept" in (caught.value.hint or "")
    server.script("a.bin", Fault(status=404))
    with pytest.raises(UnfinishedError, match="404") as caught:
        get(tmp_path, mirrored)
    assert "delete" in (caught.value.hint or "")
    get(tmp_path, mirrored)
    assert server.asked("b.bin") == [None]
    assert server.asked("a.bin") == [None, "bytes=30000-", "bytes=30000-"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_that_cannot_be_gone_on_with_does_not_keep_from_a_mirror(tmp_path: Path, server: FileServer) -> None:
    (server.folder / "b.bin").write_bytes(CONTENT)
    (tmp_path / "a.bin.part").write_bytes(b"x" * 1000)
    server.always["a.bin"] = Fault(status=403)
    get(tmp_path, remote(server, mirrors=[server.url("b.bin")]))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("published", [True, False])
def test_no_mirror_is_asked_when_the_disk_is_full(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch, published: bool
) -> None:
    (server.folder / "b.bin").write_bytes(CONTENT)

    class Full(io.FileIO):
        def write(self, content: object, /) -> int:
            if self.tell() >= 20_000:
                raise OSError(errno.ENOSPC, "No space left on device")
            return super().write(memoryview(content)[: 20_000 - self.tell()])  # type: ignore[arg-type]

    def opened(path: Path, mode: str = "r", *args: Any, **how: Any) -> object:
        written = path.suffix == ".part" and mode != "rb"
        return Full(path, mode.replace("b", "")) if written else whole(path, mode, *args, **how)

    whole = Path.open
    facts = {"sha256": DIGEST} if published else {}
    file = remote(server, mirrors=[server.url("b.bin")], optional=True, **facts)
    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", opened)
        with pytest.raises(UnwritableError, match=r"cannot write .*a\.bin\.part: No space left"):
            get(tmp_path, file)
    assert (tmp_path / "a.bin.part").stat().st_size == 20_000
    get(tmp_path, file)
    assert server.asked("a.bin") == [None, "bytes=20000-"]
    assert server.asked("b.bin") == []


def test_halves_of_two_versions_are_never_put_together(tmp_path: Path, server: FileServer) -> None:
    """Without a published digest, the entity tag of the first half must still hold."""
    server.script("a.bin", Fault(drop_after=10_000))
    with pytest.raises(UnfinishedError):
        get(tmp_path, remote(server), options=DownloadOptions(retries=0))
    (server.folder / "a.bin").write_bytes(CONTENT[::-1])
    get(tmp_path, remote(server))
    assert server.asked("a.bin") == [None, "bytes=10000-"]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT[::-1]


def test_a_range_that_begins_elsewhere_is_not_taken(tmp_path: Path, server: FileServer) -> None:
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:100])
    lie = {"Content-Range": f"bytes 50-{len(CONTENT) - 1}/{len(CONTENT)}"}
    server.script("a.bin", Fault(headers=lie))
    get(tmp_path, remote(server, sha256=DIGEST))
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_the_reasons_of_every_address_are_said(tmp_path: Path, server: FileServer) -> None:
    counter = Counter()
    file = remote(server, path="gone.bin", mirrors=[server.url("a.bin")], sha256="0" * 64)
    with pytest.raises(CorruptInputError, match="SHA-256 expected 0000"):
        download([file], tmp_path, FetchLock.read(tmp_path), FAST, counter, lambda *_: None)
    assert "404" in counter.warnings[0]


def test_an_optional_file_may_be_refused_but_not_broken_off(tmp_path: Path, server: FileServer) -> None:
    """What is left out for a passing reason would make another container than next time."""
    lock = FetchLock.read(tmp_path)
    counter, options = Counter(), DownloadOptions(retries=0)
    file = remote(server, optional=True)
    server.script("a.bin", Fault(status=403), Fault(drop_after=5))
    download([file], tmp_path, lock, options, counter, lambda *_: None)
    assert "a.bin is left out" in counter.warnings[0]
    with pytest.raises(UnfinishedError):
        download([file], tmp_path, lock, options, counter, lambda *_: None)


def test_an_error_of_ours_is_not_hidden(tmp_path: Path, server: FileServer) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        download([remote(server)], tmp_path, FetchLock.read(tmp_path), FAST, Silent(), broken)


def test_many_files_share_one_lock_file(tmp_path: Path, server: FileServer) -> None:
    names = [f"f{i}.bin" for i in range(12)]
    for name in names:
        (server.folder / name).write_bytes(name.encode() * 100)
    get(tmp_path, *[remote(server, path=name) for name in names], options=DownloadOptions(jobs=6))
    again = FetchLock.read(tmp_path)
    assert [entry.path for entry in again.all()] == sorted(names)


def test_jobs_bound_what_is_open_at_once(tmp_path: Path, server: FileServer) -> None:
    gate = threading.Event()
    for i in range(4):
        (server.folder / f"f{i}.bin").write_bytes(b"x")
        server.always[f"f{i}.bin"] = Fault(hold=gate)
    files = [remote(server, path=f"f{i}.bin") for i in range(4)]
    thread = threading.Thread(target=get, args=(tmp_path, *files), kwargs={"options": DownloadOptions(jobs=2)})
    thread.start()
    time.sleep(0.3)
    assert len(server.requests) == 2
    gate.set()
    thread.join(10)
    assert len(server.requests) == 4


@pytest.mark.parametrize(("head", "path"), [(b"PK\x03\x04", "a.zip"), (b'\n {"type"', "a.geojson"), (b"any", "a.csv")])
def test_the_first_bytes_fit_the_name(tmp_path: Path, head: bytes, path: str) -> None:
    (tmp_path / "x").write_bytes(head)
    file = RemoteFile.model_validate({"path": path, "url": "https://h.org/x"})
    assert check(tmp_path / "x", file, None, "here")[1] == "first use"


@pytest.mark.parametrize("path", ["a.zip", "a.tar.gz", "a.parquet", "a.h5", "a.geojson"])
@pytest.mark.parametrize("content", [b"Access denied", b"\xef\xbb\xbf\r\n<!DOCTYPE HTML><p>", b" <html lang=en>", b""])
def test_a_page_or_an_apology_is_no_data(tmp_path: Path, path: str, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    file = RemoteFile.model_validate({"path": path, "url": "https://h.org/x"})
    with pytest.raises(CorruptInputError, match=r"first bytes|web page"):
        check(tmp_path / "x", file, None, "here")


def test_a_published_digest_wins_over_the_first_download(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    earlier = LockedFile(path="x", origin="o", fetched="t", size_bytes=1, sha256="1" * 64, verified="first use")
    bare = {"path": "x", "url": "https://h.org/x"}
    with pytest.raises(CorruptInputError, match="not what was first fetched on t"):
        check(tmp_path / "x", RemoteFile.model_validate(bare), earlier, "here")
    assert check(tmp_path / "x", RemoteFile.model_validate({**bare, "sha256": DIGEST}), earlier, "here")[1] == "sha256"


def test_retry_after() -> None:
    assert _retry_after("7") == 7
    assert _retry_after(None) is None
    assert _retry_after("soon") is None
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert _retry_after(later) == pytest.approx(90, abs=2)
    assert _retry_after("Wed, 21 Oct 2015 07:28:00 GMT") == 0


@pytest.mark.parametrize(
    ("url", "loopback", "safe"),
    [
        ("https://example.org/a", False, True),
        ("http://example.org/a", False, False),
        ("http://127.0.0.1:8/a", True, True),
        ("http://[::1]:8/a", True, True),
        ("http://localhost/a", True, True),
        ("http://localhost.example.org/a", False, False),
        ("http://127.0.0.1.example.org/a", False, False),
        ("http://10.0.0.1/a", False, False),
        ("ftp://example.org/a", False, False),
        ("file:///etc/passwd", False, False),
    ],
)
def test_addresses(url: str, loopback: bool, safe: bool) -> None:
    assert (is_loopback(url), is_safe(url)) == (loopback, safe)
    assert is_safe(url, insecure=True) == (safe or url.startswith("http:"))


def test_a_remote_host_may_not_point_at_this_machine(tmp_path: Path, server: FileServer) -> None:
    """Here the remote host is played through a proxy, which is the same server."""
    server.script("a.bin", Fault(redirect=server.url("a.bin")))
    file = RemoteFile.model_validate({"path": "a.bin", "url": "http://mirror.invalid/a.bin"})
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("http_proxy", server.url(""))
        with pytest.raises(CropgenError, match="redirects to http://127"):
            get(tmp_path, file, options=DownloadOptions(insecure=True))
