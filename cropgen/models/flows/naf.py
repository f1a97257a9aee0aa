"""Neural autoregressive flow around the tied Gaussian."""

from __future__ import annotations

from typing import Literal, cast

from pydantic import Field

from cropgen.models.flows.autoregressive import AutoregressiveFlow, MemoryOptions
from cropgen.models.layers.flows.univariate import DenseSigmoidal, MonotonicNetwork, Sigmoidal, Univariate


class NAFOptions(MemoryOptions):
    """Options of `naf`."""

    layers: int = Field(1, ge=1, description="autoregressive layers", json_schema_extra={"search": [1, 2]})
    transformer: Literal["dsf", "ddsf", "mnn"] = Field(
        "dsf", description="increasing map of an entry: deep sigmoidal, deep dense sigmoidal, or a monotonic network"
    )
    units: int = Field(8, ge=1, description="sigmoidal units of dsf, signals of mnn; ddsf takes half as many a layer")


class NAF(AutoregressiveFlow):
    """Every innovation goes through an increasing network that earlier ones steer.

        dsf    v_i' = logit Σ_j w_j σ(a_j v_i + b_j),   (a, b, w) = h_i(v_<i, mask),  a > 0,  Σ w = 1
        ddsf   two layers of h ← logit W σ(a ⊙ (U h) + b), W and U row-stochastic
        mnn    v_i' = v_i + λ f(v_i, h_i), f a network of positive weights; without the common start f alone

    dsf and ddsf begin at the identity; mnn begins within λ = 0.001 of it.

    Reference:
        Neural Autoregressive Flows, Huang, Krueger, Lacoste and Courville, 2018.
    """

    Settings = NAFOptions

    def univariate(self) -> Univariate:
        options = cast(NAFOptions, self.options)
        if options.transformer == "mnn":
            return MonotonicNetwork(options.units, options.hidden // 2, near_identity=self.at_identity)
        if options.transformer == "ddsf":
            return DenseSigmoidal(max(1, options.units // 2))
        return Sigmoidal(options.units)
