"""The long short-term memory over observed dates.

    i, f, o = σ(W [x_t, d_t, h_{t−1}]),   c_t = f c_{t−1} + i tanh(V [x_t, d_t, h_{t−1}]),   h_t = o tanh(c_t)

for the dates t that were observed, d_t the harmonics of the date; f(x, m, day) joins the state after the last
observation and that of a second stack run backward. A missing date changes no state and takes no step. How it sees and
learns is in `network.py`.

References:
    Long Short-Term Memory, Hochreiter and Schmidhuber, 1997.
    Temporal Vegetation Modelling Using Long Short-Term Memory Networks for Crop Identification from Medium-Resolution
    Multi-Spectral Satellite Images, Rußwurm and Körner, 2017.
"""

from __future__ import annotations

from typing import ClassVar, cast

from pydantic import Field
from torch import nn

from cropgen.models.base import Options
from cropgen.models.discriminative.network import NeuralClassifier, SequenceOptions
from cropgen.models.layers.recurrent import Recurrence, RecurrentTrunk
from cropgen.models.layers.temporal_conv import DATE_FEATURES
from cropgen.models.layers.trunk import Trunk


class RecurrentOptions(SequenceOptions):
    """Options of the recurrent networks."""

    hidden: int = Field(128, ge=1, description="units of a layer", json_schema_extra={"search": [64, 128, 256]})
    layers: int = Field(2, ge=1, description="layers of a stack", json_schema_extra={"search": [1, 2, 3]})
    bidirectional: bool = Field(True, description="also read the season backward")


class LSTM(NeuralClassifier):
    """Long short-term memory (see the module)."""

    Settings: ClassVar[type[Options]] = RecurrentOptions
    cell: ClassVar[type[nn.LSTM] | type[nn.GRU]] = nn.LSTM

    def build_trunk(self, bands: int, slots: int) -> Trunk:
        chosen = cast(RecurrentOptions, self.options)
        stacks: list[nn.Module] = [
            Recurrence(
                self.cell, bands + DATE_FEATURES, hidden=chosen.hidden, layers=chosen.layers, dropout=chosen.dropout
            )
            for _ in range(1 + chosen.bidirectional)
        ]
        return RecurrentTrunk(stacks, hidden=chosen.hidden, dropout=chosen.dropout)
