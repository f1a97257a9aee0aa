"""A season told date by date: what the decoder may see, what it draws, one date alone, and what dropout is for."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from cropgen.models.base import InputSpec
from cropgen.models.layers.vae.feedback import Dropout
from cropgen.models.vaes.vae_rnn import VAERNN, VAERNNOptions
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from tests.models.dvaes.crops import BANDS, SLOTS, SPEC, TEST
from tests.models.vaes.rows import disturbed

RESULT = Path(__file__).resolve().parents[3] / "benchmarks" / "results" / "dropout.json"
KINDS: list[Dropout] = [
    "none", "input", "activation", "scheduled", "dynamic-input", "dynamic-activation", "dynamic-scheduled",
]  # fmt: skip


def model_with(dropout: Dropout) -> VAERNN:
    return cast(VAERNN, disturbed("vae-rnn", dropout=dropout))


def told(model: VAERNN, batch: Batch, z: Tensor) -> Tensor:
    """(B, K, G, P) under one latent for all."""
    with torch.no_grad():
        return model.told(model.shown(model.seen_rows(batch)), z.expand(1, len(batch), 1, -1))[0][0]


@pytest.mark.parametrize("dropout", KINDS)
def test_a_date_is_told_from_earlier_dates_alone(dropout: Dropout) -> None:
    model, z = model_with(dropout), torch.tensor([0.3, -0.7], dtype=torch.float64)
    if model.feedback.decide is not None:
        with torch.no_grad():
            last = cast(torch.nn.Sequential, model.feedback.decide)[-1]
            cast(torch.nn.Linear, last).bias.fill_(-9)
    whole = replace(TEST, mask=torch.ones_like(TEST.mask))
    other = replace(whole, values=torch.cat([whole.values[:, :3], whole.values[:, 3:] + 0.2], 1))
    one, two = told(model, whole, z), told(model, other, z)
    assert torch.allclose(one[:, :, :4], two[:, :, :4], atol=1e-12)
    assert not torch.allclose(one[:, :, 4:], two[:, :, 4:], atol=1e-3)


def test_what_is_withheld_is_not_seen() -> None:
    model, z = model_with("dynamic-input"), torch.tensor([0.3, -0.7], dtype=torch.float64)
    with torch.no_grad():
        last = cast(torch.nn.Sequential, model.feedback.decide)[-1]
        cast(torch.nn.Linear, last).bias.fill_(9)
    other = replace(TEST, values=TEST.values + 0.2 * TEST.mask[..., None])
    assert torch.allclose(told(model, TEST, z), told(model, other, z), atol=1e-12)


def test_a_free_run_sees_the_season_through_its_latent_alone() -> None:
    model = model_with("none")
    other = replace(TEST, values=TEST.values + 0.2 * TEST.mask[..., None])
    assert not torch.allclose(model.free_run(TEST), model.free_run(other), atol=1e-3)
    with torch.no_grad():
        model.posterior.weight.zero_()
    assert torch.allclose(model.free_run(TEST), model.free_run(other), atol=1e-12)


@pytest.mark.parametrize("dropout", ["none", "scheduled", "dynamic-scheduled"])
def test_a_drawn_season_is_the_one_that_is_told(dropout: Dropout) -> None:
    """Told again with its own dates fed, the decoder says of every date what the date was drawn from."""
    model, y = model_with(dropout), torch.tensor([0, 1, 2, 1])
    z = model.standard_normal(4, 2, torch.Generator().manual_seed(7))[None, :, None]
    with torch.no_grad():
        raw, e = model._drawn(y, torch.Generator().manual_seed(7), 1.0)
        shown = model._to_draw(y)
        dates = e.unflatten(-1, (SLOTS, BANDS)).transpose(0, 1)[:, None, :, None]
        again = model.told(replace(shown, e=dates), z)[0][0]
    assert torch.allclose(again[torch.arange(4), y], raw, atol=1e-12)


def one_date(count: int) -> Batch:
    values = torch.rand(count, 1, BANDS, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    there = torch.ones(count, 1, dtype=torch.bool)
    return Batch(values, there, values[..., 0] * 0 + 60, there.long() * 0, torch.full((count,), -1))


@pytest.mark.parametrize("dropout", KINDS)
def test_with_one_date_it_is_a_plain_auto_encoder(dropout: Dropout) -> None:
    spec = InputSpec(SPEC.bands, Calendar("month", 2, 1), SPEC.legend)
    torch.manual_seed(0)
    settings = VAERNNOptions.model_validate({"hidden": 4, "latent": 2, "samples": 3, "dropout": dropout})
    model = VAERNN(spec, settings).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        rows = model.seen_rows(one_date(5))
        found = model.explain(rows, model.noise)
        mean, log_std = model.encode(rows)
        q = Normal(mean, log_std.exp())
        z = mean + log_std.exp() * model.noise
        h = model.memory(
            torch.cat([z.new_zeros(*z.shape[:-1], BANDS + 1), model.shown(rows).time[0].expand(3, -1, -1, -1), z], -1)
            .flatten(0, 2),
            torch.tanh(model.begin(z)).flatten(0, 2),
        ).unflatten(0, z.shape[:-1])  # fmt: skip
        seen = torch.cat([h, model.shown(rows).time[0].expand(3, -1, -1, -1), z], -1)
        p = Normal(model.answer(seen), (0.5 * model.log_var).exp())
    assert torch.allclose(found.log_likelihood, p.log_prob(rows.surprise).sum(-1), atol=1e-9)
    assert torch.allclose(found.divergence, kl_divergence(q, Normal(0.0 * mean, 1.0 + 0 * mean))[None], atol=1e-9)
    assert bool((torch.as_tensor(found.penalty) == 0).all())


def test_dynamic_dropout_keeps_the_latent_in_use_in_the_committed_result() -> None:
    """At equal reconstruction the latent holds more in each of five seeds, and the decoder left alone errs less: by a
    fifth at least on average, and nowhere more by a tenth."""
    rows = json.loads(RESULT.read_text(encoding="utf-8"))["at_equal_reconstruction"]["dynamic-input"]
    assert len(rows) == 5
    errors = [[row["free_running_error"][kind] for kind in ("dynamic-input", "none")] for row in rows]
    assert all(row["kl"]["dynamic-input"] > row["kl"]["none"] + 0.4 for row in rows)
    assert all(dynamic < 1.1 * plain for dynamic, plain in errors)
    assert sum(dynamic for dynamic, _ in errors) < 0.8 * sum(plain for _, plain in errors)


@pytest.mark.slow
def test_dynamic_dropout_keeps_the_latent_in_use() -> None:
    """The same, learnt anew with fewer steps."""
    spec = importlib.util.spec_from_file_location("dropout", RESULT.parents[1] / "dropout.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    paths = {kind: script.learnt(kind, 0, 75) for kind in ("none", "dynamic-input")}
    found = script.compared(paths["none"], paths["dynamic-input"], "dynamic-input")
    assert found["kl"]["dynamic-input"] > found["kl"]["none"] + 0.3
    assert found["free_running_error"]["dynamic-input"] < 0.8 * found["free_running_error"]["none"]
