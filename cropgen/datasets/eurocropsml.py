"""EuroCropsML: parcel medians of Sentinel-2 L1C through 2021 in Estonia, Latvia and Portugal, for few-shot learning.

Files, relative to the folder of the data set:

    preprocess.zip   …/<NUTS3>_<parcel>_<HCAT code>.npz: data (T, 13), dates (T,) datetime64, center (2,) lon, lat
    split.zip        …/<case>/pretrain/region_split.json           train, val: lists of file names
                     …/<case>/finetune/region_split_<shots>.json   train, val, test

Reflectance is stored times 10,000; −999 in every band is an empty date. Clouds were taken out by the publisher, so
every date that is there is clear. The rows are sorted by file name; a parcel's id is the name without the code, its
region the country.

The published splits become `splits/<name>.json`: the parcels of the pretraining lists and the shots of the target are
learnt from, the published validation and test lists stay what they are. `ee-<shots>` learns from the shots alone.

Reference: EuroCropsML: A Time Series Benchmark Dataset For Few-Shot Crop Type Classification, J. Reuss, J. Macdonald,
S. Becker, L. Richter, M. Körner, 2024.
"""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import pandas as pd

from cropgen.core.errors import CorruptInputError, DataError, MissingInputError, SchemaError
from cropgen.core.progress import Reporter
from cropgen.core.recipe import Section
from cropgen.datasets.members import FolderMembers, Members, ZipMembers
from cropgen.datasets.reader import NoOptions, Prepared, Request, Shard, StoreSpec, fill_store
from cropgen.series.bands import SENTINEL2
from cropgen.series.hcat import hcat_of, with_hcat
from cropgen.series.legend import Legend
from cropgen.series.official import rows_digest, split_path
from cropgen.series.schema import ParcelSeries
from cropgen.series.splits import Split
from cropgen.series.store import SeriesStore

BANDS = tuple(SENTINEL2)
CASES = {"lv-ee": "latvia_vs_estonia", "lv-pt-ee": "latvia_portugal_vs_estonia"}
"""Short name of a case → its folder in split.zip."""
_NAME = re.compile(r"(?P<id>(?P<country>[A-Z]{2})[0-9A-Z]*_[^_/]+)_(?P<code>\d{10})\.npz")
_SHOTS = re.compile(r"finetune/region_split_(?P<shots>\w+)\.json$")
_REFLECTANCE = np.float32(1e-4)
_EMPTY = -999
_ROWS = 2048
_AGAIN = "fetch it again"


class EuroCropsMLReader:
    """Reads EuroCropsML in its published layout."""

    Options: ClassVar[type[Section]] = NoOptions

    def prepare(self, request: Request) -> Prepared:
        """See `cropgen.datasets.reader.Reader`."""
        with _members(request.files, "preprocess", "*.npz") as members:
            source = _Source.of(members, request.selection.regions)
            legend = with_hcat(Legend.from_codes("eurocropsml-hcat", source.codes))
            if strange := [c.code for c in legend.classes if hcat_of(c) is None]:
                request.report.warn(f"{len(strange)} codes are not in HCAT: {', '.join(strange[:6])}")
            spec = StoreSpec(
                bands=BANDS,
                legend=legend,
                source={"level": "L1C", "reflectance": "top of atmosphere", "clear": "clouds removed by the publisher"},
                rows=len(source.ids),
            )
            return fill_store(
                request,
                spec,
                lambda begin: source.shards(legend, begin),
                lambda store: _write_splits(request.files, store, request.report),
            )


@dataclass(frozen=True)
class _Source:
    """The parcels of a selection, sorted by file name: positions among the members, ids, codes, countries."""

    members: Members
    position: np.ndarray
    ids: np.ndarray
    codes: np.ndarray
    countries: np.ndarray

    @classmethod
    def of(cls, members: Members, countries: tuple[str, ...]) -> _Source:
        """The parcels of some countries.

        Raises:
            DataError: there is none.
        """
        found: list[tuple[str, str, str, int]] = []
        for position, path in enumerate(members.names):
            match = _NAME.fullmatch(PurePosixPath(path).name)
            if match is not None and match["country"] in countries and "S1" not in PurePosixPath(path).parts:
                found.append((match["id"], match["code"], match["country"], position))
        if not found:
            raise DataError(
                f"no parcel of {', '.join(countries)} in the archive; its files are named <NUTS3>_<parcel>_<code>.npz",
                hint="choose other regions, or fetch it again",
            )
        found.sort()
        ids, codes, nations, positions = zip(*found, strict=True)
        return cls(members, np.asarray(positions), np.asarray(ids), np.asarray(codes), np.asarray(nations))

    def shards(self, legend: Legend, begin: int) -> Iterator[Shard]:
        label = legend.encode(self.codes.tolist())
        for first in range(begin * _ROWS, len(self.ids), _ROWS):
            rows = slice(first, first + _ROWS)
            parcels = [_parcel(self.members, int(p)) for p in self.position[rows]]
            seen = np.asarray([len(p.day) > 0 for p in parcels], bool)
            keep = np.flatnonzero(seen) + first
            lost = {"no observation": self.ids[rows][~seen].tolist()} if not seen.all() else {}
            values, mask, day = _padded([p for p in parcels if len(p.day)])
            lonlat = np.asarray([p.center for p in parcels if len(p.day)], np.float64).reshape(-1, 2)
            series = ParcelSeries.build(
                bands=BANDS, values=values, mask=mask, day=day, parcel_id=self.ids[keep], year=2021,
                region=self.countries[keep], label=label[keep], lon=lonlat[:, 0], lat=lonlat[:, 1],
            )  # fmt: skip
            yield Shard(series, None, lost)


@dataclass(frozen=True)
class _Parcel:
    """Reflectance (T, 13) float32, day (T,) int32 ascending, lon and lat (2,)."""

    values: np.ndarray
    day: np.ndarray
    center: np.ndarray


def _parcel(members: Members, position: int) -> _Parcel:
    """One npz file.

    Raises:
        CorruptInputError: it is no whole npz file.
        SchemaError: it has not three arrays of the published shapes.
    """
    name = members.names[position]
    try:
        with np.load(io.BytesIO(members.read(position)), allow_pickle=False) as arrays:
            content = {key: arrays[key] for key in arrays.files}
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CorruptInputError(f"{name} is no whole npz file: {error}", hint=_AGAIN) from error
    shapes = {key: array.shape for key, array in content.items()}
    dates = shapes.get("dates", ())
    if shapes != {"data": (*dates, len(BANDS)), "dates": dates, "center": (2,)} or len(dates) != 1:
        raise SchemaError(
            f"{name}: expected data (T, {len(BANDS)}), dates (T,) and center (2,), got {shapes}", hint=_AGAIN
        )
    day = content["dates"].astype("datetime64[D]").astype(np.int64)
    there = np.flatnonzero(~(content["data"] == _EMPTY).all(-1))
    order = there[np.argsort(day[there], kind="stable")]
    return _Parcel(content["data"][order].astype(np.float32) * _REFLECTANCE, day[order], content["center"])


def _padded(parcels: list[_Parcel]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values (N, T, 13), mask (N, T) and day (N, T); padding at the end repeats the last day."""
    dates = max((len(p.day) for p in parcels), default=0)
    values = np.zeros((len(parcels), dates, len(BANDS)), np.float32)
    mask = np.zeros((len(parcels), dates), bool)
    day = np.zeros((len(parcels), dates), np.int32)
    for row, parcel in enumerate(parcels):
        count = len(parcel.day)
        values[row, :count], mask[row, :count], day[row, :count] = parcel.values, True, parcel.day
        day[row, count:] = parcel.day[-1]
    return values, mask, day


def _members(files: Path, name: str, pattern: str) -> Members:
    """The archive as it is published, or a folder of the same name where it was unpacked by hand."""
    return FolderMembers(files / name, pattern) if (files / name).is_dir() else ZipMembers(files / f"{name}.zip")


def _write_splits(files: Path, store: SeriesStore, report: Reporter) -> None:
    """The published splits beside a store, as positions in it."""
    place = pd.Index(store.column("parcel_id"))
    digest = rows_digest(store)
    absent = 0

    def rows(names: list[str]) -> np.ndarray:
        nonlocal absent
        found = place.get_indexer(pd.Index([name.rpartition("_")[0] for name in names]))
        absent += int((found < 0).sum())
        return np.unique(found[found >= 0])

    with _members(files, "split", "*.json") as members:
        lists = _Lists(members)
        for case, folder in CASES.items():
            source = rows(lists.read(folder, "pretrain/region_split.json", ("train", "val")))
            for shots, path in lists.shots(folder):
                train, validation, test = (rows(lists.read(folder, path, (side,))) for side in ("train", "val", "test"))
                facts = {"kind": "published", "case": folder, "shots": shots, "rows_digest": digest}
                learnt = {f"{case}-{shots}": np.union1d(source, train)}
                if case == "lv-ee":
                    learnt[f"ee-{shots}"] = train
                for name, known in learnt.items():
                    Split(known, test, facts, validation).save(split_path(store.path, name))
    if absent:
        report.warn(f"{absent:,} entries of the published splits are parcels that were not prepared")


class _Lists:
    """The lists of split.zip."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._position = {name: i for i, name in enumerate(members.names)}

    def shots(self, folder: str) -> list[tuple[str, str]]:
        """Shots of a case, sorted, and the files that list them."""
        found = [m for name in self._position if f"/{folder}/" in f"/{name}" and (m := _SHOTS.search(name))]
        return sorted((m["shots"], m[0]) for m in found)

    def read(self, folder: str, path: str, sides: tuple[str, ...]) -> list[str]:
        """The file names of some sides.

        Raises:
            MissingInputError, CorruptInputError, SchemaError: the list is not there, no JSON, or lacks a side.
        """
        name = next((n for n in self._position if f"/{n}".endswith(f"/{folder}/{path}")), None)
        if name is None:
            raise MissingInputError(f"split.zip has no {folder}/{path}", hint=_AGAIN)
        try:
            document: Any = json.loads(self._members.read(self._position[name]))
        except ValueError as error:
            raise CorruptInputError(f"{name} is not JSON: {error}", hint=_AGAIN) from error
        if not isinstance(document, dict) or not set(sides) <= set(document):
            raise SchemaError(f"{name}: expected lists {', '.join(sides)}", hint=_AGAIN)
        return [file for side in sides for file in document[side]]
