"""`predict --adapt`: a run of its own, with provenance, used again, refused where it cannot be made."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely
import torch

from cropgen import api
from cropgen.core.errors import CorruptInputError, DataError, MissingInputError, OutputExistsError, UsageError
from cropgen.core.paths import Workspace
from cropgen.core.progress import Silent
from cropgen.core.run import RunFolder
from cropgen.models.checkpoint import load_model
from cropgen.models.pool import Pool
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore
from cropgen.training import adapt

BANDS = ("B04", "B08")
PARCELS = 240
POOL = {"generative": "tgem", "discriminative_options": {"steps": 5, "hidden": 4, "width": 5}}


def season(year: int, *, late: float = 0.0, dates: int = 10) -> ParcelSeries:
    """Seasons whose phase tells the crop; `late` moves all of them, as another year does."""
    draw = np.random.default_rng(year)
    label = np.arange(PARCELS) % 3
    time = np.arange(dates)
    phase = time / 1.6 + 1.2 * label[:, None] + late + 0.3 * draw.standard_normal((PARCELS, 1))
    values = 0.4 + 0.2 * np.stack([np.sin(phase), np.cos(phase)], -1) + 0.1 * draw.standard_normal((PARCELS, 1, 2))
    day = 30 * time + (np.datetime64(f"{year}-02-05") - np.datetime64("1970-01-01")).astype(int)
    mask = draw.random((PARCELS, dates)) > 0.2
    mask[0] = False
    return ParcelSeries.build(
        bands=BANDS, values=values + 0.08 * draw.standard_normal(values.shape), mask=mask,
        day=np.tile(day, (PARCELS, 1)), parcel_id=np.char.add("p", np.arange(PARCELS).astype(str)), year=year,
        label=label,
    )  # fmt: skip


def stored(path: Path, *parts: ParcelSeries) -> Path:
    store = SeriesStore.create(path, bands=BANDS, legend=Legend.from_codes("l", ["a", "b", "c"]))
    for part in parts:
        store.append(part)
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with the series of 2021, those of 2022 in another store, and runs of tgem, a pool and a forest."""
    root = tmp_path_factory.mktemp("adapt")
    stored(root / "data" / "old" / "series.zarr", season(2021))
    stored(root / "new.zarr", season(2022, late=0.3))
    stored(root / "early.zarr", season(2022, late=0.3, dates=6))
    shapes = shapely.box(np.arange(PARCELS) * 100.0, 0, np.arange(PARCELS) * 100.0 + 90, 90)
    frame = gpd.GeoDataFrame({"parcel_id": season(2022).parcel_id}, geometry=shapes, crs="EPSG:32631")
    pyogrio.write_dataframe(frame, root / "new fields 2022.gpkg")
    for model, options in (("tgem", {}), ("pool", POOL), ("rf", {"trees": 10})):
        request = api.TrainRequest(model=model, labels="10/class", options=options, calendar="month", name=model)
        api.train(Workspace(root), request)
    return root


@pytest.fixture
def workspace(made: Path, tmp_path: Path) -> Workspace:
    shutil.copytree(made, tmp_path / "w")
    return Workspace(tmp_path / "w")


def ask(workspace: Workspace, run: str = "tgem", **changes: object) -> api.PredictRequest:
    root = workspace.root
    request = api.PredictRequest(
        root / "new fields 2022.gpkg", Path(run), series=root / "new.zarr", output=root / f"{run}.gpkg", adapt=True
    )
    return replace(request, **changes)  # type: ignore[arg-type]


def right(path: Path) -> float:
    said = pyogrio.read_dataframe(path, layer=0)["pred_crop_code"].to_numpy()
    return float((said == np.array(["a", "b", "c"])[np.arange(PARCELS) % 3]).mean())


@pytest.mark.parametrize("run", ["tgem", "pool"])
def test_the_adapted_run_says_where_it_comes_from_and_predicts_better(workspace: Workspace, run: str) -> None:
    plain = api.predict(workspace, ask(workspace, run, adapt=False, output=workspace.root / "plain.gpkg"))
    report = Silent()
    done = api.predict(workspace, ask(workspace, run), report=report)
    assert done.run_id == f"{run}-adapted-new-fields-2022"
    assert right(done.output) > right(plain.output) + (0.02 if run == "tgem" else -0.02)
    folder = RunFolder(workspace.runs / done.run_id)
    origin = json.loads(folder.adapted.read_text())
    assert (origin["parent"], origin["rows"], origin["target"]) == (run, PARCELS - 1, "new fields 2022")
    assert origin["series"] == "new.zarr"
    manifest, before = folder.read_manifest(), RunFolder(workspace.runs / run).read_manifest()
    assert manifest["adapted_from"] == run
    assert manifest["run"] == done.run_id
    assert manifest["facts"]["tgem"]["target_accepted"]
    assert manifest["spec"] == before["spec"]
    assert folder.recipe.read_text() == RunFolder(workspace.runs / run).recipe.read_text()
    assert (folder.path / "typicality.json").is_file()
    assert api.info(workspace, folder.path).kind == "run"
    assert workspace.default_run().name != done.run_id
    again = Silent()
    repeated = api.predict(workspace, ask(workspace, run), overwrite=True, report=again)
    assert any("is adapted to these parcels already" in line for line in again.messages)
    assert right(repeated.output) == right(done.output)


def test_of_a_pool_only_the_generative_member_changes(workspace: Workspace) -> None:
    api.predict(workspace, ask(workspace, "pool"))
    before = load_model(workspace.runs / "pool")
    after = load_model(workspace.runs / "pool-adapted-new-fields-2022")
    assert isinstance(before, Pool)
    assert isinstance(after, Pool)
    same = after.discriminative.state_dict()
    assert all(torch.equal(same[key], value) for key, value in before.discriminative.state_dict().items())
    assert not torch.equal(after.generative.state_dict()["gaussian.means"],
                           before.generative.state_dict()["gaussian.means"])  # fmt: skip
    assert float(after.weight) == float(before.weight)


def test_a_dry_run_says_and_writes_nothing(workspace: Workspace) -> None:
    before = sorted(p for p in workspace.root.rglob("*") if p.name != ".lock")
    done = api.predict(workspace, ask(workspace), dry_run=True)
    assert done.run_id == "tgem-adapted-new-fields-2022"
    assert done.parcels == PARCELS
    assert sorted(p for p in workspace.root.rglob("*") if p.name != ".lock") == before


def test_what_was_learnt_from_already_is_no_target(workspace: Workspace) -> None:
    report = Silent()
    series = workspace.root / "data" / "old" / "series.zarr"
    done = api.predict(workspace, ask(workspace, series=series, year=2021), report=report)
    assert done.run_id == "tgem"
    assert any("nothing to adapt to" in line for line in report.messages)


def test_a_target_that_hurts_is_refused_by_the_guard(workspace: Workspace) -> None:
    noise = season(2022)
    wild = 5 * np.random.default_rng(0).standard_normal(noise.values.shape).astype(np.float32)
    stored(workspace.root / "wild.zarr", replace(noise, values=wild * noise.mask[..., None]))
    report = Silent()
    done = api.predict(workspace, ask(workspace, series=workspace.root / "wild.zarr"), report=report)
    assert done.run_id == "tgem"
    assert any("are not learnt from" in line for line in report.warnings)
    assert not (workspace.runs / "tgem-adapted-new-fields-2022").exists()


def test_requests_that_cannot_be_met(workspace: Workspace) -> None:
    with pytest.raises(UsageError, match="--adapt and --until exclude each other"):
        api.predict(workspace, ask(workspace, until="06-30"))
    with pytest.raises(UsageError, match="rf does not learn from unlabelled parcels"):
        api.predict(workspace, ask(workspace, "rf"))
    with pytest.raises(DataError, match="not seen in 4 of 10 periods at the ends of the season"):
        api.predict(workspace, ask(workspace, series=workspace.root / "early.zarr"))
    api.predict(workspace, ask(workspace))
    with pytest.raises(UsageError, match="is adapted already") as raised:
        api.predict(workspace, ask(workspace, "tgem-adapted-new-fields-2022"))
    assert raised.value.hint == "adapt the run it came from: --run tgem"
    stored(workspace.root / "newer.zarr", season(2022, late=0.2))
    other = ask(workspace, series=workspace.root / "newer.zarr", output=workspace.root / "other.gpkg")
    with pytest.raises(OutputExistsError, match="was adapted to other series"):
        api.predict(workspace, other)
    assert api.predict(workspace, other, overwrite=True).run_id == "tgem-adapted-new-fields-2022"
    RunFolder(workspace.runs / "tgem-adapted-new-fields-2022").adapted.write_text("{")
    with pytest.raises(CorruptInputError, match="is not JSON"):
        api.predict(workspace, other, overwrite=True)


def test_a_training_store_that_is_gone_or_changed_is_named(workspace: Workspace) -> None:
    old = workspace.root / "data" / "old" / "series.zarr"
    SeriesStore.open(old).append(season(2020))
    with pytest.raises(DataError, match="is not the series that tgem learnt from"):
        api.predict(workspace, ask(workspace))
    shutil.rmtree(old)
    for dry_run in (True, False):
        with pytest.raises(MissingInputError, match=r"learnt from .*series\.zarr, which is not there"):
            api.predict(workspace, ask(workspace), dry_run=dry_run)
    assert api.predict(workspace, ask(workspace, adapt=False)).run_id == "tgem"


def test_the_sample_of_the_target_is_seeded(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapt, "MOST_TARGET_ROWS", 50)
    planned = adapt.reread(RunFolder(workspace.runs / "tgem"), workspace.root)
    store = SeriesStore.open(workspace.root / "new.zarr")
    rows = adapt.target_rows(planned, store, np.arange(PARCELS), 3)
    assert len(rows) == 50
    assert 0 not in rows
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, adapt.target_rows(planned, store, np.arange(PARCELS)[::-1], 3))
    assert (rows != adapt.target_rows(planned, store, np.arange(PARCELS), 4)).any()


def test_what_judges_the_usual_is_not_learnt_from(workspace: Workspace) -> None:
    planned = adapt.reread(RunFolder(workspace.runs / "tgem"), workspace.root)
    apart = planned.rows.unlabelled[:20]
    rows = replace(planned.rows, unlabelled=planned.rows.unlabelled[30:], reference=apart)
    target = adapt.target_rows(replace(planned, rows=rows), planned.store, np.arange(len(planned.store)), 0)
    np.testing.assert_array_equal(target, planned.rows.unlabelled[20:30])
