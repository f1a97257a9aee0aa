"""The public names of a prediction, the join, the style and the season's end."""

from __future__ import annotations

from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropgen.core.errors import UsageError
from cropgen.prediction.columns import COLUMNS, COLUMNS_VERSION, FLAGS, class_names, prediction_fields, prefix_for
from cropgen.prediction.join import parcel_keys
from cropgen.prediction.judge import SeasonEnd
from cropgen.prediction.style import categorised_qml
from cropgen.series.legend import CropClass, Legend
from cropgen.series.schema import ParcelSeries


def test_the_public_schema_is_what_it_was() -> None:
    assert COLUMNS_VERSION == 1
    assert [f"{f.name} {f.type}" for f in prediction_fields("pred_")] == [
        "pred_crop_code string", "pred_crop_name string", "pred_probability double", "pred_second_crop string",
        "pred_second_name string", "pred_second_probability double", "pred_log_likelihood double",
        "pred_typicality double", "pred_entropy double", "pred_clear_dates int32", "pred_flags string",
        "pred_run_id string",
    ]  # fmt: skip
    assert list(FLAGS) == ["no_series", "no_clear_date", "few_dates", "unusual", "low_confidence"]
    assert all(column.text for column in COLUMNS)


def test_prefix_avoids_every_column_in_any_case() -> None:
    assert prefix_for(["crop_code", "probability"]) == "pred_"
    assert prefix_for(["PRED_Flags"]) == "pred2_"
    assert prefix_for(["pred_flags", "pred2_run_id"]) == "pred3_"
    assert prefix_for(["pred_neighbours"]) == prefix_for(["Pred_Anomaly"]) == "pred2_"
    assert prefix_for(["pred_P_x", "pred_note"], ["p_X"]) == "pred2_"
    assert prefix_for(["pred_p_y", "pred_note"], ["p_X"]) == "pred_"


@given(st.lists(st.text(max_size=4), min_size=1, max_size=8, unique=True))
def test_class_columns_are_distinct_and_plain(codes: list[str]) -> None:
    names = class_names(Legend("any", tuple(CropClass(c, c, "#000000") for c in codes)))
    assert len({name.casefold() for name in names}) == len(codes)
    assert all(name.isascii() and name.replace("_", "").isalnum() for name in names)


def test_keys_depend_on_every_letter_and_year_and_not_on_the_width() -> None:
    ids = np.array([f"{a}{b}" for a in "abcdefgh0123456789" for b in ("", "a", "ab", "ß", "00", "0")])
    keys = np.concatenate([parcel_keys(ids, np.full(len(ids), y, np.int16)) for y in (2019, 2020, 2021)])
    assert len(set(keys.tolist())) == 3 * len(set(ids.tolist()))
    wide = np.array([*ids, "x" * 40])
    assert (parcel_keys(wide, np.full(len(wide), 2019))[:-1] == keys[: len(ids)]).all()
    assert len(parcel_keys(np.zeros(0, np.str_), np.zeros(0, np.int16))) == 0


def test_style_is_wellformed_and_complete() -> None:
    legend = Legend("odd", (CropClass('a"<&', "Weizen & Roggen", "#ff8000"), CropClass("b", "b", "#000000")))
    text = categorised_qml(legend, "pred_crop_code", "MultiPolygon")
    root = ElementTree.fromstring(text.split("\n", 1)[1])
    categories = root.findall("./renderer-v2/categories/category")
    assert [c.get("value") for c in categories] == ['a"<&', "b", ""]
    assert [c.get("label") for c in categories] == ["Weizen & Roggen", "b", "no prediction"]
    symbols = {s.get("name"): s for s in root.findall("./renderer-v2/symbols/symbol")}
    for category, colour in zip(categories, ("255,128,0,255", "0,0,0,255", "217,217,217,255"), strict=True):
        symbol = symbols[category.get("symbol")]
        assert symbol.get("type") == "fill"
        assert symbol.find("./layer/Option/Option[@name='color']").get("value") == colour
    for kind, expected in (("Point", "marker"), ("MultiLineString Z", "line"), ("Unknown", "fill")):
        drawn = ElementTree.fromstring(categorised_qml(legend, "c", kind).split("\n", 1)[1])
        assert {s.get("type") for s in drawn.findall("./renderer-v2/symbols/symbol")} == {expected}


@pytest.mark.parametrize("text", ["", "6-30", "02-30", "13-01", "06-30-01", "June", "06"])
def test_season_end_that_is_no_day(text: str) -> None:
    with pytest.raises(UsageError, match="MM-DD"):
        SeasonEnd.parse(text)


def test_season_end_in_leap_years_and_the_autumn_before() -> None:
    days = ["2019-12-31", "2020-02-29", "2020-03-01", "2020-03-02"]
    series = ParcelSeries.build(
        bands=("B04",), values=np.full((2, 4, 1), 0.5), mask=np.ones((2, 4), bool),
        day=np.tile(np.array(days, "datetime64[D]").astype(int), (2, 1)), parcel_id=["a", "b"],
        year=np.array([2020, 2021]),
    )  # fmt: skip
    assert SeasonEnd.parse("03-01").cut(series).mask.tolist() == [[True, True, True, False], [True] * 4]
    cut = SeasonEnd.parse("02-28").cut(series)
    assert cut.mask.tolist() == [[True, False, False, False], [True] * 4]
    assert not cut.values[0, 1:].any()
