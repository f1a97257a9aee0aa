"""Views of a season: every observed entry is told once, whatever is missing, and the density of the parts is exact."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal

from cropgen.models.layers.vae.views import ViewKind, from_view, levels_of, to_view

DTYPE = torch.float64
masks = st.lists(st.booleans(), min_size=1, max_size=13)


def season(mask: Tensor, seed: int = 0) -> Tensor:
    shape = (*mask.shape, 2)
    return torch.randn(shape, dtype=DTYPE, generator=torch.Generator().manual_seed(seed)) * mask[..., None]


@given(masks, st.integers(1, 4), st.sampled_from(["haar", "select"]))
def test_a_view_loses_nothing_and_stretches_nothing(there: list[bool], depth: int, kind: ViewKind) -> None:
    mask = torch.tensor([there, [True] * len(there)])
    x, level = season(mask), levels_of(mask, kind, depth)
    v = to_view(x, mask, kind, depth)
    assert torch.allclose(from_view(v, mask, kind, depth), x)
    assert torch.allclose(v.square().sum((1, 2)), x.square().sum((1, 2)))
    assert (level >= 0).sum(1).tolist() == mask.sum(1).tolist()
    assert not bool(v[level < 0].any())
    assert int(level.max()) <= depth


def test_haar_of_four_dates_by_hand() -> None:
    mask = torch.tensor([[True, True, True, False, True]])
    x = torch.tensor([[[1.0], [3.0], [5.0], [0.0], [7.0]]], dtype=DTYPE)
    half = 2**-0.5
    assert levels_of(mask, "haar", 2).tolist() == [[0, 2, 1, -1, 0]]
    first = half * (1 + 3)
    expected = [half * (first + 5), half * (1 - 3), half * (first - 5), 0, 7]
    assert to_view(x, mask, "haar", 2)[0, :, 0].tolist() == pytest.approx(expected)
    assert levels_of(mask, "select", 2).tolist() == [[0, 2, 1, -1, 2]]


@pytest.mark.parametrize("kind", ["haar", "select"])
def test_density_of_the_view_times_that_of_the_rest_is_that_of_the_season(kind: ViewKind) -> None:
    """log p(x) = log p(y) + log p(rest | y) of correlated Gaussian seasons with gaps."""
    mask = torch.tensor([[True, True, False, True, True, True, False]])
    root = torch.randn(14, 14, dtype=DTYPE, generator=torch.Generator().manual_seed(1))
    cov = root @ root.T + torch.eye(14, dtype=DTYPE)
    seen = mask[0].repeat_interleave(2)
    x = season(mask)
    turn = torch.stack([to_view(unit.view(1, 7, 2), mask, kind, 1).flatten() for unit in torch.eye(14, dtype=DTYPE)], 1)
    turn, level = turn[:, seen], levels_of(mask, kind, 1)[0].repeat_interleave(2)
    turned, v = turn @ cov[seen][:, seen] @ turn.T, to_view(x, mask, kind, 1).flatten()
    coarse, fine = level == 0, level == 1
    of_coarse = MultivariateNormal(torch.zeros(int(coarse.sum()), dtype=DTYPE), turned[coarse][:, coarse])
    gain = turned[fine][:, coarse] @ torch.linalg.inv(turned[coarse][:, coarse])
    rest = MultivariateNormal(gain @ v[coarse], turned[fine][:, fine] - gain @ turned[coarse][:, fine])
    whole = MultivariateNormal(torch.zeros(int(seen.sum()), dtype=DTYPE), cov[seen][:, seen])
    found = of_coarse.log_prob(v[coarse]) + rest.log_prob(v[fine])
    assert found.item() == pytest.approx(whole.log_prob(x.flatten()[seen]).item(), abs=1e-9)
