"""Parcels on disk: order and overlaps against all held at once, and the store against that of parcels held whole."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
from pyproj import CRS

from cropgen.core.files import sha256_tree
from cropgen.core.growing import GrowingArray
from cropgen.core.progress import Silent
from cropgen.datasets.demo.region import make_demo
from cropgen.imagery import aggregate as module
from cropgen.imagery import overlaps
from cropgen.imagery.aggregate import AggregateOptions, AggregateReport, aggregate
from cropgen.imagery.overlaps import find_overlaps
from cropgen.imagery.parcels import SeasonParcels, shards
from cropgen.imagery.scene import Grid
from cropgen.series.geometry import read_parcels
from cropgen.series.parcel_fields import ROW
from cropgen.series.parcel_spool import SpooledLayer, SpooledParcels, spool_parcels
from cropgen.series.polygon_file import IDS, PARCEL, PARCELS, SHAPES, Polygons, PolygonWriter, spool_polygons
from tests.imagery.scene_files import NORTH, UTM, WEST, square, write_date

OPTIONS = AggregateOptions(buffer=0, min_pixels=1, min_share=0, shard=4)


def strewn(count: int, seed: int = 0) -> gpd.GeoSeries:
    rng = np.random.default_rng(seed)
    place, size = rng.uniform(0, 1000, (count, 2)), rng.uniform(5, 90, (count, 2))
    return gpd.GeoSeries(shapely.box(*place.T, *(place + size).T), crs=32631)


@pytest.mark.parametrize("at_a_time", [1, 13, 5000])
@pytest.mark.parametrize("giant", [False, True])
def test_overlaps_are_those_of_all_pairs(tmp_path, monkeypatch, at_a_time, giant):
    monkeypatch.setattr(overlaps, "_AT_A_TIME", at_a_time)
    monkeypatch.setattr(overlaps, "_PAIRS", at_a_time)
    geometry = strewn(150)
    if giant:
        geometry[70] = shapely.box(-10, 20, 2000, 990)
    found = find_overlaps(spool_polygons(geometry, tmp_path / "p.wkb"))
    shapes, expected = geometry.to_numpy(), {}
    for a in range(len(shapes)):
        for b in range(a + 1, len(shapes)):
            share = shapes[a].intersection(shapes[b]).area / min(shapes[a].area, shapes[b].area)
            if share > overlaps.OVERLAP_SHARE:
                expected[a, b] = share
    assert len(expected) > 50
    assert [tuple(pair) for pair in found.pairs.tolist()] == list(expected)
    assert found.share.tolist() == pytest.approx(list(expected.values()), rel=1e-12)


def test_shards_follow_the_curve_through_all_parcels(tmp_path):
    geometry = strewn(12_000, seed=4)
    along = np.argsort(geometry.hilbert_distance().to_numpy(), kind="stable")
    expected = [np.sort(part).tolist() for part in np.array_split(along, 20)]
    assert [part.tolist() for part in shards(spool_polygons(geometry, tmp_path / "p.wkb"), 600)] == expected


def hair() -> tuple[shapely.Polygon, shapely.Geometry]:
    """A parcel in degrees with a hair one step of double precision wide, and what is left of it in UTM, repaired."""
    for west in np.linspace(4.0, 4.01, 60):
        east = np.nextafter(west, 9)
        ring = [(4.0 - 1e-5, 50), (4.0101, 50), (4.0101, 50.0005), (east, 50.0005), (east, 50.003), (west, 50.003),
                (west, 50.0005), (4.0 - 1e-5, 50.0005)]  # fmt: skip
        shape = shapely.Polygon(ring)
        moved = gpd.GeoSeries([shape], crs=4326).to_crs(UTM).iloc[0]
        repaired = shapely.make_valid(moved)
        if shape.is_valid and repaired.geom_type == "GeometryCollection":
            return shape, repaired
    raise AssertionError("no hair becomes a line")


def test_of_a_parcel_that_is_torn_in_another_system_the_polygons_are_kept(tmp_path):
    shape, repaired = hair()
    polygons = spool_polygons(gpd.GeoSeries([shape], crs=4326), tmp_path / "p.wkb")
    west, _, _, north = repaired.bounds
    grid = Grid(CRS.from_user_input(UTM).to_wkt(), (10.0, 0.0, west - 5, 0.0, -10.0, north + 5), (60, 100))
    outline = SeasonParcels(polygons).shapes(np.array([0]), grid, 0).outline[0]
    assert outline.geom_type in ("Polygon", "MultiPolygon")
    assert outline.area == pytest.approx(repaired.area)


def held_whole(paths, columns, folder, *, default_year, report, threads, begun) -> SpooledLayer:
    """The layer as it is read without a spool: every parcel is of a kind of its own."""
    layer = read_parcels(paths, columns, default_year=default_year, report=report)
    ids = [parcel_id.encode() for parcel_id in layer.frame["parcel_id"]]
    about = np.zeros(len(ids), ROW)
    about["length"] = list(map(len, ids))
    about["id"], about["kind"] = np.cumsum(about["length"]) - about["length"], np.arange(len(ids))
    spooled = folder / "whole"
    spooled.mkdir(parents=True)
    (spooled / IDS).write_bytes(b"".join(ids))
    with (spooled / SHAPES).open("wb") as stream, GrowingArray(spooled / PARCELS, PARCEL) as parcels:
        PolygonWriter(stream, parcels).add(layer.frame.geometry.to_numpy(), about)
    polygons = Polygons(spooled, CRS.from_user_input(layer.frame.crs), np.arange(len(ids), dtype=np.uint32))
    kinds = pd.DataFrame(layer.frame[["year", "region", "code", "name"]])
    return SpooledLayer(SpooledParcels(kinds, polygons), layer.issues, layer.hcat)


def in_batches(size: int):
    """The layer as it is read, so many polygons at a time."""

    def read(paths, columns, folder, *, default_year, report, threads, begun) -> SpooledLayer:
        return spool_parcels(
            paths, columns, folder, default_year=default_year, report=report, batch=size, threads=threads, begun=begun
        )

    return read


def outcomes(
    scenes: Path, parcels: Path, options: AggregateOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[AggregateReport, str]]:
    """Digest and report of the store of parcels held whole, and of those read in batches."""
    found: list[tuple[AggregateReport, str]] = []
    for read in (held_whole, in_batches(1), in_batches(7), in_batches(100_000)):
        monkeypatch.setattr(module, "spool_parcels", read)
        output = tmp_path / "out" / "series.zarr"
        found.append((aggregate(scenes, parcels, output, options, Silent(), overwrite=True), sha256_tree(output)))
        assert not output.with_name(".series.zarr.work").exists()
    return found


def test_a_layer_with_defects_gives_the_same_store(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    for date in ("20210605",):
        bands = {"B04": rng.integers(1500, 5000, (40, 40)), "SCL": rng.choice([4, 4, 9], (20, 20))}
        write_date(tmp_path / "scenes" / date, bands)
    corner = shapely.Point(WEST, NORTH)
    bow = shapely.Polygon([(WEST, NORTH), (WEST + 90, NORTH - 90), (WEST + 90, NORTH), (WEST, NORTH - 90)])
    shapes = [square(i * 40, j * 40, i * 40 + 45, j * 40 + 38) for i in range(8) for j in range(3)]
    shapes += [bow, corner, None, shapes[3], shapes[0], square(4000, 0, 4040, 40), shapely.force_3d(shapes[5], 2.0)]
    ids = [f"p{i}" for i in range(24)] + ["bow", "point", "null", "p3", None, "far", "high"]
    crops = np.array(["wheat", "maize", ""])[np.arange(len(ids)) % 3]
    parcels = tmp_path / "p_2021.gpkg"
    gpd.GeoDataFrame({"id": ids, "crop": crops}, geometry=shapes, crs=UTM).to_file(parcels)
    expected, *others = outcomes(tmp_path / "scenes", parcels, OPTIONS, tmp_path, monkeypatch)
    assert expected[0].rows == 26
    assert len(expected[0].dropped) == 5
    assert expected[0].overlaps
    assert others == [expected] * 3


@pytest.mark.slow
def test_the_demo_region_gives_the_same_store(tmp_path, monkeypatch):
    demo = make_demo(tmp_path / "demo", parcels=60, years=(2021,))
    options = AggregateOptions(shard=16)
    expected, *others = outcomes(demo.scenes, demo.parcels[2021], options, tmp_path, monkeypatch)
    assert expected[0].rows > 50
    assert others == [expected] * 3
