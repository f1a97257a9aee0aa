"""What is counted is told whole, and held in part."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cropgen.core import tally
from cropgen.core.tally import Tally


def test_few_are_all_held_and_told() -> None:
    found = Tally.of(["a", "b"])
    found.add(["c"])
    assert (len(found), found.first, found.told()) == (3, ["a", "b", "c"], "a, b, c")
    assert not Tally[str]()


def test_of_many_the_first_are_told_and_the_others_counted() -> None:
    found = Tally.of([("a", i) for i in range(7)])
    assert found.told(lambda pair: f"{pair[0]}{pair[1]}") == "a0, a1, a2, a3, a4 and 2 more"


@given(st.lists(st.integers(0, 2 * tally.MOST), max_size=4), st.booleans())
def test_what_is_held_does_not_grow_with_the_number(sizes: list[int], shortened: bool) -> None:
    found, everything = Tally[str](), list[str]()
    for part, size in enumerate(sizes):
        items = [f"{part}.{i}" for i in range(size)]
        everything += items
        if shortened:
            found.add(items[: tally.MOST], size)
        else:
            found.add(items)
    assert len(found) == len(everything)
    assert found.first == everything[: tally.MOST]
