"""Kalman's filter and the smoother against the joint Gaussian written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cropgen.models.layers import kalman
from cropgen.models.layers.kalman import Belief

STEPS, STATE, SEEN = 6, 3, 2


def system(seed: int) -> dict[str, Tensor]:
    """Matrices of every date, controls, noises and the first belief."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    return {
        "A": 0.8 * torch.eye(STATE, dtype=torch.float64) + 0.2 * normal(STEPS, STATE, STATE),
        "b": normal(STEPS, STATE),
        "C": normal(STEPS, SEEN, STATE),
        "Q": 0.1 + torch.rand(STATE, generator=generator, dtype=torch.float64),
        "R": 0.1 + torch.rand(SEEN, generator=generator, dtype=torch.float64),
        "m0": normal(STATE),
    }


def joint(s: dict[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (T·Z) and covariance of z_1…T, and the matrix (T·A, T·Z) that reads a off z, by stacking noises."""
    size = STEPS * STATE
    mean, reach = torch.zeros(size, dtype=torch.float64), torch.zeros(size, STATE * (STEPS + 1), dtype=torch.float64)
    latest, path = s["m0"], torch.zeros(STATE, STATE * (STEPS + 1), dtype=torch.float64)
    path[:, :STATE] = torch.eye(STATE)
    for t in range(STEPS):
        latest = s["A"][t] @ latest + s["b"][t]
        path = s["A"][t] @ path
        path[:, STATE * (t + 1) : STATE * (t + 2)] = s["Q"].sqrt().diag()
        mean[t * STATE : (t + 1) * STATE], reach[t * STATE : (t + 1) * STATE] = latest, path
    return mean, reach @ reach.T, torch.block_diag(*s["C"])


def run(s: dict[str, Tensor], a: Tensor, mask: Tensor) -> tuple[list[Belief], list[Belief], Tensor]:
    """Filtered and predicted beliefs, and the log-likelihood of the observed a (T, A)."""
    belief = Belief(s["m0"], torch.eye(STATE, dtype=torch.float64))
    filtered, predicted, total = [], [], torch.zeros((), dtype=torch.float64)
    for t in range(STEPS):
        ahead = kalman.predict(belief, s["A"][t], s["b"][t], s["Q"])
        expected = kalman.expect(ahead, s["C"][t], s["R"])
        density = torch.distributions.MultivariateNormal(expected.mean, expected.cov).log_prob(a[t])
        total = total + mask[t] * density
        belief = kalman.choose(mask[t], kalman.update(ahead, s["C"][t], s["R"], a[t]), ahead)
        filtered.append(belief)
        predicted.append(ahead)
    return filtered, predicted, total


@pytest.mark.parametrize("shown", [(1, 1, 1, 1, 1, 1), (1, 0, 0, 1, 1, 0), (0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 0, 0)])
def test_filter_and_smoother_equal_the_conditional_of_the_joint(shown: tuple[int, ...]) -> None:
    s, mask = system(sum(shown)), torch.tensor(shown, dtype=torch.float64)
    a = torch.randn(STEPS, SEEN, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    mean, cov, reading = joint(s)
    noise = s["R"].repeat(STEPS).diag()

    def conditional(seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        kept = seen.repeat_interleave(SEEN).bool()
        own, across = (reading @ cov @ reading.T + noise)[kept][:, kept], (reading @ cov)[kept]
        gain = torch.linalg.solve(own, across).T
        surprise = a.flatten()[kept] - reading[kept] @ mean
        density = -0.5 * (surprise @ torch.linalg.solve(own, surprise) + torch.linalg.slogdet(own)[1])
        return mean + gain @ surprise, cov - gain @ across, density - 0.5 * int(kept.sum()) * math.log(2 * math.pi)

    filtered, predicted, total = run(s, a, mask)
    smoothed = kalman.smooth(filtered, predicted, list(s["A"]))
    whole_mean, whole_cov, density = conditional(mask)
    torch.testing.assert_close(total, density, rtol=0, atol=1e-10)
    for t in range(STEPS):
        part = slice(t * STATE, (t + 1) * STATE)
        torch.testing.assert_close(smoothed[t].mean, whole_mean[part], rtol=0, atol=1e-10)
        torch.testing.assert_close(smoothed[t].cov, whole_cov[part, part], rtol=0, atol=1e-10)
        past_mean, past_cov, _ = conditional(mask * (torch.arange(STEPS) <= t))
        torch.testing.assert_close(filtered[t].mean, past_mean[part], rtol=0, atol=1e-10)
        torch.testing.assert_close(filtered[t].cov, past_cov[part, part], rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_covariances_stay_symmetric_and_positive_over_a_long_precise_chain(dtype: torch.dtype) -> None:
    """Almost noiseless observations, where the short form of the update loses positivity."""
    noise = torch.full((SEEN,), 1e-5, dtype=dtype)
    reading = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.001, 0.0]], dtype=dtype)
    transition = 0.99 * torch.eye(STATE, dtype=dtype)
    belief = Belief(torch.zeros(STATE, dtype=dtype), 100 * torch.eye(STATE, dtype=dtype))
    filtered, predicted = [], []
    for t in range(200):
        ahead = kalman.predict(
            belief, transition, torch.zeros(STATE, dtype=dtype), torch.full((STATE,), 1e-4).to(dtype)
        )
        belief = kalman.update(ahead, reading, noise, torch.full((SEEN,), math.sin(t / 9), dtype=dtype))
        filtered.append(belief)
        predicted.append(ahead)
    for found in (filtered, kalman.smooth(filtered, predicted, [transition] * 200)):
        cov = torch.stack([b.cov for b in found])
        assert torch.equal(cov, cov.mT)
        assert torch.linalg.eigvalsh(cov.double()).min() > -1e-6
        assert torch.isfinite(torch.stack([b.mean for b in found])).all()


def test_leading_axes_are_independent_chains() -> None:
    one, two = system(1), system(2)
    a = torch.randn(SEEN, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    both = {name: torch.stack([one[name], two[name]]) for name in one}
    cov = torch.eye(STATE, dtype=torch.float64)
    ahead = kalman.predict(Belief(both["m0"], cov), both["A"][:, 0], both["b"][:, 0], both["Q"])
    found = kalman.update(ahead, both["C"][:, 0], both["R"], a)
    for row, s in enumerate((one, two)):
        alone = kalman.predict(Belief(s["m0"], cov), s["A"][0], s["b"][0], s["Q"])
        alone = kalman.update(alone, s["C"][0], s["R"], a)
        torch.testing.assert_close(found.mean[row], alone.mean)
        torch.testing.assert_close(found.cov[row], alone.cov)
