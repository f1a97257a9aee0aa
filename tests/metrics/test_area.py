from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropgen.core.errors import DataError
from cropgen.metrics.area import adjusted_area

# deforestation, forest gain, stable forest, stable non-forest: table 8 of Olofsson et al., 2014
COUNTS = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
PIXELS = np.array([200_000, 150_000, 3_200_000, 6_450_000])


def test_the_published_example():
    found = adjusted_area(COUNTS, PIXELS)
    hectares = found.adjusted * PIXELS.sum() * 0.09
    margin = 1.96 * found.standard_error * PIXELS.sum() * 0.09
    assert hectares.round().tolist() == [21158, 11686, 285770, 581386]
    assert margin == pytest.approx([6158, 3756, 15510, 16282], abs=1)
    assert found.users.round(2).tolist() == [0.88, 0.73, 0.93, 0.96]
    assert (1.96 * found.users_error).round(2).tolist() == [0.07, 0.10, 0.04, 0.02]
    assert found.producers.round(2).tolist() == [0.75, 0.85, 0.93, 0.96]
    assert (1.96 * found.producers_error).round(2).tolist() == [0.21, 0.25, 0.03, 0.02]
    assert round(found.overall, 2) == 0.95
    assert round(1.96 * found.overall_error, 2) == 0.02


@given(st.integers(0, 10_000))
def test_shares_sum_to_one_and_a_perfect_map_needs_no_adjustment(seed):
    generator = np.random.default_rng(seed)
    counts, area = generator.integers(1, 30, (4, 4)), generator.random(4) + 0.01
    found = adjusted_area(counts, area)
    assert found.adjusted.sum() == pytest.approx(1)
    perfect = adjusted_area(np.diag(counts.sum(1)), area)
    assert perfect.adjusted == pytest.approx(perfect.mapped)
    assert perfect.standard_error == pytest.approx(0)
    assert perfect.producers == pytest.approx(1)
    assert perfect.overall == pytest.approx(1)


def test_the_standard_errors_are_those_of_repeated_samples():
    generator = np.random.default_rng(4)
    weight, within = np.array([0.3, 0.7]), np.array([[0.8, 0.2], [0.1, 0.9]])
    found = []
    for _ in range(4000):
        counts = np.array([generator.multinomial(n, row) for n, row in zip((40, 60), within, strict=True)])
        found.append(adjusted_area(counts, weight))
    adjusted = np.array([f.adjusted for f in found])
    assert adjusted.mean(0) == pytest.approx(weight @ within, abs=0.003)
    assert np.mean([f.standard_error for f in found], axis=0) == pytest.approx(adjusted.std(0), rel=0.05)
    producers = np.array([f.producers for f in found])
    assert np.mean([f.producers_error for f in found], axis=0) == pytest.approx(producers.std(0), rel=0.08)


def test_a_class_nobody_mapped_has_no_users_accuracy():
    found = adjusted_area(np.array([[9, 1, 2], [0, 10, 0], [0, 0, 0]]), np.array([1, 1, 0]))
    assert np.isnan(found.users).tolist() == [False, False, True]
    assert found.adjusted[2] == pytest.approx(0.5 * 2 / 12)
    assert found.overall == pytest.approx(0.5 * 9 / 12 + 0.5)


def test_wrong_input_is_named():
    with pytest.raises(DataError, match="mapped class 1 was checked"):
        adjusted_area(np.array([[1, 0], [0, 0]]), np.array([1, 1]))
    with pytest.raises(DataError, match=r"\(K, K\) counts"):
        adjusted_area(np.ones((2, 2)), np.ones(3))
