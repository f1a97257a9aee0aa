"""PSE+LTAE: a pixel-set encoder for each date, lightweight temporal attention over the dates.

The encoder looks at the clear pixels P_t of a parcel at a date, each by itself, and at how they differ:

    h_{t,p} = MLP_1(x_{t,p}),   e_t = MLP_2([mean_{p ∈ P_t} h_{t,p}, std_{p ∈ P_t} h_{t,p}, g, z_t])

so it does not depend on the order or number of pixels. g are features of the parcel's outline (area, perimeter, share
of its box, roughness), where the series tells them, and z_t the parcel means of bands that have no pixels, such as
weather. The dates are then read by the attention of `ltae.py`:

    p(y | x) = softmax(A MLP_3([o_1, …, o_H])),   o_h = Σ_t softmax_t(q_h · k_{h,t} / √D) (e_{h,t} + p(day_t))

Training draws S' of the S pixels of each parcel anew in every step, the same at all dates, and augments as the other
networks do: a band is scaled alike, and dates move or drop alike, for all pixels of a parcel; noise is each pixel's
own. Shapes: pixels (B, T, S, P) int16, presence (B, T, S), e (B, T, E), features (B, W).

Reference: Satellite Image Time Series Classification with Pixel-Set Encoders and Temporal Self-Attention, Sainte Fare
Garnot, Landrieu, Giordano and Chehata, 2020.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cropgen.core.errors import SchemaError
from cropgen.models.base import Context, InputSpec, Options, TrainingData
from cropgen.models.discriminative.ltae import LTAEOptions, LTAETrunk
from cropgen.models.discriminative.network import NeuralClassifier, Season
from cropgen.models.layers.features import scale_of
from cropgen.models.layers.trunk import Trunk
from cropgen.series.augment import Amplitudes, augment_dates
from cropgen.series.batches import Batch
from cropgen.series.pixel_sets import NEEDED, SHAPE, UNIT

_ROWS_AT_ONCE = 64
_LEAST_VARIANCE = 1e-6
_LEAST_SCALE = 1e-6


class PSELTAEOptions(LTAEOptions):
    """Options of the pixel-set encoder with temporal attention."""

    pixels: int = Field(32, ge=1, description="pixels of each parcel drawn in a training step; all serve to classify")
    pixel_width: int = Field(32, ge=1, description="hidden units per pixel")
    pixel_channels: int = Field(64, ge=1, description="size of a pixel's embedding")
    date_channels: int = Field(128, ge=1, description="size of a date's encoding before attention")
    outline: bool = Field(True, description="use area, perimeter and shape of the parcel, where the series tells them")

    @model_validator(mode="after")
    def _raw_dates(self) -> Self:
        if self.axis != "dates" or self.resampling:
            raise ValueError("pixel sets are read on their dates: axis = dates and resampling = 0")
        return self


class PixelSetEncoder(nn.Module):
    """Encodes dates: pixels (M, S, P), presence (M, S) and other facts (M, F) → (M, date_channels).

    Arguments:
        bands: P.
        facts: F, what is told of a date or parcel besides pixels.
    """

    def __init__(self, bands: int, facts: int, *, width: int, channels: int, encoded: int) -> None:
        super().__init__()
        self.pixel = nn.Sequential(
            nn.Linear(bands, width), nn.LayerNorm(width), nn.ReLU(),
            nn.Linear(width, channels), nn.LayerNorm(channels), nn.ReLU(),
        )  # fmt: skip
        self.date = nn.Sequential(nn.Linear(2 * channels + facts, encoded), nn.LayerNorm(encoded), nn.ReLU())

    def forward(self, pixels: Tensor, presence: Tensor, facts: Tensor) -> Tensor:
        return self.date(torch.cat([*pooled(self.pixel(pixels), presence), facts], -1))


def pooled(embedding: Tensor, presence: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation (M, E) of embeddings (M, S, E) over the pixels that are present (M, S), 0 or 1."""
    weight = presence[..., None]
    count = weight.sum(1).clamp(min=1)
    mean = (embedding * weight).sum(1) / count
    variance = ((embedding - mean[:, None]) ** 2 * weight).sum(1) / count
    return mean, (variance + _LEAST_VARIANCE).sqrt()


@dataclass(frozen=True)
class DateRow:
    """How what is seen at a date is laid side by side in one row: S pixels of P bands, their presence, F other facts.

    Arguments:
        bands: P.
        facts: F.
    """

    bands: int
    facts: int

    def pack(self, pixels: Tensor, presence: Tensor, facts: Tensor) -> Tensor:
        """(…, S · P + S + F) of pixels (…, S, P), presence (…, S) and facts (…, F)."""
        return torch.cat([pixels.flatten(-2), presence, facts], -1)

    def unpack(self, row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pixels (…, S, P), presence (…, S) and facts (…, F)."""
        size = (row.shape[-1] - self.facts) // (self.bands + 1)
        pixels, presence, facts = row.split([size * self.bands, size, self.facts], -1)
        return pixels.unflatten(-1, (size, self.bands)), presence, facts


class PSELTAETrunk(Trunk):
    """Pixel-set encoder, then heads and a dense layer."""

    def __init__(self, row: DateRow, encoder: PixelSetEncoder, seasons: LTAETrunk, encoded: int) -> None:
        super().__init__(seasons.width)
        self.row, self.encoded = row, encoded
        self.encoder, self.seasons = encoder, seasons

    def forward(self, x: Tensor, mask: Tensor, day: Tensor) -> Tensor:
        """(B, width) features of the seasons; x (B, T, ·) are rows of `DateRow`, encoded where they are observed."""
        dates = x.new_zeros((*mask.shape, self.encoded))
        dates[mask] = self.encoder(*self.row.unpack(x[mask]))
        return self.seasons(dates, mask, day)


class PSELTAE(NeuralClassifier):
    """Pixel-set encoder with lightweight temporal attention on true dates (see the module)."""

    Settings: ClassVar[type[Options]] = PSELTAEOptions

    shape_centre: Tensor
    shape_scale: Tensor

    def __init__(self, spec: InputSpec, options: Options) -> None:
        if not spec.pixel_bands:
            raise SchemaError("pse-ltae looks inside parcels, and the series has no pixel sets", hint=NEEDED)
        super().__init__(spec, options)
        self.register_buffer("shape_centre", torch.zeros(len(SHAPE)))
        self.register_buffer("shape_scale", torch.ones(len(SHAPE)))

    def build_trunk(self, bands: int, slots: int) -> Trunk:
        chosen = cast(PSELTAEOptions, self.options)
        inside = len(self.spec.pixel_bands)
        row = DateRow(inside, bands - inside + len(SHAPE) * chosen.outline)
        encoder = PixelSetEncoder(
            inside, row.facts, width=chosen.pixel_width, channels=chosen.pixel_channels, encoded=chosen.date_channels
        )
        seasons = LTAETrunk(
            chosen.date_channels, channels=chosen.channels, heads=chosen.heads, key=chosen.key, width=chosen.width,
            dropout=chosen.dropout,
        )  # fmt: skip
        return PSELTAETrunk(row, encoder, seasons, chosen.date_channels)

    def prepare(self, data: TrainingData, context: Context) -> None:
        """Level and spread of the outlines' features too."""
        super().prepare(data, context)
        told = torch.cat([_log_shape(part.shape) for part in (data.labelled, data.unlabelled) if part is not None])
        known = told[told.isfinite().all(1)]
        if len(known) > 1:
            self.shape_centre.copy_(known.mean(0))
            self.shape_scale.copy_(scale_of(known.std(0, correction=0)))

    def see(self, batch: Batch) -> Season:
        """Rows of `DateRow` (B, T, ·), standardised, 0 where not observed, mask (B, T) and days (B, T)."""
        values, mask, day = self.view.read(batch, self.start_days)
        self._check(batch, mask)
        presence = batch.pixel_mask & mask[..., None]
        mask = presence.any(-1)
        inside = [self.spec.bands.index(band) for band in self.spec.pixel_bands]
        others = [i for i in range(len(self.spec.bands)) if i not in inside]
        pixels = (batch.pixels.to(self.centre.dtype) * UNIT - self.centre[inside]) / self.scale[inside]
        facts = (values[..., others] - self.centre[others]) / self.scale[others]
        if cast(PSELTAEOptions, self.options).outline:
            facts = torch.cat([facts, self._outline(batch)[:, None].expand(-1, mask.shape[1], -1)], -1)
        row = cast(PSELTAETrunk, self.trunk).row
        present = presence.to(pixels.dtype)
        return row.pack(pixels * present[..., None], present, facts * mask[..., None]), mask, day

    def log_posterior(self, batch: Batch) -> Tensor:
        parts = torch.arange(len(batch), device=batch.y.device).split(_ROWS_AT_ONCE)
        return torch.cat([super(PSELTAE, self).log_posterior(batch.take(rows)) for rows in parts])

    def _augmented(self, season: Season, amplitudes: Amplitudes, generator: torch.Generator) -> Season:
        x, mask, day = season
        row = cast(PSELTAETrunk, self.trunk).row
        pixels, presence, facts = row.unpack(x)
        drawn = _draw(presence, cast(PSELTAEOptions, self.options).pixels, generator)
        presence = presence.gather(2, drawn[:, None].expand(-1, x.shape[1], -1))
        pixels = pixels.gather(2, drawn[:, None, :, None].expand(-1, x.shape[1], -1, row.bands))
        gain = 1 + amplitudes.gain * (2 * torch.rand(len(x), row.bands, generator=generator).to(x) - 1)
        pixels = (pixels * gain[:, None, None]).flatten(-2)
        still = replace(amplitudes, gain=0.0)
        pixels, mask, day = augment_dates(
            pixels, mask, day, still, generator, slot_days=self.spec.calendar.slot_days
        )  # fmt: skip
        presence = presence * mask[..., None]
        pixels = pixels.unflatten(-1, (-1, row.bands)) * presence[..., None]
        return row.pack(pixels, presence, facts), presence.any(-1), day

    def _outline(self, batch: Batch) -> Tensor:
        """(B, 4) standardised logarithms of the outline's features, 0 where they are not known."""
        told = _log_shape(batch.shape).to(self.shape_centre.dtype)
        return ((told - self.shape_centre) / self.shape_scale).nan_to_num(0.0)

    def _check(self, batch: Batch, mask: Tensor) -> None:
        expected, got = len(self.spec.pixel_bands), batch.pixels.shape[3] if batch.pixels.shape[2] else 0
        if got != expected and bool(mask.any()):
            raise SchemaError(f"pse-ltae: expected pixel sets of {expected} bands, got {got}", hint=NEEDED)


def _log_shape(shape: Tensor) -> Tensor:
    """(B, 4) logarithms of the features of outlines (B, 4); NaN where they are not known or, (B, 0), not told."""
    told = shape if shape.shape[1] else shape.new_full((len(shape), len(SHAPE)), torch.nan)
    return told.clamp(min=_LEAST_SCALE).log()


def _draw(presence: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(B, S') places of at most `count` pixels drawn without repetition, those that are ever present first."""
    absent = presence.amax(1) == 0
    order = torch.rand(absent.shape, generator=generator).to(presence.device) + absent
    return order.argsort(1)[:, :count]
