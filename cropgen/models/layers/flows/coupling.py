"""Couplings: one part of a season steers an increasing map of the rest."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor

from cropgen.models.layers.coupling import divide
from cropgen.models.layers.flows.conditioners import Perceptron
from cropgen.models.layers.flows.layer import ElementwiseLayer, Seen
from cropgen.models.layers.flows.univariate import Univariate


class _Divided(torch.autograd.Function):
    """The parts a and b of v; its gradient is looked up, which is faster than adding it up."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, given: Tensor, changed: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.order = order
        return v.index_select(-1, given), v.index_select(-1, changed)

    @staticmethod
    def backward(ctx: Any, kept: Tensor, steered: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.cat([kept, steered], -1).index_select(-1, ctx.order), None, None, None


class _Joined(torch.autograd.Function):
    """v of its parts a and b, likewise."""

    @staticmethod
    def forward(ctx: Any, kept: Tensor, moved: Tensor, given: Tensor, changed: Tensor, order: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.given, ctx.changed = given, changed
        return torch.cat([kept, moved], -1).index_select(-1, order)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return grad.index_select(-1, ctx.given), grad.index_select(-1, ctx.changed), None, None, None


class Coupling(ElementwiseLayer):
    """v_b' = τ(v_b; h), h = MLP(v_a, mask, context), v_a' = v_a; log |det| = Σ_b log τ'.

    Arguments:
        given: positions of the part a that is left as it is.
        size: number of entries D.
        told: G + H, size of mask and context.
        hidden: width of the two hidden layers of the conditioner.
        univariate: τ.
        at_identity: begin with the identity.

    Reference:
        NICE: Non-linear Independent Components Estimation, Dinh, Krueger and Bengio, 2015.
    """

    given: Tensor
    changed: Tensor
    order: Tensor

    def __init__(
        self, given: Tensor, size: int, told: int, hidden: int, univariate: Univariate, *, at_identity: bool
    ) -> None:
        super().__init__()
        changed, order = divide(given, size)
        self.register_buffer("given", given)
        self.register_buffer("changed", changed)
        self.register_buffer("order", order)
        self.univariate = univariate
        self.conditioner = Perceptron(len(given) + told, len(changed), hidden, univariate, at_identity=at_identity)

    def forward(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        image, log_slope = self._moved(v, seen)
        return image, log_slope.sum(-1)

    def stretched(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        image, log_slope = self._moved(v, seen)
        kept = log_slope.new_zeros(len(v), len(self.given))
        return image, torch.cat([kept, log_slope], -1).index_select(1, self.order)

    def _moved(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        """(B, D) towards the base, and the logarithm of the slopes of the part b."""
        kept, steered, there, parameters = self._steered(v, seen)
        moved, log_slope = self.univariate.moved(parameters, steered, there)
        return self._whole(kept, moved), log_slope

    def _steered(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The parts a and b, the presence of b, and the parameters of τ for every entry of b."""
        kept, steered = cast(tuple[Tensor, Tensor], _Divided.apply(v, self.given, self.changed, self.order))
        parameters = self.conditioner(torch.cat([kept, seen.told], -1))
        return kept, steered, seen.present.index_select(1, self.changed), parameters

    def _whole(self, kept: Tensor, moved: Tensor) -> Tensor:
        """Every entry back in its place."""
        return cast(Tensor, _Joined.apply(kept, moved, self.given, self.changed, self.order))

    @torch.no_grad()
    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        kept, steered, there, parameters = self._steered(v, seen)
        return self._whole(kept, self.univariate.moved_back(parameters, steered, there))


def halves(size: int, layers: int, seed: int) -> list[Tensor]:
    """Given parts of as many couplings: each two share a random split and swap its halves."""
    generator = torch.Generator().manual_seed(seed)
    splits = [torch.randperm(size, generator=generator) for _ in range(0, layers, 2)]
    parts = [part for split in splits for part in (split[: size // 2], split[size // 2 :])]
    return [part.sort().values for part in parts[:layers]]


def even_odd(slots: int, bands: int, layers: int) -> list[Tensor]:
    """Given parts of as many couplings: even dates and odd dates in turn."""
    date = torch.arange(slots).repeat_interleave(bands)
    return [(date % 2 == layer % 2).nonzero()[:, 0] for layer in range(layers)]
