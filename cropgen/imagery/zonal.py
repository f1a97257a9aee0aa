"""Statistics of one acquisition over all parcels: each cell of a grid is read once, its pixels are summed by runs.

The mean of band c over the clear pixels P of a parcel, each of weight w(p), is

    x_c = scale · Σ_{p ∈ P} w(p) v_c(p) / Σ_{p ∈ P} w(p) + offset,

and the other statistics are those of the same pixels with the same weights: std the root of Σ w (v − mean)² / Σ w,
median and pNN quantiles (quantiles.py), count Σ w. By centres (pixels.py) every weight is 1.

Every band is averaged on its own grid; masks are looked up at the pixel centre, so one of 20 m serves its four pixels
of 10 m. A pixel counts when it is clear and valid in all bands of its grid. Cells are read side by side by threads and
added in their order, so the number of threads changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from cropgen.imagery.masks import CloudMask, is_valid
from cropgen.imagery.pixels import Cell, TilePixels
from cropgen.imagery.quantiles import quantiles
from cropgen.imagery.scene import Acquisition, Grid
from cropgen.imagery.statistics import Statistic


@dataclass(frozen=True)
class Reading:
    """What is computed of an acquisition.

    Arguments:
        bands: C names.
        statistics: S statistics; a column is (statistic, band), bands running fastest.
        mask: which pixels are clear.
        calibration: band → (scale, offset).
        nodata: stored value that means missing, besides those of the layers.
    """

    bands: tuple[str, ...]
    statistics: tuple[Statistic, ...]
    mask: CloudMask
    calibration: Mapping[str, tuple[float, float]]
    nodata: float | None = None

    @property
    def shares(self) -> tuple[float, ...]:
        """The quantiles among the statistics, as shares."""
        return tuple(s.share for s in self.statistics if s.share is not None)

    def facts(self) -> list[object]:
        """What decides the result, for a fingerprint."""
        columns = [self.statistics, self.mask, sorted(self.calibration.items())]
        return [self.bands, *(str(column) for column in columns), self.nodata]

    @property
    def squares(self) -> bool:
        """Whether sums of squares are needed."""
        return any(s.name == "std" for s in self.statistics)


class ParcelStatistics(NamedTuple):
    """One acquisition over P parcels: weight (P, G) of clear pixels by grid; values (P, S·C) float32 reflectance, NaN
    without clear pixels."""

    weight: np.ndarray
    values: np.ndarray


class _Part(NamedTuple):
    """Sums over the parcels of a cell: weight (Q,), first and second moments (C, Q), and the pixels for quantiles."""

    parcel: np.ndarray
    weight: np.ndarray
    sums: np.ndarray
    squares: np.ndarray | None
    pixels: _Pixels | None


class _Pixels(NamedTuple):
    """Clear pixels: parcel (M,), weight (M,), stored values (C, M)."""

    parcel: np.ndarray
    weight: np.ndarray
    values: np.ndarray


def parcel_statistics(acquisition: Acquisition, tile: TilePixels, reading: Reading, threads: int) -> ParcelStatistics:
    """The statistics of all bands over all parcels of a tile at one acquisition.

    Raises:
        CorruptInputError: a layer cannot be read.
    """
    parcels = len(tile.members)
    weight = np.zeros((parcels, len(tile.grids)))
    values = np.full((parcels, len(reading.statistics), len(reading.bands)), np.nan, np.float32)
    with ThreadPoolExecutor(threads) as pool:
        for number, grid in enumerate(tile.grids):
            bands = [band for band in reading.bands if acquisition.layers[band].grid == grid]
            columns = [reading.bands.index(band) for band in bands]
            cells = tile.cells(number)
            parts = pool.map(lambda cell, g=grid, b=bands: _read_cell(acquisition, g, b, reading, cell), cells)
            total = _Total(parcels, len(bands), reading, _last_cells(cells, parcels) if reading.shares else None)
            for index, part in enumerate(parts):
                if part is not None:
                    total.add(part)
                total.settle(index)
            weight[:, number] = total.weight
            values[:, :, columns] = total.statistics([reading.calibration[band] for band in bands])
    return ParcelStatistics(weight, values.reshape(parcels, -1))


def _last_cells(cells: Sequence[Cell], parcels: int) -> np.ndarray:
    """(P,) the last cell that holds pixels of each parcel."""
    last = np.zeros(parcels, np.int64)
    for index, cell in enumerate(cells):
        last[cell.parcels()[0]] = index
    return last


def _read_cell(
    acquisition: Acquisition, grid: Grid, bands: Sequence[str], reading: Reading, cell: Cell
) -> _Part | None:
    """Read every band in the window of a cell and add up the clear pixels of each parcel; None where none is."""
    position, start = cell.pixels()
    clear = reading.mask.clear(acquisition, grid, cell.window)
    keep = None if clear is None else clear.ravel()[position]
    if keep is not None and not keep.any():
        return None
    values = []
    for band in bands:
        layer = acquisition.layers[band]
        stored = layer.read(cell.window).ravel()[position]
        for missing in {layer.nodata, reading.nodata}:
            valid = is_valid(stored, missing)
            if not valid.all():
                keep = valid if keep is None else keep & valid
        values.append(stored)
    return _sum_runs(cell, start, values, keep, reading)


def _sum_runs(
    cell: Cell, start: np.ndarray, values: list[np.ndarray], keep: np.ndarray | None, reading: Reading
) -> _Part:
    parcel, first = cell.parcels()
    share = cell.runs["weight"].astype(np.float64)
    count = cell.runs["width"] if keep is None else np.add.reduceat(keep, start, dtype=np.int64)

    def add(stored: np.ndarray) -> np.ndarray:
        whole = np.issubdtype(stored.dtype, np.integer)
        sums = np.add.reduceat(stored, start, dtype=np.int64 if whole else np.float64)
        return np.add.reduceat(sums * share, first)

    kept = values if keep is None else [np.where(keep, v, v.dtype.type(0)) for v in values]
    squares = np.stack([add(_square(v)) for v in kept]) if reading.squares else None
    pixels = None
    if reading.shares:
        chosen = slice(None) if keep is None else keep
        width = cell.runs["width"]
        owner, weight = np.repeat(cell.runs["parcel"], width)[chosen], np.repeat(share, width)[chosen]
        pixels = _Pixels(owner, weight, np.stack([v[chosen] for v in values]))
    return _Part(parcel, np.add.reduceat(count * share, first), np.stack([add(v) for v in kept]), squares, pixels)


def _square(stored: np.ndarray) -> np.ndarray:
    wide = stored.astype(np.int64 if np.issubdtype(stored.dtype, np.integer) else np.float64)
    return wide * wide


class _Total:
    """What the cells of a grid add up to."""

    def __init__(self, parcels: int, bands: int, reading: Reading, last: np.ndarray | None) -> None:
        self.weight = np.zeros(parcels)
        self._reading = reading
        self._sums = np.zeros((bands, parcels))
        self._squares = np.zeros((bands, parcels)) if reading.squares else None
        self._last = last
        self._open: list[_Pixels] = []
        self._quantiles = np.full((len(reading.shares), bands, parcels), np.nan)

    def add(self, part: _Part) -> None:
        """Add the sums of a cell; every parcel occurs once in it."""
        self.weight[part.parcel] += part.weight
        self._sums[:, part.parcel] += part.sums
        if self._squares is not None and part.squares is not None:
            self._squares[:, part.parcel] += part.squares
        if part.pixels is not None:
            self._open.append(part.pixels)

    def settle(self, cell: int) -> None:
        """Take the quantiles of the parcels that end with a cell and let their pixels go."""
        if self._last is None or not self._open:
            return
        parts = self._open
        joined = _Pixels(*(np.concatenate(column, axis=-1) for column in zip(*parts, strict=True)))
        order = np.argsort(joined.parcel, kind="stable")
        done = self._last[joined.parcel[order]] <= cell
        ended, rest = order[done], order[~done]
        self._open = [_Pixels(joined.parcel[rest], joined.weight[rest], joined.values[:, rest])] if len(rest) else []
        group, weight = joined.parcel[ended], joined.weight[ended]
        for band, values in enumerate(joined.values):
            found = quantiles(values[ended], weight, group, self._reading.shares)
            self._quantiles[:, band, np.unique(group)] = found.T

    def statistics(self, calibration: Sequence[tuple[float, float]]) -> np.ndarray:
        """(P, S, C) float32: every statistic of every band in units of reflectance."""
        scale, offset = (np.array(column)[:, None] for column in zip(*calibration, strict=True))
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self._sums / self.weight
            columns, shares = [], iter(self._quantiles)
            for statistic in self._reading.statistics:
                if statistic.name == "mean":
                    columns.append(mean * scale + offset)
                elif statistic.name == "std" and self._squares is not None:
                    columns.append(np.sqrt(np.maximum(self._squares / self.weight - mean**2, 0)) * scale)
                elif statistic.name == "count":
                    columns.append(np.where(self.weight > 0, self.weight, np.nan) + 0 * mean)
                else:
                    columns.append(next(shares) * scale + offset)
        return np.stack(columns).transpose(2, 0, 1).astype(np.float32)
