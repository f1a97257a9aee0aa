"""Flows over latent vectors: the standard normal at the start, and a density that draws follow."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch

from cropgen.models.layers.flows.latent import LatentFlow, LatentKind

KINDS = get_args(LatentKind)


def prior(kind: LatentKind, context: int = 0, spread: float = 0.0) -> LatentFlow:
    torch.manual_seed(0)
    flow = LatentFlow(2, context=context, layers=3, hidden=16, kind=kind).double()
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter += spread * torch.randn_like(parameter)
    return flow


@pytest.mark.parametrize("kind", KINDS)
def test_begins_at_the_standard_normal(kind: LatentKind) -> None:
    z = torch.randn(5, 2, dtype=torch.float64)
    expected = -0.5 * z.square().sum(-1) - math.log(2 * math.pi)
    assert torch.allclose(prior(kind, 3).log_prob(z, torch.randn(5, 3, dtype=torch.float64)), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_density_integrates_to_one_and_is_that_of_draws(kind: LatentKind) -> None:
    flow, step = prior(kind, spread=0.25), 0.1
    axis = torch.arange(-8, 8, step, dtype=torch.float64)
    with torch.no_grad():
        assert float(flow.log_prob(torch.cartesian_prod(axis, axis)).exp().sum()) * step**2 == pytest.approx(
            1, abs=5e-3
        )
        base = torch.randn(6, 2, dtype=torch.float64)
        z, log_det = flow.from_base(base)
        of_base = -0.5 * base.square().sum(-1) - math.log(2 * math.pi)
        assert torch.allclose(flow.log_prob(z), of_base - log_det, atol=1e-9)


def test_a_posterior_draws_with_gradients() -> None:
    flow = prior("inverse-autoregressive", 1, spread=0.2)
    context = torch.randn(4, 1, dtype=torch.float64, requires_grad=True)
    z, log_det = flow.from_base(torch.randn(4, 2, dtype=torch.float64), context)
    (z.square().sum() - log_det.sum()).backward()
    assert context.grad is not None
    assert bool((context.grad != 0).any())
    assert all(p.grad is not None for p in flow.parameters())


@pytest.mark.parametrize("kind", KINDS)
def test_draws_depend_on_the_generator_alone(kind: LatentKind) -> None:
    flow = prior(kind, spread=0.2)
    first = flow.sample(5, torch.Generator().manual_seed(3))
    assert torch.equal(first, flow.sample(5, torch.Generator().manual_seed(3)))
    assert float(flow.sample(5, torch.Generator().manual_seed(3), temperature=0.0).std(0).max()) < 1e-9
