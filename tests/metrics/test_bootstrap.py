from __future__ import annotations

import numpy as np
import pytest

from cropgen.core.errors import DataError
from cropgen.metrics.bootstrap import confusion_replicates, paired_difference, score_interval
from cropgen.metrics.classification import confusion_matrix, kappa, macro_f1, overall_accuracy


def draw(seed=0, rows=400, classes=4, right=0.8):
    generator = np.random.default_rng(seed)
    true = generator.integers(classes, size=rows)
    answer = np.where(generator.random(rows) < right, true, generator.integers(classes, size=rows))
    return true, answer


def test_row_replicates_keep_the_number_of_rows_and_average_to_the_counts():
    true, answer = draw()
    (resampled,) = confusion_replicates(true, [answer], 4, np.random.default_rng(1), replicates=4000)
    assert (resampled.sum((1, 2)) == len(true)).all()
    assert np.allclose(resampled.mean(0), confusion_matrix(true, answer, 4), atol=1.0)


def test_row_interval_of_accuracy_is_binomial():
    true, answer = draw(rows=1000)
    found = score_interval(overall_accuracy, true, answer, 4, np.random.default_rng(2), replicates=8000)
    spread = 1.96 * np.sqrt(found.value * (1 - found.value) / 1000)
    assert found.low == pytest.approx(found.value - spread, abs=0.004)
    assert found.high == pytest.approx(found.value + spread, abs=0.004)


def test_equals_resampling_rows_one_by_one():
    true, answer = draw(rows=150)
    generator = np.random.default_rng(3)
    slow = []
    for _ in range(3000):
        rows = generator.integers(150, size=150)
        slow.append(macro_f1(confusion_matrix(true[rows], answer[rows], 4)))
    found = score_interval(macro_f1, true, answer, 4, np.random.default_rng(4), replicates=3000)
    assert found.low == pytest.approx(np.quantile(slow, 0.025), abs=0.01)
    assert found.high == pytest.approx(np.quantile(slow, 0.975), abs=0.01)


def test_blocks_of_one_row_are_rows_and_shared_errors_widen():
    true, answer = draw(rows=300)
    rows = score_interval(overall_accuracy, true, answer, 4, np.random.default_rng(5), replicates=5000)
    singles = score_interval(
        overall_accuracy, true, answer, 4, np.random.default_rng(6), groups=np.arange(300), replicates=5000
    )
    assert singles.low == pytest.approx(rows.low, abs=0.008)
    wide = score_interval(
        overall_accuracy, np.repeat(true, 10), np.repeat(answer, 10), 4, np.random.default_rng(7),
        groups=np.repeat(np.arange(300), 10), replicates=5000,
    )  # fmt: skip
    narrow = score_interval(
        overall_accuracy, np.repeat(true, 10), np.repeat(answer, 10), 4, np.random.default_rng(7), replicates=5000
    )
    assert wide.high - wide.low == pytest.approx(singles.high - singles.low, abs=0.008)
    assert narrow.high - narrow.low < 0.5 * (wide.high - wide.low)


def test_a_single_block_leaves_no_spread():
    true, answer = draw(rows=50)
    found = score_interval(kappa, true, answer, 4, np.random.default_rng(0), groups=np.zeros(50))
    assert found.low == found.value == found.high


def test_paired_differences_use_the_same_draws():
    true, answer = draw(rows=500)
    same = paired_difference(macro_f1, true, answer, answer, 4, np.random.default_rng(8))
    assert (same.value, same.low, same.high) == (0, 0, 0)
    better = answer.copy()
    wrong = np.flatnonzero(answer != true)
    better[wrong[: len(wrong) // 2]] = true[wrong[: len(wrong) // 2]]
    for groups in (None, np.arange(500) // 5):
        gain = paired_difference(overall_accuracy, true, better, answer, 4, np.random.default_rng(9), groups=groups)
        assert 0 < gain.low < gain.value < gain.high


def test_equal_generators_give_equal_intervals():
    true, answer = draw()
    first = score_interval(macro_f1, true, answer, 4, np.random.default_rng(11))
    assert first == score_interval(macro_f1, true, answer, 4, np.random.default_rng(11))


def test_no_row_is_an_error():
    with pytest.raises(DataError, match="no test row"):
        score_interval(macro_f1, np.array([], int), np.array([], int), 2, np.random.default_rng(0))
