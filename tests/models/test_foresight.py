"""What is foreseen, against the conditional of the joint Gaussian, and intervals of mixtures."""

from __future__ import annotations

import torch

from cropgen.models.base import InputSpec, Mixture
from cropgen.models.layers.foresight import foresee, interval
from cropgen.models.layers.innovations import TiedGaussian
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

SLOTS, BANDS, CLASSES, ROWS = 4, 2, 3, 5
SIZE = SLOTS * BANDS


def tied() -> TiedGaussian:
    spec = InputSpec(("B04", "B08"), Calendar("month", 3, SLOTS), Legend.from_codes("crops", ["1", "2", "3"]))
    gaussian, generator = TiedGaussian(spec).double(), torch.Generator().manual_seed(0)
    root = torch.randn(SIZE, SIZE, generator=generator, dtype=torch.float64)
    gaussian.cov.copy_(root @ root.T / SIZE + 0.3 * torch.eye(SIZE))
    gaussian.chol.copy_(torch.linalg.cholesky(gaussian.cov))
    gaussian.means.copy_(torch.randn(CLASSES, SIZE, generator=generator, dtype=torch.float64))
    return gaussian


def test_a_departure_and_a_spread_of_innovations_are_conditioned_on_exactly() -> None:
    """x = μ_y + L (c + e^{v/2} ε) of the dates seen and asked for is Gaussian: its conditional is written out."""
    gaussian, generator = tied(), torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, SLOTS, BANDS, generator=generator, dtype=torch.float64)
    mask = torch.tensor([[1, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0], [1, 1, 1, 1]]).bool()
    departure, log_variance = torch.randn(2, ROWS, CLASSES, SIZE, generator=generator, dtype=torch.float64)
    slots = torch.tensor([3, 1])
    mean, variance = foresee(gaussian, x * mask[..., None], mask, slots, departure, log_variance)
    for row in range(ROWS):
        together = mask[row].clone()
        together[slots] = True
        kept = together.repeat_interleave(BANDS)
        factor = torch.linalg.cholesky(gaussian.cov[kept][:, kept])
        seen = mask[row].repeat_interleave(BANDS)[kept]
        for k in range(CLASSES):
            centre = gaussian.means[k, kept] + factor @ departure[row, k, kept]
            cov = factor @ log_variance[row, k, kept].exp().diag() @ factor.T
            gain = torch.linalg.solve(cov[seen][:, seen], cov[seen]).T
            expected = centre + gain @ (x[row].flatten()[kept] - centre)[seen]
            spread = (cov - gain @ cov[seen]).diagonal()
            full_mean, full_variance = torch.zeros(2, SIZE, dtype=torch.float64)
            full_mean[kept], full_variance[kept] = expected, spread
            torch.testing.assert_close(mean[row, k], full_mean.view(SLOTS, BANDS)[slots], rtol=0, atol=1e-9)
            torch.testing.assert_close(variance[row, k], full_variance.view(SLOTS, BANDS)[slots], rtol=0, atol=1e-9)


def test_intervals_of_one_gaussian_and_of_two_far_apart() -> None:
    weight = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    mean = torch.tensor([[[[0.3]], [[0.9]]], [[[0.0]], [[1.0]]]])
    found = interval(Mixture(weight, mean, torch.full((2, 1, 1), 0.01**2)), 0.9)
    low, high = (end[:, 0, 0] for end in found)
    expected = torch.tensor([0.3 - 1.6448536 * 0.01, -1.2815516 * 0.01]).double()
    torch.testing.assert_close(low, expected, rtol=0, atol=1e-6)
    expected = torch.tensor([0.3 + 1.6448536 * 0.01, 1.0 + 1.2815516 * 0.01]).double()
    torch.testing.assert_close(high, expected, rtol=0, atol=1e-6)


def test_a_value_that_is_certain_has_an_interval_of_no_width() -> None:
    one = Mixture(torch.ones(1, 1), torch.full((1, 1, 1, 1), 0.4), torch.zeros(1, 1, 1))
    low, high = interval(one, 0.9)
    torch.testing.assert_close(low, torch.full((1, 1, 1), 0.4).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(high, low)
