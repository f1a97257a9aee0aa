"""The tree of crops: levels, ancestors, roll-up, codes of other legends."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropgen.core.errors import UsageError
from cropgen.series.hcat import (
    ROOT,
    ancestor,
    canonical,
    code_in_set,
    code_of_name,
    hcat_of,
    level_of,
    roll_up,
    tree,
    with_hcat,
)
from cropgen.series.legend import CropClass, Legend

CODES = st.sampled_from(sorted(tree()))


def test_the_tree_is_whole() -> None:
    nodes = tree()
    assert len(nodes) == 384
    assert list(nodes) == sorted(nodes)
    assert len({n.name for n in nodes.values()}) == len(nodes)
    for node in nodes.values():
        assert re.fullmatch(r"#[0-9a-f]{6}", node.colour)
        assert node.parent is None if node.code == ROOT else node.parent in nodes
    assert [sum(n.level == level for n in nodes.values()) for level in range(1, 7)] == [1, 1, 9, 60, 193, 120]


def test_a_line_of_descent_by_hand() -> None:
    line = ["3000000000", "3300000000", "3301000000", "3301010000", "3301010100", "3301010101"]
    names = ["characteristics", "crop_type", "arable_crops", "cereal", "common_soft_wheat", "winter_common_soft_wheat"]
    assert [tree()[code].name for code in line] == names
    assert [level_of(code) for code in line] == [1, 2, 3, 4, 5, 6]
    assert [ancestor(line[-1], level) for level in range(1, 7)] == line
    assert ancestor("3301000000", 5) == "3301000000"


@given(CODES, st.integers(1, 6), st.integers(1, 6))
def test_ancestors_nest(code: str, one: int, other: int) -> None:
    assert ancestor(code, one) in tree()
    assert level_of(ancestor(code, one)) == min(one, level_of(code))
    assert ancestor(ancestor(code, one), other) == ancestor(code, min(one, other))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("3301010101", "3301010101"), (" 3301010101 ", "3301010101"), ("3301010101.0", "3301010101"),
        ("3301010403", "3301010402"), ("3301290900", "3301180000"), ("3301019903", None), ("33010101", None),
        ("", None), (None, None), ("wheat", None),
    ],
)  # fmt: skip
def test_codes_of_older_editions_and_of_number_columns(text: str | None, expected: str | None) -> None:
    assert canonical(text) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("winter_common_soft_wheat", "3301010101"), ("Winter common soft wheat", "3301010101"),
        ("summer_barley", "3301010402"), ("maize_corn_popcorn", "3301010600"), ("olive", "3303050000"),
        ("unicorn", None), ("", None),
    ],
)  # fmt: skip
def test_classes_by_name_in_any_edition(name: str, expected: str | None) -> None:
    assert code_of_name(name) == expected


def test_codes_of_other_legends() -> None:
    assert code_in_set("rpg", "BTH") == "3301010101"
    assert code_in_set("rpg", "MIE") == "3301090400"
    assert code_in_set("rpg", "XYZ") is None
    assert code_in_set("cropharvest", "maize") == "3301010600"
    assert hcat_of(CropClass("BTH", "blé", "#000000"), "breizhcrops-register") == "3301010101"
    assert hcat_of(CropClass("BTH", "blé", "#000000"), "mine") is None
    assert hcat_of(CropClass("BTH", "blé", "#000000", "3303050000"), "mine") == "3303050000"


LEGEND = Legend(
    "mixed",
    (
        CropClass("3301010101", "winter wheat", "#111111"),
        CropClass("B", "barley", "#222222", "3301010400"),
        CropClass("3301010402", "3301010402", "#333333"),
        CropClass("M", "meadow", "#444444", "3302000000"),
        CropClass("C", "cereal", "#555555", "3301010000"),
        CropClass("?", "odd", "#666666"),
    ),
)


def test_rolling_up_merges_what_shares_an_ancestor() -> None:
    rolled = roll_up(LEGEND, 4)
    assert rolled.legend.codes == ("3301010000", "3302000000")
    assert rolled.legend.names == ("cereal", "pasture meadow grassland grass")
    assert rolled.place.tolist() == [0, 0, 0, 1, 0, -1]
    assert rolled.unmapped.tolist() == [5]
    assert rolled.coarse.tolist() == []
    assert rolled.remarks(LEGEND) == ("1 of 6 classes without an HCAT code, now unknown: ? odd",)


def test_classes_above_the_level_that_overlap_are_told_with_their_counts() -> None:
    rolled = roll_up(LEGEND, 5)
    assert rolled.legend.codes == ("3301010000", "3301010100", "3301010400", "3302000000")
    assert rolled.place.tolist() == [1, 2, 2, 3, 0, -1]
    assert rolled.coarse.tolist() == [4]
    counts = np.asarray([10, 20, 30, 40, 5, 1200])
    assert rolled.remarks(LEGEND, counts) == (
        "1 of 6 classes without an HCAT code, now unknown, 1,200 parcels: ? odd (1,200)",
        "1 of 6 classes coarser than the level, kept, 5 parcels: C cereal (5)",
    )


@given(st.lists(CODES, min_size=1, max_size=30, unique=True), st.integers(1, 6))
def test_every_class_goes_to_its_ancestor(codes: list[str], level: int) -> None:
    rolled = roll_up(Legend.from_codes("x", codes), level)
    assert [rolled.legend.codes[i] for i in rolled.place] == [ancestor(c, level) for c in sorted(codes)]
    again = roll_up(rolled.legend, level)
    assert again.legend.codes == rolled.legend.codes


def test_a_legend_without_codes_or_a_level_that_is_none_is_told() -> None:
    with pytest.raises(UsageError, match="no class of legend x has an HCAT code: a, b"):
        roll_up(Legend.from_codes("x", ["a", "b"]), 4)
    with pytest.raises(UsageError, match="expected 1 to 6, got 7"):
        roll_up(LEGEND, 7)


def test_dressing_keeps_names_that_say_more() -> None:
    dressed = with_hcat(LEGEND).classes
    assert dressed[0] == CropClass("3301010101", "winter wheat", "#111111", "3301010101")
    assert dressed[2] == CropClass("3301010402", "spring barley", tree()["3301010402"].colour, "3301010402")
    assert dressed[5] == LEGEND.classes[5]
