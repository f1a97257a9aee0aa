"""Copies of a season stay close to it in time and value, and repeat with their generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.series.augment import AMPLITUDES, Amplitudes, augment, augment_dates, between_dates, fill_gaps, mixup


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_gaps_are_interpolated_and_edges_held() -> None:
    mask = torch.tensor([[False, True, False, False, True, False]])
    values = torch.tensor([[0.0, 1.0, 0.0, 0.0, 4.0, 0.0]])[..., None] * mask[..., None]
    assert fill_gaps(values, mask)[0, :, 0].tolist() == [1.0, 1.0, 2.0, 3.0, 4.0, 4.0]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100_000), st.integers(1, 12))
def test_gap_filling_equals_numpy(seed: int, slots: int) -> None:
    draw = generator(seed)
    mask = torch.rand(4, slots, generator=draw) > 0.6
    values = torch.rand(4, slots, 2, generator=draw, dtype=torch.float64) * mask[..., None]
    filled = fill_gaps(values, mask).numpy()
    for row in range(4):
        seen = np.flatnonzero(mask[row])
        for band in range(2):
            expected = np.interp(np.arange(slots), seen, values[row, seen, band]) if len(seen) else np.zeros(slots)
            np.testing.assert_allclose(filled[row, :, band], expected, atol=1e-12)


@pytest.mark.parametrize("strength", ["strong", "lite"])
def test_a_copy_is_a_shifted_and_scaled_season(strength: str) -> None:
    slots = 36
    line = torch.arange(slots, dtype=torch.float64)[None, :, None].expand(500, -1, 1)
    mask = torch.ones(500, slots, dtype=torch.bool)
    copy, seen = augment(line, mask, strength, generator(), drop_dates=False)  # type: ignore[arg-type]
    assert seen.all()
    far = AMPLITUDES[strength]
    error = copy[:, 18, 0] - 18
    bound = far.shift + far.warp + far.gain * (18 + far.shift + far.warp) + 5 * far.noise
    assert float(error.abs().max()) <= bound
    assert float(error.std()) > 0.5 * far.shift
    assert abs(float(error.mean())) < 0.2


def test_the_mask_travels_with_time_and_dates_are_dropped() -> None:
    values = torch.ones(2000, 20, 1)
    mask = torch.ones(2000, 20, dtype=torch.bool)
    mask[:, 10:] = False
    copy, seen = augment(values * mask[..., None], mask, "strong", generator())
    assert not copy[~seen].any()
    assert not seen[:, 15:].any()
    assert float(seen[:, 2:6].float().mean()) == pytest.approx(0.85, abs=0.02)
    kept = copy[..., 0][seen]
    assert float((kept - 1).abs().max()) < 0.1 + 0.05 * 6


def test_nothing_changes_without_augmentation() -> None:
    values, mask = torch.rand(3, 5, 2), torch.ones(3, 5, dtype=torch.bool)
    copy, seen = augment(values, mask, "none", generator())
    assert torch.equal(copy, values)
    assert torch.equal(seen, mask)


def test_copies_repeat_with_their_generator() -> None:
    values, mask = torch.rand(3, 8, 2), torch.rand(3, 8, generator=generator()) > 0.3
    first, again = (augment(values, mask, "lite", generator(7)) for _ in range(2))
    other = augment(values, mask, "lite", generator(8))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


def test_a_row_without_dates_stays_empty() -> None:
    copy, seen = augment(torch.zeros(1, 6, 2), torch.zeros(1, 6, dtype=torch.bool), "strong", generator())
    assert not copy.any()
    assert not seen.any()


def test_amplitudes_of_a_name_give_the_copies_of_the_name() -> None:
    values, mask = torch.rand(3, 8, 2), torch.rand(3, 8, generator=generator()) > 0.3
    named, told = (augment(values, mask, strength, generator(7)) for strength in ("lite", AMPLITUDES["lite"]))
    assert torch.equal(named[0], told[0])
    assert torch.equal(named[1], told[1])
    still = augment(values, mask, Amplitudes(), generator())
    assert torch.equal(still[0], values)


def test_resampled_slots_lie_on_the_line_between_the_others() -> None:
    slots = 30
    values = torch.rand(200, slots, 1, generator=generator(), dtype=torch.float64)
    mask = torch.ones(200, slots, dtype=torch.bool)
    copy, seen = augment(values, mask, Amplitudes(resample=0.5), generator(1))
    assert seen.all()
    kept = copy[..., 0] == values[..., 0]
    assert float(kept.double().mean()) == pytest.approx(0.5, abs=0.03)
    for row in range(200):
        places = np.flatnonzero(kept[row])
        expected = np.interp(np.arange(slots), places, values[row, places, 0])
        np.testing.assert_allclose(copy[row, :, 0], expected, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 100_000), st.integers(1, 12))
def test_reading_between_dates_leaves_a_date_out(seed: int, dates: int) -> None:
    """Each date off the line through the other observed ones, as numpy interpolates."""
    draw = generator(seed)
    mask = torch.rand(3, dates, generator=draw) > 0.4
    day = torch.sort(300 * torch.rand(3, dates, generator=draw, dtype=torch.float64), 1).values
    values = torch.rand(3, dates, 1, generator=draw, dtype=torch.float64)
    read = between_dates(values, mask, day)
    for row in range(3):
        for date in range(dates):
            others = [i for i in range(dates) if mask[row, i] and i != date]
            expected = values[row, date, 0]
            if others:
                expected = np.interp(day[row, date], day[row, others], values[row, others, 0])
            assert float(read[row, date, 0]) == pytest.approx(float(expected), abs=1e-9)


def test_on_raw_dates_the_dates_move_and_the_values_stay() -> None:
    day = torch.linspace(0, 360, 25, dtype=torch.float64).expand(500, -1)
    mask = torch.ones(500, 25, dtype=torch.bool)
    values = torch.rand(500, 25, 2, generator=generator(), dtype=torch.float64)
    far = Amplitudes(shift=1.0, warp=2.0)
    copy, seen, moved = augment_dates(values, mask, day, far, generator(), slot_days=10.0)
    assert torch.equal(copy, values)
    assert seen.all()
    assert float((moved - day).abs().max()) <= 30.0
    assert float((moved - day).std()) > 5.0
    assert float((moved - day).mean().abs()) < 1.0
    rigid = augment_dates(values, mask, day, Amplitudes(shift=1.0), generator(), slot_days=10.0)[2] - day
    assert torch.allclose(rigid, rigid[:, :1].expand_as(rigid))


def test_raw_dates_are_dropped_scaled_and_interpolated() -> None:
    day = torch.linspace(0, 360, 25, dtype=torch.float64).expand(400, -1)
    mask = torch.rand(400, 25, generator=generator()) > 0.2
    line = (0.01 * day)[..., None] * mask[..., None]
    copy, seen, moved = augment_dates(line, mask, day, Amplitudes(drop=0.3, resample=0.3), generator(), slot_days=10.0)
    assert torch.equal(moved, day)
    assert not seen[~mask].any()
    assert not copy[~seen].any()
    assert float(seen[mask].double().mean()) == pytest.approx(0.7, abs=0.02)
    inside = seen & seen.cumsum(1).gt(8) & seen.flip(1).cumsum(1).flip(1).gt(8)
    assert torch.allclose(copy[inside], line[inside])
    gained = augment_dates(line, mask, day, Amplitudes(gain=0.1), generator(), slot_days=10.0)[0]
    ratio = (gained / line.clamp(min=1e-9))[mask & (day > 0)]
    assert float((ratio - 1).abs().max()) <= 0.1 + 1e-9


def test_mixing_weighs_what_both_observed_and_keeps_what_one_did() -> None:
    values = torch.tensor([[[2.0], [4.0], [0.0], [0.0]], [[6.0], [0.0], [8.0], [0.0]]])
    mask = torch.tensor([[True, True, False, False], [True, False, True, False]])
    day = torch.tensor([[10.0, 20.0, 30.0, 40.0], [14.0, 24.0, 34.0, 44.0]])
    x, seen, days = mixup(values, mask, day, torch.tensor([1, 0]), torch.tensor([0.75, 1.0]))
    assert x[0, :, 0].tolist() == [3.0, 4.0, 8.0, 0.0]
    assert seen[0].tolist() == [True, True, True, False]
    assert days[0].tolist() == [11.0, 20.0, 34.0, 40.0]
    assert x[1, :, 0].tolist() == values[1, :, 0].tolist()
    assert torch.equal(seen[1], mask[1])
