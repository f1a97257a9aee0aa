"""Numbers that are none of what is asked for are refused before anything is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geopandas
import numpy as np
import pytest
import shapely

from cropgen import api
from cropgen.api.requests import require_until, require_year
from cropgen.core.errors import CorruptInputError, MissingInputError, UsageError
from cropgen.core.paths import Workspace
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    label = np.arange(40) % 2
    noise = 0.02 * np.random.default_rng(0).standard_normal((40, 3, 1))
    legend = Legend.from_codes("two", ["a", "b"])
    SeriesStore.create(tmp_path / "data" / "s" / "series.zarr", bands=("B04",), legend=legend).append(
        ParcelSeries.build(
            bands=("B04",),
            values=0.1 * label[:, None, None] + noise,
            mask=np.ones((40, 3)),
            day=np.tile(18_650 + 30 * np.arange(3), (40, 1)),
            parcel_id=np.arange(40).astype(str),
            year=2021,
            label=label,
        )
    )
    return Workspace(tmp_path)


@pytest.mark.parametrize("name", ["2022/tgem", "../tgem", "..", ".", "/tmp/tgem"])
def test_names_are_no_paths(workspace: Workspace, name: str) -> None:
    series, table = workspace.default_series(), workspace.root / "t.csv"
    table.write_text("id,date,B04")
    with pytest.raises(UsageError, match="--name: expected a name without folders, got"):
        api.train(workspace, api.TrainRequest(model="tgem", name=name), dry_run=True)
    with pytest.raises(UsageError, match="--name: expected a name without folders, got"):
        api.import_table(workspace, table, name=name, dry_run=True)
    with pytest.raises(UsageError, match="--name: expected a name without folders, got"):
        api.transform(workspace, series, name=name, options={"composite": "10D"}, dry_run=True)


def test_years_have_four_digits_and_ends_of_a_season_are_near_it() -> None:
    for good in (None, 2024, "year", "99999"):
        require_year(good)
    for bad in (99_999, -2, 24):
        with pytest.raises(UsageError, match=f"--year: expected a year of four digits, got {bad}"):
            require_year(bad)
    for good in ("06-30", "-60", "366"):
        require_until(good)
    for bad in ("9" * 20, "-99999", "30-06", "june"):
        with pytest.raises(UsageError, match="expected"):
            require_until(bad)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"year": 99_999}, "--year"),
        ({"until": "9" * 20}, "--until"),
        ({"smooth_neighbours": "0.4", "neighbour_m": float("nan")}, "--neighbour-m: expected metres"),
    ],
)
def test_a_prediction_refuses_them(workspace: Workspace, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        api.predict(workspace, api.PredictRequest(workspace.root / "fields.gpkg", **changes))


def test_the_other_verbs_refuse_them(workspace: Workspace) -> None:
    for changes, said in (({"seeds": (0, -1)}, "--seeds: .* got -1"), ({"until": ("9" * 20,)}, "--until")):
        with pytest.raises(UsageError, match=said):
            api.evaluate(workspace, api.EvaluateRequest(models=("rf",), **changes), dry_run=True)
    with pytest.raises(UsageError, match="--year"):
        api.aggregate(workspace, workspace.data, [workspace.data], columns={"year": 99_999})
    with pytest.raises(UsageError, match="--year"):
        api.import_table(workspace, workspace.data, options={"year": 99_999})


def test_a_crop_that_is_named_twice_is_drawn_once(workspace: Workspace) -> None:
    api.train(workspace, api.TrainRequest(model="tgem", calendar="month", name="run"))
    drawn = api.sample(workspace, api.SampleRequest(classes=("b", "b"), count=3))
    assert SeriesStore.open(drawn.series).column("parcel_id").tolist() == ["b-1", "b-2", "b-3"]
    with pytest.raises(UsageError, match="--year"):
        api.sample(workspace, api.SampleRequest(year=99_999), overwrite=True)


@pytest.mark.parametrize(("count", "temperature"), [(0, 1.0), (2, -0.1), (2, float("inf")), (2, float("nan"))])
def test_seasons_are_some_and_of_a_finite_temperature(workspace: Workspace, count: int, temperature: float) -> None:
    run = workspace.runs / "r"
    run.mkdir(parents=True)
    (run / "model.safetensors").touch()
    with pytest.raises(UsageError, match="seasons at temperature"):
        api.sample(workspace, api.SampleRequest(run=run, count=count, temperature=temperature))


@pytest.mark.parametrize("name", ["fields_2021.gdb", "fields_2021.json"])
def test_what_is_no_evaluation_may_be_parcels(workspace: Workspace, name: str) -> None:
    shapes = shapely.box([0, 1], 0, [0.5, 1.5], 1)
    frame = geopandas.GeoDataFrame({"field_id": ["a", "b"], "crop": ["rye", "oats"]}, geometry=shapes, crs=4326)
    frame.to_file(workspace.root / name, driver="OpenFileGDB" if name.endswith(".gdb") else "GeoJSON")
    found = api.info(workspace, workspace.root / name)
    assert (found.kind, found.content["features"], "parcels" in found.content) == ("layer", 2, True)


def test_the_newest_run_is_one_that_is_whole(workspace: Workspace) -> None:
    for name, files in (("whole", ("model.safetensors", "manifest.json")), ("copied", ("model.safetensors",))):
        (workspace.runs / name).mkdir(parents=True)
        for file in files:
            (workspace.runs / name / file).touch()
    assert workspace.default_run().name == "whole"


@pytest.mark.parametrize("content", [None, "", "{", "[]", "{}", '{"year": []}'])
def test_seasons_of_a_run_without_its_labels_need_a_year(workspace: Workspace, content: str | None) -> None:
    run = api.train(workspace, api.TrainRequest(model="tgem", name="r")).run
    (run / "labels.json").unlink()
    if content is not None:
        (run / "labels.json").write_text(content)
    with pytest.raises(CorruptInputError, match="does not tell the years learnt from"):
        api.sample(workspace, api.SampleRequest(run=run, count=1))
    assert api.sample(workspace, api.SampleRequest(run=run, count=1, year=2024), dry_run=True).years == (2024,)


def test_a_mapping_that_is_missing_is_called_so(workspace: Workspace) -> None:
    (workspace.root / "t.csv").touch()
    with pytest.raises(MissingInputError, match=r"mapping not found: .*m\.toml"):
        api.import_table(workspace, workspace.root / "t.csv", mapping=workspace.root / "m.toml")
