"""Polygons in files: written one after another, read back a few at a time, in whatever order is asked for.

A folder of three files:

    polygons.wkb    the polygons, as well-known binary
    parcels.npy     PARCEL of each: where its polygon and its id lie, its box, its kind
    parcels.ids     the ids, UTF-8

The files are mapped while something is read and let go at once, so that what was read does not stay in memory.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

import geopandas as gpd
import numpy as np
import shapely
from pyproj import CRS

from cropgen.core.files import atomic_output
from cropgen.core.growing import GrowingArray, load_array

PARCEL = np.dtype(
    [("begin", "<i8"), ("size", "<i4"), ("box", "<f8", (4,)), ("id", "<i8"), ("length", "<i4"), ("kind", "<i4")]
)
"""`size` bytes of polygon from byte `begin`; west, south, east, north; `length` bytes of id from `id`; the kind."""
SHAPES, PARCELS, IDS = "polygons.wkb", "parcels.npy", "parcels.ids"
_AT_A_TIME = 1 << 16


Box = tuple[float, float, float, float]
"""West, south, east, north."""


@dataclass(frozen=True)
class Polygons:
    """N polygons in files, in an order of their own.

    Arguments:
        folder: of the files.
        crs: their coordinate system.
        rows: (N,) uint32, positions in the files.
    """

    folder: Path
    crs: CRS
    rows: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, places: np.ndarray) -> Self:
        """Some of them, in the order given."""
        return type(self)(self.folder, self.crs, self.rows[places])

    def records(self, places: np.ndarray | slice) -> np.ndarray:
        """(K,) PARCEL of some of them."""
        rows = self.rows[places]
        return load_array(self.folder / PARCELS)[rows] if len(rows) else np.zeros(0, PARCEL)

    def boxes(self) -> Iterator[tuple[int, np.ndarray]]:
        """The place of the first and the boxes (K, 4), some ten thousands at a time."""
        for first in range(0, len(self), _AT_A_TIME):
            yield first, self.records(slice(first, first + _AT_A_TIME))["box"]

    def extent(self) -> Box:
        """West, south, east, north of all."""
        lows, highs = [np.full(2, np.inf)], [np.full(2, -np.inf)]
        for _, box in self.boxes():
            lows.append(box[:, :2].min(0))
            highs.append(box[:, 2:].max(0))
        west, south, east, north = np.concatenate([np.min(lows, axis=0), np.max(highs, axis=0)]).tolist()
        return west, south, east, north

    def meeting(self, window: np.ndarray) -> np.ndarray:
        """Places (K,) uint32 of those whose box meets a window (4,) of west, south, east and north, ascending."""
        found = [np.zeros(0, np.uint32)]
        for first, box in self.boxes():
            meets = (box[:, :2] <= window[2:]).all(1) & (box[:, 2:] >= window[:2]).all(1)
            found.append((first + np.flatnonzero(meets)).astype(np.uint32))
        return np.concatenate(found)

    def binary(self, places: np.ndarray) -> list[bytes]:
        """Well-known binary of some of them."""
        held = self.records(places)
        return read_pieces(self.folder / SHAPES, held["begin"], held["size"])

    def shapes(self, places: np.ndarray) -> np.ndarray:
        """Some of them as objects (K,)."""
        return np.asarray(shapely.from_wkb(np.array(self.binary(places), dtype=object)), dtype=object)

    def series(self, places: np.ndarray) -> gpd.GeoSeries:
        """Some of them with their coordinate system, counted anew."""
        return gpd.GeoSeries(self.shapes(places), crs=self.crs)


def read_pieces(path: Path, begin: np.ndarray, size: np.ndarray) -> list[bytes]:
    """Pieces of a file."""
    if not size.any():
        return [b""] * len(size)
    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as whole:
        return [whole[first:stop] for first, stop in zip(begin.tolist(), (begin + size).tolist(), strict=True)]


class PolygonWriter:
    """Writes polygons one after another.

    Arguments:
        shapes: stream for the polygons.
        parcels: for PARCEL of each.
    """

    def __init__(self, shapes: BinaryIO, parcels: GrowingArray) -> None:
        self._shapes = shapes
        self._parcels = parcels
        self._begin = 0

    def add(self, shapes: np.ndarray, about: np.ndarray | None = None) -> None:
        """Write polygons (R,), and where their ids and what their kinds are, by the fields of `about` (R,)."""
        binary = shapely.to_wkb(shapes).tolist()
        records = np.zeros(len(binary), PARCEL)
        records["size"] = np.fromiter(map(len, binary), np.int64, len(binary))
        records["begin"] = self._begin + np.cumsum(records["size"], dtype=np.int64) - records["size"]
        records["box"] = shapely.bounds(shapes).reshape(-1, 4)
        if about is not None:
            for name in ("id", "length", "kind"):
                records[name] = about[name]
        self._shapes.write(b"".join(binary))
        self._begin += int(records["size"].sum(dtype=np.int64))
        self._parcels.append(records)


def spool_polygons(geometry: gpd.GeoSeries, folder: Path) -> Polygons:
    """Write polygons that are held, into a folder that is made.

    Raises:
        CropgenError: they cannot be written.
    """
    with atomic_output(folder) as part:
        part.mkdir()
        with (part / SHAPES).open("wb") as stream, GrowingArray(part / PARCELS, PARCEL) as parcels:
            PolygonWriter(stream, parcels).add(geometry.to_numpy())
    return Polygons(folder, CRS.from_user_input(geometry.crs), np.arange(len(geometry), dtype=np.uint32))
