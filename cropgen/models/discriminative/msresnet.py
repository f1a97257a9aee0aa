"""The multi-scale residual network: three residual networks that differ in the width of their convolutions.

A stem (width 7) is read by three branches of widths 3, 5 and 7. A branch has three stages of one residual block

    relu(shortcut(x) + norm(conv(relu(norm(conv(x))))))

with h, 2 h and 4 h channels, the second and third at half the slots of the one before; the means over the slots of the
branches are joined. Seasons are read slot by slot: nothing is stretched to a fixed length.

References:
    Deep Residual Learning for Image Recognition, He, Zhang, Ren and Sun, 2016.
    BreizhCrops: A Time Series Dataset for Crop Type Mapping, Rußwurm, Pelletier, Zollner, Lefèvre and Körner, 2020
    (which takes up the multi-scale form for crops).
"""

from __future__ import annotations

from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import Options
from cropgen.models.discriminative.network import NetworkOptions, NeuralClassifier
from cropgen.models.layers.temporal_conv import DATE_FEATURES, grid_features
from cropgen.models.layers.trunk import Trunk

_WIDTHS = (3, 5, 7)
_STEM = 7


class MSResNetOptions(NetworkOptions):
    """Options of the multi-scale residual network."""

    hidden: int = Field(
        32, ge=1, description="channels of the first stage of a branch", json_schema_extra={"search": [16, 32, 64]}
    )


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut, (B, F, G) → (B, H, ⌈G / stride⌉)."""

    def __init__(self, channels: int, hidden: int, width: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv1d(channels, hidden, width, stride, padding=width // 2, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
            nn.Conv1d(hidden, hidden, width, padding=width // 2, bias=False),
            nn.BatchNorm1d(hidden),
        )
        same = stride == 1 and channels == hidden
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv1d(channels, hidden, 1, stride, bias=False), nn.BatchNorm1d(hidden))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.shortcut(x) + self.main(x))


class MSResNetTrunk(Trunk):
    """Stem, branches and the means over the slots."""

    def __init__(self, bands: int, *, hidden: int, dropout: float) -> None:
        super().__init__(4 * hidden * len(_WIDTHS))
        self.stem = nn.Sequential(
            nn.Conv1d(bands + 1 + DATE_FEATURES, hidden, _STEM, padding=_STEM // 2, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(),
        )
        self.branches = nn.ModuleList(
            nn.Sequential(
                ResidualBlock(hidden, hidden, width, 1),
                ResidualBlock(hidden, 2 * hidden, width, 2),
                ResidualBlock(2 * hidden, 4 * hidden, width, 2),
            )
            for width in _WIDTHS
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, day: Tensor) -> Tensor:
        """(B, width) features of the seasons (arguments as `Trunk`)."""
        seen = self.stem(grid_features(x, mask, day).transpose(1, 2))
        return self.drop(torch.cat([branch(seen).mean(2) for branch in self.branches], 1))


class MSResNet(NeuralClassifier):
    """Multi-scale residual network on the calendar grid (see the module)."""

    Settings: ClassVar[type[Options]] = MSResNetOptions

    def build_trunk(self, bands: int, slots: int) -> Trunk:
        chosen = cast(MSResNetOptions, self.options)
        return MSResNetTrunk(bands, hidden=chosen.hidden, dropout=chosen.dropout)
