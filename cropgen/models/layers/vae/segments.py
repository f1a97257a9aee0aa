"""Codes along a season: what each says of its segment of dates, and exact sums over all ways to choose them.

A season of G dates is cut into P segments of equal length, each told by a code. As a segment sees few codes, and codes
form a chain or a tree, the sum over all M^P ways to choose them is exact in P steps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional

_LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class Cut:
    """How G dates fall into segments.

    Arguments:
        slots: G.
        length: dates of a segment; the last one may be cut short.
    """

    slots: int
    length: int

    @classmethod
    def into(cls, slots: int, segments: int) -> Self:
        """At most so many segments, all of one length."""
        return cls(slots, -(-slots // segments))

    @property
    def count(self) -> int:
        """P."""
        return -(-self.slots // self.length)

    def apart(self, values: Tensor) -> Tensor:
        """(…, P, w, C) of (…, G, C), 0 behind the end."""
        padded = functional.pad(values, (0, 0, 0, self.count * self.length - self.slots))
        return padded.unflatten(-2, (self.count, self.length))

    def joined(self, segments: Tensor) -> Tensor:
        """(…, G, C) of (…, P, w, C)."""
        return segments.flatten(-3, -2)[..., : self.slots, :]


class SegmentDecoder(nn.Module):
    """What codes say of their segments, for every class: relu(W c + s_p + U_y) A_p.

    Arguments:
        inputs: size of what a segment sees of the codes.
        hidden: H.
        classes: K.
        cut: into P segments.
        outputs: numbers for a date.
        start_at_zero: A begins at zero.
    """

    def __init__(
        self, inputs: int, hidden: int, classes: int, cut: Cut, outputs: int, *, start_at_zero: bool = False
    ) -> None:
        super().__init__()
        self.cut, self.outputs = cut, outputs
        self.of_codes = nn.Linear(inputs, hidden)
        self.of_segment = nn.Parameter(torch.randn(cut.count, hidden))
        self.of_class = nn.Parameter(0.1 * torch.randn(classes, hidden))
        reach = 0.0 if start_at_zero else 1 / math.sqrt(hidden)
        self.answer = nn.Parameter(reach * torch.randn(cut.count, hidden, cut.length * outputs))

    def forward(self, codes: Tensor, y: Tensor | None = None) -> Tensor:
        """(…, K, P, w, C) of codes (…, K or 1, P or 1, inputs); (B, 1, P, w, C) for one class a row, y (B,)."""
        of_class = self.of_class[:, None] if y is None else self.of_class[y][:, None, None]
        hidden = torch.relu(self.of_codes(codes) + self.of_segment + of_class)
        said = torch.einsum("...ph,pho->...po", hidden, self.answer)
        return said.unflatten(-1, (self.cut.length, self.outputs))


def segment_scores(surprise: Tensor, mask: Tensor, log_var: Tensor, means: Tensor, cut: Cut) -> Tensor:
    """(B, K, P, J) log N(r; g_j, exp v) of the observed entries of every segment, for J alternative means.

    The square is multiplied out, so that no entry of the season meets every alternative one by one.

    Arguments:
        surprise: (B, K, D) r, 0 where missing.
        mask: (B, G) bool.
        log_var: (D,) v.
        means: (J, K, P, w, C).
    """
    bands = means.shape[-1]
    spread = log_var.unflatten(0, (-1, bands))
    weight = cut.apart((-spread).exp()).flatten(-2)
    present = cut.apart(mask.to(surprise.dtype)[..., None])[..., 0]
    r = cut.apart(surprise.unflatten(-1, (-1, bands))).flatten(-2)
    constant = cut.apart(spread + _LOG_2PI).sum(-1)
    own = (weight * r.square()).sum(-1) + (present * constant).sum(-1)[:, None]
    across = torch.einsum("bkpd,jkpd->bkpj", r * weight, means.flatten(-2))
    square = (weight.unflatten(-1, (-1, bands)) * means.square()).sum(-1)
    return across - 0.5 * (own[..., None] + torch.einsum("bpw,jkpw->bkpj", present, square))


@dataclass(frozen=True)
class Summed:
    """A sum over codes: log Σ_k p(k) exp s(k), and E s(k) under the exact posterior p(k) exp s(k) / Σ.

    Arguments:
        log_sum: (…).
        expected: (…).
    """

    log_sum: Tensor
    expected: Tensor

    @classmethod
    def of(cls, scores: Tensor) -> Self:
        """Of a single way, whose scores are known."""
        return cls(scores, scores)

    @property
    def divergence(self) -> Tensor:
        """(…) KL of the exact posterior of the codes from their prior, nats."""
        return self.expected - self.log_sum

    def over(self, log_p: Tensor) -> Summed:
        """The sum over the last axis, its entries weighted by log p."""
        joint = self.log_sum + log_p
        share = torch.softmax(joint, -1)
        return Summed(torch.logsumexp(joint, -1), (share * self.expected).sum(-1))


def chain_sum(log_p: Tensor, said: Summed) -> Summed:
    """Over all chains k_1 … k_P of Π_p p(k_p | k_{p−1}) exp s_p(k_{p−1}, k_p); k_0 is code 0.

    Arguments:
        log_p: (…, P, M, M) log p(k_p | k_{p−1}), the earlier code first.
        said: s_p(k_{p−1}, k_p), (…, P, M or 1, M).
    """
    own, expected = said.log_sum.transpose(-1, -2), said.expected.transpose(-1, -2)
    log_p = log_p.transpose(-1, -2)
    found = Summed(log_p[..., 0, :, 0] + own[..., 0, :, 0], expected[..., 0, :, 0].expand_as(own[..., 0, :, 0]))
    for p in range(1, log_p.shape[-3]):
        before = Summed(
            found.log_sum[..., None, :] + own[..., p, :, :], found.expected[..., None, :] + expected[..., p, :, :]
        )
        found = before.over(log_p[..., p, :, :])
    return found.over(torch.zeros_like(found.log_sum))


def chain_log_prob(log_p: Tensor, index: Tensor) -> Tensor:
    """(…, K) log Π_p p(k_p | k_{p−1}, y) of codes (…, P), for log p (K, P, M, M)."""
    position = torch.arange(index.shape[-1], device=index.device)
    return log_p[:, position, previous(index), index].sum(-1).movedim(0, -1)


def chain_cross_entropy(log_p: Tensor, q: Tensor) -> Tensor:
    """(B, K) −E log Π_p p(k_p | k_{p−1}, y) of independent choices q (B, P, M), for log p (K, P, M, M)."""
    first = functional.one_hot(torch.zeros_like(q[:, :1, 0], dtype=torch.int64), q.shape[-1]).to(q)
    before = torch.cat([first, q[:, :-1]], 1)
    return -torch.einsum("bpi,bpj,kpij->bk", before, q, log_p)


def previous(index: Tensor) -> Tensor:
    """(…, P) the code before each code; before the first stands code 0."""
    return functional.pad(index[..., :-1], (1, 0))


class ChainPrior(nn.Module):
    """p(k_p | k_{p−1}, y) ∝ exp(a_{p, y}(k_p) + T(k_{p−1}, k_p)), uniform at first.

    Arguments:
        count: M.
        positions: P.
        classes: K.
    """

    def __init__(self, count: int, positions: int, classes: int) -> None:
        super().__init__()
        self.of_class = nn.Parameter(torch.zeros(classes, positions, 1, count))
        self.of_previous = nn.Parameter(torch.zeros(count, count))

    def forward(self, further: Tensor | float = 0.0) -> Tensor:
        """(K, P, M, M) log p, the earlier code first; `further` is added to the logits."""
        return torch.log_softmax(self.of_class + self.of_previous + further, -1)


def drawn_chain(log_p: Tensor, noise: Tensor, temperature: float) -> Tensor:
    """(B, P) codes of chains drawn by Gumbel noise (B, P, M), scaled; log p (B, P, M, M)."""
    rows = torch.arange(len(noise), device=noise.device)
    found = [torch.zeros_like(rows)]
    for p in range(log_p.shape[1]):
        found.append((log_p[rows, p, found[-1]] + temperature * noise[:, p]).argmax(-1))
    return torch.stack(found[1:], 1)
