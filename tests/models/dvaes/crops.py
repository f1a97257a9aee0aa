"""Three crops on a short calendar, and small dynamical models of them, for the tests of these models."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.catalog import find, load
from cropgen.models.layers.dynamical import DynamicalModel
from cropgen.models.layers.innovations import TiedGaussian
from cropgen.models.layers.tied_fit import TiedOptions, fit_tied
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

SLOTS, BANDS, CLASSES = 6, 2, 3
SPEC = InputSpec(("B04", "B08"), Calendar("month", 2, SLOTS), Legend.from_codes("crops", ["1", "2", "3"]))
TINY = {"hidden": 6, "latent": 3, "smoothing": 4, "copies": 64}


@dataclass(frozen=True)
class Growth:
    """When the first crop is greenest, how many slots later the next, and for how long each is."""

    first: float
    apart: float
    long: float


def green_up(spec: InputSpec, growth: Growth, count: int, seed: int, *, known: bool, gaps: float) -> Batch:
    """Crops that green up at different times, seen in two bands; dates are missing at random."""
    slots, rng = spec.calendar.count, np.random.default_rng(seed)
    y = np.arange(count) % spec.classes
    green = np.exp(-0.5 * ((np.arange(slots) - growth.first - growth.apart * y[:, None]) / growth.long) ** 2)
    values = np.stack([0.15 - 0.1 * green, 0.2 + 0.3 * green], -1) + rng.normal(0, 0.03, (count, slots, 2))
    mask = rng.random((count, slots)) >= gaps
    day = np.broadcast_to(spec.calendar.start_days() + 9, mask.shape)
    return Batch(
        values=torch.from_numpy((values * mask[..., None]).astype(np.float32)),
        mask=torch.from_numpy(mask),
        day=torch.from_numpy(day.astype(np.float32)),
        slot=torch.arange(slots).expand(count, -1),
        y=torch.from_numpy(y if known else np.full(count, -1)),
    )


def seasons(count: int, seed: int, *, known: bool = True, gaps: float = 0.25) -> Batch:
    """Rows of the three crops."""
    return green_up(SPEC, Growth(1.2, 1.3, 1.1), count, seed, known=known, gaps=gaps)


DATA = TrainingData(seasons(24, 0), seasons(48, 1, known=False))
TEST = seasons(9, 2).to(dtype=torch.float64)


@lru_cache
def tied() -> TiedGaussian:
    """The common start of all of them, its factor exact in double precision."""
    gaussian = fit_tied(SPEC, DATA, TiedOptions.model_validate({}), Context(seed=0)).double()
    gaussian.chol.copy_(torch.linalg.cholesky(gaussian.cov))
    return gaussian


def prepared(name: str, **settings: object) -> DynamicalModel:
    """A small model in double precision as it stands before its first gradient step."""
    kind = load(find(name))
    torch.manual_seed(0)
    model = kind(SPEC, kind.Settings.model_validate({**TINY, **settings})).double().eval()
    assert isinstance(model, DynamicalModel)
    model.tied.load_state_dict(tied().state_dict())
    return model


def disturbed(name: str, **settings: object) -> DynamicalModel:
    """A model whose every weight is away from its start."""
    model = prepared(name, **settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.15)
    return model


def taught(model: DynamicalModel, labelled_and_not: Batch) -> tuple[set[str], list[float]]:
    """Names of the parameters that thirty steps of learning have moved, and the loss of each step."""
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    losses, moved = [], set()
    for step in range(30):
        view = model.augmented(labelled_and_not, torch.Generator().manual_seed(2 * step))
        objective = model.objective(view, torch.Generator().manual_seed(2 * step + 1))
        optimiser.zero_grad()
        objective.total.backward()
        moved |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.any()}
        optimiser.step()
        losses.append(float(objective.total.detach()))
    return moved, losses
