"""Posteriors: densities that are those of their draws, divergences, and the sign of the determinant in the bound."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from cropgen.models.layers.flows.layer import Seen
from cropgen.models.layers.vae.bounds import elbo, iwae
from cropgen.models.layers.vae.posteriors import (
    Householder,
    Posterior,
    PosteriorKind,
    gaussian_kl,
    gaussian_log_prob,
)

DTYPE = torch.float64
KINDS: tuple[PosteriorKind, ...] = get_args(PosteriorKind)
MEAN = torch.tensor([[0.3, -0.2], [1.0, 0.5]], dtype=DTYPE)
LOG_STD = torch.tensor([[-0.3, 0.2], [0.1, -0.4]], dtype=DTYPE)
CONTEXT = torch.tensor([[0.5, -1.0, 0.2], [1.5, 0.3, -0.7]], dtype=DTYPE)


def posterior(kind: PosteriorKind, spread: float = 0.3) -> Posterior:
    torch.manual_seed(3)
    made = Posterior(2, kind=kind, context=3, layers=3, hidden=16, rank=2).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += spread * torch.randn_like(parameter)
    return made


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


def test_gaussian_density_and_divergence_agree_with_another_implementation() -> None:
    z, other_mean, other_log_std = normal(2, 2), normal(2, 2, seed=1), 0.3 * normal(2, 2, seed=2)
    one, two = Normal(MEAN, LOG_STD.exp()), Normal(other_mean, other_log_std.exp())
    assert torch.allclose(gaussian_log_prob(z, MEAN, LOG_STD), one.log_prob(z).sum(-1))
    assert torch.allclose(gaussian_kl(MEAN, LOG_STD, other_mean, other_log_std), kl_divergence(one, two))
    standard = Normal(torch.zeros_like(MEAN), torch.ones_like(MEAN))
    assert torch.allclose(gaussian_kl(MEAN, LOG_STD), kl_divergence(one, standard))


def test_analytic_divergence_is_the_mean_of_its_draws() -> None:
    drawn = posterior("diagonal").draw(MEAN, LOG_STD, normal(20_000, 2, 2))
    ratio = drawn.log_q - gaussian_log_prob(drawn.z, torch.zeros(2), torch.zeros(2))
    error = 4 * ratio.std(0) / math.sqrt(20_000)
    assert bool(((ratio.mean(0) - gaussian_kl(MEAN, LOG_STD).sum(-1)).abs() < error).all())
    assert torch.allclose(drawn.z.std(0), LOG_STD.exp(), rtol=0.03)


@pytest.mark.parametrize("kind", KINDS)
def test_density_of_a_draw_is_the_base_over_the_volume_of_the_map(kind: PosteriorKind) -> None:
    made, noise = posterior(kind), normal(3, 2, 2)
    drawn = made.draw(MEAN, LOG_STD, noise, CONTEXT)
    for sample in range(3):
        for row in range(2):

            def to_z(base: Tensor, row: int = row) -> Tensor:
                at = slice(row, row + 1)
                return made.draw(MEAN[at], LOG_STD[at], base[None, None], CONTEXT[at]).z[0, 0]

            jacobian = torch.autograd.functional.jacobian(to_z, noise[sample, row])
            base = gaussian_log_prob(noise[sample, row], torch.zeros(2), torch.zeros(2))
            expected = base - torch.linalg.slogdet(jacobian).logabsdet
            assert float(drawn.log_q[sample, row].detach()) == pytest.approx(float(expected), abs=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_bound_of_every_posterior_stays_under_the_evidence(kind: PosteriorKind) -> None:
    """p(z) = N(0, I), p(x | z) = N(z, 0.8² I). A determinant of the wrong sign would leave the evidence behind."""
    made, x = posterior(kind, 0.15), torch.tensor([0.7, -0.4], dtype=DTYPE)
    with torch.no_grad():
        drawn = made.draw(MEAN, LOG_STD, normal(3000, 2, 2, seed=5), CONTEXT)
        zero, of_x = torch.zeros(2, dtype=DTYPE), torch.full((2,), math.log(0.8), dtype=DTYPE)
        draws = drawn.beside(gaussian_log_prob(drawn.z, zero, zero) + gaussian_log_prob(drawn.z, x, of_x))
    evidence = float(-0.5 * (x.square() / 1.64 + math.log(2 * math.pi * 1.64)).sum())
    assert bool((elbo(draws) < evidence - 0.02).all())
    assert iwae(draws).tolist() == pytest.approx([evidence] * 2, abs=0.1)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "householder"])
def test_begins_at_the_diagonal_gaussian(kind: PosteriorKind) -> None:
    torch.manual_seed(0)
    made, noise = Posterior(2, kind=kind, context=3).double(), normal(4, 2, 2)
    drawn, plain = (p.draw(MEAN, LOG_STD, noise, CONTEXT) for p in (made, posterior("diagonal")))
    assert torch.allclose(drawn.z, plain.z, atol=1e-9)
    assert torch.allclose(drawn.log_q, plain.log_q, atol=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "diagonal"])
def test_a_gradient_reaches_every_part(kind: PosteriorKind) -> None:
    made = posterior(kind)
    parts = [t.clone().requires_grad_() for t in (MEAN, LOG_STD, CONTEXT)]
    drawn = made.draw(parts[0], parts[1], normal(4, 2, 2), parts[2])
    ((drawn.z - 1).square().sum(-1) + drawn.log_q).sum().backward()
    assert all(p.grad is not None and bool((p.grad != 0).any()) for p in [*parts, *made.parameters()])
    assert drawn.log_q_held is None


def test_held_density_feels_the_parameters_through_the_draw_alone() -> None:
    mean, log_std = MEAN.clone().requires_grad_(), LOG_STD.clone().requires_grad_()
    noise = normal(1, 2, 2)
    drawn = posterior("diagonal").draw(mean, log_std, noise)
    assert drawn.log_q_held is not None
    assert torch.equal(drawn.log_q_held, drawn.log_q)
    found = torch.autograd.grad(drawn.log_q_held.sum(), (mean, log_std))
    assert torch.allclose(found[0], -noise[0] / LOG_STD.exp())
    assert torch.allclose(found[1], -noise[0].square())


def test_reflections_keep_lengths_and_are_their_own_inverse() -> None:
    torch.manual_seed(1)
    layer, v = Householder(4, 3).double(), normal(5, 4)
    seen = Seen(torch.ones_like(v), torch.ones_like(v), normal(5, 3, seed=1))
    moved, log_det = layer(v, seen)
    assert torch.allclose(moved.norm(dim=1), v.norm(dim=1))
    assert torch.allclose(layer.inverse(moved, seen), v)
    assert not torch.allclose(moved, v)
    assert bool((log_det == 0).all())
    partly = Seen(torch.ones_like(v), torch.tensor([1.0, 0, 1, 1], dtype=DTYPE).expand_as(v), seen.context)
    assert torch.equal(layer(v * partly.present, partly)[0][:, 1], torch.zeros(5, dtype=DTYPE))


def test_reflections_make_a_full_covariance_of_a_diagonal_one() -> None:
    made = posterior("householder")
    z = made.draw(MEAN[:1], torch.tensor([[1.0, -1.0]], dtype=DTYPE), normal(4000, 1, 2), CONTEXT[:1]).z[:, 0]
    spread = torch.linalg.eigvalsh(z.detach().T.cov()).sqrt()
    assert spread.tolist() == pytest.approx([math.exp(-1), math.exp(1)], rel=0.05)
    assert abs(float(z.detach().T.corrcoef()[0, 1])) > 0.2


@pytest.mark.parametrize("kind", KINDS)
def test_rows_and_classes_are_drawn_as_rows_alone(kind: PosteriorKind) -> None:
    """(2 rows, 3 classes) with noise common to the classes, and context of the rows."""
    made, noise = posterior(kind), normal(4, 2, 1, 2)
    mean, log_std = normal(2, 3, 2, seed=8), 0.2 * normal(2, 3, 2, seed=9)
    drawn = made.draw(mean, log_std, noise, CONTEXT[:, None])
    assert drawn.z.shape == (4, 2, 3, 2)
    for label in range(3):
        alone = made.draw(mean[:, label], log_std[:, label], noise[:, :, 0], CONTEXT)
        assert torch.allclose(drawn.z[:, :, label], alone.z)
        assert torch.allclose(drawn.log_q[:, :, label], alone.log_q)
