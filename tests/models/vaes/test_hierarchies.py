"""Hierarchies of Gaussian latents: exact start, exact bounds where they are known, divergences, missing dates, L^{>k}."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from cropgen.core.errors import UsageError
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.vae.hierarchy import Descent, HierarchicalModel, HierarchicalOptions, Level, Seen
from cropgen.models.layers.vae.ladder import half_lengths
from cropgen.models.vaes.biva import BIVA
from cropgen.models.vaes.lvae import LVAE, merged
from cropgen.models.vaes.nvae import NVAE
from tests.models.dvaes.crops import BANDS, CLASSES, SLOTS, SPEC, TEST, taught, tied

ROWS: list[type[HierarchicalModel]] = [LVAE, BIVA, NVAE]
TINY: dict[str, Any] = {"hidden": 8, "latent": 2, "samples": 3, "copies": 64}
every_row = pytest.mark.parametrize("kind", ROWS, ids=lambda kind: kind.__name__)


def built(kind: type[HierarchicalModel], **settings: Any) -> HierarchicalModel:
    """A small model in double precision before its first step."""
    torch.manual_seed(0)
    model = kind(SPEC, kind.Settings.model_validate({**TINY, **settings})).double().eval()
    model.tied.load_state_dict(tied().state_dict())
    return model


def disturbed(kind: type[HierarchicalModel], **settings: Any) -> HierarchicalModel:
    """A model whose every weight is away from its start."""
    model = built(kind, **settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.15)
    return model


@every_row
def test_it_begins_exactly_at_the_tied_gaussian(kind: type[HierarchicalModel]) -> None:
    model = built(kind)
    x, mask = model.tied.grid(TEST)
    with torch.no_grad():
        exact = model.tied.log_joint(x, mask)
        assert torch.allclose(model.log_joint(TEST), exact, atol=1e-9, rtol=0)
        for level in (1, 3):
            assert torch.allclose(model.log_joint_above(TEST, level), exact, atol=1e-9, rtol=0)
        use = model.use_of_latents(TEST)
    assert use["kl"] == pytest.approx([0.0] * len(use["kl"]), abs=1e-9)  # type: ignore[arg-type]
