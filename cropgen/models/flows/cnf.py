"""Continuous normalizing flow around the tied Gaussian."""

from __future__ import annotations

from typing import cast

from pydantic import Field

from cropgen.models.flows.flow import FlowModel, FlowOptions
from cropgen.models.layers.flows.continuous import Continuous, Trace


class CNFOptions(FlowOptions):
    """Options of `cnf`."""

    layers: int = Field(1, ge=1, description="differential equations one after the other")
    integration_steps: int = Field(4, ge=1, description="Runge-Kutta steps from the data to the base")
    frequencies: int = Field(3, ge=1, description="frequencies that tell the time of the equation")
    trace: Trace = Field(
        "exact", description="while learning: exact, or hutchinson, an unbiased estimate; parcels are scored exactly"
    )


class CNF(FlowModel):
    """A season moves to the base along a differential equation.

        dv/dt = f(v, t, mask),   log |det T'| = ∫₀¹ tr ∂f/∂v dt

    References:
        Neural Ordinary Differential Equations, Chen, Rubanova, Bettencourt and Duvenaud, 2018;
        FFJORD: Free-Form Continuous Dynamics for Scalable Reversible Generative Models, Grathwohl, Chen, Bettencourt,
        Sutskever and Duvenaud, 2019.
    """

    Settings = CNFOptions

    def layer(self, number: int) -> Continuous:
        options = cast(CNFOptions, self.options)
        return Continuous(
            self.size,
            self.told,
            options.hidden,
            frequencies=options.frequencies,
            steps=options.integration_steps,
            trace=options.trace,
            at_identity=self.at_identity,
        )
