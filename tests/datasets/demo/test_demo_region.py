"""The whole region as a user finds it on disk."""

from __future__ import annotations

import json
from pathlib import Path

import geopandas as gpd
import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from scipy.stats import kruskal

from cropgen.core.errors import OutputExistsError, UsageError
from cropgen.core.files import sha256_tree
from cropgen.core.progress import Silent
from cropgen.datasets.demo import DemoRegion, make_demo
from cropgen.datasets.demo.crops import CROPS
from cropgen.datasets.demo.region import stream
from cropgen.series.bands import LAND_BANDS, SENTINEL2

YEARS = (2022, 2023)


@pytest.fixture(scope="module")
def region(tmp_path_factory: pytest.TempPathFactory) -> DemoRegion:
    return make_demo(tmp_path_factory.mktemp("made") / "region", parcels=80, years=YEARS, seed=4)


def test_equal_arguments_give_equal_bytes(region: DemoRegion, tmp_path: Path):
    again = make_demo(tmp_path / "again", parcels=80, years=YEARS, seed=4)
    assert sha256_tree(again.folder) == sha256_tree(region.folder)


def test_every_purpose_and_seed_has_a_stream_of_its_own():
    draws = {tuple(stream(*key).integers(0, 1 << 30, 4)) for key in ((0, "a"), (0, "b"), (1, "a"), (0, "a", 1))}
    assert len(draws) == 4
    assert stream(0, "a").integers(0, 1 << 30) == stream(0, "a").integers(0, 1 << 30)


def test_every_date_has_every_band_on_its_grid(region: DemoRegion):
    folders = sorted(region.scenes.iterdir())
    assert len(folders) == region.dates
    for folder in folders:
        assert {path.stem for path in folder.glob("*.tif")} == {*LAND_BANDS, "SCL"}
        assert {path.name for path in folder.iterdir()} - {f"{b}.tif" for b in (*LAND_BANDS, "SCL")} == {
            "metadata.json"
        }
    for name in (*LAND_BANDS, "SCL"):
        with rasterio.open(folders[0] / f"{name}.tif") as raster:
            assert raster.res == (20, 20) if name == "SCL" else (SENTINEL2[name].resolution,) * 2
            assert raster.crs.to_epsg() == 32631
            assert raster.nodata == 0
            assert raster.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            if name != "SCL":
                assert raster.dtypes == ("uint16",)
                assert (raster.scales, raster.offsets) == ((1e-4,), (-0.1,))


def test_dates_are_irregular_and_of_two_orbits(region: DemoRegion):
    found = []
    for folder in sorted(region.scenes.iterdir()):
        document = json.loads((folder / "metadata.json").read_text())
        date, orbit = folder.name.split("_")
        assert document["datetime"].replace("-", "").startswith(date)
        assert document["orbit"] == orbit
        assert 0 <= document["cloud_cover"] <= 100
        found.append((date, orbit))
    assert len({orbit for _, orbit in found}) == 2
    days = np.array([np.datetime64(f"{d[:4]}-{d[4:6]}-{d[6:]}") for d, _ in found]).astype(int)
    assert len(set(np.diff(days))) >= 4
    assert 25 <= np.mean([d.startswith("2022") for d, _ in found]) * len(found) <= 60


def test_parcel_layers_are_what_a_declaration_holds(region: DemoRegion):
    layers = {year: gpd.read_file(region.parcels[year]) for year in YEARS}
    for year, layer in layers.items():
        assert list(layer.columns) == [
            "parcel_id", "crop_code", "crop_name", "year", "region", "area_ha", "geometry",
        ]  # fmt: skip
        assert len(layer) == layer["parcel_id"].nunique() == 80
        assert (layer["year"] == year).all()
        assert layer.crs.to_epsg() == 32631
        np.testing.assert_allclose(layer["area_ha"], layer.area / 1e4, atol=5e-4)
        known = {crop.code: crop.name for crop in CROPS}
        assert [known[code] for code in layer["crop_code"]] == list(layer["crop_name"])
    assert "hemp" not in set(layers[2022]["crop_name"])
    assert set(layers[2022]["region"]) == {"plateau", "valley"}
    assert (layers[2022]["crop_code"] != layers[2023]["crop_code"]).mean() > 0.4


def test_labels_do_not_show_in_ids_or_shapes(region: DemoRegion):
    layer = gpd.read_file(region.parcels[2022])
    looks = {
        "order": np.arange(len(layer)),
        "area": layer.area,
        "roundness": layer.area / layer.length**2,
        "corners": shapely.get_num_coordinates(layer.geometry),
    }
    groups = layer.groupby("crop_code").indices.values()
    for values in looks.values():
        assert kruskal(*(np.asarray(values)[rows] for rows in groups)).pvalue > 1e-3


def test_summer_fields_are_plausible(region: DemoRegion):
    """On the clearest July date a growing beet or maize field is green and harvested barley is not."""
    layer = gpd.read_file(region.parcels[2022])
    folders = [p for p in region.scenes.iterdir() if p.name.startswith(("202206", "202207"))]
    clearest = min(folders, key=lambda p: json.loads((p / "metadata.json").read_text())["cloud_cover"])
    points = shapely.get_coordinates(shapely.point_on_surface(layer.geometry))
    values = {}
    for name in ("B04", "B08"):
        with rasterio.open(clearest / f"{name}.tif") as raster:
            numbers = np.array([v[0] for v in raster.sample(points)], float)
            values[name] = numbers * raster.scales[0] + raster.offsets[0]
    ndvi = (values["B08"] - values["B04"]) / (values["B08"] + values["B04"])
    assert np.median(ndvi[layer["crop_name"] == "grain maize"]) > 0.6
    assert np.median(ndvi[layer["crop_name"] == "winter barley"]) < 0.5


def test_nothing_is_left_behind_when_interrupted(tmp_path: Path):
    class Impatient(Silent):
        def task(self, description, total):
            if description == "Taking scenes":
                raise KeyboardInterrupt
            return super().task(description, total)

    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "region", parcels=60, years=(2021,), report=Impatient())
    assert list(tmp_path.iterdir()) == []
    assert not pyogrio.get_gdal_config_option("OGR_CURRENT_DATE")


def test_an_existing_folder_is_kept(tmp_path: Path):
    kept = tmp_path / "region" / "mine.txt"
    kept.parent.mkdir()
    kept.write_text("mine")
    with pytest.raises(OutputExistsError):
        make_demo(tmp_path / "region", parcels=60)
    assert kept.read_text() == "mine"


@pytest.mark.parametrize(("parcels", "years"), [(10, (2021,)), (60, ()), (60, (2021, 2023)), (60, (1900,))])
def test_what_cannot_be_simulated_is_refused(tmp_path: Path, parcels: int, years: tuple[int, ...]):
    with pytest.raises(UsageError):
        make_demo(tmp_path / "region", parcels=parcels, years=years)
