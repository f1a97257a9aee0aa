"""Augmentation of seasons on a calendar grid: what another parcel of the same crop could have looked like.

A copy is shifted and warped in time (sowing dates and weather differ), each band is scaled (soil, atmosphere), noise is
added, and dates are dropped (clouds). Time is resampled linearly between the observed slots; a slot of the copy is
observed where the nearest slot of its origin is.

Reference: Data Augmentation of Wearable Sensor Data for Parkinson's Disease Monitoring using Convolutional Neural
Networks, Um et al., 2017 (time warping, magnitude scaling, jitter).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Strength = Literal["strong", "lite", "weak", "none"]


@dataclass(frozen=True)
class Amplitudes:
    """How far a copy may lie from its origin.

    Arguments:
        shift: largest shift in slots.
        warp: largest displacement of a sinusoidal warp of time, in slots.
        gain: largest relative change of a band.
        noise: standard deviation of independent noise, in units of the standardised bands.
        drop: share of observed slots that are dropped.
    """

    shift: float
    warp: float
    gain: float
    noise: float
    drop: float


AMPLITUDES: dict[str, Amplitudes] = {
    "strong": Amplitudes(shift=2.0, warp=2.0, gain=0.10, noise=0.05, drop=0.15),
    "lite": Amplitudes(shift=1.0, warp=1.0, gain=0.05, noise=0.03, drop=0.15),
    "weak": Amplitudes(shift=0.5, warp=0.5, gain=0.0, noise=0.0, drop=0.05),
}


def fill_gaps(values: Tensor, mask: Tensor) -> Tensor:
    """(B, G, C) seasons with missing slots interpolated linearly in time, edges held; rows without any stay as given.

    Arguments:
        values: (B, G, C).
        mask: (B, G) bool.
    """
    position = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    return _read(values, mask, position.to(values.dtype))


def augment(
    values: Tensor, mask: Tensor, strength: Strength, generator: torch.Generator, *, drop_dates: bool = True
) -> tuple[Tensor, Tensor]:
    """One random copy of each season.

    Arguments:
        values: (B, G, C) standardised seasons, 0 where missing.
        mask: (B, G) bool.
        strength: "strong", "lite", "weak", or "none" (returned as given).
        generator: source of every random number.
        drop_dates: also drop observed slots.

    Returns:
        values (B, G, C), 0 where missing, and mask (B, G).
    """
    if strength == "none":
        return values, mask
    amplitudes = AMPLITUDES[strength]
    rows, slots, bands = values.shape

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=values.dtype).to(values.device)

    time = torch.arange(slots, dtype=values.dtype, device=values.device)
    shift = amplitudes.shift * (2 * uniform(rows, 1) - 1)
    warp = amplitudes.warp * (2 * uniform(rows, 1) - 1)
    phase, turns = 2 * math.pi * uniform(rows, 1), 0.5 + 1.5 * uniform(rows, 1)
    source = time + shift + warp * torch.sin(2 * math.pi * turns * time / slots + phase)
    source = source.clamp(0, slots - 1)
    gain = 1 + amplitudes.gain * (2 * uniform(rows, 1, bands) - 1)
    noise = torch.randn(values.shape, generator=generator, dtype=values.dtype).to(values.device)
    copy = _read(values, mask, source) * gain + amplitudes.noise * noise
    seen = mask.gather(1, source.round().long())
    if drop_dates:
        seen = seen & (uniform(rows, slots) >= amplitudes.drop)
    return copy * seen[..., None], seen


def _read(values: Tensor, mask: Tensor, position: Tensor) -> Tensor:
    """(B, S, C) seasons read at fractional slots (B, S), linear between observed slots, held beyond them."""
    slots = mask.shape[1]
    index = torch.arange(slots, device=mask.device).expand_as(mask)
    before = torch.where(mask, index, -1).cummax(1).values
    after = torch.where(mask, index, slots).flip(1).cummin(1).values.flip(1)
    left = before.gather(1, position.floor().long())
    right = after.gather(1, position.ceil().long())
    left, right = torch.where(left < 0, right, left), torch.where(right >= slots, left, right)
    left, right = left.clamp(0, slots - 1), right.clamp(0, slots - 1)
    share = ((position - left) / (right - left).clamp(min=1)).clamp(0, 1)[..., None]
    wide = (-1, -1, values.shape[2])
    low = values.gather(1, left[..., None].expand(wide))
    high = values.gather(1, right[..., None].expand(wide))
    return low + share.to(values.dtype) * (high - low)
