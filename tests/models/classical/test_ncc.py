"""The nearest mean season at the dates a parcel shows."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestCentroid as Reference

from cropgen.core.errors import DataError
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

SLOTS, BANDS = 5, 2
SPEC = InputSpec(("B04", "B08"), Calendar("dekad", 9, SLOTS), Legend.from_codes("test", "abc"))


def seasons(count: int, seed: int, gaps: float = 0.0, spread: float = 0.08) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    slot = torch.arange(SLOTS).expand(count, -1)
    phase = slot / 2 + 1.2 * y[:, None]
    values = 0.4 + 0.2 * torch.stack([torch.sin(phase), torch.cos(phase)], -1)
    values = values + spread * torch.randn(values.shape, generator=generator)
    mask = torch.rand(count, SLOTS, generator=generator) >= gaps
    return Batch(values * mask[..., None], mask, 92.0 + 10 * slot, slot, y)


def trained(rows: Batch, **options: Any) -> tuple[Any, Context]:
    model, context = build_model("ncc", options, SPEC), Context(seed=1)
    model.prepare(TrainingData(rows), context)
    return model, context


def test_without_gaps_it_is_the_nearest_centroid_of_scikit_learn() -> None:
    rows, test = seasons(60, 1, spread=0.3), seasons(200, 2, spread=0.3)
    model, _ = trained(rows, scaling="band")
    x, z = ((b.values / model.scale).flatten(1).numpy() for b in (rows, test))
    reference = Reference().fit(x, rows.y.numpy())
    np.testing.assert_allclose((model.centroid / model.scale).flatten(1).numpy(), reference.centroids_, atol=1e-5)
    assert np.array_equal(model.log_posterior(test).argmax(1).numpy(), reference.predict(z))


@pytest.mark.parametrize("centre", ["mean", "median"])
@pytest.mark.parametrize("scaling", ["band", "slot"])
def test_centroids_and_distances_are_those_written_out(centre: str, scaling: str) -> None:
    rows, test = seasons(61, 1, gaps=0.4), seasons(9, 2, gaps=0.4)
    model, _ = trained(rows, centre=centre, scaling=scaling)
    distance = model._distance(test.values, test.mask)
    take = np.mean if centre == "mean" else np.median
    for k in range(3):
        for t in range(SLOTS):
            shown = rows.values[(rows.y == k) & rows.mask[:, t], t].numpy()
            if centre == "mean" or len(shown) % 2:
                np.testing.assert_allclose(model.centroid[k, t].numpy(), take(shown, axis=0), atol=1e-6)
    for i in range(9):
        for k in range(3):
            gap = ((test.values[i] - model.centroid[k]) / model.scale).square().sum(1)[test.mask[i]]
            assert float(distance[i, k]) == pytest.approx(float(gap.mean()), rel=1e-3, abs=1e-4)


def test_a_slot_that_a_class_never_shows_is_interpolated() -> None:
    rows = seasons(30, 1)
    mask = rows.mask & ~((rows.y == 1)[:, None] & (rows.slot == 2))
    model, _ = trained(replace(rows, mask=mask, values=rows.values * mask[..., None]))
    torch.testing.assert_close(model.centroid[1, 2], (model.centroid[1, 1] + model.centroid[1, 3]) / 2)


def test_it_is_as_sure_as_it_is_right() -> None:
    model, context = trained(seasons(90, 1, gaps=0.3, spread=0.2))
    test = seasons(600, 2, gaps=0.3, spread=0.2)
    test = test.take(test.mask.any(1))
    posterior = model.log_posterior(test).exp()
    correct = (posterior.argmax(1) == test.y).float().mean()
    assert float(correct) > 0.6
    assert abs(float(correct - posterior.max(1).values.mean())) < 0.08
    assert float(model.beta) == pytest.approx(context.facts["ncc"]["beta"])


def test_a_class_without_labels_is_refused_by_name() -> None:
    rows = seasons(30, 1)
    with pytest.raises(DataError, match="for b"):
        trained(rows.take(rows.y != 1))


@pytest.mark.parametrize("scaling", ["band", "slot"])
def test_a_band_that_was_constant_while_learning_has_scale_1(scaling: str) -> None:
    rows = seasons(60, 1)
    values = torch.stack([rows.values[..., 0], 0.3 * rows.mask], -1)
    model, _ = trained(replace(rows, values=values), scaling=scaling)
    assert (model.scale[:, 1] == 1).all()
    assert (model.scale[:, 0] < 1).all()
