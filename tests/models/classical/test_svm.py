"""The support vectors held as tensors give scikit-learn's margins."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import pytest
import torch
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from cropgen.core.errors import DataError
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import load_model, save_model
from cropgen.models.classical.svm import SupportVectorMachine, SupportVectorOptions
from cropgen.models.layers.features import season_features
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from tests.models.classical.waves import BANDS, SLOTS, waves

SPEC = InputSpec(BANDS, Calendar("month", 2, SLOTS), Legend.from_codes("test", "abcd"))
batch = partial(waves, classes=4)


def fitted(data: Batch, **options: object) -> tuple[SupportVectorMachine, Context]:
    model, context = SupportVectorMachine(SPEC, SupportVectorOptions(**options)), Context(seed=3)  # type: ignore[arg-type]
    model.prepare(TrainingData(data), context)
    return model, context


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_margins_and_answers_equal_those_of_scikit_learn(kernel: Literal["rbf", "linear"], classes: int) -> None:
    data, test = batch(120, classes=classes), batch(200, seed=9, classes=classes)
    model, _ = fitted(data, kernel=kernel, cost=3.0, gamma=0.7)
    x, z = (season_features(b, SPEC)[0].double().numpy() for b in (data, test))
    scaler = StandardScaler().fit(x)
    reference = SVC(kernel=kernel, C=3.0, gamma=0.7 / x.shape[1], decision_function_shape="ovo")
    reference.fit(scaler.transform(x), data.y.numpy())
    margins = model.double().margins(torch.from_numpy(z)).numpy()
    expected = reference.decision_function(scaler.transform(z)).reshape(len(z), -1)
    np.testing.assert_allclose(margins, expected if classes > 2 else -expected, atol=1e-4)
    agrees = model.log_posterior(test).argmax(1).numpy() == reference.predict(scaler.transform(z))
    assert agrees.mean() > (0.95 if classes > 2 else 0.999)


def test_two_classes_give_a_sigmoid() -> None:
    data = batch(80, classes=2)
    model, _ = fitted(data)
    x, _ = season_features(data, SPEC)
    margin = model.margins(x)[:, 0]
    score = model._votes(model.margins(x), 1.5)
    torch.testing.assert_close(torch.softmax(score[:, :2], -1)[:, 0], torch.sigmoid(1.5 * margin))


def test_it_learns_and_is_calibrated() -> None:
    model, context = fitted(batch(160))
    test = batch(400, seed=5)
    posterior = model.log_posterior(test)
    torch.testing.assert_close(posterior.exp().sum(1), torch.ones(400))
    correct = (posterior.argmax(1) == test.y).float()
    assert float(correct.mean()) > 0.75
    assert abs(float(correct.mean() - posterior.exp().max(1).values.mean())) < 0.1
    assert 0 < context.facts["svm"]["nll"] < np.log(4)


def test_a_class_without_labels_is_possible_but_unlikely() -> None:
    data = batch(80)
    model, _ = fitted(data.take(data.y != 1))
    posterior = model.log_posterior(batch(30, seed=2))
    assert torch.isfinite(posterior).all()
    assert float(posterior[:, 1].max()) < np.log(0.01)


def test_labels_of_one_class_are_refused() -> None:
    data = batch(60)
    with pytest.raises(DataError, match="at least 2 classes"):
        fitted(data.take(data.y == 1))


def test_a_row_without_dates_gets_the_prior_and_the_disk_keeps_the_vectors(tmp_path) -> None:
    model, rows = fitted(batch(60))[0], batch(4)
    empty = Batch(rows.values * 0, rows.mask & False, rows.day, rows.slot, rows.y)
    torch.testing.assert_close(model.log_posterior(empty), torch.full((4, 4), 1 / 4).log())
    save_model(tmp_path / "model", model, "svm")
    assert torch.equal(load_model(tmp_path / "model").log_posterior(rows), model.log_posterior(rows))


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_a_band_that_was_constant_while_learning_says_nothing_when_it_changes(kernel: str) -> None:
    def with_level(rows: Batch, level: float) -> Batch:
        values = rows.values.clone()
        values[..., 2] = level * rows.mask
        return replace(rows, values=values)

    spec = InputSpec(("B04", "B08", "weather"), SPEC.calendar, SPEC.legend)
    model = SupportVectorMachine(spec, SupportVectorOptions(kernel=kernel))  # type: ignore[arg-type]
    model.prepare(TrainingData(with_level(batch(160), 0.3)), Context(seed=3))
    test = batch(200, seed=5)
    same, other = (model.log_posterior(with_level(test, level)).argmax(1) for level in (0.3, 0.31))
    assert float((same == test.y).float().mean()) > 0.6
    assert float((same == other).float().mean()) > 0.95
