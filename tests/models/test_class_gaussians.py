"""Class densities from labels alone: the fits, their choice, and exact scores of what a parcel shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from cropgen.core.errors import DataError
from cropgen.models.base import InputSpec
from cropgen.models.layers.class_gaussians import Form, Labelled, _cluster, fit_densities
from cropgen.models.layers.tied_em import ledoit_wolf
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

SPEC = InputSpec(("B04",), Calendar("month", 2, 2), Legend.from_codes("test", "abc"))


def labelled(x: torch.Tensor, y: torch.Tensor) -> Labelled:
    return Labelled(x, y, torch.zeros(1), torch.ones(1))


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cloud(counts: tuple[int, ...], seed: int = 0) -> Labelled:
    """Seasons of two slots of one band, every class with a mean and a covariance of its own."""
    source = generator(seed)
    parts = []
    for k, n in enumerate(counts):
        noise = torch.randn(n, 2, generator=source, dtype=torch.float64)
        parts.append(noise @ torch.tensor([[1.0, 0.5 * k], [0.0, 1.0 + k]]).double() + 3 * k)
    y = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    return labelled(torch.cat(parts)[..., None], y)


def residual_covariance(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """The shrunk covariance about class means, written out."""
    means = torch.stack([x[y == k].mean(0) for k in range(int(y.max()) + 1)])
    d = x - means[y]
    return ledoit_wolf(d.T @ d / len(d), float(d.square().sum(1).square().mean()), len(d))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
def test_means_prior_and_blended_covariances_are_those_written_out(share: float) -> None:
    seen = cloud((40, 25, 15))
    real = torch.bincount(seen.y)
    fit = fit_densities(seen, real, Form(share=share), 1.0, generator())
    x = seen.x.flatten(1)
    pooled = residual_covariance(x, seen.y)
    torch.testing.assert_close(fit.tied.cov, pooled)
    torch.testing.assert_close(fit.log_prior.exp(), real.double() / 80)
    for k, one in enumerate(fit.classes):
        rows = x[seen.y == k]
        blend = share * len(rows) / (len(rows) + 2)
        own = residual_covariance(rows, torch.zeros(len(rows), dtype=torch.int64))
        torch.testing.assert_close(one.means[0], rows.mean(0))
        torch.testing.assert_close(one.cov, (1 - blend) * pooled + blend * own)
    expected = torch.stack(
        [torch.distributions.MultivariateNormal(o.means[0], o.cov).log_prob(x) for o in fit.classes], 1
    )
    torch.testing.assert_close(fit.log_joint(x), expected + fit.log_prior)


def test_em_of_one_class_agrees_with_scikit_learn() -> None:
    """With one class and full pooling, components are a mixture of one tied covariance."""
    x = torch.cat([cloud((150,), seed=1).x, cloud((90,), seed=2).x + 6.0])
    y = torch.zeros(240, dtype=torch.int64)
    fit = fit_densities(labelled(x, y), torch.tensor([240]), Form(0.0, 2, 20, 60), 1.0, generator())
    reference = GaussianMixture(2, covariance_type="tied", random_state=0, tol=1e-9, max_iter=500).fit(
        x.flatten(1).numpy()
    )
    ours, theirs = (np.argsort(m[:, 0]) for m in (fit.classes[0].means.numpy(), reference.means_))
    np.testing.assert_allclose(fit.classes[0].means.numpy()[ours], reference.means_[theirs], atol=0.02)
    np.testing.assert_allclose(fit.classes[0].cov.numpy(), reference.covariances_, atol=0.05)
    np.testing.assert_allclose(fit.classes[0].log_prior.exp().numpy()[ours], reference.weights_[theirs], atol=0.01)


def test_components_follow_the_labels() -> None:
    assert Form(components=3, labels_per_component=20).counts(torch.tensor([5, 20, 40, 59, 60, 900])) == [
        1, 1, 2, 2, 3, 3,
    ]  # fmt: skip


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 30), st.integers(1, 4), st.integers(0, 99))
def test_clusters_share_every_row_and_leave_none_empty(rows: int, count: int, seed: int) -> None:
    x = torch.randn(rows, 3, generator=generator(seed), dtype=torch.float64).round()
    share = _cluster(x, count, generator(seed))
    torch.testing.assert_close(share.sum(1), torch.ones(rows, dtype=torch.float64))
    assert float(share.min()) > 0


def test_labels_are_standardised_and_filled_and_an_absent_class_is_named() -> None:
    rows = Batch(
        values=torch.tensor([[[0.1], [0.3]], [[0.5], [0.0]], [[0.3], [0.3]]]),
        mask=torch.tensor([[True, True], [True, False], [True, True]]),
        day=torch.tensor([[60.0, 90.0]] * 3),
        slot=torch.tensor([[0, 1]] * 3),
        y=torch.tensor([0, 1, 2]),
    )
    seen = Labelled.of(SPEC, rows)
    shown = np.array([0.1, 0.3, 0.5, 0.3, 0.3])
    assert float(seen.centre[0]) == pytest.approx(shown.mean())
    assert float(seen.scale[0]) == pytest.approx(shown.std())
    torch.testing.assert_close(seen.x[1, 1], seen.x[1, 0])
    with pytest.raises(DataError, match="for b"):
        Labelled.of(SPEC, rows.take(torch.tensor([0, 2])))


def test_copies_are_of_every_season_and_repeat_with_the_seed() -> None:
    seen = cloud((4, 3, 3))
    copies = seen.copies("lite", generator(5))
    assert torch.equal(torch.bincount(copies.y), torch.tensor([120, 90, 90]))
    assert torch.equal(copies.x, seen.copies("lite", generator(5)).x)
    assert not torch.equal(copies.x, seen.copies("lite", generator(6)).x)
