"""Remedies of collapse and the measures of the use of a latent."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from cropgen.core.errors import UsageError
from cropgen.models.layers.vae.posteriors import gaussian_kl
from cropgen.models.layers.vae.remedies import AggressivePhase, KLSchedule, free_bits, latent_use


def test_linear_weight_rises_once() -> None:
    schedule = KLSchedule("linear", steps=100, ramp=0.5, weight=2.0)
    assert [schedule.at(step) for step in (0, 25, 50, 99, 100, 10_000)] == pytest.approx([0, 1, 2, 2, 2, 2])


def test_cyclical_weight_rises_in_every_cycle() -> None:
    schedule = KLSchedule("cyclical", steps=100, cycles=4, ramp=0.5)
    cycle = [schedule.at(step) for step in range(25)]
    assert cycle[0] == 0
    assert cycle == sorted(cycle)
    assert cycle[13:] == [1.0] * 12
    assert [schedule.at(step) for step in range(25, 50)] == pytest.approx(cycle)
    assert schedule.at(100) == 1
    assert KLSchedule("none", steps=100, weight=4.0).at(0) == 4


@given(
    st.sampled_from(["none", "linear", "cyclical"]),
    st.integers(1, 500),
    st.integers(1, 9),
    st.floats(0.01, 1),
    st.integers(0, 600),
)
def test_weight_stays_between_zero_and_beta(kind: str, steps: int, cycles: int, ramp: float, step: int) -> None:
    schedule = KLSchedule(kind, steps, 1.5, cycles, ramp)
    assert 0 <= schedule.at(step) <= 1.5


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"cycles": 0}, {"ramp": 0.0}, {"ramp": 1.1}, {"weight": -1.0}])
def test_impossible_schedules_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="annealing"):
        KLSchedule(**{"kind": "linear", "steps": 10, **wrong})


def test_free_bits_are_free_and_no_more() -> None:
    kl = torch.tensor([[0.1, 1.0, 0.6], [0.3, 3.0, 0.2]], requires_grad=True)
    paid = free_bits(kl, 0.5)
    paid.backward()
    assert float(paid.detach()) == pytest.approx(0.5 + 2.0 + 0.5)
    assert kl.grad is not None
    assert kl.grad.tolist() == [[0, 0.5, 0], [0, 0.5, 0]]
    assert float(free_bits(kl.detach(), 0.0)) == pytest.approx(float(kl.detach().mean(0).sum()))


def trained_use(least: float) -> float:
    """Nats of a latent of which the decoder has little need: x = 0.3 c + noise, its scale too wide to care."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    encoder, decoder = nn.Linear(1, 2), nn.Linear(1, 1)
    optimiser = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=0.03)
    x = 0.3 * torch.randn((128, 1), generator=generator)
    for _ in range(250):
        mean, log_std = encoder(x).chunk(2, -1)
        z = mean + log_std.exp() * torch.randn(mean.shape, generator=generator)
        loss = 0.5 * (x - decoder(z)).square().sum(-1).mean() + free_bits(gaussian_kl(mean, log_std), least)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        return float(gaussian_kl(*encoder(x).chunk(2, -1)).mean())


def test_a_latent_that_collapses_keeps_its_free_bits() -> None:
    assert trained_use(0.0) < 0.05
    assert trained_use(0.7) > 0.4


def test_use_of_latents_is_told_and_collapse_is_reported() -> None:
    generator = torch.Generator().manual_seed(2)
    mean = torch.zeros(400, 3)
    mean[:200, 0], mean[200:, 0] = 8.0, -8.0
    log_std, noise = torch.zeros(400, 3), torch.randn((400, 3), generator=generator)
    use = latent_use(mean, log_std, noise)
    assert use.active.tolist() == [True, False, False]
    assert use.kl.tolist() == pytest.approx([32.0, 0, 0])
    assert use.information == pytest.approx(math.log(2), abs=1e-3)
    assert not use.collapsed
    assert use.advice is None
    unused = latent_use(torch.zeros(50, 2), torch.zeros(50, 2), noise[:50, :2])
    assert unused.collapsed
    assert unused.information == pytest.approx(0, abs=1e-5)
    assert "free bits" in str(unused.advice)


def test_information_is_at_most_the_logarithm_of_the_rows() -> None:
    mean = 100 * torch.arange(20.0)[:, None]
    assert latent_use(mean, torch.zeros(20, 1), torch.zeros(20, 1)).information == pytest.approx(math.log(20))


def test_aggressive_phase_ends_when_information_stops_rising() -> None:
    phase = AggressivePhase(patience=2)
    for information, over in [(0.1, False), (0.4, False), (0.3, False), (0.5, False), (0.5, False), (0.2, True)]:
        phase.observe(information)
        assert phase.over is over
    phase.observe(9.0)
    assert phase.over
