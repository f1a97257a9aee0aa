"""Radial flow around the tied Gaussian."""

from __future__ import annotations

from pydantic import Field

from cropgen.models.flows.flow import FlowModel, FlowOptions
from cropgen.models.layers.flows.determinant_lemma import Radial


class RadialOptions(FlowOptions):
    """Options of `radial`."""

    layers: int = Field(16, ge=1, description="radial layers", json_schema_extra={"search": [8, 16, 32]})


class RadialFlow(FlowModel):
    """Layers that draw seasons towards a point, or push them away from it.

        v' = v + β (v − c) / (α + ‖v − c‖),   β > −α

    Reference:
        Variational Inference with Normalizing Flows, Rezende and Mohamed, 2015.
    """

    Settings = RadialOptions

    def layer(self, number: int) -> Radial:
        return Radial(self.size, self.context, at_identity=self.at_identity)
