"""Autoregressive layers: every entry is mapped by an increasing function that earlier entries steer."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from cropgen.models.layers.flows.conditioners import CausalConvolution, DenseOrder, RecurrentPast
from cropgen.models.layers.flows.layer import ElementwiseLayer, Seen
from cropgen.models.layers.flows.univariate import Univariate

Inversion = Literal["exact", "fixed-point"]
Order = Literal["time", "alternate"]
Memory = Literal["autoregressive", "causal-conv", "recurrent"]


class Autoregressive(ElementwiseLayer):
    """v_i' = τ(v_i; h_i(v_<i, mask, context)); log |det| = Σ_i log τ'.

    The inverse repeats v ← τ⁻¹(v'; h(v)). Pass k is right for the first k entries whatever it began with, so D passes
    are exact; near the identity few are enough, and `fixed-point` stops where a pass changes nothing any more.

    Arguments:
        conditioner: (v, seen) → (B, D, parameters), triangular in some order.
        univariate: τ.
        inversion: how the inverse ends.
        tolerance: largest change of a pass at which `fixed-point` stops.

    References:
        Masked Autoregressive Flow for Density Estimation, Papamakarios, Pavlakou and Murray, 2017;
        Mintnet: Building Invertible Neural Networks with Masked Convolutions, Song, Meng and Ermon, 2019.
    """

    def __init__(
        self, conditioner: nn.Module, univariate: Univariate, inversion: Inversion, tolerance: float = 1e-11
    ) -> None:
        super().__init__()
        self.conditioner, self.univariate = conditioner, univariate
        self.inversion, self.tolerance = inversion, tolerance

    def stretched(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        return self.univariate.moved(self.conditioner(v, seen), v, seen.present)

    @torch.no_grad()
    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        found = v
        for _ in range(v.shape[-1]):
            better = self.univariate.moved_back(self.conditioner(found, seen), v, seen.present)
            change = (better - found).abs().amax()
            found = better
            if self.inversion == "fixed-point" and change <= self._tolerance(v):
                break
        return found

    def _tolerance(self, v: Tensor) -> float:
        return max(self.tolerance, 8 * torch.finfo(v.dtype).eps)


def entry_order(slots: int, bands: int, layer: int, order: Order) -> Tensor:
    """(D,) place of each entry in the order of a layer.

    time: dates ascend in every layer, so that the beginning of a season is scored by its own exact marginal; the
    bands of a date are reversed in every other layer. alternate: the whole order is reversed in every other layer.
    """
    place = torch.arange(slots * bands)
    if layer % 2 == 0:
        return place
    return place.flip(0) if order == "alternate" else place.unflatten(0, (slots, bands)).flip(1).flatten()


def conditioner_of(
    memory: Memory,
    univariate: Univariate,
    *,
    slots: int,
    bands: int,
    context: int,
    hidden: int,
    layer: int,
    order: Order,
    at_identity: bool,
) -> nn.Module:
    """The conditioner of an autoregressive layer.

    Arguments:
        memory: autoregressive sees all earlier entries by a masked perceptron, causal-conv by convolutions over time,
            recurrent by a recurrence over the observed dates alone.
        layer: its number; every other one reverses the order of the bands, or of all entries.
        order: of `autoregressive`; for the others dates always ascend.
    """
    if memory == "autoregressive":
        places = entry_order(slots, bands, layer, order)
        return DenseOrder(places, slots, context, (hidden, hidden), univariate, at_identity=at_identity)
    kind = {"causal-conv": CausalConvolution, "recurrent": RecurrentPast}[memory]
    return kind(slots, bands, context, hidden, univariate, backwards=layer % 2 == 1, at_identity=at_identity)
