"""How many processor cores there are for this process."""

from __future__ import annotations

import os
from collections.abc import Iterator, MutableMapping
from math import ceil
from pathlib import Path

_GROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")


def allowed() -> int:
    """Cores this process may run on: all, or those a scheduler bound it to."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cores(groups: Path = _GROUPS, own: Path = _OWN) -> int:
    """Cores whose time this process gets: those it may run on, within the share of a container (`docker --cpus`).

    A container with the time of 4 of 64 cores runs on all 64; with a thread on each, they wait for one another.

    Arguments:
        groups: where the control groups of Linux are, of version 2 or 1.
        own: file that says which of them holds this process.
    """
    return max(1, min([allowed(), *map(ceil, _shares(groups, own))]))


def share_out(environment: MutableMapping[str, str]) -> None:
    """Let numerical libraries that are not loaded yet begin no more threads than there are cores for.

    What the user chose in `OMP_NUM_THREADS` stays.
    """
    if (count := cores()) < allowed():
        environment.setdefault("OMP_NUM_THREADS", str(count))


def _shares(groups: Path, own: Path) -> Iterator[float]:
    """Limits, in cores, of the group of this process and of those around it."""
    try:
        lines = own.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, kinds, place = line.split(":", 2)
        if kinds and "cpu" not in kinds.split(","):
            continue
        root = groups / kinds if kinds else groups
        inner = root / place.lstrip("/")
        for folder in (inner, *inner.parents):
            yield from _share(folder)
            if folder == root:
                break


def _share(folder: Path) -> Iterator[float]:
    try:
        if (folder / "cpu.max").is_file():
            time, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        else:
            time, period = ((folder / f"cpu.cfs_{name}_us").read_text(encoding="ascii") for name in ("quota", "period"))
        if time.strip() not in ("max", "-1"):
            yield int(time) / int(period)
    except (OSError, ValueError):
        return
