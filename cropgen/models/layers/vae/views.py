"""Seasons in parts of rising detail, told apart by the mask alone, so that a density of the parts is one of the season.

Level 0 is the coarsest view y_1 and level K holds the details of the whole season; every observed entry is in just one
level, and the map from a season to its levels is orthonormal whatever is missing:

    log p(x) = log p(y_1) + Σ_k log p(y_{k+1} ∖ y_k | y_k)

    select   y_k are every 2^{K+1−k}-th of the observed dates
    haar     y_k are scaled sums (a + b) / √2 of neighbours in y_{k+1}, the rest their scaled differences (a − b) / √2;
             where one of the two is missing the other is their sum, and there is no difference

Both keep the layout of the calendar: a sum stands where its first date stood, a difference where its second did.

Reference:
    Self-Supervised Variational Auto-Encoders, Gatopoulos and Tomczak, 2021.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

ViewKind = Literal["haar", "select"]


def levels_of(mask: Tensor, kind: ViewKind, depth: int) -> Tensor:
    """(B, G) int64 level of what stands at every slot, 0 to K, and −1 where nothing does.

    Arguments:
        mask: (B, G) bool, true at observed dates.
        depth: K.
    """
    if kind == "haar":
        return _haar_presence(mask, depth)[1]
    number = mask.long().cumsum(-1) - 1
    level = torch.full_like(number, depth)
    for k in range(1, depth + 1):
        level = torch.where(number % 2**k == 0, depth - k, level)
    return torch.where(mask, level, -1)


def to_view(v: Tensor, mask: Tensor, kind: ViewKind, depth: int) -> Tensor:
    """(B, …, G, C) the season in its levels; 0 where nothing stands.

    Arguments:
        v: (B, …, G, C), 0 at missing dates.
        mask: (B, G) bool.
    """
    if kind == "select":
        return v
    presences = _haar_presence(mask, depth)[0]
    for k in range(depth):
        first, second = _pairs(mask.shape[1], k)
        there = _beside(presences[k], v)
        a, b = v[..., first, :], v[..., second, :]
        both = there[..., first, :] & there[..., second, :]
        v = v.clone()
        v[..., first, :] = torch.where(both, (a + b) / math.sqrt(2), a + b)
        v[..., second, :] = torch.where(both, (a - b) / math.sqrt(2), 0)
    return v


def from_view(v: Tensor, mask: Tensor, kind: ViewKind, depth: int) -> Tensor:
    """(B, …, G, C) the season that `to_view` took apart."""
    if kind == "select":
        return v
    presences = _haar_presence(mask, depth)[0]
    for k in reversed(range(depth)):
        first, second = _pairs(mask.shape[1], k)
        there = _beside(presences[k], v)
        total, difference = v[..., first, :], v[..., second, :]
        of_first, of_second = there[..., first, :], there[..., second, :]
        both = of_first & of_second
        v = v.clone()
        v[..., first, :] = torch.where(both, (total + difference) / math.sqrt(2), torch.where(of_first, total, 0))
        v[..., second, :] = torch.where(both, (total - difference) / math.sqrt(2), torch.where(of_second, total, 0))
    return v


def _pairs(slots: int, step: int) -> tuple[Tensor, Tensor]:
    """Places of the pairs of a step: those 2^step apart that the steps before have left as sums."""
    stride = 2**step
    second = torch.arange(min(stride, slots), slots, 2 * stride)
    return second - stride, second


def _haar_presence(mask: Tensor, depth: int) -> tuple[list[Tensor], Tensor]:
    """Presence (B, G) before every step, and the level of what stands at every slot after the last."""
    level = torch.where(mask, 0, -1)
    presences = []
    for k in range(depth):
        presences.append(mask)
        first, second = _pairs(mask.shape[1], k)
        both, either = mask[:, first] & mask[:, second], mask[:, first] | mask[:, second]
        mask, level = mask.clone(), level.clone()
        mask[:, first], mask[:, second] = either, False
        level[:, first] = torch.where(either, 0, -1)
        level[:, second] = torch.where(both, depth - k, -1)
    return presences, level


def _beside(there: Tensor, v: Tensor) -> Tensor:
    """(B, 1, …, G, 1) presence beside values (B, …, G, C)."""
    return there.reshape(len(there), *[1] * (v.dim() - 3), there.shape[1], 1)
