"""Prototypes that are shifted in time and level to explain a parcel."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.core.errors import DataError
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model
from cropgen.models.classical.dti import DeformablePrototypes, _hats, _read
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.training.fit import fit_model

SLOTS, BANDS = 12, 2
SPEC = InputSpec(("B04", "B08"), Calendar("dekad", 9, SLOTS), Legend.from_codes("test", "ab"))


def seasons(count: int, seed: int, jitter: float = 0.0, level: float = 0.0) -> Batch:
    """A peak, high for one class and broad for the other, displaced and raised from parcel to parcel."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    slot = torch.arange(SLOTS).expand(count, -1)
    middle = 5.5 + jitter * torch.randn(count, 1, generator=generator)
    width = torch.where(y == 0, 1.6, 2.6)[:, None]
    peak = torch.exp(-(((slot - middle) / width) ** 2))
    values = 0.3 + 0.2 * torch.stack([-0.5 * peak, peak], -1)
    values = values + level * torch.randn(count, 1, 1, generator=generator)
    values = values + 0.01 * torch.randn(values.shape, generator=generator)
    mask = torch.rand(count, SLOTS, generator=generator) > 0.2
    mask[:, 5] = True
    return Batch(values * mask[..., None], mask, 92.0 + 10 * slot, slot, y)


def prepared(rows: Batch, **options: Any) -> DeformablePrototypes:
    model = build_model("dti", options, SPEC)
    assert isinstance(model, DeformablePrototypes)
    model.prepare(TrainingData(rows), Context(seed=1))
    return model.eval()


def accuracy(model: Any, test: Batch) -> float:
    with torch.no_grad():
        return float((model.log_posterior(test).argmax(1) == test.y).float().mean())


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), st.lists(st.floats(-5, 20), min_size=1, max_size=6), st.integers(0, 99))
def test_reading_between_slots_is_linear_interpolation(slots: int, position: list[float], seed: int) -> None:
    season = torch.randn(slots, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    where = torch.tensor(position, dtype=torch.float64)
    given_slots = torch.zeros(len(position), slots, 2, dtype=torch.float64) + season
    read = torch.stack([_read(one, at.expand(slots))[0] for one, at in zip(given_slots, where, strict=True)])
    for c in range(2):
        expected = np.interp(np.clip(position, 0, slots - 1), np.arange(slots), season[:, c].numpy())
        np.testing.assert_allclose(read[:, c].numpy(), expected, atol=1e-9)


def test_displacements_are_linear_between_landmarks_and_none_at_the_ends() -> None:
    hats = _hats(2, 7)
    np.testing.assert_allclose(hats[0].numpy(), [0, 0.5, 1, 0.5, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(hats[1].numpy(), [0, 0, 0, 0.5, 1, 0.5, 0], atol=1e-6)


def test_before_learning_it_is_the_nearest_class_mean() -> None:
    rows, test = seasons(40, 1, jitter=0.5), seasons(9, 2, jitter=0.5)
    model = prepared(rows)
    x = (rows.values - model.centre) / model.scale
    with torch.no_grad():
        distance = model._distance(*model._see(test))
    z = (test.values - model.centre) / model.scale
    for k in range(2):
        shown = rows.mask & (rows.y == k)[:, None]
        mean = (x * shown[..., None]).sum(0) / shown.sum(0)[:, None]
        torch.testing.assert_close(model.prototype[k, 0].detach(), mean, atol=1e-5, rtol=1e-4)
        for i in range(9):
            gap = (z[i] - mean).square().sum(1)[test.mask[i]].mean()
            assert float(distance[i, k]) == pytest.approx(float(gap), rel=1e-3)


def test_deformations_stay_within_their_bounds() -> None:
    model = prepared(seasons(40, 1), shift_days=12.0, offset=0.3)
    with torch.no_grad():
        model.warp.bias.normal_(0, 50, generator=torch.Generator().manual_seed(0))
        model.offset.bias.fill_(99.0)
        season, displacement = model.reconstruct(seasons(5, 2))
        plain = replace(seasons(5, 2))
        still, _ = model._deform(*model._see(plain), warped=True, offset=False)
    assert float(displacement.abs().max()) == pytest.approx(12 / model.slot_days, rel=1e-3)
    assert not displacement[..., [0, -1]].any()
    torch.testing.assert_close(season - still, torch.full_like(season, 0.3))


def test_learning_to_deform_explains_displaced_seasons() -> None:
    """Where parcels differ in date and level, deformed prototypes lie nearer and tell the classes apart better."""
    rows, test = seasons(150, 1, jitter=1.0, level=0.03), seasons(300, 2, jitter=1.0, level=0.03)
    rigid = prepared(rows)
    settings_ = {"steps": 120, "hidden": 8, "width": 16, "shift_days": 20.0, "learning_rate": 1e-2}
    model = fit_model("dti", settings_, SPEC, TrainingData(rows), seed=1).model
    assert isinstance(model, DeformablePrototypes)
    with torch.no_grad():
        nearer = model._distance(*model._see(test)).gather(1, test.y[:, None]).mean()
        before = rigid._distance(*rigid._see(test)).gather(1, test.y[:, None]).mean()
    assert float(nearer) < 0.6 * float(before)
    assert accuracy(model, test) > accuracy(rigid, test)
    assert accuracy(model, test) > 0.9


def test_validation_rows_decide_how_sure_it_is() -> None:
    rows, judged = seasons(40, 1, level=0.05), seasons(60, 3, level=0.05)
    data = TrainingData(rows, validation=judged)
    result = fit_model("dti", {"steps": 5}, SPEC, data)
    alone = fit_model("dti", {"steps": 5}, SPEC, TrainingData(rows))
    assert result.facts["dti"]["beta"] != alone.facts["dti"]["beta"]
    assert result.facts["dti"]["beta"] == pytest.approx(float(result.model.log_beta.detach().exp()))


def test_several_prototypes_begin_apart_and_an_absent_class_is_named() -> None:
    model = prepared(seasons(40, 1), prototypes=3)
    assert model.prototype.shape == (2, 3, SLOTS, BANDS)
    assert not torch.equal(model.prototype[0, 0], model.prototype[0, 1])
    rows = seasons(40, 1)
    with pytest.raises(DataError, match="for b"):
        prepared(rows.take(rows.y == 0))


def test_a_band_that_was_constant_while_learning_has_scale_1() -> None:
    rows = seasons(40, 1)
    values = torch.stack([rows.values[..., 0], 0.3 * rows.mask], -1)
    scale = prepared(replace(rows, values=values)).scale
    assert float(scale[1]) == 1
    assert float(scale[0]) == pytest.approx(float(rows.values[..., 0][rows.mask].std(correction=0)))
