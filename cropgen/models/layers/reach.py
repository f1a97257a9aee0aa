"""How far the seasons learnt from were seen, and which seasons end well before that.

A network knows whole seasons; shown the beginning of one, it is wrong and sure of it. A density says exactly what a
beginning says, by its marginal. So a model that has both must know when it looks at a beginning.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cropgen.models.base import TrainingData
from cropgen.series.batches import Batch

_ENDED_BEFORE = 0.01
_MISSED = 4


class Reach(nn.Module):
    """Where the seasons learnt from end: the 1 % quantile of their last observed slots.

    A season is a beginning if it lacks more than the last quarter of that. A network bears to miss less, having learnt
    with dates left out, and most is known by then.
    """

    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros((), dtype=torch.int64))

    def learn(self, data: TrainingData) -> None:
        """Look at the rows learnt from."""
        ends = torch.cat([last_slot(part) for part in (data.labelled, data.unlabelled) if part is not None])
        seen = ends[ends >= 0].sort().values
        if len(seen):
            self.last.copy_(seen[int(_ENDED_BEFORE * len(seen))])

    def ended_early(self, batch: Batch) -> Tensor:
        """(B,) whether a season is a beginning of those learnt from."""
        return last_slot(batch) < self.last - (self.last + 1) // _MISSED


def last_slot(batch: Batch) -> Tensor:
    """(B,) the last observed slot of each row, −1 where none is."""
    return torch.where(batch.mask, batch.slot, -1).amax(1)
