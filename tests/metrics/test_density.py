from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from cropgen.metrics.density import bits_per_value, crps_mixture, crps_samples


def by_integration(value, weight, mean, variance):
    """∫ (F(t) − [t ≥ x])² dt, the definition."""

    def cdf(t):
        return float(np.sum(np.array(weight) * norm.cdf(t, mean, np.sqrt(variance))))

    low, high = min(value, np.min(mean) - 40), max(value, np.max(mean) + 40)
    left, _ = quad(lambda t: cdf(t) ** 2, low, value, limit=400, points=sorted(m for m in mean if low < m < value))
    right, _ = quad(
        lambda t: (1 - cdf(t)) ** 2, value, high, limit=400, points=sorted(m for m in mean if value < m < high)
    )
    return left + right


def test_one_gaussian_is_the_closed_form():
    # CRPS(N(0,1), 0) = 2 φ(0) − 1/√π
    expected = 2 / np.sqrt(2 * np.pi) - 1 / np.sqrt(np.pi)
    assert crps_mixture(np.array(0.0), np.ones(1), np.zeros(1), np.ones(1)) == pytest.approx(expected)
    z = (0.3 - 0.1) / 0.05
    closed = 0.05 * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert crps_mixture(np.array(0.3), np.ones(1), np.array([0.1]), np.array([0.05**2])) == pytest.approx(closed)


@given(st.integers(0, 500))
def test_mixtures_equal_the_integral_of_the_definition(seed):
    generator = np.random.default_rng(seed)
    count = int(generator.integers(1, 4))
    weight, mean = generator.dirichlet(np.ones(count)), generator.normal(0, 2, count)
    variance, value = generator.random(count) + 0.05, generator.normal(0, 3)
    found = crps_mixture(np.array(value), weight, mean, variance)
    assert found == pytest.approx(by_integration(value, weight, mean, variance), abs=1e-5)


def test_a_certain_prediction_costs_its_error():
    assert crps_mixture(np.array([0.5, 0.5]), np.ones((2, 1)), np.array([[0.2], [0.5]]), np.zeros((2, 1))).tolist() == [
        pytest.approx(0.3),
        0,
    ]


def test_samples_by_hand_and_by_all_pairs():
    # E|X − x| = (1 + 2 + 0)/3 and ½ E|X − X'| = ½ (2·1 + 2·3 + 2·2)/9 … for samples 0, 1, 3 around 1
    assert crps_samples(np.array(1.0), np.array([0.0, 3.0, 1.0])) == pytest.approx(1 - 0.5 * (1 + 3 + 2) * 2 / 9)
    generator = np.random.default_rng(2)
    samples, value = generator.normal(size=(5, 30)), generator.normal(size=5)
    pairs = np.abs(samples[:, :, None] - samples[:, None]).mean((1, 2))
    assert crps_samples(value, samples) == pytest.approx(np.abs(samples - value[:, None]).mean(1) - 0.5 * pairs)


def test_many_samples_approach_their_mixture():
    generator = np.random.default_rng(3)
    component = generator.integers(2, size=200_000)
    samples = np.array([-1.0, 2.0])[component] + np.array([0.5, 1.0])[component] * generator.normal(size=200_000)
    exact = crps_mixture(np.array(0.7), np.full(2, 0.5), np.array([-1.0, 2.0]), np.array([0.25, 1.0]))
    assert crps_samples(np.array(0.7), samples) == pytest.approx(exact, abs=0.01)


def test_bits_of_the_uniform_density_are_the_bits_of_the_steps():
    assert bits_per_value(np.zeros(4), np.array([3, 10, 0, 7])) == pytest.approx(np.log2(10_000))
    # a Gaussian of standard deviation s costs log2(s √(2πe) / q) bits on average
    spread, generator = 0.02, np.random.default_rng(1)
    values = generator.normal(0.3, spread, (2000, 12))
    found = bits_per_value(norm.logpdf(values, 0.3, spread).sum(1), np.full(2000, 12))
    assert found == pytest.approx(np.log2(spread * np.sqrt(2 * np.pi * np.e) / 1e-4), abs=0.02)
    assert bits_per_value(np.array([np.nan, 0.0]), np.array([0, 5])) == pytest.approx(np.log2(10_000))
    assert bits_per_value(np.array([np.nan]), np.array([0])) is None


def test_bits_are_those_of_the_quantised_values():
    """The probability of a step of 10⁻⁴ is the density times the step where the density is smooth."""
    value = np.round(np.random.default_rng(0).normal(0.3, 0.02, 500), 4)
    steps = norm.cdf(value + 5e-5, 0.3, 0.02) - norm.cdf(value - 5e-5, 0.3, 0.02)
    found = bits_per_value(norm.logpdf(value, 0.3, 0.02), np.ones(500))
    assert found == pytest.approx(-np.log2(steps).mean(), abs=1e-4)
