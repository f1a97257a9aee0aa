from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss, log_loss

from cropgen.core.errors import DataError
from cropgen.metrics.calibration import (
    best_temperature,
    brier_score,
    classwise_calibration_error,
    expected_calibration_error,
    negative_log_likelihood,
    reliability_table,
    temper,
    top_label_reliability,
)

PROBABILITY = np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4], [0.05, 0.05, 0.9]])
TRUE = np.array([0, 1, 0, 2])


def random_posterior(seed, rows, classes=4):
    generator = np.random.default_rng(seed)
    return generator.dirichlet(np.ones(classes), size=rows), generator.integers(classes, size=rows)


def test_proper_scores_by_hand():
    log_posterior = np.log(PROBABILITY)
    assert negative_log_likelihood(log_posterior, TRUE) == pytest.approx(-np.log([0.7, 0.8, 0.3, 0.9]).mean())
    expected = np.mean([0.09 + 0.04 + 0.01, 0.01 + 0.04 + 0.01, 0.49 + 0.09 + 0.16, 0.0025 * 2 + 0.01])
    assert brier_score(log_posterior, TRUE) == pytest.approx(expected)


def test_calibration_errors_by_hand():
    # four rows in four bins of two: answers 0.7 right, 0.8 right, 0.4 wrong, 0.9 right
    log_posterior = np.log(PROBABILITY)
    assert expected_calibration_error(log_posterior, TRUE, bins=15) == pytest.approx((0.3 + 0.2 + 0.4 + 0.1) / 4)
    # one bin: mean confidence 0.7, accuracy 0.75
    assert expected_calibration_error(log_posterior, TRUE, bins=1) == pytest.approx(0.05)
    # one bin per class: |mean p_k − share of k|
    gaps = np.abs(PROBABILITY.mean(0) - [0.5, 0.25, 0.25])
    assert classwise_calibration_error(log_posterior, TRUE, bins=1) == pytest.approx(gaps.mean())


def test_bins_hold_their_upper_edge():
    table = reliability_table(np.array([0.0, 0.5, 0.500001, 1.0]), np.array([0, 1, 0, 1]), bins=2)
    assert table.count.tolist() == [2, 2]
    assert table.accuracy.tolist() == [0.5, 0.5]
    assert table.confidence.tolist() == pytest.approx([0.25, 0.7500005])
    assert reliability_table(np.array([0.2]), np.array([1]), bins=2).accuracy.tolist() == [1, 0]


@given(st.integers(0, 10_000), st.integers(1, 40))
def test_equals_scikit_learn(seed, rows):
    probability, true = random_posterior(seed, rows)
    log_posterior = np.log(probability)
    assert negative_log_likelihood(log_posterior, true) == pytest.approx(log_loss(true, probability, labels=range(4)))
    assert brier_score(log_posterior, true) == pytest.approx(
        sum(brier_score_loss(true == k, probability[:, k]) for k in range(4))
    )


@given(st.integers(0, 10_000), st.integers(1, 40), st.integers(1, 20))
def test_errors_are_bounded_and_blind_to_row_order(seed, rows, bins):
    probability, true = random_posterior(seed, rows)
    log_posterior, order = np.log(probability), np.random.default_rng(seed).permutation(rows)
    for error in (expected_calibration_error, classwise_calibration_error):
        value = error(log_posterior, true, bins)
        assert 0 <= value <= 1
        assert value == pytest.approx(error(log_posterior[order], true[order], bins))
    assert top_label_reliability(log_posterior, true, bins).count.sum() == rows


def test_calibrated_answers_have_a_small_error_and_boasting_shows():
    generator = np.random.default_rng(3)
    probability = generator.dirichlet(np.ones(3), size=40_000)
    true = (probability.cumsum(1) < generator.random((40_000, 1))).sum(1)
    honest = np.log(probability)
    sharp = 3 * honest
    boast = sharp - np.logaddexp.reduce(sharp, axis=1, keepdims=True)
    assert expected_calibration_error(honest, true) < 0.01
    assert expected_calibration_error(boast, true) > 0.1
    assert negative_log_likelihood(boast, true) > negative_log_likelihood(honest, true)
    assert brier_score(boast, true) > brier_score(honest, true)


def test_wrong_shapes_are_named():
    with pytest.raises(DataError, match="log-probabilities"):
        brier_score(np.zeros((3, 2)), np.zeros(2, int))
    with pytest.raises(DataError, match="log-probabilities"):
        negative_log_likelihood(np.zeros((0, 2)), np.zeros(0, int))


def test_the_best_temperature_undoes_boasting():
    generator = np.random.default_rng(5)
    probability = generator.dirichlet(np.ones(3), size=20_000)
    true = (probability.cumsum(1) < generator.random((20_000, 1))).sum(1)
    boast = temper(np.log(probability), 1 / 3)
    assert best_temperature(boast, true) == pytest.approx(3, rel=0.05)
    assert best_temperature(np.log(probability), true) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("seed", range(3))
def test_the_best_temperature_is_that_of_a_fine_grid(seed):
    probability, true = random_posterior(seed, 20_000)
    log_posterior = np.log(np.maximum(probability, 1e-6))
    losses = []
    for temperature in np.exp(np.linspace(-4, 5, 400)):
        power = probability ** (1 / temperature)
        losses.append(-np.log((power / power.sum(1, keepdims=True))[np.arange(len(true)), true] + 1e-300).mean())
    found = negative_log_likelihood(temper(log_posterior, best_temperature(log_posterior, true)), true)
    assert found == pytest.approx(min(losses), abs=1e-3)
    assert found <= min(losses) + 1e-6


@pytest.mark.parametrize(("rows", "mistakes", "stated"), [(10, 0, 0.02), (20, 0, 1e-6), (20, 0, 1e-13), (50, 9, 0.02)])
def test_few_rows_are_believed_beside_ten_that_came_true_as_often_as_stated(rows, mistakes, stated):
    log_posterior = np.log(np.tile([1 - stated, stated], (rows, 1)))
    true = (np.arange(rows) < mistakes).astype(int)
    after = np.exp(temper(log_posterior, best_temperature(log_posterior, true)))[0, 1]
    assert after == pytest.approx((mistakes + 10 * stated) / (rows + 10), rel=0.02)


@pytest.mark.parametrize("rows", [10, 20])
def test_a_calibrated_classifier_loses_little_by_a_few_rows_without_a_mistake(rows):
    generator = np.random.default_rng(rows)

    def draw(count):
        log_posterior = temper(generator.normal(0, 30, (count, 5)), 1)
        true = (np.exp(log_posterior).cumsum(1) < generator.random((count, 1))).sum(1)
        return np.maximum(log_posterior, -30), true

    test, truth = draw(5000)
    few = [draw(rows) for _ in range(60)]
    faultless = [best_temperature(said, true) for said, true in few if (said.argmax(1) == true).all()]
    assert len(faultless) > 20
    stated = negative_log_likelihood(test, truth)
    tempered = [negative_log_likelihood(np.maximum(temper(test, t), -30), truth) for t in faultless]
    assert np.mean(tempered) < 1.2 * stated
    assert max(tempered) < 2 * stated
