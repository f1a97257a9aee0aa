"""The Kalman variational auto-encoder: its states are those of the exact filter and smoother."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from cropgen.models.dvaes.kvae import KVAE
from cropgen.models.layers import kalman
from cropgen.models.layers.latent_dynamics import log_ratio_per_date
from tests.models.dvaes.crops import SLOTS, TEST, disturbed


def stacked(model: KVAE, control: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and covariance of z_1…T (T·Z), and what reads a_1…T off them, of one fixed linear dynamics."""
    transition, reading = model.transition[0], model.reading[0]
    size = len(transition)
    noise = torch.block_diag(torch.eye(size), *[(model.log_state_noise.exp() + 1e-3).diag()] * SLOTS).double()
    reach, means, latest = [], [], model.initial
    path = torch.zeros(size, size * (SLOTS + 1)).double()
    path[:, :size] = torch.eye(size)
    for t in range(SLOTS):
        latest, path = transition @ latest + control[t], transition @ path
        path[:, size * (t + 1) : size * (t + 2)] = torch.eye(size)
        means.append(latest)
        reach.append(path)
    tall = torch.cat(reach)
    return torch.cat(means), tall @ noise @ tall.T, torch.block_diag(*[reading] * SLOTS)


def test_states_and_density_of_encodings_equal_the_joint_gaussian() -> None:
    model = disturbed("kvae", dynamics=1)
    assert isinstance(model, KVAE)
    with torch.no_grad():
        view = model.view(model._seasons(TEST))
        steps = model.filter(view, model.noise)
        smoothed = kalman.smooth(
            [s.filtered for s in steps], [s.predicted for s in steps], [s.transition for s in steps]
        )
        own_noise = (model.log_noise.exp() + 1e-3).repeat(SLOTS)
        sample, row, k = 1, int((~TEST.mask).any(1).nonzero()[0]), 0
        control = model.control(view.control[:, row]) + model.of_class[k]
        mean, cov, reading = stacked(model, control)
        kept = view.mask[:, 0, row, 0].bool().repeat_interleave(model.noise_width)
        assert not kept.all()
        a = torch.cat([s.a[sample, row, k] for s in steps])[kept]
        own = (reading @ cov @ reading.T + own_noise.diag())[kept][:, kept]
        gain = torch.linalg.solve(own, (reading @ cov)[kept]).T
        expected = mean + gain @ (a - reading[kept] @ mean)
        found = torch.cat([belief.mean[sample, row, k] for belief in smoothed])
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
        spread = cov - gain @ (reading @ cov)[kept]
        for t, belief in enumerate(smoothed):
            part = slice(t * len(model.initial), (t + 1) * len(model.initial))
            torch.testing.assert_close(belief.cov[sample, row, k], spread[part, part], rtol=0, atol=1e-9)
        prior = MultivariateNormal(reading[kept] @ mean, own).log_prob(a)
        for t, step in enumerate(steps):
            expect = kalman.expect(step.predicted, model.reading[0], model.log_noise.exp() + 1e-3)
            shift, ratio = (part[sample, row, k] for part in step.parts)
            factor = torch.linalg.cholesky(expect.cov[sample, row, k])
            q = MultivariateNormal(
                expect.mean[sample, row, k] + factor @ shift, scale_tril=factor @ torch.exp(ratio / 2).diag()
            )
            if view.mask[t, 0, row, 0]:
                prior = prior - q.log_prob(step.a[sample, row, k])
        walk = model.walk(view, model.noise)
        ratio = (log_ratio_per_date(walk.path, model.noise) * view.mask)[:, sample, row, k].sum()
        torch.testing.assert_close(ratio, prior, rtol=0, atol=1e-9)


def test_the_smoother_knows_what_comes_later() -> None:
    model = disturbed("kvae")
    assert isinstance(model, KVAE)
    whole, shorter = model.smoothed_states(TEST), model.smoothed_states(TEST.until(float(TEST.day[0, -2])))
    torch.testing.assert_close(whole[:, -1], model.latent_states(TEST)[:, -1], rtol=0, atol=1e-10)
    seen = TEST.mask[:, -1]
    assert whole.shape == (len(TEST), SLOTS, 3)
    assert (whole - shorter)[seen, :-1].abs().max() > 1e-4


def test_smoothing_is_the_size_of_what_mixes_the_dynamics() -> None:
    model = disturbed("kvae", smoothing=7)
    assert isinstance(model, KVAE)
    assert model.memory.hidden_size == 7
    assert "mixes the linear dynamics" in (type(model.options).model_fields["smoothing"].description or "")
