"""Linear, quadratic and mixture discriminants as models: scores of gaps, choices on record, samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model, load_model, save_model
from cropgen.models.classical.gmm import GaussianMixture, GaussianMixtureOptions
from cropgen.models.classical.lda import LinearDiscriminant, LinearDiscriminantOptions
from cropgen.models.classical.qda import QuadraticDiscriminant, QuadraticDiscriminantOptions
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

SLOTS, BANDS = 6, 2
SPEC = InputSpec(("B04", "B08"), Calendar("dekad", 9, SLOTS), Legend.from_codes("test", "abc"))


def seasons(y: torch.Tensor, seed: int, gaps: float = 0.3, forms: float = 0.0, growing: float = 0.0) -> Batch:
    """Noisy seasons whose phase depends on the class; some of two forms, some noisier with the class."""
    generator = torch.Generator().manual_seed(seed)
    slot = torch.arange(SLOTS).expand(len(y), -1)
    early = forms * (torch.rand(len(y), 1, generator=generator) > 0.5)
    phase = slot / 2 + 1.2 * y[:, None] + early + 0.2 * torch.randn(len(y), 1, generator=generator)
    values = 0.4 + 0.2 * torch.stack([torch.sin(phase), torch.cos(phase)], -1)
    spread = 0.06 * (1 + growing * y[:, None, None])
    values = values + spread * torch.randn(values.shape, generator=generator)
    mask = torch.rand(len(y), SLOTS, generator=generator) >= gaps
    return Batch(values * mask[..., None], mask, 92.0 + 10 * slot, slot, y)


def trained(name: str, rows: Batch, **options: Any) -> tuple[Any, dict[str, Any]]:
    model, context = build_model(name, options, SPEC), Context(seed=4)
    model.prepare(TrainingData(rows), context)
    return model.eval(), context.facts[name]


def accuracy(model: Any, test: Batch) -> float:
    return float((model.log_posterior(test).argmax(1) == test.y).float().mean())


def test_without_gaps_and_copies_lda_is_that_of_scikit_learn() -> None:
    """The same intensity of shrinkage gives the same discriminant."""
    rows, test = (seasons(torch.arange(n) % 3, seed, gaps=0.0) for n, seed in ((60, 1), (200, 2)))
    model, _ = trained("lda", rows, augment="none")
    x, z = (model.gaussian.grid(batch)[0].flatten(1).double() for batch in (rows, test))
    means = torch.stack([x[rows.y == k].mean(0) for k in range(3)])
    scatter = (x - means[rows.y]).T @ (x - means[rows.y]) / len(x)
    intensity = float((model.gaussian.cov - scatter)[0, 1] / -scatter[0, 1])
    assert 0 < intensity < 1
    target = (1 - intensity) * scatter + intensity * scatter.trace() / len(scatter) * torch.eye(len(scatter))
    torch.testing.assert_close(model.gaussian.cov.double(), target, atol=1e-4, rtol=1e-4)

    class Fixed:
        def fit(self, _: np.ndarray) -> Fixed:
            self.covariance_ = target.numpy()
            return self

    reference = LinearDiscriminantAnalysis(solver="lsqr", covariance_estimator=Fixed()).fit(x.numpy(), rows.y.numpy())
    expected = reference.predict_log_proba(z.numpy())
    np.testing.assert_allclose(torch.log_softmax(model.log_joint(test), 1).numpy(), expected, atol=2e-2)


@pytest.mark.parametrize("name", ["lda", "qda", "gmm"])
def test_gaps_are_integrated_out(name: str) -> None:
    """The density of the dates seen is that of the Gaussian restricted to them, in reflectance units."""
    model, _ = trained(name, seasons(torch.arange(90) % 3, 1))
    model = model.double()
    rows = seasons(torch.arange(6) % 3, 3).to(dtype=torch.float64)
    parts = [model.gaussian] * 3 if name == "lda" else model.parts
    log_prior = model.gaussian.log_prior if name == "lda" else model.log_prior
    x, m = parts[0].grid(rows)
    for row in range(6):
        kept = m[row].repeat_interleave(BANDS)
        for k, part in enumerate(parts):
            chosen = [k] if name == "lda" else range(len(part.means))
            weights = [0.0] if name == "lda" else part.log_prior
            cov = part.cov[kept][:, kept]
            density = torch.stack(
                [
                    w
                    + torch.distributions.MultivariateNormal(part.means[j][kept], cov).log_prob(x[row].flatten()[kept])
                    for w, j in zip(weights, chosen, strict=True)
                ]
            ).logsumexp(0)
            expected = density - part.scale.log().sum() * m[row].sum() + log_prior[k]
            torch.testing.assert_close(model.log_joint(rows)[row, k], expected)


def test_a_covariance_of_its_own_helps_where_classes_differ_in_spread() -> None:
    form = {"gaps": 0.0, "growing": 1.5}
    rows, test = seasons(torch.arange(600) % 3, 1, **form), seasons(torch.arange(600) % 3, 2, **form)
    linear, _ = trained("lda", rows, augment="none")
    quadratic, _ = trained("qda", rows, augment="none", share=1.0)
    assert float(quadratic.log_likelihood(test).mean()) > float(linear.log_likelihood(test).mean()) + 0.3
    assert accuracy(quadratic, test) >= accuracy(linear, test)


def test_components_find_the_forms_of_a_class() -> None:
    rows, test = seasons(torch.arange(300) % 3, 1, forms=2.4), seasons(torch.arange(300) % 3, 2, forms=2.4)
    one, _ = trained("qda", rows, augment="none", share=0.1)
    two, facts = trained("gmm", rows, augment="none", components=2, share=0.1)
    assert facts["components"] == [2, 2, 2]
    assert float(two.log_likelihood(test).mean()) > float(one.log_likelihood(test).mean()) + 0.7
    assert accuracy(two, test) > accuracy(one, test)
    weights = torch.stack([part.log_prior.exp() for part in two.parts])
    assert float(weights.min()) > 0.3


@pytest.mark.parametrize("name", ["lda", "qda", "gmm"])
def test_copies_of_few_labels_are_judged_by_cross_validation(name: str) -> None:
    few, facts = trained(name, seasons(torch.arange(9) % 3, 1))
    assert set(facts["nll"]) == {"strong", "none"}
    assert facts["copies"] == min(facts["nll"], key=facts["nll"].get)
    assert accuracy(few, seasons(torch.arange(300) % 3, 2)) > 0.7
    _, plain = trained(name, seasons(torch.arange(9) % 3, 1), augment="none")
    assert set(plain["nll"]) == {"none"}
    single, facts = trained(name, seasons(torch.arange(3), 1))
    assert facts["nll"] == {}
    assert facts["copies"] == "strong"
    assert torch.isfinite(single.log_posterior(seasons(torch.arange(30) % 3, 2))).all()


@pytest.mark.parametrize("name", ["lda", "qda", "gmm"])
def test_an_empty_row_gets_the_prior_and_the_disk_keeps_everything(name: str, tmp_path) -> None:
    rows = seasons(torch.arange(91) % 3, 5)
    model, _ = trained(name, rows)
    empty = replace(rows, values=rows.values * 0, mask=rows.mask & False)
    prior = torch.tensor([31.0, 30.0, 30.0]) / 91
    torch.testing.assert_close(model.log_posterior(empty)[0].exp(), prior)
    torch.testing.assert_close(model.log_likelihood(empty), torch.zeros(91), atol=1e-5, rtol=0)
    save_model(tmp_path / "model", model, name)
    assert torch.equal(load_model(tmp_path / "model").log_joint(rows), model.log_joint(rows))


@pytest.mark.parametrize("name", ["qda", "gmm"])
def test_samples_have_the_mean_of_their_class(name: str) -> None:
    model, _ = trained(name, seasons(torch.arange(240) % 3, 1, forms=2.0))
    y = torch.arange(3).repeat_interleave(400)
    drawn = model.sample(y, torch.Generator().manual_seed(0))
    for k, part in enumerate(model.parts):
        mean = (part.log_prior.exp() @ part.means).unflatten(0, (SLOTS, BANDS))
        torch.testing.assert_close(drawn[y == k].mean(0), part.restore(mean), atol=0.03, rtol=0)
    flat = model.sample(y[:2], torch.Generator().manual_seed(0), temperature=0.0)
    nearest = (model.parts[0].standardise(flat[0]).flatten() - model.parts[0].means).abs().amax(1)
    assert float(nearest.min()) < 1e-5


def test_options_are_those_of_the_classes() -> None:
    assert LinearDiscriminant.Settings is LinearDiscriminantOptions
    assert QuadraticDiscriminant.Settings is QuadraticDiscriminantOptions
    assert GaussianMixture.Settings is GaussianMixtureOptions
    assert GaussianMixture(SPEC, GaussianMixtureOptions(components=5)).form().components == 5
