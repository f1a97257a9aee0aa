"""Multi-scale flow over time around the tied Gaussian."""

from __future__ import annotations

from typing import cast

from pydantic import Field

from cropgen.models.flows.flow import SPLIT_SEED, FlowModel, FlowOptions
from cropgen.models.layers.flows.layer import FlowLayer
from cropgen.models.layers.flows.linear import LinearKind, Permutation, band_mix, undoing
from cropgen.models.layers.flows.multiscale import MultiScale
from cropgen.models.layers.flows.norm import NormKind


class GlowOptions(FlowOptions):
    """Options of `glow`."""

    layers: int = Field(2, ge=1, description="steps of a level", json_schema_extra={"search": [2, 4]})
    levels: int = Field(
        2, ge=1, description="levels; each halves the number of dates", json_schema_extra={"search": [2, 3]}
    )
    hidden: int = Field(
        64, ge=1, description="channels of the convolutions of a conditioner", json_schema_extra={"search": [32, 64]}
    )
    norm: NormKind = Field("act", description="normalising layer of each step: none, batch or act")
    linear: LinearKind = Field(
        "plu", description="linear map of the channels of each step (plu), or of the bands of a date before all"
    )


class Glow(FlowModel):
    """Squeeze over time, steps of normalisation, linear map and coupling, split with a conditional prior.

    Each two neighbouring dates become one of twice the bands; half of them leaves after the steps of a level with the
    prior N(o + t(u), diag exp s(u)) given the half u that stays. With `class_in=both` the class steers the couplings,
    the split priors and the base.

    References:
        Glow: Generative Flow with Invertible 1×1 Convolutions, Kingma and Dhariwal, 2018;
        Structured Output Learning with Conditional Generative Flows, Lu and Huang, 2020.
    """

    Settings = GlowOptions

    def layer(self, number: int) -> MultiScale:
        options = cast(GlowOptions, self.options)
        return MultiScale(
            self.slots,
            self.bands,
            self.context,
            options.hidden,
            levels=options.levels,
            steps=options.layers,
            norm=options.norm,
            mixed=options.linear == "plu",
            seed=SPLIT_SEED,
            at_identity=self.at_identity,
        )

    def _layers(self) -> list[FlowLayer]:
        if self.settings.linear in ("none", "plu"):
            return [self.layer(0)]
        mix = band_mix(self.settings.linear, self.bands, 0, at_identity=self.at_identity)
        return [mix, self.layer(0), *([undoing([mix])] if isinstance(mix, Permutation) else [])]
