"""Garbage collection that leaves alone what is there for good.

A collection looks at every object that may be part of a cycle. Libraries that were imported make up hundreds of
thousands of these; work that creates objects by the ten thousand starts a collection again and again, each of which
stops all threads.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def older_objects_spared() -> Iterator[None]:
    """Spare the objects that exist the collections of the meantime, unless some are spared already."""
    if gc.get_freeze_count():
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
