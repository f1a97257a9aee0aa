"""The temporal convolutional network: convolutions over the slots of the calendar.

    f(x, m, day) = dense(pool(conv(conv(conv([x m, m, harmonics of the day])))))

Convolutions have width 5 and are followed by batch normalisation, ReLU and dropout; the mean over quarters of the
season, not over the season, is kept, so the network knows when something happened. How it sees and learns is in
`network.py`.

Reference: Temporal Convolutional Neural Network for the Classification of Satellite Image Time Series, Pelletier, Webb
and Petitjean, 2019.
"""

from __future__ import annotations

from typing import ClassVar, cast

from pydantic import Field

from cropgen.models.base import Options
from cropgen.models.discriminative.network import NetworkOptions, NeuralClassifier
from cropgen.models.layers.temporal_conv import TemporalConv
from cropgen.models.layers.trunk import Trunk


class TempCNNOptions(NetworkOptions):
    """Options of the temporal convolutional network."""

    hidden: int = Field(
        64, ge=1, description="channels of the convolutions", json_schema_extra={"search": [32, 64, 128]}
    )
    width: int = Field(128, ge=1, description="units of the dense layer")


class TempCNN(NeuralClassifier):
    """Temporal convolutional network on the calendar grid (see the module)."""

    Settings: ClassVar[type[Options]] = TempCNNOptions

    def build_trunk(self, bands: int, slots: int) -> Trunk:
        chosen = cast(TempCNNOptions, self.options)
        return TemporalConv(bands, slots, hidden=chosen.hidden, width=chosen.width, dropout=chosen.dropout)
