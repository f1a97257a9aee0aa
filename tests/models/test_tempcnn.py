"""The temporal CNN sees slots, presence and true dates; FixMatch believes only what is sure."""

from __future__ import annotations

import math

import pytest
import torch

from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.discriminative.tempcnn import TempCNN, TempCNNOptions
from cropgen.models.layers.grid import grid_view
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend


def make(slots: int = 6, classes: int = 3, **options: object) -> TempCNN:
    torch.manual_seed(0)
    codes = [str(i) for i in range(classes)]
    spec = InputSpec(("a", "b"), Calendar("dekad", 0, slots), Legend.from_codes("l", codes))
    return TempCNN(spec, TempCNNOptions.model_validate({"hidden": 4, "width": 5, **options}))


def rows(y: list[int], slots: int = 6, seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    count = len(y)
    mask = torch.rand(count, slots, generator=generator) > 0.3
    mask[:, 0] = True
    values = (torch.randn(count, slots, 2, generator=generator) + 4) * mask[..., None]
    slot = torch.arange(slots).expand(count, slots)
    return Batch(values, mask, slot * 10.0 + 3, slot, torch.tensor(y))


def test_slots_average_their_observations() -> None:
    values = torch.tensor([[[1.0], [3.0], [50.0], [7.0]]])
    mask = torch.tensor([[True, True, False, True]])
    batch = Batch(
        values, mask, torch.tensor([[1.0, 4.0, 12.0, 25.0]]), torch.tensor([[0, 0, 1, -1]]), torch.tensor([0])
    )
    x, m, day = grid_view(batch, torch.tensor([0.0, 10.0, 20.0]))
    assert x.tolist() == [[[2.0], [0.0], [0.0]]]
    assert m.tolist() == [[True, False, False]]
    assert day.tolist() == [[2.5, 10.0, 20.0]]


def test_prepare_takes_statistics_of_all_rows_and_the_prior_of_labels() -> None:
    model, labelled, unlabelled = make(), rows([0, 0, 0, 1]), rows([-1] * 9, seed=1)
    context = Context()
    model.prepare(TrainingData(labelled, unlabelled), context)
    seen = torch.cat([labelled.values[labelled.mask], unlabelled.values[unlabelled.mask]])
    assert torch.allclose(model.centre, seen.mean(0))
    assert torch.allclose(model.scale, seen.std(0, correction=0))
    assert torch.allclose(model.log_prior.exp(), torch.tensor([3.0, 1.0, 0.5]) / 4.5)
    assert model.learners()[0][1].steps == 450
    assert context.facts["tempcnn"]["steps"] == 450


@pytest.mark.parametrize(("labels", "steps"), [(10, 450), (1440, 450), (3200, 1000), (20_000, 3000)])
def test_steps_follow_the_labels(labels: int, steps: int) -> None:
    model = make(slots=1)
    model.prepare(TrainingData(rows([0] * labels, slots=1)), Context())
    assert model.steps == steps
    assert make(steps=7).learners()[0][1].steps == 7


def test_unlabelled_rows_are_asked_for_only_by_fixmatch() -> None:
    assert make().learners()[0][1].unlabelled_batch == 0
    assert make(semi="fixmatch").learners()[0][1].unlabelled_batch == 96


def test_a_row_without_clear_date_gets_the_prior_and_the_true_day_matters() -> None:
    model = make().eval()
    model.log_prior.copy_(torch.tensor([0.7, 0.2, 0.1]).log())
    batch = rows([0, 1, 2])
    batch.mask[1] = False
    answer = model.log_posterior(batch)
    assert torch.allclose(answer[1].exp(), torch.tensor([0.7, 0.2, 0.1]))
    moved = Batch(batch.values, batch.mask, batch.day + 4, batch.slot, batch.y)
    assert not torch.allclose(model.log_posterior(moved)[0], answer[0])
    assert torch.allclose(answer.exp().sum(1), torch.ones(3))


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_short_calendars_and_single_rows(slots: int) -> None:
    model = make(slots=slots)
    batch = rows([0, 1, 2, -1], slots=slots)
    model.objective(batch, torch.Generator()).total.backward()
    assert all(p.grad is not None for p in model.parameters())
    assert model.eval().log_posterior(batch.take(torch.tensor([0]))).shape == (1, 3)


def test_one_label_of_a_class_is_enough() -> None:
    model = make()
    model.prepare(TrainingData(rows([0, 0, 0, 1, 2])), Context())
    assert torch.isfinite(model.objective(rows([2, 2]), torch.Generator()).total)


def test_consistency_is_the_masked_cross_entropy_on_a_ramp() -> None:
    model = make(semi="fixmatch", threshold=0.4, ramp=1.0, steps=4, dropout=0.0)
    batch = rows([0, 1, -1, -1, -1, -1, -1, -1])
    for step in (1, 2, 3, 4, 5):
        loss = model.objective(batch, torch.Generator().manual_seed(step))
        expected = loss.terms["supervised"] + min(1, step / 4) * loss.terms["consistency"]
        assert loss.total.item() == pytest.approx(expected.item(), rel=1e-6)
    assert model.training
    sure = make(semi="fixmatch", threshold=0.999)
    nothing = sure.objective(batch, torch.Generator().manual_seed(0))
    assert nothing.terms["believed"] == 0
    assert nothing.terms["consistency"] == 0
    assert math.isfinite(nothing.total.item())


def test_fixmatch_without_unlabelled_rows_is_supervised() -> None:
    loss = make(semi="fixmatch").objective(rows([0, 1, 2]), torch.Generator())
    assert set(loss.terms) == {"supervised"}
    assert torch.equal(loss.total, loss.terms["supervised"])
