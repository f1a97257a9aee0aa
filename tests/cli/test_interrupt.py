"""Ctrl-C in the middle: exit 130, nothing half-written, and what can be resumed gives the same result."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.numpy import load_file

from .conftest import call, interrupted_when, write_parcels, write_table

TRAIN = ("train", "--model", "tempcnn", "--labels", "50%", "--set", "steps=600")


@pytest.mark.slow
def test_training_resumes_to_the_same_weights(workspace: Path) -> None:
    runs = workspace / "runs"
    whole = call(*TRAIN, "--name", "whole", "--workspace", workspace)
    assert whole.code == 0, whole.err
    metrics = runs / "cut" / "metrics.jsonl"
    cut = interrupted_when(
        lambda: metrics.exists() and metrics.read_text().count("\n") > 3,
        *TRAIN,
        "--name",
        "cut",
        "--workspace",
        workspace,
    )
    assert cut.code == 130
    assert "interrupted" in cut.err
    assert not (runs / "cut" / "model.safetensors").exists()
    resumed = call("train", "--resume", "--name", "cut", "--workspace", workspace)
    assert resumed.code == 0, resumed.err
    first, second = (load_file(runs / name / "model.safetensors") for name in ("whole", "cut"))
    assert first.keys() == second.keys()
    assert all((first[key] == second[key]).all() for key in first)


@pytest.mark.slow
def test_prediction_leaves_nothing(tmp_path: Path) -> None:
    many = 20_000
    table = write_table(tmp_path / "fields.csv", 48)
    assert call("import", table, "--workspace", tmp_path).code == 0
    assert call("train", "--model", "tgem", "--name", "r", "--workspace", tmp_path).code == 0
    parcels = write_parcels(tmp_path / "many.gpkg", many)
    folder = tmp_path / "predictions"
    ended = interrupted_when(
        lambda: any(folder.glob(".many.gpkg*")), "predict", parcels, "--year", "2021", "--workspace", tmp_path
    )
    assert ended.code == 130
    assert not [p for p in folder.rglob("*") if p.is_file()]
