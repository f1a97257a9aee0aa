from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropgen.core.errors import DataError
from cropgen.metrics.selective import risk_coverage


def test_curve_by_hand():
    found = risk_coverage(np.array([0.9, 0.4, 0.7, 0.6]), np.array([1, 0, 0, 1], bool))
    # answered in the order right, wrong, right, wrong
    assert found.coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert found.risk.tolist() == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert found.area == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    assert found.at(np.array([0.1, 0.5, 0.51, 1])).tolist() == pytest.approx([0, 1 / 2, 1 / 3, 1 / 2])


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=6))
def test_ties_are_averaged_over_all_orders(rows):
    confidence, correct = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    curves = []
    for order in itertools.permutations(range(len(rows))):
        if all(confidence[a] >= confidence[b] for a, b in itertools.pairwise(order)):
            curves.append(np.cumsum(~correct[list(order)]) / np.arange(1, len(rows) + 1))
    found = risk_coverage(confidence, correct)
    assert np.allclose(found.risk, np.mean(curves, axis=0))
    assert found.risk[-1] == pytest.approx(np.mean(~correct))


def test_a_confidence_that_knows_nothing_has_the_error_rate_as_area():
    correct = np.array([1, 0, 0, 1, 1], bool)
    assert risk_coverage(np.zeros(5), correct).area == pytest.approx(0.4)


def test_no_row_is_an_error():
    with pytest.raises(DataError, match="no test row"):
        risk_coverage(np.zeros(0), np.zeros(0, bool))
