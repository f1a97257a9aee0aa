"""Files become a container once, and never silently another one."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from cropgen import api
from cropgen.core import archives, files
from cropgen.core.errors import CorruptInputError, CropgenError, MissingInputError, OutputExistsError, UsageError
from cropgen.core.paths import Workspace
from cropgen.core.progress import Silent
from cropgen.core.recipe import Section
from cropgen.core.tally import Tally
from cropgen.datasets import demo, inventory
from cropgen.datasets import fetch as fetching
from cropgen.datasets import reader as readers
from cropgen.datasets.lock import FetchLock
from cropgen.datasets.reader import Prepared, Request, Shard, StoreSpec, fill_store
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore
from tests.data.manifests import TOY, toy_manifest, written
from tests.data.server import FileServer, serve


class Killed(Exception):
    """The process ends here."""


class ToyReader:
    """One parcel per byte of the selected files, its value the byte."""

    class Options(Section):
        scale: float = 1.0

    calls: ClassVar[list[Request]] = []

    def prepare(self, request: Request) -> Prepared:
        self.calls.append(request)
        names = [f.path for f in request.manifest.files_of(request.selection)] or ["own.bin"]
        content = b"".join((request.files / name).read_bytes() for name in names)
        values = np.frombuffer(content, np.uint8).astype(np.float32)[:, None, None] * request.options.scale
        number = len(values)
        series = ParcelSeries(
            values=values,
            mask=np.ones((number, 1), bool),
            day=np.zeros((number, 1), np.int32),
            bands=("B04",),
            parcel_id=np.array([str(i) for i in range(number)], np.str_),
            year=np.full(number, 2020, np.int32),
            region=np.array(["north"] * number, np.str_),
            label=np.zeros(number, np.int32),
            lon=np.zeros(number),
            lat=np.zeros(number),
        )
        spec = StoreSpec(("B04",), Legend.from_codes("toy", ["wheat"]))
        dropped = {"no date": ["x", "y"]}
        return fill_store(request, spec, lambda begin: iter([Shard(series, dropped=dropped)][begin:]))


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FileServer]:
    (tmp_path / "served").mkdir()
    (tmp_path / "served" / "n.bin").write_bytes(b"\x01\x02")
    (tmp_path / "served" / "s.bin").write_bytes(b"\x03")
    with serve(tmp_path / "served") as running:
        yield running


@pytest.fixture(autouse=True)
def _toy_reader(monkeypatch: pytest.MonkeyPatch) -> None:
    ToyReader.calls = []
    monkeypatch.setitem(readers.READERS, "toy", f"{__name__}:ToyReader")


@pytest.fixture
def root(tmp_path: Path, server: FileServer) -> Path:
    toy_manifest(
        tmp_path / "manifests", server, {"path": "n.bin", "region": "north"}, {"path": "s.bin", "region": "south"}
    )
    return tmp_path


def fetch(root: Path, **facts) -> api.FetchResult:
    report = facts.pop("report", Silent())
    request = api.FetchRequest("toy", manifests=root / "manifests", retries=0, **facts)
    return api.fetch(Workspace(root), request, report=report)


def values(path: Path | None) -> list[float]:
    assert path is not None
    return SeriesStore.open(path).read().values.ravel().tolist()


def test_files_become_a_store(root: Path) -> None:
    done = fetch(root)
    assert done.series == root / "data" / "toy" / "series.zarr"
    assert values(done.series) == [1, 2, 3]
    assert (done.rows, done.dropped) == (3, {"no date": Tally.of(["x", "y"])})
    source = SeriesStore.open(done.series).source
    assert source["licence"] == TOY["licence"]
    assert sorted(p.name for p in (root / "data" / "toy").iterdir()) == [
        ".fetch.lock", "fetch.lock.toml", "files", "prepared.json", "series.zarr",
    ]  # fmt: skip
    assert api.list_datasets(Workspace(root), manifests=root / "manifests")[0].state.startswith("present")


def test_the_same_again_does_nothing(root: Path) -> None:
    first, report = fetch(root), Silent()
    second = fetch(root, report=report)
    assert len(ToyReader.calls) == 1
    assert "is prepared already" in report.messages[-1]
    assert (second.series, second.rows, second.dropped) == (first.series, first.rows, first.dropped)


def test_another_selection_never_replaces_silently(root: Path) -> None:
    fetch(root, regions=("north",))
    with pytest.raises(OutputExistsError, match="another selection"):
        fetch(root)
    with pytest.raises(OutputExistsError, match="another selection"):
        fetch(root, regions=("north",), options={"scale": 2.0})
    beside = fetch(root, regions=("south",), store="toy-south")
    assert values(beside.series) == [3]
    assert beside.series == root / "data" / "toy-south" / "series.zarr"
    assert not (root / "data" / "toy-south" / "files").exists()
    assert values(fetch(root, overwrite=True).series) == [1, 2, 3]
    assert values(fetch(root, regions=("north",), options={"scale": 2.0}, overwrite=True).series) == [2, 4]


@pytest.mark.parametrize("behind", [False, True])
def test_an_interrupted_replacement_never_leaves_a_store_with_a_wrong_record(
    root: Path, monkeypatch: pytest.MonkeyPatch, behind: bool
) -> None:
    """Killed before or behind any move into place, the same command goes on, and others are refused."""
    folder, replace, left = root / "data" / "toy", Path.replace, [0]

    def dies(path: Path, target: Path) -> Path:
        if not {path.parent, Path(target).parent} <= {folder, folder / "preparing"}:
            return replace(path, target)
        left[0] -= 1
        if left[0] == 0 and not behind:
            raise Killed
        moved = replace(path, target)
        if left[0] == 0:
            raise Killed
        return moved

    for fatal in range(1, 100):
        fetch(root, regions=("north",), overwrite=True)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", dies)
            left[0] = fatal
            try:
                fetch(root, overwrite=True)
                break
            except Killed:
                pass
        earlier = fetching.prepared_in(folder)
        assert earlier is not None
        if (folder / "series.zarr").exists():
            assert SeriesStore.open(folder / "series.zarr").source["selection"] == earlier["selection"]
        if earlier["selection"]["regions"] == ["north"]:
            with pytest.raises(OutputExistsError, match="another selection"):
                fetch(root)
        assert values(fetch(root, overwrite=fatal % 2 == 0 or earlier["selection"]["regions"] == ["north"]).series) == [
            1, 2, 3,
        ]  # fmt: skip
    assert fatal > 4


def test_an_interrupted_reader_leaves_what_was_there(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(root, regions=("north",))

    def dies(*_: object) -> Prepared:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(ToyReader, "prepare", dies)
        with pytest.raises(KeyboardInterrupt):
            fetch(root, overwrite=True)
    assert values(fetch(root, regions=("north",)).series) == [1, 2]


def test_a_store_of_another_origin_is_not_touched(root: Path) -> None:
    (root / "data" / "toy" / "series.zarr").mkdir(parents=True)
    with pytest.raises(OutputExistsError, match="was not fetched"):
        fetch(root)


def test_options_of_the_reader_are_checked_before_anything_is_fetched(root: Path, server: FileServer) -> None:
    with pytest.raises(UsageError, match=r"options of toy: colour"):
        fetch(root, options={"colour": "red"})
    assert server.requests == []


def test_without_preparing_only_files_come(root: Path) -> None:
    done = fetch(root, prepare=False)
    assert (done.series, ToyReader.calls) == (None, [])
    assert (root / "data" / "toy" / "files" / "n.bin").read_bytes() == b"\x01\x02"
    assert values(fetch(root, offline=True).series) == [1, 2, 3]


def test_a_changed_file_is_another_origin(root: Path, server: FileServer) -> None:
    fetch(root, store="kept")
    lock = root / "data" / "toy" / "fetch.lock.toml"
    (server.folder / "n.bin").write_bytes(b"\x07")
    (root / "data" / "toy" / "files" / "n.bin").unlink()
    lock.unlink()
    with pytest.raises(OutputExistsError, match="prepared from other files"):
        fetch(root, store="kept")
    assert values(fetch(root, store="kept", overwrite=True).series) == [7, 3]


def test_files_left_by_a_killed_process_are_adopted(root: Path, server: FileServer) -> None:
    """The process died between the last byte and the record."""
    fetch(root, prepare=False)
    (root / "data" / "toy" / "fetch.lock.toml").unlink()
    fetch(root)
    assert len(server.requests) == 2


def test_a_brought_data_set(root: Path) -> None:
    document = {**TOY, "kind": "brought", "retired": "The host closed in 2024."}
    written(root / "manifests", document)
    with pytest.raises(MissingInputError, match=r"The host closed in 2024."):
        fetch(root)
    (root / "mine").mkdir()
    (root / "mine" / "own.bin").write_bytes(b"\x05")
    assert values(fetch(root, brought=root / "mine").series) == [5]
    fetch(root, brought=root / "mine")
    assert len(ToyReader.calls) == 1
    (root / "mine" / "own.bin").write_bytes(b"\x05\x06")
    with pytest.raises(OutputExistsError, match="prepared from other files"):
        fetch(root, brought=root / "mine")


@pytest.fixture
def archive(root: Path, server: FileServer) -> Path:
    """A folder of the user's with an archive that readers read as it is published, and its manifest."""
    facts = {"sha256": hashlib.sha256(b"PK-a").hexdigest()}
    toy_manifest(root / "manifests", server, {"path": "a.zip", **facts}, {"path": "b.zip"}, {"path": "c.bin"})
    (root / "mine").mkdir()
    for name in ("a.zip", "b.zip", "c.bin"):
        (root / "mine" / name).write_bytes(f"PK-{name[0]}".encode())
    return root / "mine" / "a.zip"


def brought(root: Path) -> Path:
    return fetch(root, brought=root / "mine", prepare=False).folder


def test_an_archive_that_is_brought_is_verified_and_recorded(root: Path, archive: Path) -> None:
    assert brought(root) == root / "data" / "toy" / "files"
    assert (brought(root) / "a.zip").read_bytes() == b"PK-a"
    assert [entry.path for entry in FetchLock.read(root / "data" / "toy").all()] == ["a.zip", "b.zip", "c.bin"]
    (root / "data" / "toy" / "files" / "a.zip").unlink()
    archive.write_bytes(b"PK-?")
    with pytest.raises(CorruptInputError, match=r"a\.zip from .*SHA-256 expected"):
        brought(root)


def test_a_folder_takes_the_place_of_an_archive_where_the_reader_takes_it(
    root: Path, archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "mine" / "b.zip").unlink()
    (root / "mine" / "b").mkdir()
    with pytest.raises(MissingInputError, match=r"lacks b\.zip"):
        brought(root)
    monkeypatch.setattr(fetching, "UNPACKED", {"toy"})
    assert brought(root) == root / "mine"
    archive.write_bytes(b"PK-?")
    with pytest.raises(CorruptInputError, match=r"a\.zip from .*SHA-256 expected"):
        brought(root)
    archive.unlink()
    archive.with_suffix("").mkdir()
    assert brought(root) == root / "mine"


def test_what_a_killed_process_was_unpacking_is_removed(
    root: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a.zip", "b.zip"):
        with zipfile.ZipFile(server.folder / name, "w") as packed:
            packed.writestr(f"{name}.h5", name)
    listed = [{"path": f, "unpack": "h5", "members": [{"path": f"h5/{f}.h5"}]} for f in ("a.zip", "b.zip")]
    toy_manifest(root / "manifests", server, *listed)
    with monkeypatch.context() as patched:
        patched.setattr(files, "remove", lambda _: None)
        patched.setattr(inventory, "remove", lambda _: None)
        patched.setattr(archives, "_copy", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            fetch(root, prepare=False)
    folder = root / "data" / "toy" / "files"
    assert any(p.name.startswith("..a.zip.unpacked.") for p in folder.iterdir())
    fetch(root, prepare=False)
    assert sorted(p.name for p in folder.rglob("*")) == ["a.zip.h5", "b.zip.h5", "h5"]


def test_a_dry_run_changes_nothing(root: Path, server: FileServer) -> None:
    plan = fetch(root, dry_run=True)
    assert [(f.path, f.here, f.download_bytes) for f in plan.files] == [("n.bin", False, None), ("s.bin", False, None)]
    assert not (root / "data").exists()
    assert server.requests == []


def test_room_is_asked_for_before_anything_comes(
    root: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_manifest(root / "manifests", server, {"path": "n.bin", "about_bytes": 10_000_000})
    monkeypatch.setattr(fetching.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 9_000_000})())
    with pytest.raises(CropgenError, match=r"needs 10\.2 MB and has 9\.0 MB free"):
        fetch(root)
    assert server.requests == []
    (root / "data" / "toy" / "files" / "n.bin.part").write_bytes(bytes(2_000_000))
    fetch(root)
    assert server.asked("n.bin") == [None]


def test_a_spoilt_record_of_the_preparation_means_none(root: Path) -> None:
    fetch(root)
    (root / "data" / "toy" / "prepared.json").write_text("{")
    assert fetching.prepared_in(root / "data" / "toy") is None
    with pytest.raises(OutputExistsError):
        fetch(root)


def test_what_was_prepared_is_recorded(root: Path) -> None:
    fetch(root, regions=("north",))
    record = json.loads((root / "data" / "toy" / "prepared.json").read_text())
    assert record["selection"] == {"regions": ["north"], "years": [2020, 2021], "level": None}
    assert (record["series"], record["parcels"], record["rows"]) == ("series.zarr", [], 2)


def test_the_demo_region_goes_where_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Path] = []

    def make_demo(folder: Path, **_: object) -> demo.DemoRegion:
        made.append(folder)
        return demo.DemoRegion(folder, folder / "scenes", {}, 0)

    monkeypatch.setattr(demo, "make_demo", make_demo)
    (tmp_path / "data" / "demo").mkdir(parents=True)
    request = api.FetchRequest("demo", store="other", overwrite=True)
    assert api.fetch(Workspace(tmp_path), replace(request, dry_run=True)).folder == tmp_path / "data" / "other"
    assert api.fetch(Workspace(tmp_path), request).folder == tmp_path / "data" / "other"
    assert made == [tmp_path / "data" / "other"]
    with pytest.raises(UsageError, match="simulated as a whole"):
        api.fetch(Workspace(tmp_path), replace(request, options={"seed": "7"}))
