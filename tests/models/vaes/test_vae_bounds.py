"""Estimators against exact gradients, found by counting all outcomes or by Gauss-Hermite quadrature."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from cropgen.core.errors import UsageError
from cropgen.models.layers.vae import bounds
from cropgen.models.layers.vae.bounds import Baseline, Draws
from cropgen.models.layers.vae.posteriors import gaussian_log_prob

MANY = 10_000
DTYPE = torch.float64
X, NOISE = 1.3, 0.7
# p(z) = N(θ, 1), p(x | z) = N(z, 0.7²), q(z) = N(φ_0, e^{2 φ_1})
THETA, PHI = 0.2, (0.4, -0.5)
EXACT_PHI = (THETA + (X - THETA) / (1 + NOISE**2), 0.5 * math.log(NOISE**2 / (1 + NOISE**2)))
LOG_EVIDENCE = -0.5 * ((X - THETA) ** 2 / (1 + NOISE**2) + math.log(2 * math.pi * (1 + NOISE**2)))


def gaussian_draws(theta: Tensor, phi: Tensor, noise: Tensor) -> Draws:
    """theta (B,), phi (B, 2), noise (S, B)."""
    mean, log_std = phi[:, :1], phi[:, 1:]
    z = mean + log_std.exp() * noise[..., None]
    log_joint = gaussian_log_prob(z, theta[:, None], torch.zeros_like(log_std))
    of_x = torch.full_like(log_std, X), torch.full_like(log_std, math.log(NOISE))
    log_joint = log_joint + gaussian_log_prob(z, *of_x)
    held = gaussian_log_prob(z, mean.detach(), log_std.detach())
    return Draws(z, log_joint, gaussian_log_prob(z, mean, log_std), held)


def gradients(estimator, samples: int, phi=PHI, seed: int = 0) -> Tensor:
    """(10⁴, 3) independent estimates of the gradient in θ and φ."""
    theta = torch.full((MANY,), THETA, dtype=DTYPE, requires_grad=True)
    free = torch.tensor(phi, dtype=DTYPE).repeat(MANY, 1).requires_grad_()
    noise = torch.randn((samples, MANY), dtype=DTYPE, generator=torch.Generator().manual_seed(seed))
    estimator(gaussian_draws(theta, free, noise)).sum().backward()
    assert theta.grad is not None
    assert free.grad is not None
    return torch.cat([theta.grad[:, None], free.grad], 1)


def exact_gradient(samples: int, bound=bounds.iwae) -> Tensor:
    """Of L_S, by Gauss-Hermite quadrature over the S noises."""
    nodes, weights = np.polynomial.hermite_e.hermegauss({1: 60, 2: 60, 3: 40}[samples])
    noise = torch.tensor(list(itertools.product(nodes, repeat=samples)), dtype=DTYPE).T
    weight = torch.tensor(list(itertools.product(weights / weights.sum(), repeat=samples)), dtype=DTYPE).prod(-1)
    theta = torch.tensor(THETA, dtype=DTYPE, requires_grad=True)
    phi = torch.tensor(PHI, dtype=DTYPE, requires_grad=True)
    count = noise.shape[1]
    value = bound(gaussian_draws(theta.expand(count), phi.expand(count, 2), noise))
    (weight * value).sum().backward()
    assert theta.grad is not None
    assert phi.grad is not None
    return torch.cat([theta.grad[None], phi.grad])


def unbiased(found: Tensor, exact: Tensor) -> bool:
    error = found.std(0) / math.sqrt(len(found))
    return bool(((found.mean(0) - exact).abs() <= 3 * error + 1e-12).all())


@pytest.mark.parametrize("name", ["elbo", "stl"])
@pytest.mark.parametrize("samples", [1, 3])
def test_gradient_of_the_elbo_is_unbiased(name: str, samples: int) -> None:
    assert unbiased(gradients(bounds.ESTIMATORS[name], samples), exact_gradient(1))


@pytest.mark.parametrize("name", ["iwae", "dreg"])
@pytest.mark.parametrize("samples", [2, 3])
def test_gradient_of_the_importance_weighted_bound_is_unbiased(name: str, samples: int) -> None:
    assert unbiased(gradients(bounds.ESTIMATORS[name], samples), exact_gradient(samples))


def test_gradient_of_the_jackknife_is_unbiased_for_its_own_expectation() -> None:
    assert unbiased(gradients(bounds.jvi, 3), exact_gradient(3, bounds.jvi))


def test_dropping_the_score_from_the_importance_weighted_bound_would_be_biased() -> None:
    """Unlike for the ELBO: the reason why `dreg` weighs the draws twice."""
    dropped = gradients(lambda d: bounds.log_mean_exp(d.log_joint - d.log_q_held), 3)
    assert not unbiased(dropped[:, 1:], exact_gradient(3)[1:])


def test_unit_weights_in_place_of_gradients_would_not_be_the_gradient() -> None:
    """∇ Σ w̃ log w with the shares differentiated, as the gradient is sometimes printed, is not ∇ L_S."""
    printed = gradients(lambda d: (torch.softmax(d.log_weight, 0) * d.log_weight).sum(0), 3)
    assert not unbiased(printed, exact_gradient(3))


def test_stl_has_no_variance_at_the_exact_posterior_and_elbo_has() -> None:
    assert float(gradients(bounds.stl, 1, EXACT_PHI)[:, 1:].std(0).max()) < 1e-9
    assert float(gradients(bounds.elbo, 1, EXACT_PHI)[:, 1:].std(0).min()) > 0.1


def test_dreg_varies_less_than_iwae_and_its_signal_grows_with_the_samples() -> None:
    def signal(name: str, samples: int) -> float:
        found = gradients(bounds.ESTIMATORS[name], samples)[:, 1]
        return float(found.mean().abs() / found.std())

    for samples in (4, 16):
        plain, doubled = gradients(bounds.iwae, samples), gradients(bounds.dreg, samples)
        assert bool((doubled[:, 1:].std(0) < plain[:, 1:].std(0)).all())
        assert torch.allclose(doubled[:, 0], plain[:, 0])
    assert signal("iwae", 64) < signal("iwae", 4)
    assert signal("dreg", 64) > signal("dreg", 4)


def test_importance_weighted_bound_rises_to_the_exact_evidence() -> None:
    def bound(samples: int) -> tuple[float, float]:
        noise = torch.randn((samples, 2000), dtype=DTYPE, generator=torch.Generator().manual_seed(3))
        theta, phi = torch.full((2000,), THETA, dtype=DTYPE), torch.tensor(PHI, dtype=DTYPE).repeat(2000, 1)
        value = bounds.iwae(gaussian_draws(theta, phi, noise))
        return float(value.mean()), float(value.std()) / math.sqrt(2000)

    found = [bound(samples) for samples in (1, 5, 50, 500)]
    values = [value for value, _ in found]
    assert values == sorted(values)
    assert all(value <= LOG_EVIDENCE + 3 * error for value, error in found)
    assert values[0] < LOG_EVIDENCE - 0.05
    assert values[-1] == pytest.approx(LOG_EVIDENCE, abs=2e-3)


def test_bound_is_taken_for_every_row_before_rows_are_averaged_and_keeps_its_sign() -> None:
    log_weight = torch.tensor([[0.0, -10.0], [2.0, -30.0]], dtype=DTYPE)
    draws = Draws(torch.zeros(2, 2, 1), log_weight, torch.zeros_like(log_weight))
    by_hand = [math.log((1 + math.exp(2)) / 2), math.log((math.exp(-10) + math.exp(-30)) / 2)]
    assert bounds.iwae(draws).tolist() == pytest.approx(by_hand)
    assert bool((bounds.iwae(draws) >= bounds.elbo(draws)).all())
    of_means = math.log(sum(math.exp(-float(w)) for w in log_weight.mean(1)) / 2)
    assert float(bounds.iwae(draws).mean()) != pytest.approx(of_means, abs=0.5)


def test_jackknife_is_nearer_to_the_evidence_than_the_bound_it_corrects() -> None:
    noise = torch.randn((8, 40_000), dtype=DTYPE, generator=torch.Generator().manual_seed(5))
    theta, phi = torch.full((40_000,), THETA, dtype=DTYPE), torch.tensor(PHI, dtype=DTYPE).repeat(40_000, 1)
    draws = gaussian_draws(theta, phi, noise)
    away = [abs(float(bounds.jvi(draws, order).mean()) - LOG_EVIDENCE) for order in (0, 1)]
    assert torch.allclose(bounds.jvi(draws, 0), bounds.iwae(draws))
    assert away[1] < 0.5 * away[0]


def test_jackknife_of_first_order_by_hand() -> None:
    w = torch.tensor([0.3, 1.1, 2.0], dtype=DTYPE)
    draws = Draws(torch.zeros(3, 1), w.log(), torch.zeros(3, dtype=DTYPE))
    pairs = np.mean([math.log((0.3 + 1.1) / 2), math.log((0.3 + 2.0) / 2), math.log((1.1 + 2.0) / 2)])
    assert float(bounds.jvi(draws)) == pytest.approx(3 * math.log(3.4 / 3) - 2 * pairs)


# A categorical latent of three values: p(x, k) from a table, q = softmax(φ).

LOG_JOINT = torch.tensor([-1.0, -2.5, -0.4], dtype=DTYPE)
LOGITS = torch.tensor([0.6, 0.1, -0.7], dtype=DTYPE)


def categorical_draws(table: Tensor, logits: Tensor, index: Tensor) -> Draws:
    """table and logits (B, 3), index (S, B)."""
    log_q = torch.log_softmax(logits, -1)
    rows = torch.arange(len(table))
    return Draws(index[..., None].to(DTYPE), table[rows, index], log_q[rows, index])


def categorical_gradients(estimator, samples: int, seed: int = 0) -> Tensor:
    table, logits = (t.repeat(MANY, 1).requires_grad_() for t in (LOG_JOINT, LOGITS))
    share = torch.softmax(LOGITS, -1)
    index = torch.multinomial(share, samples * MANY, True, generator=torch.Generator().manual_seed(seed))
    estimator(categorical_draws(table, logits, index.reshape(samples, MANY))).sum().backward()
    assert table.grad is not None
    assert logits.grad is not None
    return torch.cat([table.grad, logits.grad], 1)


def exact_categorical_gradient(samples: int) -> Tensor:
    """Of L_S, summed over all 3^S outcomes."""
    table, logits = (t.clone().requires_grad_() for t in (LOG_JOINT, LOGITS))
    index = torch.tensor(list(itertools.product(range(3), repeat=samples))).T
    log_q = torch.log_softmax(logits, -1)
    weight = log_q[index].sum(0).exp()
    (weight * bounds.log_mean_exp(table[index] - log_q[index])).sum().backward()
    assert table.grad is not None
    assert logits.grad is not None
    return torch.cat([table.grad, logits.grad])


def plain_score(draws: Draws) -> Tensor:
    """The multi-sample bound by the score function, without any baseline."""
    bound = bounds.iwae(draws)
    return bound + (bound.detach() * (draws.log_q - draws.log_q.detach())).sum(0)


@pytest.mark.parametrize("samples", [2, 4])
def test_vimco_is_unbiased_and_varies_less_than_the_plain_score(samples: int) -> None:
    exact, found = exact_categorical_gradient(samples), categorical_gradients(bounds.vimco, samples)
    plain = categorical_gradients(plain_score, samples)
    assert unbiased(found, exact)
    assert unbiased(plain, exact)
    assert float(found[:, 3:].var(0).sum()) < 0.5 * float(plain[:, 3:].var(0).sum())


def test_nvil_is_unbiased_with_any_baseline_and_varies_less_with_a_good_one() -> None:
    exact = exact_categorical_gradient(1)
    level = float((torch.softmax(LOGITS, -1) * (LOG_JOINT - torch.log_softmax(LOGITS, -1))).sum())
    none, good = (
        categorical_gradients(lambda d, b=b: bounds.nvil(d, torch.full((MANY,), b, dtype=DTYPE)), 1)
        for b in (0.0, level)
    )
    assert unbiased(none, exact)
    assert unbiased(good, exact)
    assert float(good[:, 3:].var(0).sum()) < 0.8 * float(none[:, 3:].var(0).sum())


def test_shares_of_the_wake_phase_by_hand() -> None:
    table, logits = (t[None].clone().requires_grad_() for t in (LOG_JOINT, LOGITS))
    draws = categorical_draws(table, logits, torch.tensor([[0], [2]]))
    value = bounds.wake(draws)
    value.sum().backward()
    log_q = torch.log_softmax(LOGITS, -1)
    w = (LOG_JOINT - log_q).exp()
    share = torch.tensor([w[0] / (w[0] + w[2]), 0, w[2] / (w[0] + w[2])], dtype=DTYPE)
    assert float(value.detach()) == pytest.approx(math.log(float(w[0] + w[2]) / 2))
    assert torch.allclose(table.grad[0], share)
    assert torch.allclose(logits.grad[0], share - log_q.exp())


POSTERIOR = torch.softmax(torch.tensor([0.0, 1.2, -0.8, 0.4, -2.0], dtype=DTYPE), -1)


@pytest.mark.parametrize(("estimator", "samples"), [(bounds.vimco, 5), (bounds.wake, 20)])
def test_recovers_a_known_categorical_posterior(estimator, samples: int) -> None:
    logits = torch.zeros(5, dtype=DTYPE, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.05)
    generator = torch.Generator().manual_seed(1)
    table = (POSTERIOR.log() - 3.0).expand(64, -1)
    for step in range(200):
        share = torch.softmax(logits.detach(), -1)
        index = torch.multinomial(share, samples * 64, True, generator=generator).reshape(samples, 64)
        optimiser.zero_grad()
        (-estimator(categorical_draws(table, logits.expand(64, -1), index)).mean()).backward()
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 200)
        optimiser.step()
    assert torch.allclose(torch.softmax(logits.detach(), -1), POSTERIOR, atol=0.02)


def test_sleep_recovers_the_posteriors_of_all_observations() -> None:
    generator = torch.Generator().manual_seed(2)
    joint = torch.rand((3, 4), dtype=DTYPE, generator=generator)
    joint = joint / joint.sum()
    logits = torch.zeros(3, 4, dtype=DTYPE, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.05)
    for step in range(250):
        dreamt = torch.multinomial(joint.flatten(), 512, True, generator=generator)
        optimiser.zero_grad()
        log_q = torch.log_softmax(logits, -1)[dreamt // 4, dreamt % 4]
        (-bounds.sleep(log_q[None]).mean()).backward()
        optimiser.param_groups[0]["lr"] = 0.05 * (1 - step / 250)
        optimiser.step()
    assert torch.allclose(torch.softmax(logits.detach(), -1), joint / joint.sum(1, keepdim=True), atol=0.03)


def test_all_estimators_begin_with_the_value_of_their_bound() -> None:
    noise = torch.randn((4, 6), dtype=DTYPE, generator=torch.Generator().manual_seed(4))
    draws = gaussian_draws(torch.full((6,), THETA, dtype=DTYPE), torch.tensor(PHI, dtype=DTYPE).repeat(6, 1), noise)
    assert torch.allclose(bounds.stl(draws), bounds.elbo(draws))
    for estimator in (bounds.dreg, bounds.vimco, bounds.wake):
        assert torch.allclose(estimator(draws), bounds.iwae(draws))
    assert torch.allclose(bounds.nvil(draws, torch.ones(6, dtype=DTYPE), 3.0), bounds.elbo(draws))


def test_weights_far_apart_stay_finite() -> None:
    log_weight = torch.tensor([[-2000.0], [500.0], [-1.0]], requires_grad=True)
    draws = Draws(torch.zeros(3, 1, 1), log_weight, torch.zeros(3, 1))
    for name in ("iwae", "jvi", "vimco", "wake"):
        assert bool(bounds.ESTIMATORS[name](draws).isfinite().all())


def test_baseline_learns_the_signal_and_its_scale() -> None:
    torch.manual_seed(0)
    baseline, features = Baseline(1).double(), torch.linspace(-1, 1, 64, dtype=DTYPE)[:, None]
    optimiser = torch.optim.Adam(baseline.parameters(), lr=0.02)
    signal = (20 + 3 * features[:, 0])[None].repeat(2, 1)
    for _ in range(200):
        optimiser.zero_grad()
        baseline.loss(signal, baseline(features)).backward()
        optimiser.step()
    assert torch.allclose(baseline(features), signal[0], atol=0.5)
    assert float(baseline.scale) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("estimator", [bounds.vimco, bounds.wake, lambda d: bounds.nvil(d, torch.zeros(1))])
def test_scores_refuse_draws_with_a_gradient(estimator) -> None:
    z = torch.zeros(3, 1, 1, requires_grad=True)
    with pytest.raises(UsageError, match="without a gradient"):
        estimator(Draws(z, z.sum(-1), z.sum(-1)))


def test_impossible_settings_are_refused() -> None:
    one = Draws(torch.zeros(1, 1, 1), torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(UsageError, match="at least 2 samples, got 1"):
        bounds.vimco(one)
    with pytest.raises(UsageError, match="at least 3 samples, got 1"):
        bounds.jvi(one, 2)
    for estimator in (bounds.stl, bounds.dreg):
        with pytest.raises(UsageError, match="hold its parameters"):
            estimator(one)
