"""The store gives back what was appended, whatever the shards, and never passes damage off as cloud."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from pathlib import Path

import geopandas as gpd
import numpy as np
import pytest
import shapely
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.core.errors import (
    CorruptInputError,
    MissingInputError,
    OutputExistsError,
    SchemaError,
    UsageError,
)
from cropgen.series.layout import sorted_rows
from cropgen.series.legend import Legend
from cropgen.series.schema import ParcelSeries, concatenate
from cropgen.series.store import GEOMETRY, SeriesStore

BANDS = ("B04", "B08")
LEGEND = Legend.from_codes("test", ["001", "wheat", "ß-ö"])


def rows(
    n: int, t: int, first: int = 0, *, seed: int = 0, band_mask: bool = False, pixels: bool = False
) -> ParcelSeries:
    draw = np.random.default_rng([seed, n, t, first])
    return ParcelSeries.build(
        bands=BANDS,
        values=draw.random((n, t, 2)),
        mask=draw.random((n, t)) > 0.4,
        day=18_000 + np.sort(draw.integers(0, 300, (n, t)), axis=1),
        parcel_id=np.array([f"é{first + i}" for i in range(n)], dtype=np.str_),
        year=draw.integers(2015, 2024, n),
        region=np.array(["", "nord", "süd"])[draw.integers(0, 3, n)],
        label=draw.integers(-1, 3, n),
        lon=draw.random(n),
        lat=np.where(draw.random(n) > 0.5, np.nan, 1.0),
        band_mask=draw.random((n, t, 2)) > 0.2 if band_mask else None,
        pixels=draw.integers(0, 99, (n, t)) if pixels else None,
    )


def squares(n: int, first: int = 0, crs: str | None = "EPSG:32631") -> gpd.GeoSeries:
    left = 10.0 * (first + np.arange(n))
    return gpd.GeoSeries(shapely.box(left, 0, left + 9, 9), crs=crs)


def made(path: Path, *shards: ParcelSeries) -> SeriesStore:
    store = SeriesStore.create(path, bands=BANDS, legend=LEGEND, source={"kind": "test"})
    for shard in shards:
        store.append(shard)
    return store


def same(a: ParcelSeries, b: ParcelSeries) -> None:
    dates = max(a.values.shape[1], b.values.shape[1])
    a, b = a.padded(dates), b.padded(dates)
    assert a.bands == b.bands
    for name in ("values", "mask", "parcel_id", "year", "region", "label", "lon", "lat", "band_mask", "pixels"):
        one, other = getattr(a, name), getattr(b, name)
        if one is None or other is None:
            assert one is other, name
        else:
            np.testing.assert_array_equal(one, other, err_msg=name)
            assert one.dtype.kind == other.dtype.kind
    np.testing.assert_array_equal(a.day[a.mask], b.day[b.mask])


@settings(max_examples=8, deadline=None)
@given(
    sizes=st.lists(st.tuples(st.integers(0, 7), st.integers(0, 5)), max_size=3),
    band_mask=st.booleans(),
    pixels=st.booleans(),
)
def test_roundtrip_of_any_shards(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[tuple[int, int]], band_mask: bool, pixels: bool
) -> None:
    shards = [rows(n, t, 10 * k, band_mask=band_mask, pixels=pixels) for k, (n, t) in enumerate(sizes)]
    path = tmp_path_factory.mktemp("store") / "s.zarr"
    made(path, *shards)
    store = SeriesStore.open(path)
    assert len(store) == sum(n for n, _ in sizes)
    kept = [shard for shard in shards if len(shard)]
    if kept:
        same(store.read(), concatenate(kept))
        assert store.read().values.shape[1] == max(s.values.shape[1] for s in kept)
    else:
        assert store.read().values.shape == (0, 0, 2)


def test_partial_reads_equal_indexing(tmp_path: Path) -> None:
    store = made(tmp_path / "s.zarr", rows(700, 4), rows(300, 6, 700))
    whole = store.read()
    mask = np.arange(1000) % 7 == 0
    for chosen in (slice(690, 710), slice(None, None, 300), slice(5, 5), np.array([999, 3, 3, -1]), mask,
                   np.zeros(0, np.int64)):  # fmt: skip
        same(store.read(chosen), whole.take(chosen))
    assert [len(store.read(part)) for part in store.chunks(400)] == [400, 400, 200]
    with pytest.raises(IndexError, match=r"0\.\.999"):
        store.read(np.array([1000]))


@given(st.integers(1, 30), st.data())
def test_sorted_rows_restore_the_order(count: int, data: st.DataObject) -> None:
    wanted = np.array(data.draw(st.lists(st.integers(-count, count - 1), max_size=20)), np.int64)
    positions, inverse = sorted_rows(wanted, count)
    content = np.arange(count) * 10
    read = content[positions]
    assert (np.diff(read) > 0).all()
    np.testing.assert_array_equal(read if inverse is None else read[inverse], content[wanted])


def test_only_the_chunks_of_a_slice_are_read(tmp_path: Path) -> None:
    store = made(tmp_path / "s.zarr", rows(256, 1400, 0), rows(256, 1400, 256))
    (store.path / "values" / "c" / "0" / "0" / "0").unlink()
    assert len(store.read(slice(256, 300))) == 44
    with pytest.raises(CorruptInputError, match="array values: chunk 0/0/0 is missing"):
        store.read(slice(0, 10))


def test_index_and_geometry(tmp_path: Path) -> None:
    store = SeriesStore.create(tmp_path / "s.zarr", bands=BANDS, legend=LEGEND)
    assert store.geometry() is None
    a, b, c = rows(3, 2), rows(2, 2, 3), rows(2, 2, 5)
    store.append(a, squares(3))
    store.append(b)
    store.append(c, squares(2, 5))
    index = store.index()
    assert list(index.columns) == ["parcel_id", "year", "region", "label", "lon", "lat", "clear_dates"]
    np.testing.assert_array_equal(index["clear_dates"], store.read().clear_dates)
    np.testing.assert_array_equal(store.column("parcel_id", slice(1, 3)), store.read().parcel_id[1:3])
    frame = SeriesStore.open(store.path).geometry()
    assert frame is not None
    assert frame.crs == "EPSG:32631"
    assert frame.geometry.isna().tolist() == [False] * 3 + [True] * 2 + [False] * 2
    assert shapely.equals_exact(frame.geometry.iloc[5], squares(2, 5).iloc[0])
    assert store.crs is not None
    with pytest.raises(SchemaError, match="expected geometry in"):
        store.append(rows(1, 2, 9), squares(1, crs="EPSG:4326"))
    with pytest.raises(SchemaError, match="1 geometries for 2 rows"):
        store.append(rows(2, 2, 9), squares(1))


def test_band_mask_that_comes_later_is_filled_from_the_mask(tmp_path: Path) -> None:
    a, b = rows(3, 4), rows(2, 5, 3, band_mask=True)
    store = made(tmp_path / "s.zarr", a, b, rows(1, 2, 5))
    same(store.read(), concatenate([a, b, rows(1, 2, 5)]))


def test_xarray_reads_lazily(tmp_path: Path) -> None:
    store = made(tmp_path / "s.zarr", rows(5, 3), rows(4, 6, 5))
    data = store.dataset()
    assert dict(data.sizes) == {"parcel": 9, "date": 6, "band": 2}
    assert not data["values"]._in_memory
    np.testing.assert_array_equal(data["values"].sel(band="B08")[7].values, store.read().values[7, :, 1])
    assert list(data["parcel_id"].values) == list(store.read().parcel_id)


def test_shards_that_do_not_fit(tmp_path: Path) -> None:
    store = made(tmp_path / "s.zarr", rows(2, 3, pixels=True))
    with pytest.raises(SchemaError, match="expected bands B04, B08, got B08, B04"):
        store.append(rows(2, 3).select_bands(("B08", "B04")))
    with pytest.raises(SchemaError, match="pixel counts"):
        store.append(rows(2, 3))
    wrong = rows(2, 3, pixels=True)
    wrong.label[:] = 3
    with pytest.raises(SchemaError, match="outside the legend of 3"):
        store.append(wrong)
    assert len(SeriesStore.open(store.path)) == 2


def test_fingerprint(tmp_path: Path) -> None:
    a = made(tmp_path / "a.zarr", rows(3, 2), rows(2, 2, 3))
    assert made(tmp_path / "b.zarr", rows(3, 2), rows(2, 2, 3)).fingerprint() == a.fingerprint()
    assert SeriesStore.open(a.path).fingerprint() == a.fingerprint()
    for other in ([rows(3, 2)], [rows(3, 2), rows(2, 2, 3, seed=1)]):
        assert made(tmp_path / f"{len(other)}.zarr", *other).fingerprint() != a.fingerprint()


def test_one_writer(tmp_path: Path) -> None:
    store = made(tmp_path / "s.zarr", rows(1, 1))
    with FileLock(store.path / GEOMETRY / ".lock"), pytest.raises(UsageError, match="another process"):
        store.append(rows(1, 1, 1))
    store.append(rows(1, 1, 1))
    assert len(store) == 2


def test_two_handles_append_one_after_the_other(tmp_path: Path) -> None:
    first = made(tmp_path / "s.zarr", rows(2, 3))
    second = SeriesStore.open(first.path)
    first.append(rows(2, 4, 2))
    second.append(rows(1, 2, 4))
    same(SeriesStore.open(first.path).read(), concatenate([rows(2, 3), rows(2, 4, 2), rows(1, 2, 4)]))


def test_what_is_not_a_store(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match="series store not found"):
        SeriesStore.open(tmp_path / "nothing")
    (tmp_path / "folder").mkdir()
    with pytest.raises(SchemaError, match=r"no zarr\.json"):
        SeriesStore.open(tmp_path / "folder")
    (tmp_path / "folder" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(SchemaError, match="not a series store"):
        SeriesStore.open(tmp_path / "folder")
    (tmp_path / "folder" / "zarr.json").write_text('{"zarr_')
    with pytest.raises(CorruptInputError, match="not JSON"):
        SeriesStore.open(tmp_path / "folder")
    with pytest.raises(OutputExistsError):
        made(tmp_path / "folder")


def edit(store: SeriesStore, name: str, change: object) -> None:
    path = store.path / "zarr.json"
    document = json.loads(path.read_text())
    document["attributes"][name] = change
    path.write_text(json.dumps(document))


def test_wrong_schema_number_and_attributes(tmp_path: Path) -> None:
    store = made(tmp_path / "s.zarr", rows(2, 3))
    edit(store, "cropgen_series", 99)
    with pytest.raises(SchemaError, match="expected series schema 1, got 99"):
        SeriesStore.open(store.path)
    edit(store, "cropgen_series", 1)
    edit(store, "rows", "many")
    with pytest.raises(SchemaError, match="attribute rows: expected int, got 'many'"):
        SeriesStore.open(store.path)
    edit(store, "rows", 100_000)
    with pytest.raises(CorruptInputError, match="array values: expected shape"):
        SeriesStore.open(store.path)


@pytest.mark.parametrize("name", ["values", "mask", "parcel_id", "clear_dates"])
def test_damage_is_named(tmp_path: Path, name: str) -> None:
    import shutil

    store = made(tmp_path / "s.zarr", rows(50, 8))
    chunk = next(p for p in (store.path / name / "c").rglob("*") if p.is_file())
    whole = chunk.read_bytes()

    def read() -> None:
        opened = SeriesStore.open(store.path)
        opened.read()
        opened.index()

    for damaged in (whole[: len(whole) // 2], b"", whole[:-3] + bytes(b ^ 255 for b in whole[-3:])):
        chunk.write_bytes(damaged)
        with pytest.raises(CorruptInputError, match=f"array {name} cannot be read"):
            read()
    chunk.unlink()
    with pytest.raises(CorruptInputError, match=f"array {name}: chunk"):
        read()
    (store.path / name / "zarr.json").write_text("{")
    with pytest.raises(CorruptInputError, match=f"array {name} cannot be read"):
        read()
    shutil.rmtree(store.path / name)
    with pytest.raises(CorruptInputError, match=f"array {name} is missing"):
        read()


def chunks_of_dates(path: Path, name: str) -> dict[str, Path]:
    found = {file.relative_to(path / name / "c").as_posix(): file for file in (path / name / "c").rglob("*")}
    return {place: file for place, file in found.items() if file.is_file()}


@pytest.mark.parametrize("stated", [True, False], ids=["stated", "older"])
@pytest.mark.parametrize("shards", [((3, 3), (4, 6)), ((1024, 500), (3, 700), (2, 1100)), ((1030, 500), (1020, 900))])
def test_every_chunk_of_the_dates_is_needed(tmp_path: Path, shards: tuple[tuple[int, int], ...], stated: bool) -> None:
    """Rows that came before the store grew have no chunk of later dates; without any other a row cannot be read."""
    store = made(tmp_path / "s.zarr", *(rows(n, t, 10_000 * k) for k, (n, t) in enumerate(shards)))
    whole = store.read()
    if not stated:
        path = store.path / "zarr.json"
        document = json.loads(path.read_text())
        del document["attributes"]["growth"]
        path.write_text(json.dumps(document))
    same(SeriesStore.open(store.path).read(), whole)
    for name in ("values", "mask", "day"):
        files = chunks_of_dates(store.path, name)
        assert any(place.split("/")[1] != "0" for place in files)
        for place, file in files.items():
            content = file.read_bytes()
            file.unlink()
            for reading in (SeriesStore.read, SeriesStore.dataset):
                with pytest.raises(CorruptInputError, match=f"array {name}: chunk {place} is missing"):
                    reading(SeriesStore.open(store.path))
            file.write_bytes(content)
            file.with_name(f"{file.name}.0a1b.partial").write_bytes(content[:9])
    same(SeriesStore.open(store.path).read(), whole)
    opened = SeriesStore.open(store.path)
    opened.append(rows(2, 1200, 90_000))
    assert len(opened.read()) == len(whole) + 2


@pytest.mark.parametrize("moment", ["day", "geometry"])
def test_an_interrupted_append_leaves_the_store_as_it_was(tmp_path: Path, moment: str) -> None:
    first, second = rows(5, 3), rows(4, 6, 5)
    store = SeriesStore.create(tmp_path / "s.zarr", bands=BANDS, legend=LEGEND)
    store.append(first, squares(5))
    before = store.fingerprint()
    program = f"""
        import os, sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import zarr
        from pathlib import Path
        from cropgen.series import store as module
        from test_store import rows, squares
        path = Path({str(store.path)!r})
        write = zarr.Array.__setitem__
        def killed(array, selection, content):
            write(array, selection, content)
            if array.name == "/{moment}":
                os._exit(9)
        zarr.Array.__setitem__ = killed
        if "{moment}" == "geometry":
            zarr.Array.__setitem__ = write
            module.SeriesStore._commit = lambda *a: os._exit(9)
        module.SeriesStore.open(path).append(rows(9, 8, 90), squares(9, 90))
    """
    ended = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, check=False)
    assert ended.returncode == 9, ended.stderr.decode()
    opened = SeriesStore.open(store.path)
    assert opened.fingerprint() == before
    same(opened.read(), first)
    frame = opened.geometry()
    assert frame is not None
    assert len(frame) == 5
    opened.append(second, squares(4, 5))
    same(SeriesStore.open(store.path).read(), concatenate([first, second]))
    joined = opened.geometry()
    assert joined is not None
    assert shapely.equals_exact(joined.geometry.to_numpy(), squares(9).to_numpy()).all()


def test_a_killed_first_append_leaves_an_empty_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = made(tmp_path / "s.zarr")
    with monkeypatch.context() as patched:
        patched.setattr(SeriesStore, "_commit", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            store.append(rows(5, 9))
    opened = SeriesStore.open(store.path)
    assert len(opened) == 0
    opened.append(rows(2, 3))
    same(opened.read(), rows(2, 3))
