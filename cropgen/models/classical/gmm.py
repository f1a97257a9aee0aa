"""A mixture of Gaussians for every class: crops of several forms, such as early and late sowing.

    p(x | y) = Σ_j w_yj N(x; μ_yj, Σ_y)

The components of a class share its covariance, which is shrunk towards the pooled one as in quadratic discriminant
analysis. Fitted by EM from clusters of k-means; a class has as many components as its labels carry. See
`cropgen.models.layers.class_gaussians`.

Reference: Discriminant Analysis by Gaussian Mixtures, Hastie and Tibshirani, 1996.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from cropgen.models.base import InputSpec, Options
from cropgen.models.layers.class_gaussians import ClassGaussians, Form, GaussianOptions


class GaussianMixtureOptions(GaussianOptions):
    """Options of the mixtures of Gaussians."""

    components: int = Field(3, ge=1, description="most components of a class", json_schema_extra={"search": [2, 3, 5]})
    labels_per_component: int = Field(20, ge=1, description="labels that every component takes")
    share: float = Field(
        0.1, ge=0, le=1, description="share of a class's own covariance when its labels are many; 0 ties all classes",
        json_schema_extra={"search": [0.0, 0.1, 0.3]},
    )  # fmt: skip
    steps: int = Field(10, ge=1, description="steps of EM")


class GaussianMixture(ClassGaussians):
    """Several Gaussians for every class."""

    Settings: ClassVar[type[Options]] = GaussianMixtureOptions
    name = "gmm"

    def __init__(self, spec: InputSpec, options: GaussianMixtureOptions) -> None:
        super().__init__(spec, options)
        self.wanted = Form(options.share, options.components, options.labels_per_component, options.steps)

    def form(self) -> Form:
        return self.wanted
