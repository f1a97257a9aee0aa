"""Small variational auto-encoders on the crops of the dynamical models, at their start and away from it."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from cropgen.models.base import Context
from cropgen.models.catalog import find, load
from cropgen.models.layers.vae.model import Rows, VariationalModel
from tests.models.dvaes.crops import DATA, SPEC, tied

TINY: dict[str, Any] = {"hidden": 8, "latent": 2, "samples": 3, "copies": 64}


def built(name: str, **settings: Any) -> VariationalModel:
    """A small model in double precision before its first step; without the common start it is prepared."""
    kind = load(find(name))
    torch.manual_seed(0)
    model = kind(SPEC, kind.Settings.model_validate({**TINY, **settings}))
    assert isinstance(model, VariationalModel)
    if settings.get("start") == "none":
        model.prepare(DATA, Context(seed=0))
    model = model.double().eval()
    if settings.get("start") != "none":
        model.tied.load_state_dict(tied().state_dict())
    return model


def disturbed(name: str, **settings: Any) -> VariationalModel:
    """A model whose every weight is away from its start."""
    model = built(name, **settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.2)
    return model


def normal_log_density(noise: Tensor) -> Tensor:
    """(…) of a standard normal, summed over the last axis."""
    return -0.5 * (noise.square() + math.log(2 * math.pi)).sum(-1)


def log_q_by_jacobian(model: VariationalModel, rows: Rows) -> tuple[Tensor, Tensor]:
    """log q(z | x) of the first row at a draw: as the model says, and as the map from noise to latents says."""
    noise = torch.randn(model.noise_size, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def latents(noise: Tensor) -> Tensor:
        return model.explain(rows, noise.view(1, 1, 1, -1)).z[0, 0, 0]

    jacobian = torch.autograd.functional.jacobian(latents, noise)
    assert isinstance(jacobian, Tensor)
    found = model.explain(rows, noise.view(1, 1, 1, -1)).log_q[0, 0, 0]
    return found, normal_log_density(noise) - torch.linalg.slogdet(jacobian).logabsdet
