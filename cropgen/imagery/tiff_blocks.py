"""Windows of local GeoTIFFs, decoded block by block without GDAL, in some two thirds of its time.

tifffile finds the blocks, imagecodecs inflates them and undoes the differences along rows; what comes out is bit for
bit what GDAL reads. Only plain files are read so: one band, whole numbers or floats of 8 to 64 bits, stored as they are
or by Deflate, LZW or Zstandard. All else is left to GDAL, and so is a file that cannot be read, so that there is one
account of what is wrong with it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import tifffile

from cropgen.imagery.scene import Window

_SUFFIXES = (".tif", ".tiff")
_COMPRESSIONS = (1, 5, 8, 32946, 50000)
_INFLATE = {8: imagecodecs.deflate_decode, 32946: imagecodecs.deflate_decode, 50000: imagecodecs.zstd_decode}
_PREDICTORS = _PLAIN, _DIFFERENCES = (1, 2)
_BITS = (8, 16, 32, 64)
_FILES = 64
_READ_ERRORS = (OSError, ValueError, RuntimeError, tifffile.TiffFileError)


@dataclass(frozen=True)
class _Blocks:
    """Where the blocks of a file are and how they are decoded.

    Arguments:
        shape: rows and columns of the raster.
        block: rows and columns of a block; those at the south and east edge may be smaller.
        start, size: byte offset and length of each block, row by row.
        inflate: (bytes, out=room) to the part of the room that was filled; None where `decode` has to do it.
        differences: whether values are kept as differences along rows.
        decode: (bytes, number of the block) to (values (1, rows, columns, 1), place, shape).
    """

    shape: tuple[int, int]
    block: tuple[int, int]
    dtype: np.dtype[Any]
    start: tuple[int, ...]
    size: tuple[int, ...]
    inflate: Callable[..., Any] | None
    differences: bool
    decode: Callable[[bytes, int], tuple[np.ndarray | None, Any, Any]]

    @property
    def across(self) -> int:
        """Blocks side by side."""
        return -(-self.shape[1] // self.block[1])


def read_window(path: Path | str, window: Window) -> np.ndarray | None:
    """Stored values (rows, columns) of a window of the only band; None: GDAL has to read it."""
    path = Path(path)
    blocks = _blocks_of(path)
    if blocks is None:
        return None
    try:
        return _read(path, blocks, window)
    except _READ_ERRORS:
        return None


def has_columns(path: Path | str, columns: int) -> bool:
    """Whether any so many columns from a multiple of them on are read here without decoding others."""
    blocks = _blocks_of(Path(path))
    return blocks is not None and columns % blocks.block[1] == 0


def _blocks_of(path: Path) -> _Blocks | None:
    """The blocks of a file; None where it is not plain, or cannot be read."""
    if path.suffix.lower() not in _SUFFIXES:
        return None
    try:
        state = path.stat()
        return _blocks(path, state.st_size, state.st_mtime_ns)
    except _READ_ERRORS:
        return None


@lru_cache(maxsize=_FILES)
def _blocks(path: Path, size: int, changed: int) -> _Blocks | None:
    """The blocks of a file as it was last changed; None where it is not plain."""
    with tifffile.TiffFile(path) as file:
        page = file.pages.first
        if not isinstance(page, tifffile.TiffPage) or page.dtype is None:
            return None
        plain = (
            page.samplesperpixel == page.imagedepth == page.fillorder == 1
            and page.compression in _COMPRESSIONS
            and page.predictor in _PREDICTORS
            and page.bitspersample == 8 * page.dtype.itemsize
            and page.bitspersample in _BITS
            and page.dtype.kind in "iuf"
        )
        if not plain:
            return None
        block = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        native = page.dtype.newbyteorder(file.byteorder).isnative
        return _Blocks(
            (page.imagelength, page.imagewidth), block, page.dtype.newbyteorder("="),
            tuple(page.dataoffsets), tuple(page.databytecounts), _INFLATE.get(page.compression) if native else None,
            page.predictor == _DIFFERENCES, page.decode,
        )  # fmt: skip


def _read(path: Path, blocks: _Blocks, window: Window) -> np.ndarray | None:
    """Read the blocks that a window touches; None where one was never written, which GDAL fills."""
    (rows, columns), (height, width) = blocks.shape, blocks.block
    if window.bottom > rows or window.right > columns:
        return None
    values = np.empty(window.shape, blocks.dtype)
    with path.open("rb", buffering=0) as stream:
        for top in range(window.top - window.top % height, window.bottom, height):
            for left in range(window.left - window.left % width, window.right, width):
                number = top // height * blocks.across + left // width
                if not blocks.size[number]:
                    return None
                stream.seek(blocks.start[number])
                decoded = _decode(stream.read(blocks.size[number]), blocks, number)
                if decoded is None:
                    return None
                _place(decoded, top, left, values, window)
    return values


class _Room(threading.local):
    """Where a thread inflates its blocks, one after another: memory that is at hand already."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def of(self, size: int) -> bytearray:
        """Room for so many bytes, and no more."""
        if len(self._bytes) != size:
            self._bytes = bytearray(size)
        return self._bytes


_ROOM = _Room()


def _decode(raw: bytes, blocks: _Blocks, number: int) -> np.ndarray | None:
    """The values (rows, columns) of a block until the next is decoded; None: GDAL has to read it."""
    if blocks.inflate is None:
        decoded, _, _ = blocks.decode(raw, number)
        return None if decoded is None else decoded[0, :, :, 0]
    height, width = blocks.block
    row = width * blocks.dtype.itemsize
    room = _ROOM.of(height * row)
    top = number // blocks.across * height
    if len(blocks.inflate(raw, out=room)) < min(height, blocks.shape[0] - top) * row:
        return None
    values = np.frombuffer(room, blocks.dtype).reshape(height, width)
    return imagecodecs.delta_decode(values, axis=-1, out=values) if blocks.differences else values


def _place(block: np.ndarray, top: int, left: int, values: np.ndarray, window: Window) -> None:
    """Copy the part of a block that lies in a window."""
    first, last = max(top, window.top), min(top + len(block), window.bottom)
    west, east = max(left, window.left), min(left + block.shape[1], window.right)
    part = block[first - top : last - top, west - left : east - left]
    values[first - window.top : last - window.top, west - window.left : east - window.left] = part
