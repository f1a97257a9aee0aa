"""What the autoregressive rows share: their options and their layers."""

from __future__ import annotations

from abc import abstractmethod
from typing import cast

from pydantic import Field

from cropgen.models.flows.flow import FlowModel, FlowOptions
from cropgen.models.layers.flows.autoregressive import Autoregressive, Inversion, Memory, Order, conditioner_of
from cropgen.models.layers.flows.layer import FlowLayer
from cropgen.models.layers.flows.univariate import Univariate


class AutoregressiveOptions(FlowOptions):
    """Options of the autoregressive flows."""

    layers: int = Field(2, ge=1, description="autoregressive layers", json_schema_extra={"search": [1, 2, 4]})
    order: Order = Field(
        "time",
        description="time: dates ascend in every layer, so beginnings of a season have their exact marginal; "
        "alternate: every other layer reverses all entries; read with conditioner=autoregressive alone",
    )
    inverse: Inversion = Field(
        "fixed-point",
        description="how samples are made: fixed-point stops when nothing changes, exact never early; not read with "
        "conditioner=coupling, whose inverse is exact at once",
    )


class MemoryOptions(AutoregressiveOptions):
    """Options of the autoregressive flows that are nothing else."""

    conditioner: Memory = Field(
        "autoregressive",
        description="what an entry sees of earlier ones: autoregressive (all of them, a masked perceptron), "
        "causal-conv (earlier dates by causal convolutions) or recurrent (earlier observed dates alone)",
    )


class AutoregressiveFlow(FlowModel):
    """Base of the autoregressive flows: a subclass gives `univariate`, the increasing map of an entry."""

    @abstractmethod
    def univariate(self) -> Univariate:
        """A fresh increasing map."""

    def layer(self, number: int) -> FlowLayer:
        return self.autoregressive(number, cast(MemoryOptions, self.options).conditioner)

    def autoregressive(self, number: int, memory: Memory) -> Autoregressive:
        """The layer of a number, from the data towards the base."""
        options, univariate = cast(AutoregressiveOptions, self.options), self.univariate()
        conditioner = conditioner_of(
            memory,
            univariate,
            slots=self.slots,
            bands=self.bands,
            context=self.context,
            hidden=options.hidden,
            layer=number,
            order=options.order,
            at_identity=self.at_identity,
        )
        return Autoregressive(conditioner, univariate, options.inverse)
