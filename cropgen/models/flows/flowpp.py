"""Mixture-of-logistics couplings around the tied Gaussian."""

from __future__ import annotations

from typing import Literal, cast

from pydantic import Field

from cropgen.models.flows.flow import SPLIT_SEED, FlowModel, FlowOptions
from cropgen.models.layers.flows.coupling import Coupling, even_odd, halves
from cropgen.models.layers.flows.univariate import MixtureCDF


class FlowPPOptions(FlowOptions):
    """Options of `flowpp`."""

    components: int = Field(4, ge=1, description="logistic distributions of a mixture")
    split: Literal["random", "even-odd"] = Field(
        "random", description="halves of a coupling: random entries, or even and odd dates"
    )


class FlowPP(FlowModel):
    """Couplings whose increasing map is the distribution function of a mixture of logistics.

        v_b' = e^c logit Σ_j π_j σ((v_b − μ_j) / s_j) + d,   (π, μ, s, c, d) = MLP(v_a, mask)

    Innovations are continuous, so the published dequantisation has nothing to do here.

    Reference:
        Flow++: Improving Flow-Based Generative Models with Variational Dequantization and Architecture Design,
        Ho, Chen, Srinivas, Duan and Abbeel, 2019.
    """

    Settings = FlowPPOptions

    def layer(self, number: int) -> Coupling:
        options = cast(FlowPPOptions, self.options)
        if options.split == "random":
            given = halves(self.size, options.layers, SPLIT_SEED)[number]
        else:
            given = even_odd(self.slots, self.bands, options.layers)[number]
        univariate = MixtureCDF(options.components)
        return Coupling(given, self.size, self.told, options.hidden, univariate, at_identity=self.at_identity)
