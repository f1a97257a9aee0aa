"""Blocks decoded here give what GDAL gives, to the bit; what is not plain is left to GDAL."""

from __future__ import annotations

import os
import zlib
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import rasterio
import tifffile
from hypothesis import given
from hypothesis import strategies as st

from cropgen.core.errors import CorruptInputError
from cropgen.imagery import raster as raster_module
from cropgen.imagery.raster import RasterLayer, read_header
from cropgen.imagery.scene import Window
from cropgen.imagery.tiff_blocks import read_window
from tests.imagery.scene_files import NORTH, UTM, WEST

ROWS, COLUMNS = 150, 203
TILED = {"tiled": True, "blockxsize": 64, "blockysize": 32}


def write(path: Path, values: np.ndarray, **how: object) -> Path:
    bands = values if values.ndim == 3 else values[None]
    with rasterio.open(
        path, "w", driver="GTiff", width=bands.shape[2], height=bands.shape[1], count=len(bands), dtype=values.dtype,
        crs=UTM, transform=rasterio.Affine(10, 0, WEST, 0, -10, NORTH), **how,
    ) as raster:  # fmt: skip
        raster.write(bands)
    return path


def values_of(dtype: str, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random((ROWS, COLUMNS)) * 200).astype(dtype)


def by_gdal(path: Path, window: Window) -> np.ndarray:
    with rasterio.open(path) as raster:
        return raster.read(1)[window.top : window.bottom, window.left : window.right]


@pytest.mark.parametrize("compress", [None, "deflate", "lzw", "zstd"])
@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
def test_every_plain_file_is_read_as_gdal_reads_it(tmp_path, compress, dtype):
    values = values_of(dtype)
    for number, (tiled, order, predictor) in enumerate(product((True, False), ("LITTLE", "BIG"), (1, 2))):
        how = {} if compress is None else {"compress": compress, "predictor": predictor}
        path = write(tmp_path / f"{number}.tif", values, ENDIANNESS=order, **how, **(TILED if tiled else {}))
        for window in (Window(0, ROWS, 0, COLUMNS), Window(31, 97, 60, 203), Window(149, 150, 0, 1)):
            read = read_window(path, window)
            assert read is not None
            assert read.dtype == values.dtype
            np.testing.assert_array_equal(read, by_gdal(path, window))


@pytest.fixture(scope="module")
def tiled(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("tiff") / "a.tif", values_of("uint16"), compress="deflate", **TILED)


def test_blocks_are_read_on_systems_without_reads_at_a_place(tiled, monkeypatch):
    monkeypatch.delattr(os, "pread", raising=False)
    np.testing.assert_array_equal(read_window(tiled, Window(5, 99, 7, 200)), values_of("uint16")[5:99, 7:200])


@given(st.data())
def test_any_window_of_any_blocks(tiled, data):
    top, left = data.draw(st.integers(0, ROWS - 1)), data.draw(st.integers(0, COLUMNS - 1))
    bottom, right = data.draw(st.integers(top, ROWS)), data.draw(st.integers(left, COLUMNS))
    window = Window(top, bottom, left, right)
    np.testing.assert_array_equal(read_window(tiled, window), values_of("uint16")[top:bottom, left:right])


@pytest.mark.parametrize(
    ("name", "how", "bands"),
    [
        ("packbits.tif", {"compress": "packbits"}, 1),
        ("floats.tif", {"compress": "deflate", "predictor": 3}, 1),
        ("twelve.tif", {"NBITS": 12}, 1),
        ("bands.tif", {"compress": "deflate"}, 3),
    ],
)
def test_what_is_not_plain_is_left_to_gdal(tmp_path, name, how, bands):
    dtype = "float32" if name == "floats.tif" else "uint16"
    values = np.stack([values_of(dtype, seed) for seed in range(bands)])
    write(tmp_path / name, values, **how)
    assert read_window(tmp_path / name, Window(0, 5, 0, 5)) is None
    layer = RasterLayer(tmp_path / name, "2021-06-05", read_header(tmp_path / name, "").grid, None, 0.0, None)
    np.testing.assert_array_equal(layer.read(Window(2, 50, 3, 60)), values[0, 2:50, 3:60])


def test_blocks_that_were_never_written_are_filled_by_gdal(tmp_path):
    with rasterio.open(
        tmp_path / "a.tif", "w", driver="GTiff", width=128, height=64, count=1, dtype="uint16", nodata=7, crs=UTM,
        transform=rasterio.Affine(10, 0, WEST, 0, -10, NORTH), compress="deflate", SPARSE_OK=True, **TILED,
    ) as raster:  # fmt: skip
        raster.write(np.full((1, 32, 64), 3, np.uint16), window=rasterio.windows.Window(0, 0, 64, 32))
    assert read_window(tmp_path / "a.tif", Window(0, 32, 0, 64)).tolist() == np.full((32, 64), 3).tolist()
    assert read_window(tmp_path / "a.tif", Window(0, 64, 0, 128)) is None
    layer = RasterLayer(tmp_path / "a.tif", "", read_header(tmp_path / "a.tif", "").grid, None, 0.0, 7)
    assert np.unique(layer.read(Window(0, 64, 0, 128))).tolist() == [3, 7]


def test_a_file_that_was_written_again_is_read_again(tmp_path):
    path = write(tmp_path / "a.tif", values_of("uint16"), compress="deflate", **TILED)
    read_window(path, Window(0, 9, 0, 9))
    path.unlink()
    write(path, values_of("uint16", seed=1)[:, :100], compress="lzw")
    np.testing.assert_array_equal(
        read_window(path, Window(0, ROWS, 0, 100)), values_of("uint16", seed=1)[:, :100]
    )  # fmt: skip


def test_a_block_that_holds_less_than_it_should_is_left_to_gdal(tmp_path):
    path = write(tmp_path / "a.tif", values_of("uint16"), compress="deflate", **TILED)
    with tifffile.TiffFile(path) as file:
        first = file.pages.first
        start, size = first.dataoffsets[1], first.databytecounts[1]
    short = zlib.compress(bytes(64 * 31 * 2))
    content = bytearray(path.read_bytes())
    content[start : start + size] = short.ljust(size, b"\0")
    path.write_bytes(content)
    assert read_window(path, Window(0, 32, 0, 64)) is not None
    assert read_window(path, Window(0, 32, 0, 65)) is None


@pytest.mark.parametrize("length", [200, 9000])
def test_a_damaged_file_is_told_as_gdal_tells_it(tmp_path, length, monkeypatch):
    path = write(tmp_path / "a.tif", values_of("uint16"), compress="deflate", **TILED)
    layer = RasterLayer(path, "2021-06-05", read_header(path, "").grid, None, 0.0, None)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(CorruptInputError, match="2021-06-05") as here:
        layer.read(Window(0, ROWS, 0, COLUMNS))
    monkeypatch.setattr(raster_module, "read_window", lambda path, window: None)
    with pytest.raises(CorruptInputError) as there:
        layer.read(Window(0, ROWS, 0, COLUMNS))
    assert str(here.value) == str(there.value)
