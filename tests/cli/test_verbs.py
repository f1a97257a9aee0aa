"""The verbs as a user types them."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
from pathlib import Path

import geopandas as gpd
import pytest

from cropgen.cli.main import hoist_globals, main
from cropgen.cli.options import parse_merge, parse_settings, split_numbers, year_or_column
from cropgen.core.errors import UsageError
from cropgen.core.recipe import TrainRecipe
from cropgen.models.catalog import CATALOG
from cropgen.series.store import SeriesStore

from .conftest import call, write_parcels, write_scenes


def test_globals_stand_anywhere() -> None:
    words = ["train", "--json", "--labels", "10%", "--workspace", "w", "-vv", "--", "-q"]
    assert hoist_globals(words) == ["--json", "--workspace", "w", "-vv", "train", "--labels", "10%", "--", "-q"]
    assert hoist_globals(["--workspace=w", "info"]) == ["--workspace=w", "info"]


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_letters_that_the_output_cannot_show_end_nothing(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def said(*words: str) -> str:
        out = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr("sys.stdout", out)
        monkeypatch.setattr("sys.argv", ["cropgen", "models", *words])
        monkeypatch.setattr("cropgen.cli.main.share_out", lambda environ: None)
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 0
        out.flush()
        return out.buffer.getvalue().decode(encoding)

    references = [entry["reference"] for entry in json.loads(said("--json"))["result"]]
    assert references == [entry.reference for entry in CATALOG]
    assert any(not reference.isascii() for reference in references)
    assert ("N(μ_y" if encoding == "utf-8" else r"N(\u03bc_y") in said("tgem")


def test_settings_are_toml_or_text() -> None:
    parsed = parse_settings(["steps=800", "rate=1e-3", "semi=fixmatch", "tied.em=off", "tied.starts='two'", "x=[1,2]"])
    assert parsed == {
        "steps": 800, "rate": 1e-3, "semi": "fixmatch", "tied": {"em": "off", "starts": "two"}, "x": [1, 2],
    }  # fmt: skip
    with pytest.raises(UsageError, match="expected key=value"):
        parse_settings(["steps"])
    assert parse_merge(["wheat*=wheat", "a=b=c"]) == {"wheat*": "wheat", "a=b": "c"}
    with pytest.raises(UsageError, match="expected PATTERN=CODE"):
        parse_merge(["wheat"])
    with pytest.raises(UsageError, match="whole numbers"):
        split_numbers("2021,later", "--years")
    for text in ("--2", "²", "-"):
        with pytest.raises(UsageError, match="whole numbers"):
            split_numbers(text, "--years")
    assert split_numbers("-1,2", "--years") == (-1, 2)
    assert (year_or_column("2024"), year_or_column("²")) == (2024, "²")
    for pairs in (["a=1", "a.b=2"], ["a.b=1", "a=2"], ["a=1", "a.b.c=2"]):
        with pytest.raises(UsageError, match="set before"):
            parse_settings(pairs)
    assert parse_settings(["a.b=1", "a.c=2"]) == {"a": {"b": 1, "c": 2}}


@pytest.mark.parametrize("verb", ["demo", "fetch", "aggregate", "import", "transform", "train", "predict", "sample",
                                  "evaluate", "report", "models", "info", "doctor"])  # fmt: skip
def test_every_verb_has_help(verb: str) -> None:
    ended = call(verb, "--help")
    assert ended.code == 0
    assert "Usage" in ended.out
    assert "--workspace" in ended.out


@pytest.mark.slow
def test_inventory_as_json(workspace: Path) -> None:
    listed = call("models", "--json").json()
    assert listed["cropgen"] == 1
    assert {row["name"] for row in listed["result"]} >= {"tgem", "rf", "pool"}
    card = call("models", "dvae", "--json").json()["result"]
    assert card["entry"]["name"] == "srnn"
    assert any(option["key"] == "steps" for option in card["options"])
    assert call("doctor", "--json").json()["result"]["healthy"] is True
    info = call("info", "--workspace", workspace, "--json").json()["result"]
    assert info["kind"] == "store"
    assert info["content"]["rows"] == 48
    run = call("info", workspace / "runs" / "base", "--json").json()["result"]
    assert run["content"]["status"] == "done"
    assert {row["name"] for row in call("fetch", "--json").json()["result"]} >= {"demo", "breizhcrops"}


@pytest.mark.slow
def test_dry_runs_write_nothing(workspace: Path, tmp_path: Path) -> None:
    before = sorted(p for p in workspace.rglob("*"))
    for words in (
        ("train", "--model", "rf", "--name", "dry"),
        ("predict", workspace / "parcels.gpkg", "-o", tmp_path / "p.gpkg"),
        ("evaluate", "--model", "rf", "-o", tmp_path / "e", "--block-km", "0.1"),
        ("fetch", "demo"),
        ("import", workspace / "fields.csv", "--name", "dry"),
    ):
        ended = call(*words, "--dry-run", "--workspace", workspace)
        assert ended.code == 0, ended.err
    assert sorted(p for p in workspace.rglob("*")) == before
    assert not list(tmp_path.iterdir())


def test_prediction_keeps_the_input_and_repeats_byte_for_byte(workspace: Path, tmp_path: Path) -> None:
    parcels = workspace / "parcels.gpkg"
    for name in ("a", "b"):
        ended = call("predict", parcels, "--run", "base", "-o", tmp_path / f"{name}.gpkg", "--workspace", workspace)
        assert ended.code == 0, ended.err
    digests = {hashlib.sha256((tmp_path / f"{n}.gpkg").read_bytes()).hexdigest() for n in ("a", "b")}
    assert len(digests) == 1
    given, got = gpd.read_file(parcels), gpd.read_file(tmp_path / "a.gpkg", layer=0)
    assert got.crs == given.crs
    assert got.geometry.to_wkb().equals(given.geometry.to_wkb())
    for column in given.columns.drop("geometry"):
        assert got[column].equals(given[column]), column
    known = got[got["parcel_id"] != "P047"]
    assert (known["pred_crop_code"] == known["crop_code"]).mean() > 0.9


def test_seasons_are_drawn_from_a_run(workspace: Path, tmp_path: Path) -> None:
    words = ("sample", "--workspace", workspace, "--run", "base", "--count", "3", "-o", tmp_path / "drawn")
    ended = call(*words, "--classes", "0102,0101", "--json")
    assert ended.code == 0, ended.err
    assert ended.json()["result"]["rows"] == 6
    drawn = SeriesStore.open(tmp_path / "drawn").read()
    assert drawn.parcel_id.tolist() == ["0102-1", "0102-2", "0102-3", "0101-1", "0101-2", "0101-3"]
    assert drawn.mask.all()
    refused = call(*words, "--classes", "9999", "--overwrite")
    assert refused.code == 2
    assert "base knows no crop 9999" in refused.err


@pytest.mark.slow
def test_a_dynamical_model_is_given_the_site_of_each_parcel(workspace: Path, tmp_path: Path) -> None:
    learn = ("train", "--workspace", workspace, "--site", "lon,lat", "--name", "sites")
    refused = call(*learn, "--model", "tgem")
    assert refused.code == 2
    assert "tgem: no model here takes site covariates (lon, lat)" in refused.err
    ended = call(*learn, "--model", "srnn", "--set", "steps=2", "--set", "copies=64")
    assert ended.code == 0, ended.err
    assert TrainRecipe.read(workspace / "runs" / "sites" / "recipe.toml").data.site == ("lon", "lat")
    assert "lon, lat" in call("info", workspace / "runs" / "sites").out
    output = tmp_path / "p.gpkg"
    words = ("predict", workspace / "parcels.gpkg", "--run", "sites", "-o", output, "--workspace", workspace)
    assert call(*words).code == 0
    assert gpd.read_file(output, layer=0)["pred_crop_code"].notna().sum() > 40


@pytest.mark.skipif(shutil.which("ogrinfo") is None, reason="ogrinfo is not installed")
def test_ogrinfo_opens_the_output(workspace: Path, tmp_path: Path) -> None:
    output = tmp_path / "p.gpkg"
    assert call("predict", workspace / "parcels.gpkg", "-o", output, "--workspace", workspace).code == 0
    said = subprocess.run(["ogrinfo", "-so", "-al", output], capture_output=True, text=True, check=True).stdout
    assert "Feature Count: 48" in said
    assert "pred_crop_code: String" in said


def test_training_is_repeated_from_its_recipe(workspace: Path) -> None:
    recipe = workspace / "runs" / "base" / "recipe.toml"
    again = call("train", "--recipe", recipe, "--name", "again", "--workspace", workspace)
    assert again.code == 0, again.err
    first, second = (workspace / "runs" / name / "model.safetensors" for name in ("base", "again"))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.slow
def test_scenes_to_prediction_to_report(workspace: Path, tmp_path: Path) -> None:
    scenes = write_scenes(tmp_path / "scenes", tuple(f"2021{m:02d}15" for m in range(1, 13)))
    parcels = write_parcels(tmp_path / "fields.gpkg", 24)
    made = call("aggregate", scenes, parcels, "--name", "a", "--buffer", "0", "--workspace", tmp_path, "--json")
    assert made.code == 0, made.err
    assert made.json()["result"]["rows"] == 24
    run = workspace / "runs" / "base"
    ended = call("predict", parcels, "--run", run, "--scenes", scenes, "--workspace", tmp_path)
    assert (ended.code, "not from an aggregate" in ended.err) == (3, True), ended.err
    trained = call("train", "--model", "tgem", "--name", "seen", "--workspace", tmp_path)
    assert trained.code == 0, trained.err
    ended = call("predict", parcels, "--scenes", scenes, "--workspace", tmp_path)
    assert ended.code == 0, ended.err
    evaluated = call(
        "evaluate", "--model", "rf,tgem", "--labels", "50%", "--seeds", "0", "--block-km", "0.2",
        "--workspace", workspace, "-o", tmp_path / "reports" / "holdout",
    )  # fmt: skip
    assert evaluated.code == 0, evaluated.err
    page = tmp_path / "reports" / "report.html"
    reported = call("report", "--run", run, "--workspace", tmp_path)
    assert reported.code == 0, reported.err
    text = page.read_text()
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert 'src="http' not in text
    assert "wheat" in text
    named = call(
        "report", tmp_path / "reports" / "holdout", "--run", run, "--overwrite", "--workspace", tmp_path, "--json"
    )
    assert named.code == 0, named.err
    assert named.json()["result"]["evaluations"] == [str(tmp_path / "reports" / "holdout" / "evaluation.json")]
    empty = call("report", scenes, "--overwrite", "--workspace", tmp_path)
    assert (empty.code, "scenes/evaluation.json" in empty.err) == (3, True), empty.err
