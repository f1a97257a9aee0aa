"""A run trained on standardised series predicts series standardised by their own statistics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cropgen.core.progress import Silent
from cropgen.core.recipe import TrainRecipe
from cropgen.core.run import RunFolder
from cropgen.prediction.infer import infer
from cropgen.prediction.predict import open_like
from cropgen.series.batches import make_batch
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore
from cropgen.training.train import train

BANDS = ("B04", "B08")


def season(year: int, gain: float = 1.0, offset: float = 0.0) -> ParcelSeries:
    draw = np.random.default_rng(year)
    label = np.arange(60) % 3
    values = 0.1 + 0.1 * label[:, None, None] + 0.02 * draw.standard_normal((60, 8, 2))
    day = 30 * np.arange(8) + (np.datetime64(f"{year}-01-08") - np.datetime64("1970-01-01")).astype(int)
    return ParcelSeries.build(
        bands=BANDS, values=gain * values + offset, mask=draw.random((60, 8)) > 0.1, day=np.tile(day, (60, 1)),
        parcel_id=np.arange(60).astype(str), year=year, label=label,
    )  # fmt: skip


def stored(path: Path, *parts: ParcelSeries) -> SeriesStore:
    store = SeriesStore.create(path, bands=BANDS, legend=Legend.from_codes("l", ["a", "b", "c"]))
    for part in parts:
        store.append(part)
    return store


@pytest.mark.parametrize("standardise", ["none", "region-year"])
def test_another_sensor_is_brought_to_the_training(tmp_path: Path, standardise: str) -> None:
    stored(tmp_path / "train.zarr", season(2020), season(2021))
    other = stored(tmp_path / "other.zarr", season(2022, gain=1.7, offset=0.1))
    data = {"series": "train.zarr", "standardise": standardise, "calendar": "month"}
    recipe = TrainRecipe.model_validate({"data": data, "model": {"name": "tgem"}})
    run = RunFolder(tmp_path / "run")
    model = train(recipe, run, root=tmp_path).model
    assert (run.path / "standardisation.json").is_file() == (standardise == "region-year")
    series = open_like(run.path, other.path, Silent())[1].read()
    probability = infer(model, make_batch(series, model.spec.calendar)).probability
    right = (probability.argmax(1) == series.label).mean()
    assert (right > 0.95) == (standardise == "region-year")
    plain = SeriesStore.open(tmp_path / "train.zarr").fingerprint()
    assert (run.read_manifest()["data"]["fingerprint"] == plain) == (standardise == "none")
