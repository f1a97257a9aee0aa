"""Posteriors q(z | x): a diagonal Gaussian, and what invertible maps make of it.

    z_0 = m(x) + s(x) ε,   z = T(z_0; c),   log q(z | x) = log N(z_0; m, s²) − log |det dT/dz_0|

so that E log p(x, z) − E log q = E_{q_0}[log p(x, z) − log q_0(z_0)] + E log |det|: the determinant adds to the bound.
All maps begin at the identity, except the Householder reflections, which leave the volume alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from cropgen.models.layers.flows.determinant_lemma import Planar, Radial, Sylvester
from cropgen.models.layers.flows.latent import LatentFlow
from cropgen.models.layers.flows.layer import FlowLayer, Seen, Stack
from cropgen.models.layers.vae.bounds import Draws

PosteriorKind = Literal["diagonal", "planar", "radial", "sylvester", "householder", "iaf"]
_LOG_2PI = math.log(2 * math.pi)
_TINY = 1e-12
_SYLVESTER_SEED = 13


def gaussian_log_prob(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """(…) log N(z; m, diag s²), summed over the last axis."""
    return -0.5 * (((z - mean) * (-log_std).exp()).square() + 2 * log_std + _LOG_2PI).sum(-1)


def gaussian_kl(
    mean: Tensor, log_std: Tensor, to_mean: Tensor | float = 0.0, to_log_std: Tensor | float = 0.0
) -> Tensor:
    """(…, Z) KL(N(m, s²) ‖ N(n, t²)) of every entry, by default to the standard normal, in nats."""
    log_ratio = torch.as_tensor(to_log_std) - log_std
    away = (mean - to_mean) * torch.exp(-torch.as_tensor(to_log_std))
    return log_ratio + 0.5 * ((-2 * log_ratio).exp() + away.square() - 1)


class Householder(FlowLayer):
    """v' = v − 2 u uᵀ v / ‖u‖², u = u_0 + U c: a reflection that every row chooses; log |det| = 0.

    Arguments:
        size: Z.
        context: H, size of c; 0 for none.

    Reference:
        Improving Variational Auto-Encoders using Householder Flow, Tomczak and Welling, 2016.
    """

    def __init__(self, size: int, context: int) -> None:
        super().__init__()
        self.axis = nn.Parameter(torch.randn(size) / math.sqrt(size))
        self.of_context = nn.Linear(context, size, bias=False) if context else None

    def forward(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        u = self.axis.expand_as(v)
        if self.of_context is not None and seen.context is not None:
            u = u + self.of_context(seen.context)
        u = u * seen.present
        along = (u * v).sum(-1, keepdim=True) / u.square().sum(-1, keepdim=True).clamp(min=_TINY)
        return v - 2 * along * u, v.new_zeros(len(v))

    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        return self(v, seen)[0]


@dataclass(frozen=True)
class PosteriorDraws:
    """S draws of q(z | x).

    Arguments:
        z: (S, …, Z).
        log_q: (S, …).
        log_q_held: (S, …) with the parameters of q held, of the diagonal Gaussian; else None.
    """

    z: Tensor
    log_q: Tensor
    log_q_held: Tensor | None

    def beside(self, log_joint: Tensor) -> Draws:
        """The draws with what the model says of them, log p(x, z_s) (S, …)."""
        return Draws(self.z, log_joint, self.log_q, self.log_q_held)


class Posterior(nn.Module):
    """Draws of q(z | x) with their densities.

    Arguments:
        size: Z.
        kind: of the map behind the diagonal Gaussian.
        context: H, size of what steers the map; 0 for none.
        layers: number of maps.
        hidden: width of the networks of `iaf`.
        rank: columns of `sylvester`.

    References:
        Variational Inference with Normalizing Flows, Rezende and Mohamed, 2015;
        Improved Variational Inference with Inverse Autoregressive Flow, Kingma, Salimans, Jozefowicz, Chen, Sutskever
        and Welling, 2016;
        Sylvester Normalizing Flows for Variational Inference, van den Berg, Hasenclever, Tomczak and Welling, 2018.
    """

    def __init__(
        self,
        size: int,
        *,
        kind: PosteriorKind = "diagonal",
        context: int = 0,
        layers: int = 4,
        hidden: int = 64,
        rank: int = 8,
    ) -> None:
        super().__init__()

        def layer(number: int) -> FlowLayer:
            if kind == "planar":
                return Planar(size, context, at_identity=True)
            if kind == "radial":
                return Radial(size, context, at_identity=True)
            if kind == "householder":
                return Householder(size, context)
            return Sylvester(size, rank, context, "orthogonal", _SYLVESTER_SEED + number, at_identity=True)

        self.kind = kind
        self.flow: LatentFlow | Stack | None = None
        if kind == "iaf":
            self.flow = LatentFlow(size, context=context, layers=layers, hidden=hidden, kind="inverse-autoregressive")
        elif kind != "diagonal":
            self.flow = Stack([layer(number) for number in range(layers)])

    def draw(self, mean: Tensor, log_std: Tensor, noise: Tensor, context: Tensor | None = None) -> PosteriorDraws:
        """Draws with a gradient to everything they are made of.

        Arguments:
            mean: (…, Z), of rows or of rows and classes.
            log_std: (…, Z).
            noise: (S, …, Z) standard normal; axes of length 1 are common to what they stand for.
            context: (…, H).
        """
        first = mean + log_std.exp() * noise
        log_q = gaussian_log_prob(first, mean, log_std)
        if self.flow is None:
            return PosteriorDraws(first, log_q, gaussian_log_prob(first, mean.detach(), log_std.detach()))
        told = None if context is None else context.expand(*first.shape[:-1], -1).flatten(0, -2)
        z, log_det = self._mapped(first.flatten(0, -2), told)
        return PosteriorDraws(z.reshape(first.shape), log_q - log_det.reshape(log_q.shape), None)

    def _mapped(self, first: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """T(z_0) (N, Z) and log |det dT/dz_0| (N,)."""
        if isinstance(self.flow, LatentFlow):
            return self.flow.from_base(first, context)
        there = torch.ones_like(first)
        if isinstance(self.flow, Stack):
            return self.flow(first, Seen(there, there, context))
        return first, first.new_zeros(len(first))
