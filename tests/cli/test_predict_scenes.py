"""`predict --scenes`: the parcels are aggregated as the series of the run were."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyogrio
import pytest

from cropgen import api
from cropgen.api.reaggregation import options_like
from cropgen.core.errors import DataError, MissingInputError
from cropgen.core.paths import Workspace
from cropgen.series.store import SeriesStore

from .conftest import write_parcels, write_scenes

DATES = ("20201020", "20201115", "20210415", "20210615", "20210815")


def learnt(folder: Path, **options: Any) -> tuple[Workspace, api.TrainResult]:
    """A workspace with scenes, parcels, a store aggregated with these options, and a run on it."""
    scenes, parcels = write_scenes(folder / "scenes", DATES), write_parcels(folder / "fields.gpkg")
    made = Workspace(folder)
    api.aggregate(made, scenes, [parcels], name="own", options=options)
    return made, api.train(made, api.TrainRequest(model="tgem", calendar="month", name="run"))


def predicted(made: Workspace, name: str, **inputs: Any) -> Any:
    request = api.PredictRequest(made.root / "fields.gpkg", output=made.root / f"{name}.gpkg", **inputs)
    return pyogrio.read_dataframe(api.predict(made, request).output, layer="predictions", read_geometry=False)


@pytest.mark.parametrize(
    "options",
    [
        {"season": ("10-01", "09-30")},
        {"scale": 1e-3, "offset": 0.0, "buffer": 0.0},
        {"statistics": ("mean", "std"), "bands": ("B08",)},
    ],
)
def test_scenes_give_what_the_store_of_the_run_gives(tmp_path: Path, options: dict[str, Any]) -> None:
    made, _ = learnt(tmp_path, **options)
    own = made.default_series()
    from_store, from_scenes = predicted(made, "a"), predicted(made, "b", scenes=tmp_path / "scenes")
    assert from_store["pred_crop_code"].notna().all()
    assert from_scenes.equals(from_store)
    assert made.default_series() == own


def test_only_the_bands_that_the_run_reads_are_aggregated(tmp_path: Path) -> None:
    made, _ = learnt(tmp_path, statistics=("mean", "std"), pixels=4)
    one = api.train(made, api.TrainRequest(model="tgem", calendar="month", bands=("B08", "B08_std"), name="one"))
    options = options_like(made, one.run, {"id": "parcel_id"})
    assert (options.bands, options.statistics, options.pixels) == (("B08",), ("mean", "std"), 0)
    assert options.parcels.id == "parcel_id"


def test_what_scenes_cannot_give_is_refused(tmp_path: Path) -> None:
    made, run = learnt(tmp_path)
    manifest = run.run / "manifest.json"
    document = json.loads(manifest.read_text())
    source = document["data"].pop("source")
    assert source == SeriesStore.open(made.default_series()).source

    def recorded(**changes: Any) -> None:
        data = {**document["data"], "source": source | changes}
        manifest.write_text(json.dumps({**document, "data": data}))

    for changes, said in (
        ({"kind": "import"}, "learnt from import series, not from an aggregate"),
        ({"transforms": [{"composite": "10D"}]}, "series that were transformed"),
        ({"channels": [{"kind": "s1", "bands": ["B08"]}]}, "needs B08 too, which scenes do not give"),
    ):
        recorded(**changes)
        with pytest.raises(DataError, match=said):
            predicted(made, "none", scenes=tmp_path / "scenes")
    manifest.write_text(json.dumps(document))
    assert options_like(made, run.run, {}).bands == ("B04", "B08")
    scenes, parcels = tmp_path / "scenes", tmp_path / "fields.gpkg"
    api.aggregate(made, scenes, [parcels], name="own", options={"season": ("05-01", "12-31")}, overwrite=True)
    with pytest.raises(DataError, match="is not the series that run learnt from"):
        options_like(made, run.run, {})
    made.default_series().rename(tmp_path / "elsewhere.zarr")
    with pytest.raises(MissingInputError, match="how it was aggregated is not known"):
        options_like(made, run.run, {})
