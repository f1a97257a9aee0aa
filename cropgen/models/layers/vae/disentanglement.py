"""How far the entries of a latent each stand for one factor of the seasons, where the factors are known.

Latents (N, Z) and factors (N, F) of N rows; every score is 1 where each factor has an entry of its own, and lower where
entries mix. They ask different questions, so they are read together:

    mutual_information_gap   per factor, the two entries that tell most about it: the gap of what they tell
    separated_predictability per factor, the two entries that predict it best by a line: the gap of the shares explained
    dci                      of a table of importance: does an entry serve one factor, is a factor served by one entry
    factor_vote              hold one factor still: which entry varies least, and does that name the factor
    beta_vote                the same for the mean difference of pairs of rows, named by the nearest mean

References:
    Isolating Sources of Disentanglement in VAEs, Chen, Li, Grosse and Duvenaud, 2018 (MIG);
    Variational Inference of Disentangled Latent Concepts from Unlabeled Observations, Kumar, Sattigeri and
    Balakrishnan, 2018 (SAP);
    A Framework for the Quantitative Evaluation of Disentangled Representations, Eastwood and Williams, 2018 (DCI);
    Disentangling by Factorising, Kim and Mnih, 2018 (factor vote);
    beta-VAE: Learning Basic Visual Concepts with a Constrained Variational Framework, Higgins et al., 2017 (beta vote).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from cropgen.core.errors import UsageError

Draw = Callable[[Tensor, torch.Generator], Tensor]
_TINY = 1e-12


@dataclass(frozen=True)
class Importance:
    """What a table of importance (Z, F) says, each from 0 to 1.

    Arguments:
        disentanglement: how far an entry serves one factor, entries weighed by their share of all importance.
        completeness: how far a factor is served by one entry, factors weighed likewise.
    """

    disentanglement: float
    completeness: float


def mutual_information_gap(z: Tensor, factors: Tensor, bins: int = 20) -> float:
    """Mean over factors of (I_1 − I_2) / H, I_1 ≥ I_2 the greatest mutual informations of an entry with the factor.

    Both are cut into bins of equally many rows; H is the entropy of the binned factor.

    Arguments:
        z: (N, Z).
        factors: (N, F).
        bins: of each number.
    """
    _same_rows(z, factors)
    at, of = _binned(z, bins), _binned(factors, bins)
    table = torch.stack([torch.stack([_information(entry, factor, bins) for entry in at.T]) for factor in of.T])
    entropy = torch.stack([_information(factor, factor, bins) for factor in of.T])
    return float(((_gap(table)) / entropy.clamp(min=_TINY)).mean())


def separated_predictability(z: Tensor, factors: Tensor) -> float:
    """Mean over factors of the gap of the two greatest squared correlations of an entry with the factor."""
    return float(_gap(squared_correlation(z, factors).T).mean())


def squared_correlation(z: Tensor, factors: Tensor) -> Tensor:
    """(Z, F) share of a factor's variance that a line through one entry explains; 0 for what does not vary."""
    _same_rows(z, factors)
    a, b = (v.double() - v.double().mean(0) for v in (z, factors))
    scale = a.square().sum(0)[:, None] * b.square().sum(0)
    return torch.where(scale > _TINY, (a.T @ b).square() / scale.clamp(min=_TINY), 0)


def dci(importance: Tensor) -> Importance:
    """Disentanglement and completeness of a table of importance (Z, F) ≥ 0, such as `squared_correlation`.

    1 less the entropy of a row, or of a column, over the logarithm of its length; an entry that serves nothing has no
    weight.
    """
    table = importance.double()
    total = table.sum().clamp(min=_TINY)
    return Importance(
        float((table.sum(1) / total) @ _certainty(table)), float((table.sum(0) / total) @ _certainty(table.T))
    )


def factor_vote(encode: Draw, factors: int, generator: torch.Generator, *, votes: int = 400, rows: int = 64) -> float:
    """Share of votes that are right: the entry that varies least, over its spread, while one factor is held still.

    Half of the votes teach which entry stands for which factor, the other half are counted.

    Arguments:
        encode: (rows, F) standard normal factors and a generator → (rows, Z).
        factors: F.
        generator: draws factors.
        votes: number of them.
        rows: that share the factor held still in a vote.
    """
    drawn = torch.randn(10 * rows, factors, generator=generator)
    spread = encode(drawn, generator).var(0).clamp(min=_TINY)
    held = torch.arange(votes) % factors
    least = []
    for factor in held:
        drawn = torch.randn(rows, factors, generator=generator)
        drawn[:, factor] = drawn[0, factor]
        least.append((encode(drawn, generator).var(0) / spread).argmin())
    entry, half = torch.stack(least), votes // 2
    table = torch.zeros(len(spread), factors).index_put_((entry[:half], held[:half]), torch.ones(half), accumulate=True)
    return float((table.argmax(1)[entry[half:]] == held[half:]).double().mean())


def beta_vote(encode: Draw, factors: int, generator: torch.Generator, *, votes: int = 400, rows: int = 64) -> float:
    """Share of right answers of a linear classifier that sees the mean of |z_a − z_b| over pairs that share a factor.

    Half of the votes teach the mean difference of every factor, in units of the spread; the others are named by the
    nearest of these means.

    Arguments: as `factor_vote`.
    """
    held = torch.arange(votes) % factors
    seen = []
    for factor in held:
        first, second = (torch.randn(rows, factors, generator=generator) for _ in range(2))
        second[:, factor] = first[:, factor]
        seen.append((encode(first, generator) - encode(second, generator)).abs().mean(0))
    differences, half = torch.stack(seen), votes // 2
    differences = differences / differences[:half].std(0).clamp(min=_TINY)
    means = torch.stack([differences[:half][held[:half] == factor].mean(0) for factor in range(factors)])
    named = torch.cdist(differences[half:], means).argmin(1)
    return float((named == held[half:]).double().mean())


def _same_rows(z: Tensor, factors: Tensor) -> None:
    if z.dim() != 2 or factors.dim() != 2 or len(z) != len(factors) or len(z) < 2:
        raise UsageError(
            f"disentanglement: expected tables of at least two common rows, got {tuple(z.shape)} and "
            f"{tuple(factors.shape)}",
            hint="give latents (N, Z) and factors (N, F) of the same parcels",
        )


def _gap(table: Tensor) -> Tensor:
    """(F,) difference of the two greatest of every row (F, Z); all of it where there is one entry."""
    if table.shape[1] == 1:
        return table[:, 0]
    top = table.topk(2, 1).values
    return top[:, 0] - top[:, 1]


def _binned(v: Tensor, bins: int) -> Tensor:
    """(N, ·) int64 bin of every number, equally many rows in each; equal numbers share the bin of the lowest."""
    ordered = v.double().sort(0).values.T.contiguous()
    rank = torch.searchsorted(ordered, v.double().T.contiguous()).T
    return (rank * bins) // len(v)


def _information(a: Tensor, b: Tensor, bins: int) -> Tensor:
    """Mutual information of two binned columns (N,), in nats."""
    joint = torch.bincount(a * bins + b, minlength=bins * bins).double().view(bins, bins) / len(a)
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return torch.where(joint > 0, joint * (joint.clamp(min=_TINY).log() - apart.clamp(min=_TINY).log()), 0).sum()


def _certainty(table: Tensor) -> Tensor:
    """(R,) 1 − H / log n of the rows of a table (R, n), as shares; 0 for a row of zeros, 1 where n = 1."""
    share = table / table.sum(1, keepdim=True).clamp(min=_TINY)
    entropy = -torch.xlogy(share, share).sum(1)
    certain = 1 - entropy / math.log(table.shape[1]) if table.shape[1] > 1 else torch.ones_like(entropy)
    return torch.where(table.sum(1) > _TINY, certain, 0)
