"""InceptionTime: convolutions of several lengths side by side, in residual blocks of three.

An inception module sees its input through a bottleneck b = conv₁(x) and gives

    relu(norm([conv_k(b), conv_{k/2}(b), conv_{k/4}(b), conv₁(maxpool₃(x))]))

of 4 n channels. After every third module the input of the block is added through a convolution of width 1; the mean
over the slots is read. The published method averages five such networks; this is one of them.

Reference: InceptionTime: Finding AlexNet for Time Series Classification, Ismail Fawaz et al., 2020.
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

_BLOCK = 3


class InceptionTimeOptions(NetworkOptions):
    """Options of InceptionTime."""

    filters: int = Field(
        32, ge=1, description="channels of each convolution; a module has four times as many",
        json_schema_extra={"search": [16, 32]},
    )  # fmt: skip
    longest: int = Field(
        39, ge=4, description="width of the longest convolution in slots; the others are a half and a quarter of it",
        json_schema_extra={"search": [19, 39]},
    )  # fmt: skip
    modules: int = Field(6, ge=3, multiple_of=_BLOCK, description="inception modules, a multiple of 3")


class InceptionModule(nn.Module):
    """One inception module, (B, F, G) → (B, 4 n, G)."""

    def __init__(self, channels: int, filters: int, longest: int) -> None:
        super().__init__()
        self.bottleneck = nn.Conv1d(channels, filters, 1, bias=False)
        widths = [(longest // share - 1) | 1 for share in (1, 2, 4)]
        self.convolutions = nn.ModuleList(
            nn.Conv1d(filters, filters, width, padding=width // 2, bias=False) for width in widths
        )
        self.pooled = nn.Sequential(nn.MaxPool1d(3, 1, 1), nn.Conv1d(channels, filters, 1, bias=False))
        self.norm = nn.BatchNorm1d(4 * filters)

    def forward(self, x: Tensor) -> Tensor:
        narrow = self.bottleneck(x)
        return torch.relu(self.norm(torch.cat([*(c(narrow) for c in self.convolutions), self.pooled(x)], 1)))


class InceptionTrunk(Trunk):
    """Residual blocks of three inception modules and the mean over the slots (arguments as the options)."""

    def __init__(self, bands: int, *, filters: int, longest: int, modules: int, dropout: float) -> None:
        super().__init__(4 * filters)
        channels = bands + 1 + DATE_FEATURES
        self.blocks, self.shortcuts = nn.ModuleList(), nn.ModuleList()
        for _ in range(modules // _BLOCK):
            sizes = [channels] + [self.width] * (_BLOCK - 1)
            self.blocks.append(nn.Sequential(*(InceptionModule(size, filters, longest) for size in sizes)))
            self.shortcuts.append(
                nn.Sequential(nn.Conv1d(channels, self.width, 1, bias=False), nn.BatchNorm1d(self.width))
            )
            channels = self.width
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, day: Tensor) -> Tensor:
        """(B, width) features of the seasons (arguments as `Trunk`)."""
        seen = grid_features(x, mask, day).transpose(1, 2)
        for block, shortcut in zip(self.blocks, self.shortcuts, strict=True):
            seen = torch.relu(block(seen) + shortcut(seen))
        return self.drop(seen.mean(2))


class InceptionTime(NeuralClassifier):
    """InceptionTime on the calendar grid (see the module)."""

    Settings: ClassVar[type[Options]] = InceptionTimeOptions

    def build_trunk(self, bands: int, slots: int) -> Trunk:
        chosen = cast(InceptionTimeOptions, self.options)
        return InceptionTrunk(
            bands, filters=chosen.filters, longest=chosen.longest, modules=chosen.modules, dropout=chosen.dropout
        )
