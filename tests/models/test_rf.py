"""The forest held as arrays votes as scikit-learn's does."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.ensemble import RandomForestClassifier

from cropgen.core.errors import DataError
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import load_model, save_model
from cropgen.models.classical.rf import ForestOptions, RandomForest
from cropgen.models.layers.features import season_features
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

BANDS = ("B04", "B08", "B11")
SLOTS = 6


def spec(bands: tuple[str, ...] = BANDS) -> InputSpec:
    return InputSpec(bands, Calendar("month", 2, SLOTS), Legend.from_codes("test", "abc"))


def batch(count: int, seed: int = 0, bands: int = len(BANDS)) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    slot = torch.arange(SLOTS).expand(count, -1)
    season = 0.3 + 0.1 * torch.sin(slot[..., None] + y[:, None, None] * torch.ones(bands))
    values = season + 0.05 * torch.randn(count, SLOTS, bands, generator=generator)
    mask = torch.rand(count, SLOTS, generator=generator) > 0.3
    mask[:, 0] = True
    return Batch(values * mask[..., None], mask, 60.0 + 30 * slot, slot, y)


def fitted(**options: object) -> RandomForest:
    forest = RandomForest(spec(), ForestOptions(trees=15, **options))  # type: ignore[arg-type]
    forest.prepare(TrainingData(batch(60)), Context(seed=3))
    return forest


def test_votes_equal_those_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    grown: list[RandomForestClassifier] = []
    fit = RandomForestClassifier.fit

    def remember(self: RandomForestClassifier, *arguments: object) -> RandomForestClassifier:
        grown.append(self)
        return fit(self, *arguments)

    monkeypatch.setattr(RandomForestClassifier, "fit", remember)
    forest = fitted()
    x, _ = season_features(batch(200, seed=9), spec())
    np.testing.assert_allclose(forest.probabilities(x).numpy(), grown[0].predict_proba(x.numpy()), atol=1e-6)


def test_it_learns_and_is_normalised() -> None:
    forest, test = fitted(), batch(90, seed=5)
    posterior = forest.log_posterior(test)
    torch.testing.assert_close(posterior.exp().sum(1), torch.ones(90))
    assert torch.isfinite(posterior).all()
    assert float((posterior.argmax(1) == test.y).float().mean()) > 0.75


def test_a_row_without_dates_gets_the_prior() -> None:
    forest, rows = fitted(), batch(3)
    empty = Batch(rows.values * 0, rows.mask & False, rows.day, rows.slot, rows.y)
    torch.testing.assert_close(forest.log_posterior(empty), torch.full((3, 3), 1 / 3).log())


def test_a_class_without_labels_is_possible_but_unlikely() -> None:
    forest = RandomForest(spec(), ForestOptions(trees=15))
    data = batch(60)
    forest.prepare(TrainingData(data.take(data.y < 2)), Context())
    posterior = forest.log_posterior(batch(30, seed=2))
    assert torch.isfinite(posterior).all()
    assert float(posterior[:, 2].max()) < np.log(0.01)


def test_nothing_labelled_is_refused() -> None:
    with pytest.raises(DataError, match="no labelled parcel"):
        RandomForest(spec(), ForestOptions()).prepare(TrainingData(batch(6).without_labels()), Context())


def test_it_repeats_with_the_seed_and_survives_the_disk(tmp_path) -> None:
    forest, again, test = fitted(), fitted(), batch(40, seed=4)
    assert torch.equal(forest.log_posterior(test), again.log_posterior(test))
    save_model(tmp_path / "model", forest, "rf")
    assert torch.equal(load_model(tmp_path / "model").log_posterior(test), forest.log_posterior(test))
