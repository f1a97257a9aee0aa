from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from cropgen.core.errors import DataError
from cropgen.metrics.bootstrap import (
    Interval,
    Trial,
    averaged_scores,
    confusion_replicates,
    interval,
    over_seeds,
    paired_difference,
    permutation_p_value,
)
from cropgen.metrics.classification import confusion_matrix, kappa, macro_f1, overall_accuracy


def draw(seed=0, rows=400, classes=4, right=0.8):
    generator = np.random.default_rng(seed)
    true = generator.integers(classes, size=rows)
    answer = np.where(generator.random(rows) < right, true, generator.integers(classes, size=rows))
    return true, answer


def score_interval(score, true, answer, classes, generator, **how):
    scored = [score(resampled) for (resampled,) in confusion_replicates(true, [answer], classes, generator, **how)]
    return interval(float(score(confusion_matrix(true, answer, classes))), np.concatenate(scored))


def test_row_replicates_keep_the_number_of_rows_and_average_to_the_counts():
    true, answer = draw()
    ((resampled,),) = confusion_replicates(true, [answer], 4, np.random.default_rng(1), replicates=4000)
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


def improved(true, answer):
    """The same answers with half of the mistakes put right."""
    better, wrong = answer.copy(), np.flatnonzero(answer != true)
    better[wrong[::2]] = true[wrong[::2]]
    return better


def test_paired_differences_use_the_same_draws():
    true, answer = draw(rows=500)
    better = improved(true, answer)
    for unit in (np.arange(500), np.arange(500) // 5):
        same = paired_difference([Trial(0, true, (answer, answer), unit)], 4, macro_f1, np.random.default_rng(8))
        assert (same.value, same.low, same.high) == (0, 0, 0)
        gain = paired_difference(
            [Trial(0, true, (better, answer), unit)], 4, overall_accuracy, np.random.default_rng(9)
        )
        assert 0 < gain.low < gain.value < gain.high
        one, two = (overall_accuracy(confusion_matrix(true, a, 4)) for a in (better, answer))
        assert gain.value == pytest.approx(one - two)


def test_one_seed_is_the_block_bootstrap():
    true, answer = draw(rows=600)
    unit = np.arange(600) // 10
    block = score_interval(macro_f1, true, answer, 4, np.random.default_rng(1), groups=unit, replicates=4000)
    found = averaged_scores([Trial(7, true, (answer,), unit)], 4, macro_f1, np.random.default_rng(2), replicates=4000)
    again = over_seeds(interval(float(found.value[0]), found.replicates[0]), found.of_seed[0])
    assert again.value == pytest.approx(block.value)
    assert again.low == pytest.approx(block.low, abs=0.005)
    assert again.high == pytest.approx(block.high, abs=0.005)


def unlike_seeds():
    """Three seeds of unlike quality that share their ground of 20 blocks."""
    trials = []
    for seed, right in enumerate((0.6, 0.75, 0.9)):
        true, answer = draw(seed=seed, rows=240, right=right)
        trials.append(Trial(seed, true, (answer,), np.arange(240) // 12))
    return trials


def test_every_seed_meets_the_same_ground():
    """Against a bootstrap that copies rows one by one."""
    generator, trials, slow = np.random.default_rng(3), unlike_seeds(), []
    alone = [float(np.mean(t.true == t.predictions[0])) for t in trials]
    for _ in range(3000):
        rows = np.concatenate([np.arange(12 * u, 12 * u + 12) for u in generator.integers(20, size=20)])
        slow.append(np.mean([np.mean(t.true[rows] == t.predictions[0][rows]) for t in trials]))
    found = averaged_scores(trials, 4, overall_accuracy, np.random.default_rng(4), replicates=3000)
    assert found.value[0] == pytest.approx(np.mean(alone))
    np.testing.assert_allclose(found.of_seed[0], alone)
    for quantile in (0.025, 0.5, 0.975):
        assert np.quantile(found.replicates[0], quantile) == pytest.approx(np.quantile(slow, quantile), abs=0.006)


def test_trials_of_one_seed_are_averaged_first():
    true, answer = draw(rows=100)
    unit = np.arange(100)
    wrong = (answer + 1) % 4
    trials = [Trial(0, true, (true,), unit), Trial(0, true, (true,), unit), Trial(1, true, (wrong,), unit)]
    found = averaged_scores(trials, 4, overall_accuracy, np.random.default_rng(0), replicates=2)
    np.testing.assert_allclose(found.of_seed[0], [1, np.mean(wrong == true)])
    assert found.value[0] == pytest.approx(found.of_seed[0].mean())


def test_seeds_are_judged_by_students_t():
    of_seed = np.array([0.1, 0.3, 0.2, 0.6])
    exact = ttest_1samp(of_seed, 0).confidence_interval()
    known = over_seeds(Interval(0.3, 0.3, 0.3), of_seed)
    assert (known.low, known.high) == pytest.approx((exact.low, exact.high))
    half = exact.high - 0.3
    both = over_seeds(Interval(0.3, 0.2, 0.5), of_seed)
    assert (both.low, both.high) == pytest.approx((0.3 - np.hypot(0.1, half), 0.3 + np.hypot(0.2, half)))
    assert over_seeds(both, np.full(3, 0.3)) == both
    assert over_seeds(both, of_seed[:1]) == both


@pytest.mark.parametrize("seeds", [3, 8])
def test_equal_models_are_seldom_told_apart_though_their_trainings_differ(seeds):
    """Two models whose trainings are as good on average, each training better or worse than that by chance."""
    generator, wrong, repeats = np.random.default_rng(seeds), 0, 150
    for _ in range(repeats):
        trials = []
        for seed in range(seeds):
            true = generator.integers(4, size=200)
            answers = [
                np.where(generator.random(200) < right, true, (true + generator.integers(1, 4, size=200)) % 4)
                for right in np.clip(generator.normal(0.7, 0.08, size=2), 0, 1)
            ]
            trials.append(Trial(seed, true, tuple(answers), np.arange(200) // 10))
        found = paired_difference(trials, 4, overall_accuracy, np.random.default_rng(0))
        wrong += not found.low <= 0 <= found.high
    assert wrong <= 0.09 * repeats, "about one in twenty"


def test_portions_of_draws_change_nothing_but_memory(monkeypatch):
    true, answer = draw(rows=200)
    trial = Trial(0, true, (improved(true, answer), answer), np.arange(200))
    whole = paired_difference([trial], 4, macro_f1, np.random.default_rng(1))
    monkeypatch.setattr("cropgen.metrics.bootstrap._MOST_WEIGHTS", 7 * 200)
    parts = paired_difference([trial], 4, macro_f1, np.random.default_rng(1))
    assert parts.value == whole.value
    assert parts.low == pytest.approx(whole.low, abs=0.01)


@pytest.mark.parametrize("groups", [None, np.arange(200) // 3, np.arange(200)])
def test_replicates_made_in_portions_are_those_made_at_once(groups, monkeypatch):
    true, answer = draw(rows=200)
    both = [answer, improved(true, answer)]
    (whole,) = confusion_replicates(true, both, 4, np.random.default_rng(1), groups=groups, replicates=50)
    monkeypatch.setattr("cropgen.metrics.bootstrap._MOST_WEIGHTS", 7 * 16)
    parts = list(confusion_replicates(true, both, 4, np.random.default_rng(1), groups=groups, replicates=50))
    assert len(parts) > 1
    for mine, joined in zip(whole, zip(*parts, strict=True), strict=True):
        np.testing.assert_array_equal(np.concatenate(joined), mine)
    trial = Trial(0, true, (both[1], answer), np.arange(200))
    monkeypatch.undo()
    found = averaged_scores([trial], 4, macro_f1, np.random.default_rng(1)).replicates
    monkeypatch.setattr("cropgen.metrics.bootstrap._MOST_CELLS", 7 * 16)
    again = averaged_scores([trial], 4, macro_f1, np.random.default_rng(1)).replicates
    np.testing.assert_array_equal(again, found)


def test_classes_that_never_occur_change_nothing():
    true, answer = draw(rows=300)
    rare = np.array([3, 40, 41, 199])
    for score in (macro_f1, kappa, overall_accuracy):
        few, many = (
            paired_difference([Trial(0, code[true], (code[improved(true, answer)], code[answer]), np.arange(300) // 5)],
                              classes, score, np.random.default_rng(1))
            for code, classes in ((np.arange(4), 4), (rare, 200))
        )  # fmt: skip
        assert few == many


def test_memory_grows_neither_with_the_blocks_nor_with_the_legend():
    generator = np.random.default_rng(0)
    blocks, classes = 15_000, 150
    true, answer = draw(rows=blocks, classes=9)
    tracemalloc.start()
    for (resampled,) in confusion_replicates(true, [answer], 9, generator, groups=np.arange(blocks)):
        macro_f1(resampled)
    by_blocks = tracemalloc.get_traced_memory()[1]
    true, answer = draw(rows=600, classes=classes)
    tracemalloc.reset_peak()
    paired_difference([Trial(0, true, (true, answer), np.arange(600) // 2)], classes, macro_f1, generator)
    for (resampled,) in confusion_replicates(true, [answer], classes, generator):
        macro_f1(resampled)
    by_classes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert max(by_blocks, by_classes) < 150e6


def test_permutation_of_few_units_equals_all_swaps():
    """Six units: the exact two-sided p-value counts the 64 ways to swap."""
    true = np.zeros(6, int)
    first, second = np.array([0, 0, 0, 0, 0, 1]), np.array([1, 1, 1, 0, 1, 0])
    trial = Trial(0, true, (first, second), np.arange(6))
    gains = (first == true).astype(int) - (second == true)
    exact = np.mean([abs(np.dot(gains, 1 - 2 * np.array(s))) >= abs(gains.sum())
                     for s in np.ndindex(2, 2, 2, 2, 2, 2)])  # fmt: skip
    found = permutation_p_value([trial], 2, overall_accuracy, np.random.default_rng(1), replicates=20_000)
    assert found == pytest.approx(exact, abs=0.01)


def test_permutation_tells_chance_from_a_gain():
    true, answer = draw(rows=400, right=0.7)
    unit = np.arange(400) // 4
    better = Trial(0, true, (improved(true, answer), answer), unit)
    assert permutation_p_value([better], 4, macro_f1, np.random.default_rng(2)) == pytest.approx(1 / 1001)
    p_values = []
    for seed in range(60):
        _, one = draw(seed=100 + seed, rows=400)
        noise = np.random.default_rng(seed).random(400) < 0.5
        other = np.where(noise, np.roll(one, 1), one)
        mixed = np.where(np.random.default_rng(seed + 500).random(400) < 0.5, one, other)
        swapped = np.where(mixed == one, other, one)
        p_values.append(permutation_p_value([Trial(0, true, (mixed, swapped), np.arange(400))], 4, macro_f1,
                                            np.random.default_rng(seed), replicates=199))  # fmt: skip
    assert 0.3 < np.mean(p_values) < 0.7
    same = [Trial(0, true, (answer, answer), unit)]
    assert permutation_p_value(same, 4, macro_f1, np.random.default_rng(3)) == 1


def test_equal_generators_give_equal_intervals():
    true, answer = draw()
    first = score_interval(macro_f1, true, answer, 4, np.random.default_rng(11))
    assert first == score_interval(macro_f1, true, answer, 4, np.random.default_rng(11))


def test_no_row_is_an_error():
    with pytest.raises(DataError, match="no test row"):
        score_interval(macro_f1, np.array([], int), np.array([], int), 2, np.random.default_rng(0))
    with pytest.raises(DataError, match="no test row"):
        averaged_scores([], 2, macro_f1, np.random.default_rng(0))
