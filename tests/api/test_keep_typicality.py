"""What a run keeps of how usual seasons look, with few parcels set aside."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from cropgen import api
from cropgen.api.training import keep_typicality
from cropgen.core.errors import MissingInputError
from cropgen.core.paths import Workspace
from cropgen.core.progress import Silent
from cropgen.core.run import RunFolder
from cropgen.models.base import Context, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model
from cropgen.prediction.novelty import load_typicality
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

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


def test_a_training_interrupted_while_judging_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, label = Workspace(tmp_path), np.arange(60) % 2
    store = SeriesStore.create(tmp_path / "data" / "a" / "series.zarr", bands=("B04",), legend=SPEC.legend)
    noise = 0.02 * np.random.default_rng(0).standard_normal((60, 3, 1))
    day = np.tile(18_650 + 30 * np.arange(3), (60, 1))
    store.append(
        ParcelSeries.build(bands=("B04",), values=0.1 * label[:, None, None] + noise, mask=np.ones((60, 3)), day=day,
                           parcel_id=np.arange(60).astype(str), year=2021, label=label)
    )  # fmt: skip

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    request = api.TrainRequest(model="tgem", calendar="month", name="run")
    with monkeypatch.context() as patched:
        patched.setattr("cropgen.api.training.keep_typicality", interrupted)
        with pytest.raises(KeyboardInterrupt):
            api.train(made, request)
    run = made.runs / "run"
    assert load_typicality(run) is None
    weights = (run / "model.safetensors").read_bytes()
    assert api.train(made, api.TrainRequest(), resume=True).run == run
    assert load_typicality(run) is not None
    assert (run / "model.safetensors").read_bytes() == weights
    with pytest.raises(MissingInputError, match="no unfinished run"):
        api.train(made, api.TrainRequest(), resume=True)
