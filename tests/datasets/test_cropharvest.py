"""CropHarvest in its published layout, against the truth it was generated from."""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropgen.core.errors import CorruptInputError, DataError, MissingInputError, SchemaError
from cropgen.core.progress import Silent
from cropgen.datasets import cropharvest
from cropgen.datasets.catalog import find_dataset
from cropgen.datasets.cropharvest import BANDS, CropHarvestOptions, CropHarvestReader
from cropgen.datasets.cropharvest_labels import shuffled
from cropgen.datasets.reader import Prepared, Request
from cropgen.series.official import find_official, official_rows
from cropgen.series.store import SeriesStore
from tests.data.cropharvest import make


def prepare(files: Path, years: tuple[int, ...] = (), **options: str) -> Prepared:
    manifest = find_dataset("cropharvest")
    chosen = CropHarvestOptions.model_validate(options)
    request = Request(
        manifest, manifest.select((), years), chosen, files, files.parent / "out", str((years, options)), Silent()
    )
    return CropHarvestReader().prepare(request)


def opened(prepared: Prepared) -> SeriesStore:
    assert prepared.series is not None
    return SeriesStore.open(prepared.series)


def trained(made: list[make.Point]) -> dict[str, make.Point]:
    return {p.id: p for p in made if p.array is not None and not p.is_test}


def code(p: make.Point) -> str:
    side = "crop" if p.is_crop else "non-crop"
    return f"{side}/{p.label.lower().replace(' ', '_')}" if p.label else side


def expected_values(x: np.ndarray) -> np.ndarray:
    """Stored numbers in the units of the container, worked out band by band."""
    columns = []
    for band, raw in zip(BANDS, make.RAW_BANDS, strict=True):
        stored = x[..., make.RAW_BANDS.index(raw)]
        near, red = x[..., make.RAW_BANDS.index("B8")], x[..., make.RAW_BANDS.index("B4")]
        columns.append((near - red) / (near + red) if band == "NDVI" else stored / 1e4 if band[0] == "B" else stored)
    return np.stack(columns, -1)


def test_points_are_read_with_their_steps_bands_places_and_classes(tmp_path: Path) -> None:
    made, _ = make.write(tmp_path / "files")
    store = opened(prepare(tmp_path / "files"))
    series = store.read()
    points = trained(made)
    assert store.bands[2:5] == ("B02", "B03", "B04")
    rows = [i for i, name in enumerate(series.parcel_id.tolist()) if name in points]
    assert {series.parcel_id[i] for i in rows} == set(points)
    for row in rows:
        p = points[series.parcel_id[row]]
        assert p.array is not None
        np.testing.assert_allclose(series.values[row], expected_values(p.array), rtol=2e-5, atol=1e-6)
        assert series.mask[row].all()
        first = np.datetime64(p.end[:10]) - 360 + 15
        np.testing.assert_array_equal(series.day[row].astype("datetime64[D]"), first + 30 * np.arange(12))
        assert series.year[row] == int(p.end[:4]) - 1
        assert (series.lon[row], series.lat[row], series.region[row]) == (p.lon, p.lat, p.dataset)
        assert store.legend.codes[series.label[row]] == code(p)


def test_labelled_test_pixels_follow_with_the_classes_of_their_task(tmp_path: Path) -> None:
    made, pixels = make.write(tmp_path / "files")
    store = opened(prepare(tmp_path / "files"))
    series = store.read()
    at = len(trained(made))
    for tests in pixels:
        kept = np.flatnonzero(tests.y >= 0)
        rows = slice(at, at + len(kept))
        at += len(kept)
        names = {"Ken": ("not/maize", "crop/maize"), "Bra": ("not/coffee", "crop/coffee")}
        codes = names.get(tests.name[:3], ("non-crop", "crop"))
        assert series.parcel_id[rows].tolist() == [f"{tests.name}/{i}" for i in kept]
        assert [store.legend.codes[i] for i in series.label[rows]] == [codes[i] for i in tests.y[kept]]
        np.testing.assert_allclose(series.values[rows], expected_values(tests.x[kept]), rtol=2e-5, atol=1e-6)
        np.testing.assert_array_equal(series.lat[rows], tests.lats[kept])
        end = "2021-02-01" if "2021" in tests.name else "2020-02-01"
        assert set(series.day[rows, 11]) == {int((np.datetime64(end) - 15).astype(int))}
    assert at == len(store)


def test_what_is_left_out_is_told(tmp_path: Path) -> None:
    made, _ = make.write(tmp_path / "files")
    without = [p.id for p in made if p.array is None]
    tests = [p.id for p in made if p.is_test]
    make.write_labels(tmp_path / "files", made[1:])
    dropped = {k: v.count for k, v in prepare(tmp_path / "files").dropped.items()}
    assert made[0].is_test
    assert dropped == {
        "array without a label": 1, "label without an array": len(without), "in a test region": len(tests) - 1,
    }  # fmt: skip


def test_tasks_learn_from_their_country_and_are_tested_on_their_pixels(tmp_path: Path) -> None:
    made, pixels = make.write(tmp_path / "files", count=12)
    store = opened(prepare(tmp_path / "files"))
    index = store.index()
    points = trained(made)
    for name, places in (("kenya", ("kenya", "kenya-non-crop")), ("brazil", ("lem-brazil",)), ("togo", ("togo",))):
        protocol = find_official(store, f"cropharvest-{name}")
        rows = official_rows(store, protocol, index)
        learnt = {index["parcel_id"].iloc[i] for i in rows.train}
        here = {k: p for k, p in points.items() if p.dataset in places}
        known_crops = {k for k, p in here.items() if p.is_crop and (p.label or name == "togo")}
        assert known_crops <= learnt <= set(here)
        tested = [t for t in pixels if t.name.lower().startswith(name)]
        assert len(rows.test) == sum(int((t.y >= 0).sum()) for t in tested)
        scored, place = protocol.legend(store.legend)
        truth = np.concatenate([t.y[t.y >= 0] for t in tested])
        np.testing.assert_array_equal(place[index["label"].iloc[rows.test]], 1 - truth)
        assert (place[index["label"].iloc[rows.train]] >= 0).all()
        assert len(scored) == 2
    others = [p for p in points.values() if p.dataset == "kenya" and p.label == "cassava"]
    rows = official_rows(store, find_official(store, "cropharvest-kenya"), index)
    empty = [i for i in rows.train if index["region"].iloc[i] == "kenya-non-crop"]
    assert 0 < len(empty) <= len([p for p in made if p.dataset == "kenya" and p.label == "cassava"])
    assert len(others) > 0


def test_classes_can_be_groups_or_crop_alone(tmp_path: Path) -> None:
    make.write(tmp_path / "files")
    groups = opened(prepare(tmp_path / "files", classes="groups")).legend
    assert "crop/cereals" in groups.codes
    assert "non-crop/non_crop" not in groups.codes
    store = opened(prepare(tmp_path / "files", classes="crop"))
    assert store.legend.codes == ("crop", "non-crop")
    kenya = store.column("label")[store.column("region") == "Kenya_maize"]
    assert set(kenya) == {-1, 0}


def test_crops_carry_taxonomy_codes(tmp_path: Path) -> None:
    make.write(tmp_path / "files")
    legend = opened(prepare(tmp_path / "files")).legend
    codes = dict(zip(legend.codes, (c.hcat for c in legend.classes), strict=True))
    assert codes["crop/maize"] == "3301010600"
    assert codes["crop/winter_wheat"] == "3301010101"
    assert codes["non-crop/pasture"] == "3302000000"
    assert codes["crop/coffee"] is None


def test_a_year_can_be_read_alone(tmp_path: Path) -> None:
    make.write(tmp_path / "files")
    series = opened(prepare(tmp_path / "files", (2016,))).read()
    assert set(series.region) == {"central-asia"}
    assert set(series.year) == {2016}


def test_unpacked_folders_read_as_archives_do(tmp_path: Path) -> None:
    make.write(tmp_path / "files")
    packed = opened(prepare(tmp_path / "files")).read()
    for name in ("features", "test_features"):
        archive = tmp_path / f"files/{name}.tar.gz"
        with tarfile.open(archive) as tar:
            tar.extractall(tmp_path / "files", filter="data")
        archive.unlink()
    loose = opened(prepare(tmp_path / "files")).read()
    order = [np.argsort(s.parcel_id) for s in (packed, loose)]
    np.testing.assert_array_equal(packed.values[order[0]], loose.values[order[1]])


def test_a_killed_preparation_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_after) -> None:
    monkeypatch.setattr(cropharvest, "_ROWS", 30)
    make.write(tmp_path / "files")
    whole = prepare(tmp_path / "files")
    expected = opened(whole).fingerprint()
    (tmp_path / "out").rename(tmp_path / "whole")
    with killed_after(3):
        prepare(tmp_path / "files")
    again = prepare(tmp_path / "files")
    assert opened(again).fingerprint() == expected
    assert again.dropped == whole.dropped


@given(st.lists(st.integers(), max_size=60, unique=True), st.integers(0, 100))
def test_the_publishers_order_is_a_permutation(items: list[int], seed: int) -> None:
    names = [str(i) for i in items]
    assert sorted(shuffled(names, seed)) == sorted(names)


def test_the_publishers_order_by_hand() -> None:
    assert shuffled(list("abcdef"), 1) == ["b", "f", "c", "e", "d", "a"]
    assert shuffled(list("abcdef"), 2) == ["e", "c", "d", "f", "a", "b"]


def test_damage_is_told(tmp_path: Path) -> None:
    files = tmp_path / "files"
    made, pixels = make.write(files)
    first = next(i for i, p in enumerate(made) if p.array is not None and not p.is_test)
    whole = made[first].array
    assert whole is not None
    make.write_features(files, [replace(made[first], array=whole[:, :17])])
    with pytest.raises(SchemaError, match="expected 12 steps of 18"):
        prepare(files)
    make.write_archive(files / "features.tar.gz", {f"features/arrays/{made[first].id}.h5": b"nothing"})
    with pytest.raises(CorruptInputError, match="no whole HDF5"):
        prepare(files)
    archive = make.write_features(files, made)
    archive.write_bytes(archive.read_bytes()[:3000])
    with pytest.raises(CorruptInputError, match="cannot be read"):
        prepare(files)
    make.write_features(files, made)
    make.write_archive(files / "test_features.tar.gz", {"test_features/togo-eval.h5": make.h5(x=pixels[3].x)})
    with pytest.raises(SchemaError, match="no array y"):
        prepare(files)
    (files / "test_features.tar.gz").unlink()
    with pytest.raises(MissingInputError, match="test_features"):
        prepare(files)
    (files / "labels.geojson").write_text("{", encoding="utf-8")
    with pytest.raises(CorruptInputError, match=r"labels\.geojson"):
        prepare(files)


def test_years_without_a_point_are_told(tmp_path: Path) -> None:
    made, _ = make.write(tmp_path / "files")
    manifest = find_dataset("cropharvest")
    there = {int(p.end[:4]) - 1 for p in made}
    empty = next(year for year in manifest.years if year not in there)
    with pytest.raises(DataError, match=f"no series of global in {empty}"):
        prepare(tmp_path / "files", (empty,))
    assert not (tmp_path / "out" / "series.zarr").exists()
