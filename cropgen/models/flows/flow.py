"""Flows as class-conditional densities of seasons: what all rows of the family share."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import replace
from typing import Literal, cast

import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.layers.bank import Seasons, concatenate_seasons, whitened
from cropgen.models.layers.flows.defence import DefendedModel, DefendedOptions
from cropgen.models.layers.flows.layer import FlowLayer, Seen, Stack
from cropgen.models.layers.flows.linear import LinearKind, Permutation, band_mix, undoing
from cropgen.models.layers.flows.norm import ActNorm, BatchNorm, NormKind
from cropgen.series.batches import Batch

ClassIn = Literal["base", "couplings", "both"]
SPLIT_SEED = 7
_NORM_ROWS = 1024
_LARGEST_BLOCK = 1 << 18


class FlowOptions(DefendedOptions):
    """Options of every flow."""

    class_in: ClassIn = Field(
        "base",
        description="where the class enters: the means of the base (one pass scores all classes), the layers, or both",
        json_schema_extra={"search": ["base", "both"]},
    )
    layers: int = Field(4, ge=1, description="layers of the construction", json_schema_extra={"search": [2, 4, 8]})
    hidden: int = Field(
        128, ge=1, description="width of the hidden layers of a conditioner", json_schema_extra={"search": [64, 128]}
    )
    norm: NormKind = Field("none", description="normalising layer before each layer: none, batch or act")
    linear: LinearKind = Field("none", description="linear map of the bands of a date before each layer")


class FlowModel(DefendedModel):
    """One flow for all classes or one steered by the class, around the tied Gaussian.

    With e the innovations of a season, o_y the class means of the tied Gaussian seen through the same factor, and T a
    stack of layers that begins at the identity, the class enters

        the base       p(e | y) = N(T(e); o_y + d_y, diag exp v) |det T'(e)|
        the couplings  p(e | y) = N(T_y(e − o_y − d_y); 0, diag exp v) |det T_y'|
        both           p(e | y) = N(T_y(e); o_y + d_y, diag exp v) |det T_y'(e)|

    d_y and v begin at zero, so all three begin exactly at the tied Gaussian. Missing entries stand in no term. A
    subclass gives `layer`; normalising and linear layers stand before each of its layers where asked for.
    """

    def __init__(self, spec: InputSpec, options: FlowOptions) -> None:
        super().__init__(spec, options)
        self.at_identity = options.start == "tgem"
        self.context = 0 if options.class_in == "base" else spec.classes
        self.slots, self.bands = spec.calendar.count, len(spec.bands)
        self.told = self.slots + self.context
        self.flow = Stack(self._layers())

    @property
    def settings(self) -> FlowOptions:
        return cast(FlowOptions, self.options)

    @abstractmethod
    def layer(self, number: int) -> FlowLayer:
        """The layer of a number from 0, the one next to the data first."""

    def _layers(self) -> list[FlowLayer]:
        options, layers, permutations = self.settings, list[FlowLayer](), list[Permutation]()
        for number in range(options.layers):
            if options.norm != "none":
                kind = {"act": ActNorm, "batch": BatchNorm}[options.norm]
                layers.append(kind(self.size, at_identity=self.at_identity))
            if options.linear != "none":
                layers.append(band_mix(options.linear, self.bands, number, at_identity=self.at_identity))
                permutations += [layers[-1]] if isinstance(layers[-1], Permutation) else []
            layers.append(self.layer(number))
        return [*layers, undoing(permutations)] if permutations else layers

    def prepare(self, data: TrainingData, context: Context) -> None:
        super().prepare(data, context)
        if self.settings.norm != "none" and self._bank is not None:
            with torch.no_grad():
                self.flow.initialise(*self._arriving(self._bank.labelled.take(slice(_NORM_ROWS))))

    def _arriving(self, rows: Seasons) -> tuple[Tensor, Seen]:
        """What labelled rows are when they enter the first layer."""
        seen = self._seen(rows, None)
        if not self.context:
            return rows.e, seen
        inner = self.settings.class_in == "couplings"
        centre = self._centres(rows)[torch.arange(len(rows)), rows.y]
        return rows.e - centre if inner else rows.e, replace(seen, context=self._codes()[rows.y])

    def _codes(self) -> Tensor:
        """(K, K) indicators of the classes."""
        return torch.eye(self.spec.classes, dtype=self.shift.dtype, device=self.shift.device)

    def _seen(self, seasons: Seasons, generator: torch.Generator | None) -> Seen:
        return Seen.of_dates(seasons.mask, self.bands, seasons.e.dtype, generator)

    def _centres(self, seasons: Seasons) -> Tensor:
        """(B, K, D) the class means of the base, 0 at missing entries."""
        return (seasons.offset + self.shift) * seasons.present[:, None]

    def towards_base(self, seasons: Seasons, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """What stands in the base, less the class means: (B, K, D), and the log-determinant (B, 1) or (B, K)."""
        seen, centres = self._seen(seasons, generator), self._centres(seasons)
        if not self.context:
            v, log_det = self.flow(seasons.e, seen)
            return v[:, None] - centres, log_det[:, None]
        each = seasons.e[:, None].expand_as(centres)
        inner = self.settings.class_in == "couplings"
        start = each - centres if inner else each
        v, log_det = self.flow(start.flatten(0, 1), seen.for_each(self._codes()))
        v, log_det = v.view_as(each), log_det.view(each.shape[:2])
        return (v if inner else v - centres), log_det

    def class_scores(self, seasons: Seasons, features: Tensor, generator: torch.Generator | None) -> Tensor:
        if generator is not None or len(seasons) <= self._rows_at_once():
            return self._scores(seasons, generator)
        blocks = range(0, len(seasons), self._rows_at_once())
        return torch.cat([self._scores(seasons.take(slice(i, i + self._rows_at_once())), None) for i in blocks])

    def _rows_at_once(self) -> int:
        """Rows whose parameters fit in memory."""
        return max(1, _LARGEST_BLOCK // (self.size * max(1, self.context)))

    def _scores(self, seasons: Seasons, generator: torch.Generator | None) -> Tensor:
        rest, log_det = self.towards_base(seasons, generator)
        terms = rest**2 * (-self.log_var).exp() + self.log_var + math.log(2 * math.pi)
        return log_det - 0.5 * (terms * seasons.present[:, None]).sum(-1)

    def draw_innovations(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        noise = temperature * self.standard_normal(len(y), self.size, generator)
        return self._from_base(noise * (0.5 * self.log_var).exp(), y)

    def _from_base(self, rest: Tensor, y: Tensor) -> Tensor:
        """(B, D) innovations of complete seasons of class y from what stands in the base, less the class means."""
        centre = (self.full_offset() + self.shift)[y]
        inner = self.settings.class_in == "couplings"
        e = self.flow.inverse(rest if inner else rest + centre, self._complete(y))
        return e + centre if inner else e

    def _complete(self, y: Tensor) -> Seen:
        """Complete seasons of class y (B,)."""
        mask = torch.ones(len(y), self.slots, dtype=torch.bool, device=self.shift.device)
        seen = Seen.of_dates(mask, self.bands, self.shift.dtype)
        return replace(seen, context=self._codes()[y]) if self.context else seen

    @torch.no_grad()
    def interpolate(self, first: Batch, second: Batch, y: Tensor, shares: Tensor) -> Tensor:
        """Seasons on the straight line between two parcels in the base of class y.

        Missing dates of the two parcels are completed by the tied Gaussian's conditional mean.

        Arguments:
            first, second: B parcels each.
            y: (B,) class.
            shares: (S,) from 0, the first parcel, to 1, the second.

        Returns:
            (S, B, G, C) reflectance.
        """
        ends = concatenate_seasons([self._completed(batch, y) for batch in (first, second)])
        rest = self.towards_base(ends, None)[0][torch.arange(len(ends)), torch.cat([y, y])]
        start, end = rest.chunk(2)
        line = torch.stack([torch.lerp(start, end, float(share)) for share in shares])
        e = self._from_base(line.flatten(0, 1), y.repeat(len(shares)))
        x = e @ self.tied.chol.T + self.tied.overall_mean
        season = self.tied.restore(x.unflatten(1, (self.slots, self.bands)))
        return season.unflatten(0, (len(shares), -1))

    def _completed(self, batch: Batch, y: Tensor) -> Seasons:
        x, mask = self.tied.grid(batch)
        x, full = self.tied.complete(x, mask), torch.ones_like(mask)
        return whitened(self.tied, x, full, self.start_days.expand(len(x), -1), y)
