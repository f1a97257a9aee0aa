"""A classifier that is a tied Gaussian on the calendar grid, however it was fitted."""

from __future__ import annotations

import torch
from torch import Tensor

from cropgen.models.base import GenerativeModel, InputSpec, Mixture, Options
from cropgen.models.layers.innovations import TiedGaussian
from cropgen.series.batches import Batch

_ROWS_AT_ONCE = 4096


class TiedClassifier(GenerativeModel):
    """p(x | y) = N(μ_y, V); subclasses fit `gaussian`."""

    def __init__(self, spec: InputSpec, options: Options) -> None:
        super().__init__(spec, options)
        self.gaussian = TiedGaussian(spec)

    def log_joint(self, batch: Batch) -> Tensor:
        x, m = self.gaussian.grid(batch)
        parts = zip(x.split(_ROWS_AT_ONCE), m.split(_ROWS_AT_ONCE), strict=True)
        return torch.cat([self.gaussian.log_joint(*part) for part in parts])

    def log_posterior(self, batch: Batch) -> Tensor:
        x, m = self.gaussian.grid(batch)
        parts = zip(x.split(_ROWS_AT_ONCE), m.split(_ROWS_AT_ONCE), strict=True)
        return torch.cat([self.gaussian.log_posterior(*part) for part in parts])

    def sample(self, y: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        return self.gaussian.sample(y, generator, temperature)

    def predictive(self, batch: Batch, slots: Tensor) -> Mixture:
        return self.gaussian.predictive(*self.gaussian.grid(batch), slots)
