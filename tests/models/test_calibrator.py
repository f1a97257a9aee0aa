"""Calibrators find what is known to be best, change nothing they should not, and travel with the model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from cropgen.core.errors import DataError, SchemaError, UsageError
from cropgen.metrics.calibration import temper
from cropgen.models.base import Classifier, Context, InputSpec, Options, TrainingData
from cropgen.models.calibration import STRENGTHS, calibrate_model, fit_dirichlet, require_validation
from cropgen.models.checkpoint import load_model, save_model
from cropgen.models.classical.tgem import TiedGaussianEM
from cropgen.models.layers.tied_fit import TiedOptions
from cropgen.prediction.infer import infer
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

CLASSES, DATES = 3, 2
SPEC = InputSpec(("B04", "B08"), Calendar("dekad", 9, DATES), Legend.from_codes("crops", ["10", "20", "30"]))


class Reader(Classifier):
    """Answers with the log-probabilities written into the first date of a row."""

    Settings = Options

    def log_posterior(self, batch: Batch) -> Tensor:
        said = torch.cat([batch.values[:, 0], batch.values[:, 1, :1]], 1)
        return torch.log_softmax(said, -1)


def rows(log_posterior: np.ndarray, y: np.ndarray) -> Batch:
    count = len(y)
    values = torch.zeros(count, DATES, 2, dtype=torch.float64)
    values[:, 0] = torch.from_numpy(log_posterior[:, :2])
    values[:, 1, 0] = torch.from_numpy(log_posterior[:, 2])
    return Batch(
        values, torch.ones(count, DATES, dtype=torch.bool), torch.zeros(count, DATES),
        torch.arange(DATES).expand(count, -1), torch.from_numpy(y),
    )  # fmt: skip


def drawn(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Honest log-probabilities (N, 3) and classes drawn from them."""
    generator = np.random.default_rng(seed)
    probability = generator.dirichlet(np.ones(CLASSES), size=count)
    return np.log(probability), (probability.cumsum(1) < generator.random((count, 1))).sum(1)


def nll(model: Classifier, batch: Batch) -> float:
    return float(-model.calibrated_log_posterior(batch)[torch.arange(len(batch)), batch.y].mean())


def test_temperature_undoes_boasting_and_keeps_the_answers() -> None:
    honest, y = drawn(6000, 0)
    model, batch = Reader(SPEC, Options()), rows(temper(honest, 0.25), y)
    boast = nll(model, batch)
    facts = calibrate_model(model, "temperature", batch)
    assert facts["temperature"] == pytest.approx(4, rel=0.06)
    assert facts["rows"] == 6000
    assert facts["nll_before"] == pytest.approx(boast)
    assert facts["nll_after"] == pytest.approx(nll(model, batch))
    fresh, truth = drawn(6000, 1)
    test = rows(temper(fresh, 0.25), truth)
    assert nll(model, test) == pytest.approx(-fresh[np.arange(6000), truth].mean(), abs=0.01)
    assert torch.equal(model.calibrated_log_posterior(test).argmax(1), model.log_posterior(test).argmax(1))
    assert calibrate_model(model, "none", None) == {}
    assert model.calibrator is None
    assert nll(model, batch) == boast


def test_dirichlet_without_a_penalty_is_logistic_regression_on_log_probabilities() -> None:
    honest, y = drawn(400, 2)
    x = np.maximum(temper(honest @ np.array([[1.5, 0.4, 0], [0, 0.7, 0.3], [0.2, 0, 1]]), 0.6), -30)
    weight, bias = fit_dirichlet(torch.from_numpy(x), torch.from_numpy(y), 0.0)
    reference = LogisticRegression(C=1e10, max_iter=5000, tol=1e-10).fit(x, y)
    ours = torch.softmax(torch.from_numpy(x) @ weight.T + bias, -1).numpy()
    assert ours == pytest.approx(reference.predict_proba(x), abs=2e-4)


@pytest.mark.parametrize("strength", [1e-2, 1.0])
def test_dirichlet_minimises_its_loss(strength: float) -> None:
    """Against a general minimiser of the loss as the module states it."""
    honest, y = drawn(120, 3)
    x = temper(honest, 0.5)

    def loss(flat: np.ndarray) -> float:
        w, b = flat[:9].reshape(3, 3), flat[9:]
        said = np.asarray(log_softmax(x @ w.T + b, axis=1))
        off = w[~np.eye(3, dtype=bool)]
        penalty = (off**2).sum() / 6 + (b**2).sum() / 3 + ((np.diag(w) - 1) ** 2).sum() / 3
        return float(-said[np.arange(120), y].mean() + strength * penalty)

    weight, bias = fit_dirichlet(torch.from_numpy(x), torch.from_numpy(y), strength)
    best: Any = minimize(loss, np.concatenate([np.eye(3).ravel(), np.zeros(3)]), method="BFGS", options={"gtol": 1e-8})
    ours = loss(np.concatenate([weight.numpy().ravel(), bias.numpy()]))
    assert ours == pytest.approx(best.fun, abs=1e-6)
    assert weight.numpy() == pytest.approx(best.x[:9].reshape(3, 3), abs=1e-3)


def test_dirichlet_mends_what_a_temperature_cannot() -> None:
    honest, y = drawn(4000, 4)
    crooked = honest + np.array([1.5, 0, -1.0])
    crooked -= np.logaddexp.reduce(crooked, axis=1, keepdims=True)
    fresh, truth = drawn(4000, 5)
    shifted = fresh + np.array([1.5, 0, -1.0])
    test = rows(shifted - np.logaddexp.reduce(shifted, axis=1, keepdims=True), truth)
    found = {}
    for kind in ("temperature", "dirichlet"):
        model = Reader(SPEC, Options())
        facts = calibrate_model(model, kind, rows(crooked, y))  # type: ignore[arg-type]
        found[kind] = nll(model, test)
    assert facts["strength"] in STRENGTHS
    assert found["dirichlet"] == pytest.approx(-fresh[np.arange(4000), truth].mean(), abs=0.01)
    assert found["temperature"] > found["dirichlet"] + 0.1


def test_dirichlet_stays_modest_where_few_rows_are_told_apart_without_a_mistake() -> None:
    log_posterior = np.log(np.full((6, 3), 0.1) + 0.7 * np.eye(3)[[0, 1, 2, 0, 1, 2]])
    model = Reader(SPEC, Options())
    calibrate_model(model, "dirichlet", rows(log_posterior, np.array([0, 1, 2, 0, 1, 2])))
    assert model.calibrator is not None
    assert model.calibrator.weight.diagonal().max() < 4


def test_rows_that_were_not_seen_keep_the_prior() -> None:
    honest, y = drawn(50, 6)
    model, batch = Reader(SPEC, Options()), rows(temper(honest, 0.2), y)
    calibrate_model(model, "temperature", batch)
    unseen = Batch(batch.values, batch.mask & False, batch.day, batch.slot, batch.y)
    assert torch.equal(model.calibrated_log_posterior(unseen), model.log_posterior(unseen))
    answer = infer(model, batch).probability
    assert answer == pytest.approx(model.calibrated_log_posterior(batch).exp().numpy())


def test_certain_mistakes_do_not_break_the_fit() -> None:
    x = np.log(np.maximum(np.eye(3)[[0, 1, 2, 0, 1, 2]], 1e-300))
    for kind in ("temperature", "dirichlet"):
        model = Reader(SPEC, Options())
        facts = calibrate_model(model, kind, rows(x, np.array([0, 1, 2, 1, 1, 2])))  # type: ignore[arg-type]
        assert facts["nll_after"] < facts["nll_before"]


def test_calibration_without_rows_is_refused() -> None:
    model = Reader(SPEC, Options())
    with pytest.raises(UsageError, match="needs labelled parcels that are not learnt from") as raised:
        calibrate_model(model, "temperature", None)
    assert "--validation" in str(raised.value.hint)
    with pytest.raises(UsageError, match="dirichlet"):
        require_validation("dirichlet", 0.0)
    require_validation("none", 0.0)
    honest, y = drawn(5, 7)
    with pytest.raises(DataError, match="no validation parcel has a class and a clear date"):
        calibrate_model(model, "temperature", rows(honest, y).without_labels())


@pytest.fixture
def gaussian() -> tuple[TiedGaussianEM, Batch]:
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(60) % CLASSES
    values = 0.2 + 0.1 * y[:, None, None] + 0.08 * torch.randn(60, DATES, 2, generator=generator)
    batch = Batch(values, torch.ones(60, DATES, dtype=torch.bool), torch.full((60, DATES), 95.0),
                  torch.arange(DATES).expand(60, -1), y)  # fmt: skip
    model = TiedGaussianEM(SPEC, TiedOptions.model_validate({}))
    model.prepare(TrainingData(batch), Context())
    return model.eval(), batch


@pytest.mark.parametrize("kind", ["temperature", "dirichlet"])
def test_the_calibrator_is_saved_with_the_model(gaussian: Any, kind: Any, tmp_path: Path) -> None:
    model, batch = gaussian
    plain = model.log_posterior(batch)
    calibrate_model(model, kind, batch)
    save_model(tmp_path, model, "tgem")
    again = load_model(tmp_path)
    assert again.calibrator is not None
    assert again.calibrator.kind == kind
    assert torch.equal(again.calibrated_log_posterior(batch), model.calibrated_log_posterior(batch))
    assert torch.equal(again.log_posterior(batch), plain)
    calibrate_model(again, "none", None)
    save_model(tmp_path, again, "tgem")
    assert load_model(tmp_path).calibrator is None


def test_a_model_written_before_there_were_calibrators_is_read(gaussian: Any, tmp_path: Path) -> None:
    model, batch = gaussian
    save_model(tmp_path, model, "tgem")
    path = tmp_path / "model.json"
    document = json.loads(path.read_text())
    del document["calibration"]
    path.write_text(json.dumps(document))
    assert torch.equal(load_model(tmp_path).log_posterior(batch), model.log_posterior(batch))
    path.write_text(json.dumps(document | {"calibration": "temperature"}))
    with pytest.raises(SchemaError, match="does not fit"):
        load_model(tmp_path)
