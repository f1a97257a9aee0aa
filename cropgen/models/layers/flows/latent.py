"""Flows over latent vectors: a flexible prior or posterior of a variational auto-encoder."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from cropgen.models.layers.flows.autoregressive import Autoregressive, conditioner_of
from cropgen.models.layers.flows.coupling import Coupling, halves
from cropgen.models.layers.flows.layer import FlowLayer, Inverted, Seen, Stack
from cropgen.models.layers.flows.univariate import Affine

LatentKind = Literal["coupling", "autoregressive", "inverse-autoregressive"]


class LatentFlow(nn.Module):
    """p(z | c) = N(T(z; c); 0, I) |det T'|, a stack of affine layers that begins at the standard normal.

    Arguments:
        size: Z.
        context: H, size of c; 0 for none.
        layers: number of layers.
        hidden: width of their two hidden layers.
        kind: coupling (RealNVP: fast both ways), autoregressive (MAF: fast density, a prior) or
            inverse-autoregressive (IAF: fast draws, a posterior).
        seed: of the halves of couplings.

    References:
        Density Estimation using Real NVP, Dinh, Sohl-Dickstein and Bengio, 2017;
        Variational Lossy Autoencoder, Chen, Kingma, Salimans, Duan, Dhariwal, Schulman, Sutskever and Abbeel, 2017.
    """

    def __init__(
        self,
        size: int,
        *,
        context: int = 0,
        layers: int = 4,
        hidden: int = 64,
        kind: LatentKind = "coupling",
        seed: int = 7,
    ) -> None:
        super().__init__()
        self.size = size

        def layer(number: int) -> FlowLayer:
            univariate = Affine()
            if kind == "coupling":
                return Coupling(parts[number], size, size + context, hidden, univariate, at_identity=True)
            conditioner = conditioner_of(
                "autoregressive",
                univariate,
                slots=size,
                bands=1,
                context=context,
                hidden=hidden,
                layer=number,
                order="alternate",
                at_identity=True,
            )
            made = Autoregressive(conditioner, univariate, "fixed-point")
            return made if kind == "autoregressive" else Inverted(made)

        parts = halves(size, layers, seed)
        self.flow = Stack([layer(number) for number in range(layers)])

    def _whole(self, z: Tensor, context: Tensor | None) -> Seen:
        return replace(Seen(torch.ones_like(z), torch.ones_like(z)), context=context)

    def log_prob(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """(B,) log p(z | c) for z (B, Z) and c (B, H)."""
        base, log_det = self.flow(z, self._whole(z, context))
        return log_det - 0.5 * (base.square() + math.log(2 * math.pi)).sum(-1)

    def from_base(self, base: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """z (B, Z) = T⁻¹(base) and log |det dz/dbase| (B,), with gradients where every layer draws in one pass.

        That is so for `inverse-autoregressive`; the other kinds give z without a gradient.
        """
        seen, log_det, z = self._whole(base, context), base.new_zeros(len(base)), base
        for layer in reversed(self.flow.layers):
            if isinstance(layer, Inverted):
                z, change = layer.layer(z, seen)
                log_det = log_det + change
            elif isinstance(layer, FlowLayer):
                z = layer.inverse(z, seen)
                log_det = log_det - layer(z, seen)[1]
        return z, log_det

    @torch.no_grad()
    def sample(
        self, rows: int, generator: torch.Generator, context: Tensor | None = None, temperature: float = 1.0
    ) -> Tensor:
        """(rows, Z) draws."""
        kind = next(self.parameters())
        noise = torch.randn((rows, self.size), generator=generator, dtype=kind.dtype, device=generator.device)
        return self.from_base(temperature * noise.to(kind.device), context)[0]
