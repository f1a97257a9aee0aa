from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as sk

from cropgen.core.errors import DataError
from cropgen.metrics.classification import (
    balanced_accuracy,
    class_scores,
    confusion_matrix,
    equal_priors,
    kappa,
    macro_f1,
    overall_accuracy,
)

TRUE = np.array([0, 0, 0, 1, 1, 2])
ANSWER = np.array([0, 0, 1, 1, 2, 2])
pairs = st.integers(1, 60).flatmap(
    lambda n: st.tuples(
        arrays(np.int64, n, elements=st.integers(0, 4)), arrays(np.int64, n, elements=st.integers(0, 4))
    )
)


def test_scores_by_hand():
    confusion = confusion_matrix(TRUE, ANSWER, 3)
    assert confusion.tolist() == [[2, 1, 0], [0, 1, 1], [0, 0, 1]]
    assert overall_accuracy(confusion) == pytest.approx(4 / 6)
    scores = class_scores(confusion)
    assert scores.precision.tolist() == pytest.approx([1, 1 / 2, 1 / 2])
    assert scores.recall.tolist() == pytest.approx([2 / 3, 1 / 2, 1])
    assert scores.f1.tolist() == pytest.approx([4 / 5, 1 / 2, 2 / 3])
    assert scores.support.tolist() == [3, 2, 1]
    assert macro_f1(confusion) == pytest.approx((4 / 5 + 1 / 2 + 2 / 3) / 3)
    assert balanced_accuracy(confusion) == pytest.approx((2 / 3 + 1 / 2 + 1) / 3)
    # p_e = (3·2 + 2·2 + 1·2) / 36 = 1/3, p_o = 2/3
    assert kappa(confusion) == pytest.approx(0.5)


def test_a_class_without_test_rows_is_not_averaged_but_costs_recall():
    confusion = confusion_matrix(np.array([0, 0, 1]), np.array([0, 2, 1]), 3)
    assert macro_f1(confusion) == pytest.approx((2 / 3 + 1) / 2)


@given(pairs)
def test_equals_scikit_learn(pair):
    true, answer = pair
    confusion = confusion_matrix(true, answer, 5)
    present = np.unique(true)
    assert np.array_equal(confusion, sk.confusion_matrix(true, answer, labels=range(5)))
    assert macro_f1(confusion) == pytest.approx(
        sk.f1_score(true, answer, labels=present, average="macro", zero_division=0)
    )
    assert overall_accuracy(confusion) == pytest.approx(sk.accuracy_score(true, answer))
    precision, recall, f1, support = sk.precision_recall_fscore_support(true, answer, labels=range(5), zero_division=0)
    scores = class_scores(confusion)
    for ours, theirs in zip(
        (scores.precision, scores.recall, scores.f1, scores.support), (precision, recall, f1, support), strict=True
    ):
        assert np.allclose(ours, theirs)


@given(pairs)
def test_kappa_equals_scikit_learn(pair):
    true, answer = pair
    if len(np.union1d(true, answer)) > 1:
        ours = kappa(confusion_matrix(true, answer, 5))
        assert ours == pytest.approx(sk.cohen_kappa_score(true, answer), abs=1e-12)


@given(pairs, st.permutations(range(5)))
def test_renaming_classes_changes_no_average(pair, renaming):
    true, answer = pair
    renamed = np.array(renaming)
    for score in (macro_f1, overall_accuracy, kappa, balanced_accuracy):
        before = score(confusion_matrix(true, answer, 5))
        after = score(confusion_matrix(renamed[true], renamed[answer], 5))
        assert before == pytest.approx(after)


def test_stacks_of_matrices_are_scored_at_once():
    stack = np.stack([np.diag([3, 1]), np.array([[0, 2], [2, 0]]), np.zeros((2, 2), int)])
    assert overall_accuracy(stack).tolist() == [1, 0, 0]
    assert macro_f1(stack).tolist() == [1, 0, 0]
    assert kappa(stack).tolist() == [1, -1, 0]


def test_wrong_input_is_named():
    with pytest.raises(DataError, match=r"0\.\.2, got 0\.\.3"):
        confusion_matrix(np.array([0, 1]), np.array([0, 3]), 3)
    with pytest.raises(DataError, match="two equal lists"):
        confusion_matrix(np.array([0]), np.array([0, 1]), 3)


@given(pairs)
def test_equal_priors_weigh_rows_by_one_over_the_frequency_of_their_class(pair):
    true, answer = pair
    present, count = np.unique(true, return_counts=True)
    weight = (1 / count)[np.searchsorted(present, true)]
    even = equal_priors(confusion_matrix(true, answer, 5))
    assert macro_f1(even) == pytest.approx(
        sk.f1_score(true, answer, labels=present, average="macro", zero_division=0, sample_weight=weight)
    )
    assert overall_accuracy(even) == pytest.approx(sk.accuracy_score(true, answer, sample_weight=weight))
    assert overall_accuracy(even) == pytest.approx(balanced_accuracy(confusion_matrix(true, answer, 5)))


def test_equal_priors_by_hand():
    even = equal_priors(np.array([[8, 2], [1, 1]]))
    assert even.tolist() == [[0.8, 0.2], [0.5, 0.5]]
    # F1 = 2·0.8 / (2·0.8 + 0.5 + 0.2) and 2·0.5 / (2·0.5 + 0.2 + 0.5)
    assert macro_f1(even) == pytest.approx((1.6 / 2.3 + 1 / 1.7) / 2)


@given(pairs)
def test_balanced_accuracy_equals_scikit_learn(pair):
    true, answer = pair
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns of classes that are answered and never true
        expected = sk.balanced_accuracy_score(true, answer)
    assert balanced_accuracy(confusion_matrix(true, answer, 5)) == pytest.approx(expected)
