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

from cropgen.models.base import Context, InputSpec, Options, TrainingData
from cropgen.models.layers.class_gaussians import Form, GaussianOptions, fit_chosen, keep_estimate
from cropgen.models.layers.tied_classifier import TiedClassifier


class LinearDiscriminantOptions(GaussianOptions):
    """Options of linear discriminant analysis."""


class LinearDiscriminant(TiedClassifier):
    """Gaussian classes of one covariance."""

    Settings: ClassVar[type[Options]] = LinearDiscriminantOptions

    def __init__(self, spec: InputSpec, options: LinearDiscriminantOptions) -> None:
        super().__init__(spec, options)
        self.settings = options

    def prepare(self, data: TrainingData, context: Context) -> None:
        chosen = fit_chosen(self.spec, data, self.settings, Form(), context)
        keep_estimate(self.gaussian, chosen.fit.tied, chosen.seen)
        if chosen.beta is not None:
            self.gaussian.beta.fill_(chosen.beta)
        context.facts["lda"] = chosen.facts | {"beta": float(self.gaussian.beta)}
