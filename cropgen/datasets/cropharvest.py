"""CropHarvest: points all over the world with twelve 30-day composites of optical, radar, weather and terrain.

Files, relative to the folder of the data set; a folder of the same name may take the place of an archive:

    labels.geojson         see `cropharvest_labels`
    features.tar.gz        features/arrays/<index>_<dataset>.h5: array (12, 18)
    test_features.tar.gz   test_features/<country>_<crop>_<end year>_<region>_<n>.h5, togo-eval.h5: x (N, 12, 18),
                           y (N,) 1, 0 or −1 without a label, lats (N,), lons (N,)

The twelve steps end at the export date of the point (1 February for test pixels); a date is the middle of its step.
Bands are those of the publisher without NDVI's fault: the published one was computed on columns shifted by one band,
(B07 − B03) / (B07 + B03), so it is computed anew from B08 and B04. Reflectance is 0 to 1 (top of atmosphere); VV and VH
are in dB, temperature in K, precipitation in m, elevation in m, slope in degrees. The publisher filled gaps with means,
so every step counts as clear. Region is the campaign, or the test task. Points inside test regions are left out, for
their pixels are among the test pixels; test pixels without a label are not read.

Reference: CropHarvest: A global dataset for crop-type classification, G. Tseng, I. Zvonkov, C. L. Nakalembe, H. Kerner,
2021.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, ClassVar

import h5py
import numpy as np
import pandas as pd
from pydantic import Field

from cropgen.core.errors import CorruptInputError, MissingInputError, SchemaError
from cropgen.core.recipe import Section
from cropgen.datasets.cropharvest_labels import DAYS, TASKS, Grouping, Labels, Task, season
from cropgen.datasets.reader import Prepared, Request, Shard, StoreSpec, fill_store
from cropgen.series.official import rows_digest, split_path
from cropgen.series.schema import ParcelSeries
from cropgen.series.splits import Split
from cropgen.series.store import SeriesStore

STEPS = 12
BANDS = (
    "VV", "VH", "B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B09", "B11", "B12", "temperature_2m",
    "total_precipitation", "elevation", "slope", "NDVI",
)  # fmt: skip
_SCALE = np.asarray([1e-4 if name.startswith("B") else 1 for name in BANDS], np.float32)
_ROWS = 2048
_STEP_DAYS = DAYS // STEPS
_POINT = ("id", "end", "dataset", "lon", "lat")
_AGAIN = "fetch it again"


class CropHarvestOptions(Section):
    """How CropHarvest is read."""

    classes: Grouping = Field(
        "types", description="types: every crop named; groups: the ten groups of the FAO; crop: crop or not"
    )


class CropHarvestReader:
    """Reads CropHarvest in its published layout."""

    Options: ClassVar[type[Section]] = CropHarvestOptions

    def prepare(self, request: Request) -> Prepared:
        """See `cropgen.datasets.reader.Reader`."""
        labels = Labels.read(request.files / "labels.geojson", request.options.classes)
        every = set(request.selection.years) == set(request.manifest.years)
        source = _Source(request.files, labels, () if every else request.selection.years)
        spec = StoreSpec(
            bands=BANDS,
            legend=labels.legend,
            source={"level": "L1C", "reflectance": "top of atmosphere", "clear": "gaps filled by the publisher"},
        )
        return fill_store(request, spec, source.shards, lambda store: _write_splits(store, labels))


@dataclass(frozen=True)
class _Source:
    """Files and labels; years empty: all."""

    files: Path
    labels: Labels
    years: tuple[int, ...]

    def shards(self, begin: int) -> Iterator[Shard]:
        """Training points in the order of their archive, then test pixels file by file; what is skipped is not read."""
        for number, make in enumerate(self._makers()):
            if number >= begin:
                yield make()

    def _makers(self) -> Iterator[Callable[[], Shard]]:
        yield from self._points()
        yield from self._tests()

    def _points(self) -> Iterator[Callable[[], Shard]]:
        """Shards of the training points; a last one without rows says which were left out."""
        table = self.labels.table
        row = pd.Index(table["id"])
        wanted = table["year"].isin(self.years) if self.years else pd.Series(True, index=table.index)
        absent = set(table["id"][wanted & ~table["test"]])
        strange: list[str] = []
        waiting: list[tuple[int, bytes]] = []
        for name, content in _entries(self.files, "features"):
            stem = PurePosixPath(name).stem
            if "arrays" not in PurePosixPath(name).parts:
                continue
            if stem not in row:
                strange.append(stem)
            elif stem in absent:
                absent.discard(stem)
                with _read_errors(name):
                    waiting.append((int(row.get_loc(stem)), content.read()))  # pyright: ignore[reportArgumentType]
            if len(waiting) == _ROWS:
                yield partial(self._training, waiting)
                waiting = []
        if waiting:
            yield partial(self._training, waiting)
        tests = table["id"][wanted & table["test"]].tolist()
        reasons = {
            "array without a label": strange,
            "label without an array": sorted(absent),
            "in a test region": tests,
        }
        yield partial(self._left_out, {reason: ids for reason, ids in reasons.items() if ids})

    def _left_out(self, dropped: dict[str, list[str]]) -> Shard:
        empty = self.labels.table.iloc[:0]
        rows = _Rows(np.zeros((0, STEPS, len(BANDS)), np.float32), *(empty[c].to_numpy() for c in _POINT))
        return Shard(rows.series(np.zeros(0, np.int32)), None, dropped)

    def _training(self, waiting: list[tuple[int, bytes]]) -> Shard:
        where = np.asarray([position for position, _ in waiting])
        points = self.labels.table.iloc[where]
        arrays = [_array(content, points["id"].iloc[i]) for i, (_, content) in enumerate(waiting)]
        label = self.labels.legend.encode(self.labels.codes[where].tolist())
        return Shard(_Rows(np.stack(arrays), *(points[c].to_numpy() for c in _POINT)).series(label))

    def _tests(self) -> Iterator[Callable[[], Shard]]:
        """Shards of the labelled test pixels of every task."""
        for name, content in _entries(self.files, "test_features"):
            stem = PurePosixPath(name).stem
            task = next((t for t in TASKS.values() if stem.startswith(t.tests)), None)
            if task is None or not name.endswith(".h5"):
                continue
            end = self._end(stem, task)
            if self.years and int(season(end)) not in self.years:
                continue
            with _spooled(content, name) as file, _opened(file, name) as arrays:
                y = _read(arrays, "y", name)
                for first in range(0, len(y), _ROWS):
                    found = first + np.flatnonzero(y[first : first + _ROWS] >= 0)
                    if len(found):
                        yield partial(self._pixels, arrays, stem, task, end, found)

    def _pixels(self, arrays: h5py.File, stem: str, task: Task, end: np.datetime64, found: np.ndarray) -> Shard:
        first, stop = int(found[0]), int(found[-1]) + 1
        rows = slice(first, stop)
        x, y, lats, lons = (_read(arrays, k, stem, rows)[found - first] for k in ("x", "y", "lats", "lons"))
        _check_shape(x.shape[1:], stem)
        label = self.labels.legend.encode([self.labels.test_codes(task)[int(value > 0)] for value in y])
        ids = np.asarray([f"{stem}/{i}" for i in found])
        day = np.full(len(found), end.astype(np.int64))
        return Shard(_Rows(x, ids, day, np.full(len(found), task.tests), lons, lats).series(label))

    def _end(self, stem: str, task: Task) -> np.datetime64:
        """The last day of the series of a file of test pixels.

        Raises:
            SchemaError: the points that tell it are not among the labels.
        """
        if task.target is not None:
            return np.datetime64(f"{stem.split('_')[2]}-02-01")
        table = self.labels.table
        ends = table["end"].to_numpy(np.int64)[(table["dataset"] == task.tests).to_numpy()]
        if not len(ends):
            raise SchemaError(f"labels.geojson has no point of {task.tests}", hint=_AGAIN)
        return np.datetime64(int(np.median(ends)), "D")


@dataclass(frozen=True)
class _Rows:
    """Points that become a shard: values (N, 12, 18) as stored, id, end (days since 1970-01-01), region, lon, lat."""

    values: np.ndarray
    id: np.ndarray
    end: np.ndarray
    region: np.ndarray
    lon: np.ndarray
    lat: np.ndarray

    def series(self, label: np.ndarray) -> ParcelSeries:
        day = self.end.astype(np.int64)[:, None] - DAYS + _STEP_DAYS * np.arange(STEPS) + _STEP_DAYS // 2
        return ParcelSeries.build(
            bands=BANDS, values=_corrected(self.values), mask=np.ones(day.shape, bool), day=day,
            parcel_id=self.id.astype(np.str_), year=season(self.end), region=self.region.astype(np.str_), label=label,
            lon=self.lon, lat=self.lat,
        )  # fmt: skip


def _corrected(stored: np.ndarray) -> np.ndarray:
    """Reflectance as 0 to 1, and NDVI of the bands it is defined by; 0 where both are 0."""
    values = stored.astype(np.float32) * _SCALE
    near, red = (values[..., BANDS.index(name)] for name in ("B08", "B04"))
    total = near + red
    values[..., BANDS.index("NDVI")] = np.divide(near - red, total, out=np.zeros_like(total), where=total > 0)
    return values


def _entries(files: Path, name: str) -> Iterator[tuple[str, IO[bytes]]]:
    """The h5 files of an archive in its order, or of a folder sorted by path; each must be read before the next.

    Raises:
        MissingInputError: neither is there.
        CorruptInputError: the archive is broken.
    """
    folder, archive = files / name, files / f"{name}.tar.gz"
    if folder.is_dir():
        for path in sorted(folder.rglob("*.h5")):
            with path.open("rb") as file:
                yield f"{name}/{path.relative_to(folder).as_posix()}", file
        return
    if not archive.is_file():
        raise MissingInputError(f"archive not found: {archive}", hint=_AGAIN)
    with _read_errors(archive), tarfile.open(archive, "r|gz") as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() and member.name.endswith(".h5") else None
            if content is not None:
                yield member.name, content


@contextlib.contextmanager
def _read_errors(where: Path | str) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise CorruptInputError(f"{where} cannot be read: {error}", hint=_AGAIN) from error


@contextlib.contextmanager
def _spooled(content: IO[bytes], name: str) -> Iterator[IO[bytes]]:
    """A file that can be read at any place, on disk: test files hold up to a gigabyte."""
    with tempfile.TemporaryFile() as file:
        with _read_errors(name):
            shutil.copyfileobj(content, file, 1 << 20)
        file.seek(0)
        yield file


@contextlib.contextmanager
def _opened(file: IO[bytes], name: str) -> Iterator[h5py.File]:
    try:
        arrays = h5py.File(file, "r")
    except OSError as error:
        raise CorruptInputError(f"{name} is no whole HDF5 file: {error}", hint=_AGAIN) from error
    with arrays:
        yield arrays


def _read(arrays: h5py.File, key: str, name: str, rows: slice = slice(None)) -> np.ndarray:
    """Some rows of an array of an h5 file.

    Raises:
        SchemaError, CorruptInputError: there is no such array, or it cannot be read.
    """
    stored: Any = arrays.get(key)
    if not isinstance(stored, h5py.Dataset):
        raise SchemaError(f"{name}: no array {key}; it has {', '.join(arrays)}", hint=_AGAIN)
    try:
        return np.asarray(stored[rows])
    except OSError as error:
        raise CorruptInputError(f"{name}: array {key} cannot be read: {error}", hint=_AGAIN) from error


def _array(content: bytes, name: str) -> np.ndarray:
    """The array (12, 18) of a training point."""
    with _opened(io.BytesIO(content), name) as arrays:
        array = _read(arrays, "array", name)
    _check_shape(array.shape, name)
    return array


def _check_shape(shape: tuple[int, ...], name: str) -> None:
    if shape != (STEPS, len(BANDS)):
        raise SchemaError(f"{name}: expected {STEPS} steps of {len(BANDS)} values, got {shape}", hint=_AGAIN)


def _write_splits(store: SeriesStore, labels: Labels) -> None:
    """For each task the rows it learns from and is tested on."""
    place = pd.Index(store.column("parcel_id"))
    region, digest = store.column("region"), rows_digest(store)
    for name, task in TASKS.items():
        found = place.get_indexer(pd.Index(labels.learnt(task)))
        facts = {"kind": "published", "task": name, "box": list(task.box), "rows_digest": digest}
        split = Split(np.unique(found[found >= 0]), np.flatnonzero(region == task.tests), facts)
        split.save(split_path(store.path, name))
