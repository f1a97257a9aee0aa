"""Networks of the hierarchies of latents: up and down a ladder of halved time resolutions.

Rows are N = B seasons on the way up and N = S·B·K draws, seasons and classes on the way down; channels come before
time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.temporal_conv import DATE_FEATURES, grid_features


def half_lengths(slots: int, levels: int) -> list[int]:
    """Positions of a season of G slots and of each level above it, ⌈G / 2^l⌉."""
    lengths = [slots]
    for _ in range(levels):
        lengths.append((lengths[-1] + 1) // 2)
    return lengths


def doubled(h: Tensor, length: int) -> Tensor:
    """(N, H, T) of (N, H, ⌈T/2⌉): every position twice, cut to T."""
    return h.repeat_interleave(2, -1)[..., :length]


class SeasonEntry(nn.Module):
    """Features of the dates of a season: one convolution over innovations, presence and date.

    Arguments:
        bands: C.
        hidden: H.
    """

    def __init__(self, bands: int, hidden: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(bands + 1 + DATE_FEATURES, hidden, 5, padding=2)

    def forward(self, seasons: Seasons) -> Tensor:
        """(B, H, G); missing dates enter as 0 and flagged."""
        e = seasons.e.unflatten(1, (seasons.mask.shape[1], -1))
        return self.first(grid_features(e, seasons.mask, seasons.day).transpose(1, 2))


class Ascent(nn.Module):
    """Features of every level of a season: convolutions over time, each halving the positions.

    Arguments:
        bands: C.
        hidden: H.
        levels: L.
    """

    def __init__(self, bands: int, hidden: int, levels: int) -> None:
        super().__init__()
        self.enter = SeasonEntry(bands, hidden)
        self.down = nn.ModuleList([nn.Conv1d(hidden, hidden, 3, stride=2, padding=1) for _ in range(levels)])

    def forward(self, seasons: Seasons) -> tuple[Tensor, ...]:
        """(B, H, T_l) of each level, the finest first."""
        h, found = torch.relu(self.enter(seasons)), list[Tensor]()
        for down in self.down:
            h = torch.relu(down(h))
            found.append(h)
        return tuple(found)


class Place(nn.Module):
    """place + U_y (N, H, T): what a context knows of its position and its class.

    Arguments:
        hidden: H.
        length: T.
        classes: K.
    """

    def __init__(self, hidden: int, length: int, classes: int) -> None:
        super().__init__()
        self.of_position = nn.Parameter(torch.randn(hidden, length))
        self.of_class = nn.Parameter(0.1 * torch.randn(classes, hidden))

    def forward(self, y: Tensor) -> Tensor:
        """For classes y (N,)."""
        return self.of_position + self.of_class[y][..., None]


class Stage(nn.Module):
    """From a level to the context of the next finer one: two convolutions about a doubling of the positions.

        h = relu(conv(up(relu(conv(v)))) + place + U_y)

    Arguments:
        inputs: channels of v.
        hidden: H.
        length: T of the finer level.
        classes: K.
    """

    def __init__(self, inputs: int, hidden: int, length: int, classes: int) -> None:
        super().__init__()
        self.length = length
        self.enter = nn.Conv1d(inputs, hidden, 3, padding=1)
        self.leave = nn.Conv1d(hidden, hidden, 3, padding=1, bias=False)
        self.place = Place(hidden, length, classes)

    def forward(self, v: Tensor, y: Tensor) -> Tensor:
        """(N, H, T) for v (N, inputs, ⌈T/2⌉) and classes y (N,)."""
        return torch.relu(self.leave(doubled(torch.relu(self.enter(v)), self.length)) + self.place(y))


class Head(nn.Module):
    """Two numbers a latent from a context: out(relu(h + U_y)).

    Arguments:
        inputs: H.
        latent: Z.
        classes: K; 0 for a head that is not told the class.
        start_at_zero: the answer begins at zero.
    """

    def __init__(self, inputs: int, latent: int, classes: int = 0, *, start_at_zero: bool) -> None:
        super().__init__()
        self.of_class = nn.Parameter(0.1 * torch.randn(classes, inputs)) if classes else None
        self.out = nn.Conv1d(inputs, 2 * latent, 1)
        if start_at_zero:
            for parameter in self.out.parameters():
                nn.init.zeros_(parameter)

    def forward(self, h: Tensor, y: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Two tensors (N, Z, T) for h (N, H, T) and classes y (N,)."""
        if self.of_class is not None and y is not None:
            h = h + self.of_class[y][..., None]
        first, second = self.out(torch.relu(h)).chunk(2, 1)
        return first, second
