"""The crops of parcels as their neighbours let them appear, beside what the model says of each parcel by itself.

All parcels are classified in a pass of their own. Their posteriors go to a file beside the output and are smoothed tile
by tile (`neighbours.py`), so memory holds a tile, and about 100 bytes per parcel. The same piece of land in two years
is not its own neighbour.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyproj
import pyproj.exceptions
import shapely

from cropgen.core.errors import DataError, SchemaError
from cropgen.core.progress import Reporter
from cropgen.prediction.columns import SMOOTHED_COLUMNS
from cropgen.prediction.neighbours import Field, on_the_globe, smooth_by_tiles
from cropgen.series.legend import Legend

_YEARS_APART_M = 1e8
_GLOBAL = "OGC:CRS84"
Evidence = tuple[np.ndarray, np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Smoothed:
    """What was found of N parcels, in the order of the input.

    Arguments:
        crop: (N,) int, class of largest marginal (its own without a place), −1 without a series.
        probability: (N,) its marginal.
        neighbours: (N,) int.
        changed: parcels whose crop is another one than by itself.
    """

    crop: np.ndarray
    probability: np.ndarray
    neighbours: np.ndarray
    changed: int

    def columns(self, rows: slice, legend: Legend) -> list[pa.Array]:
        """The columns of `SMOOTHED_COLUMNS` for some of the parcels."""
        crop, nothing = self.crop[rows], self.crop[rows] < 0
        codes, names = (np.array(texts, dtype=object)[crop] for texts in (legend.codes, legend.names))
        content = (codes, names, self.probability[rows], self.neighbours[rows])
        return [pa.array(v, c.kind, mask=nothing) for v, c in zip(content, SMOOTHED_COLUMNS, strict=True)]


class Witness(Protocol):
    """What gives evidence of parcels: a prediction in progress.

    Arguments:
        classes: K.
        count: parcels, where known.
    """

    @property
    def classes(self) -> int: ...

    @property
    def count(self) -> int | None: ...

    def evidence(self) -> Iterator[Evidence]:
        """Of each batch the (M, K) log-probabilities, the (M, 4) places, and (M,) bool which parcels have a series; a
        place is not finite without a series or a geometry."""
        ...


def smooth_stream(witness: Witness, field: Field, folder: Path, report: Reporter) -> Smoothed:
    """Smooth the answers about a stream of parcels; one that has a series and no place keeps its crop.

    Arguments:
        folder: where the log-probabilities are kept meanwhile.
    """
    places, series = [np.zeros((0, 4))], [np.zeros(0, bool)]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".smooth-") as kept:
        path = Path(kept) / "log_posterior"
        with path.open("wb") as sink, report.task("classifying parcels to be smoothed", witness.count) as task:
            for log_posterior, place, known in witness.evidence():
                sink.write(np.ascontiguousarray(log_posterior, np.float32).tobytes())
                places.append(place)
                series.append(known)
                task.advance(len(place))
        place, known = np.concatenate(places), np.concatenate(series)
        if not known.any():
            return Smoothed(*(np.full(len(place), -1, np.int32) for _ in range(3)), changed=0)
        said = np.memmap(path, np.float32, "r", shape=(len(place), witness.classes))
        return _smoothed(place, known, said, field, report)


def _smoothed(place: np.ndarray, known: np.ndarray, said: np.ndarray, field: Field, report: Reporter) -> Smoothed:
    crop, neighbours = np.full(len(place), -1, np.int32), np.zeros(len(place), np.int32)
    probability, changed = np.zeros(len(place)), 0
    with report.task("smoothing over neighbours", len(place)) as task:
        for rows, found in smooth_by_tiles(place, said, field):
            best = found.log_probability.argmax(1)
            crop[rows] = np.where(known[rows], best, -1)
            probability[rows] = np.exp(found.log_probability.max(1))
            neighbours[rows] = found.neighbours
            changed += int((known[rows] & (best != said[rows].argmax(1))).sum())
            task.advance(len(rows))
    return Smoothed(crop, probability, neighbours, changed)


class Locator:
    """Where parcels lie: their centroids on the globe, years far from one another.

    Arguments:
        crs: of the parcels, WKT or authority code.
        where: the input, for messages.

    Raises:
        SchemaError: there is none, or one that is nowhere on the globe.
    """

    def __init__(self, crs: str | None, where: str) -> None:
        if crs is None:
            raise SchemaError(
                f"{where} states no coordinate system, so neighbours cannot be told",
                hint="state it in the layer, or predict without --smooth-neighbours",
            )
        try:
            self._to_degrees = pyproj.Transformer.from_crs(crs, _GLOBAL, always_xy=True)
        except pyproj.exceptions.ProjError as error:
            raise SchemaError(
                f"{where}: its coordinate system is not tied to the globe, so neighbours cannot be told",
                hint="give the layer in a geographic or projected system, or predict without --smooth-neighbours",
            ) from error
        self._where = where

    def __call__(self, geometry: pa.Array, year: np.ndarray) -> np.ndarray:
        """(M, 4) metres; not finite where there is no geometry or an empty one.

        Arguments:
            geometry: WKB.
            year: (M,) of the parcels.

        Raises:
            DataError: a geometry cannot be read.
        """
        try:
            shapes = shapely.from_wkb(geometry.to_numpy(zero_copy_only=False))
        except shapely.errors.GEOSException as error:
            raise DataError(f"{self._where}: a geometry cannot be read: {error}", hint="repair the layer") from error
        middle = shapely.centroid(np.where(shapely.is_empty(shapes), None, shapes))
        lon, lat = self._to_degrees.transform(shapely.get_x(middle), shapely.get_y(middle))
        return located(lon, lat, year)


def located(lon: np.ndarray, lat: np.ndarray, year: np.ndarray) -> np.ndarray:
    """(M, 4) metres of positions in degrees, two years further apart than any two places on the globe."""
    place = on_the_globe(np.where(np.isfinite(lon), lon, np.nan), np.where(np.isfinite(lat), lat, np.nan))
    return np.column_stack([place, _YEARS_APART_M * np.asarray(year, float)])
