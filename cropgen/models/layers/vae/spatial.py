"""The spatial dependency layer along time: what a date becomes depends on what its neighbour has become.

    project in    I = tanh(x W_1 + b_1)
    sweep         r = σ(A_r I_t + B_r I_{t−1}),   z = σ(A_z I_t + B_z I_{t−1}),   n = tanh(r ⊙ A_n I_t + B_n I_{t−1}),
                  I_t ← z ⊙ I_t + (1 − z) ⊙ n
    project out   y = I W_3 + b_3

with one sweep forward in time and one backward, I_{t−1} the neighbour already corrected. It is no GRU: what is carried
is the date's own first value and the reset gates that value. Against a convolution the dates depend on each other
without bound; against attention a neighbour is nearer than the rest. A sweep has 6 W² + 6 W parameters.

Reference:
    Spatial Dependency Networks: Neural Layers for Improved Generative Image Modeling, Miladinović, Stanić, Bauer,
    Schmidhuber and Buhmann, 2021.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Sweep(nn.Module):
    """One pass along time.

    Arguments:
        width: W.
        backward: against time.
    """

    def __init__(self, width: int, *, backward: bool) -> None:
        super().__init__()
        self.backward = backward
        self.own = nn.Linear(width, 3 * width)
        self.neighbour = nn.Linear(width, 3 * width)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, W) → (B, T, W)."""
        dates = x.flip(1) if self.backward else x
        corrected, last = [], torch.zeros_like(x[:, 0])
        for now, own in zip(dates.unbind(1), self.own(dates).unbind(1), strict=True):
            of_own, of_last = own.chunk(3, -1), self.neighbour(last).chunk(3, -1)
            reset, keep = (torch.sigmoid(of_own[i] + of_last[i]) for i in (0, 1))
            last = torch.lerp(torch.tanh(reset * of_own[2] + of_last[2]), now, keep)
            corrected.append(last)
        found = torch.stack(corrected, 1)
        return found.flip(1) if self.backward else found


class SpatialDependency(nn.Module):
    """The layer of the module's table, (B, T, inputs) → (B, T, inputs).

    Arguments:
        inputs: channels.
        width: W.
        directions: 1 sweeps forward in time, 2 back as well.
    """

    def __init__(self, inputs: int, width: int, *, directions: int = 2) -> None:
        super().__init__()
        self.enter = nn.Linear(inputs, width)
        self.sweeps = nn.Sequential(*(Sweep(width, backward=number == 1) for number in range(directions)))
        self.leave = nn.Linear(width, inputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.leave(self.sweeps(torch.tanh(self.enter(x))))


class ResidualSpatialDependency(nn.Module):
    """ResSDN, y = s ⊙ F(x) + (1 − s) ⊙ x with F the layer and s = σ(V x + c): little of F at first.

    Arguments: as `SpatialDependency`.
    """

    def __init__(self, inputs: int, width: int, *, directions: int = 2) -> None:
        super().__init__()
        self.layer = SpatialDependency(inputs, width, directions=directions)
        self.gate = nn.Linear(inputs, inputs)
        nn.init.constant_(self.gate.bias, -1.0)

    def forward(self, x: Tensor) -> Tensor:
        """(B, T, inputs) → (B, T, inputs)."""
        return torch.lerp(x, self.layer(x), torch.sigmoid(self.gate(x)))
