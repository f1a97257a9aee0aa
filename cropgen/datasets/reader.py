"""From the files of a data set to the container: what every reader does, and the part they share.

A reader knows one published layout. It turns files into shards of parcels, in an order that files and selection alone
decide; `fill_store` appends them and survives being killed: before a shard is appended the ledger says how many rows
the store will have, so the next start knows from the store whether that shard is in.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from cropgen.core.errors import DataError, UsageError
from cropgen.core.files import remove, write_text
from cropgen.core.progress import Reporter
from cropgen.core.recipe import Section
from cropgen.core.tally import Tally
from cropgen.datasets.layout import PREPARED, PREPARING, SERIES
from cropgen.datasets.manifest import DatasetManifest, Selection
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries

if TYPE_CHECKING:
    import geopandas

    from cropgen.series.store import SeriesStore

READERS = {
    "breizhcrops": "cropgen.datasets.breizhcrops:BreizhCropsReader",
    "cropharvest": "cropgen.datasets.cropharvest:CropHarvestReader",
    "denethor": "cropgen.datasets.denethor:DenethorReader",
    "eurocrops": "cropgen.datasets.eurocrops:EuroCropsReader",
    "eurocropsml": "cropgen.datasets.eurocropsml:EuroCropsMLReader",
    "timesen2crop": "cropgen.datasets.timesen2crop:TimeSen2CropReader",
}
UNPACKED = frozenset({"cropharvest", "eurocropsml", "timesen2crop"})  # take folders for archives
_LEDGER = "ledger.json"
_REPLACED = "replaced"
_EXAMPLES = 5


@dataclass(frozen=True)
class Request:
    """What a reader is asked for.

    Arguments:
        manifest: of the data set.
        selection: regions, years and level wanted; every one is named, none is empty where the data set has them.
        options: the reader's own, checked against its `Options`.
        files: folder with the files under the `path` of the manifest, archives with `unpack` already unpacked there;
            for a data set that the user brings, the folder brought. Read only.
        folder: where the result goes: `series.zarr`, or parcel layers.
        fingerprint: of manifest, selection, options and digests; another one means that earlier work is of no use.
        report: progress and messages.
    """

    manifest: DatasetManifest
    selection: Selection
    options: Any
    files: Path
    folder: Path
    fingerprint: str
    report: Reporter

    @property
    def series(self) -> Path:
        return self.folder / SERIES

    def source(self) -> dict[str, Any]:
        """What the store says of its origin."""
        m = self.manifest
        return {
            "dataset": m.name, "title": m.title, "licence": m.licence, "citation": m.citation,
            "selection": self.selection.to_json(), "options": self.options.model_dump(mode="json"),
            "fingerprint": self.fingerprint, "protocols": [p.to_json() for p in m.protocols],
        }  # fmt: skip


@dataclass(frozen=True)
class Shard:
    """Some parcels of one preparation, a few thousand at most.

    Arguments:
        series: N rows; labels are positions in the legend of the `StoreSpec`.
        geometry: N geometries with a coordinate system, or None.
        dropped: reason → ids of parcels left out since the previous shard.
    """

    series: ParcelSeries
    geometry: geopandas.GeoSeries | None = None
    dropped: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class StoreSpec:
    """What is settled before the first shard.

    Arguments:
        bands: names of the C bands.
        legend: what labels are positions of.
        crs: coordinate system of the geometry; None takes that of the first shard.
        source: facts beside those of `Request.source`.
        rows: parcels expected, for the progress bar; None where unknown.
    """

    bands: tuple[str, ...]
    legend: Legend
    crs: str | None = None
    source: Mapping[str, Any] = field(default_factory=dict)
    rows: int | None = None


@dataclass(frozen=True)
class Prepared:
    """What a reader made.

    Arguments:
        series: the store, or None where the data set has parcels only.
        parcels: parcel layers, ready for `cropgen aggregate`.
        rows: parcels in all.
        dropped: by reason, with the first few ids.
    """

    series: Path | None
    parcels: tuple[Path, ...]
    rows: int
    dropped: Mapping[str, Tally[str]] = field(default_factory=dict)


class NoOptions(Section):
    """A reader without options."""


class Reader(Protocol):
    """One data set's layout."""

    Options: ClassVar[type[Section]]

    def prepare(self, request: Request) -> Prepared:
        """Read the files of a request into `request.series`, or into parcel layers in `request.folder`.

        An earlier record, `prepared.json`, stays as long as what it tells of is there as it was; the new one is
        written here, too (see `record`).

        Raises:
            DataError: a file is missing, corrupt, or not of the published layout.
        """
        ...


def reader_of(name: str) -> Reader:
    """The reader of a data set, imported only now.

    Raises:
        UsageError: none is known.
    """
    if name not in READERS:
        raise UsageError(f"no reader for data set {name!r}", hint=f"readers: {', '.join(sorted(READERS))}")
    module, _, cls = READERS[name].partition(":")
    return getattr(importlib.import_module(module), cls)()


class Ledger:
    """What of a preparation is done, kept beside the unfinished result.

    Arguments:
        folder: where it and the unfinished result are; emptied when they are of another fingerprint.
        fingerprint: of the request.
    """

    def __init__(self, folder: Path, fingerprint: str) -> None:
        self._path = folder / _LEDGER
        document: dict[str, Any] = {}
        if self._path.is_file():
            try:
                document = json.loads(self._path.read_text(encoding="utf-8"))
            except json.JSONDecodeError:
                document = {}
        if document.get("fingerprint") != fingerprint:
            remove(folder)
            document = {"fingerprint": fingerprint, "done": {}}
        folder.mkdir(parents=True, exist_ok=True)
        self._document = document

    def __getitem__(self, key: str) -> Any:
        return self._document["done"][key]

    def __contains__(self, key: str) -> bool:
        return key in self._document["done"]

    def __setitem__(self, key: str, facts: Any) -> None:
        """Record JSON-able facts, on disk when this returns."""
        self._document["done"][key] = facts
        write_text(self._path, json.dumps(self._document) + "\n")


def fill_store(
    request: Request,
    spec: StoreSpec,
    shards: Callable[[int], Iterator[Shard]],
    finish: Callable[[SeriesStore], None] | None = None,
) -> Prepared:
    """Append shards to the store of a request; killed and started again, it goes on behind the last whole shard.

    The store and its record replace what was there when all is made.

    Arguments:
        shards: given a number `begin`, yields shard `begin`, `begin + 1`, …; the same ones at every start.
        finish: called with the complete store before it is moved into place, for example to write splits beside it.

    Raises:
        DataError: no shard has a row; nothing is replaced.
    """
    from cropgen.series.store import SeriesStore

    folder = request.folder / PREPARING
    ledger = Ledger(folder, request.fingerprint)
    progress = _Progress.resume(ledger, folder / SERIES)
    if progress is None:
        remove(folder)
        ledger = Ledger(folder, request.fingerprint)
        SeriesStore.create(
            folder / SERIES, bands=spec.bands, legend=spec.legend, crs=spec.crs,
            source={**request.source(), **spec.source},
        )  # fmt: skip
        progress = _Progress()
    elif progress.rows:
        request.report.info(f"going on behind {progress.rows:,} parcels prepared earlier")
    store = SeriesStore.open(folder / SERIES)
    with request.report.task(f"preparing {request.manifest.name}", spec.rows) as task:
        task.advance(progress.rows)
        for shard in shards(progress.shards):
            behind = progress.after(shard)
            ledger["store"] = [progress.to_json(), behind.to_json()]
            store.append(shard.series, shard.geometry)
            progress = behind
            task.advance(len(shard.series))
    ledger["store"] = [progress.to_json()]
    if not progress.rows:
        remove(folder)
        raise _nothing(request, progress.dropped)
    if finish is not None:
        finish(store)
    done = Prepared(request.series, (), progress.rows, progress.dropped)
    record(request, done, folder)
    _move_into_place(folder, request)
    return done


def _nothing(request: Request, dropped: Mapping[str, Tally[str]]) -> DataError:
    chosen = request.selection
    reasons = "; ".join(f"{reason}: {d.count:,}" for reason, d in dropped.items())
    return DataError(
        f"{request.files}: no series of {', '.join(chosen.regions)} in {', '.join(map(str, chosen.years))}"
        + (f"; left out: {reasons}" if reasons else ""),
        hint="choose other regions or years",
    )


def record(request: Request, done: Prepared, folder: Path) -> None:
    """Write into a folder from what was prepared: selection, options, fingerprint, and what came out."""
    written = {
        "selection": request.selection.to_json(), "options": request.options.model_dump(mode="json"),
        "fingerprint": request.fingerprint, "rows": done.rows,
        "dropped": {reason: asdict(dropped) for reason, dropped in done.dropped.items()},
        "series": done.series.relative_to(request.folder).as_posix() if done.series else None,
        "parcels": [path.relative_to(request.folder).as_posix() for path in done.parcels],
    }  # fmt: skip
    write_text(folder / PREPARED, json.dumps(written, indent=1) + "\n")


def _move_into_place(folder: Path, request: Request) -> None:
    """Everything made moves to the data set's folder, its record and then the store last.

    A store in place is thus a finished one, and the one that the record beside it tells of: an earlier one leaves
    before anything else is replaced.
    """
    earlier = folder / _REPLACED
    remove(earlier)
    if request.series.exists():
        request.series.replace(earlier)
        remove(earlier)
    order = {PREPARED: 1, SERIES: 2}
    made = [path for path in folder.iterdir() if path.name != _LEDGER]
    for path in sorted(made, key=lambda p: order.get(p.name, 0)):
        target = request.folder / path.name
        if target.is_dir():
            remove(target)
        path.replace(target)
    remove(folder)


def with_further(before: Tally[str] | None, count: int, ids: Sequence[str]) -> Tally[str]:
    """Parcels left out for one reason and `count` further ones; a few ids are kept, written after every shard."""
    known = before or Tally[str]()
    return Tally(known.count + count, [*known.first, *ids][:_EXAMPLES])


@dataclass(frozen=True)
class _Progress:
    shards: int = 0
    rows: int = 0
    dropped: Mapping[str, Tally[str]] = field(default_factory=dict)

    @classmethod
    def resume(cls, ledger: Ledger, store: Path) -> _Progress | None:
        """Where an earlier start got to, before or behind its last shard; None when nothing of it can be used."""
        from cropgen.series.store import SeriesStore

        if "store" not in ledger or not (store / "zarr.json").is_file():
            return None
        rows = len(SeriesStore.open(store))
        return next((cls.from_json(entry) for entry in ledger["store"] if entry["rows"] == rows), None)

    def after(self, shard: Shard) -> _Progress:
        dropped = dict(self.dropped)
        for reason, ids in shard.dropped.items():
            dropped[reason] = with_further(dropped.get(reason), len(ids), ids)
        return _Progress(self.shards + 1, self.rows + len(shard.series), dropped)

    def to_json(self) -> dict[str, Any]:
        dropped = {reason: [d.count, d.first] for reason, d in self.dropped.items()}
        return {"shards": self.shards, "rows": self.rows, "dropped": dropped}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> _Progress:
        dropped = {reason: Tally(count, first) for reason, (count, first) in entry["dropped"].items()}
        return cls(entry["shards"], entry["rows"], dropped)
