"""Residual layers of low rank, whose log-determinant follows from the matrix determinant lemma."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from cropgen.models.layers.flows.layer import FlowLayer, Seen
from cropgen.models.layers.flows.univariate import invert_increasing

SylvesterKind = Literal["orthogonal", "householder", "triangular"]
_LOG_E_MINUS_1 = math.log(math.e - 1)
_TINY = 1e-12


def above_minus_one(raw: Tensor) -> Tensor:
    """An increasing function onto (−1, ∞) that is 0 at 0."""
    return functional.softplus(raw + _LOG_E_MINUS_1) - 1


def _squared_slope(tangent: Tensor) -> Tensor:
    """tanh' from tanh."""
    return 1 - tangent.square()


class Planar(FlowLayer):
    """v' = v + û tanh(wᵀ v + b + Bᵀ context); log |det| = log (1 + tanh' wᵀ û).

    û = M u + (m(wᵀ M u) − wᵀ M u) M w / ‖M w‖² with m onto (−1, ∞), so that wᵀ û > −1 for every mask M and the map is
    invertible; its inverse is one equation in one unknown, wᵀ v. It begins at the identity, u = 0.

    Arguments:
        size: D.
        context: H.
        at_identity: begin with u = 0.

    Reference:
        Variational Inference with Normalizing Flows, Rezende and Mohamed, 2015.
    """

    def __init__(self, size: int, context: int, *, at_identity: bool) -> None:
        super().__init__()
        scale = 1 / math.sqrt(size)
        self.u = nn.Parameter(torch.zeros(size) if at_identity else scale * torch.randn(size))
        self.w = nn.Parameter(scale * torch.randn(size))
        self.bias = nn.Parameter(torch.zeros(()))
        self.of_context = nn.Linear(context, 1, bias=False) if context else None

    def _parts(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """M w (B, D), û (B, D), wᵀ û (B,) and the bias (B,)."""
        w, u = self.w * seen.present, self.u * seen.present
        along = (w * u).sum(-1)
        wanted = above_minus_one(along)
        norm = w.square().sum(-1).clamp(min=_TINY)
        u = u + ((wanted - along) / norm)[:, None] * w
        bias = self.bias.expand(len(w))
        if self.of_context is not None and seen.context is not None:
            bias = bias + self.of_context(seen.context)[:, 0]
        return w, u, (w * u).sum(-1), bias

    def forward(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        w, u, along, bias = self._parts(seen)
        tangent = torch.tanh((w * v).sum(-1) + bias)
        return v + u * tangent[:, None], torch.log1p(_squared_slope(tangent) * along)

    @torch.no_grad()
    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        w, u, along, bias = self._parts(seen)
        at = invert_increasing(lambda a: a + along * torch.tanh(a + bias), (w * v).sum(-1))
        return v - u * torch.tanh(at + bias)[:, None]


class Radial(FlowLayer):
    """v' = v + β (v − c) / (α + r), r = ‖M (v − c)‖, c = c_0 + C context; with h = 1 / (α + r) and n observed entries

        log |det| = (n − 1) log (1 + β h) + log (1 + β h − β r h²),   β > −α

    The inverse solves a quadratic equation for r. It begins at the identity, β = 0.

    Arguments:
        size: D.
        context: H.
        at_identity: begin with β = 0.

    Reference:
        Variational Inference with Normalizing Flows, Rezende and Mohamed, 2015.
    """

    def __init__(self, size: int, context: int, *, at_identity: bool) -> None:
        super().__init__()
        self.centre = nn.Parameter(0.1 * torch.randn(size))
        self.log_alpha = nn.Parameter(torch.tensor(0.5 * math.log(size)))
        self.raw = nn.Parameter(torch.zeros(()) if at_identity else torch.randn(()))
        self.of_context = nn.Linear(context, size, bias=False) if context else None

    def _parts(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor]:
        """Centre (B, D) at observed entries, α and β."""
        centre = self.centre.expand_as(seen.present)
        if self.of_context is not None and seen.context is not None:
            centre = centre + self.of_context(seen.context)
        alpha = self.log_alpha.exp()
        return centre * seen.present, alpha, alpha * above_minus_one(self.raw)

    def forward(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        centre, alpha, beta = self._parts(seen)
        away = v - centre
        r = away.square().sum(-1).clamp(min=_TINY**2).sqrt()
        h, count = 1 / (alpha + r), seen.present.sum(-1)
        log_det = (count - 1) * torch.log1p(beta * h) + torch.log1p(beta * h * (1 - r * h))
        return v + (beta * h)[:, None] * away, log_det * (count > 0)

    @torch.no_grad()
    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        centre, alpha, beta = self._parts(seen)
        away = v - centre
        rho = away.square().sum(-1).sqrt()
        linear = alpha + beta - rho
        r = (-linear + (linear.square() + 4 * rho * alpha).sqrt()) / 2
        return centre + away / (1 + beta / (alpha + r))[:, None]


class Sylvester(FlowLayer):
    """v' = v + Q R tanh(R̃ Qᵀ v + b + B context), Q with orthonormal columns, R and R̃ upper triangular;

        log |det| = Σ_j log (1 + tanh'_j r_jj r̃_jj),   r_jj r̃_jj > −1

    For every mask the columns of M Q are made orthonormal again by Gram and Schmidt; a column that the observed
    entries no longer tell from the others is left out. `orthogonal` learns Q, `householder` a product of reflections,
    `triangular` takes a fixed choice of entries. The inverse solves for Qᵀ v from the last column to the first. It
    begins at the identity, R = 0.

    Arguments:
        size: D.
        rank: number of columns.
        context: H.
        kind: how Q is made.
        seed: of the entries of `triangular`.
        at_identity: begin with R = 0.

    Reference:
        Sylvester Normalizing Flows for Variational Inference, van den Berg, Hasenclever, Tomczak and Welling, 2018.
    """

    entries: Tensor

    def __init__(
        self, size: int, rank: int, context: int, kind: SylvesterKind, seed: int, *, at_identity: bool
    ) -> None:
        super().__init__()
        rank = min(rank, size)
        self.size, self.kind = size, kind
        chosen = torch.randperm(size, generator=torch.Generator().manual_seed(seed))[:rank]
        self.register_buffer("entries", chosen)
        self.basis = None if kind == "triangular" else nn.Parameter(torch.randn(rank, size) / math.sqrt(size))
        self.outer = nn.Parameter(torch.zeros(rank, rank) if at_identity else 0.1 * torch.randn(rank, rank))
        self.inner = nn.Parameter(torch.eye(rank) + 0.1 * torch.randn(rank, rank))
        self.bias = nn.Parameter(0.1 * torch.randn(rank))
        self.of_context = nn.Linear(context, rank, bias=False) if context else None

    def _columns(self) -> Tensor:
        """(R, D) the columns of Q before they are made orthonormal."""
        if self.kind == "orthogonal" and self.basis is not None:
            return self.basis
        columns = functional.one_hot(self.entries, self.size).to(self.outer.dtype)
        if self.basis is None:
            return columns
        for u in self.basis:
            columns = columns - 2 * torch.outer(columns @ u, u) / u.square().sum()
        return columns

    def _parts(self, seen: Seen) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Orthonormal columns (B, R, D), R and R̃ (R, R), and the bias (B, R)."""
        outer, inner = self.outer.triu(), self.inner.triu()
        product = outer.diagonal() * inner.diagonal()
        wanted = above_minus_one(product)
        fitting = inner.diagonal().sign() * inner.diagonal().abs().clamp(min=_TINY)
        outer = outer - torch.diag(outer.diagonal()) + torch.diag(wanted / fitting)
        bias = self.bias.expand(len(seen.present), -1)
        if self.of_context is not None and seen.context is not None:
            bias = bias + self.of_context(seen.context)
        return orthonormal_rows(self._columns()[None] * seen.present[:, None]), outer, inner, bias

    def forward(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        columns, outer, inner, bias = self._parts(seen)
        kept = columns.square().sum(-1)
        tangent = torch.tanh((columns @ v[..., None])[..., 0] @ inner.T + bias)
        slope = _squared_slope(tangent) * kept * outer.diagonal() * inner.diagonal()
        moved = v + ((tangent @ outer.T)[:, None] @ columns)[:, 0]
        return moved, torch.log1p(slope).sum(-1)

    @torch.no_grad()
    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        columns, outer, inner, bias = self._parts(seen)
        kept = columns.square().sum(-1).round()
        goal = (columns @ v[..., None])[..., 0]
        found, tangent = torch.zeros_like(goal), torch.zeros_like(goal)
        for j in reversed(range(goal.shape[-1])):
            rest = bias[:, j] + found[:, j + 1 :] @ inner[j, j + 1 :]
            later = kept[:, j] * (tangent[:, j + 1 :] @ outer[j, j + 1 :])
            steep, gain = inner[j, j], kept[:, j] * outer[j, j]

            def equation(
                a: Tensor, steep: Tensor = steep, gain: Tensor = gain, rest: Tensor = rest, later: Tensor = later
            ) -> Tensor:
                return a + later + gain * torch.tanh(steep * a + rest)

            found[:, j] = invert_increasing(equation, goal[:, j])
            tangent[:, j] = torch.tanh(steep * found[:, j] + rest)
        return v - ((tangent @ outer.T)[:, None] @ columns)[:, 0]


def orthonormal_rows(rows: Tensor) -> Tensor:
    """(B, R, D) rows made orthonormal in their order, those that earlier ones span set to 0."""
    done: list[Tensor] = []
    for row in rows.unbind(1):
        left = row
        for _ in range(2):
            for earlier in done:
                left = left - (left * earlier).sum(-1, keepdim=True) * earlier
        square = left.square().sum(-1, keepdim=True)
        lives = square > 1e-8 * (_TINY + row.square().sum(-1, keepdim=True))
        done.append(torch.where(lives, left / torch.where(lives, square, 1).sqrt(), 0))
    return torch.stack(done, 1)
