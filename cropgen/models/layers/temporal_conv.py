"""Convolutions over the time axis of a calendar grid, shared by the temporal CNN and the recognition heads."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cropgen.models.layers.trunk import Trunk

DATE_FEATURES = 4
_YEAR = 365.25


def date_harmonics(day: Tensor) -> Tensor:
    """First and second yearly harmonics (..., 4) of days since 1 January: sin and cos of 2πd/Y and 4πd/Y."""
    angle = day * (2 * math.pi / _YEAR)
    return torch.stack([torch.sin(angle), torch.cos(angle), torch.sin(2 * angle), torch.cos(2 * angle)], -1)


def grid_features(x: Tensor, mask: Tensor, day: Tensor) -> Tensor:
    """What the trunk sees of a season: bands (0 where missing), presence and date.

    Arguments:
        x: (B, G, C) standardised bands.
        mask: (B, G) bool, true where a slot holds an observation.
        day: (G,) or (B, G) days since 1 January.

    Returns:
        (B, G, C + 5).
    """
    present = mask[..., None].to(x.dtype)
    harmonics = date_harmonics(day.to(x.dtype)).expand(*x.shape[:2], DATE_FEATURES)
    return torch.cat([x * present, present, harmonics], -1)


class TemporalConv(Trunk):
    """Three convolutions over time, pooling to a quarter of the slots, one dense layer.

    Each convolution (width 5) is followed by batch normalisation, ReLU and dropout. Works for any number of slots from
    one on; evaluation is independent of the other rows of a batch.

    Arguments:
        bands: C input bands; presence and date features are added.
        slots: G slots of the calendar.
        hidden: channels of the convolutions.
        width: size of the answer.
        dropout: probability.

    Reference:
        Temporal Convolutional Neural Network for the Classification of Satellite Image Time Series, Pelletier, Webb and
        Petitjean, 2019.
    """

    def __init__(self, bands: int, slots: int, *, hidden: int = 64, width: int = 128, dropout: float = 0.2) -> None:
        super().__init__(width)
        layers: list[nn.Module] = []
        channels = bands + 1 + DATE_FEATURES
        for _ in range(3):
            layers += [
                nn.Conv1d(channels, hidden, 5, padding=2, bias=False),
                nn.BatchNorm1d(hidden),
                nn.ReLU(),
                nn.Dropout(dropout),
            ]
            channels = hidden
        self.convolutions = nn.Sequential(*layers)
        pooled = max(1, slots // 4)
        self.pool = nn.AdaptiveAvgPool1d(pooled)
        self.dense = nn.Sequential(nn.Flatten(), nn.Linear(hidden * pooled, width), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, x: Tensor, mask: Tensor, day: Tensor) -> Tensor:
        """(B, width) features of the seasons (arguments as `grid_features`)."""
        features = grid_features(x, mask, day).transpose(1, 2)
        return self.dense(self.pool(self.convolutions(features)))
