"""Withheld dates are scored against the exact conditional, and never shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from cropgen.evaluation.density import withheld_crps, withheld_slots
from cropgen.metrics.density import crps_mixture
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.training.fit import fit_model
from tests.models.dvaes.crops import TINY

SLOTS, BANDS, CLASSES = 6, 2, 2
SPEC = InputSpec(("B04", "B08"), Calendar("dekad", 9, SLOTS), Legend.from_codes("crops", ["10", "20"]))


def seasons(count: int, seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % CLASSES
    level = 0.05 * torch.randn(count, 1, 1, generator=generator)
    values = 0.2 + 0.15 * y[:, None, None] + level + 0.01 * torch.randn(count, SLOTS, BANDS, generator=generator)
    mask = torch.rand(count, SLOTS, generator=generator) > 0.2
    slot = torch.arange(SLOTS).expand(count, -1)
    return Batch(values * mask[..., None], mask, 95.0 + 10 * slot, slot, y)


@pytest.fixture(scope="module")
def model() -> Any:
    found = build_model("tgem", {"augment": "none"}, SPEC)
    found.prepare(TrainingData(seasons(80, 0)), Context())
    return found.eval()


def test_every_fourth_slot_is_withheld() -> None:
    assert withheld_slots(36).tolist() == [2, 6, 10, 14, 18, 22, 26, 30, 34]
    assert withheld_slots(1).tolist() == [0]


def test_scores_are_those_of_the_conditional_of_each_value(model: Any) -> None:
    batch = seasons(12, 1)
    found = withheld_crps(model, batch)
    assert found is not None
    hidden = batch.slot == 2
    shown = Batch(batch.values * ~hidden[..., None], batch.mask & ~hidden, batch.day, batch.slot, batch.y)
    expected = model.predictive(shown, torch.tensor([2]))
    for row in range(12):
        if not batch.mask[row, 2] or not shown.mask[row].any():
            assert np.isnan(found[row])
            continue
        scores = [
            crps_mixture(
                batch.values[row, 2, band].double().numpy(), expected.weight[row].numpy(),
                expected.mean[row, :, 0, band].numpy(), np.full(CLASSES, float(expected.variance[row, 0, band])),
            )
            for band in range(BANDS)
        ]  # fmt: skip
        assert found[row] == pytest.approx(np.mean(scores), rel=1e-5)


def test_the_withheld_values_are_not_shown_and_the_rest_helps(model: Any) -> None:
    batch = seasons(60, 2)
    found = withheld_crps(model, batch)
    assert found is not None
    # the spread of a parcel's level is 0.05 and that of a date around it 0.01: its other dates tell the level
    assert 0.25 * 0.01 < np.nanmean(found) < 0.012
    moved = batch.values.clone()
    moved[:, 2] += 0.3 * batch.mask[:, 2, None]
    worse = withheld_crps(model, Batch(moved, batch.mask, batch.day, batch.slot, batch.y))
    assert worse is not None
    asked = ~np.isnan(found)
    assert (worse[asked] > 0.2).all()


def test_models_without_a_closed_form_have_no_score(model: Any) -> None:
    batch = seasons(12, 3)
    assert withheld_crps(build_model("rf", {}, SPEC), batch) is None
    assert withheld_crps(build_model("realnvp", {}, SPEC), batch) is None
    pool = build_model("pool", {"generative": "tgem"}, SPEC)
    pool.generative.load_state_dict(model.state_dict())  # pyright: ignore[reportAttributeAccessIssue]
    np.testing.assert_array_equal(withheld_crps(pool, batch), withheld_crps(model, batch))


@pytest.mark.slow
def test_what_is_known_of_the_place_of_a_parcel_stays_known() -> None:
    batch = replace(seasons(24, 4), site=torch.arange(24.0)[:, None])
    other = replace(batch, site=batch.site.flip(0))
    found = fit_model("srnn", TINY, replace(SPEC, site=("lat",)), TrainingData(batch), seed=0).model
    with torch.no_grad():
        for parameter in found.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.1)
    here, there = withheld_crps(found, batch), withheld_crps(found, other)
    assert here is not None
    assert there is not None
    asked = ~np.isnan(here)
    assert asked.any()
    assert (here[asked] != there[asked]).any()
