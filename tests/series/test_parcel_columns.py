"""Which column plays which role, and what is said about it."""

from __future__ import annotations

import geopandas as gpd
import numpy as np
import pytest
import shapely

from cropgen.core.errors import SchemaError, UsageError
from cropgen.core.progress import Silent
from cropgen.core.tally import Tally
from cropgen.series.geometry import ParcelColumns, read_parcels
from cropgen.series.parcel_columns import REGISTERS, identity_columns, recognise, year_in_name


def never() -> int:
    raise UsageError("the year was asked for")


def roles(*fields, **named):
    return recognise(fields, ParcelColumns(**named), where="x", year=never)


def layer(path, **columns):
    count = len(next(iter(columns.values())))
    shapes = [shapely.box(i * 100, 0, i * 100 + 80, 80) for i in range(count)]
    gpd.GeoDataFrame(columns, geometry=shapes, crs=32631).to_file(path)
    return path


@pytest.mark.parametrize("register", REGISTERS, ids=lambda r: r.title)
def test_every_register_is_known_by_its_signs_alone(register):
    own = [*register.signs, *(part for part in register.id if part != "row-number")]
    own += [name for name in (register.label, register.name, register.year) if name and "{" not in name]
    fields = [name.upper() for name in dict.fromkeys(own)] + ["CDL2020", "zzz"]
    found = recognise(fields, ParcelColumns(), where="x", year=lambda: 2020)
    assert found.register is register
    expected = register.label.format(year=2020).upper() or None
    assert found.label == expected
    assert identity_columns(fields, ParcelColumns(), where="x") == (found.id, found.year)


def test_the_columns_that_tell_parcels_apart_need_no_year():
    fields = ("CSBID", "CSBYEARS", "CDL2019", "CDL2020", "year")
    assert identity_columns(fields, ParcelColumns(), where="x") == (("CSBID",), "year")
    assert identity_columns(fields, ParcelColumns(id="year+CSBID", year=2020), where="x") == (("year", "CSBID"), None)
    with pytest.raises(SchemaError, match="no column 'season'"):
        identity_columns(fields, ParcelColumns(year="season"), where="x")


def test_registers_are_told_apart():
    signs = [frozenset(register.signs) for register in REGISTERS]
    assert len(set(signs)) == len(signs)
    for i, later in enumerate(signs):
        assert not any(earlier <= later for earlier in signs[:i])


def test_what_the_user_names_wins_over_the_register():
    fields = ("REF_ID", "GWSCOD_V", "GWSNAM_V", "GWSCOD_H", "GWSNAM_H", "GWSCOD_N")
    found = roles(*fields)
    assert (found.id, found.label, found.name) == (("REF_ID",), "GWSCOD_H", "GWSNAM_H")
    assert found.doubts("x", fields) == [
        "x: crop code is taken from GWSCOD_H; GWSCOD_V, GWSCOD_N could be meant too: choose with --label-column"
    ]
    chosen = roles(*fields, label="GWSCOD_V", name="GWSNAM_V", id="row-number")
    assert (chosen.id, chosen.label, chosen.name) == ((), "GWSCOD_V", "GWSNAM_V")
    assert chosen.doubts("x", fields) == []
    with pytest.raises(SchemaError, match="no column 'gws'"):
        roles(*fields, label="gws")


def test_two_usual_names_are_told_and_row_numbers_of_programs_are_no_rivals():
    fields = ("parcel_id", "OBJECTID", "fid", "crop", "crop_code")
    found = roles(*fields)
    assert (found.id, found.label) == (("parcel_id",), "crop_code")
    assert found.doubts("x", fields) == [
        "x: crop code is taken from crop_code; crop could be meant too: choose with --label-column"
    ]


def test_a_layer_without_crops_says_so():
    found = roles("area", "sample")
    assert found.doubts("x", ("area", "sample")) == [
        "x: no column of crops is known among area, sample; name it with --label-column"
    ]
    assert found.told("x") == "x: id from the row number"


def test_a_column_of_crops_for_each_year():
    fields = ("CSBID", "CSBYEARS", "CDL2019", "CDL2020")
    assert recognise(fields, ParcelColumns(), where="x", year=lambda: 2019).label == "CDL2019"
    with pytest.raises(UsageError, match="crops of 2019 to 2020, not of 2021"):
        recognise(fields, ParcelColumns(), where="x", year=lambda: 2021)
    with pytest.raises(UsageError, match="asked for"):
        roles(*fields)
    assert roles(*fields, label="CDL2020").label == "CDL2020"


def test_years_in_names():
    assert year_in_name("Parcels_2023_(extract_28-03-2024)", where="x") == 2023
    assert year_in_name("crop_2023_provisional_20241127", where="x") == 2023
    assert year_in_name("inspire_2025-1", where="x") == 2025
    assert year_in_name("state_2024-05-01", where="x") is None
    assert year_in_name("p_12020", where="x") is None
    with pytest.raises(UsageError, match="2017, 2024") as caught:
        year_in_name("seq_2017-2024", where="x")
    assert caught.value.hint == "say which with --year YYYY"


def test_joined_ids_and_those_of_several_files(tmp_path):
    one = layer(tmp_path / "one_2020.gpkg", block=[1, 1, 2], part=["a", "b", None])
    found = read_parcels(one, ParcelColumns(id="block+part"))
    assert found.frame["parcel_id"].tolist() == ["1/a", "1/b"]
    assert found.issues.dropped == {"no id": Tally.of(["row 2"])}
    two = layer(tmp_path / "two_2020.gpkg", block=[1], part=["a"])
    both = read_parcels([one, two], ParcelColumns())
    assert both.frame["parcel_id"].tolist() == ["one_2020:0", "one_2020:1", "one_2020:2", "two_2020:0"]


def test_an_id_that_repeats_is_refused_with_a_way_out(tmp_path):
    path = layer(tmp_path / "p_2020.gpkg", id=[1, 1], crop=["a", "b"])
    with pytest.raises(SchemaError, match="another polygon: 1") as caught:
        read_parcels(path, ParcelColumns())
    assert "row-number" in (caught.value.hint or "")
    assert read_parcels(path, ParcelColumns(id="row-number")).frame["parcel_id"].tolist() == ["0", "1"]


@pytest.mark.parametrize("empty", [[np.nan, np.nan], ["", None], ["", " "]], ids=str)
def test_an_empty_column_of_crops_gives_way(tmp_path, empty):
    path = layer(tmp_path / "p_2020.gpkg", id=[1, 2], crop_code=empty, crop=["a", None])
    report = Silent()
    assert read_parcels(path, ParcelColumns(), report=report).frame["code"].tolist() == ["a", ""]
    assert any("crop_code is empty; crops are taken from crop" in line for line in report.warnings)


def test_lost_letters_are_told(tmp_path):
    path = layer(tmp_path / "p_2020.gpkg", id=[1, 2], crop=["??????", "Mie?i, vasaras"])
    report = Silent()
    read_parcels(path, ParcelColumns(), report=report)
    assert any("letters of column crop were lost" in line for line in report.warnings)
