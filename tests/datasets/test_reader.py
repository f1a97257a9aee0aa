"""A store filled shard by shard is the same whether or not its making was interrupted, wherever that was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cropgen.core.errors import DataError, UsageError
from cropgen.core.progress import Silent
from cropgen.core.recipe import validate
from cropgen.core.tally import Tally
from cropgen.datasets.catalog import find_dataset
from cropgen.datasets.layout import PREPARING
from cropgen.datasets.manifest import Selection
from cropgen.datasets.reader import (
    READERS,
    Ledger,
    NoOptions,
    Request,
    Shard,
    StoreSpec,
    fill_store,
    reader_of,
)
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore

SPEC = StoreSpec(("B04", "B08"), Legend.from_codes("toy", ["maize", "wheat"]), source={"note": "made up"}, rows=30)
SIZES = (4, 1, 0, 7, 3)


class Killed(Exception):
    """The process ends here."""


def request(folder: Path, mark: str = "f1") -> Request:
    manifest = find_dataset("breizhcrops")
    selection = Selection(("frh04",), (2017,), "L1C")
    return Request(manifest, selection, validate(NoOptions, {}, where="test"), folder, folder, mark, Silent())


def shard(number: int) -> Shard:
    """Rows that are all different; each shard drops as many parcels as its number."""
    draw, rows = np.random.default_rng(number), SIZES[number]
    series = ParcelSeries(
        values=draw.random((rows, 5, 2), np.float32),
        mask=np.ones((rows, 5), bool),
        day=np.tile(np.arange(5, dtype=np.int32), (rows, 1)),
        bands=SPEC.bands,
        parcel_id=np.array([f"{number}-{i}" for i in range(rows)], np.str_),
        year=np.full(rows, 2017, np.int32),
        region=np.array(["frh04"] * rows, np.str_),
        label=np.arange(rows, dtype=np.int32) % 2,
        lon=np.zeros(rows),
        lat=np.zeros(rows),
    )
    return Shard(series, dropped={"no date": [f"d{number}-{i}" for i in range(number)]} if number else {})


def shards(begin: int) -> Iterator[Shard]:
    yield from (shard(number) for number in range(begin, len(SIZES)))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SeriesStore:
    folder = tmp_path_factory.mktemp("whole")
    done = fill_store(request(folder), SPEC, shards)
    assert done.series == folder / "series.zarr"
    return SeriesStore.open(folder / "series.zarr")


def test_everything_is_in_the_store(whole: SeriesStore) -> None:
    assert len(whole) == sum(SIZES)
    expected = np.concatenate([shard(n).series.values for n in range(len(SIZES))])
    np.testing.assert_array_equal(whole.read().values, expected)
    assert whole.source["dataset"] == "breizhcrops"
    assert whole.source["selection"] == {"regions": ["frh04"], "years": [2017], "level": "L1C"}
    assert [p["name"] for p in whole.source["protocols"]] == [f"breizhcrops-fold{k}" for k in (1, 2, 3, 4)]
    assert whole.source["note"] == "made up"


@pytest.mark.parametrize("fatal", range(2 * len(SIZES) + 1))
def test_killed_anywhere_and_started_again(
    tmp_path: Path, whole: SeriesStore, fatal: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`fatal` counts both ends of every append: killed before it, and behind it but before it is known."""
    append, count = SeriesStore.append, iter(range(100))

    def dies(store: SeriesStore, *content: object) -> None:
        if next(count) == fatal:
            raise Killed
        append(store, *content)  # type: ignore[arg-type]
        if next(count) == fatal:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(SeriesStore, "append", dies)
        if fatal < 2 * len(SIZES):
            with pytest.raises(Killed):
                fill_store(request(tmp_path), SPEC, shards)
            assert not (tmp_path / "series.zarr").exists()
    begun: list[int] = []

    def noted(begin: int) -> Iterator[Shard]:
        begun.append(begin)
        return shards(begin)

    done = fill_store(request(tmp_path), SPEC, noted)
    store = SeriesStore.open(tmp_path / "series.zarr")
    assert store.fingerprint() == whole.fingerprint()
    assert done.rows == len(whole)
    assert done.dropped == {"no date": Tally(10, ["d1-0", "d2-0", "d2-1", "d3-0", "d3-1"])}
    assert begun == [0] if fatal == 2 * len(SIZES) else begun[0] <= (fatal + 1) // 2
    assert fatal < 2 or begun[0] > 0 or fatal == 2 * len(SIZES)
    assert not (tmp_path / PREPARING).exists()


def test_another_request_starts_from_the_beginning(tmp_path: Path) -> None:
    def broken(begin: int) -> Iterator[Shard]:
        yield shard(0)
        raise Killed

    with pytest.raises(Killed):
        fill_store(request(tmp_path, "f1"), SPEC, broken)
    assert fill_store(request(tmp_path, "f2"), SPEC, shards).rows == sum(SIZES)


def test_a_store_without_rows_replaces_nothing(tmp_path: Path) -> None:
    fill_store(request(tmp_path, "f1"), SPEC, shards)
    left_out = Shard(shard(2).series, dropped={"no date": ["a", "b"]})
    for _ in range(2):
        with pytest.raises(DataError, match=r"no series of frh04 in 2017; left out: no date: 2"):
            fill_store(request(tmp_path, "f2"), SPEC, lambda begin: iter([left_out][begin:]))
    assert len(SeriesStore.open(tmp_path / "series.zarr")) == sum(SIZES)
    assert not (tmp_path / PREPARING).exists()


def test_finish_may_leave_files_beside_the_store(tmp_path: Path) -> None:
    def finish(store: SeriesStore) -> None:
        (store.path.parent / "splits").mkdir(exist_ok=True)
        (store.path.parent / "splits" / "official.json").write_text(str(len(store)))

    fill_store(request(tmp_path), SPEC, shards, finish)
    assert (tmp_path / "splits" / "official.json").read_text() == str(sum(SIZES))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["prepared.json", "series.zarr", "splits"]


def test_a_ledger_is_on_disk_at_once_and_of_one_request(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "work", "f1")
    assert "EE" not in ledger
    ledger["EE"] = {"rows": 3}
    assert Ledger(tmp_path / "work", "f1")["EE"] == {"rows": 3}
    (tmp_path / "work" / "half.gpkg").write_text("x")
    assert "EE" not in Ledger(tmp_path / "work", "f2")
    assert not (tmp_path / "work" / "half.gpkg").exists()
    (tmp_path / "work" / "ledger.json").write_text('{"fingerp')
    assert "EE" not in Ledger(tmp_path / "work", "f2")


def test_every_downloaded_data_set_has_a_reader() -> None:
    for name in READERS:
        assert find_dataset(name).kind in ("download", "brought")
    with pytest.raises(UsageError, match="no reader for data set 'demo'"):
        reader_of("demo")
