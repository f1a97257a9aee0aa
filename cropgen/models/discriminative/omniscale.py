"""The omni-scale network: convolutions of all prime widths, so that every receptive field is there.

Two layers hold a convolution of each width 1, 2, 3, 5, … up to a quarter of the season, a third those of widths 1 and
2; by Goldbach's conjecture their sums are all receptive fields up to the longest prime, and most up to twice it, so no
width is to be chosen. Each convolution is followed by batch normalisation, each layer by ReLU; the mean over the slots
is read. The number of channels of a layer is that of a budget of parameters; that of the first layer counts per input
channel, which leaves the width of the others as it is for a single one.

Reference: Omni-Scale CNNs: a simple and effective kernel size configuration for time series classification, Tang et
al., 2022.
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

_SHORTEST_REACH = 3


class OmniScaleOptions(NetworkOptions):
    """Options of the omni-scale network."""

    first_budget: int = Field(
        1024,
        ge=64,
        description="weights of the first layer per input channel",
        json_schema_extra={"search": [512, 1024]},
    )
    second_budget: int = Field(229_376, ge=1024, description="weights of the second layer")
    reach: int = Field(0, ge=0, description="longest width in slots; 0: a quarter of the season, at least 3")


class OmniScaleLayer(nn.Module):
    """Convolutions of several widths side by side, (B, F, G) → (B, n · len(widths), G)."""

    def __init__(self, channels: int, filters: int, widths: list[int]) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Sequential(
                nn.ConstantPad1d(((width - 1) // 2, width // 2), 0.0),
                nn.Conv1d(channels, filters, width),
                nn.BatchNorm1d(filters),
            )
            for width in widths
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(torch.cat([convolution(x) for convolution in self.convolutions], 1))


def prime_widths(reach: int) -> list[int]:
    """1 and the primes up to `reach`."""
    return [width for width in range(1, reach + 1) if all(width % factor for factor in range(2, width))]


def omni_scale(channels: int, reach: int, first_budget: int, second_budget: int) -> tuple[nn.Sequential, int]:
    """The three layers, (B, F, G) → (B, width, G), and their width.

    Arguments:
        channels: F inputs.
        reach: longest width.
        first_budget: weights of the first layer per input channel.
        second_budget: weights of the second layer.
    """
    widths = prime_widths(reach)
    first = max(1, first_budget // sum(widths))
    inner = first * len(widths)
    second = max(1, second_budget // (inner * sum(widths)))
    layers = nn.Sequential(
        OmniScaleLayer(channels, first, widths),
        OmniScaleLayer(inner, second, widths),
        OmniScaleLayer(second * len(widths), inner, [1, 2]),
    )
    return layers, 2 * inner


class OmniScaleTrunk(Trunk):
    """The three layers on bands, presence and date, and the mean over the slots."""

    def __init__(self, bands: int, reach: int, first_budget: int, second_budget: int, *, dropout: float) -> None:
        layers, width = omni_scale(bands + 1 + DATE_FEATURES, reach, first_budget, second_budget)
        super().__init__(width)
        self.layers = layers
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, day: Tensor) -> Tensor:
        """(B, width) features of the seasons (arguments as `Trunk`)."""
        return self.drop(self.layers(grid_features(x, mask, day).transpose(1, 2)).mean(2))


class OmniScale(NeuralClassifier):
    """Omni-scale network on the calendar grid (see the module)."""

    Settings: ClassVar[type[Options]] = OmniScaleOptions

    def build_trunk(self, bands: int, slots: int) -> Trunk:
        chosen = cast(OmniScaleOptions, self.options)
        reach = chosen.reach or max(_SHORTEST_REACH, slots // 4)
        return OmniScaleTrunk(bands, reach, chosen.first_budget, chosen.second_budget, dropout=chosen.dropout)
