"""The stochastic recurrent network: exact start, missing dates, causality, bounds, sampling."""

from __future__ import annotations

import math
from copy import deepcopy
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
import torch
from torch import Tensor

from cropgen.core.errors import DeviceError, UsageError
from cropgen.kernels.recurrence.reference import ChainPath
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.dvaes.srnn import SRNN, SRNNOptions
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.latent_dynamics import gap_days, gaussian_per_date, kl_per_date, log_ratio_per_date
from cropgen.series.batches import Batch, concatenate_batches
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from tests.models.dvaes.crops import Growth, green_up, taught

SLOTS, BANDS, CLASSES = 7, 2, 3
SPEC = InputSpec(("B04", "B08"), Calendar("month", 2, SLOTS), Legend.from_codes("crops", ["1", "2", "3"]))


def seasons(count: int, seed: int, *, known: bool = True, gaps: float = 0.25) -> Batch:
    """Three crops that green up at different times; dates are missing at random."""
    return green_up(SPEC, Growth(1.5, 1.5, 1.2), count, seed, known=known, gaps=gaps)


DATA = TrainingData(seasons(24, 0), seasons(48, 1, known=False))
TEST = seasons(12, 2)


@lru_cache
def _prepared(inference: str, kernel: str) -> SRNN:
    settings = {"hidden": 8, "latent": 3, "smoothing": 5, "copies": 64, "inference": inference, "kernel": kernel}
    torch.manual_seed(0)
    model = SRNN(SPEC, SRNNOptions.model_validate(settings))
    model.prepare(DATA, Context(seed=0))
    return model


def prepared(inference: str = "smooth", kernel: str = "auto") -> SRNN:
    """A small model as it stands before its first gradient step."""
    return deepcopy(_prepared(inference, kernel))


def disturbed(inference: str = "smooth", kernel: str = "auto") -> SRNN:
    """A model whose every weight is away from its start, in double precision (its factor too)."""
    model = prepared(inference, kernel).double().eval()
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        model.tied.chol.copy_(torch.linalg.cholesky(model.tied.cov))
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.15)
    return model


def walked(model: SRNN, rows: Seasons, noise: Tensor) -> tuple[ChainPath, Tensor]:
    walk = model.walk(model.view(rows), noise)
    return walk.path, walk.log_density


def double(batch: Batch) -> Batch:
    return batch.to(dtype=torch.float64)


@pytest.mark.parametrize("inference", ["smooth", "filter"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-3), (torch.float64, 1e-8)])
def test_begins_exactly_at_the_tied_gaussian(inference: str, dtype: torch.dtype, tolerance: float) -> None:
    model = prepared(inference=inference).to(dtype).eval()
    batch = TEST.to(dtype=dtype)
    assert not batch.mask.all()
    expected = model.tied.log_joint(*model.tied.grid(batch))
    torch.testing.assert_close(model.log_joint(batch), expected, rtol=0, atol=tolerance)
    generator = torch.Generator().manual_seed(0)
    rows = model._seasons(batch)
    noisy = model.class_scores(rows, model._features(rows, None), generator) - rows.log_det[:, None]
    torch.testing.assert_close(noisy + model.tied.log_prior, expected, rtol=0, atol=tolerance)


def test_an_unprepared_model_scores_too() -> None:
    model = SRNN(SPEC, SRNNOptions(hidden=4, latent=2, smoothing=3)).eval()
    torch.testing.assert_close(model.log_joint(TEST), model.tied.log_joint(*model.tied.grid(TEST)), rtol=0, atol=1e-3)


@pytest.mark.parametrize("inference", ["smooth", "filter"])
def test_what_a_masked_date_holds_changes_nothing(inference: str) -> None:
    model = disturbed(inference=inference)
    batch = double(TEST)
    hidden = (~batch.mask)[..., None]
    garbage = replace(
        batch, values=torch.where(hidden, 7.0, batch.values), day=torch.where(batch.mask, batch.day, -50.0)
    )
    torch.testing.assert_close(model.log_joint(garbage), model.log_joint(batch), rtol=0, atol=0)
    torch.testing.assert_close(model.log_posterior(garbage), model.log_posterior(batch), rtol=0, atol=0)


@pytest.mark.parametrize("inference", ["smooth", "filter"])
def test_a_missing_date_costs_no_kl_and_no_likelihood(inference: str) -> None:
    model = disturbed(inference=inference)
    rows = model._seasons(double(TEST))
    path, log_density = walked(model, rows, model.noise)
    missing = ~rows.mask.T[:, None, :, None].expand_as(log_density)
    divergence, ratio = kl_per_date(path), log_ratio_per_date(path, model.noise)
    assert missing.any()
    for term in (log_density, divergence, ratio):
        assert not term[missing].any()
    assert (divergence[~missing] > 0).all()


def test_a_filter_does_not_see_the_future() -> None:
    model = disturbed(inference="filter")
    batch = double(TEST)
    scores = model.prefix_log_joint(batch)
    torch.testing.assert_close(scores[:, -1], model.log_joint(batch), rtol=0, atol=1e-9)
    for slot in range(SLOTS - 1):
        end = float(batch.day[0, slot])
        torch.testing.assert_close(scores[:, slot], model.log_joint(batch.until(end)), rtol=0, atol=1e-9)
        late = torch.where(batch.day > end, 0.31, 0.0)[..., None] * batch.mask[..., None]
        changed = model.prefix_log_joint(replace(batch, values=batch.values + late))
        torch.testing.assert_close(changed[:, slot], scores[:, slot], rtol=0, atol=1e-9)
    assert (changed[:, -1] - scores[:, -1]).abs().max() > 0.1


def test_a_smoother_sees_the_future() -> None:
    """The same weights without the last date score the earlier dates differently: the causality test can fail."""
    model = disturbed(inference="smooth")
    rows = model._seasons(double(seasons(6, 3, gaps=0.0)))
    shorter = model._seasons(double(seasons(6, 3, gaps=0.0)).until(float(rows.day[0, -2])))
    before, after = model.log_weights(rows)[:-1], model.log_weights(shorter)[:-1]
    assert (before - after).abs().max() > 1e-3
    with pytest.raises(UsageError, match="filter"):
        model.prefix_log_joint(double(TEST))


def test_padding_and_order_of_rows_change_nothing() -> None:
    model = disturbed()
    batch = double(TEST)
    scores = model.log_joint(batch)
    torch.testing.assert_close(model.log_joint(batch.padded(SLOTS + 4)), scores, rtol=0, atol=1e-10)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(model.log_joint(batch.take(order)), scores[order], rtol=0, atol=1e-10)
    torch.testing.assert_close(model.log_joint(batch.take(torch.tensor([4]))), scores[4:5], rtol=0, atol=1e-10)
    torch.testing.assert_close(model.log_joint(batch), scores, rtol=0, atol=0)


def test_a_row_without_a_clear_date_gets_the_prior() -> None:
    model = disturbed()
    empty = double(TEST).until(-400.0)
    torch.testing.assert_close(model.log_joint(empty), model.tied.log_prior.expand(len(empty), -1))
    torch.testing.assert_close(model.log_posterior(empty), model.tied.log_prior.expand(len(empty), -1))


def test_more_samples_tighten_the_bound() -> None:
    """ELBO ≤ IWAE₅ ≤ IWAE₅₀ on average over noise, for a model whose posterior is not its prior."""
    model = disturbed()
    rows = model._seasons(double(seasons(40, 4)))
    noise = torch.randn(SLOTS, 500, 1, 1, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    path, log_density = walked(model, rows, noise)
    weights = (log_density + log_ratio_per_date(path, noise)).sum(0)
    elbo = (log_density - kl_per_date(path)).sum(0).mean(0)

    def bound(size: int) -> Tensor:
        return torch.logsumexp(weights.unflatten(0, (-1, size)), 1).mean(0) - math.log(size)

    assert (elbo - bound(1)).abs().max() < 0.1 * (bound(50) - bound(1)).max()
    assert bound(1).mean() < bound(5).mean() < bound(50).mean()
    assert (bound(5) < bound(50)).all()


def test_analytic_kl_is_the_mean_of_the_sampled_ratio() -> None:
    generator = torch.Generator().manual_seed(2)
    draws = [torch.randn(1, 1, 4, generator=generator, dtype=torch.float64) * 0.4 for _ in range(4)]
    path = ChainPath(*draws)
    noise = torch.randn(200_000, 1, 4, generator=generator, dtype=torch.float64)
    sampled = -log_ratio_per_date(path, noise).mean()
    mean = torch.distributions.Normal(path.shift, torch.exp((path.transition_log_variance + path.log_ratio) / 2))
    prior = torch.distributions.Normal(torch.zeros(4).double(), torch.exp(path.transition_log_variance / 2))
    exact = torch.distributions.kl_divergence(mean, prior).sum()
    assert kl_per_date(path).item() == pytest.approx(exact.item(), abs=1e-12)
    assert sampled.item() == pytest.approx(exact.item(), abs=0.02)


def test_one_date_is_a_variational_autoencoder() -> None:
    """With one slot the score is the importance-weighted bound of a VAE, here written with torch.distributions."""
    spec = InputSpec(SPEC.bands, Calendar("month", 4, 1), SPEC.legend)
    batch = double(seasons(5, 6, gaps=0.0))
    single = Batch(batch.values[:, :1], batch.mask[:, :1], batch.day[:, :1], batch.slot[:, :1], batch.y)
    torch.manual_seed(1)
    model = SRNN(spec, SRNNOptions(hidden=6, latent=2, smoothing=3, samples=5)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, dtype=torch.float64) * 0.2)
        model.tied.means.copy_(torch.randn(CLASSES, BANDS, dtype=torch.float64))
        rows = model._seasons(single)
        e, day = rows.e, rows.day
        angle = day[:, 0] * 2 * math.pi / 365.25
        time = torch.stack([angle.sin(), angle.cos(), (2 * angle).sin(), (2 * angle).cos(), 0 * angle], -1)
        present = torch.ones_like(e[:, :1])
        h = model.memory(torch.cat([0 * e, 0 * present, time], -1)[None])[0][0]
        o = model.observer(torch.cat([e, present, time], -1)[None])[0][0]
        context = torch.cat([h, time], -1)
        expected = []
        for k in range(CLASSES):
            centre = rows.offset[:, k] + model.shift[k]
            p, q, emission = model.transition, model.inference, model.emission
            base = model.initial @ p.state + p.bias + p.of_class[k]
            drift, change = (torch.tanh(context @ p.shared + base) @ p.out + p.out_bias).chunk(2, -1)
            base = model.initial @ q.state + q.bias + q.of_class[k]
            unit = torch.tanh(o @ q.shared + (e - centre) @ (q.own if q.own is not None else 0) + base)
            shift, ratio = (unit @ q.out + q.out_bias).chunk(2, -1)
            log_variance = math.log(1 - 0.9**2) + 3 * torch.tanh(change / 3)
            prior = torch.distributions.Normal(0.9 * model.initial + drift, torch.exp(log_variance / 2))
            spread = torch.exp((log_variance + 3 * torch.tanh(ratio / 3)) / 2)
            posterior = torch.distributions.Normal(prior.mean + shift, spread)
            z = posterior.mean + spread * model.noise[0, :, 0]  # (5, B, Z)
            unit = emission.of_state(z) + emission.of_context(context) + emission.of_class[k]
            mean, change = emission.out(torch.tanh(unit)).chunk(2, -1)
            spread = torch.exp((model.log_var + 3 * torch.tanh(change / 3)) / 2)
            density = torch.distributions.Normal(centre + mean, spread).log_prob(e).sum(-1)
            weight = density + (prior.log_prob(z) - posterior.log_prob(z)).sum(-1)
            expected.append(torch.logsumexp(weight, 0) - math.log(5) + model.tied.log_prior[k])
        torch.testing.assert_close(model.log_joint(single), torch.stack(expected, 1), rtol=0, atol=1e-9)


def test_gap_days_by_hand() -> None:
    day = torch.tensor([[10.0, 20.0, 31.0, 40.0, 52.0], [10.0, 20.0, 31.0, 40.0, 52.0]])
    mask = torch.tensor([[True, False, False, True, True], [False, False, True, False, False]])
    expected = [[0.0, 10.0, 21.0, 30.0, 12.0], [0.0, 10.0, 21.0, 9.0, 21.0]]
    assert gap_days(day, mask).tolist() == expected


def test_emission_density_equals_torch() -> None:
    generator = torch.Generator().manual_seed(3)
    residual, log_variance = torch.randn(2, 5, 3, generator=generator, dtype=torch.float64)
    expected = torch.distributions.Normal(0.0, torch.exp(log_variance / 2)).log_prob(residual).sum(-1)
    mask = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(gaussian_per_date(residual, log_variance, mask), expected * mask)


def test_both_kernels_give_the_same_scores() -> None:
    fast, slow = disturbed(kernel="hoisted"), disturbed(kernel="reference")
    batch = double(TEST)
    torch.testing.assert_close(fast.log_joint(batch), slow.log_joint(batch), rtol=0, atol=1e-10)


def test_a_named_kernel_that_cannot_run_is_refused_while_learning_alone() -> None:
    model, batch = disturbed(kernel="triton"), double(TEST)
    assert torch.equal(model.log_joint(batch), disturbed(kernel="hoisted").log_joint(batch))
    with pytest.raises(DeviceError, match="needs a CUDA device"):
        model.train().objective(batch, torch.Generator())


def test_scoring_in_blocks_equals_scoring_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = disturbed(inference="filter")
    whole, prefixes = model.log_joint(double(TEST)), model.prefix_log_joint(double(TEST))
    monkeypatch.setattr("cropgen.models.layers.dynamical._LARGEST_BLOCK", 1)
    torch.testing.assert_close(model.log_joint(double(TEST)), whole, rtol=0, atol=1e-10)
    torch.testing.assert_close(model.prefix_log_joint(double(TEST)), prefixes, rtol=0, atol=1e-10)


@pytest.mark.parametrize("inference", ["smooth", "filter"])
def test_learning_reaches_every_parameter_and_improves_the_density(inference: str) -> None:
    model = prepared(inference=inference)
    moved, losses = taught(model, concatenate_batches([DATA.labelled, DATA.unlabelled or TEST]))
    assert moved == {name for name, _ in model.named_parameters()}
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_sampling_from_the_start_has_the_moments_of_the_tied_gaussian() -> None:
    model = prepared().double().eval()
    y = torch.arange(CLASSES).repeat_interleave(4000)
    drawn = model.sample(y, torch.Generator().manual_seed(0))
    assert drawn.shape == (len(y), SLOTS, BANDS)
    for k in range(CLASSES):
        expected = model.tied.restore(model.tied.means[k].view(SLOTS, BANDS))
        spread = model.tied.cov.diagonal().sqrt().view(SLOTS, BANDS) * model.tied.scale
        assert ((drawn[y == k].mean(0) - expected) / spread).abs().max() < 0.08
        assert (drawn[y == k].std(0) / spread - 1).abs().max() < 0.06


def test_sampling_follows_the_learnt_emission() -> None:
    """Without noise a season is the class mean plus what memory, state and emission add to it, as scoring it finds."""
    model = disturbed()
    y = torch.arange(CLASSES)
    drawn = model.sample(y, torch.Generator().manual_seed(0), temperature=0.0)
    again = model.sample(y, torch.Generator().manual_seed(9), temperature=0.0)
    torch.testing.assert_close(drawn, again, rtol=0, atol=0)
    day = SPEC.calendar.start_days().astype(np.float64)
    batch = Batch(
        values=drawn,
        mask=torch.ones(CLASSES, SLOTS, dtype=torch.bool),
        day=torch.from_numpy(day).expand(CLASSES, -1),
        slot=torch.arange(SLOTS).expand(CLASSES, -1),
        y=y,
    )
    for head in (model.inference.out, model.inference.out_bias):
        torch.nn.init.zeros_(head)
    rows = model._seasons(batch)
    path, log_density = walked(model, rows, torch.zeros_like(model.noise[:, :1]))
    view = model.view(rows)
    context = model.context(view.before, view.control)[0][:, None, :, None]
    _, change = model.emission(path.z, context, torch.eye(CLASSES).double()[None, None, None])
    log_variance = model.log_var.unflatten(0, (SLOTS, BANDS))[:, None, None, None] + change
    highest = -0.5 * (log_variance + math.log(2 * math.pi)).sum(-1)
    own = {name: part[:, 0].diagonal(dim1=1, dim2=2) for name, part in (("got", log_density), ("top", highest))}
    torch.testing.assert_close(own["got"], own["top"], rtol=0, atol=1e-9)
    assert (highest - log_density).min() > -1e-9
    assert (highest - log_density).max() > 0.1
