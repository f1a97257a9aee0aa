"""The estimators agree with independent implementations, and EM climbs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from sklearn.covariance import ledoit_wolf as reference_ledoit_wolf
from torch.nn import functional

from cropgen.models.layers.tied_em import (
    Estimate,
    Rows,
    Weighted,
    block_autoregression,
    expectation_maximisation,
    give_strays,
    ledoit_wolf,
    log_likelihood,
    maximise,
)

EVEN = torch.tensor([0.5, 0.5]).double().log()


def clusters(count: int, distance: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows (count, 4) of two correlated clusters `distance` apart along every axis, and their class."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    root = torch.tensor([[1.0, 0, 0, 0], [0.8, 0.6, 0, 0], [0, 0, 1, 0], [0, 0.3, 0.5, 0.8]]).double()
    noise = torch.randn(count, 4, generator=generator, dtype=torch.float64) @ root.T
    return noise + distance * (y[:, None] - 0.5), y


def known(x: torch.Tensor, y: torch.Tensor) -> Weighted:
    return Weighted(Rows(x), functional.one_hot(y, 2).double())


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 40), st.integers(2, 12))
def test_shrinkage_equals_scikit_learn(seed: int, count: int, size: int) -> None:
    x = np.random.default_rng(seed).normal(size=(count, size)) * np.arange(1, size + 1)
    residual = torch.from_numpy(x)
    fourth = float(residual.square().sum(1).square().mean())
    ours = ledoit_wolf(residual.T @ residual / count, fourth, count).numpy()
    expected, shrinkage = reference_ledoit_wolf(x, assume_centered=True)
    if shrinkage > 1e-3:
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-9)
    assert np.linalg.eigvalsh(ours).min() > 0


def test_no_spread_at_all_gives_the_identity() -> None:
    assert torch.equal(ledoit_wolf(torch.zeros(3, 3).double(), 0.0, 5), torch.eye(3).double())


def test_maximise_equals_the_pooled_estimate() -> None:
    x, y = clusters(80, 3.0)
    estimate = maximise([known(x, y)], EVEN)
    means = torch.stack([x[y == k].mean(0) for k in (0, 1)])
    residual = (x - means[y]).numpy()
    torch.testing.assert_close(estimate.means, means)
    np.testing.assert_allclose(
        estimate.cov.numpy(), reference_ledoit_wolf(residual, assume_centered=True)[0], rtol=1e-9
    )


def test_a_weight_counts_as_repetition() -> None:
    x, y = clusters(40, 2.0)
    first, second = known(x[:20], y[:20]), known(x[20:], y[20:])
    weighted = maximise([first, Weighted(second.rows, second.share, 3.0)], EVEN)
    repeated = maximise([first, second, second, second], EVEN)
    torch.testing.assert_close(weighted.cov, repeated.cov)
    torch.testing.assert_close(weighted.means, repeated.means)


def test_log_joint_and_posterior_equal_scipy() -> None:
    x, y = clusters(30, 2.0)
    estimate = maximise([known(x, y)], torch.tensor([0.3, 0.7]).double().log())
    expected = np.stack([multivariate_normal.logpdf(x, m, estimate.cov) for m in estimate.means.numpy()], 1) + np.log(
        [0.3, 0.7]
    )
    np.testing.assert_allclose(estimate.log_joint(x).numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(estimate.posterior(x), torch.softmax(torch.from_numpy(expected), -1), atol=1e-9)


def test_autoregression_recovers_a_process_of_its_order() -> None:
    transition = torch.tensor([[0.6, 0.2], [-0.1, 0.5]]).double()
    blocks, cov = [torch.eye(2).double()], torch.zeros(10, 10).double()
    for _ in range(4):
        blocks.append(transition @ blocks[-1] @ transition.T + torch.eye(2))
    for i in range(5):
        for j in range(i, 5):
            lagged = torch.linalg.matrix_power(transition, j - i) @ blocks[i]
            cov[2 * j : 2 * j + 2, 2 * i : 2 * i + 2] = lagged
            cov[2 * i : 2 * i + 2, 2 * j : 2 * j + 2] = lagged.T
    torch.testing.assert_close(block_autoregression(cov, 2, 1), cov)
    torch.testing.assert_close(block_autoregression(cov, 2, 3), cov)


def test_autoregression_keeps_neighbouring_dates_only() -> None:
    root = torch.randn(8, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cov = root @ root.T + torch.eye(8)
    short = block_autoregression(cov, 2, 1)
    torch.testing.assert_close(short[:4, :4], cov[:4, :4])
    precision = torch.linalg.inv(short)
    assert float(precision[:2, 4:].abs().max()) < 1e-9
    torch.testing.assert_close(block_autoregression(cov, 2, 4), cov)


def test_em_climbs_and_finds_the_clusters() -> None:
    x, y = clusters(600, 3.0)
    rows, labels = Rows(x[20:]), known(x[:4], y[:4])
    start = maximise([labels], EVEN)
    fitness = [
        float(expectation_maximisation(labels, rows, 1.0, start, steps).log_likelihood(rows.x).mean())
        for steps in range(6)
    ]
    assert all(later > earlier - 1e-3 for earlier, later in itertools.pairwise(fitness))
    assert fitness[-1] > fitness[0] + 0.1
    end = expectation_maximisation(labels, rows, 1.0, start, 10)
    assert float((end.posterior(rows.x).argmax(1) == y[20:]).double().mean()) > 0.97
    torch.testing.assert_close(end.means, torch.tensor([[-1.5] * 4, [1.5] * 4]).double(), atol=0.25, rtol=0)


def test_labelled_rows_keep_their_class() -> None:
    x, y = clusters(60, 8.0)
    labels, start = known(x[:10], 1 - y[:10]), maximise([known(x[:10], 1 - y[:10])], EVEN)
    end = expectation_maximisation(labels, Rows(x[10:]), 1.0, start, 3)
    assert float(end.means[0].mean()) == pytest.approx(4.0, abs=0.5)
    assert isinstance(end, Estimate)


def test_strays_go_to_the_class_that_is_to_have_them() -> None:
    x, y = clusters(60, 3.0)
    far = torch.full((5, 4), 30.0).double()
    labels, rows = known(x[:20], y[:20]), Rows(torch.cat([x[20:], far]))
    end = maximise([labels], EVEN)
    start = give_strays(labels, rows, 1.0, end, receiver=1)
    share = end.posterior(rows.x)
    worst = end.log_likelihood(rows.x).argsort()[: math.ceil(0.05 * len(rows))]
    assert set(worst.tolist()) <= set(range(len(rows) - 5, len(rows)))
    share[worst] = torch.tensor([0.0, 1.0]).double()
    expected = maximise([labels, Weighted(rows, share)], EVEN)
    torch.testing.assert_close(start.means, expected.means)
    torch.testing.assert_close(start.cov, expected.cov)


def test_a_restart_finds_the_form_that_no_label_shows() -> None:
    generator = torch.Generator().manual_seed(0)
    forms = torch.zeros(3, 20).double()
    forms[1, 0], forms[2, 1] = 8.0, 6.0
    form = torch.tensor([0] * 600 + [1] * 2 + [2] * 40)
    x = forms[form] + torch.randn(len(form), 20, generator=generator, dtype=torch.float64)
    shown = torch.tensor([*range(40), 600, 601])
    labels, rows = known(x[shown], (form[shown] > 0).long()), Rows(torch.cat([x[40:600], x[602:]]))
    start = maximise([labels], torch.tensor([0.9, 0.1]).double().log())
    first = expectation_maximisation(labels, rows, 1.0, start, 8)
    again = expectation_maximisation(labels, rows, 1.0, give_strays(labels, rows, 1.0, first, 1), 8)
    assert log_likelihood(labels, rows, 1.0, again) > log_likelihood(labels, rows, 1.0, first) + 50
    found = [float((end.posterior(x[602:])[:, 1] > 0.5).double().mean()) for end in (first, again)]
    assert found == [0.0, 1.0]


def test_what_em_climbs_equals_the_densities_of_scipy() -> None:
    x, y = clusters(30, 2.0)
    estimate = maximise([known(x, y)], torch.tensor([0.3, 0.7]).double().log())
    density = np.stack([multivariate_normal(m.numpy(), estimate.cov.numpy()).pdf(x.numpy()) for m in estimate.means], 1)
    joint = density * np.array([0.3, 0.7])
    expected = np.log(joint[np.arange(10), y[:10].numpy()]).sum() + 0.5 * np.log(joint[10:].sum(1)).sum()
    found = log_likelihood(known(x[:10], y[:10]), Rows(x[10:]), 0.5, estimate)
    assert found == pytest.approx(expected)
    posterior = (joint / joint.sum(1, keepdims=True))[np.arange(10), y[:10].numpy()]
    assert estimate.surprise(known(x[:10], y[:10])) == pytest.approx(-np.log(posterior).mean())
