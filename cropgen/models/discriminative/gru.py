"""The gated recurrent unit over observed dates.

    r, u = σ(W [x_t, d_t, h_{t−1}]),   h_t = u h_{t−1} + (1 − u) tanh(V [x_t, d_t] + r U h_{t−1})

read as the LSTM of `lstm.py` is: both directions, observed dates only.

Reference: Learning Phrase Representations using RNN Encoder–Decoder for Statistical Machine Translation, Cho et al.,
2014.
"""

from __future__ import annotations

from torch import nn

from cropgen.models.discriminative.lstm import LSTM


class GRU(LSTM):
    """Gated recurrent unit (see the module)."""

    cell = nn.GRU
