"""Folders of rasters: which date, which band, which scale."""

from __future__ import annotations

import json

import numpy as np
import pytest

from cropgen.core.errors import CorruptInputError, SchemaError
from cropgen.imagery.cog import open_rasters
from cropgen.imagery.scene import Window
from tests.imagery.scene_files import NORTH, WEST, write_raster

RED = np.arange(1, 17, dtype="uint16").reshape(4, 4)


@pytest.mark.parametrize(
    "place",
    [
        "20210605_R051/B04.tif", "2021-06-05/B04.tif", "S2A_31UFS_20210605_0_L2A/B4.tif", "2021/20210605/R10m/B04.tif",
        "T31UFS_20210605T105031_B04_10m.tif", "tile/T31UFS_20210605T105031_B04.tif",
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
