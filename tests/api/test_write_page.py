"""What a page is made from where nothing is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cropgen import api
from cropgen.core.errors import MissingInputError
from cropgen.core.paths import Workspace
from tests.evaluation.test_write_report import predictions


def test_predictions_that_are_being_written_are_passed_over(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    workspace.predictions.mkdir()
    whole = predictions(workspace.predictions / "region.gpkg")
    part = whole.with_name(".region.gpkg.0a1b2c3d.part.gpkg")
    part.write_bytes(whole.read_bytes()[:5000])
    os.utime(whole, (0, 0))
    assert api.write_page(workspace).predictions == whole


def test_runs_are_named_as_predict_names_them(tmp_path: Path) -> None:
    workspace = Workspace(tmp_path)
    with pytest.raises(MissingInputError, match=r"no finished run oats; in .*: none"):
        api.write_page(workspace, runs=[Path("oats")])
    (workspace.runs / "oats").mkdir(parents=True)
    (workspace.runs / "oats" / "model.safetensors").touch()
    with pytest.raises(MissingInputError, match="not a run folder"):
        api.write_page(workspace, runs=[Path("oats")])
