"""Scenes from a catalogue on this machine: what comes, what it is worth, and what survives a bad network."""

from __future__ import annotations

import hashlib
import json
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import rasterio

from cropgen.core.errors import (
    CropgenError,
    DataError,
    MissingDependencyError,
    MissingInputError,
    SchemaError,
    UnfinishedError,
)
from cropgen.core.progress import Silent
from cropgen.imagery import scene_files
from cropgen.imagery.catalogs import Catalog, find_catalog
from cropgen.imagery.remote import open_raster
from cropgen.imagery.scene import Window
from cropgen.imagery.scene_fetch import SceneQuery, fetch_scenes, plan_scenes, verify_scenes
from cropgen.imagery.scene_files import Ledger, Record
from cropgen.imagery.sources import open_scenes
from cropgen.imagery.stac import access_to
from tests.data.server import Fault, FileServer, serve
from tests.data.stac import NORTH, SIZE, WEST, Region, write_parcels

JUNE = ("2021-06-01", "2021-06-30")
CORNERS = {"a": (100.0, 100.0), "b": (900.0, 2000.0)}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "served").mkdir()
    with serve(tmp_path / "served") as running:
        yield running


class Work:
    """A folder, a query, and what `fetch scenes` does with them; retries pause for milliseconds."""

    def __init__(self, tmp_path: Path, url: str, *, retries: int = 2, catalog: Catalog | None = None, **query) -> None:
        self.folder = tmp_path / "data" / "x"
        self.parcels = tmp_path / "p.gpkg"
        if not self.parcels.exists():
            tmp_path.mkdir(exist_ok=True)
            write_parcels(self.parcels, CORNERS)
        self.catalog = catalog or find_catalog(url)
        self.query = SceneQuery(self.catalog, *JUNE, **{"bands": ("B04",), **query})
        self.access = access_to(self.catalog, retries=retries, backoff=0.01, timeout=5.0)
        self.report = Silent()

    def plan(self):
        return plan_scenes(self.query, [self.parcels], self.folder, self.access, self.report)

    def fetch(self, jobs: int = 1) -> int:
        return fetch_scenes(self.plan(), self.query, self.folder, self.access, self.report, jobs)

    def files(self) -> dict[str, str]:
        scenes = self.folder / "scenes"
        return {
            p.relative_to(scenes).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in scenes.rglob("*.tif")
        }

    def reflectance(self, path: str) -> np.ndarray:
        with rasterio.open(self.folder / "scenes" / path) as raster:
            return raster.scales[0] * raster.read(1) + raster.offsets[0]


def cog(region: Region, number: int = 0, band: str = "B04") -> str:
    return f"cogs/{region.items[number]['id']}/{band}.tif"


@pytest.mark.parametrize("searchable", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["api", "static"])
def test_windows_of_every_dialect_are_reflectance(tmp_path, server, searchable):
    region = Region(server)
    region.add("2021-06-05", dialect="planetary-computer", baseline="05.00")
    region.add("2021-06-08", dialect="planetary-computer", baseline="03.00")
    region.add("2021-06-15", dialect="earth-search", baseline="05.00", applied=True)
    region.add("2021-06-25", dialect="cdse", baseline="05.11", stated_grid=False)
    region.add("2021-06-26", cloud=61)
    region.add("2021-07-01")
    region.add("2021-06-27", west=WEST + 500_000, tile="33UXX")
    work = Work(tmp_path, region.serve_api() if searchable else region.write_static())
    plan = work.plan()
    assert (plan.items, plan.tiles, len(plan.targets), plan.here) == (4, ["31UFS"], 8, 0)
    assert plan.dates == ["2021-06-05", "2021-06-08", "2021-06-15", "2021-06-25"]
    whole = (server.folder / cog(region)).stat().st_size
    assert 0.1 < plan.estimate / (4 * whole) < 0.3
    assert work.fetch(jobs=3) == 8
    for date, item in zip(plan.dates, region.items, strict=False):
        found = work.reflectance(f"31UFS/{date}/B04.tif")
        np.testing.assert_allclose(found, region.truth[f"{item['id']}/B04"][:512, :512], atol=1e-9)
    acquisitions = open_scenes(work.folder / "scenes", Silent()).acquisitions
    assert [a.date for a in acquisitions] == plan.dates
    assert {layer.grid.bounds for a in acquisitions for layer in a.layers.values()} == {
        (WEST, NORTH - 5120, WEST + 5120, NORTH)
    }
    assert work.report.warnings == []


def test_only_the_blocks_of_the_window_are_asked_for(tmp_path, server):
    region = Region(server)
    region.add("2021-06-05")
    Work(tmp_path, region.write_static()).fetch()
    whole = (server.folder / cog(region)).stat().st_size
    asked = [r.range for r in server.requests if r.path == cog(region) and r.method == "GET"]
    spans = [(text or "bytes=0-inf").removeprefix("bytes=").split("-") for text in asked]
    assert sum(float(end) - int(start) + 1 for start, end in spans) < 0.35 * whole


def test_what_is_here_is_not_fetched_again(tmp_path, server):
    region = Region(server)
    region.add("2021-06-05")
    region.add("2021-06-15")
    work = Work(tmp_path, region.serve_api())
    assert work.fetch() == 4
    before, asked = work.files(), len(server.requests)
    assert work.plan().estimate == 0
    assert work.fetch() == 0
    ranges = {r.range for r in server.requests[asked:] if r.path.startswith("cogs/")}
    assert ranges == {"bytes=0-0"}
    (work.folder / "scenes/31UFS/2021-06-05/B04.tif").unlink()
    (work.folder / "scenes/31UFS/2021-06-15/SCL.tif").write_bytes(b"short")
    assert work.fetch() == 2
    assert work.files() == before


@pytest.mark.slow
def test_what_changed_is_fetched_again(tmp_path, server):
    region = Region(server)
    region.add("2021-06-05")
    work = Work(tmp_path, region.serve_api())
    work.fetch()
    before = work.files()
    region.items.clear()
    region.add("2021-06-15")
    (server.folder / "cogs/S2A_31UFS_20210605_0_L2A/B04.tif").write_bytes((server.folder / cog(region)).read_bytes())
    region.items.clear()
    region.add("2021-06-15")
    first = {**region.items[0], "id": "S2A_31UFS_20210605_0_L2A"}
    first = json.loads(json.dumps(first).replace("20210615_0", "20210605_0").replace("2021-06-15T", "2021-06-05T"))
    region.items[:] = [first]
    assert work.fetch() == 1
    changed = [path for path, digest in work.files().items() if digest != before[path]]
    assert changed == ["31UFS/2021-06-05/B04.tif"]
    write_parcels(work.parcels, {**CORNERS, "c": (7000.0, 100.0)})
    assert work.fetch() == 2
    assert work.reflectance("31UFS/2021-06-05/B04.tif").shape == (512, 1024)


@pytest.mark.slow
def test_several_items_of_a_day_keep_their_folders(tmp_path, server):
    region = Region(server)
    region.add("2021-06-05", name="S2A_31UFS_20210605_1_L2A")
    work = Work(tmp_path, region.serve_api())
    work.fetch()
    other = region.add("2021-06-05", name="S2A_31UFS_20210605_0_L2A")
    other["properties"]["datetime"] = "2021-06-05T10:56:03Z"
    assert work.fetch() == 2
    assert {r.item: r.path.rpartition("/")[0] for r in Ledger.read(work.folder / "scenes").all()} == {
        "S2A_31UFS_20210605_1_L2A": "31UFS/2021-06-05", "S2A_31UFS_20210605_0_L2A": "31UFS/2021-06-05_2",
    }  # fmt: skip


def reprocessed(region: Region) -> Region:
    """The granule of the first item again, of a later baseline in another collection."""
    other = region.add("2021-06-05", baseline="05.10", name="S2A_T31UFS_20210605T105618_L2A")
    other["collection"] = "newer"
    return region


@pytest.mark.parametrize("search", ["both", "newer"])
@pytest.mark.parametrize("kept", [True, False], ids=["ledger", "older ledger"])
def test_a_newer_processing_replaces_the_files_of_the_older(tmp_path, server, search, kept):
    region = Region(server)
    region.add("2021-06-05", baseline="03.00")
    url = region.serve_api()
    work = Work(tmp_path, url)
    work.fetch()
    ledger = work.folder / "scenes" / "ledger.jsonl"
    if not kept:
        lines = [json.loads(line) for line in ledger.read_text().splitlines()]
        older = [{k: v for k, v in line.items() if k not in ("tile", "strip")} for line in lines]
        ledger.write_text("".join(json.dumps(line) + "\n" for line in older))
    reprocessed(region)
    catalog = Catalog("x", url, "newer") if search == "newer" else None
    again = Work(tmp_path, url, catalog=catalog)
    assert again.plan().here == 0
    assert again.fetch() == 2
    assert sorted(again.files()) == ["31UFS/2021-06-05/B04.tif", "31UFS/2021-06-05/SCL.tif"]
    assert {r.item for r in Ledger.read(again.folder / "scenes").all()} == {"S2A_T31UFS_20210605T105618_L2A"}
    assert again.fetch() == 0
    assert again.report.warnings == []


def test_bands_of_an_older_processing_that_stay_are_told(tmp_path, server):
    region = Region(server)
    region.add("2021-06-05", baseline="03.00")
    url = region.serve_api()
    Work(tmp_path, url, bands=("B04", "B08")).fetch()
    reprocessed(region)
    work = Work(tmp_path, url)
    assert work.fetch() == 2
    (warning,) = work.report.warnings
    assert "1 files of other items stay" in warning
    assert "31UFS/2021-06-05/B08.tif of S2A_31UFS_20210605_0_L2A" in warning


@pytest.mark.parametrize(
    "faults",
    [
        [Fault(status=503), Fault(status=429)],
        [Fault(), Fault(), Fault(), Fault(drop_after=5_000), Fault()],
        pytest.param([Fault(), Fault(drop_after=100), Fault()], marks=pytest.mark.slow),
        pytest.param([Fault(), Fault(), Fault(status=500), Fault()], marks=pytest.mark.slow),
        pytest.param([Fault(), Fault(), Fault(), Fault(status=502), Fault()], marks=pytest.mark.slow),
    ],
    ids=["asked", "dropped in the window", "dropped in the head", "500 on opening", "502 in the window"],
)
def test_a_bad_network_leaves_no_trace(tmp_path, server, faults):
    region = Region(server)
    region.add("2021-06-05")
    calm = Work(tmp_path / "calm", region.write_static())
    calm.fetch()
    rough = Work(tmp_path / "rough", region.write_static())
    plan = rough.plan()
    server.script(cog(region), *faults)
    assert fetch_scenes(plan, rough.query, rough.folder, rough.access, rough.report, 1) == 2
    assert not server._scripts[cog(region)]
    assert rough.files() == calm.files()


def test_the_network_goes_and_comes_back(tmp_path, server):
    region = Region(server)
    for day in ("05", "15", "25"):
        region.add(f"2021-06-{day}")
    work = Work(tmp_path, region.write_static(), retries=1)
    plan = work.plan()
    server.always[cog(region, 1)] = Fault(status=503)
    with pytest.raises(UnfinishedError, match="the server answers 503"):
        fetch_scenes(plan, work.query, work.folder, work.access, work.report, 1)
    here = work.files()
    assert "31UFS/2021-06-05/B04.tif" in here
    assert "31UFS/2021-06-15/B04.tif" not in here
    assert not list(work.folder.rglob("*.part*"))
    server.always.clear()
    assert work.fetch() == 6 - len(here)
    assert len(work.files()) == 6
    assert {path: digest for path, digest in work.files().items() if path in here} == here


def test_nobody_there(tmp_path):
    served = tmp_path / "served"
    served.mkdir()
    with serve(served) as gone:
        region = Region(gone)
        region.add("2021-06-05")
        work = Work(tmp_path, region.write_static(), retries=1)
        plan = work.plan()
    with pytest.raises(UnfinishedError, match="connection failed"):
        fetch_scenes(plan, work.query, work.folder, work.access, work.report, 1)
    with pytest.raises(UnfinishedError, match="does not answer"):
        work.plan()


def test_a_file_that_is_gone_or_damaged_does_not_stop_the_others(tmp_path, server):
    region = Region(server)
    for day in ("05", "15", "25"):
        region.add(f"2021-06-{day}", checksums=True)
    work = Work(tmp_path, region.write_static(), retries=1)
    plan = work.plan()
    (server.folder / cog(region, 0)).unlink()
    damaged = server.folder / cog(region, 1)
    damaged.write_bytes(damaged.read_bytes()[:20_000])
    with pytest.raises(UnfinishedError, match=r"2 of 6 files cannot be fetched: http.*20210605.*404"):
        fetch_scenes(plan, work.query, work.folder, work.access, work.report, 2)
    assert len(work.files()) == 4


def across_the_tile(tmp_path: Path) -> None:
    write_parcels(tmp_path / "p.gpkg", {"a": (0.0, 0.0), "b": (SIZE * 10.0 - 60, SIZE * 10.0 - 60)})


def test_files_that_are_brought_whole_have_the_checksum_of_the_catalogue(tmp_path, server):
    across_the_tile(tmp_path)
    region = Region(server)
    region.add("2021-06-05", checksums=True)
    region.add("2021-06-15")
    work = Work(tmp_path, region.write_static())
    assert work.fetch(jobs=2) == 4
    assert [record.verified for record in Ledger.read(work.folder / "scenes").all()] == [True, True, False, False]
    stored = work.reflectance("31UFS/2021-06-05/B04.tif")
    np.testing.assert_allclose(stored, region.truth["S2A_31UFS_20210605_0_L2A/B04"], atol=1e-6)
    assert sorted(path.name for path in work.folder.iterdir()) == [".fetch.lock", "items.json", "scenes"]
    assert work.fetch() == 0


def test_a_part_of_a_file_has_no_checksum(tmp_path, server):
    region = Region(server)
    region.add("2021-06-05", checksums=True)
    work = Work(tmp_path, region.write_static())
    work.fetch()
    assert not any(record.verified for record in Ledger.read(work.folder / "scenes").all())


def test_a_file_with_another_checksum_is_refused(tmp_path, server):
    across_the_tile(tmp_path)
    region = Region(server)
    item = region.add("2021-06-05", checksums=True)
    item["assets"]["B04"]["file:checksum"] = "1220" + 32 * "ab"
    work = Work(tmp_path, region.write_static(), retries=1)
    (work.folder / ".whole-left").mkdir(parents=True)
    with pytest.raises(UnfinishedError, match=r"1 of 2 files cannot be fetched: .*expected sha256 (ab){32} as the cat"):
        fetch_scenes(work.plan(), work.query, work.folder, work.access, work.report, 1)
    assert list(work.files()) == ["31UFS/2021-06-05/SCL.tif"]
    assert not list(work.folder.glob(".whole-*"))


def test_a_download_that_breaks_off_is_tried_again(tmp_path, server):
    across_the_tile(tmp_path)
    region = Region(server)
    region.add("2021-06-05", checksums=True)
    work = Work(tmp_path, region.write_static())
    plan = work.plan()
    server.script(cog(region), Fault(), Fault(drop_after=30_000), Fault(status=503))
    assert fetch_scenes(plan, work.query, work.folder, work.access, work.report, 1) == 2
    assert all(record.verified for record in Ledger.read(work.folder / "scenes").all())


@pytest.mark.parametrize("status", [401, 403])
def test_credentials_are_asked_for(tmp_path, server, status):
    region = Region(server)
    region.add("2021-06-05", checksums=True)
    work = Work(tmp_path, region.write_static())
    plan = work.plan()
    server.always[cog(region)] = Fault(status=status)
    with pytest.raises(CropgenError, match=f"the server answers {status}") as caught:
        fetch_scenes(plan, work.query, work.folder, work.access, work.report, 1)
    assert caught.value.exit_code == 1
    assert "credentials" in str(caught.value.hint)


def test_a_bearer_token_is_sent_to_the_catalogue_and_nowhere_else(tmp_path, server, monkeypatch):
    region = Region(server)
    region.add("2021-06-05")
    url = region.serve_api()
    server.keys |= {"api": "Bearer secret", "cogs": "Bearer secret"}
    with pytest.raises(CropgenError, match="401"):
        Work(tmp_path, url).plan()
    monkeypatch.setenv("CROPGEN_STAC_TOKEN", "secret")
    work = Work(tmp_path, url)
    assert work.fetch() == 2
    assert work.access.headers("https://elsewhere.example/x.tif") == {}


def test_signed_addresses(tmp_path, server):
    region = Region(server)
    region.add("2021-06-05")
    expiry = "2999-01-01T00:00:00Z"
    server.routes["sas"] = lambda body, headers: json.dumps({"token": "st=1&sig=abc", "msft:expiry": expiry}).encode()
    catalog = Catalog("pc", region.write_static(), tokens=server.url("sas"))
    work = Work(tmp_path, "", catalog=catalog)
    assert work.fetch() == 2
    assert len(server.asked("sas")) == 1
    layer = open_scenes(work.folder / "items.json", Silent()).acquisitions[0].layers["B04"]
    assert layer.read(Window(0, 2, 0, 3)).shape == (2, 3)


@pytest.mark.slow
def test_items_are_read_where_they_are(tmp_path, server):
    region = Region(server)
    region.add("2021-06-05")
    work = Work(tmp_path, region.write_static())
    work.fetch()
    (acquisition,) = open_scenes(work.folder / "items.json", Silent()).acquisitions
    layer = acquisition.layers["B08"]
    assert layer.grid.shape == (SIZE, SIZE)
    values = layer.scale * layer.read(Window(700, 710, 900, 905)) + layer.offset
    np.testing.assert_allclose(values, region.truth[f"{acquisition.key}/B08"][700:710, 900:905], atol=1e-9)


def test_an_item_without_a_band_is_left_out(tmp_path, server):
    region = Region(server)
    region.add("2021-06-05")
    region.add("2021-06-15", bands=("B08", "SCL"))
    work = Work(tmp_path, region.write_static())
    assert work.plan().dates == ["2021-06-05"]
    assert "S2A_31UFS_20210615_0_L2A left out: it lacks B04" in work.report.warnings[0]


@pytest.mark.slow
def test_an_offset_that_was_taken_off_before_is_noticed(tmp_path, server):
    region = Region(server)
    item = region.add("2021-06-05", dialect="earth-search", applied=True)
    item["properties"]["earthsearch:boa_offset_applied"] = False
    work = Work(tmp_path, region.write_static())
    work.fetch()
    assert "much of B04 is below zero" in work.report.warnings[0]


@pytest.mark.slow
def test_a_catalogue_that_misplaces_a_raster(tmp_path, server):
    region = Region(server)
    item = region.add("2021-06-05")
    item["assets"]["B04"]["proj:transform"][2] += 10
    work = Work(tmp_path, region.write_static())
    with pytest.raises(UnfinishedError, match="is not on the grid that item S2A_31UFS_20210605_0_L2A states"):
        work.fetch()


def test_nothing_found(tmp_path, server):
    region = Region(server)
    region.add("2021-08-05")
    with pytest.raises(DataError, match=r"no scene of these parcels from 2021-06-01 to 2021-06-30 .* \(0 items"):
        Work(tmp_path, region.serve_api()).plan()
    with pytest.raises(MissingInputError, match="404"):
        Work(tmp_path, server.url("nowhere")).plan()
    (server.folder / "page.json").write_text('{"hello": 1}')
    with pytest.raises(SchemaError, match="is no STAC catalogue"):
        Work(tmp_path, server.url("page.json")).plan()


def test_the_extra_is_named(tmp_path, server, monkeypatch):
    monkeypatch.setitem(sys.modules, "pystac_client", None)
    with pytest.raises(MissingDependencyError, match="pystac-client") as caught:
        Work(tmp_path, server.url("catalog.json")).plan()
    assert caught.value.exit_code == 5
    assert "pip install 'cropgen[stac]'" in str(caught.value.hint)


def test_what_cannot_be_written_leaves_nothing(tmp_path, server, monkeypatch):
    region = Region(server)
    region.add("2021-06-05")
    work = Work(tmp_path, region.write_static())
    monkeypatch.setattr(scene_files, "_reads_back", lambda path, piece: False)
    with pytest.raises(UnfinishedError, match="what was written cannot be read back") as caught:
        work.fetch()
    assert caught.value.exit_code == 4
    assert work.files() == {}
    monkeypatch.undo()
    assert work.fetch() == 2


def test_a_line_is_added_to_the_ledger_without_reading_it(tmp_path, monkeypatch):
    one = Record("t/B04.tif", "item", "B04", "tag 1", (0, 1, 0, 1), 1e-4, 0.0, 1, "0" * 64)
    monkeypatch.setattr(Path, "read_bytes", lambda path: pytest.fail(f"all of {path} is read"))
    for number in range(2):
        Ledger.read(tmp_path).put(replace(one, path=f"t/{number}.tif"))
    with (tmp_path / "ledger.jsonl").open("a", encoding="utf-8") as stream:
        stream.write('{"path": "t/')
    Ledger.read(tmp_path).put(replace(one, path="t/3.tif"))
    assert [record.path for record in Ledger.read(tmp_path).all()] == ["t/0.tif", "t/1.tif", "t/3.tif"]


@pytest.mark.slow
def test_a_torn_ledger_line_is_none(tmp_path, server):
    region = Region(server)
    region.add("2021-06-05")
    work = Work(tmp_path, region.write_static())
    work.fetch()
    ledger = work.folder / "scenes" / "ledger.jsonl"
    ledger.write_bytes(ledger.read_bytes()[:-30])
    assert work.fetch() == 1
    assert len(Ledger.read(work.folder / "scenes").all()) == 2
    assert work.fetch() == 0


def test_damage_is_found(tmp_path, server):
    region = Region(server)
    region.add("2021-06-05")
    work = Work(tmp_path, region.write_static())
    with pytest.raises(MissingInputError, match="no scenes were fetched"):
        verify_scenes(work.folder, Silent())
    work.fetch()
    assert {v.state for v in verify_scenes(work.folder, Silent())} == {"ok"}
    first, second = sorted((work.folder / "scenes").rglob("*.tif"))
    content = bytearray(first.read_bytes())
    content[-1] ^= 1
    first.write_bytes(content)
    second.unlink()
    assert [v.state for v in verify_scenes(work.folder, Silent())] == ["damaged", "missing"]


def test_a_run_that_is_stopped_ends_soon(tmp_path, server):
    region = Region(server)
    region.add("2021-06-05")
    stop = threading.Event()
    stop.set()
    work = Work(tmp_path, region.write_static())
    target = work.plan().targets[0]
    with pytest.raises(UnfinishedError, match="stopped"):
        open_raster(target.asset.address, work.access, lambda raster: scene_files.read_piece(raster, target, stop))
