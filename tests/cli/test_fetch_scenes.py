"""`cropgen fetch scenes` as a process: from a catalogue on this machine to parcel series."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from cropgen.api.scenes import ScenesRequest, fetch_scenes
from cropgen.cli.main import run
from cropgen.core.paths import Workspace
from cropgen.imagery.scene_files import Ledger
from cropgen.series.store import SeriesStore
from tests.data.server import Fault, FileServer, serve
from tests.data.stac import Region, write_parcels

from .conftest import call, command, environment

CORNERS = {"a": (110.0, 130.0), "b": (925.0, 2010.0), "c": (3000.0, 1000.0)}
SEASON = ("--from", "2021-06-01", "--to", "2021-06-30", "--bands", "B04,B08")


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as running:
        yield running


def region_of(server: FileServer, *days: str) -> Region:
    region = Region(server)
    for day in days:
        region.add(f"2021-06-{day}", baseline="05.00", checksums=True)
    return region


def words(tmp_path: Path, url: str, *more: str) -> tuple[str | Path, ...]:
    parcels = tmp_path / "fields.gpkg"
    if not parcels.exists():
        write_parcels(parcels, CORNERS)
    return ("fetch", "scenes", "--parcels", parcels, *SEASON, "--catalog", url, "--retries", "1", "--workspace",
            tmp_path / "w", *more)  # fmt: skip


def files(tmp_path: Path) -> dict[str, bytes]:
    folder = tmp_path / "w" / "data" / "fields" / "scenes"
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.tif")}


def series_of(scenes: Path, parcels: Path, output: Path) -> SeriesStore:
    ended = call("aggregate", scenes, parcels, "-o", output, "--scale", "0.0001", "--offset", "-0.1", "--buffer", "5")
    assert ended.code == 0, ended.err
    return SeriesStore.open(output)


@pytest.mark.slow
def test_from_catalogue_to_series(tmp_path: Path, server: FileServer) -> None:
    """What is aggregated from the windows is what would be aggregated from the whole scenes, to the last bit."""
    url = region_of(server, "05", "15").serve_api()
    ended = call(*words(tmp_path, url, "--dry-run"))
    assert ended.code == 0, ended.err
    assert "2 items on 2 dates in 1 tiles: 6 files, 0 of them here; about" in ended.err
    assert not (tmp_path / "w" / "data").exists()
    ended = call(*words(tmp_path, url, "--json"))
    assert ended.code == 0, ended.err
    found = ended.json()["result"]
    assert (found["items"], found["files"], found["here"], found["fetched"]) == (2, 6, 0, 6)
    assert len(files(tmp_path)) == 6
    parcels = tmp_path / "fields.gpkg"
    cut = series_of(tmp_path / "w/data/fields/scenes", parcels, tmp_path / "cut.zarr").read()
    whole = series_of(server.folder / "cogs", parcels, tmp_path / "whole.zarr").read()
    assert cut.mask.any()
    for name in ("values", "mask", "day", "parcel_id"):
        np.testing.assert_array_equal(getattr(cut, name), getattr(whole, name))


@pytest.mark.parametrize("kind", ["api", "static"])
def test_days_may_be_written_in_any_way_of_iso(tmp_path: Path, server: FileServer, kind: str) -> None:
    region = region_of(server, "05", "15")
    parcels = (write_parcels(tmp_path / "p.gpkg", CORNERS),)
    url = region.serve_api() if kind == "api" else region.write_static()
    request = ScenesRequest(parcels, "20210601", "2021-W23-4", catalog=url, bands=("B04",), dry_run=True)
    assert fetch_scenes(Workspace(tmp_path / "w"), request).dates == ("2021-06-05",)


def test_words_that_do_not_belong_together(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    there = write_parcels(tmp_path / "p.gpkg", CORNERS)
    for given, code, said in (
        (("scenes",), 2, "fetch scenes needs --parcels and --from and --to"),
        (("scenes", "--parcels", there, "--from", "2021", "--to", "2021-06-01"), 2, "--from '2021' is no date"),
        (("scenes", "--parcels", there, "--from", "2021-07-01", "--to", "2021-06-01"), 2, "comes after --to"),
        (("scenes", "--parcels", tmp_path / "no.gpkg", *SEASON), 3, "parcels not found"),
        (("scenes", "--parcels", there, *SEASON, "--catalog", "earthsearch"), 2, "no catalogue 'earthsearch'"),
        (("scenes", "--regions", "frh01"), 2, "--regions is for data sets, not for scenes"),
        (("scenes", "--verify"), 3, "no scenes were fetched"),
        (("demo", "--max-cloud", "0"), 2, "--max-cloud is for scenes, not for demo"),
        (("--catalog", "cdse"), 2, "--catalog is for scenes, not for the list of data sets"),
        (("demo", "--parcels", "fields.gpkg"), 2, "--parcels fields.gpkg: expected a number from 50 on"),
        (("demo", "--parcels", "10"), 2, "expected a number from 50 on"),
    ):
        ended = run(["fetch", *map(str, given), "--workspace", str(tmp_path / "w")])
        told = capsys.readouterr().err
        assert (ended, said in told) == (code, True), (given, told)


@pytest.mark.slow
def test_a_network_that_goes_leaves_what_came(tmp_path: Path, server: FileServer) -> None:
    region = region_of(server, "05", "15", "25")
    url = region.write_static()
    calm = call(*words(tmp_path, url))
    assert calm.code == 0, calm.err
    undisturbed = files(tmp_path)
    (tmp_path / "w").rename(tmp_path / "calm")
    for item in region.items[1:]:
        server.always[f"cogs/{item['id']}/B08.tif"] = Fault(status=503)
    ended = call(*words(tmp_path, url, "--jobs", "1", "--dry-run"))
    assert ended.code == 0, ended.err
    ended = call(*words(tmp_path, url, "--jobs", "1"))
    assert ended.code == 4, ended.err
    assert ended.err.count("error:") == 1
    assert 0 < len(files(tmp_path)) < 9
    server.always.clear()
    assert call(*words(tmp_path, url)).code == 0
    assert files(tmp_path) == undisturbed
    ended = call("fetch", "scenes", "--verify", "--workspace", tmp_path / "w", "--json")
    assert (ended.code, {f["state"] for f in ended.json()["result"]["files"]}) == (0, {"ok"})


@pytest.mark.slow
def test_a_full_disk_and_a_kill(tmp_path: Path, server: FileServer) -> None:
    url = region_of(server, "05", "15").write_static()

    def small_disk() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    ended = call(*words(tmp_path, url), preexec=small_disk)
    assert ended.code == 4, ended.err
    assert "cannot write" in ended.err
    assert all(len(content) <= 50_000 for content in files(tmp_path).values())
    assert not list((tmp_path / "w").rglob("*.part*"))
    hold = threading.Event()
    server.always["cogs/S2A_31UFS_20210615_0_L2A/SCL.tif"] = Fault(hold=hold)
    process = started(tmp_path, url)
    until(lambda: len(Ledger.read(tmp_path / "w/data/fields/scenes").all()) == 5)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate(timeout=30)
    hold.set()
    server.always.clear()
    ended = call(*words(tmp_path, url, "--json"))
    assert ended.code == 0, ended.err
    assert ended.json()["result"]["fetched"] == 1
    assert len(files(tmp_path)) == 6


@pytest.mark.slow
def test_two_at_once_fetch_once(tmp_path: Path, server: FileServer) -> None:
    url = region_of(server, "05").write_static()
    words(tmp_path, url)
    hold = threading.Event()
    server.always["cogs/S2A_31UFS_20210605_0_L2A/SCL.tif"] = Fault(hold=hold)
    with started(tmp_path, url) as first:
        until(lambda: (tmp_path / "w/data/fields/items.json").exists())
        with started(tmp_path, url) as second:
            assert second.stderr is not None
            assert any("another process is fetching into" in line for line in second.stderr)
            hold.set()
            assert (first.wait(timeout=120), second.wait(timeout=120)) == (0, 0)
    records = (tmp_path / "w/data/fields/scenes/ledger.jsonl").read_text().splitlines()
    assert len({json.loads(line)["path"] for line in records}) == len(records) == 3


def started(tmp_path: Path, url: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command(*words(tmp_path, url)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    )


def until(ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 90
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)
