"""Typicality: uniform on rows like the reference, small on others, the same whatever the number of observations."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.core.errors import CorruptInputError, DataError, SchemaError
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model
from cropgen.prediction.infer import infer, occupied_slots
from cropgen.prediction.novelty import Typicality, calibrate, cross_calibrate, load_typicality, save_typicality
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend


def gaussian(count: int, seed: int, *, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """Log-likelihoods of n independent standard normals (plus `shift`) under the standard normal, n in 3 … 30."""
    draw = np.random.default_rng(seed)
    n = draw.integers(3, 31, count)
    square = np.array([((draw.standard_normal(k) + shift) ** 2).sum() for k in n])
    return -0.5 * square - 0.5 * n * np.log(2 * np.pi), n


def test_uniform_at_every_number_of_observations() -> None:
    reference = Typicality.fit(*gaussian(6000, 0))
    value, n = gaussian(6000, 1)
    p = reference.p_value(value, n)
    for chosen in (n > 0, n < 9, (n >= 9) & (n < 20), n >= 20):
        inside = p[chosen]
        for level in (0.01, 0.05, 0.2, 0.5):
            allowed = 0.01 + 0.35 * level + 4 * np.sqrt(level * (1 - level) / len(inside))
            assert abs((inside <= level).mean() - level) < allowed, level
    assert (p <= 0.01).mean() == pytest.approx(0.01, abs=0.005)


def test_unusual_seasons_are_found() -> None:
    reference = Typicality.fit(*gaussian(3000, 0))
    value, n = gaussian(500, 1, shift=1.5)
    assert (reference.p_value(value, n)[n > 10] < 0.01).mean() > 0.8


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 60), st.integers(0, 100))
def test_conformal_by_hand(count: int, seed: int) -> None:
    value, n = gaussian(count, seed)
    reference = Typicality.fit(value, n)
    other, m = gaussian(40, seed + 1)
    z, z_other = reference.score(value, n), reference.score(other, m)
    by_hand = [(1 + (z <= one).sum()) / (count + 1) for one in z_other]
    np.testing.assert_allclose(reference.p_value(other, m), by_hand)
    assert reference.p_value(np.array([-1e9]), np.array([5]))[0] == 1 / (count + 1)
    assert (np.diff(reference.p_value(np.linspace(-99, 0, 50), np.full(50, 5))) >= 0).all()


def test_a_thinned_reference_keeps_the_tail(tmp_path: Path) -> None:
    value, n = gaussian(20_000, 0)
    reference = Typicality.fit(value, n)
    assert len(reference.scores) < 3000
    z = np.sort(reference.score(value, n))
    other, m = gaussian(2000, 1)
    exact = (1 + np.searchsorted(z, reference.score(other, m), side="right")) / 20_001
    p = reference.p_value(other, m)
    np.testing.assert_allclose(p[exact < 0.02], exact[exact < 0.02])
    np.testing.assert_allclose(p, exact, atol=6e-4)
    save_typicality(tmp_path, reference)
    assert load_typicality(tmp_path) == reference


def test_rows_without_observation_and_references_that_cannot_be() -> None:
    reference = Typicality.fit(np.array([-1.0, -2.0, np.nan, 0.0]), np.array([3, 3, 3, 0]))
    assert reference.count == 2
    assert np.isnan(reference.p_value(np.array([0.0, np.nan]), np.array([0, 4]))).all()
    with pytest.raises(DataError, match="1 rows"):
        Typicality.fit(np.array([-1.0, -2.0]), np.array([3, 0]))


def test_on_disk(tmp_path: Path) -> None:
    assert load_typicality(tmp_path) is None
    save_typicality(tmp_path, None)
    assert not list(tmp_path.iterdir())
    (tmp_path / "typicality.json").write_text("{")
    with pytest.raises(CorruptInputError):
        load_typicality(tmp_path)
    (tmp_path / "typicality.json").write_text(json.dumps({"typicality": 1, "count": 3}))
    with pytest.raises(SchemaError):
        load_typicality(tmp_path)
    (tmp_path / "typicality.json").write_text(json.dumps({"typicality": 2}))
    with pytest.raises(SchemaError, match="expected typicality schema 1, got 2"):
        load_typicality(tmp_path)


def test_occupied_slots() -> None:
    slot = torch.tensor([[0, 0, 3, -1], [2, 1, 2, 2], [5, 5, 5, 5]])
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [0, 0, 0, 0]], dtype=torch.bool)
    assert occupied_slots(slot, mask).tolist() == [2, 2, 0]


def gapless(count: int, seed: int) -> Batch:
    """Seasons of 12 slots and 2 bands of two classes: correlated Gaussians with few rows for their 24 dimensions."""
    mixing = torch.randn(24, 24, generator=torch.Generator().manual_seed(99)) * torch.logspace(0, -1.5, 24)
    noise = torch.randn(count, 24, generator=torch.Generator().manual_seed(seed)) @ mixing.T
    y = torch.arange(count) % 2
    values = 0.3 + 0.1 * y[:, None, None] + 0.02 * noise.reshape(count, 12, 2)
    day = (15.0 + 30.4 * torch.arange(12)).expand(count, 12)
    return Batch(values, torch.ones(count, 12, dtype=torch.bool), day, torch.arange(12).expand(count, 12), y)


def test_cross_fitted_p_values_are_honest_where_plain_ones_are_not() -> None:
    spec = InputSpec(("B04", "B08"), Calendar("month", 0, 12), Legend.from_codes("two", ["a", "b"]))
    model = build_model("tgem", {}, spec)
    data = TrainingData(gapless(60, 0))
    model.prepare(data, Context())
    new = infer(model.eval(), gapless(2000, 1))
    assert new.log_likelihood is not None
    cross, plain = cross_calibrate(model, data), calibrate(model, data.labelled)
    assert cross is not None
    assert plain is not None
    honest = (cross.p_value(new.log_likelihood, new.observations) <= 0.1).mean()
    naive = (plain.p_value(new.log_likelihood, new.observations) <= 0.1).mean()
    assert honest <= 0.17
    assert naive > honest
    assert cross == cross_calibrate(model, data)


def test_models_that_cannot_be_cross_fitted() -> None:
    spec = InputSpec(("B04", "B08"), Calendar("month", 0, 12), Legend.from_codes("two", ["a", "b"]))
    data = TrainingData(gapless(20, 0))
    assert cross_calibrate(build_model("rf", {}, spec), data) is None
    assert cross_calibrate(build_model("realnvp", {}, spec), data) is None
