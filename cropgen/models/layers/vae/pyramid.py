"""A pyramid of temporal attention: seasons are read at the dates observed, then at ever coarser spans of time."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from cropgen.models.discriminative.transformer import EncoderLayer
from cropgen.models.layers.attention import encode_days
from cropgen.models.layers.trunk import Trunk

_PERIOD = 1000.0


class PyramidTransformer(Trunk):
    """Attention over the tokens of a season, whose number halves from stage to stage.

    The first stage has a token for every slot, told the true day; after a stage neighbouring tokens are merged by a
    linear map of the two. A token is there when any slot below it was observed, absent ones are 0 and attended by none,
    and the mean over those of the last stage is the answer.

    Arguments:
        inputs: numbers of a slot.
        width: W.
        heads: of the attention.
        stages: number of stages.
        dropout: after every layer.

    Reference:
        Tampered VAE for Improved Satellite Image Time Series Classification, Cai, Bi and Nicholl, 2022.
    """

    def __init__(self, inputs: int, width: int, *, heads: int = 4, stages: int = 3, dropout: float = 0.1) -> None:
        super().__init__(width)
        self.enter = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(EncoderLayer(width, heads, 2 * width, dropout) for _ in range(stages))
        self.merge = nn.ModuleList(nn.Linear(2 * width, width) for _ in range(stages - 1))
        self.close = nn.LayerNorm(width)

    def forward(self, x: Tensor, mask: Tensor, day: Tensor) -> Tensor:
        there = mask[..., None]
        h = (self.enter(x) + encode_days(day, self.width, _PERIOD)) * there
        for stage, block in enumerate(self.blocks):
            if stage:
                odd = h.shape[1] % 2
                h = functional.pad(h, (0, 0, 0, odd)).unflatten(1, (-1, 2)).flatten(2)
                mask = functional.pad(mask, (0, odd)).unflatten(1, (-1, 2)).any(2)
                there = mask[..., None]
                h = self.merge[stage - 1](h) * there
            h = block(h, mask) * there
        return self.close(h.sum(1) / there.sum(1).clamp(min=1))
