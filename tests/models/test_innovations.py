"""The tied Gaussian agrees with textbook Gaussians on whatever dates a row has."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal
from torch import Tensor

from cropgen.core.errors import UsageError
from cropgen.models.base import InputSpec
from cropgen.models.layers.innovations import TiedGaussian, tempered
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

SLOTS, BANDS, CLASSES = 5, 2, 3
SCALE = (2.0, 3.0)


def gaussian(seed: int = 0) -> TiedGaussian:
    spec = InputSpec(("B04", "B08"), Calendar("dekad", 0, SLOTS), Legend.from_codes("test", "abc"))
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(SLOTS * BANDS, SLOTS * BANDS, generator=generator, dtype=torch.float64)
    tied = TiedGaussian(spec).double()
    tied.cov.copy_(root @ root.T + torch.eye(SLOTS * BANDS))
    tied.chol.copy_(torch.linalg.cholesky(tied.cov))
    tied.means.copy_(torch.randn(CLASSES, SLOTS * BANDS, generator=generator, dtype=torch.float64))
    tied.log_prior.copy_(torch.tensor([0.5, 0.3, 0.2]).double().log())
    tied.scale.copy_(torch.tensor(SCALE))
    tied.centre.copy_(torch.tensor([0.1, -0.2]))
    return tied


def rows(count: int = 30, seed: int = 1) -> tuple[Tensor, Tensor]:
    """Seasons with random gaps, two complete ones, three of one mask, and one without any date."""
    generator = torch.Generator().manual_seed(seed)
    x = 2 * torch.randn(count, SLOTS, BANDS, generator=generator, dtype=torch.float64)
    m = torch.rand(count, SLOTS, generator=generator) > 0.4
    m[:2], m[2] = True, False
    m[3:6] = torch.tensor([True, False, True, True, False])
    return x * m[..., None], m


def oracle(tied: TiedGaussian, x: Tensor, m: Tensor, y: int) -> float:
    """log p(x_observed, y) in reflectance units, from SciPy on the observed entries."""
    kept = m.repeat_interleave(BANDS).numpy()
    prior = float(tied.log_prior[y])
    if not kept.any():
        return prior
    cov = tied.cov.numpy()[np.ix_(kept, kept)]
    density = multivariate_normal.logpdf(x.flatten().numpy()[kept], tied.means[y].numpy()[kept], cov)
    return float(density) - int(m.sum()) * sum(math.log(s) for s in SCALE) + prior


def test_log_joint_is_the_gaussian_of_the_observed_dates() -> None:
    tied = gaussian()
    x, m = rows()
    expected = [[oracle(tied, x[i], m[i], y) for y in range(CLASSES)] for i in range(len(x))]
    np.testing.assert_allclose(tied.log_joint(x, m).numpy(), expected, atol=1e-8)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000))
def test_any_mask_matches_the_oracle_and_no_row_depends_on_its_neighbours(seed: int) -> None:
    tied = gaussian(seed)
    x, m = rows(8, seed)
    together = tied.log_joint(x, m)
    alone = torch.cat([tied.log_joint(x[i : i + 1], m[i : i + 1]) for i in range(len(x))])
    torch.testing.assert_close(together, alone, atol=1e-9, rtol=0)
    assert float(together[6, 1]) == pytest.approx(oracle(tied, x[6], m[6], 1), abs=1e-8)


def test_single_precision_stays_close() -> None:
    tied, (x, m) = gaussian(), rows()
    exact = tied.log_joint(x, m)
    torch.testing.assert_close(tied.float().log_joint(x.float(), m).double(), exact, atol=2e-3, rtol=1e-4)


def test_values_at_missing_dates_do_not_matter() -> None:
    tied, (x, m) = gaussian(), rows()
    garbage = torch.where(m[..., None], x, 99.0)
    torch.testing.assert_close(tied.log_joint(garbage, m), tied.log_joint(x, m))


def test_a_prefix_score_is_the_marginal_of_the_prefix() -> None:
    tied, (x, m) = gaussian(), rows()
    prefix = tied.prefix_log_joint(x, m)
    for slot in range(SLOTS):
        early = m & (torch.arange(SLOTS) <= slot)
        torch.testing.assert_close(prefix[:, slot], tied.log_joint(x * early[..., None], early), atol=1e-9, rtol=0)


def test_innovations_are_causal_and_zero_at_gaps() -> None:
    tied, (x, m) = gaussian(), rows()
    changed = x.clone()
    changed[:, 3:] += 5.0
    before, after = tied.whiten(x, m).e, tied.whiten(changed, m).e
    torch.testing.assert_close(before[:, : 3 * BANDS], after[:, : 3 * BANDS])
    assert not before[~m.repeat_interleave(BANDS, 1)].any()
    assert not tied.whiten(x, m).offset.transpose(1, 2)[~m.repeat_interleave(BANDS, 1)].any()


def test_innovations_of_samples_are_white() -> None:
    tied = gaussian()
    y = torch.zeros(4000, dtype=torch.int64)
    season = tied.standardise(tied.sample(y, torch.Generator().manual_seed(0)))
    white = tied.whiten(season, torch.ones(4000, SLOTS, dtype=torch.bool))
    innovation = white.e - white.offset[:, 0]
    torch.testing.assert_close(innovation.T.cov(), torch.eye(10).double(), atol=0.1, rtol=0)
    assert float(innovation.mean(0).abs().max()) < 0.08


def test_completion_is_the_conditional_mean() -> None:
    tied, (x, m) = gaussian(), rows()
    row, y = 3, 1
    kept = m[row].repeat_interleave(BANDS).numpy()
    cov, mean = tied.cov.numpy(), tied.means[y].numpy()
    gain = cov[np.ix_(~kept, kept)] @ np.linalg.inv(cov[np.ix_(kept, kept)])
    expected = x[row].flatten().numpy().copy()
    expected[~kept] = mean[~kept] + gain @ (expected[kept] - mean[kept])
    certain = torch.nn.functional.one_hot(torch.full((len(x),), y), CLASSES).double()
    completed = tied.complete(x, m, certain)
    np.testing.assert_allclose(completed[row].flatten().numpy(), expected, atol=1e-9)
    np.testing.assert_allclose(completed[2].flatten().numpy(), mean, atol=1e-12)
    torch.testing.assert_close(completed[:2], x[:2])


def test_completion_mixes_the_classes_by_their_posterior() -> None:
    tied, (x, m) = gaussian(), rows()
    weights = torch.softmax(tied.log_joint(x, m), -1)
    each = [tied.complete(x, m, torch.eye(CLASSES).double()[y].expand(len(x), -1)) for y in range(CLASSES)]
    expected = sum(weights[:, y, None, None] * each[y] for y in range(CLASSES))
    torch.testing.assert_close(tied.complete(x, m), expected)


def test_two_clusters_by_hand() -> None:
    spec = InputSpec(("NDVI",), Calendar("month", 0, 1), Legend.from_codes("test", "ab"))
    tied = TiedGaussian(spec).double()
    tied.means.copy_(torch.tensor([[-1.0], [1.0]]))
    x, m = torch.tensor([[[0.5]]]).double(), torch.ones(1, 1, dtype=torch.bool)
    joint = tied.log_joint(x, m)[0]
    assert float(joint[1] - joint[0]) == pytest.approx(2 * 0.5)
    assert float(joint[1]) == pytest.approx(-0.125 - 0.5 * math.log(2 * math.pi) - math.log(2))


def test_the_grid_averages_a_slot_and_ignores_what_is_masked() -> None:
    tied = gaussian()
    values = torch.tensor([[[0.2, 0.4], [0.4, 0.8], [9.0, 9.0], [0.3, 0.1]]])
    batch = Batch(
        values=values,
        mask=torch.tensor([[True, True, False, True]]),
        day=torch.tensor([[1.0, 4.0, 12.0, 70.0]]),
        slot=torch.tensor([[0, 0, 1, -1]]),
        y=torch.tensor([-1]),
    )
    x, m = tied.grid(batch)
    assert m.tolist() == [[True, False, False, False, False]]
    torch.testing.assert_close(tied.restore(x[0, 0]), torch.tensor([0.3, 0.6]).double())
    assert not x[0, 1:].any()


def test_tempering_keeps_the_order_and_bounds_the_certainty() -> None:
    joint = torch.tensor([[-3000.0, 0.0, -500.0]]).double()
    posterior = tempered(joint, 0.2).exp()
    assert float(posterior.sum()) == pytest.approx(1.0)
    assert posterior.argmax() == 1
    assert float(posterior.min()) == pytest.approx(0.01 / 3)


def test_a_row_without_dates_gets_the_prior() -> None:
    tied, (x, m) = gaussian(), rows()
    torch.testing.assert_close(tied.log_joint(x, m)[2], tied.log_prior)
    torch.testing.assert_close(tied.log_posterior(x, m)[2], tied.log_prior)
    empty = torch.zeros(1, SLOTS, dtype=torch.bool)
    torch.testing.assert_close(tied.log_posterior(x[2:3], empty)[0], tied.log_prior)


def test_sampling_repeats_and_temperature_scales_the_noise() -> None:
    tied, y = gaussian(), torch.tensor([0, 2])
    draw = [tied.sample(y, torch.Generator().manual_seed(5), t) for t in (1.0, 1.0, 0.5, 0.0)]
    assert torch.equal(draw[0], draw[1])
    torch.testing.assert_close(draw[2], (draw[0] + draw[3]) / 2)
    torch.testing.assert_close(tied.standardise(draw[3]).flatten(1), tied.means[y])


def test_too_long_a_season_is_refused() -> None:
    spec = InputSpec(tuple(f"b{i}" for i in range(50)), Calendar("pentad", 0, 72), Legend.from_codes("test", "ab"))
    with pytest.raises(UsageError, match="3600 values") as refused:
        TiedGaussian(spec)
    assert refused.value.hint is not None


def test_what_is_expected_of_a_value_is_the_ratio_of_two_densities() -> None:
    """p(v | x_o) = Σ_y p(x_o, v, y) / Σ_y p(x_o, y), from SciPy on the entries concerned."""
    tied, (x, m) = gaussian(), rows()
    slots = torch.tensor([4, 1])
    m[:, slots] = False
    found = tied.predictive(x, m, slots)
    assert found.weight.sum(1).tolist() == pytest.approx([1.0] * len(x))
    prior, means, cov = tied.log_prior.exp().numpy(), tied.means.numpy(), tied.cov.numpy()
    for row, place, band in ((0, 0, 1), (3, 1, 0), (2, 0, 0), (9, 1, 1)):
        kept = np.flatnonzero(m[row].repeat_interleave(BANDS).numpy())
        entry = int(slots[place]) * BANDS + band
        for value in (-1.5, 0.2, 2.0):
            both = [*kept, entry]
            at = [*x[row].flatten().numpy()[kept], value]
            joint = sum(p * multivariate_normal.pdf(at, mu[both], cov[np.ix_(both, both)])
                        for p, mu in zip(prior, means, strict=True))  # fmt: skip
            alone = sum(p * multivariate_normal.pdf(at[:-1], mu[kept], cov[np.ix_(kept, kept)])
                        for p, mu in zip(prior, means, strict=True)) if len(kept) else 1.0  # fmt: skip
            reflectance = tied.restore(torch.full((BANDS,), value).double())[band]
            deviation = found.variance[row, place, band].sqrt()
            normal = torch.distributions.Normal(found.mean[row, :, place, band], deviation)
            density = (found.weight[row] * normal.log_prob(reflectance).exp()).sum() * SCALE[band]
            assert float(density) == pytest.approx(joint / alone, rel=1e-6)


def test_slots_that_are_seen_are_expected_as_seen() -> None:
    tied, (x, m) = gaussian(), rows()
    found = tied.predictive(x[:2], m[:2], torch.tensor([3]))
    seen = tied.restore(x[:2, 3])[:, None, None].expand(-1, CLASSES, -1, -1)
    torch.testing.assert_close(found.mean, seen)
    torch.testing.assert_close(found.variance, torch.zeros_like(found.variance), atol=1e-9, rtol=0)
