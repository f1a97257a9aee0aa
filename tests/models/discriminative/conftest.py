"""Seasons on a small calendar for the networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from cropgen.models.base import Classifier, InputSpec
from cropgen.models.checkpoint import build_model
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

Rows = Callable[..., Batch]
Make = Callable[..., Classifier]


@pytest.fixture
def rows() -> Rows:
    """Rows of given classes on irregular dates of a dekad calendar; a third of the dates is missing."""

    def build(y: list[int], slots: int = 6, bands: int = 2, seed: int = 0) -> Batch:
        generator = torch.Generator().manual_seed(seed)
        count = len(y)
        mask = torch.rand(count, slots, generator=generator) > 0.3
        mask[:, 0] = True
        values = (torch.randn(count, slots, bands, generator=generator) + 4) * mask[..., None]
        slot = torch.arange(slots).expand(count, slots)
        return Batch(values, mask, slot * 10.0 + 3, slot, torch.tensor(y))

    return build


@pytest.fixture
def make() -> Make:
    """A model of the catalogue for those rows, with fresh weights."""

    def build(name: str, *, slots: int = 6, bands: tuple[str, ...] = ("a", "b"), **options: Any) -> Classifier:
        spec = InputSpec(bands, Calendar("dekad", 0, slots), Legend.from_codes("l", ["0", "1", "2"]))
        return build_model(name, options, spec, seed=1)

    return build
