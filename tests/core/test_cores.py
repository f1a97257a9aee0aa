"""How many cores a process gets, from control groups written as Linux writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from cropgen.core import cores as module
from cropgen.core.cores import cores, share_out


@pytest.fixture(autouse=True)
def _sixty_four(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "allowed", lambda: 64)


def groups(folder: Path, own: str, **limits: str) -> tuple[Path, Path]:
    root = folder / "cgroup"
    for place, content in limits.items():
        file = root / place.replace("__", "/").replace("_DOT_", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content)
    (folder / "own").write_text(own)
    return root, folder / "own"


@pytest.mark.parametrize(
    ("content", "expected"),
    [("400000 100000", 4), ("250000 100000\n", 3), ("5000 100000\n", 1), ("max 100000\n", 64), ("9900000 99999", 64)],
)
def test_the_share_of_a_container_rounds_up(tmp_path: Path, content: str, expected: int) -> None:
    root, own = groups(tmp_path, "0::/\n", cpu_DOT_max=content)
    assert cores(root, own) == expected


def test_the_least_share_of_the_groups_around_holds(tmp_path: Path) -> None:
    root, own = groups(
        tmp_path, "0::/batch/job\n", batch__cpu_DOT_max="800000 100000", batch__job__cpu_DOT_max="max 100000"
    )
    assert cores(root, own) == 8
    (root / "batch" / "job" / "cpu.max").write_text("200000 100000")
    assert cores(root, own) == 2


@pytest.mark.parametrize(("quota", "expected"), [("600000\n", 6), ("-1\n", 64)])
def test_the_first_version_of_control_groups(tmp_path: Path, quota: str, expected: int) -> None:
    root = tmp_path / "cgroup" / "cpu,cpuacct" / "docker"
    root.mkdir(parents=True)
    (root / "cpu.cfs_quota_us").write_text(quota)
    (root / "cpu.cfs_period_us").write_text("100000\n")
    (tmp_path / "own").write_text("5:memory:/docker\n4:cpu,cpuacct:/docker\n0::/\n")
    assert cores(tmp_path / "cgroup", tmp_path / "own") == expected


def test_without_control_groups_all_that_may_be_used(tmp_path: Path) -> None:
    assert cores(tmp_path / "none", tmp_path / "none") == 64
    root, own = groups(tmp_path, "0::/\n", cpu_DOT_max="broken")
    assert cores(root, own) == 64


def test_threads_are_limited_only_where_time_is_and_the_user_did_not_choose(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"OMP_NUM_THREADS": "7"}
    free: dict[str, str] = {}
    monkeypatch.setattr(module, "cores", lambda: 64)
    share_out(free)
    assert free == {}
    monkeypatch.setattr(module, "cores", lambda: 4)
    share_out(free)
    share_out(chosen)
    assert free == {"OMP_NUM_THREADS": "4"}
    assert chosen == {"OMP_NUM_THREADS": "7"}
