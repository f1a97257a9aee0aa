"""`transform`, coverage and parcel layers on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import geopandas as gpd
import pytest
import shapely

from cropgen.cli.main import run
from cropgen.series.store import SeriesStore

from .conftest import Ended


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ended]:
    """Run `cropgen` with these words in this process."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")

    def done(*words: str | Path) -> Ended:
        code = run([str(word) for word in words])
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return done


def test_a_composite_is_a_store_like_any_other(workspace: Path, tmp_path: Path, call: Callable[..., Ended]) -> None:
    store = tmp_path / "c.zarr"
    source = next(workspace.glob("data/*/series.zarr"))
    options = ("--composite", "month", "--statistic", "median", "--interpolate", "linear", "-o", store)
    planned = call("transform", source, *options, "--dry-run", "--json").json()["result"]
    assert planned["dry_run"]
    assert not store.exists()
    made = call("transform", source.parent, *options, "--json").json()["result"]
    assert made["rows"] == len(SeriesStore.open(source))
    again = call("transform", source, *options)
    assert again.code == 2
    assert "exists" in again.err
    picture = tmp_path / "c.png"
    told = call("info", store, "--map", picture, "--json").json()["result"]["content"]
    assert picture.stat().st_size > 1000
    assert told["source"]["transforms"][0]["statistic"] == "median"
    assert told["coverage"]["rows"] == made["rows"]
    assert {group["year"] for group in told["coverage"]["region_years"]} == set(made["years"])


def test_a_new_store_is_named_after_what_is_done(workspace: Path, call: Callable[..., Ended]) -> None:
    source = next(workspace.glob("data/*/series.zarr"))
    for options, name in (
        (("--composite", "10D"), "10D"),
        (("--composite", "month", "--statistic", "median", "--interpolate", "linear"), "month-median-filled"),
        (("--smooth", "whittaker:100"), "smooth"),
    ):
        planned = call("transform", source, *options, "--dry-run", "--workspace", workspace, "--json").json()["result"]
        assert Path(planned["series"]) == workspace / "data" / f"{source.parent.name}-{name}" / "series.zarr"


def test_options_that_do_not_fit(workspace: Path, tmp_path: Path, call: Callable[..., Ended]) -> None:
    source = next(workspace.glob("data/*/series.zarr"))
    for options, said in (
        (("-o", tmp_path / "x"), "nothing to transform"),
        (("--composite", "weekly", "-o", tmp_path / "x"), "'weekly'"),
        (("--composite", "10D", "--name", "x", "-o", tmp_path / "x"), "two names"),
        (("--composite", "10D", "--statistic", "mode", "-o", tmp_path / "x"), "statistic"),
    ):
        refused = call("transform", source, *options)
        assert (refused.code, said in refused.err) == (2, True), refused.err


def test_a_parcel_layer_is_described(tmp_path: Path, call: Callable[..., Ended]) -> None:
    crops = {"gewas": ["Snijmais", "Gras"], "gewascode": [259, 266], "jaar": [2021, 2021]}
    path = tmp_path / "brp.gpkg"
    gpd.GeoDataFrame(crops, geometry=[shapely.box(i, 0, i + 1, 1) for i in (0, 2)], crs=28992).to_file(path)
    (tmp_path / "nl_2020.csv").write_text("original_code,HCAT3_code\n259,3301090400\n")
    shown = call("info", path, "--crop-codes", tmp_path)
    assert shown.code == 0
    assert all(text in shown.out for text in ("Netherlands", "gewascode", "green silo maize"))
    assert "266 Gras (1)" in shown.err
