"""Predictions keep everything of the input, agree with the model row by row, and are whole or absent."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import sys
import textwrap
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyogrio
import pytest
import shapely

from cropgen.core.errors import CorruptInputError, CropgenError, DataError, OutputExistsError, SchemaError, UsageError
from cropgen.core.progress import Silent
from cropgen.models.checkpoint import load_model
from cropgen.prediction.columns import COLUMNS
from cropgen.prediction.geopackage import LAYER, PROBABILITIES
from cropgen.prediction.geopackage import LEGEND as LEGEND_TABLE
from cropgen.prediction.infer import infer
from cropgen.prediction.judge import Thresholds
from cropgen.prediction.predict import PredictOptions, predict
from cropgen.series.batches import make_batch
from cropgen.series.store import SeriesStore
from cropgen.series.transforms import Spread, save_spread
from tests.prediction.conftest import CLOUDY, LEGEND, PARCELS, RARELY_SEEN, Region


def table(path: Path, layer: str = LAYER) -> gpd.GeoDataFrame:
    return pyogrio.read_dataframe(path, layer=layer, fid_as_index=True)


@pytest.fixture(scope="module")
def output(region: Region, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("out") / "map.gpkg"
    report = predict(region.run, region.layer, region.store, path)
    assert report.parcels == PARCELS + 1
    assert report.predicted == PARCELS
    assert sum(report.crops.values()) == PARCELS
    assert report.flags["no_series"] == 1
    assert [p.name for p in path.parent.iterdir()] == ["map.gpkg"]
    return path


def test_the_input_is_unchanged(region: Region, output: Path) -> None:
    before, after = pyogrio.read_info(region.layer), pyogrio.read_info(output, layer=LAYER)
    count = len(before["fields"])
    assert after["fields"][:count].tolist() == before["fields"].tolist()
    assert after["ogr_types"][:count] == before["ogr_types"]
    assert after["dtypes"][:count].tolist() == before["dtypes"].tolist()
    assert (after["crs"], after["features"]) == (before["crs"], before["features"])
    given, got = table(region.layer, "fields"), table(output)
    assert got.index.tolist() == given.index.tolist()
    assert list(got.geometry.to_wkb()) == list(given.geometry.to_wkb())
    pd.testing.assert_frame_equal(
        pd.DataFrame(got[before["fields"].tolist()]), pd.DataFrame(given[before["fields"].tolist()])
    )


def test_ogrinfo_opens_it(output: Path) -> None:
    tool = shutil.which("ogrinfo")
    if tool is None:
        pytest.skip("ogrinfo is not installed")
    shown = subprocess.run([tool, "-ro", "-so", str(output), LAYER], capture_output=True, text=True, check=True)
    assert f"Feature Count: {PARCELS + 1}" in shown.stdout
    assert "WGS 84 / UTM zone 31N" in shown.stdout
    assert "CROPGEN_RUN=run-tgem" in shown.stdout


def test_rows_are_what_the_model_says(region: Region, output: Path) -> None:
    model = load_model(region.run)
    series = SeriesStore.open(region.store).read(slice(0, PARCELS))
    answer = infer(model, make_batch(series, model.spec.calendar))
    at = {name: k for k, name in enumerate(series.parcel_id.tolist())}
    got = table(output).iloc[:-1]
    place = np.array([at[name] for name in got["parcel_id"]])
    p = answer.probability[place]
    np.testing.assert_allclose(got["pred_probability"], p.max(1), rtol=1e-5)
    assert got["pred_crop_code"].tolist() == [LEGEND.codes[k] for k in p.argmax(1)]
    assert got["pred_crop_name"].tolist() == [LEGEND.names[k] for k in p.argmax(1)]
    np.testing.assert_allclose(got["pred_second_probability"], np.sort(p, 1)[:, -2], rtol=1e-4)
    second = LEGEND.encode(got["pred_second_crop"])
    np.testing.assert_allclose(p[np.arange(PARCELS), second], np.sort(p, 1)[:, -2], rtol=1e-3)
    assert (second != p.argmax(1)).all()
    np.testing.assert_allclose(got["pred_log_likelihood"], answer.log_likelihood[place], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(got["pred_entropy"], -(p * np.log(p)).sum(1), rtol=1e-4)
    assert got["pred_clear_dates"].tolist() == series.clear_dates[place].tolist()
    assert set(got["pred_run_id"]) == {"run-tgem"}
    side = table(output, PROBABILITIES)
    assert side["fid"].tolist() == got.index.tolist()
    assert side["parcel_id"].tolist() == got["parcel_id"].tolist()
    assert set(side["year"]) == {2021}
    np.testing.assert_allclose(side[["p_0010", "p_4_1", "p_x"]].to_numpy(), p, rtol=1e-4, atol=1e-7)
    legend = table(output, LEGEND_TABLE)
    assert legend["code"].tolist() == list(LEGEND.codes)
    assert legend["probability_column"].tolist() == ["p_0010", "p_4_1", "p_x"]


def test_flags(region: Region, output: Path) -> None:
    got = table(output).set_index("parcel_id")
    stranger, cloudy, rare = got.loc["stranger"], got.loc[f"p{CLOUDY:03d}"], got.loc[f"p{RARELY_SEEN:03d}"]
    assert stranger["pred_flags"] == "no_series"
    assert stranger.geometry is None
    empty = [f"pred_{c.name}" for c in COLUMNS if c.name not in ("flags", "run_id")]
    assert stranger[empty].isna().all()
    assert cloudy["pred_flags"].split(",")[0] == "no_clear_date"
    assert cloudy["pred_clear_dates"] == 0
    assert np.isnan(cloudy["pred_log_likelihood"])
    assert np.isnan(cloudy["pred_typicality"])
    prior = table(output, PROBABILITIES).set_index("parcel_id").loc[f"p{CLOUDY:03d}", ["p_0010", "p_4_1", "p_x"]]
    np.testing.assert_allclose(prior.to_numpy(float), np.array([30, 30, 29]) / 89, atol=1e-6)
    assert "few_dates" in rare["pred_flags"]
    assert got["pred_flags"].eq("").sum() > PARCELS / 2


def test_style_for_qgis(output: Path) -> None:
    with sqlite3.connect(output) as base:
        style = base.execute(
            "SELECT f_table_catalog, f_table_schema, f_table_name, f_geometry_column, useAsDefault, length(styleName),"
            " styleQML FROM layer_styles"
        ).fetchall()
        column = base.execute("SELECT column_name FROM gpkg_geometry_columns WHERE table_name = ?", (LAYER,)).fetchone()
        listed = base.execute("SELECT data_type FROM gpkg_contents WHERE table_name = 'layer_styles'").fetchall()
        (check,) = base.execute("PRAGMA integrity_check").fetchone()
    base.close()
    assert len(style) == 1
    assert style[0][:5] == ("", "", LAYER, column[0], 1)
    assert style[0][5] <= 30
    assert 'attr="pred_crop_code"' in style[0][6]
    assert listed == [("attributes",)]
    assert check == "ok"


def test_a_second_run_is_identical(region: Region, output: Path, tmp_path: Path) -> None:
    time.sleep(1.1)
    predict(region.run, region.layer, region.store, tmp_path / "again.gpkg")
    assert (tmp_path / "again.gpkg").read_bytes() == output.read_bytes()


def test_an_output_that_exists_is_kept(region: Region, output: Path) -> None:
    before = output.read_bytes()
    with pytest.raises(OutputExistsError):
        predict(region.run, region.layer, region.store, output)
    assert output.read_bytes() == before
    report = predict(region.run, region.layer, region.store, output, PredictOptions(overwrite=True))
    assert report.parcels == PARCELS + 1
    assert output.read_bytes() == before


@pytest.mark.parametrize("suffix", [".shp", ".geojson", ".parquet", ".fgb"])
def test_any_input_format(region: Region, tmp_path: Path, suffix: str) -> None:
    source = tmp_path / f"fields_2022{suffix}"
    shapes = region.parcels.set_geometry(region.parcels.geometry.fillna(shapely.Point()))
    given = shapes[shapes.geometry.geom_type == "Polygon"].head(30)
    given = given.to_crs(4326) if suffix == ".geojson" else given
    given.to_parquet(source) if suffix == ".parquet" else pyogrio.write_dataframe(given, source)
    read = gpd.read_parquet(source) if suffix == ".parquet" else pyogrio.read_dataframe(source)
    report = predict(region.run, source, region.store, tmp_path / "map.gpkg")
    got = table(tmp_path / "map.gpkg")
    assert (report.parcels, report.predicted) == (30, 30)
    assert sorted(got["parcel_id"]) == sorted(given["parcel_id"])
    assert got["parcel_id"].tolist() == read["parcel_id"].tolist()
    assert list(got.geometry.to_wkb()) == list(read.geometry.to_wkb())
    assert got.crs == read.crs
    assert set(table(tmp_path / "map.gpkg", PROBABILITIES)["year"]) == {2022}


def test_registers_are_known_and_read_in_their_zip(region: Region, tmp_path: Path) -> None:
    """Two columns are the id of a Danish parcel; another file of the zip is no layer, the layer's name has the year."""
    whole, journal = SeriesStore.open(region.store), np.arange(30) // 4
    ids = [f"{number}/{mark}-{mark}" for mark, number in enumerate(journal)]
    store = SeriesStore.create(tmp_path / "dk.zarr", bands=whole.bands, legend=LEGEND)
    store.append(replace(whole.read(slice(0, 30)), parcel_id=np.array(ids)))
    shapes = region.parcels.geometry.fillna(shapely.Point()).iloc[:30]
    marks = [f"{mark}-{mark}" for mark in range(30)]
    columns = {"Journalnr": journal, "Marknr": marks, "Afgkode": 1, "Afgroede": "Vårbyg", "id": 7}
    pyogrio.write_dataframe(gpd.GeoDataFrame(columns, geometry=shapes, crs=shapes.crs), tmp_path / "Marker_2021.shp")
    with zipfile.ZipFile(tmp_path / "marker.zip", "w") as archive:
        archive.writestr("readme.txt", "fields")
        for path in tmp_path.glob("Marker_2021.*"):
            archive.write(path, path.name)
    report = predict(region.run, tmp_path / "marker.zip", store.path, tmp_path / "map.gpkg")
    assert (report.parcels, report.predicted) == (30, 30)
    got = table(tmp_path / "map.gpkg")
    assert got["Afgroede"].unique().tolist() == ["Vårbyg"]
    named = tmp_path / "named_2021.gpkg"
    plain = {"id": whole.column("parcel_id", slice(0, 30))}
    pyogrio.write_dataframe(gpd.GeoDataFrame(plain, geometry=shapes.to_numpy(), crs=shapes.crs), named)
    predict(region.run, named, region.store, tmp_path / "other.gpkg")
    other = table(tmp_path / "other.gpkg")
    assert got["pred_probability"].tolist() == other["pred_probability"].tolist()
    named_otherwise = PredictOptions(id_column="Journalnr+id")
    with pytest.raises(DataError, match=r"looked for 0/7, 0/7, 0/7 \(column Journalnr\+id, year 2021\)"):
        predict(region.run, tmp_path / "marker.zip", store.path, tmp_path / "x.gpkg", named_otherwise)


def test_geoparquet(region: Region, output: Path, tmp_path: Path) -> None:
    predict(region.run, region.layer, region.store, tmp_path / "map.parquet")
    got, other = gpd.read_parquet(tmp_path / "map.parquet"), table(output)
    assert got.crs == other.crs
    assert list(got.geometry.to_wkb()) == list(other.geometry.to_wkb())
    for name in ("parcel_id", "pred_crop_code", "pred_probability", "pred_flags"):
        assert got[name].tolist()[:-1] == other[name].tolist()[:-1]
    side = table(output, PROBABILITIES)
    np.testing.assert_allclose(got["pred_p_4_1"].to_numpy()[:-1], side["p_4_1"].to_numpy())
    assert got["pred_p_4_1"].isna().tolist() == [False] * PARCELS + [True]
    predict(region.run, region.layer, region.store, tmp_path / "again.parquet")
    assert (tmp_path / "again.parquet").read_bytes() == (tmp_path / "map.parquet").read_bytes()


def test_the_stores_own_geometry(region: Region, tmp_path: Path) -> None:
    predict(region.run, None, region.store, tmp_path / "map.gpkg", PredictOptions(year=2022))
    got = table(tmp_path / "map.gpkg")
    assert got["parcel_id"].tolist() == [f"p{i:03d}" for i in range(PARCELS)]
    assert got["year"].eq(2022).all()
    assert not got["pred_crop_code"].isna().any()


def test_a_prediction_can_be_predicted_again(region: Region, output: Path, tmp_path: Path) -> None:
    options = PredictOptions(layer=LAYER, year=2022)
    report = predict(region.discriminative, output, region.store, tmp_path / "map.gpkg", options)
    got = table(tmp_path / "map.gpkg")
    assert report.prefix == "pred2_"
    assert got["pred_crop_code"].tolist()[:-1] == table(output)["pred_crop_code"].tolist()[:-1]
    assert got["pred2_log_likelihood"].isna().all()
    assert got["pred2_typicality"].isna().all()
    assert not got["pred2_probability"].iloc[:-1].isna().any()
    with pytest.raises(UsageError, match="year of the parcels is not known; the series has 2021, 2022"):
        predict(region.run, output, region.store, tmp_path / "x.gpkg", PredictOptions(layer=LAYER))


def test_early_season_sees_no_later_date(region: Region, tmp_path: Path) -> None:
    report = Silent()
    options = PredictOptions(until="04-30", thresholds=Thresholds(probability=0.99, dates=3))
    predict(region.run, region.layer, region.store, tmp_path / "map.gpkg", options, report)
    got = table(tmp_path / "map.gpkg").set_index("parcel_id")
    series = SeriesStore.open(region.store).read(slice(0, PARCELS))
    last = np.datetime64("2021-04-30").astype(int)
    expected = (series.mask & (series.day <= last)).sum(1)
    assert got.loc[series.parcel_id, "pred_clear_dates"].tolist() == expected.tolist()
    assert any("no prediction" in text for text in report.warnings)
    with pytest.raises(UsageError, match="MM-DD"):
        predict(region.run, region.layer, region.store, tmp_path / "x.gpkg", PredictOptions(until="30-04"))


def test_early_season_is_standardised_by_what_was_seen(region: Region, tmp_path: Path) -> None:
    run = Path(shutil.copytree(region.run, tmp_path / "run"))
    whole = SeriesStore.open(region.store)
    save_spread(run, whole.bands, Spread(np.full(2, 0.3), np.full(2, 0.1)))
    series = whole.read()
    last = np.array([f"{year}-06-30" for year in series.year], "datetime64[D]").astype(int)
    late = series.mask & (series.day > last[:, None])
    other = SeriesStore.create(tmp_path / "other.zarr", bands=whole.bands, legend=LEGEND)
    other.append(replace(series, values=series.values + np.float32(0.3) * late[..., None]))
    options = PredictOptions(until="06-30")
    for store in (region.store, other.path):
        predict(run, region.layer, store, tmp_path / f"{store.stem}.gpkg", options)
    one, two = (table(tmp_path / f"{store.stem}.gpkg") for store in (region.store, other.path))
    assert one.equals(two)
    assert one["pred_crop_code"].nunique() == 3


def test_the_year_in_a_name_is_that_of_aggregate_and_of_the_series(region: Region, tmp_path: Path) -> None:
    exported = Path(shutil.copy(region.layer, tmp_path / "fields_2021_export_2022-03-28.gpkg"))
    predict(region.run, exported, region.store, tmp_path / "map.gpkg")
    assert set(table(tmp_path / "map.gpkg", PROBABILITIES)["year"]) == {2021}
    whole = SeriesStore.open(region.store)
    one = SeriesStore.create(tmp_path / "one.zarr", bands=whole.bands, legend=LEGEND)
    one.append(whole.read(slice(0, PARCELS)))
    later = Path(shutil.copy(region.layer, tmp_path / "fields_2023.gpkg"))
    with pytest.raises(UsageError, match="its name states the year 2023, the series has 2021"):
        predict(region.run, later, one.path, tmp_path / "x.gpkg")
    report = predict(region.run, later, one.path, tmp_path / "x.gpkg", PredictOptions(year=2021))
    assert report.predicted == PARCELS


def test_rows_are_numbered_as_in_a_store_of_several_layers(region: Region, tmp_path: Path) -> None:
    series = SeriesStore.open(region.store).read(slice(0, PARCELS))
    ids = [str(i) if i < 60 else f"fields_2021:{i - 60}" for i in range(PARCELS)]
    mixed = SeriesStore.create(tmp_path / "mixed.zarr", bands=series.bands, legend=LEGEND)
    mixed.append(replace(series, parcel_id=np.array(ids)))
    options = PredictOptions(id_column="row-number")
    report = predict(region.run, region.layer, mixed.path, tmp_path / "map.gpkg", options)
    assert report.predicted == 30
    assert table(tmp_path / "map.gpkg", PROBABILITIES)["parcel_id"].tolist() == ids[60:]
    other = Path(shutil.copy(region.layer, tmp_path / "other_2021.gpkg"))
    predict(region.run, other, mixed.path, tmp_path / "other.gpkg", options)
    assert table(tmp_path / "other.gpkg", PROBABILITIES)["parcel_id"].tolist() == ids[:60]


def test_inputs_that_cannot_be_used(region: Region, tmp_path: Path) -> None:
    out = tmp_path / "map.gpkg"
    with pytest.raises(UsageError, match=r"cannot write \.xyz"):
        predict(region.run, region.layer, region.store, tmp_path / "map.xyz")
    with pytest.raises(SchemaError, match="no column 'nummer' for id; found parcel_id"):
        predict(region.run, region.layer, region.store, out, PredictOptions(id_column="nummer"))
    with pytest.raises(DataError, match=r"no parcel of .* has a series .*looked for 0, 1, 2 .*the store has p000"):
        predict(region.run, region.layer, region.store, out, PredictOptions(id_column="number"))
    empty = tmp_path / "empty_2021.gpkg"
    pyogrio.write_dataframe(region.parcels.iloc[:0], empty, geometry_type="Polygon")
    with pytest.raises(DataError, match="layer is empty"):
        predict(region.run, empty, region.store, out)
    (tmp_path / "broken.gpkg").write_bytes(region.layer.read_bytes()[:5000])
    with pytest.raises(CorruptInputError, match="cannot read parcels"):
        predict(region.run, tmp_path / "broken.gpkg", region.store, out)
    many = gpd.GeoDataFrame(
        {"parcel_id": ["p001"] * 4000}, geometry=[shapely.Point(i, 0) for i in range(4000)], crs=32631
    )
    for suffix in (".gpkg", ".fgb", ".parquet"):
        damaged = tmp_path / f"damaged{suffix}"
        many.to_parquet(damaged) if suffix == ".parquet" else pyogrio.write_dataframe(many, damaged)
        content = bytearray(damaged.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 20_000] = b"\xff" * min(20_000, len(content) - middle - 1000)
        damaged.write_bytes(content)
        with pytest.raises(CorruptInputError, match="cannot read parcels"):
            predict(region.run, damaged, region.store, out, PredictOptions(year=2021))
    region.parcels.drop(columns="geometry").to_parquet(tmp_path / "plain.parquet")
    with pytest.raises(SchemaError, match="has no geometry"):
        predict(region.run, tmp_path / "plain.parquet", region.store, out)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_another_stores_bands_and_repeated_ids(region: Region, tmp_path: Path) -> None:
    whole = SeriesStore.open(region.store)
    one = SeriesStore.create(tmp_path / "one.zarr", bands=("B04",), legend=LEGEND)
    one.append(whole.read(slice(0, 5)).select_bands(("B04",)))
    with pytest.raises(SchemaError, match="has no band B08, which the model was trained on; it has B04"):
        predict(region.run, region.layer, one.path, tmp_path / "map.gpkg")
    twice = SeriesStore.create(tmp_path / "twice.zarr", bands=whole.bands, legend=LEGEND)
    twice.append(whole.read(np.array([0, 1, 2, 1])))
    with pytest.raises(DataError, match="1 parcels occur twice in a year, for example p001 in 2021"):
        predict(region.run, region.layer, twice.path, tmp_path / "map.gpkg")


PROGRAM = """
    import sys, time, resource
    from pathlib import Path
    from cropgen.core.errors import CropgenError
    from cropgen.prediction import predict as module
    run, layer, store, output = (Path(a) for a in sys.argv[1:5])
    {before}
    try:
        module.predict(run, layer, store, output)
    except CropgenError as error:
        print(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
"""


def process(region: Region, output: Path, before: str) -> subprocess.Popen[str]:
    program = textwrap.dedent(PROGRAM).format(before=before)
    arguments = [region.run, region.layer, region.store, output]
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_a_full_disk_leaves_nothing(region: Region, tmp_path: Path) -> None:
    limit = "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))"
    ended = process(region, tmp_path / "map.gpkg", limit)
    shown, errors = ended.communicate(timeout=120)
    assert ended.returncode == CropgenError.exit_code, errors
    assert "cannot write" in shown
    assert not list(tmp_path.iterdir())


def test_an_interruption_leaves_nothing(region: Region, tmp_path: Path) -> None:
    slow = "\n".join(
        (
            "classify = module.Judge.classify",
            "module.Judge.classify = lambda *a: (print('begun', flush=True), time.sleep(60), classify(*a))[2]",
        )
    )
    running = process(region, tmp_path / "map.gpkg", slow)
    assert running.stdout is not None
    assert running.stdout.readline().strip() == "begun"
    running.send_signal(signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == 130, errors
    assert not list(tmp_path.iterdir())
