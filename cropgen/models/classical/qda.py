"""Quadratic discriminant analysis: a mean and a covariance for every class, shrunk towards the pooled one.

    p(x | y) = N(μ_y, Σ_y),   Σ_y = (1 − r_y) Σ + r_y S_y,   r_y = s n_y / (n_y + D)

with Ledoit-Wolf shrinkage of both parts; see `cropgen.models.layers.class_gaussians`.

Reference: Regularized Discriminant Analysis, Friedman, 1989.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from cropgen.models.base import InputSpec, Options
from cropgen.models.layers.class_gaussians import ClassGaussians, Form, GaussianOptions


class QuadraticDiscriminantOptions(GaussianOptions):
    """Options of quadratic discriminant analysis."""

    share: float = Field(
        0.1, gt=0, le=1, description="share s of a class's own covariance when its labels are many",
        json_schema_extra={"search": [0.1, 0.3, 1.0]},
    )  # fmt: skip


class QuadraticDiscriminant(ClassGaussians):
    """One Gaussian of its own covariance for every class."""

    Settings: ClassVar[type[Options]] = QuadraticDiscriminantOptions
    name = "qda"

    def __init__(self, spec: InputSpec, options: QuadraticDiscriminantOptions) -> None:
        super().__init__(spec, options)
        self.share = options.share

    def form(self) -> Form:
        return Form(share=self.share)
