"""What a decoder is shown: rates, costs and gradients of the decisions."""

from __future__ import annotations

import math

import pytest
import torch
from torch.distributions import Bernoulli, kl_divergence

from cropgen.models.layers.vae.feedback import Dropout, Feedback, bernoulli_kl, logistic_noise

ROWS = 20_000


def feedback(kind: Dropout, rate: float = 0.3) -> Feedback:
    torch.manual_seed(0)
    return Feedback(kind, rate, bands=2, hidden=3, latent=2)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


def test_cost_of_a_decision_is_the_divergence_of_two_coins() -> None:
    logit = torch.linspace(-4, 4, 9, dtype=torch.float64)
    expected = kl_divergence(Bernoulli(logits=logit), Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
    assert torch.allclose(bernoulli_kl(logit, 0.3), expected)
    assert float(bernoulli_kl(torch.tensor(math.log(0.3 / 0.7)), 0.3)) == pytest.approx(0, abs=1e-7)


@pytest.mark.parametrize(("kind", "choices"), [("input", 1), ("activation", 2), ("scheduled", 1)])
def test_static_dropout_withholds_its_rate_and_scoring_nothing(kind: Dropout, choices: int) -> None:
    shown = feedback(kind)
    x, h, z = torch.ones(ROWS, 2), torch.zeros(ROWS, 3), torch.zeros(ROWS, 2)
    kept, cost = shown(x, h, z, logistic_noise((ROWS, choices), x, generator()))
    assert kept.shape == (ROWS, choices)
    assert float(kept.mean()) == pytest.approx(0.7, abs=0.01)
    assert float(cost) == 0
    assert bool((shown(x, h, z, None)[0] == 1).all())


@pytest.mark.parametrize("kind", ["dynamic-input", "dynamic-activation", "dynamic-scheduled"])
def test_dynamic_dropout_draws_what_its_network_says_and_teaches_it(kind: Dropout) -> None:
    shown = feedback(kind)
    x, h, z = torch.randn(1, 2), torch.randn(1, 3), torch.randn(1, 2)
    assert shown.decide is not None
    drop = torch.sigmoid(shown.decide(torch.cat([x, h, z], -1)))
    noise = logistic_noise((ROWS, shown.choices), x, generator())
    kept, cost = shown(*(v.expand(ROWS, -1) for v in (x, h, z)), noise)
    assert set(kept.unique().tolist()) <= {0.0, 1.0}
    assert torch.allclose(kept.mean(0), 1 - drop[0], atol=0.015)
    expected = kl_divergence(Bernoulli(drop), Bernoulli(torch.tensor(0.3))).sum()
    assert cost[0].item() == pytest.approx(expected.item(), abs=1e-5)
    weight = torch.linspace(-1, 1, shown.choices + 1)[1:]
    (kept * weight).mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in shown.decide.parameters())
    assert torch.equal(shown(x, h, z, None)[0], (drop <= 0.5).float())


def test_the_latent_alone_may_decide() -> None:
    torch.manual_seed(0)
    shown = Feedback("dynamic-input", 0.3, bands=2, hidden=3, latent=2, sight="latent")
    z = torch.randn(4, 2)
    costs = [shown(torch.randn(4, 2), torch.randn(4, 3), z, None)[1] for _ in range(2)]
    assert torch.equal(*costs)
