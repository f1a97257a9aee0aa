"""Moving averages of weights, which answer in place of the weights of the last step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightAverage(nn.Module):
    """a ← a + (1 − δ_n) (w − a) for every parameter w, with δ_n = min(δ, (1 + n) / (10 + n)) after n steps.

    The averages are buffers, so a training that is resumed goes on with them.

    Arguments:
        model: whose parameters are averaged.
        decay: δ.

    Reference:
        Acceleration of Stochastic Approximation by Averaging, Polyak and Juditsky, 1992.
    """

    steps: Tensor

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        for name, parameter in model.named_parameters():
            self.register_buffer(self._key(name), parameter.detach().clone())

    @staticmethod
    def _key(name: str) -> str:
        return name.replace(".", "/")

    @torch.no_grad()
    def follow(self, model: nn.Module) -> None:
        """Take in the present weights; the first ones as they are."""
        count = int(self.steps)
        kept = min(self.decay, (1 + count) / (10 + count)) if count else 0.0
        for name, parameter in model.named_parameters():
            self.get_buffer(self._key(name)).lerp_(parameter, 1 - kept)
        self.steps += 1

    @torch.no_grad()
    def replace(self, model: nn.Module) -> None:
        """Give the averages to the model and begin anew; without a step nothing happens."""
        if int(self.steps):
            for name, parameter in model.named_parameters():
                parameter.copy_(self.get_buffer(self._key(name)))
            self.steps.zero_()

    @contextmanager
    def answering(self, model: nn.Module) -> Iterator[None]:
        """The model has the averages inside and its own weights again behind; without a step it keeps its own."""
        if not int(self.steps):
            yield
            return
        steps, own = self.steps.clone(), [parameter.detach().clone() for parameter in model.parameters()]
        self.replace(model)
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, kept in zip(model.parameters(), own, strict=True):
                    parameter.copy_(kept)
            self.steps.copy_(steps)
