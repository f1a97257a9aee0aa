"""`cropgen fetch` as a process: lists, plans, brings, verifies, and says what it trusts."""

from __future__ import annotations

import hashlib
import io
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cropgen.cli.fetch import parse_rate
from cropgen.core.errors import UsageError
from tests.data.manifests import published, toy_manifest
from tests.data.server import Fault, FileServer, serve

from .conftest import Ended, call, environment

CONTENT = {"a.bin": b"a" * 100_000, "b.bin": b"b" * 200_000, "sub/c.bin": b"c" * 50_000}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    folder = tmp_path / "served"
    for name, content in CONTENT.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with serve(folder) as running:
        yield running


def fetch(root: Path, *words: str | Path, manifests: Path | None = None) -> Ended:
    return call("fetch", *words, "--manifests", manifests or root / "manifests", "--workspace", root, "--retries", "0")


def all_files(root: Path, server: FileServer, **facts: Any) -> Path:
    return toy_manifest(
        root / "manifests", server, *[{"path": n, **published(server.folder / n)} for n in CONTENT], **facts
    )


def files(root: Path) -> dict[str, bytes]:
    folder = root / "data" / "toy" / "files"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_plan_states_the_published_sizes(tmp_path: Path) -> None:
    ended = call(
        "fetch", "--dry-run", "breizhcrops", "--regions", "frh01,frh02,frh03,frh04", "--year", "2017",
        "--workspace", tmp_path,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    for size in ("2,559,635,960", "2,253,658,856", "2,493,572,704", "1,555,075,632", "8,861,943,152"):
        assert size in ended.out
    assert list(tmp_path.iterdir()) == []


def test_the_list_is_light_and_says_what_is_here(tmp_path: Path, server: FileServer) -> None:
    all_files(tmp_path, server)
    assert fetch(tmp_path, "toy").code == 0
    listed = fetch(tmp_path, "--json").json()["result"]
    assert [(d["name"], d["state"], d["licence"]) for d in listed] == [("toy", "files only, 0 MB", "CC0-1.0")]
    shipped = call("fetch", "--workspace", tmp_path)
    for name in ("breizhcrops", "cropharvest", "demo", "denethor", "eurocrops", "eurocropsml", "timesen2crop"):
        assert name in shipped.out
    code = (
        "import sys\nfrom cropgen.cli.main import run\nrun(['fetch', '-q'])\n"
        "print(sorted({'torch', 'zarr', 'pandas', 'geopandas', 'rasterio', 'sklearn'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment())
    assert done.stdout.strip().endswith("[]")


def test_everything_comes_once(tmp_path: Path, server: FileServer) -> None:
    all_files(tmp_path, server)
    ended = fetch(tmp_path, "toy", "--json")
    assert ended.code == 0, ended.err
    assert files(tmp_path) == CONTENT
    result = ended.json()["result"]
    assert all(file["here"] and file["exact"] and file["vouched"] == "sha256" for file in result["files"])
    assert fetch(tmp_path, "toy", "--offline").code == 0
    assert len(server.requests) == 3


@pytest.mark.slow
def test_files_come_side_by_side(tmp_path: Path, server: FileServer) -> None:
    all_files(tmp_path, server)
    for name in CONTENT:
        server.always[name] = Fault(bytes_per_second=len(CONTENT[name]) / 2)
    began = time.monotonic()
    assert fetch(tmp_path, "toy", "--jobs", "3").code == 0
    assert time.monotonic() - began < 5.5
    assert files(tmp_path) == CONTENT


@pytest.mark.slow
def test_the_rate_is_limited_over_all_files(tmp_path: Path, server: FileServer) -> None:
    all_files(tmp_path, server)
    began = time.monotonic()
    assert fetch(tmp_path, "toy", "--limit-rate", "150k").code == 0
    assert time.monotonic() - began > 350_000 / 150_000


@pytest.mark.parametrize(
    ("text", "rate"), [("5M", 5e6), ("500k", 5e5), ("1.5MB/s", 1.5e6), ("2000", 2000), (None, None)]
)
def test_rates(text: str | None, rate: float | None) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["fast", "-1", "10", "0", "5X", "nan", ""])
def test_wrong_rates(text: str) -> None:
    with pytest.raises(UsageError, match="limit-rate"):
        parse_rate(text)


def test_offline_opens_no_connection(tmp_path: Path, server: FileServer) -> None:
    all_files(tmp_path, server)
    ended = fetch(tmp_path, "toy", "--offline")
    assert ended.code == 3
    assert "3 files are not here: a.bin, b.bin, sub/c.bin" in ended.err
    assert server.requests == []


def test_a_part_of_it(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(
        tmp_path / "manifests", server,
        {"path": "a.bin", "region": "north", "year": 2020}, {"path": "b.bin", "region": "south", "year": 2020},
        {"path": "sub/c.bin", "region": "south", "year": 2021},
    )  # fmt: skip
    assert fetch(tmp_path, "toy", "--regions", "south", "--year", "2021").code == 0
    assert sorted(files(tmp_path)) == ["sub/c.bin"]
    ended = fetch(tmp_path, "toy", "--regions", "north", "--year", "2021")
    assert (ended.code, "toy has no north" in ended.err) == (2, True)
    ended = fetch(tmp_path, "toy", "--regions", "nort")
    assert (ended.code, "did you mean north?" in ended.err) == (2, True)


def test_first_use_is_trusted_recorded_and_said(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, {"path": "a.bin"})
    ended = fetch(tmp_path, "toy")
    assert "no digest is published for 1 of 1 files" in ended.err
    lock = (tmp_path / "data" / "toy" / "fetch.lock.toml").read_text()
    assert hashlib.sha256(CONTENT["a.bin"]).hexdigest() in lock
    assert 'verified = "first use"' in lock
    (tmp_path / "data" / "toy" / "files" / "a.bin").unlink()
    (server.folder / "a.bin").write_bytes(b"something else")
    ended = fetch(tmp_path, "toy")
    assert ended.code == 3
    assert "is not what was first fetched on" in ended.err
    assert files(tmp_path) == {}


def test_verify_finds_damage_and_the_next_fetch_repairs_it(tmp_path: Path, server: FileServer) -> None:
    all_files(tmp_path, server)
    assert fetch(tmp_path, "toy", "--verify").code == 3
    assert fetch(tmp_path, "toy").code == 0
    assert fetch(tmp_path, "toy", "--verify").code == 0
    folder = tmp_path / "data" / "toy" / "files"
    (folder / "a.bin").write_bytes(CONTENT["a.bin"][:-1] + b"!")
    (folder / "b.bin").unlink()
    ended = fetch(tmp_path, "--verify", "--json")
    assert ended.code == 1
    found = {file["path"]: file["state"] for file in ended.json()["result"]["files"]}
    assert found == {"a.bin": "corrupt", "b.bin": "missing", "sub/c.bin": "ok"}
    assert "a.bin is corrupt" in ended.err
    assert fetch(tmp_path, "toy").code == 0
    assert files(tmp_path) == CONTENT
    assert len(server.requests) == 5
    assert fetch(tmp_path, "toy", "--verify").code == 0


@pytest.mark.slow
def test_a_truncated_file_is_noticed_without_verify(tmp_path: Path, server: FileServer) -> None:
    all_files(tmp_path, server)
    assert fetch(tmp_path, "toy").code == 0
    (tmp_path / "data" / "toy" / "files" / "a.bin").write_bytes(b"a")
    assert fetch(tmp_path, "toy").code == 0
    assert files(tmp_path) == CONTENT


def test_files_that_a_user_brings(tmp_path: Path, server: FileServer) -> None:
    """Found by path or by name, verified, unpacked, copied; the user's folder is only read."""
    mine = tmp_path / "mine"
    mine.mkdir()
    with tarfile.open(mine / "x.tar.gz", "w:gz") as packed:
        info = tarfile.TarInfo("x.h5")
        info.size = 3
        packed.addfile(info, io.BytesIO(b"one"))
    (mine / "c.bin").write_bytes(CONTENT["sub/c.bin"])
    toy_manifest(
        tmp_path / "manifests", server,
        {"path": "sub/c.bin", **published(server.folder / "sub/c.bin")}, {"path": "extra.bin", "optional": True},
        {"path": "2020/x.tar.gz", "unpack": "2020", "members": [{"path": "2020/x.h5", "size_bytes": 3}]},
    )  # fmt: skip
    ended = fetch(tmp_path, "toy", "--from", mine)
    assert ended.code == 0, ended.err
    assert files(tmp_path) == {"sub/c.bin": CONTENT["sub/c.bin"], "2020/x.h5": b"one"}
    assert "extra.bin is left out" in ended.err
    assert sorted(p.name for p in mine.iterdir()) == ["c.bin", "x.tar.gz"]
    assert server.requests == []


@pytest.mark.slow
def test_what_a_user_brings_is_verified_and_must_be_there(tmp_path: Path, server: FileServer) -> None:
    all_files(tmp_path, server)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "a.bin").write_bytes(b"another")
    ended = fetch(tmp_path, "toy", "--from", mine)
    assert (ended.code, "a.bin from" in ended.err) == (3, True)
    (mine / "a.bin").write_bytes(CONTENT["a.bin"])
    ended = fetch(tmp_path, "toy", "--from", mine)
    assert (ended.code, "lacks b.bin, sub/c.bin" in ended.err) == (3, True)
    assert fetch(tmp_path, "toy", "--from", tmp_path / "nowhere").code == 3


def test_a_folder_that_is_usable_as_it_is_is_not_copied(tmp_path: Path, server: FileServer) -> None:
    all_files(tmp_path, server)
    ended = fetch(tmp_path, "toy", "--from", server.folder)
    assert ended.code == 0, ended.err
    assert str(server.folder) in ended.out
    assert files(tmp_path) == {}


@pytest.mark.slow
def test_an_optional_file_may_be_gone(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, {"path": "a.bin"}, {"path": "gone.bin", "optional": True})
    ended = fetch(tmp_path, "toy")
    assert ended.code == 0, ended.err
    assert "gone.bin is left out" in ended.err
    assert sorted(files(tmp_path)) == ["a.bin"]


@pytest.mark.slow
def test_one_failure_does_not_stop_the_others(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, {"path": "gone.bin"}, {"path": "a.bin"}, {"path": "b.bin"})
    ended = fetch(tmp_path, "toy", "--jobs", "1")
    assert (ended.code, "gone.bin" in ended.err) == (1, True)
    assert sorted(files(tmp_path)) == ["a.bin", "b.bin"]


def test_a_retired_host_is_said_before_anything_else(tmp_path: Path) -> None:
    ended = call("fetch", "denethor", "--workspace", tmp_path)
    assert ended.code == 3
    assert "Radiant MLHub, which served it, was shut down" in ended.err
    assert "--from DIR" in ended.err


def test_plain_http_elsewhere_needs_a_word(tmp_path: Path, server: FileServer) -> None:
    toy_manifest(tmp_path / "manifests", server, {"path": "a.bin", "url": "http://mirror.invalid/a.bin"})
    ended = fetch(tmp_path, "toy", "--dry-run")
    assert (ended.code, "is not https" in ended.err) == (2, True)
    assert fetch(tmp_path, "toy", "--dry-run", "--insecure-mirror").code == 0
    ended = call("fetch", "demo", "--insecure-mirror", "--workspace", tmp_path)
    assert (ended.code, "needs --manifests" in ended.err) == (2, True)


@pytest.mark.slow
def test_a_proxy_of_the_environment_is_used(
    tmp_path: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proxy is this server, asked for an address of another host by its whole name."""
    toy_manifest(tmp_path / "manifests", server, {"path": "a.bin", "url": "http://mirror.invalid/a.bin"})
    monkeypatch.setenv("HTTP_PROXY", server.url(""))
    monkeypatch.setenv("http_proxy", server.url(""))
    ended = fetch(tmp_path, "toy", "--insecure-mirror")
    assert ended.code == 0, ended.err
    assert files(tmp_path) == {"a.bin": CONTENT["a.bin"]}


@pytest.mark.slow
def test_wrong_words(tmp_path: Path) -> None:
    for words, said in (
        (("demo", "--regions", "plateau"), "simulated as a whole"),
        (("breizhcrops", "--parcels", "60", "--dry-run"), "--parcels is for the demo region"),
        (("breizhcrop",), "did you mean breizhcrops?"),
        (("breizhcrops", "--year", "last"), "expected whole numbers"),
        (("--manifests", str(tmp_path / "none")), "folder of manifests not found"),
    ):
        ended = call("fetch", *words, "--workspace", tmp_path)
        assert ended.code in (2, 3), words
        assert said in ended.err
