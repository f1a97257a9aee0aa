"""Levels: every latent is paid for, and a split of a season loses and counts twice nothing."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cropgen.core.errors import UsageError
from cropgen.models.layers.vae.levels import haar, haar_inverse, index_merge, index_split, level_bound, select
from cropgen.models.layers.vae.posteriors import gaussian_kl

DTYPE = torch.float64


def test_every_level_pays_for_its_latent() -> None:
    """With K = 1 the divergence of z_1 is in the bound, as in the bound of two levels written out."""
    of_y, of_x, kl_u, kl_z = (torch.tensor([float(n), n + 0.5]) for n in (-3, -7, 2, 5))
    found = level_bound([of_y, of_x], [kl_u, kl_z])
    assert found.tolist() == pytest.approx([-3 - 7 - 2 - 5, -2.5 - 6.5 - 2.5 - 5.5])
    assert level_bound([of_x], [kl_u]).tolist() == pytest.approx((of_x - kl_u).tolist())
    with pytest.raises(UsageError, match="1 for 2"):
        level_bound([of_y, of_x], [kl_u])


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(1, 5))
def test_every_observed_date_is_in_one_part(there: list[bool], every: int) -> None:
    mask = torch.tensor([there])
    coarse, rest = select(mask, every)
    assert bool((coarse ^ rest)[mask].all())
    assert not bool((coarse | rest)[~mask].any())
    assert int(coarse.sum()) == math.ceil(int(mask.sum()) / every)


def test_sums_and_differences_are_an_orthonormal_view() -> None:
    x = torch.randn(3, 8, 2, dtype=DTYPE, generator=torch.Generator().manual_seed(0))
    total, difference = haar(x)
    assert torch.allclose(haar_inverse(total, difference), x)
    assert torch.allclose(total.square().sum() + difference.square().sum(), x.square().sum())
    jacobian = torch.autograd.functional.jacobian(lambda v: torch.cat([t.flatten() for t in haar(v)]), x[0])
    assert float(torch.linalg.slogdet(jacobian.flatten(1)).logabsdet) == pytest.approx(0, abs=1e-12)


def test_determinant_of_the_index_is_that_of_its_jacobian() -> None:
    high, low = torch.tensor(0.5, dtype=DTYPE), torch.tensor(0.2, dtype=DTYPE)
    difference, total, log_det = index_split(high, low)
    assert float(difference) == pytest.approx(0.3 / 0.7)
    assert [float(band) for band in index_merge(difference, total)] == pytest.approx([0.5, 0.2])
    rows = torch.autograd.functional.jacobian(lambda *bands: torch.stack(index_split(*bands)[:2]), (high, low))
    assert float(torch.linalg.slogdet(torch.stack(list(rows), -1)).logabsdet) == pytest.approx(float(log_det))


def test_a_continuous_view_beside_the_whole_would_be_no_bound() -> None:
    """A Dirac on the reals: log q(y | x), whose mean the bound subtracts, grows without limit as q narrows.

    The exact split keeps the bound: x = (a, b) standard normal, y the scaled sum, the rest the scaled difference.
    """
    narrow = [float(gaussian_kl(torch.zeros(1), torch.tensor([s]))) for s in (-1.0, -5.0, -20.0)]
    assert narrow == sorted(narrow)
    assert narrow[-1] > 19
    x = torch.randn(50, 2, 1, dtype=DTYPE, generator=torch.Generator().manual_seed(1))

    def log_normal(v: torch.Tensor) -> torch.Tensor:
        return -0.5 * (v.square() + math.log(2 * math.pi)).sum((-1, -2))

    total, difference = haar(x)
    none = torch.zeros(50, dtype=DTYPE)
    assert torch.allclose(level_bound([log_normal(total), log_normal(difference)], [none, none]), log_normal(x))
