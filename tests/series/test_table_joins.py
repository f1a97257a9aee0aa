"""What is joined to a table: attributes and polygons; and what makes a parcel season of its rows."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely

from cropgen.core.errors import DataError, SchemaError
from cropgen.core.progress import Silent
from cropgen.core.tally import Tally
from tests.series.tables import LONG, run, save


def test_attributes_by_id(tmp_path):
    save(pd.DataFrame({"parcel_id": ["a", "b"], "region": ["north", "south"]}), tmp_path / "facts.csv")
    series, _, _ = run(save(LONG, tmp_path / "t.csv"), tmp_path, attributes="facts.csv")
    assert series.region.tolist() == ["south", "north", "north"]


TWO_YEARS = pd.DataFrame(
    {"parcel_id": ["a", "a", "b"], "date": ["2020-06-05", "2021-06-05", "2021-06-05"], "B04": [0.1, 0.2, 0.3]}
)
FACTS = pd.DataFrame({"parcel_id": ["a", "a", "b"], "year": [2020, 2021, 2020], "crop": ["wheat", "maize", "rye"]})


@pytest.mark.parametrize("table", [TWO_YEARS, TWO_YEARS.assign(year=[2020, 2021, 2021])], ids=["dates", "years"])
def test_attributes_by_id_and_year(tmp_path, table):
    report = Silent()
    save(FACTS, tmp_path / "facts.csv")
    series, done, store = run(save(table, tmp_path / "t.csv"), tmp_path, report=report, attributes="facts.csv")
    assert series.year.tolist() == [2020, 2021, 2021]
    assert [store.legend.codes[i] if i >= 0 else "" for i in series.label] == ["wheat", "maize", ""]
    assert done.without_attributes == ["b"]
    assert "1 parcels have no attributes, or none of their year (b)" in report.warnings


def test_attributes_of_a_stated_year(tmp_path):
    save(FACTS, tmp_path / "facts.csv")
    series, _, store = run(save(TWO_YEARS, tmp_path / "t.csv"), tmp_path, attributes="facts.csv", year=2021)
    assert series.year.tolist() == [2021, 2021]
    assert [store.legend.codes[i] if i >= 0 else "" for i in series.label] == ["maize", ""]


def test_the_harvest_year_may_be_an_attribute(tmp_path):
    save(FACTS.iloc[1:].assign(year=2022), tmp_path / "facts.csv")
    series, _, _ = run(save(TWO_YEARS, tmp_path / "t.csv"), tmp_path, attributes="facts.csv")
    assert list(zip(series.parcel_id.tolist(), series.year.tolist(), strict=True)) == [("a", 2022), ("b", 2022)]


@pytest.mark.parametrize(
    ("facts", "change", "words"),
    [
        (FACTS.drop(columns="year"), {}, "'crop' holds several values for one id: a"),
        (FACTS, {"year": "year"}, "several values for one id: a"),
        (FACTS.assign(year=2021), {}, "'crop' holds several values for one id and year: a of 2021"),
    ],
)
def test_attributes_that_contradict_each_other(tmp_path, facts, change, words):
    save(facts, tmp_path / "facts.csv")
    with pytest.raises(SchemaError, match=words):
        run(save(TWO_YEARS, tmp_path / "t.csv"), tmp_path, attributes="facts.csv", **change)


def test_attributes_that_repeat_themselves_are_joined_once(tmp_path):
    save(FACTS.assign(crop=["wheat", None, "rye"]).drop(columns="year"), tmp_path / "facts.csv")
    series, _, store = run(save(TWO_YEARS, tmp_path / "t.csv"), tmp_path, attributes="facts.csv")
    assert [store.legend.codes[i] for i in series.label] == ["wheat", "wheat", "rye"]


def test_polygons_are_joined_by_id_and_year(tmp_path):
    shapes = [shapely.box(i * 100, 0, i * 100 + 80, 80) for i in range(3)]
    frame = gpd.GeoDataFrame(
        {"parcel_id": ["a", "a", "c"], "year": [2021, 2022, 2021], "crop_name": ["Mais", "Roggen", "x"],
         "crop_code": ["maize", "rye", "x"]},
        geometry=shapes, crs=32631,
    )  # fmt: skip
    frame.to_file(tmp_path / "p.gpkg")
    series, done, store = run(save(LONG, tmp_path / "t.csv"), tmp_path, parcels=tmp_path / "p.gpkg")
    geometry = store.geometry().geometry
    assert geometry.iloc[0] is None
    assert [g.bounds[0] for g in geometry.iloc[1:]] == [0, 100]
    assert done.without_polygon == ["b"]
    assert dict(zip(store.legend.codes, store.legend.names, strict=True)) == {
        "maize": "Mais", "rye": "Roggen", "wheat": "wheat",
    }  # fmt: skip
    assert np.isnan(series.lon).tolist() == [True, False, False]
    frame.assign(parcel_id=["x", "y", "z"]).to_file(tmp_path / "q.gpkg")
    with pytest.raises(DataError, match="no parcel id"):
        run(tmp_path / "t.csv", tmp_path, parcels=tmp_path / "q.gpkg")


YEARS = pd.DataFrame(
    {"parcel_id": ["a"] * 3, "date": ["2019-06-05", "2020-06-05", "2021-06-05"], "B04": [0.1, 0.2, 0.3]}
)


@pytest.mark.parametrize(
    ("layer", "crops", "told"), [("p_2020.gpkg", ["", "wheat", ""], True), ("p.gpkg", ["wheat"] * 3, False)]
)
def test_a_polygon_of_another_year_does_not_bring_its_crop(tmp_path, layer, crops, told):
    frame = {"parcel_id": ["a"], "crop_code": ["wheat"], "crop_name": ["Weizen"], "region": ["north"]}
    gpd.GeoDataFrame(frame, geometry=[shapely.box(0, 0, 80, 80)], crs=32631).to_file(tmp_path / layer)
    report = Silent()
    series, done, store = run(save(YEARS, tmp_path / "t.csv"), tmp_path, parcels=tmp_path / layer, report=report)
    assert [store.legend.codes[i] if i >= 0 else "" for i in series.label] == crops
    assert store.legend.names == ("Weizen",)
    assert series.region.tolist() == ["north"] * 3
    assert not np.isnan(series.lon).any()
    assert done.crop_of_other_year == (["a", "a"] if told else [])
    warned = "2 parcel seasons have the polygon of another year, not its crop (a, a)" in report.warnings
    assert warned == told


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx", "t.parquet"])
def test_rows_without_an_id_are_left_out(tmp_path, name):
    report = Silent()
    frame = LONG.assign(parcel_id=["b", None, "a", " ", "a"], date=[LONG["date"][0], None, *LONG["date"][2:]])
    series, done, _ = run(save(frame, tmp_path / name), tmp_path, report=report)
    assert series.parcel_id.tolist() == ["b", "a", "a"]
    assert done.dropped == {"rows of the table without an id": Tally.of(["row 1", "row 3"])}
    assert "2 left out: rows of the table without an id (row 1, row 3)" in report.warnings
    with pytest.raises(DataError, match="no row has an id in column 'parcel_id'"):
        run(save(frame.assign(parcel_id=""), tmp_path / name), tmp_path)


REGIONS = pd.DataFrame(
    {
        "id": ["1", "1", "1", "1", "2", "2"],
        "date": ["2021-05-01", "2021-05-01", "2021-06-01", "2021-06-01", "2021-05-01", "2021-06-01"],
        "region": ["N", "S", "N", "S", None, "N"],
        "B04": [0.1, 0.2, 0.3, 0.4, 0.5, 0.6],
        "crop": ["wheat", "maize", "wheat", "maize", None, "rye"],
    }
)


def test_one_id_in_two_regions_is_two_parcels(tmp_path):
    series, done, store = run(save(REGIONS, tmp_path / "t.csv"), tmp_path)
    assert list(zip(series.region.tolist(), series.parcel_id.tolist(), strict=True)) == [
        ("N", "1"), ("S", "1"), ("N", "2")
    ]  # fmt: skip
    np.testing.assert_allclose(series.values[..., 0], [[0.1, 0.3], [0.2, 0.4], [0.5, 0.6]], rtol=1e-6)
    assert [store.legend.codes[i] for i in series.label] == ["wheat", "maize", "rye"]
    assert (done.relabelled, done.merged) == ([], 0)
    shapes = [shapely.box(i * 100, 0, i * 100 + 80, 80) for i in range(2)]
    facts = {"id": ["1", "2"], "region": ["S", "elsewhere"]}
    gpd.GeoDataFrame(facts, geometry=shapes, crs=32631).to_file(tmp_path / "p.gpkg")
    _, done, store = run(tmp_path / "t.csv", tmp_path, parcels=tmp_path / "p.gpkg")
    assert store.geometry().geometry.isna().tolist() == [True, False, False]
    assert done.without_polygon == ["1"]
