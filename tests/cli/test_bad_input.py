"""Bad input through the real process: one line that says what, where and what to do; the right exit code; no debris."""

from __future__ import annotations

import resource
import shutil
from pathlib import Path

import geopandas as gpd
import pytest

from .conftest import Ended, call, squares, write_parcels, write_scenes, write_table


def refused(ended: Ended, code: int, *said: str) -> None:
    """The process ended with `code`, one line of error and one of advice."""
    assert ended.code == code, ended.err
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    for words in said:
        assert words in lines[0]
    assert sum(line.startswith("hint: ") for line in ended.err.splitlines()) == 1


def test_missing_column(tmp_path: Path) -> None:
    table = write_table(tmp_path / "t.csv", 6)
    ended = call("import", table, "--label-column", "culture", "--workspace", tmp_path)
    refused(ended, 3, "culture", "parcel_id, date, B04, B08, crop_code")
    assert not (tmp_path / "data").exists()


@pytest.mark.slow
def test_unknown_model_option_and_value(workspace: Path) -> None:
    refused(call("train", "--model", "ssvea", "--workspace", workspace), 2, "unknown model 'ssvea'")
    refused(call("train", "--model", "tgem", "--set", "em_step=3", "--workspace", workspace), 2, "em_step")
    refused(call("train", "--labels", "many", "--workspace", workspace), 2, "many")
    refused(call("train", "--bands", "B04,B99", "--workspace", workspace), 3, "B99")
    refused(call("train", "--device", "cuda", "--workspace", workspace), 5, "cuda")
    refused(call("tarin"), 2, "tarin")


def test_the_help_that_is_named_is_that_of_the_verb(tmp_path: Path) -> None:
    ended = call("import", tmp_path / "t.csv", "--id", "parcel")
    refused(ended, 2, "--id")
    assert "hint: cropgen import --help" in ended.err
    assert "hint: cropgen --help" in call("tarin").err


def test_layer_without_coordinate_system(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "scenes")
    bare = gpd.GeoDataFrame({"id": ["a", "b"]}, geometry=squares(2))
    with pytest.warns(UserWarning, match="'crs' was not provided"):
        bare.to_file(tmp_path / "bare.gpkg", driver="GPKG")
    ended = call("aggregate", scenes, tmp_path / "bare.gpkg", "--year", "2021", "--workspace", tmp_path)
    refused(ended, 3, "bare.gpkg", "coordinate system")


def test_layer_elsewhere(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "scenes")
    far = gpd.read_file(write_parcels(tmp_path / "p.gpkg", 8)).translate(xoff=400_000)
    gpd.GeoDataFrame({"id": range(8)}, geometry=far).to_file(tmp_path / "far.gpkg", driver="GPKG")
    ended = call("aggregate", scenes, tmp_path / "far.gpkg", "--year", "2021", "--workspace", tmp_path)
    assert ended.code == 3
    assert "far.gpkg" in ended.err or "overlap" in ended.err
    assert not list(tmp_path.glob("data/*/*"))


@pytest.mark.slow
def test_empty_layer(workspace: Path, tmp_path: Path) -> None:
    frame = gpd.read_file(workspace / "parcels.gpkg").iloc[:0]
    frame.to_file(tmp_path / "none.gpkg", driver="GPKG")
    refused(call("predict", tmp_path / "none.gpkg", "--workspace", workspace), 3, "none.gpkg", "empty")
    refused(call("predict", tmp_path / "absent.gpkg", "--workspace", workspace), 3, "absent.gpkg")
    (tmp_path / "text.gpkg").write_text("not a layer")
    refused(call("predict", tmp_path / "text.gpkg", "--workspace", workspace), 3, "text.gpkg")


def test_all_cloud_parcel_gets_the_prior_and_a_flag(workspace: Path, tmp_path: Path) -> None:
    output = tmp_path / "p.gpkg"
    ended = call("predict", workspace / "parcels.gpkg", "-o", output, "--workspace", workspace)
    assert ended.code == 0, ended.err
    frame = gpd.read_file(output, layer=0).set_index("parcel_id")
    cloudy = frame.loc["P047"]
    assert cloudy["pred_clear_dates"] == 0
    assert "no_clear_date" in cloudy["pred_flags"].split(",")
    assert cloudy["pred_crop_code"] in set(frame["crop_code"])
    assert 0.2 < cloudy["pred_probability"] < 0.5


def test_corrupt_raster(tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "scenes")
    broken = scenes / "20210615" / "B08.tif"
    broken.write_bytes(broken.read_bytes()[:2000])
    parcels = write_parcels(tmp_path / "parcels.gpkg", 8)
    ended = call("aggregate", scenes, parcels, "--workspace", tmp_path)
    refused(ended, 3, "B08.tif")
    assert not list(tmp_path.glob("data/*/*"))


def test_truncated_store(workspace: Path, tmp_path: Path) -> None:
    store = tmp_path / "data" / "fields" / "series.zarr"
    shutil.copytree(workspace / "data" / "fields" / "series.zarr", store)
    chunk = max((p for p in (store / "values").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    chunk.write_bytes(chunk.read_bytes()[: chunk.stat().st_size // 2])
    refused(call("train", "--model", "tgem", "--workspace", tmp_path), 3, "values")
    (store / "zarr.json").write_text("{")
    refused(call("info", store), 3, "series.zarr")


def test_truncated_weights(workspace: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(workspace / "runs" / "base", run)
    weights = run / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    ended = call(
        "predict", workspace / "parcels.gpkg", "--run", run, "-o", tmp_path / "p.gpkg", "--workspace", workspace
    )
    refused(ended, 3, "model.safetensors")


def test_outputs_that_exist(workspace: Path, tmp_path: Path) -> None:
    output = tmp_path / "p.gpkg"
    output.write_text("mine")
    parcels = workspace / "parcels.gpkg"
    refused(call("predict", parcels, "-o", output, "--workspace", workspace), 2, "p.gpkg exists")
    refused(call("import", workspace / "fields.csv", "--workspace", workspace), 2, "series.zarr exists")
    refused(call("train", "--model", "tgem", "--name", "base", "--workspace", workspace), 2, "base exists")
    assert output.read_text() == "mine"
    assert call("predict", parcels, "-o", output, "--overwrite", "--workspace", workspace).code == 0


def small_files() -> None:
    """Let no file grow beyond 2,000 bytes: what a full disk does, without filling one."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))


@pytest.mark.parametrize("verb", ["import", "predict", "train"])
def test_no_room_to_write(workspace: Path, tmp_path: Path, verb: str) -> None:
    output = tmp_path / "out" / {"import": "series.zarr", "predict": "p.gpkg", "train": ""}[verb]
    words = {
        "import": ("import", workspace / "fields.csv", "-o", output),
        "predict": ("predict", workspace / "parcels.gpkg", "-o", output),
        "train": ("train", "--model", "rf", "--set", "trees=200", "--name", "full"),
    }[verb]
    ended = call(*words, "--workspace", workspace, preexec=small_files)
    refused(ended, 1)
    if verb == "train":
        assert not (workspace / "runs" / "full" / "model.safetensors").exists()
    else:
        assert not output.exists()
        assert not [p for p in tmp_path.rglob("*") if p.is_file()]


def test_nothing_to_work_on(tmp_path: Path) -> None:
    refused(call("train", "--workspace", tmp_path), 3, "no series store")
    refused(call("report", "--workspace", tmp_path), 3, "nothing to report")
    refused(call("info", tmp_path / "x", "--workspace", tmp_path), 3, "not found")
    refused(call("fetch", "breizhcorps", "--workspace", tmp_path), 2, "breizhcorps")


def test_errors_as_json(tmp_path: Path) -> None:
    ended = call("train", "--workspace", tmp_path, "--json")
    assert ended.code == 3
    error = ended.json()["error"]
    assert error["exit"] == 3
    assert "no series store" in error["message"]
    assert error["hint"]
