"""Rows in their textbook form learn what a Gaussian of each class cannot say."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from cropgen.models.base import GenerativeModel, TrainingData
from cropgen.series.batches import Batch
from cropgen.training.fit import fit_model
from tests.models.vaes.small import SLOTS, SPEC

pytestmark = pytest.mark.slow
SETTINGS: dict[str, Any] = {
    "steps": 200, "copies": 600, "augmentation": "none", "learning_rate": 2e-2, "samples": 32,
    "hidden": 32, "latent": 4, "start": "none", "tied": {"augment": "none"},
}  # fmt: skip


def forked(count: int, seed: int, *, known: bool = True) -> Batch:
    """Two classes, in each of which a season goes one of two ways."""
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 2
    way = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1
    values = 0.3 * torch.randn((count, SLOTS), generator=generator)
    values[:, 0] += 2 * y - 1
    values[:, 1:] += way[:, None]
    day = torch.tensor([95.0, 125.0, 155.0, 185.0]).expand(count, SLOTS).contiguous()
    mask = torch.ones(count, SLOTS, dtype=torch.bool)
    slot = torch.arange(SLOTS).expand(count, -1).contiguous()
    return Batch(values[..., None], mask, day, slot, y if known else y * 0 - 1)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("m2", {}),
        ("adgm", {"auxiliary_size": 4}),
        ("vade", {"prior_components": 2}),
        ("ssdgm", {}),
    ],
    ids=str,
)
def test_latents_learn_the_fork_and_classes_are_told(name: str, settings: dict[str, Any]) -> None:
    seen, fresh = forked(300, 1), forked(400, 2)
    data = TrainingData(seen, forked(300, 3, known=False))
    model = fit_model(name, {**SETTINGS, **settings}, SPEC, data, seed=0).model
    assert isinstance(model, GenerativeModel)
    independent = torch.zeros(2, len(fresh))
    for k in range(2):
        own = seen.values[seen.y == k, :, 0]
        normal = torch.distributions.Normal(own.mean(0), own.std(0))
        independent[k] = normal.log_prob(fresh.values[..., 0]).sum(-1) + torch.tensor(0.5).log()
    with torch.no_grad():
        gain = model.log_likelihood(fresh).mean() - torch.logsumexp(independent, 0).mean()
        right = (model.log_joint(fresh).argmax(-1) == fresh.y).double().mean()
    assert float(gain) > 0.5
    assert float(right) > 0.97
