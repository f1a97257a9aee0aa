"""Seasons as the networks see them: standardised bands, presence and a date on the time scale that was asked for.

The axis is either the calendar grid, whose slots average their observations, or the raw dates. The date of an
observation is told as the first day of its slot (`calendar`), as its true day of the year (`day-of-year`), or as
growing degree days (`thermal`), on which the same crop of a warm and of a cool year develops alike:

    g(t) = ∫ max(θ(s) − 0 °C, 0) ds   from the first day of the calendar,

θ the air temperature, linear between the clear dates and held before the first. 5,000 °C d are told as one year, so
that every scale runs in days.

Reference: Generalized Classification of Satellite Image Time Series with Thermal Positional Encoding, Nyborg, Pelletier
and Assent, 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from cropgen.core.errors import UsageError
from cropgen.models.layers.grid import grid_view
from cropgen.series.batches import Batch

Axis = Literal["grid", "dates"]
DateScale = Literal["calendar", "day-of-year", "thermal"]
TEMPERATURE = "temperature"
THERMAL_YEAR = 5000.0
_YEAR = 365.25


@dataclass(frozen=True)
class SeasonView:
    """How seasons are read.

    Arguments:
        axis: the calendar grid or the raw dates.
        dates: time scale of the dates.
        temperature: position of the band that holds the air temperature in °C; −1 where none is needed.
    """

    axis: Axis
    dates: DateScale
    temperature: int

    @classmethod
    def of(cls, bands: tuple[str, ...], axis: Axis, dates: DateScale) -> SeasonView:
        """The view of series with these bands.

        Raises:
            UsageError: thermal time without a temperature.
        """
        if dates == "thermal" and TEMPERATURE not in bands:
            raise UsageError(
                f"dates = thermal: expected a band named {TEMPERATURE} (°C), got the bands {', '.join(bands)}",
                hint="add the air temperature to the series, or choose dates = day-of-year",
            )
        return cls(axis, dates, bands.index(TEMPERATURE) if dates == "thermal" else -1)

    def read(self, batch: Batch, start_days: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Raw bands (B, S, C), mask (B, S) bool and days (B, S) of S slots or dates.

        Arguments:
            start_days: (G,) first day of each slot, days since 1 January.
        """
        if self.axis == "grid":
            values, mask, day = grid_view(batch, start_days)
        else:
            mask = batch.mask & (batch.slot >= 0)
            values, day = torch.where(mask[..., None], batch.values, 0), torch.where(mask, batch.day, 0)
        if self.dates == "calendar":
            slot = torch.arange(len(start_days), device=mask.device) if self.axis == "grid" else batch.slot.clamp(min=0)
            day = torch.where(mask, start_days[slot], day) if self.axis == "dates" else start_days[slot].expand_as(day)
        elif self.dates == "thermal":
            day = thermal_days(values[..., self.temperature], mask, day, start_days[0])
        return values, mask, day


def thermal_days(temperature: Tensor, mask: Tensor, day: Tensor, start: Tensor) -> Tensor:
    """(B, S) cumulated growing degree days, 5,000 °C d as one year of days; between observations the last sum.

    Arguments:
        temperature: (B, S) air temperature in °C at the observed dates.
        mask: (B, S) bool.
        day: (B, S) days, ascending where observed.
        start: () day from which warmth is summed.
    """
    index = torch.arange(mask.shape[1], device=mask.device).expand_as(mask)
    before = torch.where(mask, index, -1).cummax(1).values.roll(1, 1)
    before[:, 0] = -1
    first = before < 0
    warmth = temperature.clamp(min=0)
    place = before.clamp(min=0)
    since = torch.where(first, start.to(day.dtype), day.gather(1, place))
    earlier = torch.where(first, warmth, warmth.gather(1, place))
    gained = (day - since).clamp(min=0) * (warmth + earlier) / 2
    return torch.where(mask, gained, 0).cumsum(1) * (_YEAR / THERMAL_YEAR)
