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

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cropgen.core.files import remove
from cropgen.core.growing import GrowingArray
from cropgen.core.threads import in_order
from cropgen.imagery.masks import CloudMask, is_valid
from cropgen.imagery.panels import CellPixels
from cropgen.imagery.pixels import Cell, TilePixels
from cropgen.imagery.quantiles import quantiles
from cropgen.imagery.sample_values import Picked, SampleValues
from cropgen.imagery.scene import Acquisition, Grid
from cropgen.imagery.statistics import Statistic

_AT_A_TIME = 1 << 15
_SHORT = 2


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


def write_statistics(
    path: Path,
    acquisition: Acquisition,
    tile: TilePixels,
    reading: Reading,
    threads: int,
    sample: SampleValues | None = None,
) -> None:
    """Write the statistics of all bands over all parcels of a tile at one acquisition.

    Arguments:
        path: `.npy` file for records of weight (G,) by grid, the clear pixels, and values (S·C,) float32 reflectance,
            NaN without clear pixels; sums stand in files beside it while they grow.
        sample: takes the values of its pixels from the cells as they are read.

    Raises:
        CorruptInputError: a layer cannot be read.
    """
    parcels, columns = len(tile.members), len(reading.statistics) * len(reading.bands)
    kind = np.dtype([("weight", "<f8", (len(tile.grids),)), ("values", "<f4", (columns,))])
    finest_first = sorted(range(len(tile.grids)), key=lambda number: number != tile.finest)
    totals = {
        number: _total_of(path.parent, acquisition, tile, number, reading, threads, sample) for number in finest_first
    }
    with GrowingArray(path, kind) as rows:
        for first in range(0, parcels, _AT_A_TIME):
            part = slice(first, min(first + _AT_A_TIME, parcels))
            written = np.zeros(part.stop - part.start, kind)
            values = written["values"].reshape(len(written), len(reading.statistics), -1)
            for number, total in totals.items():
                bands = _bands_on(acquisition, tile.grids[number], reading)
                written["weight"][:, number] = total.weight[part]
                calibration = [reading.calibration[band] for band in bands]
                values[:, :, [reading.bands.index(band) for band in bands]] = total.statistics(calibration, part)
            rows.append(written)
    for total in totals.values():
        total.let_go()


def _bands_on(acquisition: Acquisition, grid: Grid, reading: Reading) -> list[str]:
    return [band for band in reading.bands if acquisition.layers[band].grid == grid]


def _total_of(
    folder: Path,
    acquisition: Acquisition,
    tile: TilePixels,
    number: int,
    reading: Reading,
    threads: int,
    sample: SampleValues | None,
) -> _Total:
    """What the cells of a grid add up to.

    Threads read raster by raster; here masks are looked at before, and what was read is added up after.
    """
    grid, cells, parcels = tile.grids[number], tile.cells(number), len(tile.members)
    bands = _bands_on(acquisition, grid, reading)
    jobs = [(cell, None) for cell in cells] if sample is None else sample.over(cells, grid)
    last = _last_cells([cell for cell, _ in jobs], parcels) if reading.shares else None
    total = _Total(folder / f"sums-{number}", parcels, len(bands), reading, last)
    reader = _CellReader(acquisition, grid, bands, reading, sample)
    views = (reader.look(*job) for job in jobs)
    index, values = 0, []
    for view, band, stored in in_order(reader.read, reader.wanted(views), threads):
        values += [stored] if stored is not None and view.counts else []
        if band == view.last:
            if values:
                total.add(_sum_runs(view, values, reading))
            total.settle(index)
            index, values = index + 1, []
    return total


def _last_cells(cells: Sequence[Cell], parcels: int) -> np.ndarray:
    """(P,) the last cell that holds pixels of each parcel."""
    last = np.zeros(parcels, np.int64)
    for index, cell in enumerate(cells):
        last[cell.runs["parcel"]] = index
    return last


@dataclass(frozen=True)
class _View:
    """A cell of which is known what is clear.

    Arguments:
        pixels: of its runs.
        keep: (M,) bool, the pixels that are clear; None: all.
        bands: to be read.
        counts: whether any pixel of a parcel is clear, or else only sampled pixels are wanted.
    """

    cell: Cell
    picked: Picked | None
    pixels: CellPixels
    keep: np.ndarray | None
    bands: Sequence[str]
    counts: bool

    @property
    def last(self) -> str | None:
        """The band that is read last; None where none is."""
        return self.bands[-1] if self.bands else None


class _Stored(NamedTuple):
    """Values (M,) of a band at the pixels of a cell, and which are valid; None: all."""

    values: np.ndarray
    valid: np.ndarray | None


@dataclass(frozen=True)
class _CellReader:
    """Reads the cells of a grid at one acquisition."""

    acquisition: Acquisition
    grid: Grid
    bands: Sequence[str]
    reading: Reading
    sample: SampleValues | None

    def look(self, cell: Cell, picked: Picked | None) -> _View:
        """Find out which pixels of a cell are clear, and which bands are to be read of it."""
        pixels = cell.pixels()
        clear = self.reading.mask.clear(self.acquisition, self.grid, cell.window)
        keep = None if clear is None else pixels.of(clear, cell.window)
        counts = len(pixels) > 0 and (keep is None or bool(keep.any()))
        bands = list(self.bands) if counts else []
        if picked is not None and self.sample is not None:
            self.sample.see(picked, clear, cell.window, self.grid)
            if not counts and self.sample.wanted(picked):
                bands = self.sample.bands_of(self.bands)
        return _View(cell, picked, pixels, keep, bands, counts)

    def wanted(self, views: Iterable[_View]) -> Iterator[tuple[_View, str | None]]:
        """What is to be read, raster by raster; a cell of which nothing is comes without a band."""
        for view in views:
            yield from ((view, band) for band in view.bands or [None])

    def read(self, job: tuple[_View, str | None]) -> tuple[_View, str | None, _Stored | None]:
        """Read a band in the window of a cell: its values at the pixels of the parcels."""
        view, band = job
        if band is None:
            return view, band, None
        layer, window = self.acquisition.layers[band], view.cell.window
        if view.picked is not None and self.sample is not None:
            whole = layer.read(window)
            self.sample.take(view.picked, band, layer, whole, window)
            stored = view.pixels.of(whole, window)
        else:
            stored = view.pixels.read(layer, window)
        valid = None
        for missing in {layer.nodata, self.reading.nodata}:
            here = is_valid(stored, missing)
            if not here.all():
                valid = here if valid is None else valid & here
        return view, band, _Stored(stored, valid)


def _sum_runs(view: _View, bands: Sequence[_Stored], reading: Reading) -> _Part:
    """Add up the clear pixels of each parcel of a cell."""
    cell, order, keep, values = view.cell, view.pixels.order, view.keep, [band.values for band in bands]
    for valid in (band.valid for band in bands if band.valid is not None):
        keep = valid if keep is None else keep & valid
    parcel, first = cell.parcels()
    share = cell.runs["weight"].astype(np.float64)

    def by_run(stored: np.ndarray) -> np.ndarray:
        sums = np.empty(len(order), _wide_enough(stored.dtype))
        sums[order] = np.add.reduceat(stored, view.pixels.start, dtype=sums.dtype)
        return sums

    def add(stored: np.ndarray) -> np.ndarray:
        return np.add.reduceat(by_run(stored) * share, first)

    def kept(stored: np.ndarray) -> np.ndarray:
        return stored if keep is None else np.where(keep, stored, stored.dtype.type(0))

    count = cell.runs["width"] if keep is None else by_run(keep)
    squares = np.stack([add(_square(kept(v))) for v in values]) if reading.squares else None
    pixels = None
    if reading.shares:
        chosen = slice(None) if keep is None else keep
        width = cell.runs["width"][order]
        owner = np.repeat(cell.runs["parcel"][order], width)[chosen]
        weight = np.repeat(share[order], width)[chosen]
        pixels = _Pixels(owner, weight, np.stack([v[chosen] for v in values]))
    return _Part(
        parcel, np.add.reduceat(count * share, first), np.stack([add(kept(v)) for v in values]), squares, pixels
    )


def _wide_enough(dtype: np.dtype) -> type[np.generic]:
    """A type for sums over a run, which is no longer than a panel."""
    if dtype.kind == "f":
        return np.float64
    return np.uint32 if dtype.kind in "ub" and dtype.itemsize <= _SHORT else np.int64


def _square(stored: np.ndarray) -> np.ndarray:
    wide = stored.astype(np.int64 if np.issubdtype(stored.dtype, np.integer) else np.float64)
    return wide * wide


class _Total:
    """What the cells of a grid add up to, by parcel: in a file that is mapped, so that it need not be held.

    Arguments:
        path: of the file.
        last: (P,) the last cell of each parcel; None where there are no quantiles.
    """

    def __init__(self, path: Path, parcels: int, bands: int, reading: Reading, last: np.ndarray | None) -> None:
        self._path = path
        self._reading = reading
        self._last = last
        self._open: list[_Pixels] = []
        sets = 2 if reading.squares else 1
        held = mapped(path, (parcels, 1 + bands * (sets + len(reading.shares))))
        self.weight = held[:, 0]
        self._sums = held[:, 1 : 1 + bands]
        self._squares = held[:, 1 + bands : 1 + 2 * bands] if reading.squares else None
        self._quantiles = held[:, 1 + sets * bands :].reshape(parcels, len(reading.shares), bands)

    def let_go(self) -> None:
        """Unmap and remove the file; nothing can be read afterwards."""
        del self.weight, self._sums, self._squares, self._quantiles
        remove(self._path)

    def add(self, part: _Part) -> None:
        """Add the sums of a cell; every parcel occurs once in it."""
        self.weight[part.parcel] += part.weight
        self._sums[part.parcel] += part.sums.T
        if self._squares is not None and part.squares is not None:
            self._squares[part.parcel] += part.squares.T
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
            self._quantiles[np.unique(group), :, band] = found

    def statistics(self, calibration: Sequence[tuple[float, float]], part: slice) -> np.ndarray:
        """(K, S, C) float32: every statistic of every band of some parcels in units of reflectance."""
        scale, offset = (np.array(column) for column in zip(*calibration, strict=True))
        weight = self.weight[part, None]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self._sums[part] / weight
            columns, place = [], 0
            for statistic in self._reading.statistics:
                if statistic.name == "mean":
                    columns.append(mean * scale + offset)
                elif statistic.name == "std" and self._squares is not None:
                    columns.append(np.sqrt(np.maximum(self._squares[part] / weight - mean**2, 0)) * scale)
                elif statistic.name == "count":
                    columns.append(np.where(weight > 0, weight, np.nan) + 0 * mean)
                else:
                    found = np.where(weight > 0, self._quantiles[part, place], np.nan)
                    columns.append(found * scale + offset)
                    place += 1
        return np.stack(columns, axis=1).astype(np.float32)


def mapped(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """An array of zeros, float64, in a file whose room on the disk is taken at once.

    Raises:
        OSError: there is no room.
    """
    if 0 in shape:
        return np.zeros(shape)
    rows = np.zeros((_AT_A_TIME, *shape[1:]))
    with path.open("wb") as stream:
        for first in range(0, shape[0], _AT_A_TIME):
            stream.write(rows[: shape[0] - first].data)
    return np.memmap(path, np.float64, "r+", shape=shape)
