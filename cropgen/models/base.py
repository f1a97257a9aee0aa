"""What every model is: protocols between models, training and prediction.

A model is built from an `InputSpec` (what it sees) and its frozen options (what it is); `prepare` does everything that
has a closed form or an iteration of its own (statistics, EM, a forest); `objective` gives the loss of a mini-batch for
models that then learn by gradient; `log_posterior` classifies. Weights are the module's parameters and buffers.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from cropgen.core.progress import Reporter, Silent
from cropgen.models.layers.affine_calibrator import AffineCalibrator
from cropgen.series.batches import Batch, concatenate_batches, make_batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.site import site_covariates


@dataclass(frozen=True)
class InputSpec:
    """What a model sees and answers.

    Arguments:
        bands: names of the C input bands, in order.
        calendar: the grid of G slots for models that live on one.
        legend: the K classes.
        pixel_bands: those of the bands that pixel sets are given of; empty where none are.
        site: names of the S site covariates, as of `series.site`; empty where none are.
    """

    bands: tuple[str, ...]
    calendar: Calendar
    legend: Legend
    pixel_bands: tuple[str, ...] = ()
    site: tuple[str, ...] = ()

    @property
    def classes(self) -> int:
        return len(self.legend)

    def to_json(self) -> dict[str, Any]:
        return {
            "bands": list(self.bands),
            "calendar": self.calendar.to_json(),
            "legend": self.legend.to_json(),
            **({"pixel_bands": list(self.pixel_bands)} if self.pixel_bands else {}),
            **({"site": list(self.site)} if self.site else {}),
        }

    @classmethod
    def from_json(cls, document: dict[str, Any]) -> InputSpec:
        return cls(
            tuple(document["bands"]),
            Calendar.from_json(document["calendar"]),
            Legend.from_json(document["legend"]),
            tuple(document.get("pixel_bands", ())),
            tuple(document.get("site", ())),
        )

    def batch(self, series: ParcelSeries, classes: np.ndarray | None = None) -> Batch:
        """Rows of a container as the model sees them: its bands, its calendar, its site covariates.

        Arguments:
            series: rows with these bands and site covariates among others.
            classes: (K,) positions of the model's classes in the legend of the store; None: labels as they are.

        Raises:
            SchemaError: a band or a site covariate is not there.
        """
        seen = make_batch(series.select_bands(self.bands), self.calendar, classes)
        return replace(seen, site=torch.from_numpy(site_covariates(series, self.site))) if self.site else seen


class Options(BaseModel):
    """Base of every model's options: frozen, unknown keys rejected, each field with a description.

    Help, documentation and TOML are made from the fields.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")


class GradientOptions(Options):
    """Options of every model that learns by gradient."""

    steps: int = Field(400, ge=1, description="gradient steps")
    labelled_batch: int = Field(64, ge=1, description="labelled parcels in a mini-batch")
    unlabelled_batch: int = Field(96, ge=0, description="unlabelled parcels in a mini-batch, for models that use them")
    learning_rate: float = Field(1e-3, gt=0, description="peak of the one-cycle schedule")
    weight_decay: float = Field(1e-4, ge=0, description="AdamW weight decay")
    clip: float = Field(5.0, gt=0, description="gradient norm above which gradients are scaled down")
    patience: int = Field(
        0, ge=0, description="judgements by the validation rows without a better one before training stops; 0: off"
    )


@dataclass(frozen=True)
class TrainingData:
    """What a model may learn from.

    Arguments:
        labelled: rows whose class is known.
        unlabelled: rows whose class is not used, or None; their `y` is −1.
        validation: rows whose class is known and that no weight is fitted to, or None: they only judge, such as when
            to stop and how sure to be. They share no spatial block with the other rows.
        target: rows of the season or region that is to be classified, without classes, or None: models that adapt
            learn from them as from unlabelled rows, all others leave them alone.
    """

    labelled: Batch
    unlabelled: Batch | None = None
    validation: Batch | None = None
    target: Batch | None = None

    @property
    def free(self) -> Batch | None:
        """Unlabelled rows and those of the target together."""
        parts = [part for part in (self.unlabelled, self.target) if part is not None]
        return concatenate_batches(parts) if parts else None


@dataclass(frozen=True)
class Context:
    """Randomness and reporting of one training, and the facts worth keeping in the run's manifest.

    Arguments:
        seed: every random number of the training derives from it.
        report: receives progress and messages.
        facts: filled by the model: decisions it took, such as whether a guard fell back.
    """

    seed: int = 0
    report: Reporter = field(default_factory=Silent)
    facts: dict[str, Any] = field(default_factory=dict)

    def generator(self, purpose: str) -> torch.Generator:
        """A fresh generator for a named purpose, independent of the order of other draws."""
        digest = hashlib.sha256(f"{self.seed}/{purpose}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@dataclass(frozen=True)
class Objective:
    """A scalar loss to minimise and the named parts it is made of."""

    total: Tensor
    terms: dict[str, Tensor]


class Classifier(nn.Module, ABC):
    """A model that gives log p(y | x).

    Arguments:
        spec: what the model sees and answers.
        options: an instance of the class's `Settings`.
    """

    Settings: ClassVar[type[Options]]
    learns_by_gradient: ClassVar[bool] = False
    uses_unlabelled: ClassVar[bool] = False

    def __init__(self, spec: InputSpec, options: Options) -> None:
        super().__init__()
        self.spec = spec
        self.options = options
        self.calibrator: AffineCalibrator | None = None

    @abstractmethod
    def log_posterior(self, batch: Batch) -> Tensor:
        """(B, K) normalised log p(y | x). A row without any clear date gets the class prior."""

    def calibrated_log_posterior(self, batch: Batch) -> Tensor:
        """(B, K) what is answered: log p(y | x), corrected where a calibrator was fitted and the row was seen."""
        said = self.log_posterior(batch)
        if self.calibrator is None:
            return said
        seen = (batch.mask & (batch.slot >= 0)).any(1)
        return torch.where(seen[:, None], self.calibrator(said), said)

    @property
    def adapts(self) -> bool:
        """Whether rows of the target domain are learnt from."""
        return False

    def check_device(self, device: torch.device) -> None:
        """Refuse a device on which the gradient steps cannot be taken as asked; called before `prepare`."""

    def prepare(self, data: TrainingData, context: Context) -> None:
        """Fit whatever has a closed form or an iteration of its own; called once, before any gradient step."""

    def augmented(self, batch: Batch, generator: torch.Generator) -> Batch:
        """The view of a training mini-batch that the objective is computed on; by default the batch itself."""
        return batch

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        """Loss of a mini-batch of labelled and unlabelled rows, for models that learn by gradient."""
        raise TypeError(f"{type(self).__name__} does not learn by gradient")

    def learners(self) -> list[tuple[nn.Module, GradientOptions]]:
        """The modules that learn by gradient, each with how it is to be trained; asked for after `prepare`."""
        return [(self, self.options)] if isinstance(self.options, GradientOptions) else []

    def finish(self, data: TrainingData, context: Context) -> None:
        """Called once after the last gradient step: calibration and other closing fits."""

    def fixed_state(self) -> dict[str, Any]:
        """JSON-able facts needed to rebuild the module before weights are loaded (sizes fixed by the data)."""
        return {}

    def restore_fixed_state(self, state: dict[str, Any]) -> None:
        """Bring the module to the shapes of `fixed_state`, ready for `load_state_dict`."""


@dataclass(frozen=True)
class Mixture:
    """What a model expects of B rows at S slots: a Gaussian mixture for each value, of as many components as classes.

    Arguments:
        weight: (B, K) weights of the components.
        mean: (B, K, S, C) reflectance.
        variance: (B, S, C) the same for every component.
    """

    weight: Tensor
    mean: Tensor
    variance: Tensor


class GenerativeModel(Classifier):
    """A model of p(x, y), classified by Bayes' rule."""

    @abstractmethod
    def log_joint(self, batch: Batch) -> Tensor:
        """(B, K) log p(x, y) in nats of the observed values in reflectance units, or a lower bound of it."""

    def log_posterior(self, batch: Batch) -> Tensor:
        return torch.log_softmax(self.log_joint(batch), -1)

    def log_likelihood(self, batch: Batch) -> Tensor:
        """(B,) log p(x), the classes summed out; 0 for a row without any clear date."""
        return torch.logsumexp(self.log_joint(batch), -1)

    @abstractmethod
    def sample(self, y: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """(B, G, C) seasons on the model's calendar drawn from p(x | y), one per entry of `y` (B,)."""

    def predictive(self, batch: Batch, slots: Tensor) -> Mixture | None:
        """p(values at `slots` (S,) of the calendar | what the rows show) where it has a closed form, or None."""
        return None
