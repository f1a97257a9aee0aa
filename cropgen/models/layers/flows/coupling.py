"""Couplings: one part of a season steers an increasing map of the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from cropgen.models.layers.coupling import divide
from cropgen.models.layers.flows.conditioners import Perceptron
from cropgen.models.layers.flows.layer import ElementwiseLayer, Seen
from cropgen.models.layers.flows.univariate import Univariate


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

    def stretched(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        kept, there = v[:, self.given], seen.present[:, self.changed]
        transform = self.univariate(self.conditioner(torch.cat([kept, seen.told], -1)))
        moved, log_slope = transform.call_and_ladj(v[:, self.changed])
        image = torch.cat([kept, moved * there], -1)[:, self.order]
        return image, torch.cat([torch.zeros_like(kept), log_slope * there], -1)[:, self.order]

    @torch.no_grad()
    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        kept, there = v[:, self.given], seen.present[:, self.changed]
        transform = self.univariate(self.conditioner(torch.cat([kept, seen.told], -1)))
        moved = transform.inv(v[:, self.changed])
        return torch.cat([kept, moved * there], -1)[:, self.order]


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
