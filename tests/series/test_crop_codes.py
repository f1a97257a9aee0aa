"""National crop codes into HCAT, by tables and by the taxonomy itself."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely

from cropgen.core.errors import CorruptInputError, MissingInputError, SchemaError, UsageError
from cropgen.series.crop_codes import plain_code, translate
from cropgen.series.geometry import ParcelColumns, read_parcels

WINTER_WHEAT, BARLEY, GRASS, MAIZE = "3301010101", "3301010400", "3302000000", "3301010600"
TABLE = f"""original_code,original_name,HCAT3_name,HCAT3_code
7,Wintertarwe,winter_common_soft_wheat,{WINTER_WHEAT}
008,Gerst,barley,{BARLEY}
9,Gras,pasture,{GRASS}
10,Mais,,{MAIZE}
10,Mais,,{GRASS}
11,Maïs (korrel),,{MAIZE}
12,,grain_maize_corn_popcorn,
"""


def text(*values: str) -> np.ndarray:
    return np.asarray(values, dtype=object)


def table(path: Path, content: str = TABLE, encoding: str = "utf-8") -> str:
    path.write_bytes(content.encode(encoding))
    return str(path)


def means(code, name, path, country="", year=2021):
    return translate(text(*code), text(*name), path, country=country, year=year, where="x")


def test_code_and_name_decide_in_order(tmp_path):
    found = means(
        ["7", "007", "8.0", "9", "", "10", "11", "12", "", "99"],
        ["Wintertarwe", "", "gerst", "Wintertarwe", " GRAS ", "Mais", "Mais (korrel)", "", "", "Sloot"],
        table(tmp_path / "t.csv"),
    )
    assert found.hcat.tolist() == [
        WINTER_WHEAT, WINTER_WHEAT, BARLEY, WINTER_WHEAT, GRASS, "", MAIZE, MAIZE, "", "",
    ]  # fmt: skip
    assert found.remarks == ("x: 2 parcels have no HCAT code, or several: 10 Mais (1), 99 Sloot (1)",)


def test_a_code_named_otherwise_is_told(tmp_path):
    found = means(["9", "9"], ["Bloemen", "Bloemen"], table(tmp_path / "t.csv"))
    assert found.hcat.tolist() == [GRASS, GRASS]
    assert found.remarks == (
        "x: 2 parcels have a code that the table names otherwise: check that it is of their year: 9 Bloemen (2)",
    )


def test_the_taxonomy_needs_no_table():
    found = means(["3301010101", "maize", "BTH"], ["", "winter barley", ""], None)
    assert found.hcat.tolist() == [WINTER_WHEAT, "3301010401", ""]
    assert means(["BTH"], [""], None, country="fr").hcat.tolist() == [WINTER_WHEAT]
    with pytest.raises(UsageError, match="no crop has an HCAT code: 259 Mais") as caught:
        means(["259"], ["Mais"], None)
    assert "--crop-codes" in (caught.value.hint or "")


def test_codes_kept_or_replaced(tmp_path):
    found = means(["7", "9", "99"], ["", "", ""], table(tmp_path / "t.csv"))
    code, name, hcat = found.applied("source")
    assert (code.tolist(), name.tolist(), hcat) == (["7", "9", "99"], ["", "", ""], {"7": WINTER_WHEAT, "9": GRASS})
    code, name, hcat = found.applied("hcat")
    assert code.tolist() == [WINTER_WHEAT, GRASS, ""]
    assert name.tolist() == ["winter common soft wheat", "pasture meadow grassland grass", ""]
    assert hcat == {}


def test_a_code_of_two_meanings_has_none_in_the_legend(tmp_path):
    found = means(["7", "7"], ["Wintertarwe", "Gras"], table(tmp_path / "t.csv"))
    assert found.hcat.tolist() == [WINTER_WHEAT, GRASS]
    assert found.applied("source")[2] == {}


def test_a_folder_is_searched_for_the_country_nearest_in_time(tmp_path):
    head = "original_code,HCAT3_code\n"
    (tmp_path / "deep").mkdir()
    table(tmp_path / "deep/nl_2018.csv", f"{head}1,{GRASS}\n2,{GRASS}\n")
    table(tmp_path / "nl_2021.csv", f"{head}1,{BARLEY}\n")
    table(tmp_path / "nl_other_years.csv", f"{head}1,{MAIZE}\n3,{MAIZE}\n")
    table(tmp_path / "nl_groups.csv", "group,number\n1,2\n")
    table(tmp_path / "nlx_2021.csv", f"{head}4,{MAIZE}\n")
    folder = str(tmp_path)
    assert means("1234", [""] * 4, folder, "nl", 2022).hcat.tolist() == [BARLEY, GRASS, MAIZE, ""]
    assert means("1234", [""] * 4, folder, "nl", 2019).hcat.tolist() == [GRASS, GRASS, MAIZE, ""]
    with pytest.raises(UsageError, match="no crop has an HCAT code"):
        means("1", [""], folder, "at")
    with pytest.raises(UsageError, match="no crop has an HCAT code"):
        means("1", [""], folder)


def test_tables_in_other_dress(tmp_path):
    assert means(["1"], [""], table(tmp_path / "s.csv", f"code;hcat\n1;{GRASS}\n")).hcat.tolist() == [GRASS]
    latin = table(tmp_path / "l.csv", f"original_name,HCAT3_code\nMähwiese,{GRASS}\n", "cp1252")
    assert means(["Mähwiese"], [""], latin).hcat.tolist() == [GRASS]
    nuts = "nuts,original_code,hcat4_name\nat,1,barley\nnl,1,pasture_meadow_grassland_grass\n"
    assert means(["1"], [""], table(tmp_path / "n.csv", nuts), "nl").hcat.tolist() == [GRASS]


def test_faults_of_tables(tmp_path):
    with pytest.raises(MissingInputError):
        means(["1"], [""], str(tmp_path / "none.csv"))
    with pytest.raises(SchemaError, match=r"no table of crop codes.*got group, number"):
        means(["1"], [""], table(tmp_path / "g.csv", "group,number\n1,2\n"))
    with pytest.raises(CorruptInputError):
        means(["1"], [""], table(tmp_path / "e.csv", ""))


def test_plain_codes():
    assert [plain_code(c) for c in ("007", "7.0", " 7 ", "0", "A1", "000")] == ["7", "7", "7", "0", "a1", "0"]


def test_parcels_are_translated_on_the_way_in(tmp_path):
    shapes = [shapely.box(i * 100, 0, i * 100 + 80, 80) for i in range(3)]
    crops = {"id": [1, 2, 3], "crop_code": ["7", "9", "99"], "crop_name": ["Wintertarwe", "Gras", "Sloot"]}
    gpd.GeoDataFrame(crops, geometry=shapes, crs=32631).to_file(tmp_path / "p_2020.gpkg")
    codes = table(tmp_path / "t.csv")
    kept = read_parcels(tmp_path / "p_2020.gpkg", ParcelColumns(crop_codes=codes)).legend("x")
    assert [(c.code, c.name, c.hcat) for c in kept.classes] == [
        ("7", "Wintertarwe", WINTER_WHEAT), ("9", "Gras", GRASS), ("99", "Sloot", None),
    ]  # fmt: skip
    moved = read_parcels(tmp_path / "p_2020.gpkg", ParcelColumns(crop_codes=codes, to="hcat"))
    assert moved.frame["code"].tolist() == [WINTER_WHEAT, GRASS, ""]
    assert [(c.code, c.hcat) for c in moved.legend("x").classes] == [(WINTER_WHEAT, WINTER_WHEAT), (GRASS, GRASS)]
