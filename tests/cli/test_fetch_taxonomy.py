"""`cropgen fetch` of the sets that share the HCAT taxonomy: from a server in the published layout to what follows."""

from __future__ import annotations

from pathlib import Path

import pytest

from cropgen.series.store import SeriesStore
from tests.data.cropharvest import make as cropharvest
from tests.data.eurocrops import make as eurocrops
from tests.data.eurocropsml import make as eurocropsml
from tests.data.manifests import local_manifest
from tests.data.server import serve

from .conftest import CRS, ORIGIN, Ended, call, write_scenes


def fetch(root: Path, name: str, *words: str) -> Ended:
    """Fetch from a server that serves `root/served`."""
    with serve(root / "served") as server:
        manifests = local_manifest(name, server, root / "manifests")
        where = ("--manifests", str(manifests), "--workspace", str(root), "--retries", "0", "--json")
        return call("fetch", name, *words, *where)


@pytest.mark.slow
def test_declared_parcels_are_fetched_and_aggregated(tmp_path: Path) -> None:
    every = eurocrops.fields(1, 60, (ORIGIN[0], ORIGIN[1] - 700))
    made = [f for f in every if f.outline is not None and f.outline.bounds[2] < ORIGIN[0] + 800]
    eurocrops.write_v1(tmp_path / "served", made, crs=CRS)
    (tmp_path / "served/HCAT2.csv").write_text("HCAT2_name,HCAT2_code\n", encoding="utf-8")
    ended = fetch(tmp_path, "eurocrops", "--regions", "EE", "--year", "2021")
    assert ended.code == 0, ended.err
    assert "have no HCAT code: Strange thing" in ended.err
    layer = tmp_path / "data/eurocrops/v1/EE_2021.parquet"
    assert layer.is_file()
    scenes = write_scenes(tmp_path / "scenes")
    gathered = call("aggregate", scenes, layer, "--buffer", "0", "--name", "ee", "--workspace", tmp_path)
    assert gathered.code == 0, gathered.err
    store = SeriesStore.open(tmp_path / "data/ee/series.zarr")
    codes = [eurocrops.V1_CROPS[f.crop][4] for f in made]
    known = sorted({c for c in codes if c is not None})
    assert store.legend.codes == tuple(known)
    assert [c.hcat for c in store.legend.classes] == known
    assert store.legend.names[0] == "winter common soft wheat"
    found = dict(zip(store.column("parcel_id").tolist(), store.column("label").tolist(), strict=True))
    expected = {f"EE-{i}": -1 if c is None else known.index(c) for i, c in enumerate(codes)}
    assert found == expected
    assert (store.column("clear_dates") == 3).all()
    assert set(store.column("region")) == {"EE"}
    assert set(store.column("year")) == {2021}
    told = call("info", store.path, "--hcat", "4", "--json")
    assert told.code == 0, told.err
    groups = {c: c[:6] + "0000" if c[4:6] != "00" else c for c in known}
    counted = {c["code"]: c["count"] for c in told.json()["result"]["content"]["classes"]}
    assert counted == {g: sum(groups.get(c or "") == g for c in codes) for g in set(groups.values())}
    assert call("info", store.path, "--hcat", "9").code == 2


def test_few_shot_parcels_are_fetched_with_their_splits(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    made = eurocropsml.write(tmp_path / "served", count=12)
    ended = fetch(tmp_path, "eurocropsml")
    assert ended.code == 0, ended.err
    store = SeriesStore.open(tmp_path / "data/eurocropsml/series.zarr")
    assert len(store) == len(made)
    splits = {p.stem for p in (tmp_path / "data/eurocropsml/splits").iterdir()}
    assert splits == {f"{case}-{shots}" for case in ("ee", "lv-ee", "lv-pt-ee") for shots in eurocropsml.SHOTS}


@pytest.mark.slow
def test_points_are_fetched_and_a_task_is_evaluated(tmp_path: Path) -> None:
    (tmp_path / "served").mkdir()
    made, _ = cropharvest.write(tmp_path / "served", count=16)
    ended = fetch(tmp_path, "cropharvest")
    assert ended.code == 0, ended.err
    store = SeriesStore.open(tmp_path / "data/cropharvest/series.zarr")
    assert set(store.column("region")) >= {p.dataset for p in made} - {"togo-eval"}
    words = ("--protocol", "cropharvest-togo", "--model", "rf", "--seeds", "0", "--workspace", str(tmp_path), "--json")
    evaluated = call("evaluate", "--data", store.path, "--labels", "100%", *words)
    assert evaluated.code == 0, evaluated.err


@pytest.mark.parametrize("level", ["v2", "v2-stack"])
def test_the_second_version_is_fetched(tmp_path: Path, level: str) -> None:
    made = eurocrops.fields(2, 10, (4_790_000.0, 2_800_000.0))
    served = tmp_path / "served" / level
    if level == "v2":
        eurocrops.write_v2(served, made, ["138", "109"] * 5)
        words: tuple[str, ...] = ("--year", "2020")
    else:
        eurocrops.write_stack(served, made, {2019: ["138"] * 10, 2020: ["109"] * 10, 2021: ["301"] * 10})
        words = ("--year", "2019,2020")
    ended = fetch(tmp_path, "eurocrops", "--regions", "AT", "--level", level, *words)
    assert ended.code == 0, ended.err
    found = sorted(p.stem for p in (tmp_path / "data/eurocrops" / level).glob("*.parquet"))
    assert found == (["AT_2020"] if level == "v2" else ["AT_2019", "AT_2020"])
