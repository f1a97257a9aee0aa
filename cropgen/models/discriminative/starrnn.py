"""The stackable recurrent network (STAR): a cell light enough to be stacked, with a single gate.

    k_t = σ(W_k [x_t, d_t] + U_k h_{t−1} + b_k),   z_t = tanh(W_z [x_t, d_t] + b_z)
    h_t = tanh((1 − k_t) h_{t−1} + k_t z_t)

over observed dates, d_t the harmonics of the date; each layer has weights of its own and reads the states of the layer
below. The gate keeps the size of gradients across layers, so depth does not stop it from learning.

Reference: Gating Revisited: Deep Multi-Layer RNNs That Can Be Trained, Turkoglu, D'Aronco, Wegner and Schindler, 2021.
"""

from __future__ import annotations

from itertools import pairwise
from typing import ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import Options
from cropgen.models.discriminative.network import NeuralClassifier, SequenceOptions
from cropgen.models.layers.recurrent import RecurrentTrunk
from cropgen.models.layers.temporal_conv import DATE_FEATURES
from cropgen.models.layers.trunk import Trunk

_GATE_BIAS = -1.0


class StarRNNOptions(SequenceOptions):
    """Options of the stackable recurrent network."""

    hidden: int = Field(128, ge=1, description="units of a layer", json_schema_extra={"search": [64, 128, 256]})
    layers: int = Field(3, ge=1, description="layers of a stack", json_schema_extra={"search": [2, 3, 6]})
    bidirectional: bool = Field(False, description="also read the season backward")


class StarLayer(nn.Module):
    """One layer of STAR cells, (B, S, F) → (B, S, hidden)."""

    def __init__(self, features: int, hidden: int) -> None:
        super().__init__()
        self.gate_input = nn.Linear(features, hidden)
        self.gate_state = nn.Linear(hidden, hidden, bias=False)
        self.content = nn.Linear(features, hidden)
        for linear in (self.gate_input, self.gate_state, self.content):
            nn.init.orthogonal_(linear.weight)
        nn.init.constant_(self.gate_input.bias, _GATE_BIAS)
        nn.init.zeros_(self.content.bias)

    def forward(self, x: Tensor) -> Tensor:
        gates, contents = self.gate_input(x), torch.tanh(self.content(x))
        state, states = torch.zeros_like(contents[:, 0]), []
        for gate, content in zip(gates.unbind(1), contents.unbind(1), strict=True):
            state = torch.tanh(torch.lerp(state, content, torch.sigmoid(gate + self.gate_state(state))))
            states.append(state)
        return torch.stack(states, 1)


class StarRNN(NeuralClassifier):
    """Stackable recurrent network (see the module)."""

    Settings: ClassVar[type[Options]] = StarRNNOptions

    def build_trunk(self, bands: int, slots: int) -> Trunk:
        chosen = cast(StarRNNOptions, self.options)
        stacks: list[nn.Module] = []
        for _ in range(1 + chosen.bidirectional):
            sizes = [bands + DATE_FEATURES] + [chosen.hidden] * chosen.layers
            layers: list[nn.Module] = []
            for features, hidden in pairwise(sizes):
                layers += [StarLayer(features, hidden), nn.Dropout(chosen.dropout)]
            stacks.append(nn.Sequential(*layers[:-1]))
        return RecurrentTrunk(stacks, hidden=chosen.hidden, dropout=chosen.dropout)
