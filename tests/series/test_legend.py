"""Legends encode, extend and translate."""

from __future__ import annotations

import numpy as np
import pytest

from cropgen.core.errors import SchemaError
from cropgen.series.legend import CropClass, Legend, spread_colour


def test_encode_and_unknown() -> None:
    legend = Legend.from_codes("x", ["b", "a", "b"], names={"a": "Apple"})
    assert legend.codes == ("a", "b")
    assert legend.names == ("Apple", "b")
    np.testing.assert_array_equal(legend.encode(["b", None, "z", "a", ""]), [1, -1, -1, 0, -1])


def test_json_round_trip() -> None:
    legend = Legend("x", (CropClass("0101", "Wheat", "#aabbcc", hcat="3301010100"),))
    assert Legend.from_json(legend.to_json()) == legend


def test_repeated_codes_are_refused() -> None:
    with pytest.raises(SchemaError, match="given twice: a"):
        Legend("x", (CropClass("a", "1", "#000000"), CropClass("a", "2", "#000000")))


def test_subset_extension_translation() -> None:
    legend = Legend.from_codes("x", ["a", "b", "c"])
    other = Legend.from_codes("y", ["c", "d"])
    assert legend.subset([2, 0]).codes == ("c", "a")
    assert legend.extended(other).codes == ("a", "b", "c", "d")
    np.testing.assert_array_equal(legend.translation(other), [-1, -1, 0])


def test_colours_differ() -> None:
    colours = [spread_colour(i) for i in range(40)]
    assert len(set(colours)) == 40
    assert all(len(c) == 7 and c[0] == "#" for c in colours)
