"""Residual flow around the tied Gaussian."""

from __future__ import annotations

from typing import cast

from pydantic import Field

from cropgen.models.flows.flow import FlowModel, FlowOptions
from cropgen.models.layers.flows.contractive import Contractive, LogDet


class ResFlowOptions(FlowOptions):
    """Options of `resflow`."""

    hidden: int = Field(
        64, ge=1, description="width of the hidden layer of a residual", json_schema_extra={"search": [32, 64]}
    )
    kappa: float = Field(0.9, gt=0, lt=1, description="bound of how fast a residual may change")
    log_det: LogDet = Field(
        "series", description="while learning: series, an unbiased estimate, or exact; parcels are scored exactly"
    )


class ResidualFlow(FlowModel):
    """Invertible residual networks: what a layer adds is a contraction.

        v' = v + g(v),   Lip g ≤ κ < 1,   log |det T'| = log |det (I + ∂g/∂v)| = Σ_k (−1)^{k+1} tr (∂g/∂v)ᵏ / k

    The bound holds by exact spectral norms of the weights. While learning the series is estimated without bias; parcels
    are scored by the exact determinant, of the size of the hidden layer.

    References:
        Invertible Residual Networks, Behrmann, Grathwohl, Chen, Duvenaud and Jacobsen, 2019;
        Residual Flows for Invertible Generative Modeling, Chen, Behrmann, Duvenaud and Jacobsen, 2019.
    """

    Settings = ResFlowOptions

    def layer(self, number: int) -> Contractive:
        options = cast(ResFlowOptions, self.options)
        return Contractive(
            self.size,
            self.told,
            options.hidden,
            kappa=options.kappa,
            log_det=options.log_det,
            at_identity=self.at_identity,
        )
