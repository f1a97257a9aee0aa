"""What a run keeps of how usual seasons look, with few parcels set aside."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from cropgen.api.training import keep_typicality
from cropgen.core.progress import Silent
from cropgen.core.run import RunFolder
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model
from cropgen.prediction.novelty import load_typicality
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend

SPEC = InputSpec(("B04", "B08"), Calendar("month", 0, 3), Legend.from_codes("two", ["a", "b"]))
POOL = {"discriminative": "rf", "discriminative_options": {"trees": 5}}


def seasons(count: int, seed: int) -> Batch:
    y = torch.arange(count) % 2
    noise = torch.randn(count, 3, 2, generator=torch.Generator().manual_seed(seed))
    day = (15.0 + 30.4 * torch.arange(3)).expand(count, 3)
    mask = torch.ones(count, 3, dtype=torch.bool)
    return Batch(0.1 * y[:, None, None] + 0.02 * noise, mask, day, torch.arange(3).expand(count, 3), y)


@pytest.mark.parametrize(
    ("options", "reference", "kept", "told"),
    [
        ({"generative": "realnvp"}, 120, 120, []),
        ({"generative": "realnvp"}, 30, 30, ["no less than 1 in 31"]),
        ({"generative": "realnvp"}, 0, None, ["too few parcels to set some aside"]),
        ({"generative": "tgem"}, 30, 40, []),
    ],
)
def test_of_a_deep_density_the_few_set_aside_judge(
    tmp_path: Path, options: dict[str, Any], reference: int, kept: int | None, told: list[str]
) -> None:
    data = TrainingData(seasons(40, 0))
    model = build_model("pool", {**POOL, **options}, SPEC)
    model.prepare(data, Context())
    run, report = RunFolder(tmp_path), Silent()
    keep_typicality(run, model.eval(), cast(Any, SimpleNamespace(reference=seasons(reference, 1), data=data)), report)
    typicality = load_typicality(run.path)
    assert (None if typicality is None else typicality.count) == kept
    assert len(report.messages) == len(told)
    assert all(words in line for words, line in zip(told, report.messages, strict=True))
