"""Tables into the container: long and wide, what is recognised, what is refused, and the real data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.core.errors import CorruptInputError, DataError, MissingInputError, SchemaError, UsageError
from cropgen.core.progress import Silent
from cropgen.core.tally import Tally
from cropgen.series.mapping import TableMapping, resolve
from cropgen.series.observations import Observations, pack
from cropgen.series.store import SeriesStore
from cropgen.series.tables import import_table
from tests.series.tables import LONG, dates_of, run, save


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "semicolon.csv", "t.parquet", "t.xlsx"])
def test_long_table_by_hand(tmp_path, name):
    series, done, store = run(save(LONG, tmp_path / name), tmp_path)
    assert done.layout == "long"
    assert store.bands == ("B04", "B08")
    assert series.parcel_id.tolist() == ["b", "a", "a"]
    assert series.year.tolist() == [2021, 2021, 2022]
    assert [store.legend.codes[i] for i in series.label] == ["wheat", "maize", "rye"]
    assert series.mask.tolist() == [[True, False], [True, True], [True, False]]
    np.testing.assert_allclose(series.values[1], [[0.01, 0.2], [0.03, 0.3]], rtol=1e-6)
    np.testing.assert_allclose(series.values[0], [[0.05, 0.1], [0, 0]], rtol=1e-6)
    assert dates_of(series, 1) == ["2021-05-01", "2021-06-01"]
    assert done.partial == 1
    assert done.scale == {"B04": 1e-4, "B08": 1e-4}
    assert done.years == (2021, 2022)


def test_crops_are_translated_on_the_way_in(tmp_path):
    codes = tmp_path / "codes.csv"
    codes.write_text("original_name,HCAT3_code\nwheat,3301010100\nmaize,3301010600\n")
    table, report = save(LONG.replace("rye", "Sloot"), tmp_path / "t.csv"), Silent()
    series, _, store = run(table, tmp_path, report=report, crop_codes=str(codes), to="hcat")
    assert [store.legend.codes[i] if i >= 0 else "" for i in series.label] == ["3301010100", "3301010600", ""]
    assert store.legend.names == ("common soft wheat", "grain maize corn popcorn")
    assert any(line == f"{table}: 1 parcels have no HCAT code, or several: Sloot (1)" for line in report.warnings)
    _, _, store = run(table, tmp_path, crop_codes=str(codes))
    assert [(c.code, c.hcat) for c in store.legend.classes] == [
        ("Sloot", None), ("maize", "3301010600"), ("wheat", "3301010100")
    ]  # fmt: skip


def test_a_folder_of_crop_codes_needs_a_country(tmp_path):
    (tmp_path / "codes").mkdir()
    (tmp_path / "codes/nl_2021.csv").write_text("original_name,HCAT3_code\nwheat,3301010100\n")
    with pytest.raises(UsageError, match=r"a folder of a table per country, and t\.csv states no country"):
        run(save(LONG, tmp_path / "t.csv"), tmp_path, crop_codes=str(tmp_path / "codes"), to="hcat")


def test_a_factor_for_reflectance_needs_a_spectral_band(tmp_path):
    frame = pd.DataFrame({"id": [1, 1], "date": ["2021-05-01", "2021-06-01"], "NDVI": [8000, 4000]})
    table = save(frame, tmp_path / "t.csv")
    with pytest.raises(UsageError, match=r"scale 0\.0001 is for spectral bands.*its bands are NDVI") as caught:
        run(table, tmp_path, scale=1e-4)
    assert "scale = { NDVI = 0.0001 }" in (caught.value.hint or "")
    series, _, _ = run(table, tmp_path, scale={"NDVI": 1e-4})
    np.testing.assert_allclose(series.values[0, :, 0], [0.8, 0.4], rtol=1e-6)


@pytest.mark.parametrize(
    ("lon", "message"), [(600_000.0, "column lon: expected degrees up to 360, got '600000'"), ("8.1 E", "got '8.1 E'")]
)
def test_positions_that_are_no_degrees_are_refused(tmp_path, lon, message):
    table = save(LONG.assign(lat=50.1, lon=[8.1, None, lon, *[8.2] * (len(LONG) - 3)]), tmp_path / "t.csv")
    with pytest.raises(SchemaError, match=message):
        run(table, tmp_path)
    series, _, _ = run(save(LONG.assign(lat=50.1, lon=8.1), tmp_path / "u.csv"), tmp_path)
    assert set(series.lon) == {8.1}


def test_a_table_of_another_encoding_says_what_to_do(tmp_path):
    table = tmp_path / "t.csv"
    table.write_bytes("id,date,B04,name\n1,2021-05-01,0.1,Weiß\n".encode("cp1252"))
    with pytest.raises(CorruptInputError) as caught:
        run(table, tmp_path)
    assert caught.value.hint == "save it as UTF-8"


def test_stated_year_makes_one_season(tmp_path):
    frame = LONG.assign(season=2021)
    series, _, _ = run(save(frame, tmp_path / "t.csv"), tmp_path, year="season")
    assert series.parcel_id.tolist() == ["b", "a"]
    assert series.year.tolist() == [2021, 2021]


def test_repeated_observations_are_averaged(tmp_path):
    frame = pd.concat([LONG, LONG.iloc[[1]].assign(B4=500)])
    series, done, _ = run(save(frame, tmp_path / "t.csv"), tmp_path)
    assert done.merged == 1
    assert series.values[1, 1, 0] == pytest.approx(0.04)


@pytest.mark.parametrize("name", ["t.csv", "t.parquet"])
@pytest.mark.parametrize(
    ("dates", "days", "year"),
    [
        (["2021-02-05T10:00:00+01:00", "2021-02-06T10:00:00+02:00"], ["2021-02-05", "2021-02-06"], 2021),
        (["2021-02-05T10:00:00Z", "2021-02-06"], ["2021-02-05", "2021-02-06"], 2021),
        (["2021-02-05T00:30:00+02:00", "2021-02-05T23:30:00-02:00"], ["2021-02-04", "2021-02-06"], 2021),
        (["2021-01-01T00:30:00+02:00", "2020-12-30"], ["2020-12-30", "2020-12-31"], 2020),
    ],
)  # fmt: skip
def test_days_are_those_of_utc(tmp_path, name, dates, days, year):
    table = save(pd.DataFrame({"id": [1, 1], "date": dates, "B04": [0.1, 0.2]}), tmp_path / name)
    for column in (None, "date"):
        series, _, _ = run(table, tmp_path, year=column)
        assert dates_of(series) == days
        assert series.year.tolist() == [year]


def test_a_column_of_times_in_a_zone_is_of_utc(tmp_path):
    times = pd.to_datetime(["2021-02-05 00:30", "2021-02-06 12:00"]).tz_localize("Europe/Paris")
    frame = pd.DataFrame({"id": [1, 1], "date": times, "B04": [0.1, 0.2]})
    series, _, _ = run(save(frame, tmp_path / "t.parquet"), tmp_path)
    assert dates_of(series) == ["2021-02-04", "2021-02-06"]


def test_clear_column(tmp_path):
    frame = LONG.assign(scl=[4, 9, 5, 4, 8])
    series, done, _ = run(save(frame, tmp_path / "t.csv"), tmp_path, clear="scl", clear_values=("4", "5"))
    assert done.unclear == 2
    assert series.mask.sum(1).tolist() == [1, 1, 0]
    series, done, _ = run(
        save(frame.assign(scl=[True, False, True, True, True]), tmp_path / "u.csv"), tmp_path, clear="scl"
    )
    assert done.unclear == 1


def test_scale_offset_and_nodata_as_given(tmp_path):
    frame = pd.DataFrame({"id": [1, 1], "date": ["2020-01-01", "2020-02-01"], "B04": [7, -1], "NDVI": [50, 60]})
    table = save(frame, tmp_path / "t.csv")
    series, _, _ = run(table, tmp_path, bands={"B04": "B04", "NDVI": "NDVI"}, nodata=(-1.0,), offset=0.1,
                       scale={"B04": 0.01, "NDVI": 0.01})  # fmt: skip
    np.testing.assert_allclose(series.values[0, 0], [0.17, 0.5], rtol=1e-6)
    assert series.mask.sum() == 1


def test_values_that_are_no_reflectance_are_left_out(tmp_path):
    report = Silent()
    frame = LONG.assign(B4=[500, 49_000, 100, 400, 900])
    series, done, _ = run(save(frame, tmp_path / "t.csv"), tmp_path, report=report)
    assert done.implausible == 1
    assert dates_of(series, 1) == ["2021-05-01"]
    assert any("no reflectance" in text for text in report.warnings)


def test_crops_that_change_within_a_season_are_reported(tmp_path):
    frame = LONG.assign(crop=["wheat", "maize", "rye", "wheat", "rye"])
    _, done, _ = run(save(frame, tmp_path / "t.csv"), tmp_path)
    assert done.relabelled == ["a"]


WIDE = pd.DataFrame({"plot_id": ["007", "008"], "B04_2021-05-01": [0.1, 0.2], "B04_2021-06-01": [0.3, np.nan]})


def test_wide_table_is_recognised(tmp_path):
    series, done, _ = run(save(WIDE, tmp_path / "t.parquet"), tmp_path)
    assert done.layout == "wide"
    assert series.parcel_id.tolist() == ["007", "008"]
    np.testing.assert_allclose(series.values[0, :, 0], [0.1, 0.3])
    assert series.mask.tolist() == [[True, True], [True, False]]
    assert dates_of(series) == ["2021-05-01", "2021-06-01"]


def test_day_of_year_columns_with_attributes_row_by_row(tmp_path):
    table = save(pd.DataFrame({"1": [0.1, 0.2], "60": [0.3, 0.4]}), tmp_path / "t.csv")
    save(pd.DataFrame({"year": [2020, 2021], "label_1": ["a", "b"]}), tmp_path / "facts.csv")
    series, _, store = run(table, tmp_path, pattern="{doy}", bands={"NDVI": "NDVI"}, attributes="facts.csv",
                           label="label_1")  # fmt: skip
    assert store.bands == ("NDVI",)
    assert series.parcel_id.tolist() == ["0", "1"]
    assert dates_of(series, 0) == ["2020-01-01", "2020-02-29"]
    assert dates_of(series, 1) == ["2021-01-01", "2021-03-01"]
    assert series.label.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        ("month", ["2020-11-01", "2020-12-01", "2021-01-01"]),
        ("half-month", ["2020-11-01", "2020-11-16", "2020-12-01"]),
        ("dekad", ["2020-11-01", "2020-11-11", "2020-11-21"]),
        (16, ["2020-11-01", "2020-11-17", "2020-12-03"]),
    ],
)
def test_numbered_steps(tmp_path, interval, expected):
    frame = pd.DataFrame({"id": [1], "begin": ["2020-11-01"], **{f"S2-B04-ts{i}-10m": [0.1] for i in range(3)}})
    series, _, _ = run(save(frame, tmp_path / "t.csv"), tmp_path, pattern="S2-{band}-ts{step}-{any}", start="begin",
                       interval=interval, year=2021)  # fmt: skip
    assert dates_of(series) == expected
    assert series.year.tolist() == [2021]


@pytest.mark.parametrize(
    ("interval", "expected"), [("month", "2021-01-01"), ("half-month", "2021-01-16"), ("dekad", "2021-01-21"),
                               (10, "2021-01-27")],
)  # fmt: skip
def test_step_0_is_the_first_day_of_its_period(tmp_path, interval, expected):
    frame = pd.DataFrame({"id": [1], "B04_0": [0.1]})
    series, _, _ = run(save(frame, tmp_path / "t.csv"), tmp_path, pattern="{band}_{step}", start="2021-01-27",
                       interval=interval)  # fmt: skip
    assert dates_of(series) == [expected]
    assert "of a calendar interval, any day of its first period" in TableMapping.model_fields["start"].description


def test_named_steps(tmp_path):
    frame = pd.DataFrame({"id": [1], "Year": [2018], "may1_B4_mean": [0.1], "june2_B4_mean": [0.2]})
    series, _, _ = run(save(frame, tmp_path / "t.csv"), tmp_path, pattern="{step}_{band}_mean",
                       dates={"may1": "05-15", "june2": "2018-06-30"})  # fmt: skip
    assert dates_of(series) == ["2018-05-15", "2018-06-30"]


@pytest.mark.parametrize("pattern", ["{band}_{step}", "{step}_{band}"])
@pytest.mark.parametrize("others", [("std",), ("count", "median", "max")])
def test_of_several_columns_for_a_band_and_date_the_mean_is_read(tmp_path, pattern, others):
    values = dict.fromkeys(others, 0.9) | {"mean": 0.1}
    values |= {f"{kind}2": 0.8 for kind in others}
    names = {pattern.format(band=f"B04_{kind}", step="20210605"): [value] for kind, value in values.items()}
    series, _, _ = run(save(pd.DataFrame({"id": [1], **names}), tmp_path / "t.csv"), tmp_path)
    np.testing.assert_allclose(series.values[0], [[0.1]])
    assert dates_of(series) == ["2021-06-05"]


def test_of_several_columns_for_a_band_and_date_one_is_named(tmp_path):
    frame = pd.DataFrame({"id": [1], "B04_min_20210605": [0.1], "B04_max_20210605": [0.2]})
    table = save(frame, tmp_path / "t.csv")
    with pytest.raises(SchemaError, match="B04_min_20210605, B04_max_20210605 all look like band B04") as caught:
        run(table, tmp_path)
    assert "--bands B04=TEXT, the text at {band}" in (caught.value.hint or "")
    series, _, _ = run(table, tmp_path, bands={"B04": "B04_max"})
    np.testing.assert_allclose(series.values[0], [[0.2]])


def test_mapping_file(tmp_path):
    path = tmp_path / "m.toml"
    path.write_text('label = "crop"\nyear = 2021\n[bands]\nB04 = "B4"\n[merge]\n"w*" = "cereal"\n')
    mapping = TableMapping.read(path)
    output = tmp_path / "series.zarr"
    import_table(save(LONG, tmp_path / "t.csv"), output, mapping, None, Silent())
    store = SeriesStore.open(output)
    assert store.bands == ("B04",)
    assert store.legend.codes == ("cereal", "maize")
    path.write_text('labels = "crop"\n')
    with pytest.raises(UsageError, match="labels"):
        TableMapping.read(path)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"date": "when"}, SchemaError, r"no column 'when'.*parcel_id, date, B4"),
        ({"label": "kultur"}, SchemaError, "kultur"),
        ({"bands": {"B03": "green"}}, SchemaError, "green"),
        ({"bands": {"B03": "crop"}}, SchemaError, r"'crop' holds 'wheat', expected a number"),
        ({"date": "crop"}, SchemaError, "not a date"),
        ({"year": "crop"}, SchemaError, "a year or a date"),
        ({"pattern": "{band}_{when}"}, UsageError, "when"),
        ({"pattern": "{band}"}, UsageError, "must hold one of"),
        ({"pattern": "{band}_{doy}"}, SchemaError, "fits no column"),
        ({"scale": {"B09": 1.0}}, SchemaError, "B09"),
        ({"scale": 10.0}, DataError, "reflectance"),
    ],
)
def test_mappings_that_do_not_fit(tmp_path, change, error, words):
    with pytest.raises(error, match=words):
        run(save(LONG, tmp_path / "t.csv"), tmp_path, **change)
    assert not (tmp_path / "out" / "series.zarr").exists()


def test_ambiguous_and_unrecognised_columns():
    with pytest.raises(SchemaError, match="all look like band B04"):
        resolve(TableMapping(), ["id", "date", "B4_min", "B4_max"], "t")
    chosen = resolve(TableMapping(), ["id", "date", "B4_min", "B4_mean"], "t")
    assert chosen.band_columns == {"B04": "B4_mean"}
    with pytest.raises(SchemaError, match="neither a date column"):
        resolve(TableMapping(), ["id", "alpha", "beta"], "t")
    assert resolve(TableMapping(), ["id", "date", "mean_NDVI"], "t").band_columns == {"NDVI": "mean_NDVI"}


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(MissingInputError):
        run(tmp_path / "none.csv", tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(CorruptInputError, match=r"broken\.parquet"):
        run(tmp_path / "broken.parquet", tmp_path)
    (tmp_path / "cut.csv.gz").write_bytes(b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03abc")
    with pytest.raises(CorruptInputError, match=r"cut\.csv\.gz"):
        run(tmp_path / "cut.csv.gz", tmp_path)
    (tmp_path / "empty.csv").write_text("")
    with pytest.raises(DataError, match="empty"):
        run(tmp_path / "empty.csv", tmp_path)
    with pytest.raises(UsageError, match="not a table"):
        run(save(LONG, tmp_path / "t.csv").rename(tmp_path / "t.doc"), tmp_path)


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_packing_keeps_every_observation_in_order(data):
    seasons = data.draw(st.integers(1, 9))
    count = data.draw(st.integers(0, 40))
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    loose = Observations(
        rng.integers(0, seasons, count), rng.integers(0, 30, count).astype(np.int32), rng.random((count, 2), np.float32)
    )
    merged, repeated = loose.merged()
    assert len(merged) + repeated == count
    for shard in (2, 100):
        blocks = list(pack(merged, seasons, shard))
        assert sum(int(b.mask.sum()) for b in blocks) == len(merged)
        for block in blocks:
            for i, row in enumerate(range(block.rows.start, block.rows.stop)):
                days = block.day[i][block.mask[i]]
                assert days.tolist() == sorted(set(loose.day[loose.row == row].tolist()))
                for t, day in enumerate(days):
                    mine = loose.values[(loose.row == row) & (loose.day == day)]
                    np.testing.assert_allclose(block.values[i, t], mine.mean(0), rtol=1e-5)
            assert not block.values[~block.mask].any()
            assert (np.diff(block.day, axis=1) >= 0).all()


@pytest.mark.real
def test_central_asia(tmp_path, shared_data):
    folder = shared_data / "central-asia-crops"
    series, done, store = run(
        folder / "CAWa_CropType_time-series.csv", tmp_path, parcels=folder / "CAWa_CropType_samples.shp",
        layout="wide", pattern="{doy}", bands={"NDVI": "NDVI"}, attributes="DERIVED_attributes_from_rds.csv",
        label="label_1", merge={"wheat*": "wheat"},
    )  # fmt: skip
    assert len(series) == 8435
    counts = dict(zip(store.legend.codes, np.bincount(series.label).tolist(), strict=True))
    assert counts["cotton"] == 4025
    assert counts["wheat"] >= 1596 + 1402 + 314
    assert dict(zip(*np.unique(series.year, return_counts=True), strict=True))[2016] == 4069
    assert done.missing == pytest.approx(0.26 * 8435 * 23, rel=0.03)
    assert series.mask.shape == (8435, 23)
    assert ((series.lon > 60) & (series.lon < 73)).all()


@pytest.mark.real
@pytest.mark.slow
def test_bavaria_long_and_wide_agree(tmp_path, shared_data):
    folder = shared_data / "worldcrops-bavaria"
    long, _, store = run(folder / "Test_bavaria.xlsx", tmp_path, parcels=folder / "Test_area.shp")
    assert long.mask.sum() == 4214
    assert "Winterweizen (Weichweizen)" in store.legend.names
    months = ["feb", "march", "april", "may", "june", "july", "august"]
    dates = {f"{m}{half}": f"{i:02d}-{15 if half == 1 else 28}" for i, m in enumerate(months, 2) for half in (1, 2)}
    wide, _, _ = run(folder / "TestData.xlsx", tmp_path, pattern="{step}_{band}_mean", dates=dates, year="Year")
    np.testing.assert_allclose(wide.values, long.values, atol=2e-4)


@pytest.mark.real
def test_worldcereal_and_prometheo(tmp_path, shared_data):
    folder = shared_data / "worldcereal-classification" / "timeseries"
    report = Silent()
    series, done, store = run(folder / "dekad_2023_FRA_LPIS_POLY_110.geoparquet", tmp_path, report=report)
    assert len(series) == 500
    assert set(series.year.tolist()) == {2023}
    assert done.dropped == {"bands without any value": Tally.of(["B8A"])}
    assert done.missing / (done.missing + done.observations) == pytest.approx(0.46, abs=0.01)
    assert len(store.legend) == 47
    assert dates_of(series)[0] == "2022-09-01"
    steps = {"pattern": "OPTICAL-{band}-ts{step}-{any}", "start": "start_date", "year": "valid_date"}
    series, done, _ = run(
        shared_data / "prometheo" / "worldcereal_dataset_2021_BE_Flanders_50.parquet", tmp_path, **steps
    )
    assert len(series) == 50
    assert done.layout == "wide"
    assert dates_of(series)[0].startswith("2020-08-01")
    near, red = (series.values[series.mask][:, series.bands.index(b)] for b in ("B08", "B04"))
    assert np.median((near - red) / (near + red)) > 0.4


def test_codes_and_ids_of_a_csv_stay_as_written(tmp_path):
    table = tmp_path / "t.csv"
    rows = ["parcel_id,date,B04,crop_code"]
    rows += [f"{i},2021-0{m}-01,0.{i}{m},{c}" for i, c in (("007", "0101"), ("012", "115.0")) for m in (4, 5)]
    table.write_text("\n".join(rows))
    import_table(table, tmp_path / "s.zarr", TableMapping(), None, Silent())
    store = SeriesStore.open(tmp_path / "s.zarr")
    assert store.column("parcel_id").tolist() == ["007", "012"]
    assert store.legend.codes == ("0101", "115")


@pytest.mark.parametrize("name", ["t.csv", "t.xlsx"])
def test_codes_and_ids_that_look_like_missing_values_are_kept(tmp_path, name):
    frame = pd.DataFrame(
        {"id": ["null", "NA", "nan", "4"], "date": ["2021-05-01"] * 4, "B04": ["0.1", "0.2", "0.3", "NA"],
         "B08": ["0.5"] * 4, "crop_code": ["NA", "None", "", "n/a"]}
    )  # fmt: skip
    series, done, store = run(save(frame, tmp_path / name), tmp_path)
    assert series.parcel_id.tolist() == ["null", "NA", "nan", "4"]
    assert [store.legend.codes[i] if i >= 0 else "" for i in series.label] == ["NA", "None", "", "n/a"]
    assert (done.observations, done.partial) == (3, 1)


def test_ids_of_many_digits_are_exact_beside_a_missing_one(tmp_path):
    ids = [10**17 + 3 * i for i in range(8)]
    columns = {"id": [*ids, None], "date": ["2021-05-01"] * 9, "B04": [0.1] * 9, "crop_code": [*range(8), None]}
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    series, done, store = run(tmp_path / "t.parquet", tmp_path)
    assert series.parcel_id.tolist() == [str(i) for i in ids]
    assert store.legend.codes == tuple("01234567")
    assert done.dropped == {"rows of the table without an id": Tally.of(["row 8"])}
