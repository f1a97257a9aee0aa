"""A run folder holds what it was made from, and an interrupted run becomes the run it would have been."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import cropgen.training.train as module
from cropgen.core.errors import CropgenError, MissingInputError, OutputExistsError, SchemaError, UsageError
from cropgen.core.progress import Silent
from cropgen.core.recipe import TrainRecipe
from cropgen.core.run import RunFolder
from cropgen.models.checkpoint import load_model
from cropgen.series.batches import make_batch
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore
from cropgen.training.train import train


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    count, dates = 40, 5
    label = np.arange(count) % 3 - 1
    day = np.datetime64("2021-04-03", "D").astype(int) + 10 * np.arange(dates)
    series = ParcelSeries.build(
        bands=("B04", "B08"), values=0.3 + 0.2 * label[:, None, None] + 0.02 * rng.normal(size=(count, dates, 2)),
        mask=rng.random((count, dates)) > 0.1, day=np.tile(day, (count, 1)),
        parcel_id=[f"p{i}" for i in range(count)], year=2021, label=label,
    )  # fmt: skip
    legend = Legend.from_codes("crops", ["wheat", "maize"])
    store = SeriesStore.create(tmp_path / "data" / "x" / "series.zarr", bands=series.bands, legend=legend)
    store.append(series)
    return tmp_path


def recipe(**changes: Any) -> TrainRecipe:
    data = {"series": "data/x/series.zarr", "labels": "50%", "calendar": "dekad"}
    model = {"name": "tempcnn", "options": {"steps": 60, "hidden": 4, "width": 4}}
    return TrainRecipe.model_validate({"seed": 1, "data": data, "model": model, **changes})


def test_a_run_folder_is_whole(workspace: Path) -> None:
    run, report = RunFolder(workspace / "runs" / "one"), Silent()
    fitted = train(recipe(), run, report, root=workspace)
    assert sorted(p.name for p in run.path.iterdir()) == [
        "labels.json", "manifest.json", "metrics.jsonl", "model.json", "model.safetensors", "recipe.toml",
    ]  # fmt: skip
    manifest = run.read_manifest()
    store = SeriesStore.open(workspace / "data/x/series.zarr")
    assert manifest["status"] == "done"
    assert manifest["model"] == "tempcnn"
    assert manifest["data"]["fingerprint"] == store.fingerprint()
    assert manifest["data"]["rows"]["labelled"] == 12
    assert manifest["data"]["rows"]["max_labelled"] == 100_000
    assert manifest["options"]["learning_rate"] == 2e-3
    assert manifest["environment"]["packages"]["torch"]
    labels = json.loads(run.labels.read_text())
    index = store.index().iloc[labels["row"]]
    assert labels["parcel_id"] == index["parcel_id"].tolist()
    assert sorted(index["label"].tolist()) == [0] * 6 + [1] * 6
    assert TrainRecipe.read(run.recipe) == recipe()
    assert report.messages == [
        "12 parcels with label and 28 without, 2 classes, 2 bands on 5 slots of the dekad calendar"
    ]
    model = load_model(run.path)
    batch = make_batch(store.read(), model.spec.calendar)
    assert torch.equal(model.log_posterior(batch), fitted.model.log_posterior(batch))


def test_an_interrupted_run_is_resumed_to_equal_bytes(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, broken = RunFolder(workspace / "runs" / "whole"), RunFolder(workspace / "runs" / "broken")
    train(recipe(), whole, root=workspace)
    from cropgen.models.discriminative.tempcnn import TempCNN

    learn = TempCNN.objective

    def interrupted(self: TempCNN, *arguments: Any) -> Any:
        if int(self.step) == 57:
            raise KeyboardInterrupt
        return learn(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TempCNN, "objective", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(recipe(), broken, root=workspace)
    assert broken.read_manifest()["status"] == "interrupted"
    assert broken.checkpoint.is_dir()
    assert not broken.weights.exists()
    train(recipe(), broken, root=workspace, resume=True)
    assert broken.weights.read_bytes() == whole.weights.read_bytes()
    assert not broken.checkpoint.exists()
    report = Silent()
    again = train(recipe(), broken, report, root=workspace, resume=True)
    assert "broken is finished already" in report.messages
    assert not again.model.training


def test_resuming_with_other_code_is_said(workspace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, report = RunFolder(workspace / "runs" / "one"), Silent()

    def full_disk(*_: Any) -> None:
        raise CropgenError("cannot write: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, "fit_model", lambda *_a, **_k: full_disk())
        with pytest.raises(CropgenError, match="No space"):
            train(recipe(), run, root=workspace)
    assert run.read_manifest()["status"] == "failed"
    monkeypatch.setattr(module, "environment", lambda: {"code": "other", "packages": {}})
    train(recipe(), run, report, root=workspace, resume=True)
    assert report.warnings == ["one is resumed with other code or packages than it was begun with"]


def test_folders_in_the_way_and_missing_input(workspace: Path) -> None:
    run = RunFolder(workspace / "runs" / "one")
    with pytest.raises(MissingInputError, match="nothing to resume"):
        train(recipe(), run, root=workspace, resume=True)
    run.path.mkdir(parents=True)
    with pytest.raises(OutputExistsError):
        train(recipe(), run, root=workspace)
    with pytest.raises(MissingInputError, match="series store"):
        train(recipe(data={"series": "data/none"}), run, root=workspace, overwrite=True)
    assert run.path.exists()
    with pytest.raises(SchemaError, match="B99"):
        train(recipe(data={"series": "data/x/series.zarr", "bands": ["B99"]}), run, root=workspace)


def test_calibration_uses_the_validation_rows_and_is_kept_with_the_run(workspace: Path) -> None:
    data = {"series": "data/x/series.zarr", "calendar": "dekad", "validation_share": 0.3}
    model = {"name": "tempcnn", "options": {"steps": 40, "hidden": 4, "width": 4}}
    plain = train(recipe(data=data, model=model), RunFolder(workspace / "runs" / "a"), root=workspace)
    run = RunFolder(workspace / "runs" / "b")
    fitted = train(recipe(data=data, model=model | {"calibration": "temperature"}), run, root=workspace)
    facts = run.read_manifest()["facts"]["calibration"]
    assert facts == fitted.facts["calibration"]
    assert facts["rows"] == run.read_manifest()["data"]["rows"]["validation"] > 0
    again = load_model(run.path)
    batch = make_batch(SeriesStore.open(workspace / "data/x/series.zarr").read(), again.spec.calendar)
    assert torch.equal(again.log_posterior(batch), plain.model.log_posterior(batch))
    assert torch.equal(again.calibrated_log_posterior(batch), fitted.model.calibrated_log_posterior(batch))
    assert not torch.equal(again.calibrated_log_posterior(batch), again.log_posterior(batch))
    assert plain.model.calibrator is None


def test_calibration_without_validation_rows_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    wanted = recipe(model={"name": "rf", "calibration": "dirichlet"})
    with pytest.raises(UsageError, match="calibration = 'dirichlet' needs labelled parcels") as raised:
        train(wanted, RunFolder(tmp_path / "run"), root=tmp_path)
    assert "--validation" in str(raised.value.hint)
