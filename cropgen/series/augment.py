"""Augmentation of seasons: what another parcel of the same crop could have looked like.

A copy is shifted and warped in time (sowing dates and weather differ), each band is scaled (soil, atmosphere), noise is
added, dates are dropped (clouds), and some of the others are read off the line between their neighbours (interpolation
resampling). On a calendar grid the values move between slots: time is resampled linearly between the observed slots; a
slot of the copy is observed where the nearest slot of its origin is. On raw dates the values stay and their dates move.
`mixup` joins two seasons into one of a mixed class.

References:
    Data Augmentation of Wearable Sensor Data for Parkinson's Disease Monitoring using Convolutional Neural Networks, Um
    et al., 2017 (time warping, magnitude scaling, jitter).
    mixup: Beyond Empirical Risk Minimization, Zhang, Cisse, Dauphin and Lopez-Paz, 2018.
    The study of augmentations of satellite image time series of Yuan et al., doi 10.1109/JSTARS.2025.3527017, 2025
    (warping and interpolation resampling help across years).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Strength = Literal["strong", "lite", "weak", "none"]
_YEAR = 365.25


@dataclass(frozen=True)
class Amplitudes:
    """How far a copy may lie from its origin.

    Arguments:
        shift: largest shift in slots.
        warp: largest displacement of a sinusoidal warp of time, in slots.
        gain: largest relative change of a band.
        noise: standard deviation of independent noise, in units of the standardised bands.
        drop: share of observed slots that are dropped.
        resample: share of observed slots whose values are interpolated between the other ones.
    """

    shift: float = 0.0
    warp: float = 0.0
    gain: float = 0.0
    noise: float = 0.0
    drop: float = 0.0
    resample: float = 0.0


AMPLITUDES: dict[Strength, Amplitudes] = {
    "none": Amplitudes(),
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
    values: Tensor,
    mask: Tensor,
    strength: Strength | Amplitudes,
    generator: torch.Generator,
    *,
    drop_dates: bool = True,
) -> tuple[Tensor, Tensor]:
    """One random copy of each season on a grid.

    Arguments:
        values: (B, G, C) standardised seasons, 0 where missing.
        mask: (B, G) bool.
        strength: a name or amplitudes; "none" and amplitudes of 0 return the seasons as given.
        generator: source of every random number.
        drop_dates: also drop observed slots.

    Returns:
        values (B, G, C), 0 where missing, and mask (B, G).
    """
    amplitudes = AMPLITUDES[strength] if isinstance(strength, str) else strength
    if amplitudes == AMPLITUDES["none"]:
        return values, mask
    rows, slots, bands = values.shape
    uniform = _uniform(values, generator)
    time = torch.arange(slots, dtype=values.dtype, device=values.device)
    source = _displaced(time, slots, amplitudes, rows, uniform).clamp(0, slots - 1)
    gain = 1 + amplitudes.gain * (2 * uniform(rows, 1, bands) - 1)
    noise = torch.randn(values.shape, generator=generator, dtype=values.dtype).to(values.device)
    copy = _read(values, mask, source) * gain + amplitudes.noise * noise
    seen = mask.gather(1, source.round().long())
    if drop_dates:
        seen = seen & (uniform(rows, slots) >= amplitudes.drop)
    if amplitudes.resample:
        position = time.expand(rows, slots)
        kept = seen & (uniform(rows, slots) >= amplitudes.resample)
        copy = torch.where(kept.any(1)[:, None, None], _read(copy * kept[..., None], kept, position), copy)
    return copy * seen[..., None], seen


def augment_dates(
    values: Tensor, mask: Tensor, day: Tensor, amplitudes: Amplitudes, generator: torch.Generator, *, slot_days: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One random copy of each season on raw dates: the dates move as far as the slots of a grid would.

    Arguments:
        values: (B, T, C) standardised seasons, 0 where missing.
        mask: (B, T) bool.
        day: (B, T) days, ascending where observed.
        amplitudes: shift and warp in slots.
        generator: source of every random number.
        slot_days: length of a slot in days.

    Returns:
        values (B, T, C), 0 where missing, mask (B, T) and day (B, T).
    """
    if amplitudes == AMPLITUDES["none"]:
        return values, mask, day
    rows, dates, bands = values.shape
    uniform = _uniform(values, generator)
    moved = slot_days * _displaced(day / slot_days, _YEAR / slot_days, amplitudes, rows, uniform)
    gain = 1 + amplitudes.gain * (2 * uniform(rows, 1, bands) - 1)
    noise = torch.randn(values.shape, generator=generator, dtype=values.dtype).to(values.device)
    copy = values * gain + amplitudes.noise * noise
    seen = mask & (uniform(rows, dates) >= amplitudes.drop)
    if amplitudes.resample:
        kept = seen & (uniform(rows, dates) >= amplitudes.resample)
        copy = torch.where(kept[..., None], copy, between_dates(copy, kept, day))
    return copy * seen[..., None], seen, moved


def mixup(values: Tensor, mask: Tensor, day: Tensor, partner: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each season joined with another one on the same grid; where only one of them is observed, it stands alone.

    Arguments:
        values: (B, G, C), 0 where missing.
        mask: (B, G) bool.
        day: (B, G) days.
        partner: (B,) int64 row each season is joined with.
        share: (B,) part of the season itself, 0 to 1.

    Returns:
        values (B, G, C), 0 where missing, mask (B, G) and day (B, G).
    """
    own, other = share[:, None] * mask, (1 - share)[:, None] * mask[partner]
    total = own + other
    seen = total > 0
    weight = (own / total.where(seen, torch.ones_like(total))).to(values.dtype)
    mixed = weight[..., None] * values + (1 - weight)[..., None] * values[partner]
    days = torch.where(seen, weight.to(day.dtype) * day + (1 - weight).to(day.dtype) * day[partner], day)
    return mixed * seen[..., None], seen, days


def between_dates(values: Tensor, mask: Tensor, day: Tensor) -> Tensor:
    """(B, T, C) seasons read at every date off the lines between the neighbouring observed ones, held beyond them.

    Arguments:
        values: (B, T, C).
        mask: (B, T) bool; a row without any keeps its values.
        day: (B, T) days, ascending where observed.
    """
    dates = mask.shape[1]
    index = torch.arange(dates, device=mask.device).expand_as(mask)
    before = _last_seen(mask).roll(1, 1)
    before[:, 0] = -1
    after = torch.where(mask, index, dates).flip(1).cummin(1).values.flip(1).roll(-1, 1)
    after[:, -1] = dates
    left, right = torch.where(before < 0, after, before), torch.where(after >= dates, before, after)
    lonely = (left >= dates) | (right < 0)
    left, right = left.clamp(0, dates - 1), right.clamp(0, dates - 1)
    first, last = day.gather(1, left), day.gather(1, right)
    share = ((day - first) / (last - first).clamp(min=1e-6)).clamp(0, 1).to(values.dtype)[..., None]
    wide = (-1, -1, values.shape[2])
    low, high = (values.gather(1, place[..., None].expand(wide)) for place in (left, right))
    return torch.where(lonely[..., None], values, low + share * (high - low))


def _uniform(values: Tensor, generator: torch.Generator) -> Callable[..., Tensor]:
    def draw(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=values.dtype).to(values.device)

    return draw


def _displaced(
    time: Tensor, season: float, amplitudes: Amplitudes, rows: int, uniform: Callable[..., Tensor]
) -> Tensor:
    """(B, G) times (G,) or (B, G), in slots, after a shift and a sinusoidal warp; a season is that many slots long."""
    shift = amplitudes.shift * (2 * uniform(rows, 1) - 1)
    warp = amplitudes.warp * (2 * uniform(rows, 1) - 1)
    phase, turns = 2 * math.pi * uniform(rows, 1), 0.5 + 1.5 * uniform(rows, 1)
    return time + shift + warp * torch.sin(2 * math.pi * turns * time / season + phase)


def _last_seen(mask: Tensor) -> Tensor:
    """(B, G) the last observed slot up to each slot, −1 before the first."""
    index = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    return torch.where(mask, index, -1).cummax(1).values


def _read(values: Tensor, mask: Tensor, position: Tensor) -> Tensor:
    """(B, S, C) seasons read at fractional slots (B, S), linear between observed slots, held beyond them."""
    slots = mask.shape[1]
    index = torch.arange(slots, device=mask.device).expand_as(mask)
    before = _last_seen(mask)
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
