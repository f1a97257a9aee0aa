"""Planar flow around the tied Gaussian."""

from __future__ import annotations

from pydantic import Field

from cropgen.models.flows.flow import FlowModel, FlowOptions
from cropgen.models.layers.flows.determinant_lemma import Planar


class PlanarOptions(FlowOptions):
    """Options of `planar`."""

    layers: int = Field(16, ge=1, description="planar layers", json_schema_extra={"search": [8, 16, 32]})


class PlanarFlow(FlowModel):
    """Layers that move a season along one direction, by an amount that depends on another.

        v' = v + û tanh(wᵀ v + b),   log |det T'| = log (1 + (1 − tanh²) wᵀ û)

    Reference:
        Variational Inference with Normalizing Flows, Rezende and Mohamed, 2015.
    """

    Settings = PlanarOptions

    def layer(self, number: int) -> Planar:
        return Planar(self.size, self.context, at_identity=self.at_identity)
