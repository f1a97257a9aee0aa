"""Linear maps of the bands of every date, the same for all dates.

A date has all bands or none, so such a map never mixes what is observed with what is missing.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from cropgen.models.layers.flows.layer import FlowLayer, Seen

LinearKind = Literal["none", "permutation", "plu", "householder", "expm", "cayley"]


class BandMix(FlowLayer):
    """v_t' = W v_t for every date t; log |det| = (number of dates) log |det W|."""

    def __init__(self, bands: int) -> None:
        super().__init__()
        self.bands = bands

    @abstractmethod
    def matrix(self) -> tuple[Tensor, Tensor]:
        """W (C, C) and log |det W| ()."""

    def forward(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        weight, log_det = self.matrix()
        mixed = v.unflatten(-1, (-1, self.bands)) @ weight.T
        return mixed.flatten(1), seen.mask.sum(-1) * log_det

    @torch.no_grad()
    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        weight, _ = self.matrix()
        dates = v.unflatten(-1, (-1, self.bands)).flatten(0, 1)
        return torch.linalg.solve(weight, dates.T).T.reshape(v.shape)


class Permutation(FlowLayer):
    """A fixed order of the bands."""

    order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.bands = len(order)
        self.register_buffer("order", order)

    def forward(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        return v.unflatten(-1, (-1, self.bands))[..., self.order].flatten(1), v.new_zeros(len(v))

    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        return v.unflatten(-1, (-1, self.bands))[..., torch.argsort(self.order)].flatten(1)


class PLU(BandMix):
    """W = P L (U + diag ±eˢ), P fixed; log |det W| = Σ s.

    Reference:
        Glow: Generative Flow with Invertible 1×1 Convolutions, Kingma and Dhariwal, 2018.
    """

    order: Tensor

    def __init__(self, bands: int, order: Tensor) -> None:
        super().__init__(bands)
        self.register_buffer("order", order)
        self.factors = nn.Parameter(torch.zeros(bands, bands))

    def matrix(self) -> tuple[Tensor, Tensor]:
        log_diagonal = self.factors.diagonal()
        lower = self.factors.tril(-1) + torch.eye(self.bands, dtype=self.factors.dtype, device=self.factors.device)
        upper = self.factors.triu(1) + torch.diag(log_diagonal.exp())
        return (lower @ upper)[self.order], log_diagonal.sum()


class Householder(BandMix):
    """W = H_1 ⋯ H_n, H = I − 2 u uᵀ / ‖u‖², an orthogonal map; an even number of equal pairs is the identity.

    Reference:
        Improving Variational Auto-Encoders using Householder Flow, Tomczak and Welling, 2016.
    """

    def __init__(self, bands: int, *, at_identity: bool) -> None:
        super().__init__(bands)
        pairs = torch.randn((bands + 1) // 2, bands)
        vectors = pairs.repeat_interleave(2, 0)
        self.vectors = nn.Parameter(vectors if at_identity else torch.randn_like(vectors))

    def matrix(self) -> tuple[Tensor, Tensor]:
        weight = torch.eye(self.bands, dtype=self.vectors.dtype, device=self.vectors.device)
        for u in self.vectors:
            weight = weight - 2 * torch.outer(weight @ u, u) / u.square().sum()
        return weight, weight.new_zeros(())


class MatrixExponential(BandMix):
    """W = exp A; log |det W| = tr A.

    Reference:
        The Convolution Exponential and Generalized Sylvester Flows, Hoogeboom, Satorras, Tomczak and Welling, 2020.
    """

    def __init__(self, bands: int, *, at_identity: bool) -> None:
        super().__init__(bands)
        self.generator = nn.Parameter(torch.zeros(bands, bands) if at_identity else 0.1 * torch.randn(bands, bands))

    def matrix(self) -> tuple[Tensor, Tensor]:
        return torch.linalg.matrix_exp(self.generator), self.generator.trace()


class Cayley(BandMix):
    """W = (I + A)(I − A)⁻¹ with A = X − Xᵀ, a rotation.

    Reference:
        Sur quelques propriétés des déterminants gauches, Cayley, 1846.
    """

    def __init__(self, bands: int, *, at_identity: bool) -> None:
        super().__init__(bands)
        self.skew = nn.Parameter(torch.zeros(bands, bands) if at_identity else torch.randn(bands, bands))

    def matrix(self) -> tuple[Tensor, Tensor]:
        skew = self.skew - self.skew.T
        unit = torch.eye(self.bands, dtype=skew.dtype, device=skew.device)
        return torch.linalg.solve(unit - skew, unit + skew), skew.new_zeros(())


def band_mix(kind: LinearKind, bands: int, seed: int, *, at_identity: bool) -> FlowLayer:
    """A linear layer; at the identity PLU has no permutation."""
    order = torch.randperm(bands, generator=torch.Generator().manual_seed(seed))
    if kind == "permutation":
        return Permutation(order)
    if kind == "plu":
        return PLU(bands, torch.arange(bands) if at_identity else order)
    made = {"householder": Householder, "expm": MatrixExponential, "cayley": Cayley}[kind]
    return made(bands, at_identity=at_identity)


def undoing(earlier: list[Permutation]) -> Permutation:
    """The order that undoes fixed orders, so that a flow of identities and permutations is the identity."""
    total = torch.arange(earlier[0].bands)
    for layer in earlier:
        total = total[layer.order]
    return Permutation(torch.argsort(total))
