"""The semi-supervised VAE: its bounds against a model whose likelihood is known, its KL, and that it learns."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cropgen.core.recipe import validate
from cropgen.models.base import InputSpec, TrainingData
from cropgen.models.layers.bank import Seasons, see
from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.models.vaes.ssvae import SemiSupervisedVAE
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.training.fit import fit_model

SLOTS = 4
SPEC = InputSpec(("NDVI",), Calendar("month", 3, SLOTS), Legend.from_codes("two", ["a", "b"]))


def seasons_of(values: Tensor, mask: Tensor | None = None, y: Tensor | None = None) -> Batch:
    """Seasons of four dates of one band, values (B, 4)."""
    count = len(values)
    mask = torch.ones(count, SLOTS, dtype=torch.bool) if mask is None else mask
    day = torch.tensor([95.0, 125.0, 155.0, 185.0]).expand(count, SLOTS).contiguous()
    y = torch.full((count,), -1) if y is None else y
    return Batch(values[..., None] * mask[..., None], mask, day, torch.arange(SLOTS).expand(count, -1).contiguous(), y)


def build(**settings: object) -> SemiSupervisedVAE:
    torch.manual_seed(1)
    return SemiSupervisedVAE(SPEC, validate(SemiSupervisedVAE.Settings, settings, where="test")).double().eval()


def linear_gaussian(samples: int) -> tuple[SemiSupervisedVAE, Tensor]:
    """A decoder g(z) = A z, made of relu(z) and relu(−z), and A (4, 2)."""
    model = build(latent=2, samples=samples)
    loading = torch.tensor([[0.9, 0.0], [0.5, -0.4], [0.0, 0.7], [-0.3, 0.2]], dtype=torch.float64)
    with torch.no_grad():
        decoder = model.decoder
        decoder.embed.weight.zero_()
        decoder.embed.bias.zero_()
        decoder.embed.weight[:4] = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [0.0, -1.0]])
        decoder.answer.weight[:, :4] = torch.cat([loading, -loading], 1)
        model.tied.means.copy_(torch.tensor([[0.3, 0.1, 0.0, -0.2], [-0.3, 0.4, 0.2, 0.0]]))
    return model, loading


def some_seasons(model: SemiSupervisedVAE, count: int = 6) -> Seasons:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn((count, SLOTS), generator=generator, dtype=torch.float64)
    mask = torch.rand((count, SLOTS), generator=generator) > 0.25
    return see(model.tied, seasons_of(values, mask), model.start_days)


def test_the_bound_converges_to_the_exact_likelihood() -> None:
    from scipy.stats import multivariate_normal

    model, loading = linear_gaussian(4000)
    seasons = some_seasons(model)
    with torch.no_grad():
        bound = model.class_scores(seasons, model._features(seasons, None), None)
    cov = torch.eye(SLOTS, dtype=torch.float64) + loading @ loading.T
    for row in range(len(seasons)):
        there = seasons.mask[row]
        if not there.any():
            continue
        for k in range(2):
            exact = multivariate_normal.logpdf(
                seasons.e[row][there].numpy(), seasons.offset[row, k][there].numpy(), cov[there][:, there].numpy()
            )
            assert float(bound[row, k]) == pytest.approx(exact, abs=0.1)


def test_more_samples_tighten_the_bound() -> None:
    model, _ = linear_gaussian(1)
    seasons = some_seasons(model, 40)
    generator = torch.Generator().manual_seed(0)
    bounds = []
    with torch.no_grad():
        features = model._features(seasons, None)
        for samples in (1, 5, 50):
            tries = []
            for _ in range(100 // samples + 4):
                model.noise = torch.randn((samples, 2), generator=generator, dtype=torch.float64)
                tries.append(model.class_scores(seasons, features, None).mean())
            bounds.append(torch.stack(tries).mean().item())
    assert bounds[0] + 0.05 < bounds[1]
    assert bounds[1] + 0.01 < bounds[2]


def test_the_training_bound_is_reconstruction_less_kl() -> None:
    model, _ = linear_gaussian(1)
    torch.nn.init.normal_(model.posterior.answer.weight, 0, 0.2)
    count, repeats = 3, 4000
    few = some_seasons(model, count)
    many = few.take(torch.arange(count).repeat(repeats))
    with torch.no_grad():
        features = model._features(many, None)
        elbo = model.class_scores(many, features, torch.Generator().manual_seed(0))
        mean, spread = model.posterior(features[:, None]).chunk(2, -1)
        q = torch.distributions.Normal(mean, (3 * torch.tanh(spread / 3)).exp())
        z = q.sample()
        ratio = q.log_prob(z) - torch.distributions.Normal(0.0, 1.0).log_prob(z)
        sampled = model._reconstruction(many, z) - ratio.sum(-1)
    assert torch.allclose(elbo.view(repeats, count, 2).mean(0), sampled.view(repeats, count, 2).mean(0), atol=0.15)


def test_classes_share_the_embedding_and_the_noise() -> None:
    torch.manual_seed(0)
    network = ClasswiseMLP(3, 2, 5, start_at_zero=False)
    torch.nn.init.normal_(network.of_class)
    f = torch.randn(4, 3)
    every = network(f[:, None])
    assert every.shape == (4, 2, 5)
    y = torch.tensor([1, 0, 0, 1])
    assert torch.allclose(network.chosen(f, y), every[torch.arange(4), y], atol=1e-6)
    model, _ = linear_gaussian(4)
    with torch.no_grad():
        model.tied.means[1] = model.tied.means[0]
    score = model.log_joint(seasons_of(torch.randn(5, SLOTS, dtype=torch.float64)))
    assert torch.allclose(score[:, 0], score[:, 1], atol=1e-12)


def test_samples_have_the_moments_of_the_model() -> None:
    model, loading = linear_gaussian(1)
    drawn = model.sample(torch.zeros(20_000, dtype=torch.int64), torch.Generator().manual_seed(0))[..., 0]
    cov = torch.eye(SLOTS, dtype=torch.float64) + loading @ loading.T
    assert torch.allclose(drawn.mean(0), model.tied.means[0], atol=0.05)
    assert torch.allclose(torch.cov(drawn.T), cov, atol=0.06)


def forked(count: int, seed: int) -> Batch:
    """Two classes, in each of which a season goes one of two ways."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    way = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1
    values = 0.3 * torch.randn((count, SLOTS), generator=generator)
    values[:, 0] += 2 * y - 1
    values[:, 1:] += way[:, None]
    return seasons_of(values, y=y)


def test_latents_of_the_textbook_form_learn_the_fork() -> None:
    settings = {
        "steps": 200, "copies": 600, "augmentation": "none", "unlabelled_batch": 0, "learning_rate": 2e-2,
        "samples": 32, "start": "none", "tied": {"augment": "none"},
    }  # fmt: skip
    seen, fresh = forked(600, 1), forked(500, 2)
    model = fit_model("ssvae", settings, SPEC, TrainingData(seen), seed=0).model
    independent = torch.zeros(2, len(fresh))
    for k in range(2):
        own = seen.values[seen.y == k, :, 0]
        normal = torch.distributions.Normal(own.mean(0), own.std(0))
        independent[k] = normal.log_prob(fresh.values[..., 0]).sum(-1) + torch.tensor(0.5).log()
    with torch.no_grad():
        assert isinstance(model, SemiSupervisedVAE)
        assert model.log_likelihood(fresh).mean() > torch.logsumexp(independent, 0).mean() + 0.5


def nested(count: int, seed: int) -> Batch:
    """Two classes with one mean: small seasons and large ones."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    values = torch.randn((count, SLOTS), generator=generator) * torch.where(y == 1, 1.5, 0.3)[:, None]
    return seasons_of(values, y=y)


def test_bayes_rule_learns_classes_that_a_tied_gaussian_cannot_tell() -> None:
    settings = {
        "steps": 200, "copies": 600, "augmentation": "none", "unlabelled_batch": 0, "learning_rate": 5e-3,
        "decide": "bayes", "tied": {"augment": "none"},
    }  # fmt: skip
    model = fit_model("ssvae", settings, SPEC, TrainingData(nested(600, 1)), seed=0).model
    fresh = nested(500, 2)
    with torch.no_grad():
        assert isinstance(model, SemiSupervisedVAE)
        wrong_before = (model.tied.log_joint(*model.tied.grid(fresh)).argmax(-1) != fresh.y).double().mean()
        wrong = (model.log_posterior(fresh).argmax(-1) != fresh.y).double().mean()
    assert wrong_before > 0.35
    assert wrong < 0.25
