"""Models of codes: exact start, exact sums against enumeration, bounds below them, missing dates, learning."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from cropgen.models.base import Context
from cropgen.models.layers.vae.bounds import log_mean_exp
from cropgen.models.layers.vae.coded import CodedModel
from cropgen.models.layers.vae.model import Rows
from cropgen.models.layers.vae.segments import Cut, chain_log_prob, chain_sum, segment_scores
from cropgen.models.vaes.hqa import HQA
from cropgen.models.vaes.vqvae import VQVAE
from cropgen.models.vaes.vqvae2 import VQVAE2
from tests.models.dvaes.crops import BANDS, CLASSES, DATA, SLOTS, SPEC, TEST, taught, tied

TINY: dict[str, Any] = {"hidden": 8, "latent": 2, "codes": 3, "segments": 3, "copies": 64}
CASES: list[tuple[type[CodedModel], dict[str, Any]]] = [
    (VQVAE, {}),
    (VQVAE, {"quantiser": "gumbel"}),
    (VQVAE, {"quantiser": "vimco"}),
    (VQVAE2, {"top_codes": 2}),
    (HQA, {}),
    (HQA, {"levels": 3, "segments": 6}),
]
every_case = pytest.mark.parametrize(("kind", "settings"), CASES, ids=lambda v: getattr(v, "__name__", None))


def built(kind: type[CodedModel], **settings: Any) -> CodedModel:
    """A small model in double precision before its first step."""
    torch.manual_seed(0)
    model = kind(SPEC, kind.Settings.model_validate({**TINY, **settings})).double().eval()
    model.tied.load_state_dict(tied().state_dict())
    return model


def disturbed(kind: type[CodedModel], **settings: Any) -> CodedModel:
    """A model whose every weight is away from its start."""
    model = built(kind, **settings)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.3)
    return model


@every_case
def test_it_begins_exactly_at_the_tied_gaussian(kind: type[CodedModel], settings: dict[str, Any]) -> None:
    model = built(kind, **settings)
    x, mask = model.tied.grid(TEST)
    with torch.no_grad():
        assert torch.allclose(model.log_joint(TEST), model.tied.log_joint(x, mask), atol=1e-9, rtol=0)
        use = model.use_of_latents(TEST)
    assert use["kl_total"] == pytest.approx(0.0, abs=1e-9)
    assert use["active_units"] == 0
