"""Answers under other class shares: from the answers alone, and recorded with the evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cropgen.core.errors import UsageError
from cropgen.core.recipe import EvaluateRecipe, validate
from cropgen.evaluation.document import read_evaluation
from cropgen.evaluation.evaluate import evaluate
from cropgen.evaluation.prior import reweighed
from cropgen.evaluation.score import Answers
from cropgen.models.base import Classifier, Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

SPEC = InputSpec(("a",), Calendar("dekad", 0, 2), Legend.from_codes("l", ["x", "y"]))


def model() -> Classifier:
    """A classifier that learnt from three rows of x and one of y."""
    y = torch.tensor([0, 0, 0, 1] * 5)
    values = (y[:, None, None] + 0.3 * torch.randn(20, 2, 1, generator=torch.Generator().manual_seed(0))).float()
    slot = torch.arange(2).expand(20, 2)
    made = build_model("tgem", {}, SPEC)
    made.prepare(TrainingData(Batch(values, torch.ones(20, 2, dtype=torch.bool), 10.0 * slot, slot, y)), Context())
    return made.eval()


def answers(probability: np.ndarray, observed: np.ndarray) -> Answers:
    count = len(probability)
    return Answers(
        rows=np.arange(count), true=np.zeros(count, np.int64), log_posterior=np.log(probability),
        classes=np.arange(2), block=np.arange(count), novelty=np.zeros(count), novelty_score="entropy",
        observed=observed, log_likelihood=None, crps=np.full(count, np.nan),
    )  # fmt: skip


def test_shares_are_changed_as_asked() -> None:
    said = answers(np.array([[0.75, 0.25], [0.6, 0.4], [0.1, 0.9]]), np.array([2, 2, 2]))
    trained = model()
    assert reweighed(said, trained, "training") is said
    equal = np.exp(reweighed(said, trained, "uniform").log_posterior)
    np.testing.assert_allclose(equal[0], [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(equal[1], [1 / 3, 2 / 3], atol=1e-6)
    found = np.exp(reweighed(said, trained, "em").log_posterior)
    assert found[:, 1].mean() > np.exp(said.log_posterior)[:, 1].mean()
    never = answers(np.array([[0.75, 0.25]]), np.array([0]))
    assert reweighed(never, trained, "em") is never


def test_an_evaluation_keeps_what_was_assumed(store, tmp_path: Path) -> None:
    found = {}
    for prior in ("training", "em"):
        recipe = EvaluateRecipe.model_validate(
            {"models": [{"name": "tgem"}], "labels": ["20%"], "seeds": [0], "prior": prior,
             "data": {"series": "toy", "years": [2021], "standardise": "region-year"}}
        )  # fmt: skip
        document = read_evaluation(evaluate(recipe, store.path, tmp_path / prior))
        assert document.recipe.prior == prior
        found[prior] = document.rows[0].nll
    assert found["em"] != found["training"]


def test_other_words_are_refused() -> None:
    with pytest.raises(UsageError, match="prior"):
        validate(EvaluateRecipe, {"models": [], "prior": "known", "data": {"series": "x"}}, where="arguments")
