"""The parts put together: the exact evidence of seasons with gaps, and gradients through every combination."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn import functional

from cropgen.models.layers.vae.bounds import ESTIMATORS, Draws, elbo, iwae
from cropgen.models.layers.vae.decoders import DateDecoder
from cropgen.models.layers.vae.likelihoods import Gaussian, LikelihoodKind, likelihood_of
from cropgen.models.layers.vae.posteriors import Posterior, PosteriorKind
from cropgen.models.layers.vae.priors import FlowPrior, MixtureOfGaussians, Prior, StandardNormal

DTYPE = torch.float64
STD = 0.6
LATENT, DATES, BANDS = 2, 4, 2


def normal(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=DTYPE, generator=torch.Generator().manual_seed(seed))


WEIGHT, SHIFT = normal(DATES * BANDS, LATENT, seed=1), normal(DATES * BANDS, seed=2)
MASK = torch.tensor([[True] * 4, [True, False, True, False], [False, False, False, True], [False] * 4])
SEASONS = normal(4, DATES, BANDS, seed=3)


def linear_raw(z: Tensor) -> Tensor:
    """What a linear decoder with one standard deviation says: (…, Z) → (…, T, 2 C)."""
    mean = (z @ WEIGHT.T + SHIFT).unflatten(-1, (DATES, BANDS))
    return torch.cat([mean, torch.full_like(mean, math.log(math.expm1(STD - 0.01)))], -1)


def exact_evidence(mean: Tensor, covariance: Tensor) -> Tensor:
    """(4,) log p(x) of what each row observed, z ~ N(mean, covariance)."""
    rows = []
    for x, mask in zip(SEASONS, MASK, strict=True):
        seen = mask.repeat_interleave(BANDS)
        w = WEIGHT[seen]
        if not bool(seen.any()):
            rows.append(torch.zeros((), dtype=DTYPE))
            continue
        noise = STD**2 * torch.eye(len(w), dtype=DTYPE)
        law = MultivariateNormal(w @ mean + SHIFT[seen], w @ covariance @ w.T + noise)
        rows.append(law.log_prob(x.flatten()[seen]))
    return torch.stack(rows)


def exact_posterior() -> tuple[Tensor, Tensor]:
    """Mean and covariance (4, Z), (4, Z, Z) of z given what each row observed, z ~ N(0, I)."""
    means, covariances = [], []
    for x, mask in zip(SEASONS, MASK, strict=True):
        w = WEIGHT * mask.repeat_interleave(BANDS)[:, None]
        covariance = torch.linalg.inv(torch.eye(LATENT, dtype=DTYPE) + w.T @ w / STD**2)
        means.append(covariance @ w.T @ (x.flatten() - SHIFT) / STD**2)
        covariances.append(covariance)
    return torch.stack(means), torch.stack(covariances)


def drawn(prior: Prior, samples: int, widen: float = 1.3) -> Draws:
    """Draws of a diagonal posterior around the exact one, and their scores."""
    mean, covariance = exact_posterior()
    log_std = (widen * covariance.diagonal(dim1=1, dim2=2).sqrt()).log()
    draws = Posterior(LATENT).draw(mean, log_std, normal(samples, 4, LATENT, seed=4))
    log_joint = Gaussian(BANDS).log_prob(SEASONS, linear_raw(draws.z), MASK) + prior.log_prob(draws.z)
    return draws.beside(log_joint)


def test_bound_of_seasons_with_gaps_rises_to_the_exact_evidence() -> None:
    exact = exact_evidence(torch.zeros(LATENT, dtype=DTYPE), torch.eye(LATENT, dtype=DTYPE))
    draws = drawn(StandardNormal(LATENT).double(), 20_000)
    assert torch.allclose(iwae(draws), exact, atol=0.03)
    assert bool((elbo(draws) < exact - 0.02).all())
    assert float(exact[3]) == 0


def test_bound_is_exact_under_a_mixture_prior_too() -> None:
    prior = MixtureOfGaussians(LATENT, 2).double()
    with torch.no_grad():
        prior.mean.copy_(torch.tensor([[0.5, 0.0], [-0.3, 0.8]]))
        prior.log_std.copy_(torch.tensor([[0.0, -0.2], [-0.1, 0.0]]))
        parts = [
            exact_evidence(mean, torch.diag((2 * log_std).exp()))
            for mean, log_std in zip(prior.mean, prior.log_std, strict=True)
        ]
        exact = torch.logsumexp(torch.stack(parts), 0) - math.log(2)
        assert torch.allclose(iwae(drawn(prior, 20_000)), exact, atol=0.03)


def test_one_draw_of_the_exact_posterior_is_enough() -> None:
    """With q = p(z | x), here of a rotated latent in which it is diagonal, every weight is the evidence."""
    mean, covariance = exact_posterior()
    row = 1
    spread, basis = torch.linalg.eigh(covariance[row])
    turned = Posterior(LATENT).draw((mean[row] @ basis)[None], 0.5 * spread.log()[None], normal(7, 1, 2, seed=5))
    z = turned.z @ basis.T
    log_joint = Gaussian(BANDS).log_prob(SEASONS[row], linear_raw(z), MASK[row])
    weight = log_joint + StandardNormal(LATENT).double().log_prob(z) - turned.log_q
    exact = exact_evidence(torch.zeros(LATENT, dtype=DTYPE), torch.eye(LATENT, dtype=DTYPE))[row]
    assert torch.allclose(weight, exact.expand_as(weight), atol=1e-9)


@pytest.mark.parametrize("likelihood_kind", get_args(LikelihoodKind))
@pytest.mark.parametrize("posterior_kind", get_args(PosteriorKind))
def test_gradients_are_finite_through_every_combination(
    likelihood_kind: LikelihoodKind, posterior_kind: PosteriorKind
) -> None:
    """Three draws, four rows with gaps, five classes."""
    torch.manual_seed(0)
    likelihood = likelihood_of(likelihood_kind, BANDS)
    decoder = DateDecoder(LATENT, 5, likelihood.outputs, hidden=8)
    posterior = Posterior(LATENT, kind=posterior_kind, context=3, layers=2, hidden=8, rank=2)
    priors = (StandardNormal(LATENT), MixtureOfGaussians(LATENT, 3), FlowPrior(LATENT, "realnvp", layers=2, hidden=8))
    x, day = SEASONS.float().sigmoid()[:, None], torch.arange(0, 360, 90).expand(4, 4)
    names = ["elbo", "iwae", "jvi"] + (["stl", "dreg"] if posterior_kind == "diagonal" else [])
    for prior, name in itertools.product(priors, names):
        encoded = torch.randn(4, 5, 2 * LATENT, requires_grad=True)
        mean, log_std = encoded.chunk(2, -1)
        draws = posterior.draw(mean, 0.3 * log_std, torch.randn(3, 4, 1, LATENT), torch.randn(4, 1, 3))
        raw = decoder(draws.z, day[:, :])
        log_joint = likelihood.log_prob(x, raw, MASK[:, None]) + prior.log_prob(draws.z)
        bound = ESTIMATORS[name](draws.beside(log_joint))
        assert bound.shape == (4, 5)
        (-bound.mean()).backward()
        parts = [encoded, *decoder.parameters(), *posterior.parameters(), *prior.parameters()]
        assert all(part.grad is not None and bool(part.grad.isfinite().all()) for part in parts)


def test_a_flow_prior_learns_in_nats_what_a_normal_one_cannot() -> None:
    """Latents on two sides of zero, drawn by posteriors that stay as they are."""
    torch.manual_seed(1)
    prior, generator = FlowPrior(2, "realnvp", layers=3, hidden=16), torch.Generator().manual_seed(2)

    def latents(rows: int) -> Tensor:
        first = torch.randn((rows, 2), generator=generator)
        side = torch.randint(2, (rows,), generator=generator) * 2 - 1
        return torch.stack([2 * side + 0.3 * first[:, 0], side + 0.3 * first[:, 1]], 1)

    optimiser = torch.optim.Adam(prior.parameters(), lr=0.01)
    for _ in range(90):
        optimiser.zero_grad()
        (-prior.log_prob(latents(128)).mean()).backward()
        torch.nn.utils.clip_grad_norm_(prior.parameters(), 5.0)
        optimiser.step()
    with torch.no_grad():
        held_out = latents(1000)
        gain = prior.log_prob(held_out) - StandardNormal(2).log_prob(held_out)
    assert float(gain.mean()) > 1.0


def test_standard_deviation_of_the_oracle_is_that_of_the_likelihood() -> None:
    raw = linear_raw(torch.zeros(LATENT, dtype=DTYPE))[..., BANDS:]
    assert torch.allclose(0.01 + functional.softplus(raw), torch.full_like(raw, STD))
