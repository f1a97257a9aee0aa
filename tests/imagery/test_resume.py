"""Faults: nothing is lost, nothing is done twice, and what is resumed equals, byte for byte, what was undisturbed."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from cropgen.core.engine import Engine
from cropgen.core.errors import CorruptInputError, OutputExistsError, UnfinishedError, UsageError
from cropgen.core.files import sha256_tree
from cropgen.core.growing import GrowingArray
from cropgen.core.progress import Silent
from cropgen.imagery import aggregate as module
from cropgen.imagery import unit as units
from cropgen.imagery.aggregate import AggregateOptions, aggregate
from cropgen.imagery.ledger import WorkFolder
from tests.imagery.scene_files import square, write_date, write_parcels

OPTIONS = AggregateOptions(buffer=0, statistics=("std", "median"), shard=5)
DATES = ("20210601", "20210606", "20210611", "20210616")


@pytest.fixture
def region(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    for date in DATES:
        red, scl = rng.integers(1500, 5000, (80, 80)), rng.choice([4, 4, 9], (40, 40))
        write_date(tmp_path / "scenes" / date, {"B04": red, "B11": red[::2, ::2], "SCL": scl})
    shapes = {f"p{i}{j}": square(i * 160, j * 160, i * 160 + 155, j * 160 + 150) for i in range(5) for j in range(5)}
    return tmp_path / "scenes", write_parcels(tmp_path / "p.gpkg", shapes)


@pytest.fixture
def undisturbed(region, tmp_path) -> str:
    aggregate(*region, tmp_path / "undisturbed" / "series.zarr", OPTIONS, Silent())
    return sha256_tree(tmp_path / "undisturbed" / "series.zarr")


def output(tmp_path: Path) -> Path:
    return tmp_path / "out" / "series.zarr"


def work(tmp_path: Path) -> Path:
    return tmp_path / "out" / ".series.zarr.work"


def done_units(tmp_path: Path) -> dict[str, int]:
    """Finished units and when each was written."""
    return {p.parent.name: p.stat().st_mtime_ns for p in work(tmp_path).glob("units/*/rows.npy")}


def truncate(path: Path) -> bytes:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    return whole


def test_a_truncated_scene_stops_nothing_else_and_is_done_when_repaired(region, tmp_path, undisturbed):
    path = region[0] / DATES[1] / "B04.tif"
    times = path.stat()
    whole = truncate(path)
    with pytest.raises(UnfinishedError, match=r"1 of 4 acquisitions failed.*2021-06-06.*B04\.tif") as caught:
        aggregate(*region, output(tmp_path), OPTIONS, Silent())
    assert caught.value.exit_code == 4
    assert "--resume" in str(caught.value.hint)
    assert not output(tmp_path).exists()
    before = done_units(tmp_path)
    assert len(before) == 3
    path.write_bytes(whole)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    aggregate(*region, output(tmp_path), OPTIONS, Silent(), resume=True, keep_work=True)
    assert sha256_tree(output(tmp_path)) == undisturbed
    assert done_units(tmp_path).items() > before.items()


def test_resume_does_only_what_changed(region, tmp_path, monkeypatch):
    aggregate(*region, output(tmp_path), OPTIONS, Silent(), keep_work=True)
    counted = []
    monkeypatch.setattr(module, "aggregate_unit", lambda unit: (counted.append(unit), units.aggregate_unit(unit)))
    first = sha256_tree(output(tmp_path))
    aggregate(*region, output(tmp_path), OPTIONS, Silent(), resume=True, keep_work=True)
    assert (sha256_tree(output(tmp_path)), len(counted)) == (first, 0)
    write_date(
        region[0] / "20210621",
        {"B04": np.full((80, 80), 3000), "B11": np.full((40, 40), 3000), "SCL": np.full((40, 40), 4)},
    )
    shutil.rmtree(region[0] / DATES[0])
    aggregate(*region, output(tmp_path), OPTIONS, Silent(), resume=True, keep_work=True)
    assert [unit.acquisition.key for unit in counted] == ["20210621"]
    assert len(done_units(tmp_path)) == 4
    aggregate(*region, output(tmp_path), OPTIONS.model_copy(update={"dilate": 20.0}), Silent(), resume=True)
    assert len(counted) == 5
    assert not work(tmp_path).exists()


def test_results_that_are_not_whole_are_done_again(region, tmp_path, undisturbed):
    aggregate(*region, output(tmp_path), OPTIONS, Silent(), keep_work=True)
    torn, empty, *_ = sorted(work(tmp_path).glob("units/*/rows.npy"))
    truncate(torn)
    empty.write_bytes(b"")
    aggregate(*region, output(tmp_path), OPTIONS, Silent(), resume=True)
    assert sha256_tree(output(tmp_path)) == undisturbed


def test_labels_may_change_without_any_reading(region, tmp_path, monkeypatch):
    aggregate(*region, output(tmp_path), OPTIONS, Silent(), keep_work=True)
    import geopandas as gpd

    gpd.read_file(region[1]).assign(crop_code="7").to_file(region[1])
    monkeypatch.setattr(module, "aggregate_unit", None)
    aggregate(*region, output(tmp_path), OPTIONS, Silent(), resume=True)


def test_without_resume_everything_is_done_anew(region, tmp_path):
    aggregate(*region, output(tmp_path), OPTIONS, Silent(), keep_work=True)
    before = done_units(tmp_path)
    with pytest.raises(OutputExistsError):
        aggregate(*region, output(tmp_path), OPTIONS, Silent())
    aggregate(*region, output(tmp_path), OPTIONS, Silent(), overwrite=True, keep_work=True)
    after = done_units(tmp_path)
    assert after.keys() == before.keys()
    assert all(after[key] > before[key] for key in before)


def test_two_processes_on_one_output(region, tmp_path):
    with WorkFolder.beside(output(tmp_path), resume=False), pytest.raises(UsageError, match="another process"):
        aggregate(*region, output(tmp_path), OPTIONS, Silent())
    aggregate(*region, output(tmp_path), OPTIONS, Silent())
    assert [p.name for p in output(tmp_path).parent.iterdir()] == ["series.zarr"]


def test_a_disk_that_fills_up_in_the_middle(region, tmp_path, undisturbed, monkeypatch):
    begin, calls = GrowingArray.__init__, []

    def fill(array, path, *rest):
        calls.extend([path] if path.parent.parent.name == "units" else [])
        if len(calls) == 3:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        begin(array, path, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(GrowingArray, "__init__", fill)
        with pytest.raises(UnfinishedError, match="No space left"):
            aggregate(*region, output(tmp_path), OPTIONS, Silent())
    assert len(done_units(tmp_path)) == 3
    aggregate(*region, output(tmp_path), OPTIONS, Silent(), resume=True)
    assert sha256_tree(output(tmp_path)) == undisturbed


def test_a_failure_of_everything_is_that_failure_and_leaves_nothing(region, tmp_path):
    for date in DATES:
        truncate(region[0] / date / "B04.tif")
    with pytest.raises(CorruptInputError, match=r"B04\.tif"):
        aggregate(*region, output(tmp_path), OPTIONS, Silent())
    assert list(output(tmp_path).parent.iterdir()) == []


def kill_once(unit):
    """Stands in for a unit: the first worker that comes by is killed in the middle of it."""
    flag = unit.folder.parents[2] / "killed"
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    units.aggregate_unit(unit)


@pytest.mark.slow
def test_a_killed_worker_and_processes_and_threads_give_the_same_bytes(region, tmp_path, undisturbed, monkeypatch):
    output(tmp_path).parent.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(module, "aggregate_unit", kill_once)
        with pytest.raises(UnfinishedError, match=r"1 of 4 acquisitions failed.*SIGKILL"):
            aggregate(*region, output(tmp_path), OPTIONS, Silent(), engine=Engine("processes", 2))
    assert len(done_units(tmp_path)) == 3
    aggregate(*region, output(tmp_path), OPTIONS, Silent(), engine=Engine("processes", 2), resume=True)
    assert sha256_tree(output(tmp_path)) == undisturbed
    assert not work(tmp_path).exists()


@pytest.mark.slow
def test_a_cluster_that_loses_a_worker(region, tmp_path, undisturbed, monkeypatch):
    distributed = pytest.importorskip("distributed")
    output(tmp_path).parent.mkdir()
    settings = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**settings) as cluster:
        engine = Engine("dask", 1, cluster.scheduler_address)
        with monkeypatch.context() as patch:
            patch.setattr(module, "aggregate_unit", kill_once)
            try:
                aggregate(*region, output(tmp_path), OPTIONS, Silent(), engine=engine)
            except UnfinishedError:
                aggregate(*region, output(tmp_path), OPTIONS, Silent(), engine=engine, resume=True)
    assert (output(tmp_path).parent / "killed").exists()
    assert sha256_tree(output(tmp_path)) == undisturbed


def _aggregate_slowly(scenes: Path, parcels: Path, target: Path) -> None:
    def slow(unit):
        units.aggregate_unit(unit)
        time.sleep(30 if len(list(unit.folder.parent.glob("[!.]*"))) >= 2 else 0)

    module.aggregate_unit = slow
    aggregate(scenes, parcels, target, OPTIONS, Silent())


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="signals of POSIX")
def test_a_killed_run_is_resumed(region, tmp_path, undisturbed):
    process = multiprocessing.get_context("spawn").Process(
        target=_aggregate_slowly, args=(*region, output(tmp_path)), daemon=True
    )
    process.start()
    for _ in range(600):
        if len(done_units(tmp_path)) >= 2:
            break
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not output(tmp_path).exists()
    before = done_units(tmp_path)
    aggregate(*region, output(tmp_path), OPTIONS, Silent(), resume=True, keep_work=True)
    assert done_units(tmp_path).items() > before.items()
    assert sha256_tree(output(tmp_path)) == undisturbed
