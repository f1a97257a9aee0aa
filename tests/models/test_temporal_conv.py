"""The trunk over time: its features, and that evaluation looks at one row at a time and never at masked values."""

from __future__ import annotations

import pytest
import torch

from cropgen.models.layers.temporal_conv import TemporalConv, date_harmonics, grid_features


def test_harmonics_at_the_corners_of_the_year() -> None:
    year = 365.25
    expected = torch.tensor([[0.0, 1, 0, 1], [1, 0, 0, -1], [0, -1, 0, 1], [0.0, 1, 0, 1]])
    assert torch.allclose(date_harmonics(torch.tensor([0, year / 4, year / 2, year])), expected, atol=1e-5)


def test_features_hold_bands_presence_and_date() -> None:
    x = torch.tensor([[[2.0, 3.0], [5.0, 7.0]]])
    features = grid_features(x, torch.tensor([[True, False]]), torch.zeros(2))
    assert torch.equal(features, torch.tensor([[[2.0, 3, 1, 0, 1, 0, 1], [0.0, 0, 0, 0, 1, 0, 1]]]))


@pytest.mark.parametrize("slots", [1, 2, 5, 36])
def test_any_number_of_slots(slots: int) -> None:
    torch.manual_seed(0)
    trunk = TemporalConv(3, slots, hidden=8, width=7)
    mask = torch.ones(2, slots, dtype=torch.bool)
    assert trunk(torch.randn(2, slots, 3), mask, torch.arange(slots) * 10.0).shape == (2, 7)


def test_evaluation_is_row_by_row_and_blind_to_masked_values() -> None:
    torch.manual_seed(0)
    trunk = TemporalConv(2, 6, hidden=8, width=7)
    mask = torch.rand(9, 6) > 0.3
    x, day = torch.randn(9, 6, 2), torch.rand(9, 6) * 300
    trunk(x, mask, day)
    trunk.eval()
    together = trunk(x, mask, day)
    one = torch.cat([trunk(x[i : i + 1], mask[i : i + 1], day[i : i + 1]) for i in range(9)])
    assert torch.allclose(together, one, atol=1e-6)
    garbage = torch.where(mask[..., None], x, 1e6)
    assert torch.equal(trunk(garbage, mask, day), together)
