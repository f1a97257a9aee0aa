"""`cropgen aggregate`: its options, its faults and their exit codes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from cropgen.core.files import sha256_tree
from cropgen.series.store import SeriesStore

from .conftest import call, write_parcels, write_scenes


@pytest.mark.slow
def test_a_truncated_scene_is_one_line_with_code_4_and_resume_completes(tmp_path: Path) -> None:
    scenes, parcels = write_scenes(tmp_path / "scenes"), write_parcels(tmp_path / "p.gpkg")
    words = ("aggregate", scenes, parcels, "--statistics", "std,p90", "--dilate", "20")
    assert call(*words, "-o", tmp_path / "whole" / "series.zarr").code == 0
    broken = scenes / "20210615" / "SCL.tif"
    content = broken.read_bytes()
    broken.write_bytes(content[: len(content) // 2])
    output = tmp_path / "out" / "series.zarr"
    ended = call(*words, "-o", output)
    assert ended.code == 4
    wrong = [line for line in ended.err.splitlines() if "failed" in line]
    assert len(wrong) == 1
    assert "1 of 3 acquisitions failed" in wrong[0]
    assert "SCL.tif" in wrong[0]
    assert "--resume" in ended.err
    assert not output.exists()
    broken.write_bytes(content)
    assert call(*words, "-o", output, "--resume").code == 0
    assert sha256_tree(output) == sha256_tree(tmp_path / "whole" / "series.zarr")
    assert [p.name for p in output.parent.iterdir()] == ["series.zarr"]


@pytest.mark.slow
def test_engines_and_methods_by_name(tmp_path: Path) -> None:
    scenes, parcels = write_scenes(tmp_path / "scenes"), write_parcels(tmp_path / "p.gpkg")
    stores = {}
    for name, options in (
        ("serial", ()), ("processes", ("--jobs", "2")), ("coverage", ("--method", "coverage")),
    ):  # fmt: skip
        ended = call("aggregate", scenes, parcels, "-o", tmp_path / name, "--buffer", "0", *options)
        assert ended.code == 0, ended.err
        stores[name] = SeriesStore.open(tmp_path / name)
    assert sha256_tree(tmp_path / "serial") == sha256_tree(tmp_path / "processes")
    np.testing.assert_allclose(stores["coverage"].read().values, stores["serial"].read().values, atol=1e-6)


@pytest.mark.slow
def test_a_method_that_is_none_has_code_2(tmp_path: Path) -> None:
    scenes, parcels = write_scenes(tmp_path / "scenes", ("20210415",)), write_parcels(tmp_path / "p.gpkg", 2)
    ended = call("aggregate", scenes, parcels, "-o", tmp_path / "o", "--method", "guess")
    assert ended.code == 2
    assert "method" in ended.err
    assert not (tmp_path / "o").exists()
