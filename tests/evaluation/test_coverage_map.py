"""Maps of coverage: what stands in the layer, and that pictures and pages are whole."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import shapely

from cropgen.core.errors import DataError, OutputExistsError, UsageError
from cropgen.core.progress import Silent
from cropgen.evaluation.coverage_map import _means, edges_of, write_coverage
from cropgen.series.coverage import coverage
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

START = 18_628  # 2021-01-01


def make(path, *, shapes: bool, places: bool = True) -> SeriesStore:
    made = SeriesStore.create(path / "data/some/series.zarr", bands=("B04",), legend=Legend("none", ()))
    mask = np.asarray([[1, 0, 1], [0, 0, 0], [1, 1, 1], [1, 1, 0]], bool)
    series = ParcelSeries.build(
        bands=("B04",), values=np.full((4, 3, 1), 0.2), mask=mask, parcel_id=list("abcd"),
        day=START + np.asarray([[0, 9, 40]] * 4), year=2021, region=["n", "n", "s", "s"],
        lon=np.asarray([5.0, 5.1, 5.0, 5.1]) if places else None, lat=np.full(4, 50.0) if places else None,
    )  # fmt: skip
    squares = gpd.GeoSeries([shapely.box(i, 50, i + 1, 51) for i in range(4)], crs=4326) if shapes else None
    made.append(series, squares)
    return made


@pytest.mark.parametrize("shapes", [True, False])
def test_the_layer_holds_every_parcel_season(tmp_path, shapes):
    store = make(tmp_path, shapes=shapes)
    path = tmp_path / "c.gpkg"
    write_coverage(store, coverage(store), path)
    frame = pyogrio.read_dataframe(path, layer="coverage")
    assert frame["parcel_id"].tolist() == ["a", "b", "c", "d"]
    assert frame["clear_dates"].tolist() == [2, 0, 3, 2]
    assert frame["longest_gap"].tolist() == [40, 0, 31, 9]
    assert frame["month_01"].tolist() == [1, 0, 2, 2]
    assert frame["class"].tolist() == ["2", "0", "3", "2"]
    assert set(frame.geometry.geom_type) == ({"Polygon"} if shapes else {"Point"})
    assert frame.geometry.iloc[2].centroid.coords[0] == ((2.5, 50.5) if shapes else (5.0, 50.0))
    with closing(sqlite3.connect(path)) as base:
        ((styled, qml),) = base.execute("select f_table_name, styleQML from layer_styles").fetchall()
    assert styled == "coverage"
    assert all(f'value="{name}"' in qml for name in set(frame["class"]))


def test_equal_stores_give_equal_files(tmp_path):
    store = make(tmp_path, shapes=True)
    facts = coverage(store)
    for name in ("a.gpkg", "b.gpkg", "a.html", "b.html", "a.png"):
        write_coverage(store, facts, tmp_path / name)
    assert (tmp_path / "a.gpkg").read_bytes() == (tmp_path / "b.gpkg").read_bytes()
    assert (tmp_path / "a.html").read_text() == (tmp_path / "b.html").read_text()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "a.html").read_text()
    assert "4 parcel seasons, of which 1 were never clearly seen" in page
    assert "<td>s</td><td>2021</td><td>2</td>" in page
    assert "http" not in page


def test_cells_hold_the_mean_of_their_parcels(tmp_path):
    store = make(tmp_path, shapes=False)
    mean = _means(store, (4.95, 5.15, 49.95, 50.05), 2, Silent())
    assert mean[np.isfinite(mean)].tolist() == [2.5, 1.0]


def test_classes_are_whole_numbers_ascending():
    assert edges_of({"0.05": 15, "0.95": 24}) == (0, 1, 15, 17, 19, 21, 23, 25)
    assert edges_of({"0.05": 0, "0.95": 0}) == (0, 1, 2)
    assert edges_of({}) == (0, 1, 2)


def test_faults(tmp_path):
    store = make(tmp_path, shapes=False, places=False)
    with pytest.raises(UsageError, match=r"expected \.gpkg, \.html, \.png"):
        write_coverage(store, coverage(store), tmp_path / "c.tif")
    with pytest.raises(DataError, match="no parcel has a place"):
        write_coverage(store, coverage(store), tmp_path / "c.png")
    (tmp_path / "c.png").write_text("mine")
    with pytest.raises(OutputExistsError):
        write_coverage(store, coverage(store), tmp_path / "c.png")
