"""The spatial dependency layer, the ladder it stands in, and averages of weights."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import pytest
import torch
from torch import Tensor, nn

from cropgen.core.errors import UsageError
from cropgen.models.base import Context
from cropgen.models.layers.bank import Bank
from cropgen.models.layers.vae.averaging import WeightAverage
from cropgen.models.layers.vae.spatial import ResidualSpatialDependency, SpatialDependency, Sweep
from cropgen.models.vaes.sdn_vae import SDNVAE, Level
from tests.models.dvaes.crops import DATA, TEST
from tests.models.vaes.rows import disturbed, normal_log_density

WIDTH = 5


def by_hand(sweep: Sweep, x: Tensor) -> Tensor:
    """Date by date, gate by gate, as the table of the layer is written."""
    a, b, c, d = sweep.own.weight, sweep.own.bias, sweep.neighbour.weight, sweep.neighbour.bias
    order = range(x.shape[1] - 1, -1, -1) if sweep.backward else range(x.shape[1])
    found, last = x.clone(), torch.zeros_like(x[:, 0])
    for t in order:
        now = x[:, t]
        pre = [now @ a[i * WIDTH : (i + 1) * WIDTH].T + b[i * WIDTH : (i + 1) * WIDTH] for i in range(3)]
        of_last = [last @ c[i * WIDTH : (i + 1) * WIDTH].T + d[i * WIDTH : (i + 1) * WIDTH] for i in range(3)]
        reset, keep = torch.sigmoid(pre[0] + of_last[0]), torch.sigmoid(pre[1] + of_last[1])
        new = torch.tanh(reset * pre[2] + of_last[2])
        last = keep * now + (1 - keep) * new
        found[:, t] = last
    return found


@pytest.mark.parametrize("backward", [False, True])
def test_a_sweep_is_its_table(backward: bool) -> None:
    torch.manual_seed(0)
    sweep, x = Sweep(WIDTH, backward=backward).double(), torch.randn(3, 7, WIDTH, dtype=torch.float64)
    assert torch.allclose(sweep(x), by_hand(sweep, x), atol=1e-12)
    assert sum(p.numel() for p in sweep.parameters()) == 6 * WIDTH**2 + 6 * WIDTH


@pytest.mark.parametrize(("directions", "reaches_back"), [(1, False), (2, True)])
def test_dates_depend_on_all_dates_swept_before(directions: int, reaches_back: bool) -> None:
    torch.manual_seed(0)
    layer = SpatialDependency(3, WIDTH, directions=directions).double()
    x = torch.randn(12, 3, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: layer(v[None])[0], x)
    touched = cast(Tensor, jacobian).abs().sum((1, 3)) > 0
    assert bool(touched[11, 0])
    assert bool(touched[0, 11]) == reaches_back


def test_the_highway_begins_near_the_identity() -> None:
    torch.manual_seed(0)
    layer, x = ResidualSpatialDependency(4, WIDTH), torch.randn(2, 6, 4)
    gate, inner = torch.sigmoid(layer.gate(x)), layer.layer(x)
    assert torch.allclose(layer(x), gate * inner + (1 - gate) * x, atol=1e-6)
    with torch.no_grad():
        layer.gate.bias.fill_(-30)
    assert torch.allclose(layer(x), x, atol=1e-6)


def test_density_of_a_drawn_ladder_is_that_of_its_map_from_noise() -> None:
    model = cast(SDNVAE, disturbed("sdn-vae"))
    noise = torch.randn(model.noise_size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def latents(noise: Tensor) -> Tensor:
        return torch.cat(model.descend(noise[None], None).z, -1)[0]

    jacobian = torch.autograd.functional.jacobian(latents, noise)
    expected = normal_log_density(noise) - torch.linalg.slogdet(cast(Tensor, jacobian)).logabsdet
    found = torch.stack(model.descend(noise[None], None).log_prior).sum()
    assert found.item() == pytest.approx(expected.item(), abs=1e-9)


def test_where_a_level_saw_nothing_its_posterior_is_its_prior() -> None:
    model = cast(SDNVAE, disturbed("sdn-vae"))
    none = replace(TEST, mask=torch.zeros_like(TEST.mask))
    with torch.no_grad():
        found = model.explain(model.seen_rows(none), model.noise)
        cut = replace(TEST, mask=TEST.mask & (torch.arange(6) < 2))
        partly = model.explain(model.seen_rows(cut), model.noise)
    assert torch.allclose(found.log_q, found.log_prior, atol=1e-12)
    assert bool((partly.log_q - partly.log_prior).abs().amax((0, 2))[cut.mask.any(1)].gt(1e-3).all())


def test_levels_drawn_from_the_model_listen_to_no_detail() -> None:
    """With every level drawn from p the score knows no q; with the finest so, it knows that of the coarsest alone."""
    model = cast(SDNVAE, disturbed("sdn-vae"))
    with torch.no_grad():
        assert torch.allclose(model.log_joint_above(TEST, 0), model.log_joint(TEST), atol=1e-9)
        before = [model.log_joint_above(TEST, level) for level in range(3)]
        cast(Level, model.ladder[0]).posterior.weight.mul_(3)
        finest = [model.log_joint_above(TEST, level) for level in range(3)]
        cast(Level, model.ladder[1]).posterior.weight.mul_(3)
        both = [model.log_joint_above(TEST, level) for level in range(3)]
        with pytest.raises(UsageError, match="expected 0 to 2, got 3"):
            model.anomaly_score(TEST, 3)
    assert [torch.equal(a, b) for a, b in zip(before, finest, strict=True)] == [False, True, True]
    assert [torch.equal(a, b) for a, b in zip(finest, both, strict=True)] == [False, False, True]


@pytest.mark.slow
def test_levels_of_the_ladder_estimate_the_same_density() -> None:
    """E w = p(e | y) whichever levels the posterior draws."""
    model = cast(SDNVAE, disturbed("sdn-vae", hidden=4, latent=1))
    with torch.no_grad():
        for parameter in model.ladder.parameters():
            parameter.mul_(0.3)
        rows = model.seen_rows(TEST.take(torch.arange(2)))
        noise = torch.randn((6000, 2, 1, model.noise_size), generator=torch.Generator().manual_seed(0)).double()
        found = [model.scored_above(rows, noise, level).log_weight.exp() for level in range(3)]
    mean, error = ([getattr(w, name)(0) for w in found] for name in ("mean", "std"))
    for level in (1, 2):
        allowed = 4.5 * (error[0].square() + error[level].square()).sqrt() / 6000**0.5
        assert (allowed < 0.2 * mean[0]).all()
        assert ((mean[level] - mean[0]).abs() < allowed).all()


def test_an_average_of_weights_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    average = WeightAverage(model, 0.5)
    expected = None
    for step, value in enumerate((4.0, 2.0, 8.0, 1.0)):
        nn.init.constant_(model.weight, value)
        average.follow(model)
        kept = min(0.5, (1 + step) / (10 + step))
        expected = value if expected is None else kept * expected + (1 - kept) * value
    with average.answering(model):
        assert model.weight.item() == pytest.approx(expected)
    assert model.weight.item() == 1.0
    average.replace(model)
    assert model.weight.item() == pytest.approx(expected)
    with average.answering(model):
        assert model.weight.item() == pytest.approx(expected)


def test_validation_rows_judge_what_will_answer() -> None:
    """What early stopping sees of the model while it learns is what the averaged weights say."""
    model = cast(SDNVAE, disturbed("sdn-vae"))
    begun = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    with torch.no_grad():
        expected = model.log_posterior(TEST)
        cast(WeightAverage, model.average).follow(model)
        for parameter in model.parameters():
            parameter.mul_(1.5)
        assert torch.equal(model.log_posterior(TEST), expected)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, 1.5 * begun[name])


def test_activations_are_measured_again_under_the_averaged_weights() -> None:
    """The running statistics of the head are means over the bank, not what other weights left."""
    model = cast(SDNVAE, disturbed("sdn-vae", steps=5)).float()
    model.prepare(DATA, Context(seed=0))
    bank = cast(Bank, model._bank)
    norm = next(part for part in model.recognition.modules() if isinstance(part, nn.BatchNorm1d))
    seen: list[Tensor] = []
    hook = norm.register_forward_hook(lambda _, given, __: seen.append(given[0].detach()))
    with torch.no_grad():
        model._features(bank.labelled, None)
    hook.remove()
    wanted = seen[0].mean((0, 2))
    cast(Tensor, norm.running_mean).fill_(99.0)
    cast(WeightAverage, model.average).follow(model)
    model.finish(DATA, Context(seed=0))
    assert (cast(Tensor, norm.running_mean) - wanted).abs().max() < 0.2 * seen[0].std()
    assert norm.momentum == pytest.approx(0.1)
    assert not norm.training


def test_what_answers_is_the_average_of_the_weights() -> None:
    model = cast(SDNVAE, disturbed("sdn-vae"))
    model.double().train()
    seen = []
    for step in range(3):
        seen.append(model.begin.weight.detach().clone())
        loss = model.objective(TEST.take(torch.arange(4)), torch.Generator().manual_seed(step)).total
        gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        with torch.no_grad():
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                parameter -= 0.01 * (0 if gradient is None else gradient)
    seen.append(model.begin.weight.detach().clone())
    model.eval().finish(replace(DATA, labelled=DATA.labelled.to(dtype=torch.float64)), Context(seed=0))
    expected = seen[0]
    for step, weight in enumerate(seen[1:], 1):
        kept = (1 + step) / (10 + step)
        expected = kept * expected + (1 - kept) * weight
    assert torch.allclose(model.begin.weight, expected, atol=1e-12)
    assert not torch.allclose(model.begin.weight, seen[-1], atol=1e-9)
