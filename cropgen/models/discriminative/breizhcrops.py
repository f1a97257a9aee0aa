"""The networks of the `breizhcrops` package as they were published, for comparison with the literature.

    p(y | x) = softmax(network(x_{t_1}, …, x_{t_45}))

45 dates are drawn from the clear ones of a season, in order and with repetition where there are fewer; the network sees
reflectances only: no dates, no mask, no standardisation, no augmentation. Training draws the dates at random, as the
package does; for classification they are spread evenly, because the package's random dates would give another answer
each time. Steps, mini-batches and schedule are those of all networks here, at the published peak rate and decay.

What was published is kept, faults included: in InceptionTime only the last layer learns, the layers of StarRNN beyond
the first share one set of weights, and the transformer is told no positions. For networks without these faults see the
models of the same names without the prefix.

Reference: BreizhCrops: A Time Series Dataset for Crop Type Mapping, Rußwurm, Pelletier, Zollner, Lefèvre and Körner,
2020.
"""

from __future__ import annotations

import importlib
import warnings
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from cropgen.core.errors import MissingDependencyError
from cropgen.models.base import Classifier, Context, GradientOptions, InputSpec, Objective, Options, TrainingData
from cropgen.models.discriminative.network import label_prior, usual_steps
from cropgen.models.layers.recurrent import compact
from cropgen.series.batches import Batch

DATES = 45


class ZooOptions(GradientOptions):
    """Options of the published networks."""

    steps: int = Field(
        0, ge=0, description="gradient steps; 0: twenty passes over the labels, at least 450, at most 3000"
    )
    labelled_batch: int = Field(64, ge=2, description="labelled parcels in a mini-batch")
    learning_rate: float = Field(
        0.0, ge=0, description="peak of the one-cycle schedule; 0: the published one",
        json_schema_extra={"search": [0.0, 3e-4, 1e-3, 3e-3]},
    )  # fmt: skip
    weight_decay: float = Field(
        -1.0, ge=-1, description="AdamW weight decay; −1: the published one",
        json_schema_extra={"search": [-1.0, 1e-4, 1e-2]},
    )  # fmt: skip


class ZooModel(Classifier):
    """A network of the package on 45 dates (see the module); a subclass names it."""

    Settings: ClassVar[type[Options]] = ZooOptions
    learns_by_gradient = True
    network_name: ClassVar[str]
    rate: ClassVar[float]
    decay: ClassVar[float]
    fixed_length: ClassVar[bool] = False

    log_prior: Tensor

    def __init__(self, spec: InputSpec, options: Options) -> None:
        super().__init__(spec, options)
        self.network = self.build(len(spec.bands), spec.classes)
        self.steps = self.chosen.steps or usual_steps(0, self.chosen.labelled_batch)
        self.register_buffer("log_prior", label_prior(torch.empty(0, dtype=torch.int64), spec.classes).float())

    @property
    def chosen(self) -> ZooOptions:
        return cast(ZooOptions, self.options)

    def build(self, bands: int, classes: int) -> nn.Module:
        """The published network for C bands and K classes.

        Raises:
            MissingDependencyError: the package is not installed.
        """
        try:
            zoo = importlib.import_module("breizhcrops.models")
        except ImportError as error:
            raise MissingDependencyError(
                f"the network breizhcrops:{self.network_name.lower()} needs the package breizhcrops: {error}",
                hint="pip install 'cropgen[zoo]', or choose a network without the prefix",
            ) from error
        length = {"sequencelength": DATES} if self.fixed_length else {}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "enable_nested_tensor is True", UserWarning)
            return getattr(zoo, self.network_name)(input_dim=bands, num_classes=classes, **length)

    def prepare(self, data: TrainingData, context: Context) -> None:
        """Class prior and number of steps."""
        self.log_prior.copy_(label_prior(data.labelled.y, self.spec.classes))
        self.steps = self.chosen.steps or usual_steps(len(data.labelled), self.chosen.labelled_batch)
        context.facts["breizhcrops"] = {"network": self.network_name, "steps": self.steps}

    def learners(self) -> list[tuple[nn.Module, GradientOptions]]:
        chosen = self.chosen
        plan: dict[str, Any] = {
            "steps": self.steps,
            "unlabelled_batch": 0,
            "learning_rate": chosen.learning_rate or self.rate,
            "weight_decay": chosen.weight_decay if chosen.weight_decay >= 0 else self.decay,
        }
        return [(self, chosen.model_copy(update=plan))]

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        """Cross-entropy of the labelled rows on dates drawn at random."""
        labelled = batch.take(batch.y_mask)
        seen, count = _clear(labelled)
        loss = functional.nll_loss(self._answer(take_dates(seen, random_places(count, generator))), labelled.y)
        return Objective(loss, {"supervised": loss})

    def log_posterior(self, batch: Batch) -> Tensor:
        seen, count = _clear(batch)
        answer = self._answer(take_dates(seen, even_places(count)))
        return torch.where((count > 0)[:, None], answer, self.log_prior)

    def _answer(self, x: Tensor) -> Tensor:
        return self.network(x).reshape(len(x), self.spec.classes)


def _clear(batch: Batch) -> tuple[Tensor, Tensor]:
    """The clear dates of each row (B, T, C) moved to the front, and their number (B,)."""
    mask = batch.mask & (batch.slot >= 0)
    return compact(torch.where(mask[..., None], batch.values, 0), mask)


def take_dates(seen: Tensor, places: Tensor) -> Tensor:
    """(B, 45, C) the dates at `places` (B, 45) of (B, T, C)."""
    return seen.gather(1, places[..., None].expand(-1, -1, seen.shape[2]))


def even_places(count: Tensor) -> Tensor:
    """(B, 45) int64 ascending positions spread evenly over the first `count` (B,) dates."""
    share = (torch.arange(DATES, device=count.device) + 0.5) / DATES
    return (share * count[:, None]).long()


def random_places(count: Tensor, generator: torch.Generator) -> Tensor:
    """(B, 45) int64 ascending random positions among the first `count` (B,) dates, repeated only if there are fewer."""
    dates = max(DATES, int(count.max()))
    beyond = torch.arange(dates) >= count.cpu()[:, None]
    draw = torch.rand(len(count), dates, generator=generator)
    once = draw.masked_fill(beyond, 2).argsort(1)[:, :DATES]
    again = (draw[:, :DATES] * count.cpu()[:, None]).long()
    places = torch.where((count.cpu() >= DATES)[:, None], once, again)
    return places.sort(1).values.to(count.device)


class ZooTempCNN(ZooModel):
    """TempCNN as published."""

    network_name, rate, decay, fixed_length = "TempCNN", 2.39e-4, 5.18e-5, True


class ZooLSTM(ZooModel):
    """LSTM as published."""

    network_name, rate, decay = "LSTM", 9.88e-3, 5.26e-7


class ZooStarRNN(ZooModel):
    """StarRNN as published: the layers beyond the first are one."""

    network_name, rate, decay = "StarRNN", 8.96e-3, 2.22e-6

    def _answer(self, x: Tensor) -> Tensor:
        layers = cast(nn.Sequential, self.network.block)
        for layer in layers:
            layer.device = x.new_empty(0)  # the published layer moves its zero state there: x's device and precision
        return super()._answer(x)


class ZooInceptionTime(ZooModel):
    """InceptionTime as published: only its last layer learns.

    The package keeps the convolutions in plain lists, where neither the optimiser nor a saved model finds them. Here
    they are buffers, so that the random convolutions are saved and loaded; they still do not learn.
    """

    network_name, rate, decay = "InceptionTime", 1e-2, 1e-6

    def build(self, bands: int, classes: int) -> nn.Module:
        network: Any = super().build(bands, classes)
        hidden = [*network.inception_modules_list, *network.shortcut_layer_list]
        for module in network.inception_modules_list:
            module.add_module("widths", nn.ModuleList(module.convolutions))
        network.add_module("unlearnt", nn.ModuleList(hidden))
        for module in network.unlearnt.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                delattr(module, name)
                module.register_buffer(name, weight.detach())
        return network


class ZooMSResNet(ZooModel):
    """MSResNet as published."""

    network_name, rate, decay = "MSResNet", 6.27e-4, 4.75e-6


class ZooOmniScaleCNN(ZooModel):
    """OmniScaleCNN as published."""

    network_name, rate, decay, fixed_length = "OmniScaleCNN", 1.06e-3, 2.25e-7, True


class ZooTransformer(ZooModel):
    """Transformer as published: it is told neither dates nor positions."""

    network_name, rate, decay = "TransformerModel", 1.74e-4, 3.52e-6
