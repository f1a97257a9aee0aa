"""Batches: what a model sees of a container, as tensors."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch
from torch import Tensor

from cropgen.series.calendar import Calendar
from cropgen.series.schema import ParcelSeries

UNKNOWN_PARCEL = -1


def _nobody() -> Tensor:
    return torch.empty(0, dtype=torch.int64)


@dataclass(frozen=True)
class Batch:
    """B parcel seasons of T dates and C bands; labelled and unlabelled rows travel together.

    Arguments:
        values: (B, T, C) float; 0 where masked.
        mask: (B, T) bool, true at clear observations.
        day: (B, T) float, days since 1 January of the row's year.
        slot: (B, T) int64, position of each date in the model's calendar, −1 outside it.
        y: (B,) int64 class of the model, −1 where unknown.
        parcel: (B,) int64 key of the parcel, the same in every year, −1 where unknown; unknown when not given.
        year: (B,) int64 year of the season; 0 when not given.
        pixels: (B, T, S, P) int16 pixel sets in units of `pixel_sets.UNIT`; S = 0 when not given.
        pixel_mask: (B, T, S) bool, true at clear pixels; elsewhere, and where `mask` is false, `pixels` do not count.
        shape: (B, 4) float, features of the outline as of `pixel_sets.SHAPE`, NaN unknown; (B, 0) when not given.
        site: (B, S) float, covariates of the place as of `series.site`, NaN unknown; (B, 0) when not given.
    """

    values: Tensor
    mask: Tensor
    day: Tensor
    slot: Tensor
    y: Tensor
    parcel: Tensor = field(default_factory=_nobody, kw_only=True)
    year: Tensor = field(default_factory=_nobody, kw_only=True)
    pixels: Tensor = field(default_factory=_nobody, kw_only=True)
    pixel_mask: Tensor = field(default_factory=_nobody, kw_only=True)
    shape: Tensor = field(default_factory=_nobody, kw_only=True)
    site: Tensor = field(default_factory=_nobody, kw_only=True)

    def __post_init__(self) -> None:
        for name, absent in (("parcel", UNKNOWN_PARCEL), ("year", 0)):
            if len(getattr(self, name)) != len(self.y):
                object.__setattr__(self, name, torch.full_like(self.y, absent))
        if self.site.ndim != 2:
            object.__setattr__(self, "site", self.values.new_zeros((len(self.values), 0)))
        if self.pixels.ndim != 4 or not self.pixels.shape[2]:
            empty = self.mask.new_zeros((*self.mask.shape, 0))
            object.__setattr__(self, "pixels", empty.to(torch.int16)[..., None])
            object.__setattr__(self, "pixel_mask", empty)
            object.__setattr__(self, "shape", self.values.new_zeros((len(self.values), 0)))

    def __len__(self) -> int:
        return self.values.shape[0]

    @property
    def y_mask(self) -> Tensor:
        """(B,) bool, true where the class is known."""
        return self.y >= 0

    def take(self, rows: Tensor) -> Batch:
        """The rows of an index or boolean tensor."""
        return Batch(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def without_labels(self) -> Batch:
        """The same series with every class unknown."""
        return replace(self, y=torch.full_like(self.y, -1))

    def to(self, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Batch:
        """Move to a device and cast the floating-point members."""
        moved = {f.name: getattr(self, f.name).to(device) for f in fields(self)}
        for name in ("values", "day", "shape", "site"):
            moved[name] = moved[name].to(dtype)
        return Batch(**moved)

    def padded(self, dates: int) -> Batch:
        """The same rows with the date axis extended to `dates` by masked padding."""
        extra = dates - self.mask.shape[1]
        if extra < 0:
            raise ValueError(f"cannot pad {self.mask.shape[1]} dates to {dates}")
        return replace(
            self,
            values=_longer(self.values, extra),
            mask=_longer(self.mask, extra),
            day=_longer(self.day, extra),
            slot=_longer(self.slot, extra, -1),
            pixels=_longer(self.pixels, extra),
            pixel_mask=_longer(self.pixel_mask, extra),
        )

    def until(self, day: float) -> Batch:
        """The same rows with every date after `day` (days since 1 January) masked: an early-season view."""
        mask = self.mask & (self.day <= day)
        return replace(self, values=self.values * mask[..., None], mask=mask)


def _longer(dates: Tensor, extra: int, fill: float = 0) -> Tensor:
    """(N, T, …) with so many further dates of one value; axes after it may be empty."""
    return torch.cat([dates, dates.new_full((len(dates), extra, *dates.shape[2:]), fill)], 1)


def make_batch(series: ParcelSeries, calendar: Calendar, classes: np.ndarray | None = None) -> Batch:
    """Turn container rows into a batch. A date that lacks a band is masked.

    Arguments:
        series: rows with the bands of the model, in its order.
        calendar: the model's calendar; dates outside it are masked.
        classes: (K,) positions of the model's classes in the legend of the store; labels outside become −1.
            None: labels are kept as they are.
    """
    slot = calendar.slots(series.day, series.year)
    mask = series.complete & (slot >= 0)
    label = series.label.astype(np.int64)
    if classes is not None:
        lookup = np.full(max(int(label.max(initial=-1)), int(np.max(classes, initial=-1))) + 2, -1, np.int64)
        lookup[np.asarray(classes)] = np.arange(len(classes))
        label = np.where(label >= 0, lookup[label], -1)
    return Batch(
        values=torch.from_numpy(series.values * mask[..., None]),
        mask=torch.from_numpy(mask),
        day=torch.from_numpy(series.season_day.astype(np.float32)),
        slot=torch.from_numpy(slot),
        y=torch.from_numpy(label),
        parcel=torch.from_numpy(parcel_keys(series.region, series.parcel_id)),
        year=torch.from_numpy(series.year.astype(np.int64)),
        **_pixels(series),
    )


def _pixels(series: ParcelSeries) -> dict[str, Tensor]:
    sets = series.pixel_sets
    if sets is None:
        return {}
    named = {"pixels": sets.values, "pixel_mask": sets.mask, "shape": sets.shape}
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in named.items()}


def parcel_keys(region: np.ndarray, parcel_id: np.ndarray) -> np.ndarray:
    """(N,) int64 keys of parcels, not negative: 63 bits of the SHA-256 of region and id."""
    keys = np.empty(len(parcel_id), np.int64)
    for row, (where, name) in enumerate(zip(region.tolist(), parcel_id.tolist(), strict=True)):
        digest = hashlib.sha256(f"{where}\0{name}".encode()).digest()
        keys[row] = int.from_bytes(digest[:8], "big") >> 1
    return keys


def concatenate_batches(parts: list[Batch]) -> Batch:
    """Rows of several batches, padded to the longest; all of them have pixel sets or none has."""
    dates = max(part.mask.shape[1] for part in parts)
    grown = [part.padded(dates) for part in parts]
    return Batch(**{f.name: torch.cat([getattr(p, f.name) for p in grown]) for f in fields(Batch)})


def random_rows(count: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Endless index tensors of `size` rows: shuffled passes over `count` rows, joined without a seam."""
    if count == 0:
        raise ValueError("cannot draw rows from an empty set")
    waiting = torch.empty(0, dtype=torch.int64)
    while True:
        while len(waiting) < size:
            waiting = torch.cat([waiting, torch.randperm(count, generator=generator)])
        yield waiting[:size]
        waiting = waiting[size:]
