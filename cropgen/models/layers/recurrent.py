"""Recurrences over observed dates only: a missing date leaves the state untouched.

The observed dates of a row are moved to the front in their order, so a plain recurrence over the row, read after as
many steps as it has observations, has seen these and nothing else. The backward direction runs over the same dates
reversed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cropgen.models.layers.temporal_conv import DATE_FEATURES, date_harmonics
from cropgen.models.layers.trunk import Trunk


def dated(x: Tensor, mask: Tensor, day: Tensor) -> Tensor:
    """(B, S, C + 4) bands, 0 where missing, and the yearly harmonics of the date (arguments as `Trunk`)."""
    return torch.cat([x * mask[..., None], date_harmonics(day.to(x.dtype)).expand(*x.shape[:2], DATE_FEATURES)], -1)


def compact(x: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The observed dates of each row moved to the front.

    Arguments:
        x: (B, S, F).
        mask: (B, S) bool.

    Returns:
        (B, S, F) with the missing dates behind the observed ones, and (B,) int64 number of observed dates.
    """
    order = torch.argsort((~mask).to(torch.uint8), dim=1, stable=True)
    return x.gather(1, order[..., None].expand_as(x)), mask.sum(1)


def reverse(x: Tensor, count: Tensor) -> Tensor:
    """(B, S, F) with the first `count` (B,) entries of each row in reverse order."""
    place = torch.arange(x.shape[1], device=x.device)
    mirrored = count[:, None] - 1 - place
    return x.gather(1, torch.where(mirrored >= 0, mirrored, place)[..., None].expand_as(x))


def last(x: Tensor, count: Tensor) -> Tensor:
    """(B, F) the entry after `count` (B,) steps of (B, S, F); zeros for a row without any."""
    place = (count - 1).clamp(min=0)[:, None, None].expand(-1, 1, x.shape[2])
    return x.gather(1, place)[:, 0] * (count > 0)[:, None]


class RecurrentTrunk(Trunk):
    """A stack of recurrent layers in each direction, read after the last observed date.

    Arguments:
        directions: stacks from (B, S, F) to (B, S, hidden), one forward in time, or one forward and one backward.
        hidden: size of a stack's answer.
        dropout: probability, on the answer.
    """

    def __init__(self, directions: list[nn.Module], *, hidden: int, dropout: float) -> None:
        super().__init__(hidden * len(directions))
        self.directions = nn.ModuleList(directions)
        self.close = nn.Sequential(nn.LayerNorm(self.width), nn.Dropout(dropout))

    def forward(self, x: Tensor, mask: Tensor, day: Tensor) -> Tensor:
        """(B, width) features of the seasons (arguments as `Trunk`)."""
        seen, count = compact(dated(x, mask, day), mask)
        seen = seen[:, : max(1, int(count.max()))]
        ways = (seen, reverse(seen, count))
        ends = [last(stack(way), count) for stack, way in zip(self.directions, ways, strict=False)]
        return self.close(torch.cat(ends, -1))


class Recurrence(nn.Module):
    """Layers of a recurrence of PyTorch, (B, S, F) → (B, S, hidden).

    Arguments:
        kind: nn.LSTM or nn.GRU.
        features: F inputs.
        hidden: units of a layer.
        layers: number of layers.
        dropout: probability, between layers.
    """

    def __init__(
        self, kind: type[nn.LSTM] | type[nn.GRU], features: int, *, hidden: int, layers: int, dropout: float
    ) -> None:
        super().__init__()
        between = dropout if layers > 1 else 0.0
        self.cells = kind(features, hidden, layers, batch_first=True, dropout=between)

    def forward(self, x: Tensor) -> Tensor:
        return self.cells(x)[0]
