"""The date of an observation on three time scales, degree days summed by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.core.errors import UsageError
from cropgen.models.layers.season_view import THERMAL_YEAR, SeasonView, thermal_days
from cropgen.series.batches import Batch

YEAR = 365.25
STARTS = torch.tensor([0.0, 10.0, 20.0])


def batch(mask: list[bool]) -> Batch:
    values = torch.tensor([[[0.1, 5.0], [0.2, 15.0], [0.3, -3.0], [0.4, 11.0]]])
    seen = torch.tensor([mask])
    day, slot = torch.tensor([[2.0, 12.0, 18.0, 24.0]]), torch.tensor([[0, 1, 1, 2]])
    return Batch(values * seen[..., None], seen, day, slot, torch.tensor([0]))


def test_degree_days_by_hand() -> None:
    """5 °C for the two days before the first date; then 10 on average for ten days; nothing below zero counts."""
    rows = batch([True] * 4)
    days = thermal_days(rows.values[..., 1], rows.mask, rows.day, STARTS[0])
    degree_days = [2 * 5, 10 + 10 * 10, 110 + 6 * 7.5, 155 + 6 * 5.5]
    assert torch.allclose(days[0], torch.tensor(degree_days) * (YEAR / THERMAL_YEAR))


def test_a_missing_date_is_bridged_and_its_garbage_is_not_seen() -> None:
    rows = batch([True, False, False, True])
    days = thermal_days(torch.where(rows.mask, rows.values[..., 1], 1e6), rows.mask, rows.day, STARTS[0])
    bridged = 10 + 22 * 8
    assert days[0, [0, 3]].tolist() == pytest.approx([10 * YEAR / THERMAL_YEAR, bridged * YEAR / THERMAL_YEAR])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000))
def test_degree_days_equal_numerical_integration(seed: int) -> None:
    draw = np.random.default_rng(seed)
    day = np.sort(draw.choice(300, 8, replace=False)).astype(float)
    warmth, seen = draw.uniform(0, 30, 8), draw.random(8) > 0.4
    seen[draw.integers(8)] = True
    told = thermal_days(
        torch.tensor(warmth)[None], torch.tensor(seen)[None], torch.tensor(day)[None], torch.tensor(0.0)
    )[0].numpy()
    line = np.linspace(0, 300, 30_001)
    rate = np.interp(line, day[seen], warmth[seen])
    summed = np.concatenate([[0], np.cumsum((rate[1:] + rate[:-1]) / 2 * np.diff(line))])
    expected = np.interp(day[seen], line, summed) * YEAR / THERMAL_YEAR
    np.testing.assert_allclose(told[seen], expected, rtol=1e-6, atol=1e-6)


def test_on_a_grid_slots_average_and_tell_their_first_or_mean_day() -> None:
    rows = batch([True] * 4)
    values, mask, day = SeasonView.of(("a", "b"), "grid", "day-of-year").read(rows, STARTS)
    assert values[0, :, 1].tolist() == [5.0, 6.0, 11.0]
    assert mask.all()
    assert day.tolist() == [[2.0, 15.0, 24.0]]
    assert SeasonView.of(("a", "b"), "grid", "calendar").read(rows, STARTS)[2].tolist() == [[0.0, 10.0, 20.0]]


def test_raw_dates_are_told_as_they_are_or_by_their_slot() -> None:
    rows = batch([True, True, False, True])
    values, mask, day = SeasonView.of(("a", "b"), "dates", "day-of-year").read(rows, STARTS)
    assert torch.equal(values, rows.values)
    assert torch.equal(mask, rows.mask)
    assert day.tolist() == [[2.0, 12.0, 0.0, 24.0]]
    assert SeasonView.of(("a", "b"), "dates", "calendar").read(rows, STARTS)[2].tolist() == [[0.0, 10.0, 0.0, 20.0]]


def test_thermal_time_reads_the_band_of_that_name() -> None:
    view = SeasonView.of(("a", "temperature"), "grid", "thermal")
    assert view.temperature == 1
    day = view.read(batch([True] * 4), STARTS)[2]
    assert torch.allclose(day[0, 0], torch.tensor(10 * YEAR / THERMAL_YEAR))
    assert (day.diff() > 0).all()
    with pytest.raises(UsageError, match="got the bands a, b"):
        SeasonView.of(("a", "b"), "grid", "thermal")
