"""Belief propagation against enumeration, neighbours against hand, tiles against the whole."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.prediction.neighbours import (
    Field,
    learnt_compatibility,
    marginals,
    neighbour_pairs,
    on_the_globe,
    potts,
    smooth,
    smooth_by_tiles,
)

CHAIN = np.array([[0, 1], [1, 2], [2, 3], [3, 4]])
TREE = np.array([[0, 1], [0, 2], [0, 3], [3, 4]])
LOOP = np.array([[0, 1], [1, 2], [2, 3], [0, 3]])


def evidence(rows: int, classes: int = 3, seed: int = 0) -> np.ndarray:
    p = np.random.default_rng(seed).dirichlet(np.ones(classes), rows)
    return np.log(p)


def enumerated(log_posterior: np.ndarray, pairs: np.ndarray, potential: np.ndarray) -> np.ndarray:
    """Marginals by the sum over every assignment."""
    rows, classes = log_posterior.shape
    total = np.zeros((rows, classes))
    for y in product(range(classes), repeat=rows):
        score = sum(log_posterior[i, k] for i, k in enumerate(y)) + sum(potential[y[i], y[j]] for i, j in pairs)
        for i, k in enumerate(y):
            total[i, k] += np.exp(score)
    return total / total.sum(1, keepdims=True)


def uneven(classes: int = 3) -> np.ndarray:
    one = np.random.default_rng(5).normal(size=(classes, classes))
    return one + one.T


@pytest.mark.parametrize("pairs", [CHAIN, TREE], ids=["chain", "tree"])
@pytest.mark.parametrize("potential", [potts(3), 2.5 * potts(3), uneven()], ids=["mild", "strong", "uneven"])
def test_a_tree_has_the_marginals_of_enumeration(pairs: np.ndarray, potential: np.ndarray) -> None:
    said = evidence(5)
    found = marginals(said, pairs, potential, rounds=4)
    np.testing.assert_allclose(np.exp(found.log_probability), enumerated(said, pairs, potential), rtol=1e-12)


def test_fewer_rounds_than_the_tree_is_long_are_not_enough() -> None:
    said, potential = evidence(5), potts(3)
    short = marginals(said, CHAIN, potential, rounds=2).log_probability
    assert np.abs(np.exp(short) - enumerated(said, CHAIN, potential)).max() > 1e-3


def test_a_loop_is_nearly_right_where_neighbours_are_heard_mildly() -> None:
    said, potential = evidence(4), 0.4 * potts(3)
    found = np.exp(marginals(said, LOOP, potential, rounds=30).log_probability)
    np.testing.assert_allclose(found, enumerated(said, LOOP, potential), atol=5e-3)


def test_two_parcels_are_weighed_by_bayes_rule_with_the_learnt_compatibility() -> None:
    """p(a, b | x) ∝ P(a, b) p(x₁ | a) p(x₂ | b), and the posteriors assume π: p(a | x₁) ∝ π_a p(x₁ | a)."""
    joint = np.array([[0.4, 0.1], [0.1, 0.4]])
    share = joint.sum(1)
    likelihood = np.array([[0.9, 0.2], [0.5, 0.6]])
    said = np.log(share * likelihood / (share * likelihood).sum(1, keepdims=True))
    found = marginals(said, np.array([[0, 1]]), np.log(joint / np.outer(share, share)), rounds=1)
    both = joint * likelihood[0][:, None] * likelihood[1][None]
    np.testing.assert_allclose(np.exp(found.log_probability[0]), both.sum(1) / both.sum(), rtol=1e-12)
    np.testing.assert_allclose(np.exp(found.log_probability[1]), both.sum(0) / both.sum(), rtol=1e-12)


def test_without_strength_or_neighbours_nothing_changes() -> None:
    said = evidence(5)
    np.testing.assert_allclose(marginals(said, CHAIN, np.zeros((3, 3)), 5).log_probability, said, atol=1e-12)
    alone = marginals(said, np.zeros((0, 2), np.int64), potts(3), 5)
    np.testing.assert_allclose(alone.log_probability, said, atol=1e-12)
    assert alone.neighbours.tolist() == [0] * 5


def test_extreme_evidence_stays_finite() -> None:
    said = np.log(np.maximum(np.eye(3)[[0, 1, 2, 0, 1]], 1e-300))
    found = marginals(said, CHAIN, 30 * potts(3), rounds=8).log_probability
    assert np.isfinite(found).all()
    np.testing.assert_allclose(np.exp(found).sum(1), 1)


def test_an_unsure_parcel_follows_its_sure_neighbours() -> None:
    said = np.log(np.array([[0.98, 0.01, 0.01], [0.34, 0.36, 0.30], [0.98, 0.01, 0.01]]))
    found = marginals(said, np.array([[0, 1], [1, 2]]), potts(3), 2)
    assert said[1].argmax() == 1
    assert found.log_probability[1].argmax() == 0
    assert found.neighbours.tolist() == [1, 2, 1]


def test_neighbours_by_hand() -> None:
    """On a line at 0, 1, 3, 3.5 and 20 m with one choice each: 0–1, 2–3; with two also 1–2 (from 1 and 2), 1–3."""
    place = np.zeros((6, 3))
    place[:, 0] = [0, 1, 3, 3.5, 20, np.nan]
    assert neighbour_pairs(place, 5.0, 1).tolist() == [[0, 1], [2, 3]]
    assert neighbour_pairs(place, 5.0, 2).tolist() == [[0, 1], [0, 2], [1, 2], [1, 3], [2, 3]]
    assert neighbour_pairs(place, 0.4, 2).tolist() == []
    assert neighbour_pairs(place[:1], 5.0, 2).shape == (0, 2)


def test_of_neighbours_equally_far_the_lower_row_is_nearer() -> None:
    place = np.array([[0.0, 0, 0], [1.0, 0, 0], [-1.0, 0, 0], [0, 1.0, 0]])
    assert neighbour_pairs(place, 1.1, 1).tolist() == [[0, 1], [0, 2], [0, 3]]
    assert [0, 1] in neighbour_pairs(place, 1.1, 1).tolist()


def test_places_on_the_globe_are_metres_apart() -> None:
    place = on_the_globe(np.array([10.0, 10.0, 10.001]), np.array([48.0, 48.001, 48.0]))
    assert np.linalg.norm(place[1] - place[0]) == pytest.approx(111.195, abs=0.01)
    assert np.linalg.norm(place[2] - place[0]) == pytest.approx(111.195 * np.cos(np.deg2rad(48)), abs=0.01)


@given(seed=st.integers(0, 2**16), grid=st.booleans())
@settings(max_examples=15, deadline=None)
def test_tiles_give_what_the_whole_gives(seed: int, grid: bool) -> None:
    draw = np.random.default_rng(seed)
    place = np.column_stack([draw.uniform(0, 3000, (120, 2)), np.zeros(120)])
    place = np.round(place, -2) if grid else place
    place[draw.integers(0, 120, 3)] = np.nan
    field = Field("", uneven() / 3, reach_m=150.0, most=3, rounds=3)
    said = evidence(120, seed=seed)
    whole = smooth(place, said, field)
    seen = np.zeros(120, int)
    for rows, found in smooth_by_tiles(place, said, field, most=15):
        seen[rows] += 1
        np.testing.assert_allclose(found.log_probability, whole.log_probability[rows], atol=1e-10)
        assert found.neighbours.tolist() == whole.neighbours[rows].tolist()
    assert (seen == 1).all()


@given(seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_the_order_of_parcels_and_classes_does_not_matter(seed: int) -> None:
    draw = np.random.default_rng(seed)
    place = np.column_stack([draw.uniform(0, 900, (40, 2)), np.zeros(40)])
    said, potential = evidence(40, seed=seed), uneven()
    rows, classes = draw.permutation(40), draw.permutation(3)
    whole = smooth(place, said, Field("", potential, 200.0, 4, 5)).log_probability
    turned = Field("", potential[np.ix_(classes, classes)], 200.0, 4, 5)
    other = smooth(place[rows], said[np.ix_(rows, classes)], turned).log_probability
    np.testing.assert_allclose(other, whole[np.ix_(rows, classes)], atol=1e-9)


def test_compatibility_tells_how_much_more_often_crops_meet_than_by_chance() -> None:
    label = np.tile([0, 0, 1, 1], 500)
    pairs = np.stack([np.arange(0, 2000, 2), np.arange(1, 2000, 2)], 1)
    learnt = learnt_compatibility(label, pairs, 2)
    np.testing.assert_allclose(np.diag(learnt), np.log(2), atol=0.03)
    assert learnt[0, 1] == learnt[1, 0] < -3
    hidden = learnt_compatibility(np.full(2000, -1), pairs, 2)
    np.testing.assert_allclose(hidden, 0, atol=1e-12)
