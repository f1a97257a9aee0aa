"""Rows of the target domain: who learns from them, when they help, and when they are refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cropgen.core.progress import Silent
from cropgen.models.base import Classifier, Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model
from cropgen.models.pool import Pool
from cropgen.series.batches import Batch, concatenate_batches
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.training.fit import fit_model

SLOTS = 8
SPEC = InputSpec(("B04", "B08"), Calendar("dekad", 9, SLOTS), Legend.from_codes("test", "abc"))
SMALL = {"steps": 5, "hidden": 4, "width": 5}


def seasons(y: torch.Tensor, seed: int, shift: float = 0.0, spread: float = 0.08) -> Batch:
    """Noisy seasons whose phase tells the class; `shift` moves every phase, as another year does."""
    generator = torch.Generator().manual_seed(seed)
    slot = torch.arange(SLOTS).expand(len(y), -1)
    phase = slot / 2 + 1.2 * y[:, None] + shift + 0.3 * torch.randn(len(y), 1, generator=generator)
    level = 0.1 * torch.randn(len(y), 1, 2, generator=generator)
    values = 0.4 + 0.2 * torch.stack([torch.sin(phase), torch.cos(phase)], -1) + level
    values = values + spread * torch.randn(values.shape, generator=generator)
    mask = torch.rand(len(y), SLOTS, generator=generator) > 0.2
    return Batch(values * mask[..., None], mask, 92.0 + 10 * slot, slot, y)


def classes(count: int) -> torch.Tensor:
    return torch.arange(count) % 3


SHIFT = 0.4
SOURCE = TrainingData(seasons(classes(12), 1), seasons(classes(300), 2).without_labels())
TARGET = seasons(classes(600), 3, SHIFT).without_labels()
TEST = seasons(classes(300), 4, SHIFT)


def fitted(data: TrainingData, name: str = "tgem", **settings: object) -> tuple[Classifier, dict, Silent]:
    report = Silent()
    done = fit_model(name, dict(settings), SPEC, data, seed=4, report=report)
    return done.model, done.facts, report


def accuracy(model: Classifier) -> float:
    with torch.no_grad():
        return float((model.log_posterior(TEST).argmax(1) == TEST.y).float().mean())


def test_the_target_helps_the_tied_gaussian_on_the_target() -> None:
    alone, _, _ = fitted(SOURCE)
    adapted, facts, report = fitted(replace(SOURCE, target=TARGET))
    assert facts["tgem"]["target_accepted"]
    assert facts["tgem"]["target_rows"] == 600
    assert facts["tgem"]["fit"] == "em with target"
    assert report.warnings == []
    assert accuracy(adapted) > accuracy(alone) + 0.04


def test_target_rows_are_unlabelled_rows_where_the_guard_accepts_them() -> None:
    together = TrainingData(SOURCE.labelled, concatenate_batches([SOURCE.unlabelled, TARGET]))  # type: ignore[list-item]
    joined, _, _ = fitted(together, em="on")
    adapted, _, _ = fitted(replace(SOURCE, target=TARGET), em="on")
    # the bands are scaled by the source alone, so the two agree only to the effect of that on the shrinkage
    torch.testing.assert_close(adapted.log_posterior(TEST).exp(), joined.log_posterior(TEST).exp(), atol=0.05, rtol=0)


def test_a_target_without_other_unlabelled_rows_is_enough() -> None:
    alone, _, _ = fitted(TrainingData(SOURCE.labelled))
    adapted, facts, _ = fitted(TrainingData(SOURCE.labelled, target=TARGET))
    assert facts["tgem"]["target_accepted"]
    assert accuracy(adapted) > accuracy(alone)


def test_a_misleading_target_is_refused_and_said() -> None:
    foreign = seasons(torch.zeros(900, dtype=torch.int64), 8, spread=0.5)
    misleading = replace(foreign, values=foreign.values * 8 - 3 * foreign.mask[..., None]).without_labels()
    alone, _, _ = fitted(SOURCE)
    refused, facts, report = fitted(replace(SOURCE, target=misleading))
    assert facts["tgem"]["target_accepted"] is False
    assert facts["tgem"]["nll"]["em with target"] > 1.25 * facts["tgem"]["nll"]["em 1"]
    assert any("the 900 parcels of the target are not learnt from" in line for line in report.warnings)
    assert torch.equal(refused.log_posterior(TEST), alone.log_posterior(TEST))


def test_a_target_of_which_too_many_would_change_class_is_refused() -> None:
    _, facts, _ = fitted(replace(SOURCE, target=TARGET))
    assert 0.03 < facts["tgem"]["target_reassigned"] <= 0.25
    refused, facts, report = fitted(replace(SOURCE, target=TARGET), most_reassigned=0.03)
    assert facts["tgem"]["target_accepted"] is False
    assert any("too many would change class" in line for line in report.warnings)
    assert torch.equal(refused.log_posterior(TEST), fitted(SOURCE)[0].log_posterior(TEST))


def test_never_means_never_and_clouds_teach_nothing() -> None:
    off, facts, _ = fitted(replace(SOURCE, target=TARGET), em="off")
    assert "target_accepted" not in facts["tgem"]
    assert torch.equal(off.log_posterior(TEST), fitted(SOURCE, em="off")[0].log_posterior(TEST))
    cloudy = replace(TARGET, mask=TARGET.mask & False, values=TARGET.values * 0)
    _, facts, _ = fitted(replace(SOURCE, target=cloudy))
    assert "target_accepted" not in facts["tgem"]


@pytest.mark.parametrize(
    ("name", "settings", "adapts"),
    [
        ("tgem", {}, True),
        ("realnvp", {"steps": 3}, True),
        ("pool", {"generative_options": {"steps": 3}, "discriminative_options": SMALL}, True),
        ("tempcnn", {**SMALL, "semi": "fixmatch"}, False),
        ("rf", {"trees": 10}, False),
    ],
)
def test_models_either_adapt_or_leave_the_target_alone(name: str, settings: dict, adapts: bool) -> None:
    plain, _, _ = fitted(SOURCE, name, **settings)
    given, facts, _ = fitted(replace(SOURCE, target=TARGET), name, **settings)
    with torch.no_grad():
        same = torch.equal(given.log_posterior(TEST), plain.log_posterior(TEST))
    assert given.adapts == adapts
    assert same != adapts
    if adapts:
        assert facts["tgem"]["target_accepted"]


def test_a_deep_density_meets_the_target_even_without_other_unlabelled_rows() -> None:
    model = build_model("realnvp", {"steps": 3}, SPEC)
    model.prepare(TrainingData(SOURCE.labelled, target=TARGET), Context())
    view = model.augmented(SOURCE.labelled.take(torch.arange(8)), torch.Generator().manual_seed(0))
    assert (int(view.y_mask.sum()), len(view)) == (8, 8 + 96)


def test_only_the_generative_member_of_the_pool_adapts() -> None:
    settings = {"generative_options": {"steps": 3}, "discriminative_options": SMALL, "temper": False}
    plain, _, _ = fitted(SOURCE, "pool", **settings)
    given, _, _ = fitted(replace(SOURCE, target=TARGET), "pool", **settings)
    assert isinstance(plain, Pool)
    assert isinstance(given, Pool)
    with torch.no_grad():
        assert torch.equal(given.discriminative.log_posterior(TEST), plain.discriminative.log_posterior(TEST))
        assert not torch.equal(given.generative.log_posterior(TEST), plain.generative.log_posterior(TEST))
