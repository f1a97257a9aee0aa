"""Windows of remote rasters as local COGs, and the ledger of what they are.

    scenes/31UFS/2023-10-05/B04.tif    stored numbers as they were, scale and offset as band metadata
    scenes/ledger.jsonl                one line per file: item, granule, band, version of the source, window, bytes,
                                       SHA-256

A file is whole or absent, and is read back before it counts. Lines are appended; the last one of a path holds, and half
a line, which an interruption leaves, is none.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import rasterio

from cropgen.core.errors import CropgenError, SchemaError, UnfinishedError
from cropgen.core.files import atomic_output, sha256_file
from cropgen.imagery.raster import ENVIRONMENT, GDAL_ERRORS, header_of, raster_window
from cropgen.imagery.scene import Grid, Window
from cropgen.imagery.scene_plan import Target
from cropgen.imagery.stac_items import Item

LEDGER = "ledger.jsonl"
_STRIPE = 2048
_BLOCK = 512
_NEGATIVE, _MUCH = -0.01, 0.15


@dataclass(frozen=True)
class Record:
    """One file as it was fetched.

    Arguments:
        source: what the server or the catalogue calls this version.
        window: top, bottom, left, right in the source.
        verified: the source is whole here and had the checksum that the catalogue states.
        tile, strip: of the item; empty in lines of versions that did not keep them.
    """

    path: str
    item: str
    band: str
    source: str
    window: tuple[int, int, int, int]
    scale: float
    offset: float
    size_bytes: int
    sha256: str
    verified: bool = False
    tile: str = ""
    strip: str = ""

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]


class Ledger:
    """The records of a folder of scenes; safe to use from several threads."""

    def __init__(self, folder: Path, records: dict[str, Record]) -> None:
        self.folder = folder
        self._records = records
        self._guard = threading.Lock()

    @classmethod
    def read(cls, folder: Path) -> Self:
        """The records of a folder; none where nothing was fetched."""
        path = folder / LEDGER
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        return cls(folder, {record.path: record for record in _parsed(lines)})

    def all(self) -> list[Record]:
        return [self._records[path] for path in sorted(self._records)]

    def folders(self, items: Iterable[Item] = ()) -> dict[str | tuple[str, str], str]:
        """Id, and granule where it is known, of what is here → its folder; of several the first by name.

        Arguments:
            items: tell the granules of records that do not.
        """
        granules = {item.id: item.granule for item in items}
        found: dict[str | tuple[str, str], str] = {}
        for record in self.all():
            granule = (record.tile, record.strip) if record.strip else granules.get(record.item)
            for name in (record.item, granule):
                if name is not None:
                    found.setdefault(name, record.folder)
        return found

    def holds(self, target: Target, source: str, window: Window) -> bool:
        """Whether a file is here: of this version, this window, this calibration, and as long as it was."""
        record, path = self._records.get(target.path), self.folder / target.path
        if record is None or not path.is_file() or path.stat().st_size != record.size_bytes:
            return False
        wanted = (target.item.id, target.asset.band, source, _numbers(window), target.asset.scale, target.asset.offset)
        return wanted == (
            record.item, record.band, record.source, record.window, record.scale, record.offset,
        )  # fmt: skip

    def has(self, target: Target) -> bool:
        """Whether some version of a file is here; the server was not asked."""
        record, path = self._records.get(target.path), self.folder / target.path
        return record is not None and record.item == target.item.id and path.is_file()

    def put(self, record: Record) -> None:
        """Record a file, on disk when this returns.

        Raises:
            UnfinishedError: it cannot be written.
        """
        path = self.folder / LEDGER
        with self._guard:
            try:
                with path.open("a+b") as stream:
                    stream.seek(max(stream.seek(0, os.SEEK_END) - 1, 0))
                    torn = stream.read(1) not in (b"", b"\n")
                    stream.write((("\n" if torn else "") + json.dumps(asdict(record)) + "\n").encode())
            except OSError as error:
                raise UnfinishedError(
                    f"cannot write {path}: {error.strerror or error}",
                    hint="free space; what came is kept, and the same command goes on",
                ) from error
            self._records[record.path] = record


def _parsed(lines: list[str]) -> Iterator[Record]:
    for line in lines:
        try:
            document: dict[str, Any] = json.loads(line)
            yield Record(**{**document, "window": tuple(document["window"])})
        except (ValueError, TypeError, KeyError):
            continue


def _numbers(window: Window) -> tuple[int, int, int, int]:
    return window.top, window.bottom, window.left, window.right


@dataclass(frozen=True)
class Piece:
    """What was read of a source.

    Arguments:
        values: (rows, columns) as stored.
        whole: the grid of the source.
    """

    values: np.ndarray
    whole: Grid
    window: Window


def window_of(grid: Grid, target: Target) -> Window:
    """The window of a source that a target is.

    Raises:
        SchemaError: nothing of it lies in the source.
    """
    window = grid.window(target.bounds)
    if 0 in window.shape:
        raise SchemaError(
            f"{target.asset.address} does not lie where the catalogue says", hint="report it to the catalogue"
        )
    return window


def covers(window: Window, grid: Grid) -> bool:
    """Whether a window is all of a grid."""
    return window == Window(0, grid.shape[0], 0, grid.shape[1])


def read_piece(raster: Any, target: Target, stop: threading.Event) -> Piece:
    """Read the window of a target from an open raster, in stripes of whole blocks.

    Raises:
        SchemaError: the raster is not on the grid that the catalogue states.
        UnfinishedError: `stop` was set.
    """
    grid, stated = header_of(raster).grid, target.asset.grid
    if stated is not None and (stated.shape != grid.shape or not np.allclose(stated.transform, grid.transform, rtol=0)):
        raise SchemaError(
            f"{target.asset.address} is not on the grid that item {target.item.id} states: expected "
            f"{stated.shape} from {stated.bounds}, got {grid.shape} from {grid.bounds}",
            hint="report it to the catalogue",
        )
    window = window_of(grid, target)
    values = np.empty(window.shape, raster.dtypes[0])
    for top in range(window.top - window.top % _STRIPE, window.bottom, _STRIPE):
        if stop.is_set():
            raise UnfinishedError("stopped", hint="the same command goes on")
        part = Window(max(top, window.top), min(top + _STRIPE, window.bottom), window.left, window.right)
        values[part.top - window.top : part.bottom - window.top] = raster.read(1, window=raster_window(part))
    return Piece(values, grid, window)


def write_piece(piece: Piece, target: Target, source: str, folder: Path, *, verified: bool = False) -> Record:
    """Write a window as a COG, read it back, and tell what it is.

    Arguments:
        verified: of the record.

    Raises:
        UnfinishedError: it cannot be written, as on a full disk; nothing is left behind.
    """
    path = folder / target.path
    try:
        with atomic_output(path) as part, rasterio.Env(**ENVIRONMENT):
            _write_cog(part, piece, target)
            if not _reads_back(part, piece):
                raise OSError("what was written cannot be read back")
            size, digest = part.stat().st_size, sha256_file(part)
    except (CropgenError, *GDAL_ERRORS) as error:
        said = error.message if isinstance(error, CropgenError) else f"cannot write {path}: {error}"
        raise UnfinishedError(said, hint="free space; what came is kept, and the same command goes on") from error
    return Record(
        target.path, target.item.id, target.asset.band, source, _numbers(piece.window), target.asset.scale,
        target.asset.offset, size, digest, verified, target.item.tile, target.item.strip,
    )  # fmt: skip


def _write_cog(path: Path, piece: Piece, target: Target) -> None:
    rows, columns = piece.values.shape
    asset = target.asset
    with rasterio.open(
        path, "w", driver="COG", width=columns, height=rows, count=1, dtype=piece.values.dtype, crs=piece.whole.crs,
        transform=piece.whole.window_affine(piece.window), nodata=asset.nodata, COMPRESS="DEFLATE", PREDICTOR="YES",
        BLOCKSIZE=_BLOCK, OVERVIEWS="NONE", NUM_THREADS="1",
    ) as raster:  # fmt: skip
        if (asset.scale, asset.offset) != (1.0, 0.0):
            raster.scales, raster.offsets = (asset.scale,), (asset.offset,)
        raster.update_tags(ITEM=target.item.id)
        raster.write(piece.values, 1)


def _reads_back(path: Path, piece: Piece) -> bool:
    with rasterio.open(path) as raster:
        return bool(np.array_equal(raster.read(1), piece.values, equal_nan=piece.values.dtype.kind == "f"))


def seems_corrected(piece: Piece, target: Target) -> bool:
    """Whether much of a band would be negative: its offset was taken off before, whatever the catalogue says."""
    asset = target.asset
    if asset.offset >= 0:
        return False
    valid = piece.values[piece.values != asset.nodata]
    return bool(valid.size) and float(np.mean(valid * asset.scale + asset.offset < _NEGATIVE)) > _MUCH
