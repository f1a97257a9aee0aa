"""What a parcel layer would be read as."""

from __future__ import annotations

import geopandas as gpd
import pytest
import shapely

from cropgen.core.errors import UsageError
from cropgen.series.parcel_columns import ParcelColumns
from cropgen.series.parcel_summary import describe_layer, describe_parcels


def layer(path, **columns):
    shapes = [shapely.box(i * 100, 0, i * 100 + 80, 80) for i in range(3)]
    gpd.GeoDataFrame(columns, geometry=shapes, crs=32631).to_file(path)
    return path


def test_columns_years_and_crops(tmp_path):
    path = layer(
        tmp_path / "p.gpkg", gewascode=[259, 266, 259], gewas=["Snijmais", "Gras", "Snijmais"], jaar=[2020, 2021, 2020]
    )
    (tmp_path / "t.csv").write_text("code,hcat\n259,3301090400\n")
    found = describe_parcels(path, ParcelColumns(crop_codes=str(tmp_path / "t.csv")))
    assert found["register"] == "Netherlands"
    assert found["columns"] == {"id": None, "label": "gewascode", "name": "gewas", "region": None, "year": "jaar"}
    assert found["years"] == {"2020": 2, "2021": 1}
    assert found["crops"] == [
        {"code": "259", "name": "Snijmais", "hcat": "3301090400", "hcat_name": "green silo maize", "parcels": 2},
        {"code": "266", "name": "Gras", "hcat": None, "hcat_name": None, "parcels": 1},
    ]
    assert found["remarks"] == [f"{path}: 1 parcels have no HCAT code, or several: 266 Gras (1)"]
    facts = describe_layer(path, None)
    assert (facts["features"], facts["driver"], facts["columns"]) == (3, "GPKG", ["gewascode", "gewas", "jaar"])


def test_an_unknown_year_is_a_remark_and_no_error(tmp_path):
    path = layer(tmp_path / "p.gpkg", id=[1, 2, 3], crop=["a", "b", "b"])
    found = describe_parcels(path, ParcelColumns())
    assert found["years"] == {}
    assert [crop["parcels"] for crop in found["crops"]] == [2, 1]
    assert found["remarks"] == [f"{path}: the harvest year of the parcels is not known: give --year YYYY"]
    assert describe_parcels(path, ParcelColumns(year=2020))["remarks"] == []


def test_a_crop_column_for_each_year_needs_one(tmp_path):
    path = layer(tmp_path / "p_2019-2020.gpkg", csbid=[1, 2, 3], csbyears=["x"] * 3, CDL2019=[1, 1, 5], CDL2020=[1] * 3)
    with pytest.raises(UsageError, match="2019, 2020"):
        describe_parcels(path, ParcelColumns())
    assert [c["code"] for c in describe_parcels(path, ParcelColumns(year=2019))["crops"]] == ["1", "5"]
