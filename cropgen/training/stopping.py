"""Early stopping: validation rows judge the model while it learns, and the best one is kept.

Reference: Early Stopping — But When?, Prechelt, 1998.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from cropgen.core.errors import UsageError
from cropgen.models.base import Classifier, TrainingData
from cropgen.series.batches import Batch

JUDGE_EVERY = 30
_JUDGED = 4096
_ROWS_AT_ONCE = 1024
_LEAST_LOG = -30.0


class Watch:
    """The best model so far by its likelihood of the validation labels.

    Arguments:
        patience: judgements without a better one before the training is over; 0 judges never.
        data: its validation rows are judged on, at most 4,096 of them.

    Raises:
        UsageError: patience without validation rows.
    """

    def __init__(self, patience: int, data: TrainingData) -> None:
        if patience and data.validation is None:
            raise UsageError(
                f"patience = {patience} judges by validation rows and there are none",
                hint="keep some labels for it with --validation 20%, or leave patience at 0",
            )
        self._patience = patience
        self._rows = data.validation if patience else None
        self._best: dict[str, Tensor] = {}
        self.nll, self.step, self.waited = math.inf, 0, 0

    def due(self, step: int, *, last: bool) -> bool:
        """Whether to judge after a number of steps."""
        return self._rows is not None and (last or step % JUDGE_EVERY == 0)

    @property
    def over(self) -> bool:
        """Whether patience is at its end."""
        return self._rows is not None and self.waited >= self._patience

    def judge(self, model: Classifier, step: int, device: torch.device) -> float:
        """Keep the model if it is the best so far.

        Returns:
            Its mean −log p(y | x) of the validation rows, in nats.
        """
        if self._rows is None:
            return math.nan
        nll = validation_nll(model, self._rows, device)
        if nll < self.nll:
            self.nll, self.step, self.waited = nll, step, 0
            self._best = {key: value.detach().cpu().clone() for key, value in model.state_dict().items()}
        else:
            self.waited += 1
        return nll

    def recall(self, model: Classifier) -> dict[str, float]:
        """Bring the model to the best state; nothing happens where none was judged.

        Returns:
            What is worth keeping in the manifest.
        """
        if not self._best:
            return {}
        model.load_state_dict(self._best)
        return {"step": self.step, "nll": self.nll}

    def state(self) -> dict[str, Tensor]:
        """Everything above as tensors, for the checkpoint; empty where nothing is judged."""
        if self._rows is None:
            return {}
        return {
            "nll": torch.tensor(self.nll, dtype=torch.float64),
            "count": torch.tensor([self.step, self.waited]),
            **{f"best.{key}": value for key, value in self._best.items()},
        }

    def load(self, state: dict[str, Tensor]) -> None:
        """Continue from `state`."""
        if "nll" not in state or "count" not in state:
            return
        self.nll = float(state["nll"])
        self.step, self.waited = (int(number) for number in state["count"])
        self._best = {key.removeprefix("best."): value for key, value in state.items() if key.startswith("best.")}


def validation_nll(model: Classifier, rows: Batch, device: torch.device) -> float:
    """Mean −log p(y | x) in nats of a model that is being trained, of at most 4,096 labelled rows."""
    chosen = torch.linspace(0, len(rows) - 1, min(len(rows), _JUDGED)).round().long()
    model.eval()
    losses = []
    with torch.no_grad():
        for part in chosen.split(_ROWS_AT_ONCE):
            batch = rows.take(part).to(device=device)
            told = model.log_posterior(batch).gather(1, batch.y[:, None]).double()
            losses.append(-told.clamp(min=_LEAST_LOG).nan_to_num(_LEAST_LOG))
    model.train()
    return float(torch.cat(losses).mean())
