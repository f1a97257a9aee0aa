from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score

from cropgen.metrics.novelty import aupr, auroc


def test_auroc_by_hand():
    # pairs (outside, inside): (3, 1) won, (3, 2) won, (2, 1) won, (2, 2) tied
    assert auroc(np.array([3, 2, 1, 2]), np.array([1, 1, 0, 0], bool)) == pytest.approx(3.5 / 4)
    assert auroc(np.array([1.0, 2.0]), np.array([True, True])) is None
    assert auroc(np.array([]), np.array([], bool)) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=50))
def test_auroc_equals_scikit_learn(rows):
    score, positive = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    if positive.any() and not positive.all():
        assert auroc(score, positive) == pytest.approx(roc_auc_score(positive, score))
        assert auroc(-score, positive) == pytest.approx(1 - auroc(score, positive))


def test_aupr_by_hand():
    # from the top: 3 is outside (precision 1), the two at 2 bring one of one more (precision 2/3), then nothing
    assert aupr(np.array([3, 2, 1, 2]), np.array([1, 1, 0, 0], bool)) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert aupr(np.zeros(4), np.array([1, 0, 0, 0], bool)) == 0.25
    assert aupr(np.array([1.0, 2.0]), np.array([True, True])) is None


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=50))
def test_aupr_equals_scikit_learn(rows):
    score, positive = np.array([r[0] for r in rows]), np.array([r[1] for r in rows])
    if positive.any() and not positive.all():
        assert aupr(score, positive) == pytest.approx(average_precision_score(positive, score))
