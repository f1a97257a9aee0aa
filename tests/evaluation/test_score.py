"""Score sheets agree with scikit-learn and hand calculation on the parcels whose class is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from cropgen.evaluation.score import COVERAGES, Answers, score
from cropgen.metrics.calibration import temper
from cropgen.models.layers.affine_calibrator import AffineCalibrator

ROWS, CLASSES = 300, np.array([1, 4, 6])


def answers(**changes: Any) -> Answers:
    """Three known classes at positions 1, 4, 6 of the legend; a tenth of the parcels is of class 2."""
    generator = np.random.default_rng(0)
    true = generator.choice(CLASSES, ROWS, p=[0.7, 0.2, 0.1])
    true[::10] = 2
    said = generator.normal(0, 1, (ROWS, 3)) + 2 * (true[:, None] == CLASSES)
    base: dict[str, Any] = {
        "rows": np.arange(ROWS), "true": true, "log_posterior": temper(said, 1.0), "classes": CLASSES,
        "block": np.arange(ROWS) // 10, "novelty": generator.normal(0, 1, ROWS) + (true == 2),
        "novelty_score": "likelihood", "observed": np.full(ROWS, 20),
    }  # fmt: skip
    return Answers(**(base | changes))


def test_scores_equal_scikit_learn() -> None:
    said = answers()
    found, detail = score(said, {}, seed=0)
    known = said.true != 2
    true, probability = said.true[known], np.exp(said.log_posterior[known])
    predicted = CLASSES[probability.argmax(1)]
    count = {c: (true == c).sum() for c in CLASSES}
    weight = np.array([1 / count[c] for c in true])
    assert found["n_test"] == 270
    assert found["n_out_of_legend"] == 30
    assert found["macro_f1"] == pytest.approx(sk.f1_score(true, predicted, average="macro"))
    assert found["macro_f1_equal_priors"] == pytest.approx(
        sk.f1_score(true, predicted, average="macro", sample_weight=weight)
    )
    assert found["balanced_accuracy"] == pytest.approx(sk.balanced_accuracy_score(true, predicted))
    assert found["kappa"] == pytest.approx(sk.cohen_kappa_score(true, predicted))
    assert found["nll"] == pytest.approx(sk.log_loss(true, probability))
    assert found["auroc_out_of_legend"] == pytest.approx(sk.roc_auc_score(~known, said.novelty))
    assert found["aupr_out_of_legend"] == pytest.approx(sk.average_precision_score(~known, said.novelty))
    order = np.argsort(-probability.max(1))
    risk = np.cumsum((predicted != true)[order]) / np.arange(1, 271)
    assert found["aurc"] == pytest.approx(risk.mean())
    assert detail.risk_coverage["risk"][-1] == pytest.approx(np.mean(predicted != true), abs=1e-6)
    assert detail.risk_coverage["coverage"] == pytest.approx(COVERAGES)
    for name in ("macro_f1", "macro_f1_equal_priors", "accuracy"):
        assert found[f"{name}_low"] < found[name] < found[f"{name}_high"]
    assert (found["tempered_nll"], found["temperature"], found["bits_per_value"], found["crps"]) == (None,) * 4


def test_areas_are_those_of_the_true_classes() -> None:
    said = answers()
    _, detail = score(said, {}, seed=0)
    known = said.true != 2
    predicted = CLASSES[said.log_posterior[known].argmax(1)]
    assert detail.area["adjusted"] == pytest.approx([np.mean(said.true[known] == c) for c in CLASSES], abs=1e-6)
    assert detail.area["mapped"] == pytest.approx([np.mean(predicted == c) for c in CLASSES], abs=1e-6)
    assert all(0 < e < 0.05 for e in detail.area["standard_error"])


def test_the_tempered_score_uses_the_given_temperature_where_something_was_seen() -> None:
    observed = np.full(ROWS, 20)
    observed[:50] = 0
    said = answers(observed=observed)
    found, _ = score(said, {}, seed=0, temperature=2.5)
    known = said.true != 2
    moved = np.where(observed[:, None] > 0, temper(said.log_posterior, 2.5), said.log_posterior)[known]
    place = np.searchsorted(CLASSES, said.true[known])
    assert found["tempered_nll"] == pytest.approx(-moved[np.arange(len(place)), place].mean())
    assert found["temperature"] == 2.5


def test_densities_are_judged_on_known_parcels() -> None:
    likelihood = np.where(answers().true == 2, 1e6, 20 * np.log(50.0))
    crps = np.where(np.arange(ROWS) % 3 == 1, np.arange(ROWS) / 1e4, np.nan)
    found, _ = score(answers(log_likelihood=likelihood, crps=crps), {}, seed=0)
    assert found["bits_per_value"] == pytest.approx(np.log2(10_000 / 50))
    known = (answers().true != 2) & np.isfinite(crps)
    assert found["crps"] == pytest.approx(crps[known].mean())


def test_correcting_probabilities_leaves_unseen_parcels_and_moves_the_entropy() -> None:
    observed = np.full(ROWS, 20)
    observed[5] = 0
    said = answers(observed=observed, novelty_score="entropy")
    calibrator = AffineCalibrator(3, "temperature")
    calibrator.weight.copy_(torch.eye(3) / 2)
    found = said.calibrated(calibrator)
    expected = temper(said.log_posterior, 2.0)
    expected[5] = said.log_posterior[5]
    assert found.log_posterior == pytest.approx(expected, abs=1e-6)
    assert found.novelty == pytest.approx(-(np.exp(expected) * expected).sum(1), abs=1e-6)
    assert said.calibrated(None) is said
    assert np.array_equal(answers().calibrated(calibrator).novelty, answers().novelty)
