"""Two temporal CNNs in one: the control beside every pool of a density and a network.

    log p(y | x) = log softmax((log p_1(y | x) + log p_2(y | x)) / 2)

The members are the network of `tempcnn.py` with the same options; they see the same mini-batches, start from other
weights and are augmented differently. What a pool of unlike members gains beyond this is not the gain of averaging.

Reference: Simple and Scalable Predictive Uncertainty Estimation using Deep Ensembles, Lakshminarayanan, Pritzel and
Blundell, 2017.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from cropgen.models.base import Classifier, Context, GradientOptions, InputSpec, Objective, Options, TrainingData
from cropgen.models.discriminative.tempcnn import TempCNN, TempCNNOptions
from cropgen.series.batches import Batch


class TempCNN2(Classifier):
    """Ensemble of two temporal CNNs (see the module)."""

    Settings: ClassVar[type[Options]] = TempCNNOptions
    learns_by_gradient = True
    uses_unlabelled = True

    def __init__(self, spec: InputSpec, options: Options) -> None:
        super().__init__(spec, options)
        self.first, self.second = TempCNN(spec, options), TempCNN(spec, options)

    @property
    def members(self) -> dict[str, TempCNN]:
        return {"first": self.first, "second": self.second}

    def prepare(self, data: TrainingData, context: Context) -> None:
        for member in self.members.values():
            member.prepare(data, context)

    def finish(self, data: TrainingData, context: Context) -> None:
        for member in self.members.values():
            member.finish(data, context)

    def learners(self) -> list[tuple[nn.Module, GradientOptions]]:
        return [learner for member in self.members.values() for learner in member.learners()]

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        """The sum of the objectives of the members, each on its own view."""
        parts = {name: member.objective(batch, generator) for name, member in self.members.items()}
        terms = {f"{name}.{key}": value for name, part in parts.items() for key, value in part.terms.items()}
        return Objective(torch.stack([part.total for part in parts.values()]).sum(), terms)

    def log_posterior(self, batch: Batch) -> Tensor:
        answers = [member.log_posterior(batch) for member in self.members.values()]
        return torch.log_softmax(torch.stack(answers).mean(0), -1)
