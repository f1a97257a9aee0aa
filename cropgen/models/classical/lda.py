"""Linear discriminant analysis: class means and one covariance, learnt from labels alone.

    p(x | y) = N(μ_y, Σ),   p(y) ∝ n_y^a

on the calendar grid, Σ with Ledoit-Wolf shrinkage, so that log p(y | x) is linear in x. Augmented copies of the labels
are used where cross-validation on the labels finds that they help, and the posterior is tempered. Missing dates are
integrated out exactly.

References:
    The Use of Multiple Measurements in Taxonomic Problems, Fisher, 1936;
    A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices, Ledoit and Wolf, 2004.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from cropgen.models.base import Context, GenerativeModel, InputSpec, Mixture, Options, TrainingData
from cropgen.models.layers.class_gaussians import Form, GaussianOptions, fit_chosen, keep_estimate
from cropgen.models.layers.innovations import TiedGaussian
from cropgen.series.batches import Batch

_ROWS_AT_ONCE = 4096


class LinearDiscriminantOptions(GaussianOptions):
    """Options of linear discriminant analysis."""


class LinearDiscriminant(GenerativeModel):
    """Gaussian classes of one covariance (see the module)."""

    Settings: ClassVar[type[Options]] = LinearDiscriminantOptions

    def __init__(self, spec: InputSpec, options: LinearDiscriminantOptions) -> None:
        super().__init__(spec, options)
        self.settings = options
        self.gaussian = TiedGaussian(spec)

    def prepare(self, data: TrainingData, context: Context) -> None:
        chosen = fit_chosen(self.spec, data, self.settings, Form(), context)
        keep_estimate(self.gaussian, chosen.fit.tied, chosen.seen)
        if chosen.beta is not None:
            self.gaussian.beta.fill_(chosen.beta)
        context.facts["lda"] = chosen.facts | {"beta": float(self.gaussian.beta)}

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
