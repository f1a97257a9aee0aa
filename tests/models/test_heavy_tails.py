"""A tied Gaussian with the tails of a Student-t: its density, its fit, and what becomes of posteriors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_t

from cropgen.models.base import InputSpec
from cropgen.models.layers.heavy_tails import HeavyTails, fit_tails, match_beta, square_distance, student_log_density
from cropgen.models.layers.innovations import TiedGaussian, tempered
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

SPEC = InputSpec(("a", "b"), Calendar("dekad", 0, 4), Legend.from_codes("l", ["x", "y", "z"]))
DIMENSIONS = 8


def tied(seed: int = 0) -> TiedGaussian:
    generator = torch.Generator().manual_seed(seed)
    gaussian = TiedGaussian(SPEC)
    root = torch.randn(DIMENSIONS, DIMENSIONS, generator=generator)
    gaussian.means.copy_(2 * torch.randn(3, DIMENSIONS, generator=generator))
    gaussian.cov.copy_(root @ root.T + torch.eye(DIMENSIONS))
    gaussian.chol.copy_(torch.linalg.cholesky(gaussian.cov))
    gaussian.log_prior.copy_(torch.tensor([0.5, 0.3, 0.2]).log())
    return gaussian


def seasons(values: torch.Tensor, mask: torch.Tensor) -> Batch:
    slot = torch.arange(4).expand(len(values), 4)
    return Batch(values * mask[..., None], mask, slot * 10.0, slot, torch.full((len(values),), -1))


def some(count: int, seed: int = 1, scale: float = 2.0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(count, 4, generator=generator) > 0.2
    return seasons(scale * torch.randn(count, 4, 2, generator=generator), mask)


def heavy(freedom: float, spread: float = 1.0, beta: float = 1.0) -> HeavyTails:
    tails = HeavyTails()
    tails.freedom.fill_(freedom)
    tails.spread.fill_(spread)
    tails.beta.fill_(beta)
    return tails


@pytest.mark.parametrize(("freedom", "spread"), [(1.0, 1.0), (4.5, 0.6), (80.0, 1.7)])
def test_the_density_is_that_of_scipy(freedom: float, spread: float) -> None:
    gaussian = tied().double()
    gaussian.chol.copy_(torch.linalg.cholesky(gaussian.cov))
    x = torch.randn(6, DIMENSIONS, dtype=torch.float64) * 3
    white = gaussian.whiten(x.unflatten(1, (4, 2)), torch.ones(6, 4, dtype=torch.bool))
    found = student_log_density(square_distance(white), white.observed, freedom, spread)
    found = found - gaussian.chol.diagonal().log().sum()
    for y in range(3):
        known = multivariate_t(gaussian.means[y].numpy(), spread * gaussian.cov.numpy(), df=freedom)
        assert found[:, y].numpy() == pytest.approx(known.logpdf(x.numpy()), abs=1e-9)


def test_the_posterior_is_the_tempered_one_of_those_densities() -> None:
    gaussian, tails, batch = tied().double(), heavy(3.0, 0.8, 0.6).double(), some(9)
    found = tails.log_posterior(gaussian, batch)
    for row, (values, mask) in enumerate(zip(batch.values.double(), batch.mask, strict=True)):
        kept = mask.repeat_interleave(2)
        if not kept.any():
            continue
        x, cov = values.flatten()[kept].numpy(), tails.spread.item() * gaussian.cov[kept][:, kept].numpy()
        known = [multivariate_t(mean[kept].numpy(), cov, df=3.0).logpdf(x) for mean in gaussian.means]
        joint = torch.tensor(known) + gaussian.log_prior
        assert torch.allclose(found[row], tempered(joint, 0.6), atol=1e-5)


def test_with_much_freedom_it_is_the_gaussians_posterior() -> None:
    gaussian, batch = tied(), some(40, scale=8.0)
    plain = gaussian.log_posterior(*gaussian.grid(batch))
    assert torch.equal(HeavyTails().log_posterior(gaussian, batch), plain)
    many = heavy(1e9, 1.0, float(gaussian.beta)).double()
    double = gaussian.double()
    assert torch.allclose(
        many.log_posterior(double, batch), double.log_posterior(*double.grid(batch)), atol=1e-4, rtol=0
    )
    assert not torch.allclose(heavy(3.0, 1.0, float(gaussian.beta)).log_posterior(tied(), batch), plain, atol=0.1)


def test_the_matched_temperature_brings_back_the_one_it_was() -> None:
    joint = 5 * torch.randn(200, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert match_beta(tempered(joint, 0.5).exp(), 2 * joint, 0.25) == pytest.approx(0.25)
    assert match_beta(tempered(joint, 0.5).exp(), 2 * joint, 0.3) == pytest.approx(0.25, rel=0.07)


@pytest.mark.parametrize("freedom", [3.0, 30.0])
def test_the_fit_finds_what_seasons_were_drawn_from(freedom: float) -> None:
    rng, size, spread = np.random.default_rng(0), 8, 0.5
    means = 3 * rng.standard_normal((3, size))
    y, u = rng.integers(0, 3, 3000), rng.gamma(freedom / 2, 2 / freedom, 3000)
    x = means[y] + rng.standard_normal((3000, size)) * np.sqrt(spread / u)[:, None]
    distance = torch.from_numpy(((x[:, None] - means) ** 2).sum(-1))
    uniform = torch.full((3,), -math.log(3), dtype=torch.float64)
    found, width = fit_tails(distance, torch.full((3000,), float(size), dtype=torch.float64), uniform)
    assert found == pytest.approx(freedom, rel=0.5)
    assert width == pytest.approx(spread, rel=0.1)


def test_seasons_like_those_learnt_from_keep_their_posterior_and_others_become_open() -> None:
    gaussian, generator = tied(), torch.Generator().manual_seed(2)
    y = torch.multinomial(gaussian.log_prior.exp(), 800, replacement=True, generator=generator)
    like = seasons(gaussian.sample(y, generator), torch.rand(800, 4, generator=generator) > 0.1)
    tails = HeavyTails()
    tails.learn(gaussian, like)
    plain, now = (p.exp() for p in (gaussian.log_posterior(*gaussian.grid(like)), tails.log_posterior(gaussian, like)))
    assert float((plain - now).abs().mean()) < 0.01
    far = seasons(20 * like.values, like.mask)
    sure = gaussian.log_posterior(*gaussian.grid(far)).exp().amax(1)
    assert float(sure.mean()) > 0.95
    assert float(tails.log_posterior(gaussian, far).exp().amax(1).mean()) < float(sure.mean()) - 0.1


@settings(max_examples=25, deadline=None)
@given(freedom=st.floats(1, 1e4), spread=st.floats(0.01, 10), seed=st.integers(0, 99))
def test_classes_of_one_prior_keep_their_order(freedom: float, spread: float, seed: int) -> None:
    gaussian, batch = tied(seed).double(), some(12, seed=seed)
    gaussian.log_prior.fill_(-math.log(3))
    joint = gaussian.log_joint(*gaussian.grid(batch))
    found = heavy(freedom, spread).double().log_posterior(gaussian, batch)
    seen = batch.mask.any(1)
    assert torch.equal(found.argmax(1)[seen], joint.argmax(1)[seen])
    assert torch.allclose(found.exp().sum(1), torch.ones(12, dtype=torch.float64))


def test_a_season_never_seen_gets_the_prior_and_teaches_nothing() -> None:
    gaussian, never = tied(), seasons(torch.zeros(3, 4, 2), torch.zeros(3, 4, dtype=torch.bool))
    tails = HeavyTails()
    tails.learn(gaussian, never)
    assert float(tails.freedom) == math.inf
    assert torch.equal(heavy(2.0).log_posterior(gaussian, never), gaussian.log_prior.expand(3, -1))


def test_it_is_kept_with_the_weights() -> None:
    again = HeavyTails()
    again.load_state_dict(heavy(3.5, 0.4, 0.2).state_dict())
    assert [float(value) for value in again.buffers()] == pytest.approx([3.5, 0.4, 0.2])
