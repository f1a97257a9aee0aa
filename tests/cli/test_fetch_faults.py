"""`cropgen fetch` as a process against a server that misbehaves: what ends well, what is said, what is left."""

from __future__ import annotations

import hashlib
import io
import os
import resource
import signal
import subprocess
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.manifests import published, toy_manifest
from tests.data.server import Fault, FileServer, serve

from .conftest import Ended, call, command, environment

CONTENT = bytes(range(256)) * 2000
QUICK = ("--retries", "2", "--timeout", "5", "--no-prepare")
LOGIN = b"<!DOCTYPE html>\n<html><title>Sign in</title></html>" * 20


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "a.bin").write_bytes(CONTENT)
    with serve(folder) as running:
        yield running


def sound(server: FileServer, path: str = "a.bin", **facts: Any) -> dict[str, Any]:
    return {"path": path, **published(server.folder / path), **facts}


def fetch(tmp_path: Path, *words: str | Path, **how: Any) -> Ended:
    return call("fetch", "toy", "--manifests", tmp_path / "manifests", "--workspace", tmp_path, *QUICK, *words, **how)


def files(tmp_path: Path) -> dict[str, bytes]:
    """What is in the data set's folder of files."""
    folder = tmp_path / "data" / "toy" / "files"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_a_drop_in_the_middle_is_resumed_behind_what_came(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server))
    server.script("a.bin", Fault(drop_after=300_000), Fault(status=500))
    ended = fetch(tmp_path)
    assert ended.code == 0, ended.err
    assert server.asked("a.bin") == [None, "bytes=300000-", "bytes=300000-"]
    assert files(tmp_path) == {"a.bin": CONTENT}
    assert "trying again behind 300,000 bytes" in ended.err
    lock = (tmp_path / "data" / "toy" / "fetch.lock.toml").read_text()
    assert hashlib.sha256(CONTENT).hexdigest() in lock
    assert 'verified = "sha256"' in lock


def test_a_server_without_ranges_is_read_from_the_start(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server))
    server.script("a.bin", Fault(drop_after=300_000), Fault(no_range=True))
    ended = fetch(tmp_path)
    assert ended.code == 0, ended.err
    assert server.asked("a.bin") == [None, "bytes=300000-"]
    assert files(tmp_path) == {"a.bin": CONTENT}


@pytest.mark.slow
def test_a_file_that_changes_between_attempts_is_never_a_mixture(tmp_path: Path, server: FileServer) -> None:
    """Without a published digest the entity tag keeps the halves apart."""
    toy_manifest(tmp_path / "manifests", server, {"path": "a.bin"})
    server.always["a.bin"] = Fault(drop_after=300_000)
    assert fetch(tmp_path, "--retries", "0").code == 4
    del server.always["a.bin"]
    (server.folder / "a.bin").write_bytes(CONTENT[::-1])
    ended = fetch(tmp_path)
    assert ended.code == 0, ended.err
    assert files(tmp_path) == {"a.bin": CONTENT[::-1]}


@pytest.mark.slow
def test_what_cannot_be_completed_is_kept_and_goes_on(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server))
    server.script("a.bin", *[Fault(drop_after=100_000)] * 2, Fault(drop_after=1000))
    ended = fetch(tmp_path)
    assert ended.code == 4
    assert "201,000 bytes are kept" in ended.err
    assert files(tmp_path)["a.bin.part"] == CONTENT[:201_000]
    ended = fetch(tmp_path)
    assert ended.code == 0, ended.err
    assert server.asked("a.bin")[-1] == "bytes=201000-"
    assert files(tmp_path) == {"a.bin": CONTENT}


def test_a_wrong_size_is_refused_before_it_is_downloaded(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server, size_bytes=77))
    ended = fetch(tmp_path)
    assert ended.code == 3
    assert "expected 77 bytes, the server offers 512,000" in ended.err
    assert files(tmp_path) == {}
    assert len(server.requests) == 1


def test_a_wrong_digest_leaves_nothing(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server, sha256="0" * 64))
    ended = fetch(tmp_path)
    assert ended.code == 3
    assert f"expected {'0' * 64}, got {hashlib.sha256(CONTENT).hexdigest()}" in ended.err
    assert files(tmp_path) == {}
    assert len(server.requests) == 1


@pytest.mark.slow
def test_md5_is_checked_where_a_publisher_states_it(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, {"path": "a.bin", "md5": "1" * 32})
    ended = fetch(tmp_path)
    assert (ended.code, "MD5 expected" in ended.err) == (3, True)
    toy_manifest(tmp_path / "manifests", server, {"path": "a.bin", "md5": hashlib.md5(CONTENT).hexdigest()})
    assert fetch(tmp_path).code == 0


@pytest.mark.parametrize(("status", "said"), [(403, "denies"), (404, "no longer there"), (401, "login")])
def test_a_refusal_is_final(tmp_path: Path, server: FileServer, status: int, said: str) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server))
    server.always["a.bin"] = Fault(status=status)
    ended = fetch(tmp_path)
    assert ended.code == 1
    assert str(status) in ended.err
    assert said in ended.err
    assert len(server.requests) == 1
    assert files(tmp_path) == {}


@pytest.mark.slow
def test_a_busy_server_is_asked_again_when_it_says(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server))
    server.script("a.bin", Fault(status=503), Fault(status=429, headers={"Retry-After": "1"}))
    began = time.monotonic()
    ended = fetch(tmp_path)
    assert ended.code == 0, ended.err
    assert time.monotonic() - began > 1
    assert len(server.requests) == 3


@pytest.mark.slow
def test_a_server_that_wants_to_be_left_alone_for_long_is(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server))
    server.always["a.bin"] = Fault(status=503, headers={"Retry-After": "86400"})
    ended = fetch(tmp_path)
    assert ended.code == 4
    assert "try again in 86400 s" in ended.err
    assert len(server.requests) == 1


def test_mirrors_are_tried_in_turn(tmp_path: Path, server: FileServer) -> None:
    (server.folder / "b.bin").write_bytes(CONTENT)
    mirrors = [server.url("gone.bin"), server.url("b.bin")]
    toy_manifest(tmp_path / "manifests", server, sound(server, mirrors=mirrors))
    server.always["a.bin"] = Fault(status=403)
    ended = fetch(tmp_path)
    assert ended.code == 0, ended.err
    assert [r.path for r in server.requests] == ["a.bin", "gone.bin", "b.bin"]
    assert files(tmp_path) == {"a.bin": CONTENT}


@pytest.mark.slow
def test_a_redirect_here_is_followed_and_said(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server))
    with serve(server.folder) as other:
        server.always["a.bin"] = Fault(redirect=other.url("a.bin"))
        ended = fetch(tmp_path)
    assert ended.code == 0, ended.err
    assert f"redirects to 127.0.0.1:{other.port}" in ended.err


def test_a_redirect_to_plain_http_elsewhere_is_refused(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server))
    server.always["a.bin"] = Fault(redirect="http://example.invalid/a.bin")
    ended = fetch(tmp_path)
    assert ended.code == 1
    assert "redirects to http://example.invalid/a.bin, which is not https" in ended.err


@pytest.mark.slow
def test_a_redirect_in_a_circle_ends(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server))
    server.always["a.bin"] = Fault(redirect=server.url("a.bin"))
    ended = fetch(tmp_path)
    assert (ended.code, "more than 8 times" in ended.err) == (1, True)


@pytest.mark.parametrize("kind", ["text/html; charset=utf-8", "application/octet-stream"])
def test_a_login_page_in_place_of_the_file(tmp_path: Path, server: FileServer, kind: str) -> None:
    toy_manifest(tmp_path / "manifests", server, {"path": "a.zip"})
    server.always["a.zip"] = Fault(status=200, body=LOGIN, headers={"Content-Type": kind})
    ended = fetch(tmp_path)
    assert ended.code == 3
    assert "got a web page, perhaps a login" in ended.err
    assert "--from DIR" in ended.err
    assert files(tmp_path) == {}


def test_a_trickle_counts_as_a_drop(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server))
    server.script("a.bin", Fault(bytes_per_second=200))
    ended = fetch(tmp_path, "--timeout", "1")
    assert ended.code == 0, ended.err
    assert "less than 1 KiB came within 1 s" in ended.err
    assert server.asked("a.bin")[1] is not None
    assert files(tmp_path) == {"a.bin": CONTENT}


@pytest.mark.slow
def test_a_silent_server_counts_as_a_drop(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server))
    server.always["a.bin"] = Fault(bytes_per_second=0.2)
    ended = fetch(tmp_path, "--timeout", "0.5", "--retries", "1")
    assert ended.code == 4
    assert "timed out" in ended.err.lower()


@pytest.mark.slow
def test_nobody_there(tmp_path: Path, server: FileServer) -> None:
    with serve(tmp_path) as gone:
        pass
    toy_manifest(tmp_path / "manifests", server, sound(server, url=gone.url("a.bin")))
    ended = fetch(tmp_path, "--retries", "1")
    assert ended.code == 4
    assert "Connection refused" in ended.err


def test_a_full_disk_keeps_what_came(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server))

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    ended = fetch(tmp_path, preexec=small_disk)
    assert ended.code == 1
    assert "cannot write" in ended.err
    assert files(tmp_path)["a.bin.part"] == CONTENT[:200_000]
    assert fetch(tmp_path).code == 0
    assert server.asked("a.bin")[-1] == "bytes=200000-"
    assert files(tmp_path) == {"a.bin": CONTENT}


def started(tmp_path: Path) -> subprocess.Popen[str]:
    words = ("fetch", "toy", "--manifests", tmp_path / "manifests", "--workspace", tmp_path, *QUICK)
    return subprocess.Popen(
        command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )


def until(ready: Any) -> None:
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("how", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)])
def test_killed_and_started_again(tmp_path: Path, server: FileServer, how: signal.Signals, code: int) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server))
    server.script("a.bin", Fault(bytes_per_second=60_000))
    part = tmp_path / "data" / "toy" / "files" / "a.bin.part"
    process = started(tmp_path)
    until(lambda: part.is_file() and part.stat().st_size > 50_000)
    os.kill(process.pid, how)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (code, False)
    kept = part.stat().st_size
    ended = fetch(tmp_path)
    assert ended.code == 0, ended.err
    assert server.asked("a.bin") == [None, f"bytes={kept}-"]
    assert files(tmp_path) == {"a.bin": CONTENT}


def test_two_at_once_fetch_once(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, sound(server))
    go_on = threading.Event()
    server.script("a.bin", Fault(hold=go_on))
    with started(tmp_path) as first:
        until(lambda: bool(server.requests))
        with started(tmp_path) as second:
            assert second.stderr is not None
            assert "another process is fetching" in second.stderr.readline()
            go_on.set()
            assert (first.wait(timeout=60), second.wait(timeout=60)) == (0, 0)
    assert len(server.requests) == 1
    assert files(tmp_path) == {"a.bin": CONTENT}


def archive_of(folder: Path, name: str, entries: dict[str, bytes], *links: str) -> None:
    if name.endswith(".zip"):
        with zipfile.ZipFile(folder / name, "w", zipfile.ZIP_DEFLATED) as packed:
            for path, content in entries.items():
                packed.writestr(path, content)
        return
    with tarfile.open(folder / name, "w:gz") as packed:
        for path, content in entries.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
        for path in links:
            info = tarfile.TarInfo(path)
            info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
            packed.addfile(info)


def unpacked(path: str, size: int | None = 3) -> dict[str, Any]:
    member: dict[str, Any] = {"path": "deep/x.h5"} | ({"size_bytes": size} if size else {})
    return {"path": path, "unpack": "deep", "members": [member]}


def test_an_archive_is_unpacked_and_dropped_or_kept(tmp_path: Path, server: FileServer) -> None:
    archive_of(server.folder, "a.tar.gz", {"some/where/x.h5": b"one", "some/where/._x.h5": b"junk"})
    toy_manifest(tmp_path / "manifests", server, unpacked("a.tar.gz"))
    assert fetch(tmp_path).code == 0
    assert files(tmp_path) == {"deep/x.h5": b"one"}
    assert fetch(tmp_path).code == 0
    assert len(server.requests) == 1
    (tmp_path / "data" / "toy" / "files" / "deep" / "x.h5").unlink()
    assert fetch(tmp_path, "--keep-archives").code == 0
    assert sorted(files(tmp_path)) == ["a.tar.gz", "deep/x.h5"]


@pytest.mark.parametrize(
    ("name", "entries", "links", "said"),
    [
        ("a.zip", {"x.h5": b"one", "../planted": b"1"}, (), "outside"),
        ("a.tar.gz", {"x.h5": b"one", "/tmp/planted": b"1"}, (), "outside"),
        ("a.zip", {"x.h5": bytes(100 << 20)}, (), "more than the 1,048,579 bytes expected"),
        ("a.tar.gz", {"x.h5": b"one"}, ("link",), "link or a device"),
        ("a.zip", {"y.h5": b"one"}, (), "does not hold x.h5"),
        ("a.zip", {"x.h5": b"four"}, (), "expected 3 bytes, got 4"),
    ],
    ids=["zip outside", "tar outside", "zip bomb", "link", "another archive", "another size"],
)
def test_what_an_archive_must_not_hold(
    tmp_path: Path, server: FileServer, name: str, entries: dict[str, bytes], links: tuple[str, ...], said: str
) -> None:
    archive_of(server.folder, name, entries, *links)
    toy_manifest(tmp_path / "manifests", server, unpacked(name))
    ended = fetch(tmp_path)
    assert ended.code == 3
    assert said in ended.err
    assert files(tmp_path) == {}
    assert not (tmp_path / "data" / "toy" / "planted").exists()


def test_a_truncated_tar(tmp_path: Path, server: FileServer) -> None:
    noise = hashlib.shake_256(b"").digest(100_000)
    archive_of(server.folder, "a.tar.gz", {"x.h5": noise})
    whole = (server.folder / "a.tar.gz").read_bytes()
    (server.folder / "a.tar.gz").write_bytes(whole[:60_000])
    toy_manifest(tmp_path / "manifests", server, unpacked("a.tar.gz", len(noise)))
    ended = fetch(tmp_path)
    assert ended.code == 3
    assert "truncated or damaged" in ended.err
    assert files(tmp_path) == {}
    (server.folder / "a.tar.gz").write_bytes(whole)
    assert fetch(tmp_path).code == 0
    assert files(tmp_path) == {"deep/x.h5": noise}
