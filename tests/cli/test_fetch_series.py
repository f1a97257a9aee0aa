"""`cropgen fetch` of data sets with series: from a server or a folder in the published layout to a store."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from cropgen.series.official import OfficialProtocol
from cropgen.series.store import SeriesStore
from tests.data.breizhcrops import make as breizhcrops
from tests.data.denethor import make as denethor
from tests.data.manifests import local_manifest
from tests.data.server import serve
from tests.data.timesen2crop import make as timesen2crop

from .conftest import Ended, call


def fetch(root: Path, *words: str | Path) -> Ended:
    return call("fetch", *words, "--workspace", root, "--retries", "0", "--json")


def publish_breizhcrops(root: Path) -> dict[int, list[breizhcrops.Parcel]]:
    """What the host has of region frh01: h5 and outlines of 2017 packed, the csv archive of 2018."""
    scratch, served = root / "scratch", root / "served"
    breizhcrops.write_tables(served)
    made = {year: list(breizhcrops.parcels(4, 25, year=year)) for year in (2017, 2018)}
    for year, parcels in made.items():
        breizhcrops.write_index(served, parcels, "frh01", year, "L1C")
        breizhcrops.write_outlines(scratch, parcels, "frh01", year)
        outlines = sorted((scratch / str(year)).glob("frh01.*"))
        breizhcrops.pack_tar(served / f"{year}/shp/frh01.tar.gz", outlines)
    h5 = breizhcrops.write_h5(scratch, made[2017], "frh01", 2017, "L1C")
    breizhcrops.pack_tar(served / "2017/L1C/frh01.h5.tar.gz", [h5])
    breizhcrops.write_csv_zip(served, made[2018], "frh01", 2018, "L1C")
    return made


def test_breizhcrops_of_two_years_comes_from_a_server(tmp_path: Path) -> None:
    made = publish_breizhcrops(tmp_path)
    with serve(tmp_path / "served") as server:
        manifests = local_manifest("breizhcrops", server, tmp_path / "manifests")
        words = ("breizhcrops", "--regions", "frh01", "--year", "2017,2018", "--manifests", manifests)
        ended = fetch(tmp_path, *words, "--set", "max_flagged=0.5")
        assert ended.code == 0, ended.err
        again = fetch(tmp_path, *words, "--set", "max_flagged=0.5", "--offline")
    assert again.code == 0, again.err
    store = SeriesStore.open(tmp_path / "data/breizhcrops/series.zarr")
    usable = [p for year in made for p in made[year] if len(p.day) and p.code not in breizhcrops.UNLISTED]
    series, geometry = store.read(), store.geometry()
    assert series.parcel_id.tolist() == [str(p.id) for p in usable]
    assert set(series.year) == {2017, 2018}
    for row, parcel in enumerate(usable):
        clear = parcel.flags[:, 0] / 1024 <= 0.5
        np.testing.assert_array_equal(series.day[row, : len(parcel.day)][clear], parcel.day[clear])
        found = series.values[row, : len(parcel.day)][clear]
        np.testing.assert_allclose(found, parcel.bands[clear] * 1e-4, rtol=1e-6)
        assert series.clear_dates[row] == clear.sum()
    assert geometry is not None
    assert geometry.geometry.notna().tolist() == np.isfinite(series.lon).tolist()
    assert geometry.geometry.notna().sum() >= len(usable) - 2
    protocols = [OfficialProtocol.from_json(table) for table in store.source["protocols"]]
    assert [p.name for p in protocols] == [f"breizhcrops-fold{k}" for k in (1, 2, 3, 4)]
    assert not (tmp_path / "data/breizhcrops/files/2017/L1C/frh01.h5.tar.gz").exists()


def test_timesen2crop_comes_from_a_server(tmp_path: Path) -> None:
    tiles = timesen2crop.make(6)
    timesen2crop.write_zip(tmp_path / "served", tiles)
    with serve(tmp_path / "served") as server:
        manifests = local_manifest("timesen2crop", server, tmp_path / "manifests")
        ended = fetch(tmp_path, "timesen2crop", "--regions", "33TUN,33UVP", "--manifests", manifests)
    assert ended.code == 0, ended.err
    store = SeriesStore.open(tmp_path / "data/timesen2crop/series.zarr")
    assert len(store) == sum(len(tile.pixels) for tile in tiles)
    assert sorted(set(zip(store.column("region").tolist(), store.column("year").tolist(), strict=True))) == [
        ("33TUN", 2018), ("33UVP", 2018), ("33UVP", 2019),
    ]  # fmt: skip


def test_denethor_is_brought(tmp_path: Path) -> None:
    tiles = [denethor.make(2, name) for name in denethor.YEARS]
    denethor.challenge(tmp_path / "brought", tiles)
    before = sorted(p for p in (tmp_path / "brought").rglob("*"))
    refused = fetch(tmp_path, "denethor")
    assert refused.code == 3
    assert "--from" in refused.err
    ended = fetch(tmp_path, "denethor", "--from", tmp_path / "brought", "--level", "S2")
    assert ended.code == 0, ended.err
    store = SeriesStore.open(tmp_path / "data/denethor/series.zarr")
    assert len(store) == 10
    assert len(store.bands) == 12
    assert sorted(p for p in (tmp_path / "brought").rglob("*")) == before
