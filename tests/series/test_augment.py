"""Copies of a season stay close to it in time and value, and repeat with their generator."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.series.augment import AMPLITUDES, augment, fill_gaps


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
