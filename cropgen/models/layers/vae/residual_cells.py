"""Residual cells of deep hierarchies, in one dimension, and the penalty that keeps them smooth.

References:
    NVAE: A Deep Hierarchical Variational Autoencoder, Vahdat and Kautz, 2020;
    Squeeze-and-Excitation Networks, Hu, Shen and Sun, 2018;
    Spectral Norm Regularization for Improving the Generalizability of Deep Learning, Yoshida and Miyato, 2017.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

_SQUEEZED = 4
_SEED = 31


class Excitation(nn.Module):
    """h · σ(W relu(V mean_t h)): channels weighted by what the whole row shows.

    Arguments:
        channels: H.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(_SQUEEZED, channels // _SQUEEZED)
        self.gate = nn.Sequential(nn.Linear(channels, squeezed), nn.ReLU(), nn.Linear(squeezed, channels), nn.Sigmoid())

    def forward(self, h: Tensor) -> Tensor:
        return h * self.gate(h.mean(-1))[..., None]


class EncoderCell(nn.Module):
    """h + SE(conv(swish(BN(conv(swish(BN h)))))), convolutions of width 3.

    Arguments:
        channels: H.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for _ in range(2):
            layers += [nn.BatchNorm1d(channels), nn.SiLU(), nn.Conv1d(channels, channels, 3, padding=1)]
        self.inside = nn.Sequential(*layers, Excitation(channels))

    def forward(self, h: Tensor) -> Tensor:
        """(N, H, T) → (N, H, T)."""
        return h + self.inside(h)


class DecoderCell(nn.Module):
    """Depthwise-separable: h + SE(BN(narrow(swish(BN(depthwise(swish(BN(widen(BN h)))))))).

    The channels are widened E times, each then convolved by itself over 5 positions, and narrowed again: a wide
    receptive field at the cost of a few products.

    Arguments:
        channels: H.
        expansion: E.
    """

    def __init__(self, channels: int, expansion: int) -> None:
        super().__init__()
        wide = expansion * channels
        self.inside = nn.Sequential(
            nn.BatchNorm1d(channels),
            nn.Conv1d(channels, wide, 1, bias=False),
            nn.BatchNorm1d(wide),
            nn.SiLU(),
            nn.Conv1d(wide, wide, 5, padding=2, groups=wide, bias=False),
            nn.BatchNorm1d(wide),
            nn.SiLU(),
            nn.Conv1d(wide, channels, 1, bias=False),
            nn.BatchNorm1d(channels),
            Excitation(channels),
        )

    def forward(self, h: Tensor) -> Tensor:
        """(N, H, T) → (N, H, T)."""
        return h + self.inside(h)


class SpectralPenalty(nn.Module):
    """Σ_i σ_i, the largest singular values of convolutions, each followed by a power iteration a step.

    Arguments:
        weights: (out, …) of the convolutions, as matrices of `out` rows; none may be zero.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(_SEED)
        for number, weight in enumerate(weights):
            start = functional.normalize(torch.randn(len(weight), generator=generator), dim=0)
            self.register_buffer(f"left_{number}", start)

    def forward(self, weights: Sequence[Tensor]) -> Tensor:
        """() of the weights given at first, in their order."""
        values = []
        for number, weight in enumerate(weights):
            matrix, left = weight.flatten(1), self.get_buffer(f"left_{number}")
            with torch.no_grad():
                right = functional.normalize(matrix.T @ left, dim=0)
                moved = functional.normalize(matrix @ right, dim=0)
                if self.training:
                    left.copy_(moved)
            values.append(moved @ matrix @ right)
        return torch.stack(values).sum()
