"""Bounds over several levels of a season: a coarse view first, then what it leaves open.

A level may only be a part of the season that determines nothing of the rest twice. A deterministic continuous view
y = d(x) beside the whole x is no such part: it has no density of its own, and E log q(y | x) is infinite. The splits
here are exact, so that log p(x) = log p(y) + log p(rest | y) + log |det| holds for densities:

    select   some of the dates, and the others
    haar     scaled sums and differences of neighbouring dates; |det| = 1
    index    normalised difference and sum of two bands; log |det| = −log(s / 2)

Reference:
    Self-Supervised Variational Auto-Encoders, Gatopoulos and Tomczak, 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from cropgen.core.errors import UsageError


def level_bound(reconstructions: Sequence[Tensor], divergences: Sequence[Tensor]) -> Tensor:
    """(…) Σ_{k=0}^K E log p(y_{k+1} | y_k, z_k) − Σ_{k=0}^K KL_k: every level pays for its latent, the first too.

    Arguments:
        reconstructions: K + 1 of (…), of the coarsest view first.
        divergences: K + 1 of (…), KL(q(z_0) ‖ p(z_0)) first.

    Raises:
        UsageError: not one divergence for every reconstruction.
    """
    if len(reconstructions) != len(divergences) or not reconstructions:
        raise UsageError(
            f"levels: expected one divergence for every reconstruction, got {len(divergences)} for "
            f"{len(reconstructions)}",
            hint="give the divergence of every latent, that of the first one included",
        )
    return torch.stack(list(reconstructions)).sum(0) - torch.stack(list(divergences)).sum(0)


def select(mask: Tensor, every: int) -> tuple[Tensor, Tensor]:
    """Masks (…, T) of every `every`-th observed date and of the other observed dates.

    Which dates these are follows from the mask, never from the values, and every observed date is in just one.
    """
    number = mask.long().cumsum(-1) - 1
    chosen = mask & (number % every == 0)
    return chosen, mask & ~chosen


def haar(x: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled sums and differences (…, T/2, C) of neighbouring dates of a season (…, T, C) without gaps, T even."""
    first, second = x[..., 0::2, :], x[..., 1::2, :]
    return (first + second) / math.sqrt(2), (first - second) / math.sqrt(2)


def haar_inverse(total: Tensor, difference: Tensor) -> Tensor:
    """(…, T, C) the season of `haar`."""
    pair = torch.stack([total + difference, total - difference], -2) / math.sqrt(2)
    return pair.flatten(-3, -2)


def index_split(high: Tensor, low: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised difference n = (h − l) / s and sum s = h + l > 0 of two bands, and log |det d(n, s)/d(h, l)|.

    log p(h, l) = log p(n, s) − log(s / 2)
    """
    total = high + low
    return (high - low) / total, total, -torch.log(total / 2)


def index_merge(difference: Tensor, total: Tensor) -> tuple[Tensor, Tensor]:
    """The two bands of `index_split`."""
    return total * (1 + difference) / 2, total * (1 - difference) / 2
