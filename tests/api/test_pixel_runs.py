"""A model that looks inside parcels, from the workspace to the map: trained, adapted, predicted and evaluated."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely

from cropgen import api
from cropgen.core.errors import SchemaError
from cropgen.core.paths import Workspace
from cropgen.models.checkpoint import load_model
from cropgen.series.legend import Legend
from cropgen.series.pixel_sets import PixelSets
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

BANDS, INSIDE, PARCELS, DATES, PIXELS = ("B04", "B08", "slope"), ("B04", "B08"), 40, 5, 6
SMALL = {
    "steps": 30, "labelled_batch": 16, "channels": 16, "heads": 2, "pixel_width": 8, "pixel_channels": 8,
    "date_channels": 16, "width": 16, "dropout": 0.0,
}  # fmt: skip


def season(year: int) -> ParcelSeries:
    """Parcels alike on average; every other one is patchy."""
    draw = np.random.default_rng(year)
    label = np.arange(PARCELS) % 2
    patches = 0.15 * label[:, None, None, None] * np.where(np.arange(PIXELS) % 2, 1, -1)[:, None]
    pixels = 0.3 + patches + 0.02 * draw.standard_normal((PARCELS, DATES, PIXELS, 2))
    values = np.concatenate([pixels.mean(2), np.full((PARCELS, DATES, 1), 3.0)], -1)
    start = int(np.datetime64(f"{year}-04-01", "D").astype(int))
    return ParcelSeries.build(
        bands=BANDS, values=values, mask=np.ones((PARCELS, DATES)), label=label, year=year,
        day=np.tile(start + 30 * np.arange(DATES), (PARCELS, 1)), parcel_id=np.arange(PARCELS).astype(str),
        lon=3 + 0.1 * np.arange(PARCELS), lat=np.full(PARCELS, 50.0),
        pixel_sets=PixelSets.build(bands=INSIDE, values=pixels, mask=np.ones((PARCELS, DATES, PIXELS))),
    )  # fmt: skip


def stored(path: Path, *parts: ParcelSeries) -> Path:
    store = SeriesStore.create(path, bands=BANDS, legend=Legend.from_codes("l", ["even", "patchy"]))
    left = 3 + 0.1 * np.arange(PARCELS)
    for part in parts:
        store.append(part, gpd.GeoSeries(shapely.box(left, 50, left + 0.05, 50.05), crs="EPSG:4326"))
    return path


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    root = tmp_path_factory.mktemp("pixels")
    stored(root / "data" / "inside" / "series.zarr", season(2021), season(2022))
    stored(root / "plain.zarr", replace(season(2022), pixel_sets=None))
    made = Workspace(root)
    api.train(made, api.TrainRequest(model="pse-ltae", years=(2021,), options=SMALL, calendar="month", name="pse"))
    return made


def test_the_run_remembers_its_bands_and_predicts_what_means_cannot_tell(workspace: Workspace) -> None:
    spec = load_model(workspace.runs / "pse").spec
    assert (spec.bands, spec.pixel_bands) == (BANDS, INSIDE)
    parcels = workspace.root / "fields.gpkg"
    left = 3 + 0.1 * np.arange(PARCELS)
    frame = gpd.GeoDataFrame(
        {"parcel_id": np.arange(PARCELS).astype(str)}, geometry=shapely.box(left, 50, left + 0.05, 50.05), crs=4326
    )
    pyogrio.write_dataframe(frame, parcels)
    done = api.predict(workspace, api.PredictRequest(parcels, Path("pse"), year=2022))
    said = pyogrio.read_dataframe(done.output, layer=0)["pred_crop_code"].to_numpy()
    assert (said == np.array(["even", "patchy"])[np.arange(PARCELS) % 2]).mean() > 0.9
    request = api.PredictRequest(parcels, Path("pse"), year=2022, series=workspace.root / "plain.zarr",
                                 output=workspace.root / "none.gpkg")  # fmt: skip
    with pytest.raises(SchemaError, match="no pixel sets"):
        api.predict(workspace, request)


def test_a_series_without_pixel_sets_says_how_to_make_them(workspace: Workspace) -> None:
    plain = workspace.root / "plain.zarr"
    with pytest.raises(SchemaError, match="no pixel sets") as caught:
        api.train(workspace, api.TrainRequest(series=plain, model="pse-ltae", calendar="month", name="not"))
    assert "cropgen aggregate" in str(caught.value.hint)
    assert caught.value.exit_code == 3
    assert not (workspace.runs / "not").exists()
    with pytest.raises(SchemaError, match="no pixel sets"):
        api.evaluate(workspace, api.EvaluateRequest(models=("pse-ltae",), series=plain, seeds=(0,)))


@pytest.mark.slow
def test_it_is_evaluated_beside_models_of_means(workspace: Workspace) -> None:
    request = api.EvaluateRequest(
        "cross-year", ("pse-ltae", "lda"), seeds=(0,), block_km=5.0, output=workspace.root / "report",
        options={"pse-ltae": SMALL},
    )  # fmt: skip
    api.evaluate(workspace, request)
    document = json.loads((workspace.root / "report" / "evaluation.json").read_text())
    scores: dict[str, list[float]] = {}
    for row in document["rows"]:
        if row["scope"] == "held-out":
            scores.setdefault(row["model"], []).append(row["accuracy"])
    assert min(scores["pse-ltae"]) > 0.9
    assert max(scores["lda"]) < 0.85
