"""The tied Gaussian with EM as a classifier of its own: seconds on a CPU, the yardstick of every deeper model.

References:
    Maximum Likelihood from Incomplete Data via the EM Algorithm, Dempster, Laird and Rubin, 1977.
    A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices, Ledoit and Wolf, 2004.
"""

from __future__ import annotations

from typing import ClassVar

from cropgen.models.base import Context, InputSpec, Options, TrainingData
from cropgen.models.layers.tied_classifier import TiedClassifier
from cropgen.models.layers.tied_fit import TiedOptions, fit_tied


class TiedGaussianEM(TiedClassifier):
    """p(x | y) = N(μ_y, V) on the calendar grid, fitted on labelled and unlabelled parcels."""

    Settings: ClassVar[type[Options]] = TiedOptions
    uses_unlabelled: ClassVar[bool] = True

    def __init__(self, spec: InputSpec, options: TiedOptions) -> None:
        super().__init__(spec, options)
        self.settings = options

    @property
    def adapts(self) -> bool:
        return True

    def prepare(self, data: TrainingData, context: Context) -> None:
        fitted = fit_tied(self.spec, data, self.settings, context)
        self.gaussian.load_state_dict(fitted.state_dict())
