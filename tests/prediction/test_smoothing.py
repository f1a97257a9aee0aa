"""Predictions beside those of the neighbours: what each says by itself stays, bit by bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely

from cropgen.core.errors import DataError, SchemaError
from cropgen.prediction.columns import SMOOTHED_COLUMNS
from cropgen.prediction.geopackage import LAYER, PROBABILITIES
from cropgen.prediction.neighbours import Field, neighbour_pairs, on_the_globe, potts, smooth
from cropgen.prediction.options import PredictOptions
from cropgen.prediction.predict import PredictReport, predict
from cropgen.prediction.smoothing import Locator, located
from tests.prediction.conftest import LEGEND, PARCELS, Region

FIELD = Field("potts 1.5", 1.5 * potts(3), reach_m=120.0, most=4, rounds=4)
NAMES = [f"pred_{column.name}" for column in SMOOTHED_COLUMNS]


def written(region: Region, path: Path, field: Field | None, **changes: object) -> tuple[pd.DataFrame, PredictReport]:
    options = replace(PredictOptions(smoothing=field), **changes)  # type: ignore[arg-type]
    report = predict(region.run, region.layer, region.store, path, options)
    if path.suffix == ".parquet":
        return gpd.read_parquet(path), report
    return pyogrio.read_dataframe(path, layer=LAYER, fid_as_index=True), report


def expected(region: Region, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Marginals (N, K) and numbers of neighbours of the parcels with a series, from the table of probabilities."""
    said = pyogrio.read_dataframe(path, layer=PROBABILITIES)
    p = said[[name for name in said.columns if name.startswith("p_")]].to_numpy()
    middle = region.parcels.geometry.iloc[:PARCELS].centroid.to_crs("OGC:CRS84")
    found = smooth(on_the_globe(middle.x.to_numpy(), middle.y.to_numpy()), np.log(np.maximum(p, 1e-12)), FIELD)
    return np.exp(found.log_probability), found.neighbours


def test_smoothed_columns_are_the_marginals_and_the_others_stay(region: Region, tmp_path: Path) -> None:
    plain, alone = written(region, tmp_path / "plain.gpkg", None)
    both, report = written(region, tmp_path / "both.gpkg", FIELD)
    assert [name for name in both.columns if name not in plain.columns] == NAMES
    pd.testing.assert_frame_equal(pd.DataFrame(both[plain.columns]), pd.DataFrame(plain))
    marginal, neighbours = expected(region, tmp_path / "both.gpkg")
    known, codes = both.iloc[:PARCELS], np.array(LEGEND.codes)
    np.testing.assert_allclose(known["pred_smoothed_probability"], marginal.max(1), rtol=1e-5)
    assert known["pred_smoothed_code"].tolist() == codes[marginal.argmax(1)].tolist()
    assert known["pred_neighbours"].tolist() == neighbours.tolist()
    assert neighbours.max() == 4
    changed = int((known["pred_smoothed_code"] != known["pred_crop_code"]).sum())
    assert (report.changed, alone.changed) == (changed, None)
    assert both[NAMES].iloc[PARCELS].isna().all(), "a parcel without a series has none"


def test_strong_neighbours_change_crops(region: Region, tmp_path: Path) -> None:
    table, report = written(region, tmp_path / "strong.parquet", replace(FIELD, potential=20 * potts(3)))
    assert report.changed is not None
    assert report.changed > PARCELS // 3
    assert len(set(table["pred_crop_code"].dropna())) == 3


def test_the_metadata_says_how(region: Region, tmp_path: Path) -> None:
    written(region, tmp_path / "map.gpkg", FIELD)
    written(region, tmp_path / "plain.gpkg", None)
    kept, plain = (pyogrio.read_info(tmp_path / f"{name}.gpkg", layer=LAYER)["layer_metadata"] or {}
                   for name in ("map", "plain"))  # fmt: skip
    assert kept["CROPGEN_SMOOTHING"] == "potts 1.5"
    assert "CROPGEN_SMOOTHING" not in plain
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".smooth")] == []


def test_a_parcel_is_no_neighbour_of_itself_in_another_year() -> None:
    place = located(np.full(4, 5.0), np.array([45.0, 45.0001, 45.0, 45.0001]), np.array([2021, 2021, 2022, 2022]))
    assert neighbour_pairs(place, 100.0, 8).tolist() == [[0, 1], [2, 3]]
    assert not np.isfinite(located(np.array([np.nan, np.inf]), np.zeros(2), np.zeros(2))).all(1).any()


def test_places_need_a_coordinate_system_and_readable_shapes() -> None:
    with pytest.raises(SchemaError, match="no coordinate system"):
        Locator(None, "fields.shp")
    with pytest.raises(SchemaError, match="not tied to the globe"):
        Locator('LOCAL_CS["farm",UNIT["metre",1]]', "fields.shp")
    import pyarrow as pa

    with pytest.raises(DataError, match="cannot be read"):
        Locator("EPSG:32631", "fields.shp")(pa.array([b"\x01nonsense"]), np.array([2021]))
    place = Locator("EPSG:32631", "fields.shp")(pa.array([None], pa.binary()), np.array([2021]))
    assert not np.isfinite(place).all()


def test_parcels_without_a_place_keep_their_crop(region: Region, tmp_path: Path) -> None:
    layer = tmp_path / "fields_2021.gpkg"
    frame = region.parcels.copy()
    frame.loc[0, "geometry"], frame.loc[1, "geometry"] = None, shapely.Polygon()
    pyogrio.write_dataframe(frame, layer, geometry_type="Unknown")
    predict(region.run, layer, region.store, tmp_path / "map.gpkg", PredictOptions(smoothing=FIELD))
    got = pyogrio.read_dataframe(tmp_path / "map.gpkg", layer=LAYER)
    assert got["pred_smoothed_code"][:2].tolist() == got["pred_crop_code"][:2].tolist()
    np.testing.assert_allclose(got["pred_smoothed_probability"][:2], got["pred_probability"][:2], rtol=1e-5)
    assert got["pred_neighbours"][:2].tolist() == [0, 0]
    assert got["pred_neighbours"].max() == 4
    assert got[NAMES].iloc[PARCELS].isna().all()


def test_nothing_is_left_behind_where_no_parcel_is_known(region: Region, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no parcel of"):
        written(region, tmp_path / "map.gpkg", FIELD, id_column="area")
    assert list(tmp_path.iterdir()) == []
