"""Objects that were there before are spared collections, and no longer afterwards."""

from __future__ import annotations

import gc
import weakref

from cropgen.core.collecting import older_objects_spared


class Knot:
    """An object that only a collection removes."""

    def __init__(self) -> None:
        self.itself = self


def test_cycles_made_before_outlive_collections_and_those_made_within_do_not():
    gc.collect()
    old = Knot()
    before = weakref.ref(old)
    with older_objects_spared():
        del old
        new = weakref.ref(Knot())
        gc.collect()
        assert new() is None
        assert before() is not None
    gc.collect()
    assert before() is None


def test_objects_that_someone_else_froze_stay_frozen():
    gc.freeze()
    try:
        count = gc.get_freeze_count()
        with older_objects_spared():
            assert gc.get_freeze_count() == count
        assert gc.get_freeze_count() == count
    finally:
        gc.unfreeze()
