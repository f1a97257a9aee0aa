"""Inverse autoregressive flow around the tied Gaussian."""

from __future__ import annotations

from typing import cast

from pydantic import Field

from cropgen.models.flows.autoregressive import AutoregressiveFlow, MemoryOptions
from cropgen.models.layers.flows.layer import FlowLayer, Inverted
from cropgen.models.layers.flows.univariate import Affine


class IAFOptions(MemoryOptions):
    """Options of `iaf`."""

    layers: int = Field(1, ge=1, description="autoregressive layers", json_schema_extra={"search": [1, 2]})


class IAF(AutoregressiveFlow):
    """The masked autoregressive layer run from the base to the data: one pass draws a season.

        v = T(e):  e_i = v_i exp a_i(v_<i, mask) + b_i(v_<i, mask),   log |det T'| = −Σ_i a_i

    Scoring solves for v by fixed-point iteration and differentiates the solution implicitly, so that the flow is fitted
    by maximum likelihood like all others; near the identity few iterations are enough.

    Reference:
        Improved Variational Inference with Inverse Autoregressive Flow, Kingma, Salimans, Jozefowicz, Chen, Sutskever
        and Welling, 2016.
    """

    Settings = IAFOptions

    def univariate(self) -> Affine:
        return Affine()

    def layer(self, number: int) -> FlowLayer:
        return Inverted(self.autoregressive(number, cast(IAFOptions, self.options).conditioner))
