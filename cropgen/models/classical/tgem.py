"""The tied Gaussian with EM as a classifier of its own: seconds on a CPU, the yardstick of every deeper model.

References:
    Maximum Likelihood from Incomplete Data via the EM Algorithm, Dempster, Laird and Rubin, 1977.
    A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices, Ledoit and Wolf, 2004.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from cropgen.models.base import Context, GenerativeModel, InputSpec, Mixture, Options, TrainingData
from cropgen.models.layers.innovations import TiedGaussian
from cropgen.models.layers.tied_fit import TiedOptions, fit_tied
from cropgen.series.batches import Batch

_ROWS_AT_ONCE = 4096


class TiedGaussianEM(GenerativeModel):
    """p(x | y) = N(μ_y, V) on the calendar grid, fitted on labelled and unlabelled parcels."""

    Settings: ClassVar[type[Options]] = TiedOptions
    uses_unlabelled: ClassVar[bool] = True

    def __init__(self, spec: InputSpec, options: TiedOptions) -> None:
        super().__init__(spec, options)
        self.settings = options
        self.gaussian = TiedGaussian(spec)

    @property
    def adapts(self) -> bool:
        return True

    def prepare(self, data: TrainingData, context: Context) -> None:
        fitted = fit_tied(self.spec, data, self.settings, context)
        self.gaussian.load_state_dict(fitted.state_dict())

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
