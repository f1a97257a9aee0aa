"""The transformer encoder with the true date of every observation.

    h_t = W x_t + p(day_t);   in every layer  h ← h + attention(norm(h)),  h ← h + MLP(norm(h));   f = mean_t norm(h_t)

p are sines and cosines of the day; keys of missing dates are left out of every softmax and of the mean, so padding and
clouds change nothing. Without p the answer would be the same for dates in any order.

References:
    Attention Is All You Need, Vaswani et al., 2017.
    Self-Attention for Raw Optical Satellite Time Series Classification, Rußwurm and Körner, 2020.
"""

from __future__ import annotations

from typing import ClassVar, Self, cast

from pydantic import Field, model_validator
from torch import Tensor, nn

from cropgen.models.base import Options
from cropgen.models.discriminative.network import NeuralClassifier, SequenceOptions
from cropgen.models.layers.attention import attend, encode_days
from cropgen.models.layers.season_view import Axis
from cropgen.models.layers.trunk import Trunk

_PERIOD = 1000.0


class TransformerOptions(SequenceOptions):
    """Options of the transformer."""

    axis: Axis = Field("dates", description="what is read: grid (slots of the calendar) or dates (raw dates)")
    learning_rate: float = Field(
        1e-3, gt=0, description="peak of the one-cycle schedule", json_schema_extra={"search": [3e-4, 1e-3, 3e-3]}
    )
    dropout: float = Field(
        0.1, ge=0, lt=1, description="dropout after every layer", json_schema_extra={"search": [0.0, 0.1, 0.3]}
    )
    mixup: float = Field(
        0.0, ge=0, description="α of the Beta distribution by which labelled parcels are mixed (axis = grid); 0: not"
    )
    width: int = Field(64, ge=2, description="size of a date's embedding", json_schema_extra={"search": [64, 128]})
    heads: int = Field(4, ge=1, description="attention heads; they divide the width")
    layers: int = Field(3, ge=1, description="layers")
    inner: int = Field(256, ge=1, description="units of the hidden layer between two attentions")

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.width % self.heads or self.width % 2:
            raise ValueError(f"width = {self.width} must be even and a multiple of heads = {self.heads}")
        return self


class EncoderLayer(nn.Module):
    """Attention and a hidden layer, each normalised first and added to what it was given."""

    def __init__(self, width: int, heads: int, inner: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.first_norm, self.second_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project, self.join = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.hidden = nn.Sequential(
            nn.Linear(width, inner), nn.GELU(), nn.Dropout(dropout), nn.Linear(inner, width), nn.Dropout(dropout)
        )
        self.drop = nn.Dropout(dropout)

    def forward(self, h: Tensor, mask: Tensor) -> Tensor:
        rows, dates, width = h.shape
        parts = self.project(self.first_norm(h)).view(rows, dates, 3, self.heads, width // self.heads)
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        answer, _ = attend(query, key, value, mask)
        h = h + self.drop(self.join(answer.transpose(1, 2).reshape(rows, dates, width)))
        return h + self.hidden(self.second_norm(h))


class TransformerTrunk(Trunk):
    """Embedding, layers and the mean over the observed dates (arguments as the options)."""

    def __init__(self, bands: int, *, width: int, heads: int, layers: int, inner: int, dropout: float) -> None:
        super().__init__(width)
        self.embed = nn.Linear(bands, width)
        self.layers = nn.ModuleList(EncoderLayer(width, heads, inner, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor, day: Tensor) -> Tensor:
        """(B, width) features of the seasons (arguments as `Trunk`)."""
        present = mask[..., None].to(x.dtype)
        h = self.embed(x * present) + encode_days(day.to(x.dtype), self.width, _PERIOD)
        for layer in self.layers:
            h = layer(h, mask)
        return self.drop((self.norm(h) * present).sum(1) / present.sum(1).clamp(min=1))


class Transformer(NeuralClassifier):
    """Transformer encoder on true dates (see the module)."""

    Settings: ClassVar[type[Options]] = TransformerOptions

    def build_trunk(self, bands: int, slots: int) -> Trunk:
        chosen = cast(TransformerOptions, self.options)
        return TransformerTrunk(
            bands, width=chosen.width, heads=chosen.heads, layers=chosen.layers, inner=chosen.inner,
            dropout=chosen.dropout,
        )  # fmt: skip
