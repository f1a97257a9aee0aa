"""Priors: densities that integrate to one, draws that follow them, and the best prior of a set of posteriors."""

from __future__ import annotations

import copy
import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from cropgen.models.layers.vae.latents import GaussianLatent
from cropgen.models.layers.vae.posteriors import gaussian_kl, gaussian_log_prob
from cropgen.models.layers.vae.priors import FlowPrior, MixtureOfGaussians, Prior, PriorKind, StandardNormal, VampPrior

DTYPE = torch.float64
KINDS: tuple[PriorKind, ...] = get_args(PriorKind)


class Owner(nn.Module):
    """An encoder of pairs of numbers and the prior made of it."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(3, 4)
        self.prior = VampPrior(2, torch.randn(5, 3), self.encode)

    def encode(self, u: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = self.encoder(u).chunk(2, -1)
        return mean, 0.3 * torch.tanh(log_std)


def prior(kind: PriorKind, spread: float = 0.2) -> Prior:
    torch.manual_seed(2)
    made: nn.Module = Owner() if kind == "vamp" else StandardNormal(2)
    if kind == "mog":
        made = MixtureOfGaussians(2, 4)
    if kind in ("realnvp", "autoregressive"):
        made = FlowPrior(2, kind, layers=3, hidden=16)
    made = made.double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += spread * torch.randn_like(parameter)
    return made.prior if isinstance(made, Owner) else made


@pytest.mark.parametrize("kind", KINDS)
def test_density_integrates_to_one_over_any_leading_shape(kind: PriorKind) -> None:
    axis = torch.arange(-9, 9, 0.1, dtype=DTYPE)
    grid = torch.cartesian_prod(axis, axis).reshape(len(axis), len(axis), 2)
    with torch.no_grad():
        assert float(prior(kind).log_prob(grid).exp().sum()) * 0.01 == pytest.approx(1, abs=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_draws_follow_the_density_and_the_generator(kind: PriorKind) -> None:
    made = prior(kind)
    axis = torch.arange(-9, 9, 0.1, dtype=DTYPE)
    grid = torch.cartesian_prod(axis, axis)
    with torch.no_grad():
        mass = made.log_prob(grid).exp() * 0.01
        z = made.sample(8000, torch.Generator().manual_seed(1))
        for function in (
            lambda v: v[..., 0],
            lambda v: v[..., 1],
            lambda v: v[..., 0] * v[..., 1],
            lambda v: v.norm(dim=-1),
        ):
            expected, got = float((mass * function(grid)).sum()), function(z)
            assert float(got.mean()) == pytest.approx(expected, abs=4 * float(got.std()) / math.sqrt(8000) + 0.01)
    assert torch.equal(z[:5], made.sample(8000, torch.Generator().manual_seed(1))[:5])


def test_mixture_by_hand() -> None:
    made = MixtureOfGaussians(1, 2).double()
    with torch.no_grad():
        made.mean.copy_(torch.tensor([[0.0], [2.0]]))
        made.log_std.copy_(torch.tensor([[0.0], [math.log(0.5)]]))
        found = float(made.log_prob(torch.tensor([1.0], dtype=DTYPE)).exp())
    by_hand = 0.5 * (math.exp(-0.5) + 2 * math.exp(-2)) / math.sqrt(2 * math.pi)
    assert found == pytest.approx(by_hand)


def test_standard_normal_at_temperature_zero_is_its_mean() -> None:
    assert bool((StandardNormal(3).sample(4, torch.Generator(), 0.0) == 0).all())


@pytest.mark.parametrize("kind", ["realnvp", "autoregressive"])
def test_flows_begin_at_the_standard_normal(kind: PriorKind) -> None:
    z = torch.randn(4, 3, 2, dtype=DTYPE)
    assert torch.allclose(prior(kind, 0).log_prob(z), StandardNormal(2).double().log_prob(z))


def test_vamp_is_the_mean_of_the_posteriors_of_its_pseudo_inputs() -> None:
    torch.manual_seed(0)
    owner, z = Owner().double(), torch.randn(6, 2, dtype=DTYPE)
    mean, log_std = owner.encode(owner.prior.pseudo_inputs)
    each = torch.stack([gaussian_log_prob(z, m, s) for m, s in zip(mean, log_std, strict=True)])
    assert torch.allclose(owner.prior.log_prob(z), each.exp().mean(0).log())
    owner.prior.log_prob(z).sum().backward()
    assert owner.encoder.weight.grad is not None
    assert owner.prior.pseudo_inputs.grad is not None


def test_vamp_leaves_the_encoder_to_its_owner_and_copies_with_it() -> None:
    owner = Owner().double()
    assert set(owner.prior.state_dict()) == {"pseudo_inputs"}
    twin, z = copy.deepcopy(owner), torch.randn(3, 2, dtype=DTYPE)
    with torch.no_grad():
        twin.encoder.weight.add_(1)
    assert not torch.allclose(twin.prior.log_prob(z), owner.prior.log_prob(z))
    assert torch.allclose(twin.prior.log_prob(z), _vamp_by_hand(twin, z))


def _vamp_by_hand(owner: Owner, z: Tensor) -> Tensor:
    mean, log_std = owner.encode(owner.prior.pseudo_inputs)
    return torch.logsumexp(gaussian_log_prob(z[:, None], mean, log_std), -1) - math.log(len(mean))


def test_posterior_averaged_over_the_data_is_the_best_prior() -> None:
    """The mean divergence to it is the information of row and latent, less than to N(0, I)."""
    mean = torch.tensor([[-2.0], [2.0]], dtype=DTYPE)
    log_std = torch.full((2, 1), -1.0, dtype=DTYPE)
    vamp = VampPrior(1, mean, lambda u: (u, log_std))
    noise = torch.randn(5000, 2, 1, dtype=DTYPE, generator=torch.Generator().manual_seed(1))
    z = mean + log_std.exp() * noise
    with torch.no_grad():
        divergence = float((gaussian_log_prob(z, mean, log_std) - vamp.log_prob(z)).mean())
    assert divergence == pytest.approx(math.log(2), abs=1e-3)
    assert divergence < float(gaussian_kl(mean, log_std).mean()) - 1


@pytest.mark.parametrize("kind", ["mog", "vamp", "realnvp", "autoregressive"])
def test_draws_estimate_no_more_of_the_divergence_than_the_departure_of_the_prior(kind: PriorKind) -> None:
    """At p(z) = N(0, I) the divergence is the closed form whatever is drawn; elsewhere it is right on average."""
    torch.manual_seed(0)
    latent = GaussianLatent(
        3, 2, 2, hidden=8, posterior="diagonal", posterior_layers=1, prior=kind, prior_components=4, at_start=True
    ).double()
    features = torch.randn(5, 3, dtype=DTYPE)
    noise = torch.randn(4000, 5, 1, 2, generator=torch.Generator().manual_seed(1), dtype=DTYPE)
    with torch.no_grad():
        begun = latent.learnt(features, noise[:3])
        assert torch.allclose(begun.divergence, torch.zeros((), dtype=DTYPE), atol=1e-9)
        if kind != "vamp":
            for parameter in latent.encoder.parameters():
                parameter.add_(0.3 * torch.randn_like(parameter))
            mean, log_std, _ = latent.encode(features)
            exact = gaussian_kl(mean, log_std).sum(-1)
            assert torch.allclose(latent.learnt(features, noise[:3]).divergence[..., 0], exact, atol=1e-9)
        for parameter in latent.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
        drawn = latent.learnt(features, noise)
        plain = drawn.log_q - drawn.log_prior
        error = (drawn.divergence[..., 0] - plain).std(0) / len(noise) ** 0.5
    assert ((drawn.divergence[..., 0].mean(0) - plain.mean(0)).abs() <= 4 * error + 1e-9).all()
