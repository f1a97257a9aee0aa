"""SAFE products: what is read from which file, and the baseline that moves the zero."""

from __future__ import annotations

import pickle
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely

from cropgen.core.errors import CorruptInputError, MissingInputError, SchemaError
from cropgen.core.progress import Silent
from cropgen.imagery.safe import find_products, open_products
from cropgen.imagery.safe_metadata import parse_baseline, parse_product
from cropgen.imagery.scene import Window
from cropgen.imagery.sources import open_scenes
from cropgen.series.store import SeriesStore
from tests.data.sentinel2.make import NORTH, UTM, WEST, make_safe, make_zip, product_metadata
from tests.imagery.scene_files import write_raster

RED = np.linspace(0.02, 0.5, 144).reshape(12, 12)
SWIR = np.linspace(0.1, 0.4, 36).reshape(6, 6)
VEGETATION = np.full((6, 6), 4)
BANDS = {"B04": RED, "B04_20m": RED[::2, ::2], "B11": SWIR, "SCL": VEGETATION}
ALL = Window(0, 12, 0, 12)


def only(path: Path, report: Silent | None = None):
    (acquisition,) = open_scenes(path, report or Silent()).acquisitions
    return acquisition


def reflectance(layer, window: Window = ALL) -> np.ndarray:
    stored = layer.read(window).astype(float)
    return np.where(stored == layer.nodata, np.nan, layer.scale * stored + layer.offset)


@pytest.mark.parametrize("packed", [False, True], ids=["folder", "zip"])
def test_level_2a(tmp_path, packed):
    probability = np.arange(36).reshape(6, 6)
    product = make_safe(tmp_path / "in", "2021-06-05", BANDS, probability=probability)
    path = make_zip(product, tmp_path / "zips" / f"{product.stem}.zip") if packed else product
    acquisition = only(path)
    assert acquisition.date == "2021-06-05"
    assert acquisition.key == product.stem
    assert set(acquisition.layers) == {"B04", "B11", "SCL", "CLDPRB"}
    layers = acquisition.layers
    assert {name: layer.grid.pixel_size for name, layer in layers.items()} == {
        "B04": 10, "B11": 20, "SCL": 20, "CLDPRB": 20,
    }  # fmt: skip
    assert layers["B04"].grid.bounds == (WEST, NORTH - 120, WEST + 120, NORTH)
    np.testing.assert_allclose(reflectance(layers["B04"]), RED, atol=5.1e-5)
    np.testing.assert_array_equal(layers["CLDPRB"].read(Window(1, 3, 2, 4)), probability[1:3, 2:4])
    again = pickle.loads(pickle.dumps(layers["B04"]))  # noqa: S301 - as processes and clusters move it
    np.testing.assert_array_equal(again.read(ALL), layers["B04"].read(ALL))
    assert layers["B04"].stamp


def test_a_season_of_two_baselines_has_one_reflectance(tmp_path):
    """The same ground before and after 25 January 2022, and reprocessed under an old folder name."""
    make_safe(tmp_path / "s", "2022-01-20", BANDS, baseline="03.01")
    make_safe(tmp_path / "s", "2022-01-30", BANDS, baseline="04.00")
    make_safe(tmp_path / "s", "2022-02-09", BANDS, baseline="05.09", folder_baseline="03.01")
    make_safe(tmp_path / "s", "2022-02-19", BANDS, baseline="03.01", folder_baseline="04.00")
    acquisitions = open_scenes(tmp_path / "s", Silent()).acquisitions
    stored = [a.layers["B04"].read(ALL) for a in acquisitions]
    assert [int(s[0, 0]) for s in stored] == [200, 1200, 1200, 200]
    for acquisition in acquisitions:
        np.testing.assert_allclose(reflectance(acquisition.layers["B04"]), RED, atol=5.1e-5)


def test_series_do_not_jump_at_the_switch(tmp_path):
    from cropgen.imagery.aggregate import AggregateOptions, aggregate

    for date, baseline in (("2022-01-20", "03.01"), ("2022-01-30", "04.00")):
        make_safe(tmp_path / "s", date, BANDS, baseline=baseline)
    field = shapely.box(WEST, NORTH - 120, WEST + 120, NORTH)
    gpd.GeoDataFrame({"parcel_id": ["a"], "year": 2022}, geometry=[field], crs=UTM).to_file(tmp_path / "p.gpkg")
    aggregate(tmp_path / "s", tmp_path / "p.gpkg", tmp_path / "o.zarr", AggregateOptions(buffer=0), Silent())
    series = SeriesStore.open(tmp_path / "o.zarr").read()
    assert series.bands == ("B04", "B11")
    np.testing.assert_allclose(series.values[0, 0], series.values[0, 1], atol=1e-7)
    np.testing.assert_allclose(series.values[0, 0], [RED.mean(), SWIR.mean()], atol=5e-5)


def test_quantification_and_offsets_come_from_the_metadata(tmp_path):
    layer = only(make_safe(tmp_path, "2023-06-05", BANDS, quantification=20_000)).layers["B04"]
    assert (layer.scale, layer.offset) == (1 / 20_000, -0.05)


def test_a_baseline_with_offsets_that_lists_none_is_told(tmp_path):
    report = Silent()
    layer = only(make_safe(tmp_path, "2023-06-05", BANDS, lists_offsets=False), report).layers["B04"]
    assert layer.offset == pytest.approx(-0.1)
    assert "lists no offsets; -1000 is assumed" in report.warnings[0]


def test_saturated_and_missing_pixels_are_no_measurement(tmp_path):
    red = RED.copy()
    red[0, 0], red[3, 4] = np.nan, np.inf
    layer = only(make_safe(tmp_path, "2023-06-05", {"B04": red, "SCL": VEGETATION})).layers["B04"]
    assert np.argwhere(np.isnan(reflectance(layer))).tolist() == [[0, 0], [3, 4]]


def test_level_1c_classes_come_from_the_mask_raster(tmp_path):
    clouds = np.zeros((3, 2, 2))
    clouds[0, 0, 1] = clouds[1, 1, 0] = clouds[2, 1, 1] = 1
    product = make_safe(tmp_path, "2023-06-05", {"B04": RED, "B10": RED[:2, :2]}, level="L1C", clouds=clouds)
    acquisition = only(product)
    assert set(acquisition.layers) == {"B04", "B10", "SCL"}
    assert acquisition.layers["SCL"].read(Window(0, 2, 0, 2)).tolist() == [[4, 9], [10, 11]]
    np.testing.assert_allclose(reflectance(acquisition.layers["B04"]), RED, atol=5.1e-5)


def test_level_1c_classes_come_from_polygons_before_04(tmp_path):
    def ring(left, top, right, bottom):
        return f"{WEST + left} {NORTH - top} {WEST + right} {NORTH - top} {WEST + right} {NORTH - bottom} " \
            f"{WEST + left} {NORTH - bottom} {WEST + left} {NORTH - top}"  # fmt: skip

    polygons = {"OPAQUE": ring(60, 0, 120, 60), "CIRRUS": ring(0, 0, 120, 60)}
    product = make_safe(tmp_path, "2018-06-05", {"B04": RED}, level="L1C", baseline="02.06", polygons=polygons)
    scl = only(product).layers["SCL"]
    expected = np.full((12, 12), 4)
    expected[:6], expected[:6, 6:] = 10, 9
    np.testing.assert_array_equal(scl.read(ALL), expected)
    np.testing.assert_array_equal(scl.read(Window(4, 8, 5, 7)), expected[4:8, 5:7])


def test_no_mask_of_clouds_is_told(tmp_path):
    report = Silent()
    acquisition = only(make_safe(tmp_path, "2018-06-05", {"B04": RED}, level="L1C", baseline="02.06"), report)
    assert set(acquisition.layers) == {"B04"}
    assert "neither a scene classification nor a mask of clouds" in report.messages[0]


def test_of_two_processings_the_newer_is_taken(tmp_path):
    make_safe(tmp_path / "s", "2021-06-05", BANDS, baseline="03.00")
    make_safe(tmp_path / "s", "2021-06-05", BANDS, baseline="05.00")
    make_safe(tmp_path / "s", "2021-06-05", BANDS, baseline="05.00", tile="31UGS")
    report = Silent()
    acquisitions = open_scenes(tmp_path / "s", report).acquisitions
    assert ["N0500" in a.key for a in acquisitions] == [True, True]
    assert "N0300" in report.messages[0]
    assert "left out" in report.messages[0]


def test_level_2a_stands_for_a_granule_that_is_there_in_both_levels(tmp_path):
    surface = make_safe(tmp_path / "s", "2021-06-05", BANDS, baseline="03.00")
    make_safe(tmp_path / "s", "2021-06-05", {"B04": RED}, level="L1C", clouds=np.zeros((3, 2, 2)))
    report = Silent()
    assert [a.key for a in open_scenes(tmp_path / "s", report).acquisitions] == [surface.stem]
    assert "MSIL1C" in report.messages[0]
    assert "of Level-2A" in report.messages[0]
    assert not report.warnings
    make_safe(tmp_path / "s", "2021-06-15", {"B04": RED}, level="L1C", clouds=np.zeros((3, 2, 2)))
    assert len(open_scenes(tmp_path / "s", report).acquisitions) == 2
    assert "1 acquisitions of Level-1C (top of atmosphere) beside 1 of Level-2A" in report.warnings[0]


def test_products_behind_links_are_found(tmp_path):
    product = make_safe(tmp_path / "archive", "2021-06-05", BANDS)
    (tmp_path / "s").mkdir()
    (tmp_path / "s" / product.name).symlink_to(product)
    assert only(tmp_path / "s").key == product.stem


def test_rasters_beside_products_are_told(tmp_path):
    product = make_safe(tmp_path / "s", "2021-06-05", BANDS)
    report = Silent()
    assert only(tmp_path / "s", report)
    assert not report.warnings
    write_raster(tmp_path / "s" / "20210615" / "B04.tif", np.ones((2, 2), "uint16"))
    assert only(tmp_path / "s", report).key == product.stem
    assert "not 1 rasters beside them, e.g. 20210615/B04.tif" in report.warnings[0]


def test_products_are_found_where_they_are(tmp_path):
    product = make_safe(tmp_path / "a" / "b", "2021-06-05", BANDS)
    zipped = make_zip(make_safe(tmp_path / "elsewhere", "2021-06-15", BANDS), tmp_path / "a" / "x.zip")
    (tmp_path / "a" / "other.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    assert find_products(tmp_path / "a") == [product, zipped]
    assert find_products(product / "MTD_MSIL2A.xml") == [product]
    assert len(open_scenes([product, zipped], Silent()).acquisitions) == 2
    assert find_products(tmp_path / "a" / "other.zip") == []


def test_a_zip_that_was_cut_short_is_told_whatever_its_name(tmp_path):
    zipped = make_zip(make_safe(tmp_path / "s", "2021-06-05", BANDS), tmp_path / "z" / "3f1c0d2e.zip")
    zipped.write_bytes(zipped.read_bytes()[:-200])
    (tmp_path / "z" / "other.zip").write_bytes(b"PK")
    with pytest.raises(CorruptInputError, match=r"3f1c0d2e\.zip"):
        find_products(tmp_path / "z")


def test_faults(tmp_path):
    product = make_safe(tmp_path / "s", "2021-06-05", BANDS)
    zipped = make_zip(product, tmp_path / "S2A_MSIL2A.zip")
    zipped.write_bytes(zipped.read_bytes()[:-200])
    with pytest.raises(CorruptInputError, match=r"S2A_MSIL2A\.zip"):
        open_scenes(zipped, Silent())
    image = next(product.rglob("*_B04_10m.jp2"))
    image.write_bytes(image.read_bytes()[:-40])
    with pytest.raises(CorruptInputError, match=r"2021-06-05.*B04_10m"):
        only(product).layers["B04"].read(ALL)
    image.write_bytes(b"")
    with pytest.raises(CorruptInputError, match=r"2021-06-05.*B04_10m"):
        open_scenes(product, Silent())
    metadata = product / "MTD_MSIL2A.xml"
    metadata.write_text(metadata.read_text().replace("PROCESSING_BASELINE", "BASELINE"))
    with pytest.raises(SchemaError, match=r"MTD_MSIL2A\.xml has no PROCESSING_BASELINE"):
        open_scenes(product, Silent())
    metadata.write_text("<n1:Level")
    with pytest.raises(CorruptInputError, match=r"MTD_MSIL2A\.xml"):
        open_scenes(product, Silent())
    empty = make_safe(tmp_path / "e", "2021-06-05", {})
    with pytest.raises(MissingInputError, match="no band"):
        open_products("e", [empty], Silent())


def test_old_sen2cor_names_its_elements_otherwise():
    modern = product_metadata("L2A", "2017-06-05", "02.05", "p", "g", "105031", 10_000, offsets=False)
    old = modern
    for name in ("Product_Info", "BOA_QUANTIFICATION_VALUE", "Product_Image_Characteristics"):
        old = old.replace(f"<{name}", f"<L2A_{name}").replace(f"</{name}", f"</L2A_{name}")
    assert parse_product(old.encode(), "old") == parse_product(modern.encode(), "modern")
    assert parse_baseline("N0509") == parse_baseline("05.09") == (5, 9)
    with pytest.raises(SchemaError, match="processing baseline"):
        parse_product(modern.replace(">02.05<", ">new<").encode(), "m")
