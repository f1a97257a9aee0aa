from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cropgen.core.engine import Engine, run_units
from cropgen.core.errors import CropgenError, MissingDependencyError, UsageError

from . import engine_work

ENGINES = [Engine(), Engine("processes", 2), pytest.param(Engine("dask", 2), marks=pytest.mark.slow)]


def ordered(work, units, engine):
    if engine.kind == "dask":
        pytest.importorskip("distributed")
    return sorted(run_units(work, units, engine), key=lambda outcome: outcome.position)


@pytest.mark.parametrize("engine", ENGINES, ids=lambda e: e.kind)
def test_every_unit_is_done_once_whatever_the_engine(engine):
    found = ordered(engine_work.square, [3, 1, 4, 1, 5], engine)
    assert [(o.position, o.value, o.failure) for o in found] == [
        (0, 9, None), (1, 1, None), (2, 16, None), (3, 1, None), (4, 25, None),
    ]  # fmt: skip


@pytest.mark.parametrize("engine", ENGINES[1:], ids=lambda e: e.kind)
def test_a_dead_worker_fails_its_unit_and_the_others_go_on(engine):
    found = ordered(engine_work.treacherous, [0, 1, 2, 3, 4, 5], engine)
    assert [o.value for o in found] == [0, None, None, 9, 16, 25]
    assert found[1].failure.message == "unit 1 has no data"
    assert found[1].failure.hint == "bring some"
    assert found[1].failure.exit_code == 3
    said = {"processes": "its worker was ended by SIGKILL", "dask": "its worker failed: KilledWorker"}
    assert found[2].failure.message.startswith(said[engine.kind])


@pytest.mark.slow
def test_no_worker_of_an_own_cluster_is_ended_for_the_memory_it_takes():
    (found,) = ordered(engine_work.memory_limit, [0], Engine("dask", 1))
    assert (found.value, found.failure) == (None, None)


def test_a_failure_in_this_process_is_an_outcome_and_an_interruption_is_not():
    def work(unit):
        if unit == 1:
            raise KeyboardInterrupt
        if unit == 2:
            raise MemoryError
        raise OSError(28, "No space left on device")

    found = list(run_units(work, [0, 2]))
    assert [o.failure.message for o in found] == ["No space left on device", "out of memory"]
    with pytest.raises(KeyboardInterrupt):
        list(run_units(work, [1]))


def test_nothing_to_do_starts_nothing():
    assert list(run_units(engine_work.square, [], Engine("processes", 4))) == []


def alive(process_id: int) -> bool:
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{process_id}/stat").read_text().split()[2] != "Z"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_master(tmp_path, how):
    code = (
        "from cropgen.core.engine import Engine, run_units\n"
        "from tests.core import engine_work\n"
        "if __name__ == '__main__':\n"
        f"    units = [{str(tmp_path / 'a')!r}, {str(tmp_path / 'b')!r}]\n"
        "    try:\n"
        "        list(run_units(engine_work.slow, units, Engine('processes', 2)))\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
    )
    script = tmp_path / "script.py"
    script.write_text(code)
    root = Path(__file__).parents[2]
    master = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(root)}, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not all((tmp_path / name).is_file() and (tmp_path / name).read_text() for name in "ab"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if how == signal.SIGINT:
        os.killpg(master.pid, how)
        out, err = master.communicate(timeout=120)
        assert (out, err) == ("interrupted\n", "")
    else:
        master.kill()
        master.communicate(timeout=120)
    while any(alive(int((tmp_path / name).read_text())) for name in "ab"):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_what_is_not_said_is_guessed():
    assert Engine.chosen() == Engine("serial", 1)
    assert Engine.chosen(jobs=3) == Engine("processes", 3)
    assert Engine.chosen("processes") == Engine("processes", 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("threads",), "unknown engine 'threads'"),
        (("serial", 2), "one job at a time, got --jobs 2"),
        ((None, 0), "expected 1 or more, got 0"),
        (("processes", 2, "tcp://here:1"), "--scheduler is of dask"),
    ],
)
def test_what_does_not_go_together_is_refused(words, message):
    with pytest.raises(UsageError, match=message):
        Engine.chosen(*words)


def test_a_missing_dask_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(MissingDependencyError, match="dask is not installed") as missing:
        Engine.chosen(scheduler="tcp://here:1")
    assert missing.value.exit_code == 5
    assert "cropgen[scale]" in missing.value.hint


def test_a_scheduler_that_is_not_there_is_said(monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("cropgen.core.engine._CONNECT_SECONDS", 0.2)
    with pytest.raises(CropgenError, match=r"no dask scheduler at tcp://127\.0\.0\.1:9: "):
        list(run_units(engine_work.square, [1], Engine("dask", 1, "tcp://127.0.0.1:9")))
