"""Semi-conditional flow: an unconditional trunk and a conditional head."""

from __future__ import annotations

from dataclasses import replace

import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.base import InputSpec
from cropgen.models.flows.flow import SPLIT_SEED, ClassIn, FlowModel, FlowOptions
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.flows.coupling import Coupling, halves
from cropgen.models.layers.flows.layer import Seen, Stack
from cropgen.models.layers.flows.univariate import Affine

_HEAD_SEED = 17


class SemiFlowOptions(FlowOptions):
    """Options of `semiflow`."""

    class_in: ClassIn = Field(
        "both", description="where the class enters beside the base: both and couplings steer the head, base does not"
    )
    head_layers: int = Field(2, ge=1, description="couplings of the conditional head")
    head_hidden: int = Field(32, ge=1, description="width of the hidden layers of the head's conditioners")


class SemiFlow(FlowModel):
    """A trunk that no class steers, learnt from all parcels, and a shallow head that the class steers.

        T_y = head_y ∘ trunk,   p(e | y) = N(T_y(e); o_y + d_y, diag exp v) |det T_y'(e)|

    The trunk runs once for a parcel, the head once for each class.

    Reference:
        Semi-Conditional Normalizing Flows for Semi-Supervised Learning, Atanov, Volokhova, Ashukha, Sosnovik and
        Vetrov, 2019.
    """

    Settings = SemiFlowOptions

    def __init__(self, spec: InputSpec, options: SemiFlowOptions) -> None:
        super().__init__(spec, options)
        given = halves(self.size, options.head_layers, _HEAD_SEED)
        self.head = Stack(
            [
                Coupling(part, self.size, self.told, options.head_hidden, Affine(), at_identity=self.at_identity)
                for part in given
            ]
        )

    def layer(self, number: int) -> Coupling:
        given = halves(self.size, self.settings.layers, SPLIT_SEED)[number]
        return Coupling(given, self.size, self.slots, self.settings.hidden, Affine(), at_identity=self.at_identity)

    def _arriving(self, rows: Seasons) -> tuple[Tensor, Seen]:
        return rows.e, self._seen(rows, None)

    def towards_base(self, seasons: Seasons, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        seen, centres = self._seen(seasons, generator), self._centres(seasons)
        trunk, log_det = self.flow(seasons.e, seen)
        inner = self.settings.class_in == "couplings"
        start = trunk[:, None] - centres if inner else trunk[:, None].expand_as(centres)
        each = seen.for_each(self._codes() if self.context else self._codes()[:, :0])
        v, change = self.head(start.flatten(0, 1), each)
        v = v.view_as(centres)
        return (v if inner else v - centres), log_det[:, None] + change.view(centres.shape[:2])

    def _from_base(self, rest: Tensor, y: Tensor) -> Tensor:
        centre = (self.full_offset() + self.shift)[y]
        seen, inner = self._complete(y), self.settings.class_in == "couplings"
        trunk = self.head.inverse(rest if inner else rest + centre, seen)
        return self.flow.inverse(trunk + centre if inner else trunk, replace(seen, context=None))
