"""Scores of disentanglement: 1 on the factors themselves, lower on mixtures of them, and as computed by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from cropgen.core.errors import UsageError
from cropgen.models.layers.vae.disentanglement import (
    beta_vote,
    dci,
    factor_vote,
    mutual_information_gap,
    separated_predictability,
    squared_correlation,
)

ANGLE = math.pi / 4
TURN = torch.tensor([[math.cos(ANGLE), -math.sin(ANGLE), 0], [math.sin(ANGLE), math.cos(ANGLE), 0], [0, 0, 1.0]])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def some_factors(count: int = 4000) -> Tensor:
    return torch.randn(count, 3, generator=generator())


def aligned(v: Tensor) -> Tensor:
    """Every factor has one entry, in another order, sign and scale; a fourth entry is idle."""
    return torch.cat([-3 * v[:, 2:], v[:, :1], 0.1 * v[:, 1:2], 0 * v[:, :1]], 1)


def test_factors_themselves_score_one_and_a_turned_pair_less() -> None:
    v = some_factors()
    assert mutual_information_gap(aligned(v), v) == pytest.approx(1, abs=0.08)
    assert separated_predictability(aligned(v), v) == pytest.approx(1, abs=0.01)
    found = dci(squared_correlation(aligned(v), v))
    assert (found.disentanglement, found.completeness) == pytest.approx((1, 1), abs=0.02)
    assert mutual_information_gap(v @ TURN, v) < 0.5
    assert separated_predictability(v @ TURN, v) == pytest.approx(1 / 3, abs=0.05)
    turned = dci(squared_correlation(v @ TURN, v))
    one_of_three = 1 - math.log(2) / math.log(3)
    assert turned.disentanglement == pytest.approx((2 * one_of_three + 1) / 3, abs=0.05)


def test_votes_name_the_factor_held_still() -> None:
    assert factor_vote(lambda v, _: aligned(v)[:, :3], 3, generator(1)) == 1
    assert beta_vote(lambda v, _: aligned(v)[:, :3], 3, generator(1)) == 1
    for vote in (factor_vote, beta_vote):
        assert vote(lambda v, g: torch.randn(v.shape, generator=g), 3, generator(2)) < 0.5
    assert factor_vote(lambda v, _: v @ TURN, 3, generator(3)) < 0.9


def test_tables_worked_by_hand() -> None:
    """An entry of two factors in equal parts is worth 1 − log 2 / log 2 = 0; one of a single factor 1."""
    found = dci(torch.tensor([[1.0, 1.0], [2.0, 0.0]]))
    assert found.disentanglement == pytest.approx(0.5)
    thirds = -(1 / 3 * math.log(1 / 3) + 2 / 3 * math.log(2 / 3)) / math.log(2)
    assert found.completeness == pytest.approx(0.75 * (1 - thirds) + 0.25)
    z = torch.tensor([[0.0], [1.0], [2.0], [3.0]])
    factor = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    assert float(squared_correlation(z, factor)) == pytest.approx(0.8)
    assert mutual_information_gap(factor, factor, bins=2) == pytest.approx(1)


def test_tables_of_other_rows_are_refused() -> None:
    with pytest.raises(UsageError, match="common rows"):
        separated_predictability(torch.zeros(3, 2), torch.zeros(4, 2))
