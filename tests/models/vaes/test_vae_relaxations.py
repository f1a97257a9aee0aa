"""Relaxed categorical draws: densities on the simplex, the categorical behind them, and exact sums."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.distributions.relaxed_categorical import ExpRelaxedCategorical

from cropgen.models.layers.vae.posteriors import gaussian_kl
from cropgen.models.layers.vae.relaxations import (
    categorical_kl,
    concrete_log_density,
    exact_elbo,
    gumbel_noise,
    igr_log_density,
    log_concrete,
    log_igr,
    straight_through,
)

DTYPE = torch.float64
LOGITS = torch.tensor([0.4, -0.3, 1.0], dtype=DTYPE)
MEAN, LOG_STD = torch.tensor([0.3, -0.6], dtype=DTYPE), torch.tensor([-0.2, 0.1], dtype=DTYPE)


def simplex(cells: int = 400) -> tuple[Tensor, float]:
    """Midpoints of a triangular grid of the 2-simplex, (N, 3), and the area of a cell."""
    edge = torch.arange(cells, dtype=DTYPE)
    i, j = torch.meshgrid(edge, edge, indexing="ij")
    first = torch.stack([i + 1 / 3, j + 1 / 3], -1)[i + j < cells]
    second = torch.stack([i + 2 / 3, j + 2 / 3], -1)[i + j < cells - 1]
    two = torch.cat([first, second]) / cells
    return torch.cat([two, 1 - two.sum(-1, keepdim=True)], -1), 0.5 / cells**2


def test_densities_on_the_simplex_integrate_to_one() -> None:
    x, area = simplex()
    assert float(concrete_log_density(x.log(), LOGITS, 0.9).exp().sum() * area) == pytest.approx(1, abs=0.01)
    assert float(igr_log_density(x.log(), MEAN, LOG_STD, 1.5).exp().sum() * area) == pytest.approx(1, abs=0.01)


def test_concrete_density_agrees_with_another_implementation_and_ignores_the_scale_of_alpha() -> None:
    noise = gumbel_noise(LOGITS.expand(50, 3), torch.Generator().manual_seed(0))
    log_x = log_concrete(LOGITS, 0.5, noise)
    of_logarithms = ExpRelaxedCategorical(torch.tensor(0.5, dtype=DTYPE), logits=LOGITS).log_prob(log_x)
    assert torch.allclose(concrete_log_density(log_x, LOGITS, 0.5), of_logarithms - log_x.sum(-1))
    assert torch.allclose(
        concrete_log_density(log_x, LOGITS + 7, 0.5), concrete_log_density(log_x, LOGITS, 0.5), atol=1e-9
    )


@pytest.mark.parametrize("temperature", [0.1, 1.0, 5.0])
def test_argmax_is_distributed_as_the_categorical_at_every_temperature(temperature: float) -> None:
    noise = gumbel_noise(LOGITS.expand(20_000, 3), torch.Generator().manual_seed(1))
    share = torch.bincount(log_concrete(LOGITS, temperature, noise).argmax(-1), minlength=3) / 20_000
    assert torch.allclose(share.double(), torch.softmax(LOGITS, -1), atol=0.012)


def test_draws_go_to_the_corners_as_the_temperature_falls() -> None:
    generator = torch.Generator().manual_seed(2)
    gumbel = gumbel_noise(LOGITS.expand(500, 3), generator)
    normal = torch.randn(500, 2, dtype=DTYPE, generator=generator)
    for draw in (lambda t: log_concrete(LOGITS, t, gumbel), lambda t: log_igr(MEAN, LOG_STD, t, normal)):
        largest = [float(draw(t).exp().max(-1).values.mean()) for t in (2.0, 0.5, 0.05, 0.001)]
        assert largest == sorted(largest)
        assert largest[-1] > 0.99
        assert torch.allclose(draw(0.001).exp().sum(-1), torch.ones(500, dtype=DTYPE))


def test_mean_log_density_ratio_of_two_igr_is_the_divergence_of_their_gaussians() -> None:
    noise = torch.randn(20_000, 2, dtype=DTYPE, generator=torch.Generator().manual_seed(3))
    log_x, other = log_igr(MEAN, LOG_STD, 0.7, noise), torch.zeros(2, dtype=DTYPE)
    ratio = igr_log_density(log_x, MEAN, LOG_STD, 0.7) - igr_log_density(log_x, other, other, 0.7)
    error = 4 * float(ratio.std()) / math.sqrt(20_000)
    assert float(ratio.mean()) == pytest.approx(float(gaussian_kl(MEAN, LOG_STD).sum()), abs=error)


def test_straight_through_is_one_hot_forwards_and_soft_backwards() -> None:
    logits = LOGITS.clone().requires_grad_()
    soft = torch.softmax(logits, -1)
    hard = straight_through(soft)
    assert hard.detach().tolist() == pytest.approx([0, 0, 1])
    weight = torch.tensor([1.0, 2.0, 4.0], dtype=DTYPE)
    found = torch.autograd.grad((hard * weight).sum(), logits, retain_graph=True)[0]
    assert torch.allclose(found, torch.autograd.grad((soft * weight).sum(), logits)[0])
    assert bool((found != 0).all())


def test_relaxed_gradient_is_that_of_the_relaxed_expectation() -> None:
    """Pathwise gradient against the derivative of the mean, by common noise."""
    noise = gumbel_noise(LOGITS.expand(5000, 3), torch.Generator().manual_seed(4))
    weight = torch.tensor([1.0, -2.0, 4.0], dtype=DTYPE)

    def mean(logits: Tensor) -> Tensor:
        return (log_concrete(logits, 0.8, noise).exp() @ weight).square().mean()

    logits = LOGITS.clone().requires_grad_()
    mean(logits).backward()
    step = torch.tensor([1e-5, 0, 0], dtype=DTYPE)
    slope = float(mean(LOGITS + step) - mean(LOGITS - step)) / 2e-5
    assert logits.grad is not None
    assert float(logits.grad[0]) == pytest.approx(slope, rel=1e-5)


def test_exact_sum_by_hand_and_its_maximum_at_the_posterior() -> None:
    log_joint = torch.tensor([-1.0, -2.0, -0.5], dtype=DTYPE)
    q = torch.softmax(LOGITS, -1)
    by_hand = sum(float(q[k]) * (float(log_joint[k]) - math.log(float(q[k]))) for k in range(3))
    assert float(exact_elbo(log_joint, LOGITS)) == pytest.approx(by_hand)
    assert float(exact_elbo(log_joint, log_joint + 3)) == pytest.approx(float(torch.logsumexp(log_joint, -1)))
    gap = float(torch.logsumexp(log_joint, -1)) - by_hand
    assert float(categorical_kl(LOGITS, log_joint)) == pytest.approx(gap)


def test_divergence_of_categoricals_is_zero_only_at_equality_and_bears_empty_classes() -> None:
    assert float(categorical_kl(LOGITS, LOGITS + 2)) == pytest.approx(0, abs=1e-12)
    sure = torch.tensor([0.0, -torch.inf, -torch.inf], dtype=DTYPE)
    assert float(categorical_kl(sure, torch.zeros(3, dtype=DTYPE))) == pytest.approx(math.log(3))
