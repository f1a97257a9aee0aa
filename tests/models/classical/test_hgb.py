"""The boosted trees held as arrays answer as scikit-learn's do."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from sklearn.ensemble import HistGradientBoostingClassifier

from cropgen.core.errors import DataError
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import load_model, save_model
from cropgen.models.classical.hgb import BoostingOptions, HistogramGradientBoosting
from cropgen.models.layers.features import season_features
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from tests.models.classical.waves import BANDS, SLOTS, waves

SPEC = InputSpec(BANDS, Calendar("month", 2, SLOTS), Legend.from_codes("test", "abc"))
batch = partial(waves, classes=3)


def fitted(data: Batch, **options: object) -> HistogramGradientBoosting:
    model = HistogramGradientBoosting(SPEC, BoostingOptions(iterations=20, **options))  # type: ignore[arg-type]
    model.prepare(TrainingData(data), Context(seed=3))
    return model


@pytest.mark.parametrize("classes", [2, 3])
def test_probabilities_equal_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch, classes: int) -> None:
    grown: list[HistGradientBoostingClassifier] = []
    fit = HistGradientBoostingClassifier.fit

    def remember(self: HistGradientBoostingClassifier, *arguments: object) -> HistGradientBoostingClassifier:
        grown.append(self)
        return fit(self, *arguments)

    monkeypatch.setattr(HistGradientBoostingClassifier, "fit", remember)
    model = fitted(batch(120, classes=classes), temper=False)
    x, _ = season_features(batch(200, seed=9), SPEC)
    ours = torch.softmax(model.scores(x), -1)[:, :classes].numpy()
    np.testing.assert_allclose(ours, grown[-1].predict_proba(x.numpy()), atol=1e-5)


def test_it_learns_and_says_how_sure_it_is() -> None:
    context, model = Context(seed=3), HistogramGradientBoosting(SPEC, BoostingOptions(iterations=20))
    model.prepare(TrainingData(batch(120)), context)
    test = batch(90, seed=5)
    posterior = model.log_posterior(test)
    torch.testing.assert_close(posterior.exp().sum(1), torch.ones(90))
    assert float((posterior.argmax(1) == test.y).float().mean()) > 0.75
    assert 0 < context.facts["hgb"]["nll"] < np.log(3)
    assert float(model.beta) == pytest.approx(context.facts["hgb"]["beta"])


def test_a_class_without_labels_is_possible_but_unlikely() -> None:
    data = batch(60)
    model = fitted(data.take(data.y < 2))
    posterior = model.log_posterior(batch(30, seed=2))
    assert torch.isfinite(posterior).all()
    assert float(posterior[:, 2].max()) < np.log(0.01)


def test_labels_of_one_class_are_refused() -> None:
    data = batch(60)
    with pytest.raises(DataError, match="at least 2 classes"):
        fitted(data.take(data.y == 1))


def test_a_row_without_dates_gets_the_prior_and_the_disk_keeps_the_trees(tmp_path) -> None:
    model, rows = fitted(batch(60)), batch(3)
    empty = Batch(rows.values * 0, rows.mask & False, rows.day, rows.slot, rows.y)
    torch.testing.assert_close(model.log_posterior(empty), torch.full((3, 3), 1 / 3).log())
    save_model(tmp_path / "model", model, "hgb")
    assert torch.equal(load_model(tmp_path / "model").log_posterior(rows), model.log_posterior(rows))
