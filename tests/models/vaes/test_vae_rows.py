"""Rows of one and of stacked latents: where they begin, that their scores do not depend on q, and their losses."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from cropgen.models.base import Context, TrainingData
from cropgen.models.catalog import find, load
from cropgen.models.layers.bank import concatenate_seasons
from cropgen.models.layers.vae.bounds import log_mean_exp
from cropgen.models.layers.vae.heads import LatentHead
from cropgen.models.layers.vae.model import VariationalModel
from cropgen.models.vaes.adgm import ADGM
from cropgen.models.vaes.cagem import CaGeM
from cropgen.models.vaes.m1 import M1, LatentClassifier
from cropgen.models.vaes.m1m2 import M1M2
from cropgen.models.vaes.m2 import M2, weighted_by
from cropgen.models.vaes.ssdgm import SSDGM
from cropgen.models.vaes.vade import VaDE
from cropgen.models.vaes.vae import VAE
from tests.models.vaes.small import DTYPE, build, parcels, scramble, seasons_of, whitened

CATEGORICAL = {"latent_kind": "categorical", "categories": 3}
TRUE = {**CATEGORICAL, "relaxation": "none", "draws": 2}
FORMS: list[tuple[str, dict[str, Any]]] = [
    ("vae", {}),
    ("vae", {"likelihood": "student"}),
    ("vae", {"decoded_variance": True}),
    *[("vae", {"prior": kind}) for kind in ("mog", "vamp", "realnvp", "autoregressive")],
    *[("vae", {"posterior": kind}) for kind in ("planar", "radial", "sylvester", "householder", "iaf")],
    *[("vae", {**CATEGORICAL, "relaxation": kind}) for kind in ("gumbel", "straight-through", "igr", "exact")],
    *[("vae", {**TRUE, "estimator": kind}) for kind in ("nvil", "vimco", "sleep")],
    ("vae", {**TRUE, "estimator": "wake", "hybrid": 0.0}),
    ("vae", {"latent_kind": "none"}),
    ("vae", {"decoder": "dates", "collapse": "skip"}),
    *[("vae", {"collapse": kind}) for kind in ("auxiliary", "aggressive", "pretrain")],
    ("m2", {}),
    ("m1m2", {}),
    ("m1m2", {"training": "joint"}),
    ("adgm", {}),
    ("adgm", {"skip": True, "decoder": "dates"}),
    ("vade", {"prior_components": 2}),
    ("cagem", {}),
    ("ssdgm", {}),
]


def of(name: str, **settings: Any) -> VariationalModel:
    kind = load(find(name))
    assert issubclass(kind, VariationalModel)
    return build(kind, **settings)


@pytest.mark.parametrize(("name", "settings"), FORMS, ids=lambda part: str(part))
def test_it_begins_exactly_at_the_tied_gaussian(name: str, settings: dict[str, Any]) -> None:
    model, batch = of(name, **settings), parcels(20)
    with torch.no_grad():
        begun = model.tied.log_joint(*model.tied.grid(batch))
        assert torch.allclose(model.log_joint(batch), begun, atol=1e-9, rtol=0)
        seasons = seasons_of(model, batch)
        learnt = model.class_scores(seasons, model._features(seasons, None), torch.Generator().manual_seed(0))
        if settings.get("collapse") not in ("auxiliary", "pretrain"):
            assert torch.allclose(learnt - seasons.log_det[:, None] + model.tied.log_prior, begun, atol=1e-9, rtol=0)


def test_m1_begins_at_the_density_and_the_posterior_of_the_tied_gaussian() -> None:
    model, batch = build(M1), parcels(20)
    x, mask = model.tied.grid(batch)
    with torch.no_grad():
        joint = model.tied.log_joint(x, mask)
        assert torch.allclose(model.log_likelihood(batch), torch.logsumexp(joint, -1), atol=1e-9, rtol=0)
        begun = torch.softmax(model.tied.beta * joint, -1)
        assert torch.allclose(model.log_posterior(batch).exp(), 0.99 * begun + 0.005, atol=1e-9, rtol=0)


Q_PARTS = ("latent.encoder", "latent.posterior", "upper_encoder", "auxiliary.", "encoder")
MOVED: list[Any] = [
    ("vae", {}),
    ("vae", {"prior": "mog", "posterior": "planar"}),
    pytest.param("vae", {"prior": "realnvp", "posterior": "iaf"}, marks=pytest.mark.slow),
    ("vae", {"posterior": "householder"}),
    ("vae", {"likelihood": "student", "posterior": "sylvester"}),
    ("vae", {**CATEGORICAL, "relaxation": "gumbel"}),
    ("vae", {**CATEGORICAL, "relaxation": "igr"}),
    ("m1m2", {"upper": 2}),
    ("adgm", {"auxiliary_size": 2}),
    ("adgm", {"auxiliary_size": 2, "skip": True}),
    ("vade", {"prior_components": 2}),
    ("cagem", {"upper": 2}),
    ("ssdgm", {}),
]


@pytest.mark.parametrize(("name", "settings"), MOVED, ids=lambda part: str(part))
def test_the_score_of_many_draws_does_not_depend_on_the_posterior(name: str, settings: dict[str, Any]) -> None:
    model = of(name, **settings)
    scramble(model, ("decoder", "latent.prior", "cluster", "emission"), 0.2, 1)
    scramble(model, ("lower_prior",), 0.1, 1)
    scramble(model, ("auxiliary_prior",), 0.03, 1)
    seasons = seasons_of(model, parcels(3))
    rows = model.rows(seasons, model._features(seasons, None))
    found, variance = [], []
    with torch.no_grad():
        for seed in (2, 3):
            shape = (4000, 1, 1, model.noise_size)
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DTYPE)
            weight = model.scored(rows, noise).log_weight
            found.append(log_mean_exp(weight))
            variance.append(((2 * weight).logsumexp(0) - 2 * weight.logsumexp(0)).exp())
            scramble(model, Q_PARTS, 0.06, seed)
    error = (variance[0] + variance[1]).sqrt()
    assert error.max() < 0.1
    assert ((found[0] - found[1]).abs() < 3 * error).all()


def test_the_sum_over_all_categories_is_what_many_draws_tell() -> None:
    exact = build(VAE, **CATEGORICAL, relaxation="exact")
    drawn = build(VAE, **CATEGORICAL, relaxation="gumbel")
    scramble(exact, ("decoder",), 0.5, 1)
    drawn.decoder.load_state_dict(exact.decoder.state_dict())
    seasons = seasons_of(exact, parcels(4))
    rows = exact.rows(seasons, exact._features(seasons, None))
    noise = torch.randn((6000, 1, 1, drawn.noise_size), generator=torch.Generator().manual_seed(0), dtype=DTYPE)
    with torch.no_grad():
        told = log_mean_exp(exact.scored(rows, exact.noise).log_weight)
        codes = [torch.eye(3, dtype=DTYPE)[list(pair)].flatten() for pair in itertools.product(range(3), repeat=2)]
        each = [exact.emitted(rows, exact.decode(code.expand(1, 4, 1, -1), seasons.day))[0] for code in codes]
        by_hand = torch.logsumexp(torch.stack(each), 0) - math.log(9)
        assert torch.allclose(told, by_hand, atol=1e-10)
        assert torch.allclose(log_mean_exp(drawn.scored(rows, noise).log_weight), told, atol=0.05)


def loss_parts(model: VariationalModel) -> tuple[dict[str, Tensor], Tensor, Tensor]:
    """The terms of a mini-batch of four labelled and four unlabelled parcels, J of it, and log q."""
    known, free = seasons_of(model, parcels(4, known=True)), seasons_of(model, parcels(4, seed=4))
    both = concatenate_seasons([known, free])
    with torch.no_grad():
        terms = model.objective(whitened(both), torch.Generator().manual_seed(7)).terms
        generator = torch.Generator().manual_seed(7)
        features = model._features(both, generator)
        joint = model.class_scores(both, features, generator) + model.tied.log_prior
        return terms, joint, torch.log_softmax(model.recognition.classify(features), -1)


@pytest.mark.parametrize("marginalise", ["bound", "q"])
def test_m2_sums_the_class_of_unlabelled_parcels_out(marginalise: str) -> None:
    model = build(M2, marginalise=marginalise)
    scramble(model, ("decoder", "latent"), 0.3, 1)
    terms, joint, log_q = loss_parts(model)
    size = float(sum(float(parcels(4, seed=s).mask.sum()) for s in (3, 4))) / 8
    labelled = joint[torch.arange(4), torch.arange(4) % 2].mean()
    assert float(terms["generative"]) == pytest.approx(-float(labelled) / size)
    free = joint[4:]
    q = log_q[4:].exp()
    told = free.logsumexp(-1) if marginalise == "bound" else (q * (free - q.log())).sum(-1)
    assert float(terms["marginal"]) == pytest.approx(-float(told.mean()) / size)


def test_weighting_by_q_is_a_bound_that_is_tight_at_bayes() -> None:
    joint = 3 * torch.randn((50, 4), generator=torch.Generator().manual_seed(0), dtype=DTYPE)
    log_q = torch.log_softmax(torch.randn((50, 4), generator=torch.Generator().manual_seed(1), dtype=DTYPE), -1)
    best = torch.logsumexp(joint, -1)
    assert (weighted_by(log_q, joint) < best).all()
    assert torch.allclose(weighted_by(torch.log_softmax(joint, -1), joint), best)


def test_a_label_conditions_the_structured_posterior_by_importance() -> None:
    model = build(SSDGM, draws=5)
    scramble(model, ("decoder", "latent", "recognition.classify"), 0.3, 1)
    seasons = seasons_of(model, parcels(3))
    rows = model.rows(seasons, model._features(seasons, None))
    noise = torch.randn((5, 3, 1, 2), generator=torch.Generator().manual_seed(0), dtype=DTYPE)
    with torch.no_grad():
        told = model.explain(rows, noise)
        assert told.log_class is not None
        bound = model.bound(told)
        mean, log_std, _ = model.latent.encode(rows.features)  # type: ignore[operator]
        q = torch.distributions.Normal(mean, log_std.exp()).log_prob(told.z).sum(-1)
        p = torch.distributions.Normal(torch.zeros(()), torch.ones(())).log_prob(told.z).sum(-1)
        for row, k in itertools.product(range(3), range(2)):
            w = told.log_class[:, row, k].exp()
            inside = told.log_likelihood[:, row, k] + p[:, row, 0] - q[:, row, 0] - w.log()
            by_hand = (w / w.sum() * inside).sum() + w.mean().log()
            assert float(bound[row, k]) == pytest.approx(float(by_hand))


@pytest.mark.parametrize("draws", [1, 2, 30])
def test_the_bound_of_a_label_is_never_above_the_importance_weighted_one(draws: int) -> None:
    model = build(SSDGM, draws=draws)
    scramble(model, ("decoder", "latent", "recognition.classify"), 0.6, 2)
    seasons = seasons_of(model, parcels(40))
    rows = model.rows(seasons, model._features(seasons, None))
    with torch.no_grad():
        told = model.explain(rows, model.drawn_noise(40, torch.Generator().manual_seed(1)))
        bound, weighted = model.bound(told), log_mean_exp(told.log_weight)
    assert (bound <= weighted + 1e-9).all()
    assert torch.allclose(bound, weighted) == (draws == 1)


def test_weighting_classes_by_q_of_the_same_draws_is_the_bound_of_the_structured_posterior() -> None:
    """Σ_y q̂ (J_y − log q̂) = 1/S Σ_s Σ_y q(y | z_s, x) log p(x, y, z_s) / q(y, z_s | x)."""
    model = build(SSDGM, draws=7)
    scramble(model, ("decoder", "latent", "recognition.classify"), 0.5, 3)
    seasons = seasons_of(model, parcels(5))
    with torch.no_grad():
        rows = model.rows(seasons, model._features(seasons, None))
        told = model.explain(rows, model.drawn_noise(5, torch.Generator().manual_seed(1)))
        assert told.log_class is not None
        joint = told.log_weight + model.tied.log_prior
        published = (told.log_class.exp() * (joint - told.log_class)).sum(-1).mean(0)
        found = weighted_by(log_mean_exp(told.log_class), model.bound(told) + model.tied.log_prior)
    assert torch.allclose(found, published)


def test_stacked_training_learns_the_lower_part_first_and_holds_it_then() -> None:
    model = build(M1M2, steps=10).train()
    batch = whitened(seasons_of(model, parcels(8, known=True)))
    lower = ("latent.encoder", "decoder", "recognition.convolved", "recognition.whitened", "shift", "log_var")
    statistics = [buffer for name, buffer in model.recognition.named_buffers() if "running" in name]
    assert statistics
    for step in range(1, 9):
        model.zero_grad(set_to_none=True)
        scramble(model, ("decoder", "latent", "upper_encoder", "lower_prior"), 0.05, step)
        before = [buffer.clone() for buffer in statistics]
        model.objective(batch, torch.Generator().manual_seed(step)).total.backward()
        moved = {name for name, p in model.named_parameters() if p.grad is not None and bool(p.grad.any())}
        for part in lower:
            assert any(name.startswith(part) for name in moved) == (step <= 5)
        assert all(torch.equal(*pair) for pair in zip(before, statistics, strict=True)) == (step > 5)
        assert "recognition.classify.weight" in moved
        assert any(name.startswith("lower_prior") for name in moved) == (step > 5)


def test_clusters_of_classes_tell_the_class() -> None:
    model = build(VaDE)
    batch = parcels(5)
    prior = model.tied.log_prior.exp()
    assert torch.allclose(model.cluster_posterior(batch), prior.expand(5, -1))
    with torch.no_grad():
        model.latent.prior.reach.fill_(1.0)  # type: ignore[union-attr]
        model.latent.prior.mean.copy_(torch.tensor([[[4.0, 0.0]], [[-4.0, 0.0]]]))  # type: ignore[union-attr]
        model.latent.encoder.answer.bias[0] = 4.0  # type: ignore[union-attr]
    assert (model.cluster_posterior(batch)[:, 0] > 0.99).all()
    drawn = model.latent.sample(torch.tensor([0, 1] * 50), torch.Generator().manual_seed(0), 0.1)
    assert ((drawn[:, 0] > 0) == (torch.arange(100) % 2 == 0)).all()


def test_the_upper_latent_of_cagem_makes_the_class() -> None:
    model = build(CaGeM)
    with torch.no_grad():
        model.cluster.weight[:, 0] = torch.tensor([3.0, -3.0])
    upper = model.draw_upper(torch.arange(2).repeat(100), torch.Generator().manual_seed(0), 1.0)
    assert upper[0::2, 0].mean() > 0.4
    assert upper[1::2, 0].mean() < -0.4
    z = torch.randn((7, 2, model.stack.upper), dtype=DTYPE)
    told = model.of_class(z[:, :1].expand(-1, 2, -1)) + model.tied.log_prior
    assert torch.allclose(told.exp().sum(-1), torch.ones(7, dtype=DTYPE))


def test_the_evidence_of_cagem_is_the_integral_over_both_latents() -> None:
    """log p(e | y) = log ∫∫ p(z2) p(y | z2) / π_y p(z1 | y, z2) p(e | z1, y) dz1 dz2, by sums over a grid."""
    model = build(CaGeM, latent=1, upper=1, samples=6000)
    scramble(model, ("decoder", "lower_prior", "cluster"), 0.3, 1)
    scramble(model, ("latent.encoder", "upper_encoder"), 0.05, 2)
    seasons = seasons_of(model, parcels(3))
    features = model._features(seasons, None)
    rows = model.rows(seasons, features)
    grid = torch.linspace(-6, 6, 241, dtype=DTYPE)
    step, normal = float(grid[1] - grid[0]), torch.distributions.Normal
    with torch.no_grad():
        upper = grid[:, None, None].expand(-1, 2, 1)
        mean, log_std = model.prior_of(upper)
        of_upper = normal(torch.zeros((), dtype=DTYPE), 1.0).log_prob(grid)[:, None] + model.of_class(upper)
        log_lower = normal(mean, log_std.exp()).log_prob(grid)
        of_lower = torch.logsumexp(of_upper[..., None] + log_lower, 0).T + math.log(step)
        emitted = model.emitted(rows, model.decode(grid[:, None, None, None].expand(-1, 3, 1, 1), seasons.day))
        exact = torch.logsumexp(emitted + of_lower[:, None], 0) + math.log(step)
        found = model.class_scores(seasons, features, None)
        bound = model.bound(model.explain(rows, model.noise.expand(-1, 3, 1, -1)))
    assert torch.allclose(found, exact, atol=0.05)
    assert (bound < exact).all()


def test_the_auxiliary_variable_makes_the_recognition_a_mixture() -> None:
    model = build(ADGM, samples=40)
    scramble(model, ("auxiliary", "recognition.classify"), 0.5, 1)
    seasons = seasons_of(model, parcels(6))
    features = model._features(seasons, None)
    with torch.no_grad():
        log_q = model.recognition.classify(features)
        assert torch.allclose(log_q.exp().sum(-1), torch.ones(6, dtype=DTYPE))
        head = model.recognition.classify
        assert isinstance(head, LatentHead)
        a = model._draw_auxiliary(features, head.noise)
        each = torch.softmax(head.of_features(features) + a[:, :, 0] @ head.of_latent.weight.T, -1)
    assert torch.allclose(log_q.exp(), each.mean(0))


def test_the_classifier_of_m1_is_where_the_gradient_of_logistic_regression_is_0() -> None:
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn((80, 3), generator=generator, dtype=DTYPE)
    y = (mean[:, 0] + 0.8 * torch.randn(80, generator=generator, dtype=DTYPE) > 0).long()
    ours = LatentClassifier(3, 2).double()
    ours.fit(mean, torch.zeros(80, 2, dtype=DTYPE), y, 0.02)
    wrong = torch.softmax(ours(mean), -1) - torch.eye(2, dtype=DTYPE)[y]
    assert torch.allclose(wrong.T @ mean / 80 + 0.02 * ours.weight, torch.zeros(2, 3, dtype=DTYPE), atol=1e-4)
    assert torch.allclose(wrong.mean(0), torch.zeros(2, dtype=DTYPE), atol=1e-4)
    assert float(ours.weight[1, 0] - ours.weight[0, 0]) > 0.5


def test_m1_learns_no_class_from_labels_before_its_second_stage() -> None:
    model = build(M1)
    known = parcels(30, known=True)
    terms = model.objective(whitened(seasons_of(model, known)), torch.Generator().manual_seed(0)).terms
    assert set(terms) == {"marginal"}
    before = model.log_posterior(known)
    model.finish(TrainingData(known), Context())
    assert not torch.allclose(model.log_posterior(known), before)
    joint = model.log_joint(known)
    assert torch.allclose(torch.log_softmax(joint, -1), model.log_posterior(known), atol=1e-9)
