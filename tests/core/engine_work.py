"""Work for the engines' tests; a module of its own because other processes import it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from cropgen.core.errors import DataError


def square(unit: int) -> int:
    return unit * unit


def treacherous(unit: int) -> int:
    """Fails on 1, ends its process on 2."""
    if unit == 1:
        raise DataError("unit 1 has no data", hint="bring some")
    if unit == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return unit * unit


def memory_limit(unit: int) -> int | None:
    """Bytes the dask worker may take; None: as many as there are."""
    from distributed import get_worker

    limit: int | None = get_worker().memory_manager.memory_limit
    return limit


def slow(unit: str) -> int:
    """Leaves its process id in a file and takes longer than any test waits."""
    Path(unit).write_text(str(os.getpid()))
    time.sleep(300)
    return 0
