"""A small model of four dates of one band and two classes, in double precision, for the tests of the rows."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor

from cropgen.core.recipe import validate
from cropgen.models.base import InputSpec
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.residual import ResidualModel, ResidualOptions, WhitenedBatch
from cropgen.models.layers.vae.networks import ClasswiseMLP
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

SLOTS, DTYPE = 4, torch.float64
SPEC = InputSpec(("NDVI",), Calendar("month", 3, SLOTS), Legend.from_codes("two", ["a", "b"]))
MEANS = torch.tensor([[0.3, 0.1, 0.0, -0.2], [-0.3, 0.4, 0.2, 0.0]])
LOADING = torch.tensor([[0.9, 0.4], [0.6, -0.2], [-0.3, 0.8], [0.0, 0.75]], dtype=DTYPE)  # columns at right angles

_Model = TypeVar("_Model", bound=ResidualModel)


def build(kind: type[_Model], spec: InputSpec = SPEC, **settings: object) -> _Model:
    """A model of a tied Gaussian with some means and covariance."""
    torch.manual_seed(1)
    small: dict[str, object] = {"latent": 2, "hidden": 16, "samples": 3} | settings
    options = validate(kind.Settings, small, where="test")
    assert isinstance(options, ResidualOptions)
    model = kind(spec, options).double().eval()
    if getattr(model.options, "start", "tgem") == "none":
        return model
    root = torch.randn((model.size, model.size), generator=torch.Generator().manual_seed(5), dtype=DTYPE)
    with torch.no_grad():
        model.tied.means.copy_(MEANS)
        model.tied.cov.copy_(root @ root.T / model.size + 0.5 * torch.eye(model.size))
        model.tied.chol.copy_(torch.linalg.cholesky(model.tied.cov))
        model.tied.log_prior.copy_(torch.tensor([0.6, 0.4], dtype=DTYPE).log())
    return model


def parcels(count: int, *, gaps: bool = True, known: bool = False, seed: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn((count, SLOTS, 1), generator=generator, dtype=DTYPE)
    mask = torch.rand((count, SLOTS), generator=generator) > (0.25 if gaps else -1)
    mask[:, 0] = True
    day = torch.tensor([95.0, 125.0, 155.0, 185.0], dtype=DTYPE).expand(count, SLOTS).contiguous()
    y = torch.arange(count) % 2 if known else torch.full((count,), -1)
    return Batch(values * mask[..., None], mask, day, torch.arange(SLOTS).expand(count, -1).contiguous(), y)


def seasons_of(model: ResidualModel, batch: Batch) -> Seasons:
    return model._seasons(batch)


def whitened(seasons: Seasons) -> WhitenedBatch:
    """A batch with its innovations, as the bank gives them."""
    slot = torch.arange(SLOTS).expand(len(seasons), -1)
    return WhitenedBatch(seasons.x, seasons.mask, seasons.day, slot, seasons.y, seasons)


def scramble(model: torch.nn.Module, words: tuple[str, ...], spread: float, seed: int) -> None:
    """Add noise to the parameters whose name begins with one of the words."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(words):
                parameter += spread * torch.randn(parameter.shape, generator=generator, dtype=DTYPE)


def make_linear(decoder: torch.nn.Module, loading: Tensor) -> None:
    """Let a decoder answer A z, made of relu(z) and relu(−z)."""
    assert isinstance(decoder, ClasswiseMLP)
    size = loading.shape[1]
    both = torch.cat([torch.eye(size, dtype=DTYPE), -torch.eye(size, dtype=DTYPE)])
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
        decoder.embed.weight[: 2 * size] = both
        decoder.answer.weight[:, : 2 * size] = torch.cat([loading, -loading], 1)
