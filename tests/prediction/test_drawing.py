"""Seasons drawn from a density: in parts or at once the same, whole, and only where there is a density."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import cropgen.prediction.drawing as module
from cropgen.core.errors import UsageError
from cropgen.core.progress import Silent
from cropgen.models.base import Context, GenerativeModel, InputSpec, TrainingData
from cropgen.models.checkpoint import build_model
from cropgen.prediction.drawing import density_of, draw_store
from cropgen.series.batches import Batch
from cropgen.series.calendar import Calendar
from cropgen.series.legend import Legend
from cropgen.series.store import SeriesStore

SPEC = InputSpec(("B04", "B08"), Calendar("month", 3, 4), Legend.from_codes("two", ["a", "b"]))
LEVEL = (0.2, 0.5)


@pytest.fixture
def gaussian() -> GenerativeModel:
    y = torch.arange(80) % 2
    noise = 0.03 * torch.randn(80, 4, 2, generator=torch.Generator().manual_seed(0))
    day = torch.as_tensor(SPEC.calendar.start_days() + 10, dtype=torch.float32).expand(80, 4)
    values = torch.tensor(LEVEL)[y][:, None, None] + noise
    batch = Batch(values, torch.ones(80, 4, dtype=torch.bool), day, torch.arange(4).expand(80, 4), y)
    model = build_model("tgem", {}, SPEC)
    model.prepare(TrainingData(batch), Context())
    return density_of(model.eval(), "g")


def test_what_is_drawn_is_whole_and_of_its_crop(
    gaussian: GenerativeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_AT_A_TIME", 64)
    facts = {"kind": "sample"}
    draw_store(gaussian, [1, 0], 300, tmp_path / "s", Silent(), year=2024, seed=3, temperature=1, source=facts)
    store = SeriesStore.open(tmp_path / "s")
    drawn = store.read()
    assert store.legend == SPEC.legend
    assert len(np.unique(drawn.parcel_id)) == 600
    assert drawn.year.tolist() == [2024] * 600
    months = (np.datetime64("1970-01-01") + drawn.day[0].astype("timedelta64[D]")).astype("datetime64[M]")
    assert [str(month) for month in months] == ["2024-04", "2024-05", "2024-06", "2024-07"]
    for label, level in enumerate(LEVEL):
        mine = drawn.values[drawn.label == label]
        np.testing.assert_allclose(mine.mean((0, 1)), level, atol=0.02)
        np.testing.assert_allclose(mine.std(0), 0.03, rtol=0.4)


def test_seed_and_temperature_decide(gaussian: GenerativeModel, tmp_path: Path) -> None:
    drawn = {}
    for name, seed, temperature in (("a", 0, 1.0), ("again", 0, 1.0), ("other", 1, 1.0), ("still", 0, 0.0)):
        draw_store(gaussian, [0, 1], 5, tmp_path / name, Silent(), year=2021, seed=seed, temperature=temperature,
                   source={})  # fmt: skip
        drawn[name] = SeriesStore.open(tmp_path / name).read().values
    np.testing.assert_array_equal(drawn["a"], drawn["again"])
    assert np.abs(drawn["a"] - drawn["other"]).max() > 0.01
    np.testing.assert_array_equal(drawn["still"][0], drawn["still"][4])
    np.testing.assert_allclose(drawn["still"][0], LEVEL[0], atol=0.02)


def test_only_densities_and_pools_with_one_are_drawn_from() -> None:
    members = {"generative": "tgem", "discriminative": "rf"}
    assert isinstance(density_of(build_model("pool", members, SPEC), "p"), GenerativeModel)
    with pytest.raises(UsageError, match="r has no density"):
        density_of(build_model("rf", {}, SPEC), "r")
