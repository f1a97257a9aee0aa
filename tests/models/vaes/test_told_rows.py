"""What self-supervised, recurrent, spatial-dependency and tampered auto-encoders share: start and densities."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.models.dvaes.crops import DATA, TEST
from tests.models.vaes.rows import built, disturbed, log_q_by_jacobian

ROWS: list[tuple[str, dict[str, Any]]] = [
    ("vae-rnn", {}),
    ("vae-rnn", {"dropout": "dynamic-scheduled"}),
    ("selfsup-vae", {}),
    ("selfsup-vae", {"levels": 2, "view": "select", "prior": "standard"}),
    ("sdn-vae", {}),
    ("sdn-vae", {"levels": 3, "posterior": "diagonal", "directions": 1}),
    ("tampered-vae", {"width": 8, "stages": 2}),
]
every_row = pytest.mark.parametrize(
    ("name", "settings"), ROWS, ids=[f"{n} {' '.join(map(str, s.values()))}" for n, s in ROWS]
)


@every_row
def test_it_begins_exactly_at_the_tied_gaussian(name: str, settings: dict[str, Any]) -> None:
    model = built(name, **settings)
    with torch.no_grad():
        assert torch.allclose(model.log_joint(TEST), model.tied.log_joint(*model.tied.grid(TEST)), atol=1e-9, rtol=0)
        assert model.use_of_latents(TEST)["kl_total"] == pytest.approx(0, abs=1e-9)


@every_row
def test_density_of_the_draws_is_that_of_the_map_from_noise(name: str, settings: dict[str, Any]) -> None:
    model = disturbed(name, **settings)
    found, expected = log_q_by_jacobian(model, model.seen_rows(TEST.take(torch.tensor([2]))))
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)


@every_row
def test_divergence_is_the_mean_of_the_log_ratio(name: str, settings: dict[str, Any]) -> None:
    """Of every group of latents, in closed form where there is one; within four standard errors."""
    model = disturbed(name, **settings)
    rows = model.seen_rows(TEST.take(torch.tensor([1])))
    noise = torch.randn(4000, 1, 1, model.noise_size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        found = model.explain(rows, noise)
    ratio = (found.log_q - found.log_prior).expand(4000, 1, -1)
    total = found.divergence.sum(-1).expand_as(ratio)
    error = (ratio - total).std(0) / 4000**0.5
    assert bool(((ratio - total).mean(0).abs() <= 4 * error + 1e-9).all())
    assert bool((total.mean(0) > 0.01).all())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("vae-rnn", {"dropout": "dynamic-scheduled"}),
        ("vae-rnn", {"dropout": "activation", "likelihood": "logistics"}),
        ("selfsup-vae", {"levels": 2}),
        ("sdn-vae", {"likelihood": "logistics", "ema": 0}),
        ("tampered-vae", {"width": 8, "likelihood": "student"}),
    ],
)
def test_the_textbook_form_learns(name: str, settings: dict[str, Any]) -> None:
    model = built(name, start="none", **settings).float().train()
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    rows, losses = DATA.labelled, []
    for step in range(12):
        seasons = model.augmented(rows, torch.Generator().manual_seed(step))
        loss = model.objective(seasons, torch.Generator().manual_seed(step)).total
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-3:]) < sum(losses[:3])
    drawn = model.eval().sample(torch.tensor([0, 1, 2]), torch.Generator().manual_seed(0))
    assert bool(torch.isfinite(drawn).all())
