"""`predict --smooth-neighbours`: the strength is chosen by validation labels, and only where neighbours help."""

from __future__ import annotations

import shutil
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely

from cropgen import api
from cropgen.api.smoothing import Neighbourhood, candidates, judge, smoothing_field
from cropgen.core.errors import DataError, UsageError
from cropgen.core.paths import Workspace
from cropgen.core.progress import Silent
from cropgen.prediction.neighbours import Field
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

SIDE = 24
LEGEND = Legend.from_codes("two", ["maize", "wheat"])


def season(*, clumped: bool) -> tuple[ParcelSeries, gpd.GeoSeries]:
    """Parcels every 100 m whose vague series tell the crop; crops lie in patches of 6 × 6 parcels, or anywhere."""
    draw = np.random.default_rng(3)
    east, north = np.meshgrid(np.arange(SIDE), np.arange(SIDE))
    patch = draw.integers(0, 2, (SIDE // 6, SIDE // 6))
    crop = patch[north // 6, east // 6].ravel() if clumped else draw.integers(0, 2, SIDE**2)
    shapes = gpd.GeoSeries(
        shapely.box(500_000 + 100.0 * east.ravel(), 5e6 + 100.0 * north.ravel(), 500_090 + 100.0 * east.ravel(),
                    5e6 + 90 + 100.0 * north.ravel()), crs="EPSG:32631",
    )  # fmt: skip
    middle = shapes.centroid.to_crs("OGC:CRS84")
    day = 40 + 30 * np.arange(4) + (np.datetime64("2021-01-01") - np.datetime64("1970-01-01")).astype(int)
    values = 0.3 + 0.05 * crop[:, None, None] + 0.05 * draw.standard_normal((SIDE**2, 4, 1))
    series = ParcelSeries.build(
        bands=("B08",), values=values, mask=np.ones((SIDE**2, 4), bool), day=np.tile(day, (SIDE**2, 1)),
        parcel_id=np.char.add("p", np.arange(SIDE**2).astype(str)), year=2021, label=crop,
        lon=middle.x.to_numpy(), lat=middle.y.to_numpy(),
    )  # fmt: skip
    return series, shapes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores, a run on each that kept validation labels, and one that kept none."""
    root = tmp_path_factory.mktemp("smooth")
    for name, clumped in (("patches", True), ("mixed", False)):
        series, shapes = season(clumped=clumped)
        store = SeriesStore.create(root / "data" / name / "series.zarr", bands=("B08",), legend=LEGEND)
        store.append(series)
        frame = gpd.GeoDataFrame({"parcel_id": series.parcel_id}, geometry=shapes)
        pyogrio.write_dataframe(frame, root / f"{name}.gpkg")
        ask = {"series": store.path, "model": "lda", "labels": "50%", "calendar": "month"}
        api.train(Workspace(root), api.TrainRequest(**ask, validation="30%", name=name))
        if clumped:
            api.train(Workspace(root), api.TrainRequest(**ask, name="without"))
    return root


def store_of(root: Path, name: str) -> Path:
    return root / "data" / name / "series.zarr"


def test_patches_are_smoothed_and_most_mistakes_mended(made: Path, tmp_path: Path) -> None:
    request = api.PredictRequest(
        made / "patches.gpkg", made / "runs" / "patches", series=store_of(made, "patches"),
        output=tmp_path / "map.gpkg", smooth_neighbours="auto",
    )  # fmt: skip
    result = api.predict(Workspace(made), request)
    ((name, changed),) = result.smoothed.items()
    table = pyogrio.read_dataframe(result.output, layer="predictions", read_geometry=False)
    truth = np.array(LEGEND.codes)[season(clumped=True)[0].label]
    wrong, still = ((table[f"pred_{c}_code"] != truth).mean() for c in ("crop", "smoothed"))
    assert name.split()[0] in ("potts", "learnt")
    assert changed == (table["pred_crop_code"] != table["pred_smoothed_code"]).sum() > 0
    assert still < 0.5 * wrong


def test_mixed_crops_are_left_as_they_are(made: Path) -> None:
    heard = Silent()
    assert smoothing_field(made / "runs" / "mixed", store_of(made, "mixed"), "auto", 150.0, heard) is None
    assert any("not smoothed" in text for text in heard.warnings)


def test_a_given_strength_favours_equal_crops(made: Path) -> None:
    field = smoothing_field(made / "runs" / "mixed", store_of(made, "mixed"), "0.4", 150.0, Silent())
    assert field is not None
    assert (field.name, field.reach_m, field.potential.tolist()) == ("potts 0.4", 150.0, [[0.4, 0.0], [0.0, 0.4]])


@pytest.mark.parametrize("strength", ["-1", "much", "nan", "1000"])
def test_a_strength_is_a_number(made: Path, strength: str) -> None:
    with pytest.raises(UsageError, match="expected a strength from 0 on or auto"):
        smoothing_field(made / "runs" / "mixed", store_of(made, "mixed"), strength, 150.0, Silent())


def test_auto_needs_validation_labels_and_the_series_they_are_in(made: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="kept no validation labels"):
        smoothing_field(made / "runs" / "without", store_of(made, "patches"), "auto", 150.0, Silent())
    with pytest.raises(DataError, match="is not the series patches learnt from"):
        smoothing_field(made / "runs" / "patches", store_of(made, "mixed"), "auto", 150.0, Silent())
    shutil.copytree(store_of(made, "patches"), tmp_path / "series.zarr")
    assert smoothing_field(made / "runs" / "patches", tmp_path / "series.zarr", "auto", 150.0, Silent()) is not None


def test_candidates_begin_with_none_and_are_judged_by_the_validation_labels() -> None:
    place = np.column_stack([100.0 * np.arange(3), np.zeros((3, 3))])
    said = np.log(np.array([[0.9, 0.1], [0.45, 0.55], [0.9, 0.1]]))
    around = Neighbourhood(place, said, np.array([-1, 0, -1]), np.array([0, -1, 0]))
    fields = candidates(around, 150.0)
    assert fields[0].name == "none"
    assert judge(around, fields[0]).tolist() == pytest.approx([-np.log(0.45)])
    field = Field("", np.array([[1.0, 0], [0, 1.0]]), 150.0, 8)
    boost = (0.9 * np.e + 0.1) / (0.9 + 0.1 * np.e)
    expected = 0.45 * boost**2 / (0.45 * boost**2 + 0.55)
    assert judge(around, field).tolist() == pytest.approx([-np.log(expected)])
