"""The base of the rows: bounds against exact answers, remedies of collapse, diagnostics, options, forecasts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cropgen.core.errors import UsageError
from cropgen.core.progress import Silent
from cropgen.core.recipe import validate
from cropgen.models.base import Context, TrainingData
from cropgen.models.catalog import find, load
from cropgen.models.layers.bank import concatenate_seasons
from cropgen.models.layers.vae import model as base
from cropgen.models.layers.vae.bounds import log_mean_exp
from cropgen.models.vaes.m1 import M1
from cropgen.models.vaes.m1m2 import M1M2
from cropgen.models.vaes.vae import VAE
from tests.models.vaes.rows import built as of_crops
from tests.models.vaes.six_steps import learnt_by
from tests.models.vaes.small import DTYPE, LOADING, SLOTS, build, make_linear, parcels, scramble, seasons_of, whitened


def linear(**settings: Any) -> VAE:
    """p(e | y, z) = N(o_y + A z, I)."""
    model = build(VAE, **settings)
    make_linear(model.decoder, LOADING)
    return model


def with_exact_posterior(model: VAE, surprise: Tensor) -> None:
    """Let q(z | x, y) be N(Σ Aᵀ r, Σ), Σ = (I + Aᵀ A)⁻¹, diagonal as the columns of A are at right angles."""
    cov = torch.linalg.inv(torch.eye(2, dtype=DTYPE) + LOADING.T @ LOADING)
    assert torch.allclose(cov, torch.diag(cov.diagonal()))
    mean = surprise @ LOADING @ cov
    log_std = (0.5 * cov.diagonal().log()).expand_as(mean)
    model.latent.encode = lambda features: (mean, log_std, mean[..., :0])  # type: ignore[assignment]


def exact_log_density(surprise: Tensor) -> Tensor:
    cov = torch.eye(SLOTS, dtype=DTYPE) + LOADING @ LOADING.T
    return torch.distributions.MultivariateNormal(torch.zeros(SLOTS, dtype=DTYPE), cov).log_prob(surprise)


@pytest.mark.parametrize("estimator", ["stl", "iwae", "dreg", "jvi"])
def test_with_the_exact_posterior_every_bound_is_the_likelihood(estimator: str) -> None:
    model = linear(estimator=estimator, draws=3)
    seasons = seasons_of(model, parcels(5, gaps=False))
    features = model._features(seasons, None)
    surprise = model.rows(seasons, features).surprise
    with_exact_posterior(model, surprise)
    want = exact_log_density(surprise)
    with torch.no_grad():
        assert torch.allclose(model.class_scores(seasons, features, torch.Generator().manual_seed(0)), want)
        assert torch.allclose(model.class_scores(seasons, features, None), want)


def test_the_elbo_is_the_likelihood_less_the_divergence_from_the_exact_posterior() -> None:
    model = linear(draws=20_000)
    seasons = seasons_of(model, parcels(2, gaps=False))
    features = model._features(seasons, None)
    surprise = model.rows(seasons, features).surprise
    with_exact_posterior(model, surprise)
    with torch.no_grad():
        found = model.class_scores(seasons, features, torch.Generator().manual_seed(0))
    assert torch.allclose(found, exact_log_density(surprise), atol=0.03)


def test_the_importance_weighted_score_converges_with_gaps() -> None:
    model = linear(samples=6000)
    scramble(model, ("latent.encoder",), 0.03, 1)
    seasons = seasons_of(model, parcels(6))
    with torch.no_grad():
        features = model._features(seasons, None)
        found = model.class_scores(seasons, features, None)
        surprise = model.rows(seasons, features).surprise
    cov = torch.eye(SLOTS, dtype=DTYPE) + LOADING @ LOADING.T
    for row, there in enumerate(seasons.mask):
        normal = torch.distributions.MultivariateNormal(
            torch.zeros(int(there.sum()), dtype=DTYPE), cov[there][:, there]
        )
        assert torch.allclose(found[row], normal.log_prob(surprise[row][:, there]), atol=0.08)


def test_draws_have_the_moments_of_the_model() -> None:
    model = linear()
    y = torch.zeros(20_000, dtype=torch.int64)
    drawn = model.sample(y, torch.Generator().manual_seed(0))[..., 0]
    chol = model.tied.chol
    cov = chol @ (torch.eye(SLOTS, dtype=DTYPE) + LOADING @ LOADING.T) @ chol.T
    assert torch.allclose(drawn.mean(0), model.tied.means[0], atol=0.06)
    assert torch.allclose(torch.cov(drawn.T), cov, atol=0.12)


def test_expected_values_begin_at_those_of_the_tied_gaussian_and_follow_the_latent() -> None:
    model, batch, slots = build(VAE), parcels(6), torch.tensor([1, 3])
    want = model.tied.predictive(*model.tied.grid(batch), slots)
    with torch.no_grad():
        found = model.predictive(batch, slots)
        assert found is not None
        assert torch.allclose(found.mean, want.mean, atol=1e-6)
        make_linear(model.decoder, LOADING)
        scramble(model, ("latent",), 0.5, 1)
        moved = model.predictive(batch, slots)
    assert moved is not None
    missing = ~batch.mask[:, slots]
    assert not torch.allclose(moved.mean[:, 0][missing], found.mean[:, 0][missing], atol=1e-3)
    assert torch.allclose(moved.mean[:, 0][~missing], found.mean[:, 0][~missing], atol=1e-6)


def test_the_control_is_the_gaussian_with_learnt_means_and_variances() -> None:
    model = build(VAE, latent_kind="none")
    scramble(model, ("shift", "log_var"), 0.3, 1)
    seasons = seasons_of(model, parcels(5))
    with torch.no_grad():
        found = model.class_scores(seasons, model._features(seasons, None), None)
        centre = (seasons.offset + model.shift) * seasons.present[:, None]
        normal = torch.distributions.Normal(centre, (0.5 * model.log_var).exp())
        want = (normal.log_prob(seasons.e[:, None].expand_as(centre)) * seasons.present[:, None]).sum(-1)
    assert torch.allclose(found, want)


def test_free_bits_cost_what_they_allow_and_give_no_gradient_below() -> None:
    model = build(VAE, collapse="free-bits", free_bits=0.3, latent=3)
    with torch.no_grad():
        model.latent.encoder.answer.bias[:3] = torch.tensor([0.0, 0.1, 2.0])  # type: ignore[union-attr]
    seasons = seasons_of(model, parcels(4))
    rows = model.rows(seasons, model._features(seasons, None))
    explained = model.explain(rows, torch.zeros((1, 4, 1, 3), dtype=DTYPE))
    bound = model.bound(explained)
    assert torch.allclose(bound, explained.log_likelihood[0] - (0.3 + 0.3 + 2.0))
    bound.sum().backward()
    grad = model.latent.encoder.answer.bias.grad  # type: ignore[union-attr]
    assert isinstance(grad, Tensor)
    assert grad[:2].abs().max() == 0
    assert grad[2].abs() > 0


def objective_at(model: VAE, step: int) -> None:
    batch = whitened(seasons_of(model, parcels(8, known=True)))
    model.zero_grad(set_to_none=True)
    model.updates.fill_(step - 1)
    model.objective(batch, torch.Generator().manual_seed(step)).total.backward()


def test_annealing_and_pretraining_weigh_the_divergence_by_the_step() -> None:
    model = build(VAE, collapse="linear", steps=100, beta=2.0).train()
    objective_at(model, 26)
    assert model.weight() == pytest.approx(1.0)
    model = build(VAE, collapse="pretrain", steps=100).train()
    objective_at(model, 10)
    assert model.weight() == 0
    assert not model.drawn_noise(3, torch.Generator().manual_seed(0)).any()
    objective_at(model, 60)
    assert model.weight() == 1
    assert model.drawn_noise(3, torch.Generator().manual_seed(0)).any()
    assert model.free_nats == 0.1


def test_an_encoder_that_lags_is_trained_alone_until_it_knows_no_more() -> None:
    model = build(VAE, collapse="aggressive").train()
    scramble(model, ("latent", "decoder"), 0.2, 1)
    for step, together in ((1, False), (4, False), (5, True), (6, False)):
        objective_at(model, step)
        for held in (*model.decoder.parameters(), model.shift, model.log_var):
            assert (held.grad is not None) == together
            assert held.requires_grad
        assert model.latent.encoder.answer.weight.grad is not None  # type: ignore[union-attr]
    model.phase.since.fill_(model.phase.patience)
    objective_at(model, 7)
    assert model.decoder.answer.weight.grad is not None
    assert "phase.best" in model.state_dict()


def test_a_lag_is_measured_on_rows_whose_class_is_told() -> None:
    model, told = build(VAE, collapse="aggressive").train(), []
    scramble(model, ("latent",), 0.5, 1)
    model.phase.observe = told.append  # type: ignore[method-assign]
    model.updates.fill_(10)
    free, known = seasons_of(model, parcels(6)), seasons_of(model, parcels(4, known=True, seed=5))
    for seasons in (free, known, concatenate_seasons([free, known])):
        torch.manual_seed(0)
        model.class_scores(seasons, model.eval()._features(seasons, None), None)
        rows = model.rows(seasons, model._features(seasons, None))
        model._measure(rows)
    assert len(told) == 2
    assert told[0] == told[1] > 0


def test_asleep_q_learns_the_posterior_of_what_the_density_draws() -> None:
    """Three categories that shift the season: the exact posterior is a softmax of three densities."""
    settings = {"latent_kind": "categorical", "categories": 3, "latent": 1, "relaxation": "none", "draws": 2}
    model = build(VAE, **settings, estimator="sleep")
    scramble(model, ("decoder",), 0.6, 1)
    batch = parcels(64, known=True)
    drawn = model.sample(batch.y, torch.Generator().manual_seed(9)).detach()
    batch = replace(batch, values=drawn * batch.mask[..., None])
    seasons, one_hot = seasons_of(model, batch), torch.eye(3, dtype=DTYPE)[:, None, None]
    own = torch.arange(64), batch.y

    def divergence() -> float:
        with torch.no_grad():
            features = model._features(seasons, None)
            rows = model.rows(seasons, features)
            joint = model.emitted(rows, model.decode(one_hot, seasons.day))
            exact = torch.log_softmax(joint, 0)
            q = torch.stack([model.latent.log_q(features, z.expand(64, -1)) for z in one_hot[:, 0]])  # type: ignore[operator]
            return float((exact.exp() * (exact - q)).sum(0)[own].mean())

    before = divergence()
    learns = [*model.latent.parameters(), *model.recognition.parameters()]
    optimiser, generator = torch.optim.Adam(learns, 2e-2), torch.Generator().manual_seed(0)
    for _ in range(120):
        optimiser.zero_grad()
        (-model._log_q_of_dreams(seasons, generator)).mean().backward()
        optimiser.step()
    assert before > 0.2
    assert divergence() < 0.25 * before
    assert model.decoder.answer.weight.grad is None


def test_asleep_the_bound_teaches_the_density_alone() -> None:
    settings = {"latent_kind": "categorical", "categories": 3, "relaxation": "none", "draws": 4}
    model = build(VAE, **settings, estimator="sleep")
    scramble(model, ("decoder", "latent"), 0.4, 1)
    seasons = seasons_of(model, parcels(6, known=True))
    features = model._features(seasons, None)
    explained = model.explain(model.rows(seasons, features), model.drawn_noise(6, torch.Generator().manual_seed(0)))
    bound = model.bound(explained)
    assert torch.allclose(bound, log_mean_exp(explained.log_weight))
    bound.sum().backward()
    assert all(parameter.grad is None for parameter in model.latent.parameters())
    assert model.decoder.answer.weight.grad is not None
    found = model.objective(whitened(seasons), torch.Generator().manual_seed(1))
    assert float(found.terms["sleep"].detach()) > 0


def test_a_second_reconstruction_adds_the_same_to_every_class() -> None:
    model = build(VAE, collapse="auxiliary")
    seasons = seasons_of(model, parcels(4))
    rows = model.rows(seasons, model._features(seasons, None))
    explained = model.explain(rows, torch.zeros((1, 4, 1, 2), dtype=DTYPE))
    assert isinstance(explained.penalty, Tensor)
    missed = ((seasons.e - model.second.bias) * seasons.present).square().sum(-1)
    assert torch.allclose(explained.penalty, 0.05 * missed[:, None])
    assert torch.allclose(model.scored(rows, model.noise).log_weight, explained.log_weight.expand(3, -1, -1))


def test_the_use_of_latents_is_told_and_collapse_is_warned_of() -> None:
    model, report, batch = linear(), Silent(), parcels(40, known=True)
    context = Context(report=report)
    model.finish(TrainingData(batch), context)
    facts = context.facts["latent"]
    assert facts["collapsed"]
    assert facts["kl"] == [0.0, 0.0]
    assert facts["active_units"] == 0
    assert len(report.warnings) == 1
    assert "not used" in report.warnings[0]
    scramble(model, ("latent.encoder.answer.weight",), 3.0, 1)
    with torch.no_grad():
        model.latent.encoder.answer.weight[1:] = 0  # type: ignore[union-attr]
        model.latent.encoder.answer.bias[:2] = torch.tensor([0.0, 1.0])  # type: ignore[union-attr]
    model.finish(TrainingData(batch), context)
    facts = context.facts["latent"]
    assert not facts["collapsed"]
    assert facts["active_units"] == 1
    assert facts["elbo"] <= facts["iwae"]
    assert facts["elbo"] == pytest.approx(-facts["reconstruction"] - facts["kl_total"])
    assert len(report.warnings) == 1


def test_up_to_512_parcels_are_judged_in_parts_that_fit_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    model, judged = linear(), list[int]()
    scramble(model, ("latent.encoder", "decoder"), 0.5, 1)
    whole = model.use_of_latents(parcels(40, known=True))
    monkeypatch.setattr(base, "_LARGEST_BLOCK", 7 * len(model.noise) * 2 * (SLOTS + 16))
    explained = model.scored
    monkeypatch.setattr(model, "scored", lambda rows, noise: judged.append(len(rows)) or explained(rows, noise))
    parts = model.use_of_latents(parcels(40, known=True))
    assert max(judged) == 7
    assert parts.keys() == whole.keys()
    for name, value in whole.items():
        assert parts[name] == pytest.approx(value)
    for count, expected in ((512, 512), (513, 257), (1023, 512)):
        judged.clear()
        model.finish(TrainingData(parcels(count, known=True)), Context(report=Silent()))
        assert sum(judged) == 2 * expected


def test_unlabelled_parcels_teach_the_head_to_agree_with_itself_and_the_prior() -> None:
    plain, model = build(VAE), build(VAE, consistency=0.5, class_balance=2.0)
    rows = concatenate_seasons([seasons_of(plain, parcels(4, known=True)), seasons_of(plain, parcels(6, seed=4))])
    with torch.no_grad():
        before = plain.objective(whitened(rows), torch.Generator().manual_seed(7))
        found = model.objective(whitened(rows), torch.Generator().manual_seed(7))
        free = rows.take(rows.y < 0)
        q = torch.softmax(model.recognition.classify(model._features(free, None)), -1)
    assert float(found.terms["consistency"]) == pytest.approx(float(-(q * q.log()).sum(-1).mean()))
    mean, prior = q.mean(0), model.tied.log_prior.exp()
    assert float(found.terms["class_balance"]) == pytest.approx(float((mean * (mean / prior).log()).sum()))
    beside = 0.5 * found.terms["consistency"] + 2 * found.terms["class_balance"]
    assert float(found.total) == pytest.approx(float(before.total + beside))
    assert set(before.terms) < set(found.terms)


REFUSED: list[dict[str, Any]] = [
    {"likelihood": "logistics"},
    {"estimator": "iwae", "beta": 0.5},
    {"estimator": "dreg", "collapse": "linear"},
    {"estimator": "stl", "collapse": "free-bits"},
    {"estimator": "jvi"},
    {"estimator": "stl", "posterior": "planar"},
    {"estimator": "vimco", "draws": 4},
    {"latent_kind": "categorical", "relaxation": "none"},
    {"latent_kind": "categorical", "estimator": "vimco", "draws": 4},
    {"latent_kind": "categorical", "relaxation": "none", "estimator": "vimco"},
    {"latent_kind": "categorical", "prior": "mog"},
    {"latent_kind": "categorical", "posterior": "iaf"},
    {"latent_kind": "categorical", "relaxation": "exact"},
    {"latent_kind": "categorical", "relaxation": "exact", "latent": 1, "beta": 2.0},
    {"latent_kind": "categorical", "relaxation": "straight-through", "estimator": "iwae"},
    {"latent_kind": "categorical", "estimator": "dreg"},
    {"latent_kind": "categorical", "collapse": "pretrain"},
    {"latent_kind": "categorical", "relaxation": "none", "estimator": "wake"},
    {"latent_kind": "categorical", "relaxation": "gumbel", "estimator": "sleep", "hybrid": 0.0},
    {"latent_kind": "categorical", "relaxation": "exact", "latent": 1, "draws": 9},
    {"latent_kind": "none", "collapse": "linear"},
    {"latent_kind": "none", "prior": "mog"},
    {"prior": "vamp", "posterior": "planar"},
    {"estimator": "dreg", "draws": 4, "collapse": "auxiliary"},
    {"collapse": "skip"},
    {"collapse": "bounded-field"},
    {"collapse": "pretrain", "estimator": "stl"},
]


@pytest.mark.parametrize("settings", REFUSED, ids=str)
def test_parts_that_do_not_fit_are_refused(settings: dict[str, Any]) -> None:
    words = r"needs|take elbo|sums|each other|no divergence|change nothing|is for true|set hybrid|anywhere|take iwae"
    with pytest.raises(UsageError, match=words):
        validate(VAE.Settings, settings, where="options of vae")


def test_what_nothing_reads_is_refused_with_what_to_leave_it_at() -> None:
    with pytest.raises(
        UsageError, match=r"marginal, hybrid would change nothing in m1.*leave marginal=1.0, hybrid=1.0"
    ):
        validate(M1.Settings, {"hybrid": 0.0, "marginal": 0.0}, where="options of m1")
    with pytest.raises(UsageError, match=r"decide: .*'auto'"):
        validate(M1.Settings, {"decide": "q"}, where="options of m1")


def test_a_row_refuses_parts_it_does_not_have() -> None:
    with pytest.raises(UsageError, match="elbo"):
        validate(M1M2.Settings, {"estimator": "dreg"}, where="options of m1m2")


@pytest.mark.parametrize("name", ["m1", "vade", "tampered-vae", "vae-rnn"])
def test_draws_that_the_classes_share_have_no_weight_of_a_class(name: str) -> None:
    settings = load(find(name)).Settings
    with pytest.raises(UsageError, match=rf"options of {name}: estimator: .*'elbo', 'stl', 'iwae' or 'jvi'.*'dreg'"):
        validate(settings, {"estimator": "dreg", "draws": 3}, where=f"options of {name}")
    for estimator in ("elbo", "stl", "iwae", "jvi"):
        model = of_crops(name, estimator=estimator, draws=3)
        assert learnt_by(model)
