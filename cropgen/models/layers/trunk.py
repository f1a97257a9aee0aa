"""What the discriminative networks have in common as modules: seasons in, one vector of features out."""

from __future__ import annotations

from torch import nn


class Trunk(nn.Module):
    """A network from seasons to features: forward(x (B, S, C), mask (B, S), day (B, S)) → (B, width).

    x are standardised bands, 0 where missing; mask is true where a slot or date holds an observation; day is its date
    in days. Neither x nor day counts where mask is false.

    Arguments:
        width: number of features.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
