"""Attention over the observed dates of a season, and the encoding of true dates that tells them apart.

    a_t = softmax_t(q · k_t / √D) over the observed dates t,      answer = Σ_t a_t v_t

Reference: Attention Is All You Need, Vaswani et al., 2017.
"""

from __future__ import annotations

import torch
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Scaled dot-product attention.

    Arguments:
        query: (B, H, Q, D).
        key: (B, H, S, D).
        value: (B, H, S, V).
        mask: (B, S) bool; a row without any observed date attends to all alike, so that its answer is finite.

    Returns:
        answers (B, H, Q, V) and weights (B, H, Q, S), 0 at missing dates.
    """
    seen = mask | ~mask.any(1, keepdim=True)
    score = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    weight = torch.softmax(score.masked_fill(~seen[:, None, None], -torch.inf), -1)
    return weight @ value, weight


def encode_days(day: Tensor, width: int, period: float) -> Tensor:
    """(B, S, width) sines and cosines of days at wavelengths from 2π days to 2π `period` days.

        p_{2i}(d) = sin(d / period^{2i/width}),   p_{2i+1}(d) = cos(d / period^{2i/width})

    Arguments:
        day: (B, S) or (S,) days.
        width: an even number.
    """
    pair = torch.arange(0, width, 2, dtype=day.dtype, device=day.device)
    angle = day[..., None] * period ** (-pair / width)
    return torch.stack([torch.sin(angle), torch.cos(angle)], -1).flatten(-2)
