"""Folders of rasters: which date, which band, which scale."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import rasterio

from cropgen.core.errors import CorruptInputError, SchemaError
from cropgen.core.progress import Silent
from cropgen.imagery.calibration import calibrator
from cropgen.imagery.cog import open_rasters
from cropgen.imagery.masks import CloudMask, is_valid
from cropgen.imagery.scene import Window
from cropgen.imagery.selection import usable_acquisitions
from cropgen.imagery.sources import open_scenes
from tests.imagery.scene_files import NORTH, WEST, write_raster

RED = np.arange(1, 17, dtype="uint16").reshape(4, 4)


@pytest.mark.parametrize(
    "place",
    [
        "20210605_R051/B04.tif", "2021-06-05/B04.tif", "S2A_31UFS_20210605_0_L2A/B4.tif", "2021/20210605/R10m/B04.tif",
        "T31UFS_20210605T105031_B04_10m.tif", "tile/T31UFS_20210605T105031_B04.tif",
        "season_2020-10-01_2021-09-30/20210605/B04.tif", "season_2020-10-01_2021-09-30/T31UFS_20210605_B04.tif",
        "run_20210231_20210605/R20m/B04.tif", "fetched_20230101/20210605/31UFS/B04.tif",
    ],
)  # fmt: skip
def test_where_the_date_is_read(tmp_path, place):
    write_raster(tmp_path / place, RED)
    (acquisition,) = open_rasters(tmp_path).acquisitions
    assert acquisition.date == "2021-06-05"
    assert list(acquisition.layers) == ["B04"]


def test_a_single_date_folder(tmp_path):
    write_raster(tmp_path / "20210605" / "B04.tif", RED)
    (acquisition,) = open_rasters(tmp_path / "20210605").acquisitions
    assert acquisition.date == "2021-06-05"


def test_metadata_document(tmp_path):
    write_raster(tmp_path / "scene" / "red.tif", RED, scale=1, offset=0)
    document = {"properties": {"datetime": "2021-06-05T10:50:31Z"}, "scale": 0.001, "offset": -0.2}
    (tmp_path / "scene" / "metadata.json").write_text(json.dumps(document))
    (acquisition,) = open_rasters(tmp_path).acquisitions
    layer = acquisition.layers["B04"]
    assert acquisition.date == "2021-06-05"
    assert (layer.scale, layer.offset) == (0.001, -0.2)
    (tmp_path / "scene" / "metadata.json").write_text("{")
    with pytest.raises(CorruptInputError, match=r"metadata\.json"):
        open_rasters(tmp_path)


def test_days_are_ordered_and_names_break_ties(tmp_path):
    for name in ("20210610_R008", "20210605_R051", "20210605_R008"):
        write_raster(tmp_path / name / "B04.tif", RED)
    assert [a.key for a in open_rasters(tmp_path).acquisitions] == ["20210605_R008", "20210605_R051", "20210610_R008"]


def test_the_finer_of_two_files_is_read(tmp_path):
    write_raster(tmp_path / "20210605" / "R20m" / "B02_20m.tif", RED[:2, :2], 20)
    write_raster(tmp_path / "20210605" / "R10m" / "B02_10m.tif", RED)
    (acquisition,) = open_rasters(tmp_path).acquisitions
    assert acquisition.layers["B02"].grid.pixel_size == 10


def keys(folder: Path) -> dict[str, list[str]]:
    """Key → bands of the acquisitions of a folder."""
    return {a.key: sorted(a.layers) for a in open_rasters(folder).acquisitions}


def test_tiles_in_folders_below_a_date(tmp_path):
    for tile, west in (("31UFS", WEST), ("31UGS", WEST + 40)):
        write_raster(tmp_path / "2021-06-05" / tile / "R10m" / "B04.tif", RED, west=west)
        write_raster(tmp_path / "2021-06-05" / tile / "R20m" / "B11.tif", RED[:2, :2], 20, west=west)
        write_raster(tmp_path / "2021-06-05" / tile / "mask" / "SCL.tif", RED[:2, :2], 20, west=west)
    bands = ["B04", "B11", "SCL"]
    assert keys(tmp_path) == {"2021-06-05/31UFS": bands, "2021-06-05/31UGS": bands}


def test_tiles_and_orbits_in_names_of_files(tmp_path):
    for tile, time, west in (("T31UFS", "105031", WEST), ("T31UGS", "105031", WEST + 40), ("T31UFS", "110031", WEST)):
        write_raster(tmp_path / f"{tile}_20210605T{time}_B04_10m.tif", RED, west=west)
        write_raster(tmp_path / f"{tile}_20210605T{time}_B11_20m.tif", RED[:2, :2], 20, west=west)
        write_raster(tmp_path / f"{tile}_20210605T{time}_MSK_CLDPRB_20m.tif", RED[:2, :2], 20, west=west)
    found = keys(tmp_path)
    assert sorted(found) == [
        "2021-06-05/T31UFS/20210605T105031", "2021-06-05/T31UFS/20210605T110031", "2021-06-05/T31UGS",
    ]  # fmt: skip
    assert {tuple(bands[:2]) for bands in found.values()} == {("B04", "B11")}
    assert {len(bands) for bands in found.values()} == {3}


def test_folders_below_a_date_without_a_band_in_common_are_one_acquisition(tmp_path):
    write_raster(tmp_path / "20210605" / "bands" / "x_B04.tif", RED)
    write_raster(tmp_path / "20210605" / "masks" / "y_SCL.tif", RED[:2, :2], 20)
    write_raster(tmp_path / "20210605" / "B08.tif", RED)
    assert keys(tmp_path) == {"20210605": ["B04", "B08", "SCL"]}


def test_folders_given_together_may_hold_the_same_names(tmp_path):
    write_raster(tmp_path / "a" / "20210605" / "B04.tif", RED)
    for band in ("B04", "B08"):
        write_raster(tmp_path / "b" / "20210605" / f"{band}.tif", RED, west=WEST + 40)
    source = open_scenes([tmp_path / "a", tmp_path / "b", tmp_path / "a"], Silent())
    assert [(a.key, sorted(a.layers)) for a in source.acquisitions] == [
        ("20210605", ["B04"]), ("20210605 (2)", ["B04", "B08"]),
    ]  # fmt: skip
    report = Silent()
    (usable,) = usable_acquisitions(source, ("B04", "B08"), CloudMask(()), report)
    assert usable.key == "20210605 (2)"
    assert report.warnings == ["acquisition 20210605 left out: it lacks B08"]


def test_days_of_no_calendar_are_no_dates(tmp_path):
    write_raster(tmp_path / "run_20210231" / "B04.tif", RED)
    with pytest.raises(SchemaError, match="no date"):
        open_rasters(tmp_path)


def test_one_band_of_two_grounds_is_refused(tmp_path):
    write_raster(tmp_path / "20210605" / "B04_10m.tif", RED)
    write_raster(tmp_path / "20210605" / "B04_20m.tif", RED, 20, west=WEST + 400)
    with pytest.raises(SchemaError, match=r"B04_10m\.tif and .*B04_20m\.tif both hold B04 of 2021-06-05"):
        open_rasters(tmp_path)


@pytest.mark.parametrize(
    ("document", "said"),
    [([1, 2], "expected an object"), ({"scale": "much"}, "a number for scale"), ({"offset": []}, "for offset")],
)
def test_a_document_that_does_not_hold_what_it_must(tmp_path, document, said):
    write_raster(tmp_path / "20210605" / "B04.tif", RED, scale=1, offset=0)
    (tmp_path / "20210605" / "metadata.json").write_text(json.dumps(document))
    with pytest.raises(SchemaError, match=said):
        open_rasters(tmp_path)


def test_what_a_document_leaves_open_is_unstated(tmp_path):
    write_raster(tmp_path / "20210605" / "B04.tif", RED, scale=1, offset=0)
    (tmp_path / "20210605" / "metadata.json").write_text('{"scale": "1e-4", "offset": null}')
    layer = open_rasters(tmp_path).acquisitions[0].layers["B04"]
    assert (layer.scale, layer.offset) == (1e-4, 0.0)


def test_windows_and_grid(tmp_path):
    write_raster(tmp_path / "20210605" / "B04.tif", RED)
    layer = open_rasters(tmp_path).acquisitions[0].layers["B04"]
    np.testing.assert_array_equal(layer.read(Window(1, 3, 2, 4)), RED[1:3, 2:4])
    assert layer.grid.bounds == (WEST, NORTH - 40, WEST + 40, NORTH)
    assert (layer.scale, layer.offset, layer.nodata) == (1e-4, -0.1, 0)


def test_faults(tmp_path):
    write_raster(tmp_path / "a" / "scene" / "B04.tif", RED)
    with pytest.raises(SchemaError, match="no date"):
        open_rasters(tmp_path / "a")
    write_raster(tmp_path / "b" / "20210605" / "B04.tif", RED, crs=None)
    with pytest.raises(SchemaError, match="coordinate system"):
        open_rasters(tmp_path / "b")


def test_other_projections_have_other_grids(tmp_path):
    write_raster(tmp_path / "20210605_a" / "B04.tif", RED)
    write_raster(tmp_path / "20210605_b" / "B04.tif", RED, crs="EPSG:32632")
    first, second = (a.layers["B04"].grid for a in open_rasters(tmp_path).acquisitions)
    assert first != second
    assert first.crs != second.crs
    assert "31N" in first.crs


def test_a_raster_that_is_not_north_up_is_named(tmp_path):
    path = write_raster(tmp_path / "20210605" / "B04.tif", RED)
    with rasterio.open(path, "r+") as raster:
        raster.transform = rasterio.Affine(10, 0, WEST, 0, 10, NORTH)
    with pytest.raises(SchemaError, match=r"20210605/B04\.tif: grid is not north-up"):
        open_rasters(tmp_path)


def test_dates_behind_links_are_read_and_hidden_files_are_not(tmp_path):
    for name in ("a/20210605", "s/20210615", "s/.old/20210625"):
        write_raster(tmp_path / name / "B04.tif", RED)
    (tmp_path / "s" / "20210605").symlink_to(tmp_path / "a" / "20210605")
    (tmp_path / "s" / "again").symlink_to(tmp_path / "s")
    (tmp_path / "s" / "20210615" / "._B04.tif").write_bytes(b"Mac OS X")
    found = open_scenes(tmp_path / "s", Silent()).acquisitions
    assert [a.key for a in found] == ["20210605", "20210615"]


@pytest.mark.parametrize("kind", ["float32", "uint16", "uint8"])
def test_what_a_mask_in_the_file_leaves_out_is_missing(tmp_path, kind):
    name = "SCL" if kind == "uint8" else "B04"
    path = write_raster(tmp_path / "20210605" / f"{name}.tif", RED.astype(kind), nodata=None)
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(path, "r+") as raster:
        raster.write_mask(RED > 4)
    (acquisition,) = open_rasters(tmp_path).acquisitions
    layer = acquisition.layers[name]
    stored = layer.read(Window(0, 4, 0, 4))
    assert stored.dtype == kind
    np.testing.assert_array_equal(is_valid(stored, layer.nodata), RED > 4)
    np.testing.assert_array_equal(stored[1:], RED[1:])


def test_an_assumed_scale_is_told_with_the_offset_that_is_stated(tmp_path):
    write_raster(tmp_path / "20210605" / "B04.tif", RED * 1000, scale=1, offset=0)
    (tmp_path / "20210605" / "metadata.json").write_text('{"offset": -0.1}')
    report = Silent()
    scenes = open_rasters(tmp_path).acquisitions
    assert calibrator(scenes, ["B04"], None, None, report).of(scenes[0], ["B04"]) == {"B04": (1e-4, -0.1)}
    assert "0.0001 × value + -0.1 is assumed" in report.warnings[0]
