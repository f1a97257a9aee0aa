"""Neural spline flow around the tied Gaussian."""

from __future__ import annotations

from typing import Literal, cast

from pydantic import Field

from cropgen.models.flows.autoregressive import AutoregressiveFlow, AutoregressiveOptions
from cropgen.models.flows.flow import SPLIT_SEED
from cropgen.models.layers.flows.coupling import Coupling, halves
from cropgen.models.layers.flows.layer import FlowLayer
from cropgen.models.layers.flows.splines import Spline, SplineKind


class NSFOptions(AutoregressiveOptions):
    """Options of `nsf`."""

    spline: SplineKind = Field(
        "rational-quadratic", description="pieces of the increasing map: linear, quadratic, cubic, rational-quadratic"
    )
    conditioner: Literal["coupling", "autoregressive", "causal-conv", "recurrent"] = Field(
        "coupling",
        description="what steers an entry: the other half of the season (coupling), all earlier entries "
        "(autoregressive), earlier dates by causal convolutions (causal-conv) or earlier observed dates (recurrent)",
    )
    bins: int = Field(8, ge=2, description="pieces of a spline", json_schema_extra={"search": [4, 8]})
    bound: float = Field(5.0, gt=0, description="splines act on innovations within ± bound, the identity outside")


class NSF(AutoregressiveFlow):
    """Every innovation goes through a monotone spline that others steer.

    The spline runs between knots on [−bound, bound] and is the identity outside; its widths, heights and slopes are
    given by the other half of the season (`coupling`) or by what came earlier (`autoregressive`, `causal-conv`,
    `recurrent`).

    References:
        Neural Spline Flows, Durkan, Bekasov, Murray and Papamakarios, 2019;
        Cubic-Spline Flows, Durkan, Bekasov, Murray and Papamakarios, 2019;
        Neural Importance Sampling, Müller, McWilliams, Rousselle, Gross and Novák, 2019.
    """

    Settings = NSFOptions

    def univariate(self) -> Spline:
        options = cast(NSFOptions, self.options)
        return Spline(options.spline, options.bins, options.bound)

    def layer(self, number: int) -> FlowLayer:
        options = cast(NSFOptions, self.options)
        if options.conditioner != "coupling":
            return self.autoregressive(number, options.conditioner)
        given = halves(self.size, options.layers, SPLIT_SEED)[number]
        return Coupling(given, self.size, self.told, options.hidden, self.univariate(), at_identity=self.at_identity)
