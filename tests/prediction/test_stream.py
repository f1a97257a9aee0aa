"""Parcel layers as they are met: text in other encodings than stated, types that a GeoPackage does not know."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pyogrio
import pytest

from cropgen.core.errors import CorruptInputError, SchemaError, UsageError
from cropgen.core.progress import Silent
from cropgen.prediction.geopackage import LAYER
from cropgen.prediction.predict import PredictOptions, predict
from cropgen.prediction.stream import open_parcels
from cropgen.series.store import SeriesStore
from tests.prediction.conftest import LEGEND, PARCELS, Region


def shapefile(region: Region, path: Path, encoding: str, stated: str | None) -> Path:
    """The parcels with ids and names beyond ASCII, in an encoding, with another one stated or none."""
    frame = region.parcels.iloc[:PARCELS].explode()[["parcel_id", "geometry"]].drop_duplicates("parcel_id")
    frame["parcel_id"], frame["name"] = "é" + frame["parcel_id"], "Maïs"
    pyogrio.write_dataframe(frame, path, encoding=encoding)
    path.with_suffix(".cpg").unlink(missing_ok=True)
    if stated is not None:
        path.with_suffix(".cpg").write_text(stated)
    table = bytearray(path.with_suffix(".dbf").read_bytes())
    table[29] = 0
    path.with_suffix(".dbf").write_bytes(table)
    return path


@pytest.mark.parametrize(
    ("encoding", "stated", "told"),
    [
        ("cp1252", "1252", None),
        ("cp1252", None, "read as cp1252"),
        ("cp1252", "UTF-8", "read as cp1252"),
        ("utf-8", None, None),
        ("utf-8", "ISO-8859-1", "column parcel_id is utf-8 text"),
    ],
)
def test_text_is_read_in_its_true_encoding(
    region: Region, tmp_path: Path, encoding: str, stated: str | None, told: str | None
) -> None:
    layer = shapefile(region, tmp_path / "fields_2021.shp", encoding, stated)
    series = SeriesStore.open(region.store).read(slice(0, PARCELS))
    own = SeriesStore.create(tmp_path / "own.zarr", bands=series.bands, legend=LEGEND)
    own.append(replace(series, parcel_id=np.char.add("é", series.parcel_id)))
    for suffix in (".gpkg", ".parquet"):
        report, output = Silent(), tmp_path / f"map{suffix}"
        assert predict(region.run, layer, own.path, output, None, report).predicted == PARCELS
        shown = pyogrio.read_dataframe(output, layer=LAYER) if suffix == ".gpkg" else gpd.read_parquet(output)
        assert set(shown["name"]) == {"Maïs"}
        assert sorted(shown["parcel_id"]) == sorted("é" + series.parcel_id.astype(object))
        assert any(told in line for line in report.warnings) if told else not report.warnings


def test_text_that_no_table_explains_is_refused_by_column(tmp_path: Path) -> None:
    table = tmp_path / "fields_2021.csv"
    table.write_bytes("parcel_id,name,wkt\n1,Maïs,POINT (1 2)\n".encode("cp1252"))
    with (
        pytest.raises(CorruptInputError, match="column name holds text that is not UTF-8"),
        open_parcels(table) as stream,
    ):
        list(stream.batches)


def test_empty_columns_and_views_are_text_in_a_geopackage(region: Region, tmp_path: Path) -> None:
    frame = region.parcels.head(5)[["parcel_id", "geometry"]].assign(empty=None)
    frame.to_parquet(tmp_path / "plain.parquet")
    plain = pq.read_table(tmp_path / "plain.parquet")
    assert pa.types.is_null(plain.schema.field("empty").type)
    viewed = plain.append_column("view", pa.array(["Maïs"] * 5).cast(pa.string_view()))
    pq.write_table(viewed.replace_schema_metadata(plain.schema.metadata), tmp_path / "fields_2021.parquet")
    for suffix in (".gpkg", ".parquet"):
        output = tmp_path / f"map{suffix}"
        predict(region.run, tmp_path / "fields_2021.parquet", region.store, output)
        shown = pyogrio.read_dataframe(output, layer=LAYER) if suffix == ".gpkg" else gpd.read_parquet(output)
        assert shown["empty"].isna().all()
        assert set(shown["view"]) == {"Maïs"}


def test_columns_that_differ_only_in_case_need_geoparquet(region: Region, tmp_path: Path) -> None:
    layer = tmp_path / "fields_2021.parquet"
    region.parcels.head(5)[["parcel_id", "geometry"]].assign(Note="a", note="b").to_parquet(layer)
    with pytest.raises(SchemaError, match="columns Note and note of the parcels differ only in case"):
        predict(region.run, layer, region.store, tmp_path / "map.gpkg")
    predict(region.run, layer, region.store, tmp_path / "map.parquet")
    assert {"Note", "note"} <= set(gpd.read_parquet(tmp_path / "map.parquet").columns)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("suffix", ["gpkg", "parquet"])
def test_ids_of_many_digits_are_exact_beside_a_missing_one(region: Region, tmp_path: Path, suffix: str) -> None:
    whole, ids = SeriesStore.open(region.store), [10**17 + 3 * i for i in range(PARCELS)]
    store = SeriesStore.create(tmp_path / "s.zarr", bands=whole.bands, legend=LEGEND)
    series = whole.read(slice(0, PARCELS))
    store.append(replace(series, parcel_id=np.array(ids, np.int64).astype(np.str_)))
    parcels = region.parcels.sort_values("parcel_id")
    layer, output = tmp_path / f"p_2021.{suffix}", tmp_path / "map.parquet"
    parcels["id"], parcels["parcel_id"] = parcels.pop("parcel_id"), pd.array([*ids, None], "Int64")
    parcels.to_parquet(layer) if suffix == "parquet" else parcels.to_file(layer)
    told = predict(region.run, layer, store.path, output)
    assert told.predicted == PARCELS
    found, expected = gpd.read_parquet(output), tmp_path / "by_name.parquet"
    predict(region.run, region.layer, region.store, expected)
    by_name = gpd.read_parquet(expected).set_index("parcel_id")["pred_probability"]
    np.testing.assert_array_equal(found["pred_probability"], by_name[found["id"]])


@pytest.mark.parametrize("kind", [pa.uint64(), pa.decimal128(18, 0), pa.decimal128(38, 0)])
def test_whole_numbers_keep_their_digits_in_a_geopackage(region: Region, tmp_path: Path, kind: pa.DataType) -> None:
    layer, output = tmp_path / "p_2021.parquet", tmp_path / "map.gpkg"
    numbers = [599_686_042_433_355_775 + i for i in range(PARCELS + 1)]
    region.parcels.to_parquet(layer)
    plain = pq.read_table(layer)
    cells = pa.array([*map(Decimal, numbers)], pa.decimal128(38, 0)).cast(kind)
    pq.write_table(plain.append_column("cell", cells), layer)
    predict(region.run, layer, region.store, output)
    assert pyogrio.read_dataframe(output, layer=LAYER)["cell"].tolist() == numbers


def test_whole_numbers_beyond_64_bits_need_geoparquet(region: Region, tmp_path: Path) -> None:
    layer, output = tmp_path / "p_2021.parquet", tmp_path / "map.gpkg"
    region.parcels.to_parquet(layer)
    plain = pq.read_table(layer)
    pq.write_table(plain.append_column("cell", pa.array([2**63 + 5] * (PARCELS + 1), pa.uint64())), layer)
    with pytest.raises(SchemaError, match="column cell of the parcels holds whole numbers beyond 64 bits"):
        predict(region.run, layer, region.store, output)
    assert [path.name for path in tmp_path.iterdir()] == [layer.name]
    predict(region.run, layer, region.store, tmp_path / "map.parquet")
    assert pq.read_table(tmp_path / "map.parquet")["cell"].to_pylist() == [2**63 + 5] * (PARCELS + 1)


def test_times_with_an_offset_are_read_in_silence(region: Region, tmp_path: Path) -> None:
    layer = tmp_path / "fields_2021.gpkg"
    seen = pd.Timestamp("2021-05-01 10:00", tz="Asia/Tashkent")
    region.parcels.assign(seen=seen).to_file(layer)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        predict(region.run, layer, region.store, tmp_path / "map.parquet")
    assert set(gpd.read_parquet(tmp_path / "map.parquet")["seen"]) == {seen}


def test_the_input_is_not_replaced(region: Region, tmp_path: Path) -> None:
    layer = tmp_path / "fields_2021.gpkg"
    shutil.copy(region.layer, layer)
    pyogrio.write_dataframe(region.parcels.iloc[:3], layer, layer="other")
    with pytest.raises(UsageError, match=r"fields_2021\.gpkg is the layer that is read"):
        predict(region.run, layer, region.store, layer, PredictOptions(layer="fields", overwrite=True))
    assert pyogrio.list_layers(layer)[:, 0].tolist() == ["fields", "other"]
