"""Sylvester flow around the tied Gaussian."""

from __future__ import annotations

from typing import cast

from pydantic import Field

from cropgen.models.flows.flow import SPLIT_SEED, FlowModel, FlowOptions
from cropgen.models.layers.flows.determinant_lemma import Sylvester, SylvesterKind


class SylvesterOptions(FlowOptions):
    """Options of `sylvester`."""

    rank: int = Field(
        8, ge=1, description="directions a layer moves seasons along", json_schema_extra={"search": [4, 8]}
    )
    basis: SylvesterKind = Field(
        "orthogonal", description="directions: learnt and made orthogonal, a product of reflections, or chosen entries"
    )


class SylvesterFlow(FlowModel):
    """Planar layers of several directions at once.

        v' = v + Q R tanh(R̃ Qᵀ v + b),   log |det T'| = Σ_j log (1 + (1 − tanh_j²) r_jj r̃_jj)

    Reference:
        Sylvester Normalizing Flows for Variational Inference, van den Berg, Hasenclever, Tomczak and Welling, 2018.
    """

    Settings = SylvesterOptions

    def layer(self, number: int) -> Sylvester:
        options = cast(SylvesterOptions, self.options)
        seed = SPLIT_SEED + number
        return Sylvester(self.size, options.rank, self.context, options.basis, seed, at_identity=self.at_identity)
