"""Stages of the season: exact scores of the dates seen, and a fit that climbs."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from cropgen.core.errors import DataError
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model, load_model, save_model
from cropgen.models.classical.hmm import HiddenMarkov
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

BANDS, DATES = 2, 8
SPEC = InputSpec(("B04", "B08"), Calendar("dekad", 9, 9), Legend.from_codes("test", "abc"))


def seasons(count: int, seed: int, shift: float = 0.0) -> Batch:
    """Three levels passed one after the other on irregular days, earlier or later by class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    day = torch.sort(90 + 88 * torch.rand(count, DATES, generator=generator), 1).values
    first = 105 + 12.0 * y[:, None] + shift + 3 * torch.randn(count, 1, generator=generator)
    stage = (day > first).long() + (day > first + 30).long()
    level = torch.tensor([[0.1, 0.2], [0.1, 0.6], [0.3, 0.3]])
    values = level[stage] + 0.05 * torch.randn(count, DATES, BANDS, generator=generator)
    mask = torch.rand(count, DATES, generator=generator) > 0.2
    mask[:, 3] = True
    return Batch(values * mask[..., None], mask, day, ((day - 90) / 10).long(), y)


def trained(rows: Batch, **options: Any) -> tuple[HiddenMarkov, Context]:
    model, context = build_model("hmm", {"stages": 3} | options, SPEC), Context(seed=2)
    assert isinstance(model, HiddenMarkov)
    model.prepare(TrainingData(rows), context)
    return model, context


def test_the_joint_is_the_sum_over_all_passages() -> None:
    """Every path over the steps, dates of one step multiplied, in reflectance units."""
    model, _ = trained(seasons(60, 1), stages=2, step_days=15)
    model = model.double()
    rows = seasons(3, 5).to(dtype=torch.float64)
    p, seen = model.phenology, model.see(rows)
    joint = model.log_joint(rows)
    scale = torch.diag(model.scale)
    for i, k in itertools.product(range(3), range(3)):
        normal = [
            torch.distributions.MultivariateNormal(
                p.mean[k, s] * model.scale + model.centre, scale @ p.cov[k, s] @ scale
            )
            for s in range(2)
        ]
        dates = rows.mask[i].nonzero()[:, 0].tolist()
        shown = {t: [float(one.log_prob(rows.values[i, t]).exp()) for one in normal] for t in dates}
        start, stay, total = p.start[k].tolist(), [float(p.stay[k, 0]), 1.0], 0.0
        for path in itertools.product(range(2), repeat=model.steps):
            chance = start[path[0]]
            for here, to in itertools.pairwise(path):
                chance *= stay[here] if to == here else 1 - stay[here] if to > here else 0.0
            for t in dates:
                chance *= shown[t][path[int(seen.step[i, t])]]
            total += chance
        assert float(joint[i, k]) == pytest.approx(math.log(total) + float(model.log_prior[k]))


def test_baum_welch_climbs_and_stages_settle_where_the_levels_are() -> None:
    model, context = trained(seasons(120, 1), pooling=0.001, iterations=12)
    climbed = context.facts["hmm"]["log_likelihood"]
    assert climbed[-1] > climbed[0] + 1
    assert min(later - earlier for earlier, later in itertools.pairwise(climbed)) > -0.05
    level = torch.tensor([[0.1, 0.2], [0.1, 0.6], [0.3, 0.3]])
    for k in range(3):
        torch.testing.assert_close(model.mean[k] * model.scale + model.centre, level, atol=0.04, rtol=0)
    middle = 1 / (1 - model.stay[:, 1]) * model.settings.step_days
    assert float(middle.min()) > 15
    assert float(middle.max()) < 60


def test_it_tells_classes_apart_by_when_stages_pass() -> None:
    model, _ = trained(seasons(150, 1), stages=9)
    test = seasons(300, 2)
    posterior = model.log_posterior(test)
    assert float((posterior.argmax(1) == test.y).float().mean()) > 0.5
    torch.testing.assert_close(posterior.exp().sum(1), torch.ones(300))


def test_a_gap_is_not_a_stop() -> None:
    """Leaving out a date leaves its emission out and nothing else: dates before and after keep their gap."""
    model, _ = trained(seasons(60, 1))
    rows = seasons(6, 5)
    mask = rows.mask.clone()
    mask[:, 4] = False
    cut = replace(rows, mask=mask, values=rows.values * mask[..., None])
    kept = [0, 1, 2, 3, 5, 6, 7]
    short = Batch(rows.values[:, kept], rows.mask[:, kept], rows.day[:, kept], rows.slot[:, kept], rows.y)
    torch.testing.assert_close(model.log_joint(cut), model.log_joint(short))


def test_one_label_per_class_runs_and_an_absent_class_is_named() -> None:
    model, context = trained(seasons(3, 1), stages=5)
    assert torch.isfinite(model.log_posterior(seasons(30, 2))).all()
    assert "nll" not in context.facts["hmm"]
    rows = seasons(30, 1)
    with pytest.raises(DataError, match="for c"):
        trained(rows.take(rows.y < 2))


def test_samples_pass_the_levels_in_order_and_the_disk_keeps_the_stages(tmp_path) -> None:
    model, _ = trained(seasons(150, 1), stages=9, pooling=1.0)
    drawn = model.sample(torch.zeros(500, dtype=torch.int64), torch.Generator().manual_seed(0))
    early, middle, late = (drawn[:, slot].median(0).values for slot in (0, 3, 8))
    torch.testing.assert_close(early, torch.tensor([0.1, 0.2]), atol=0.05, rtol=0)
    assert float(middle[1]) > 0.4
    torch.testing.assert_close(late, torch.tensor([0.3, 0.3]), atol=0.06, rtol=0)
    save_model(tmp_path / "model", model, "hmm")
    rows = seasons(9, 5)
    assert torch.equal(load_model(tmp_path / "model").log_posterior(rows), model.log_posterior(rows))
