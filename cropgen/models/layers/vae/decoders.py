"""Decoder of a season that is asked for dates: any day is reconstructed, filled or forecast by the same network."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from cropgen.models.layers.temporal_conv import DATE_FEATURES, date_harmonics


class DateDecoder(nn.Module):
    """raw(t) = A h_n,  h_1 = relu(W z + U_y + V τ(t) + b),  h_{l+1} = relu(H_l h_l [+ S_l z]).

    τ are two yearly harmonics of the day. A date sees the latent, its own day and the class, never another date: the
    receptive field is one date, so the season cannot pass the latent by. Class and latent are added to the first layer,
    so the K classes share its products. With `skip` the latent enters every layer, by maps S that begin at zero: drawn
    at random they would add the noise of z to every layer before any of them has learnt from it.

    Arguments:
        latent: Z.
        classes: K; 1 for a decoder without a class.
        outputs: P, numbers for a date, as the likelihood asks.
        hidden: width of the layers.
        depth: number of hidden layers n.
        skip: the latent enters every layer.
        start_at_zero: the last layer begins at zero.

    Reference:
        Avoiding Latent Variable Collapse with Generative Skip Models, Dieng, Kim, Rush and Blei, 2019.
    """

    def __init__(
        self,
        latent: int,
        classes: int,
        outputs: int,
        *,
        hidden: int = 128,
        depth: int = 2,
        skip: bool = False,
        start_at_zero: bool = False,
    ) -> None:
        super().__init__()
        self.of_latent = nn.Linear(latent, hidden, bias=False)
        self.of_day = nn.Linear(DATE_FEATURES, hidden)
        self.of_class = nn.Parameter(torch.zeros(classes, hidden))
        self.layers = nn.ModuleList([nn.Linear(hidden, hidden) for _ in range(depth - 1)])
        self.skips = nn.ModuleList([nn.Linear(latent, hidden, bias=False) for _ in range(depth - 1 if skip else 0)])
        for skip_map in self.skips:
            nn.init.zeros_(cast(nn.Linear, skip_map).weight)
        self.answer = nn.Linear(hidden, outputs)
        if start_at_zero:
            nn.init.zeros_(self.answer.weight)
            nn.init.zeros_(self.answer.bias)

    def forward(self, z: Tensor, day: Tensor) -> Tensor:
        """(…, K, T, P) for all classes.

        Arguments:
            z: (…, K, Z), or (…, 1, Z) common to the classes.
            day: (…, T) days since 1 January.
        """
        of_day = self.of_day(date_harmonics(day.to(z.dtype)))[..., None, :, :]
        h = torch.relu((self.of_latent(z) + self.of_class)[..., None, :] + of_day)
        for number, layer in enumerate(self.layers):
            inside = layer(h)
            if len(self.skips):
                inside = inside + self.skips[number](z)[..., None, :]
            h = torch.relu(inside)
        return self.answer(h)
