"""Additive couplings around the tied Gaussian."""

from __future__ import annotations

from cropgen.models.flows.flow import SPLIT_SEED, FlowModel, FlowOptions
from cropgen.models.layers.flows.coupling import Coupling, halves
from cropgen.models.layers.flows.univariate import Additive


class NICEOptions(FlowOptions):
    """Options of `nice`."""


class NICE(FlowModel):
    """Additive couplings between random halves of a season.

        v_b' = v_b + t(v_a, mask),   log |det T'| = 0

    The scaling layer that ends the published flow is the variance exp v of the base.

    Reference:
        NICE: Non-linear Independent Components Estimation, Dinh, Krueger and Bengio, 2015.
    """

    Settings = NICEOptions

    def layer(self, number: int) -> Coupling:
        given = halves(self.size, self.settings.layers, SPLIT_SEED)[number]
        return Coupling(given, self.size, self.told, self.settings.hidden, Additive(), at_identity=self.at_identity)
