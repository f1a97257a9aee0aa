"""DENETHOR in both layouts that users have, against the truth it was generated from."""

from __future__ import annotations

import datetime
import gzip
import json
import pickle
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cropgen.core.errors import CorruptInputError, DataError, MissingInputError, SchemaError
from cropgen.core.progress import Silent
from cropgen.datasets.catalog import find_dataset
from cropgen.datasets.denethor import BANDS, LEGEND, DenethorOptions, DenethorReader
from cropgen.datasets.denethor_patch import read_bounds, read_days
from cropgen.datasets.reader import Prepared, Request
from cropgen.series.hcat import tree
from cropgen.series.store import SeriesStore
from tests.data.denethor import make

FIELDS = sorted(make.PLACES)


@pytest.fixture(scope="module")
def tiles() -> list[make.Tile]:
    return [make.make(2, name) for name in make.YEARS]


@pytest.fixture(scope="module")
def brought(tmp_path_factory: pytest.TempPathFactory, tiles: list[make.Tile]) -> dict[str, Path]:
    folders = {name: tmp_path_factory.mktemp("brought") / name for name in ("challenge", "mlhub")}
    make.challenge(folders["challenge"], tiles)
    make.mlhub(folders["mlhub"], tiles)
    return folders


def prepare(files: Path, out: Path, level: str = "PF", regions: tuple[str, ...] = (), **options: object) -> Prepared:
    manifest = find_dataset("denethor")
    request = Request(
        manifest, manifest.select(regions, (), level), DenethorOptions.model_validate(options), files, out,
        "fingerprint", Silent(),
    )  # fmt: skip
    return DenethorReader().prepare(request)


def opened(prepared: Prepared) -> SeriesStore:
    assert prepared.series is not None
    return SeriesStore.open(prepared.series)


def days(dates: np.ndarray) -> np.ndarray:
    return dates.astype("datetime64[D]").astype(np.int32)


@pytest.mark.parametrize("layout", ["challenge", "mlhub"])
def test_planet_means_of_every_day(
    brought: dict[str, Path], tiles: list[make.Tile], tmp_path: Path, layout: str
) -> None:
    prepared = prepare(brought[layout], tmp_path)
    store = opened(prepared)
    series, geometry = store.read(), store.geometry()
    assert store.bands == ("B02", "B03", "B04", "B08")
    assert series.parcel_id.tolist() == [f"{t.name}-{fid}" for t in tiles for fid in FIELDS]
    assert series.year.tolist() == [2018] * 5 + [2019] * 5
    assert series.pixels is not None
    for row, (tile, fid) in enumerate((t, f) for t in tiles for f in FIELDS):
        expected = tile.mean("PF", fid, "PF") * 1e-4
        missing = fid == 11
        np.testing.assert_array_equal(series.mask[row], [True, not missing, True, True])
        keep = series.mask[row]
        np.testing.assert_allclose(series.values[row, keep], expected[keep], rtol=1e-6)
        np.testing.assert_array_equal(series.day[row], days(tile.days["PF"]))
        assert series.pixels[row, 0] == 400
        assert LEGEND.codes[series.label[row]] == str(make.CROPS[fid])
    assert {k: v.count for k, v in prepared.dropped.items()} == {
        "small": 2, "crop outside the legend": 2, "no pixel inside": 2,
    }  # fmt: skip
    assert geometry is not None
    np.testing.assert_allclose(geometry.area, 3600, rtol=1e-4)
    assert ((series.lon > 13) & (series.lon < 15)).all()


@pytest.mark.parametrize("layout", ["challenge", "mlhub"])
def test_sentinel2_means_and_clouds(
    brought: dict[str, Path], tiles: list[make.Tile], tmp_path: Path, layout: str
) -> None:
    store = opened(prepare(brought[layout], tmp_path, "S2"))
    series = store.read()
    assert store.bands == BANDS["S2"]
    assert len(store.bands) == 12
    for row, (tile, fid) in enumerate((t, f) for t in tiles for f in FIELDS):
        clear = tile.mean("CLP", fid, "S2")[:, 0] < 40
        assert clear.sum() == (4 if make.PLACES[fid][0] < 120 else 5)
        np.testing.assert_array_equal(series.mask[row], clear)
        np.testing.assert_array_equal(series.day[row], days(tile.days["S2"]))
        expected = np.where(clear[:, None], tile.mean("BANDS", fid, "S2") * 1e-4, 0)
        np.testing.assert_allclose(series.values[row], expected, rtol=1e-6)
    everything = opened(prepare(brought[layout], tmp_path / "all", "S2", max_cloud=255)).read()
    assert everything.mask.all()


def test_sentinel1_orbits_share_a_calendar(brought: dict[str, Path], tiles: list[make.Tile], tmp_path: Path) -> None:
    store = opened(prepare(brought["challenge"], tmp_path, "S1"))
    series = store.read()
    assert store.bands == ("VV_ascending", "VH_ascending", "VV_descending", "VH_descending")
    assert series.band_mask is not None
    for row, (tile, fid) in enumerate((t, f) for t in tiles for f in FIELDS):
        union = np.union1d(tile.days["asc"], tile.days["des"])
        assert len(union) == 6
        np.testing.assert_array_equal(series.day[row], days(union))
        for channel, name in enumerate(("VV_asc", "VH_asc", "VV_des", "VH_des")):
            there = np.isin(union, tile.days[name[-3:]])
            np.testing.assert_array_equal(series.band_mask[row, :, channel], there)
            expected = tile.mean(name, fid, "S1")[:, 0]
            np.testing.assert_allclose(series.values[row, there, channel], expected, rtol=1e-5)


def test_legend_is_in_the_taxonomy() -> None:
    assert LEGEND.codes == tuple("123456789")
    assert all(c.hcat in tree() for c in LEGEND.classes)


def test_regions_and_areas_can_be_chosen(brought: dict[str, Path], tmp_path: Path) -> None:
    series = opened(prepare(brought["challenge"], tmp_path, regions=("test",), min_area=800)).read()
    assert set(series.region) == {"test"}
    assert set(series.year) == {2019}
    assert len(series) == 6
    manifest = find_dataset("denethor")
    request = Request(
        manifest, manifest.select(("train",), (2019,), "PF"), DenethorOptions.model_validate({}),
        brought["challenge"], tmp_path / "no", "fingerprint", Silent(),
    )  # fmt: skip
    with pytest.raises(DataError, match="tile train is of 2018"):
        DenethorReader().prepare(request)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_facts_are_picked_from_pickles_of_every_protocol(protocol: int, tiles: list[make.Tile]) -> None:
    corners, crs = read_bounds(make.pickled_box(tiles[0], protocol), "here")
    assert (corners, crs) == ((432_000, 5_808_000, 432_240, 5_808_240), "EPSG:32633")
    stamps = [datetime.datetime(2018, 1, 10, 12, 13, 10), datetime.datetime(2019, 10, 31, 23, 59, 59, 999_999)]
    found = read_days(pickle.dumps(stamps, protocol), "here")
    assert found.astype("datetime64[D]").astype(str).tolist() == ["2018-01-10", "2019-10-31"]


def test_a_pickle_is_not_run(tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "harmed",))

    with pytest.raises(SchemaError, match="no date"):
        read_days(pickle.dumps([Harm()]), "here")
    with pytest.raises(SchemaError, match="min_x"):
        read_bounds(pickle.dumps({"max_x": 1.0}), "here")
    with pytest.raises(CorruptInputError, match="damaged"):
        read_days(b"\x80\x04\x95", "here")
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize("level", ["PF", "S2", "S1"])
@pytest.mark.parametrize("above", ["denethor_train_test", "latest/training descended"])
def test_folders_above_do_not_decide_the_tile(brought: dict[str, Path], tmp_path: Path, level: str, above: str) -> None:
    expected = opened(prepare(brought["challenge"], tmp_path / "expected", level)).read()
    shutil.copytree(brought["challenge"], tmp_path / "files" / above)
    series = opened(prepare(tmp_path / "files", tmp_path / "out", level)).read()
    np.testing.assert_array_equal(series.parcel_id, expected.parcel_id)
    np.testing.assert_array_equal(series.day, expected.day)
    np.testing.assert_array_equal(series.values, expected.values)


def test_images_of_another_year_are_told(tiles: list[make.Tile], tmp_path: Path) -> None:
    swapped = replace(tiles[0], days=tiles[1].days)
    make.challenge(tmp_path / "files", [swapped])
    for level in ("PF", "S2", "S1"):
        with pytest.raises(SchemaError, match=r"expected images of 2018 for tile train, got 2019-"):
            prepare(tmp_path / "files", tmp_path / "out", level, regions=("train",))


def test_a_field_without_a_crop_costs_no_other_field(tiles: list[make.Tile], tmp_path: Path) -> None:
    make.challenge(tmp_path / "files", tiles[:1])
    labels = tmp_path / "files" / "crops_train_2018.geojson"
    document = json.loads(labels.read_text())
    facts = [feature["properties"] for feature in document["features"]]
    facts[1]["crop_id"] = None
    labels.write_text(json.dumps(document))
    prepared = prepare(tmp_path / "files", tmp_path / "out", regions=("train",))
    series = opened(prepared).read()
    left = [fid for fid in FIELDS if fid != facts[1]["fid"]]
    assert series.parcel_id.tolist() == [f"train-{fid}" for fid in left]
    assert [LEGEND.codes[i] for i in series.label] == [str(make.CROPS[fid]) for fid in left]
    assert prepared.dropped["crop outside the legend"].first == [str(facts[1]["fid"]), str(make.UNLISTED)]
    for column, value, said in (("crop_id", 1.5, "whole numbers, got 1.5"), ("fid", None, "no fid")):
        facts[1][column] = value
        labels.write_text(json.dumps(document))
        with pytest.raises(SchemaError, match=said):
            prepare(tmp_path / "files", tmp_path / "out", regions=("train",))


def test_what_is_missing_or_damaged_is_told(tiles: list[make.Tile], tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    with pytest.raises(MissingInputError, match="no image of Planet Fusion of tile train"):
        prepare(files, tmp_path / "out")
    with pytest.raises(MissingInputError, match=r"no stack with vv\.npy of tile train, such as s1_train_asc\.zip"):
        prepare(files, tmp_path / "out", "S1")
    make.mlhub(files, tiles)
    (stack,) = files.rglob("*train*/bands.npy")
    whole = stack.read_bytes()
    stack.write_bytes(whole[:-100])
    with pytest.raises(CorruptInputError, match="truncated"):
        prepare(files, tmp_path / "out", "S2")
    stack.write_bytes(gzip.compress(whole))
    with pytest.raises(CorruptInputError, match="no NumPy array"):
        prepare(files, tmp_path / "out", "S2")
    (labels,) = files.rglob("*train*/labels.geojson")
    labels.write_text(labels.read_text().replace("crop_id", "crop"))
    with pytest.raises(SchemaError, match="crop_id missing"):
        prepare(files, tmp_path / "out")
    labels.unlink()
    with pytest.raises(MissingInputError, match="no labels of tile train"):
        prepare(files, tmp_path / "out")
    (image,) = files.rglob("*train*2018_01_02/sr.tif")
    make.write_planet(image, tiles[0].arrays["PF"][0, :40], tiles[0])
    make.write_labels(labels, tiles[0])
    with pytest.raises(SchemaError, match="on the grid of"):
        prepare(files, tmp_path / "out")
