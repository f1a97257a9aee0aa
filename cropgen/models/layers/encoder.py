"""The recognition head of the deep generative models: features of a season and q(y | x)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cropgen.models.layers.temporal_conv import TemporalConv


class Recognition(nn.Module):
    """Features of a season and the logits of q(y | x).

    Two views meet: convolutions over the calendar grid, and one linear layer on the innovations, in which the class
    means of the tied Gaussian are as far apart as they get.

        f = [conv(x, m, day), relu(W e)],   q(y | x) = softmax(A f)

    Arguments:
        bands: C.
        slots: G.
        classes: K.
        hidden: channels of the convolutions.
        dropout: probability inside the convolutions.
        date_dropout: share of the dates hidden from the convolutions while training.
    """

    CONVOLVED = 128
    WHITENED = 64

    def __init__(
        self,
        bands: int,
        slots: int,
        classes: int,
        *,
        hidden: int = 64,
        dropout: float = 0.2,
        date_dropout: float = 0.15,
    ) -> None:
        super().__init__()
        self.date_dropout = date_dropout
        self.convolved = TemporalConv(bands, slots, hidden=hidden, width=self.CONVOLVED, dropout=dropout)
        self.whitened = nn.Sequential(nn.Linear(slots * bands, self.WHITENED), nn.ReLU())
        self.classify = nn.Linear(self.width, classes)

    @property
    def width(self) -> int:
        """Size of the features."""
        return self.CONVOLVED + self.WHITENED

    def features(
        self, x: Tensor, mask: Tensor, day: Tensor, e: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """(B, 192) features.

        Arguments:
            x: (B, G, C) standardised bands, 0 where missing.
            mask: (B, G) bool, true where a slot holds an observation.
            day: (G,) or (B, G) days since 1 January.
            e: (B, G·C) innovations, 0 where missing.
            generator: draws the hidden dates while training; None hides none.
        """
        if self.training and generator is not None and self.date_dropout > 0:
            seen = torch.rand(mask.shape, generator=generator, device=generator.device) >= self.date_dropout
            mask = mask & seen.to(mask.device)
        return torch.cat([self.convolved(x, mask, day), self.whitened(e)], -1)

    def forward(
        self, x: Tensor, mask: Tensor, day: Tensor, e: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """(B, K) logits of q(y | x); arguments as `features`."""
        return self.classify(self.features(x, mask, day, e, generator))
