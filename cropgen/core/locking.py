"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cropgen.core.progress import Reporter


@contextlib.contextmanager
def exclusive(folder: Path, report: Reporter) -> Iterator[None]:
    """Hold a folder while it is fetched into; a second process waits and then finds everything here."""
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".fetch.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        report.info(f"another process is fetching into {folder}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
