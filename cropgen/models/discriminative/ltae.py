"""The lightweight temporal attention encoder: one learnt query per head asks the season once.

The embedding e_t of a date, of E channels, is cut into H groups, one per head. With p the encoding of the true day,

    v_{h,t} = e_{h,t} + p(day_t),   k_{h,t} = F_h v_{h,t}
    a_{h,t} = softmax_t(q_h · k_{h,t} / √D),   o_h = Σ_t a_{h,t} v_{h,t}

over the observed dates t; the master queries q_h are parameters, and values are the embeddings themselves, so a head
has hardly any weights. f = MLP([o_1, …, o_H]).

Reference: Lightweight Temporal Self-Attention for Classifying Satellite Images Time Series, Sainte Fare Garnot and
Landrieu, 2020.
"""

from __future__ import annotations

from typing import ClassVar, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from cropgen.models.base import Options
from cropgen.models.discriminative.network import NeuralClassifier, SequenceOptions
from cropgen.models.layers.attention import attend, encode_days
from cropgen.models.layers.season_view import Axis
from cropgen.models.layers.trunk import Trunk

_PERIOD = 1000.0


class LTAEOptions(SequenceOptions):
    """Options of the lightweight temporal attention encoder."""

    axis: Axis = Field("dates", description="what is read: grid (slots of the calendar) or dates (raw dates)")
    mixup: float = Field(
        0.0, ge=0, description="α of the Beta distribution by which labelled parcels are mixed (axis = grid); 0: not"
    )
    channels: int = Field(
        256,
        ge=2,
        description="size of a date's embedding, shared by the heads",
        json_schema_extra={"search": [128, 256]},
    )
    heads: int = Field(16, ge=1, description="heads; each has an even number of the channels")
    key: int = Field(8, ge=1, description="size of keys and queries")
    width: int = Field(128, ge=1, description="units of the dense layer")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.channels % (2 * self.heads):
            raise ValueError(f"channels = {self.channels} must be a multiple of twice the heads = {self.heads}")
        return self


class LightAttention(nn.Module):
    """The heads: (B, S, E) embeddings, (B, S) mask and (B, S) days → (B, E), and weights (B, H, S)."""

    def __init__(self, channels: int, heads: int, key: int) -> None:
        super().__init__()
        self.heads, self.group = heads, channels // heads
        self.query = nn.Parameter(torch.randn(heads, key) * (2 / key) ** 0.5)
        self.to_key = nn.Parameter(torch.randn(heads, self.group, key) * self.group**-0.5)
        self.key_bias = nn.Parameter(torch.zeros(heads, key))

    def forward(self, e: Tensor, mask: Tensor, day: Tensor) -> tuple[Tensor, Tensor]:
        groups = e.view(*e.shape[:2], self.heads, self.group).transpose(1, 2)
        groups = groups + encode_days(day.to(e.dtype), self.group, _PERIOD)[:, None]
        keys = groups @ self.to_key + self.key_bias[:, None]
        answer, weight = attend(self.query[None, :, None].expand(len(e), -1, -1, -1), keys, groups, mask)
        return answer.flatten(1), weight[:, :, 0]


class LTAETrunk(Trunk):
    """Embedding, heads and a dense layer (arguments as the options)."""

    def __init__(self, bands: int, *, channels: int, heads: int, key: int, width: int, dropout: float) -> None:
        super().__init__(width)
        self.embed = nn.Sequential(nn.Linear(bands, channels), nn.LayerNorm(channels))
        self.attention = LightAttention(channels, heads, key)
        self.dense = nn.Sequential(nn.Linear(channels, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(dropout))

    def forward(self, x: Tensor, mask: Tensor, day: Tensor) -> Tensor:
        """(B, width) features of the seasons (arguments as `Trunk`)."""
        return self.dense(self.attention(self.embed(x * mask[..., None]), mask, day)[0])


class LTAE(NeuralClassifier):
    """Lightweight temporal attention encoder on true dates (see the module)."""

    Settings: ClassVar[type[Options]] = LTAEOptions

    def build_trunk(self, bands: int, slots: int) -> Trunk:
        chosen = cast(LTAEOptions, self.options)
        return LTAETrunk(
            bands, channels=chosen.channels, heads=chosen.heads, key=chosen.key, width=chosen.width,
            dropout=chosen.dropout,
        )  # fmt: skip
