"""Likelihoods of dates: proper densities, deaf to what is masked, and drawn from as they score."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal
from torch.distributions import StudentT as ReferenceT
from torch.nn import functional

from cropgen.core.errors import UsageError
from cropgen.models.layers.vae.likelihoods import Gaussian, Likelihood, LogisticMixture, StudentT, likelihood_of

DTYPE = torch.float64
KINDS = ("gaussian", "student-t", "logistic-mixture")


def mixed(components: int = 2, steps: int = 9) -> LogisticMixture:
    return LogisticMixture(2, components, low=0.0, high=0.8, steps=steps)


def raw_of(likelihood: Likelihood, *shape: int, seed: int = 0) -> Tensor:
    return torch.randn((*shape, likelihood.outputs), dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


def test_gaussian_agrees_with_another_implementation_above_its_floor() -> None:
    likelihood = Gaussian(3, floor=0.05)
    raw, x, mask = raw_of(likelihood, 4, 5), torch.rand(4, 5, 3, dtype=DTYPE), torch.ones(4, 5, dtype=torch.bool)
    expected = Normal(raw[..., :3], 0.05 + functional.softplus(raw[..., 3:])).log_prob(x).sum((-1, -2))
    assert torch.allclose(likelihood.log_prob(x, raw, mask), expected)
    exact = torch.cat([x, torch.full_like(x, -1e3)], -1)
    at_most = 5 * 3 * -math.log(0.05 * math.sqrt(2 * math.pi))
    assert likelihood.log_prob(x, exact, mask).tolist() == pytest.approx([at_most] * 4)


def test_student_t_agrees_with_another_implementation() -> None:
    likelihood = StudentT(2, floor=0.1)
    raw, x, mask = raw_of(likelihood, 3, 4), torch.randn(3, 4, 2, dtype=DTYPE), torch.ones(3, 4, dtype=torch.bool)
    mean, spread, tail = raw.chunk(3, -1)
    expected = ReferenceT(2 + functional.softplus(tail), mean, 0.1 + functional.softplus(spread)).log_prob(x)
    assert torch.allclose(likelihood.log_prob(x, raw, mask), expected.sum((-1, -2)))


@pytest.mark.parametrize("scale", [0.0, 5.0, -9.0])
def test_masses_of_all_steps_sum_to_one(scale: float) -> None:
    likelihood = mixed()
    raw = raw_of(likelihood, 1, 1)
    raw = (raw.unflatten(-1, (2, -1)) + torch.tensor([0, 0, 0, scale, scale, 0], dtype=DTYPE)).flatten(-2)
    steps = torch.linspace(0, 0.8, 9, dtype=DTYPE)
    grid = torch.cartesian_prod(steps, steps)[:, None]
    mass = likelihood.log_prob(grid, raw.expand(81, 1, -1), torch.ones(81, 1, dtype=torch.bool)).exp()
    assert float(mass.sum()) == pytest.approx(1, abs=1e-9)


def test_a_logistic_by_hand() -> None:
    likelihood = LogisticMixture(1, 1, low=0.0, high=1.0, steps=5)
    raw = torch.tensor([[[0.3, 0.4, math.log(0.2)]]], dtype=DTYPE)
    seen = torch.ones(1, 1, dtype=torch.bool)

    def sigmoid(u: float) -> float:
        return 1 / (1 + math.exp(-u))

    for x, mass in [
        (0.0, sigmoid((0.125 - 0.4) / 0.2)),
        (0.5, sigmoid((0.625 - 0.4) / 0.2) - sigmoid((0.375 - 0.4) / 0.2)),
        (0.55, sigmoid((0.625 - 0.4) / 0.2) - sigmoid((0.375 - 0.4) / 0.2)),
        (1.0, 1 - sigmoid((0.875 - 0.4) / 0.2)),
    ]:
        got = likelihood.log_prob(torch.full((1, 1, 1), x, dtype=DTYPE), raw, seen)
        assert float(got) == pytest.approx(math.log(mass))


def test_a_later_band_follows_an_earlier_one() -> None:
    likelihood = LogisticMixture(2, 1, low=0.0, high=1.0, steps=101)
    raw = torch.tensor([[[0.0, 0.5, 0.1, -4.0, -4.0, math.atanh(0.5)]]], dtype=DTYPE)
    seen, uncoupled = torch.ones(1, 1, dtype=torch.bool), raw.clone()
    uncoupled[..., -1] = 0
    x = torch.tensor([[[0.6, 0.1 + 0.5 * 0.6]]], dtype=DTYPE)
    assert float(likelihood.log_prob(x, raw, seen)) > float(likelihood.log_prob(x, uncoupled, seen)) + 5
    assert likelihood.mean(raw)[0, 0].tolist() == pytest.approx([0.5, 0.1 + 0.5 * 0.5])


def test_masses_far_in_the_tails_keep_their_gradient() -> None:
    likelihood = LogisticMixture(1, 1)
    raw = torch.tensor([[[0.0, 0.9, -9.0]]], requires_grad=True)
    value = likelihood.log_prob(torch.full((1, 1, 1), 0.1), raw, torch.ones(1, 1, dtype=torch.bool))
    value.backward()
    assert raw.grad is not None
    assert bool(value.isfinite())
    assert float(value.detach()) < -1000
    assert float(raw.grad[0, 0, 1]) == pytest.approx(-math.exp(9.0), rel=1e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_masked_is_never_read(kind: str) -> None:
    likelihood = likelihood_of(kind, 3)
    raw, x = raw_of(likelihood, 2, 6), torch.rand(2, 6, 3, dtype=DTYPE)
    mask = torch.tensor([[True, False, True, True, False, True], [False] * 6])
    changed = torch.where(mask[..., None], x, torch.nan)
    assert torch.equal(likelihood.log_prob(changed, raw, mask), likelihood.log_prob(x, raw, mask))
    assert float(likelihood.log_prob(x, raw, mask)[1]) == 0
    alone = likelihood.log_prob(x[:, mask[0]], raw[:, mask[0]], torch.ones(2, 4, dtype=torch.bool))
    assert torch.allclose(likelihood.log_prob(x, raw, mask)[0], alone[0])
    raw.requires_grad_()
    likelihood.log_prob(changed, raw, mask).sum().backward()
    assert raw.grad is not None
    assert bool((raw.grad[~mask] == 0).all())
    assert bool(raw.grad.isfinite().all())


def test_draws_of_the_mixture_have_its_masses() -> None:
    likelihood = mixed(steps=5)
    raw = 0.5 * raw_of(likelihood, 1, 1, seed=3)
    steps = torch.linspace(0, 0.8, 5, dtype=DTYPE)
    drawn = likelihood.sample(raw.expand(40_000, 1, -1), torch.Generator().manual_seed(1))[:, 0]
    for first, second in itertools.product(steps, steps):
        cell = torch.stack([first, second])[None, None]
        mass = float(likelihood.log_prob(cell, raw, torch.ones(1, 1, dtype=torch.bool)).exp())
        share = float(((drawn - cell[0]).abs() < 1e-6).all(-1).double().mean())
        assert share == pytest.approx(mass, abs=4 * math.sqrt(mass / 40_000) + 1e-4)


@pytest.mark.parametrize("kind", ["gaussian", "student-t"])
def test_draws_have_the_distribution_that_scores_them(kind: str) -> None:
    """The mean log-density of draws is minus the entropy, by a fine sum over one band."""
    likelihood = likelihood_of(kind, 1)
    raw = raw_of(likelihood, 1, 1, seed=2)
    at = torch.arange(-400, 400, 0.01, dtype=DTYPE)
    seen = torch.ones(len(at), 1, dtype=torch.bool)
    log_density = likelihood.log_prob(at[:, None, None], raw.expand(len(at), 1, -1), seen)
    assert float(log_density.exp().sum() * 0.01) == pytest.approx(1, abs=1e-3)
    drawn = likelihood.sample(raw.expand(20_000, 1, -1), torch.Generator().manual_seed(4))
    scored = likelihood.log_prob(drawn, raw.expand(20_000, 1, -1), torch.ones(20_000, 1, dtype=torch.bool))
    entropy = float((log_density.exp() * log_density).sum() * 0.01)
    assert float(scored.mean()) == pytest.approx(entropy, abs=4 * float(scored.std()) / math.sqrt(20_000))


@pytest.mark.parametrize("kind", KINDS)
def test_draws_are_cold_at_temperature_zero_and_follow_the_generator(kind: str) -> None:
    likelihood = likelihood_of(kind, 2)
    raw = raw_of(likelihood, 3, 2)
    drawn = [likelihood.sample(raw, torch.Generator().manual_seed(7)) for _ in range(2)]
    assert torch.equal(*drawn)
    assert drawn[0].shape == likelihood.mean(raw).shape == (3, 2, 2)
    if kind != "logistic-mixture":
        cold = likelihood.sample(raw, torch.Generator().manual_seed(7), 0.0)
        assert torch.allclose(cold, likelihood.mean(raw))


def test_a_scale_without_steps_is_refused() -> None:
    with pytest.raises(UsageError, match="at least 2 steps"):
        LogisticMixture(2, steps=1)
