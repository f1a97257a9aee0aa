"""One process at a time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from cropgen.core.errors import UsageError
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


@contextlib.contextmanager
def sole_writer(lock_file: Path, output: Path, hint: str) -> Iterator[None]:
    """Hold an output while it is written.

    Arguments:
        lock_file: what is locked; its folder exists.
        output: named in the error.
        hint: what to do about it.

    Raises:
        UsageError: another process holds it.
    """
    lock = FileLock(lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UsageError(f"{output} is being written by another process", hint=hint) from error
    try:
        yield
    finally:
        lock.release()
