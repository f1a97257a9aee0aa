"""Residual real-valued non-volume-preserving flow around the tied Gaussian."""

from __future__ import annotations

import math
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import InputSpec
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.coupling import MaskedCoupling
from cropgen.models.layers.flows.defence import DefendedModel, DefendedOptions

_HALVES_SEED = 7


class RealNVPOptions(DefendedOptions):
    """Options of `realnvp`."""

    layers: int = Field(
        4,
        ge=1,
        description="affine couplings; each two share a random split and swap its halves",
        json_schema_extra={"search": [2, 4, 8]},
    )
    hidden: int = Field(
        128,
        ge=1,
        description="width of the two hidden layers of a conditioner",
        json_schema_extra={"search": [64, 128]},
    )


class RealNVP(DefendedModel):
    """One flow for all classes, whose base has a mean per class.

    With e = L⁻¹ M (x − μ₀) the innovations of a season and T a stack of affine couplings that begins at the identity,

        log p(x, y) = log N(T(e); o_y + d_y, diag exp v) + log |det T'(e)| − log |L| − Σ log scale + log π_y

    The o_y are the class means of the tied Gaussian seen through the same factor; d_y and v begin at zero, so the
    model begins exactly at the tied Gaussian. T does not depend on the class: one pass scores all of them. Missing
    entries pass through T unchanged and stand in no term.

    Reference:
        Density Estimation using Real NVP, Dinh, Sohl-Dickstein and Bengio, 2017;
        Semi-Supervised Learning with Normalizing Flows, Izmailov, Kirichenko, Finzi and Wilson, 2020.
    """

    Settings = RealNVPOptions

    def __init__(self, spec: InputSpec, options: RealNVPOptions) -> None:
        super().__init__(spec, options)
        slots, size = spec.calendar.count, self.size
        generator = torch.Generator().manual_seed(_HALVES_SEED)
        splits = [torch.randperm(size, generator=generator) for _ in range(0, options.layers, 2)]
        halves = [half for split in splits for half in (split[: size // 2], split[size // 2 :])]
        self.couplings = nn.ModuleList(
            MaskedCoupling(half.sort().values, size, slots, options.hidden, start_at_identity=options.start == "tgem")
            for half in halves[: options.layers]
        )

    def transform(self, seasons: Seasons) -> tuple[Tensor, Tensor]:
        """T(e) (B, D) and log |det| (B,)."""
        v, log_det = seasons.e, seasons.e.new_zeros(len(seasons.e))
        for coupling in self._stack():
            v, change = coupling(v, seasons.present, seasons.mask)
            log_det = log_det + change
        return v, log_det

    def class_scores(self, seasons: Seasons, features: Tensor, generator: torch.Generator | None) -> Tensor:
        v, log_det = self.transform(seasons)
        distance = (v[:, None] - seasons.offset - self.shift) ** 2 * (-self.log_var).exp()
        terms = (distance + self.log_var + math.log(2 * math.pi)) * seasons.present[:, None]
        return log_det[:, None] - 0.5 * terms.sum(-1)

    def draw_innovations(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        noise = self.standard_normal(len(y), self.size, generator)
        v = self.full_offset()[y] + self.shift[y] + temperature * (0.5 * self.log_var).exp() * noise
        present = torch.ones_like(v)
        mask = torch.ones(len(y), self.spec.calendar.count, dtype=torch.bool, device=v.device)
        for coupling in reversed(self._stack()):
            v = coupling.inverse(v, present, mask)
        return v

    def _stack(self) -> list[MaskedCoupling]:
        return [cast(MaskedCoupling, coupling) for coupling in self.couplings]
