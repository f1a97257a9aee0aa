"""Cubes: NetCDF and zarr, the layouts back-ends write, and the real stacks."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import rasterio
import rasterio.features
import shapely
import xarray as xr
from pyproj import CRS

from cropgen.core.errors import CorruptInputError, CropgenError, SchemaError
from cropgen.core.progress import Silent
from cropgen.imagery.aggregate import AggregateOptions, aggregate
from cropgen.imagery.masks import CloudMask
from cropgen.imagery.scene import Window
from cropgen.imagery.selection import usable_acquisitions
from cropgen.imagery.sources import open_scenes
from cropgen.series.store import SeriesStore
from tests.imagery.scene_files import NORTH, UTM, WEST, square, write_parcels

TIMES = np.array(["2021-05-01T10:50:31", "2021-05-06T10:50:29", "2021-05-11T10:50:31"], "datetime64[ns]")
PLAIN = AggregateOptions(buffer=0, min_pixels=1, min_share=0)


def cube(size: float, pixels: int, bands: dict[str, np.ndarray], *, time: str = "t") -> xr.Dataset:
    """Variables over (time, y, x), coordinates at pixel centres, the coordinate system in a variable `crs`."""
    centre = (np.arange(pixels) + 0.5) * size
    variables = {name: ((time, "y", "x"), values) for name, values in bands.items()}
    data = xr.Dataset(variables, coords={time: TIMES, "y": NORTH - centre, "x": WEST + centre})
    data["crs"] = ((), 0, {"crs_wkt": CRS.from_user_input(UTM).to_wkt()})
    for name in bands:
        if name != "SCL":
            data[name].attrs["scale_factor"] = 1e-4
    return data


@pytest.fixture
def red() -> np.ndarray:
    return np.random.default_rng(0).integers(100, 5000, (3, 8, 8)).astype("uint16")


@pytest.fixture
def classes() -> np.ndarray:
    values = np.full((3, 4, 4), 4, "uint8")
    values[1] = 9
    return values


def run(scenes, tmp_path: Path, options: AggregateOptions = PLAIN):
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 40, 40), "b": square(40, 40, 80, 80)})
    output = tmp_path / "out" / "series.zarr"
    aggregate(scenes, parcels, output, options, Silent(), overwrite=True)
    return SeriesStore.open(output).read()


def expect(series, red) -> None:
    assert series.bands == ("B04",)
    assert series.mask.tolist() == [[True, True]] * 2
    mean = [[red[t, :4, :4].mean() for t in (0, 2)], [red[t, 4:, 4:].mean() for t in (0, 2)]]
    np.testing.assert_allclose(series.values[..., 0], np.array(mean) * 1e-4, rtol=1e-6)
    assert [str(np.datetime64(int(d), "D")) for d in series.day[0]] == ["2021-05-01", "2021-05-11"]


def test_two_resolutions_in_two_files_are_one_source(tmp_path, red, classes):
    (tmp_path / "c").mkdir()
    cube(10, 8, {"B04": red}).to_netcdf(tmp_path / "c" / "s2_10m.nc", engine="h5netcdf")
    cube(20, 4, {"SCL": classes}).to_netcdf(tmp_path / "c" / "s2_20m.nc", engine="h5netcdf")
    expect(run(tmp_path / "c", tmp_path), red)
    expect(run([tmp_path / "c" / "s2_10m.nc", tmp_path / "c" / "s2_20m.nc"], tmp_path), red)


@pytest.mark.parametrize("kind", ["NETCDF3_CLASSIC", "NETCDF3_64BIT"])
def test_the_classic_format(tmp_path, red, classes, kind):
    """GDAL writes it unless told otherwise; cut anywhere, the file is damaged and nothing else."""
    full = np.repeat(np.repeat(classes, 2, 1), 2, 2)
    data = cube(10, 8, {"B04": red.astype("int16"), "SCL": full.astype("int8")})
    data.to_netcdf(tmp_path / "c.nc", engine="scipy", format=kind, unlimited_dims=["t"])
    expect(run(tmp_path / "c.nc", tmp_path), red)
    content = (tmp_path / "c.nc").read_bytes()
    for length in (4, 5, 9, 30, 200, 1000, 2000, len(content) // 2, len(content) - 3):
        (tmp_path / "c.nc").write_bytes(content[:length])
        with pytest.raises(CropgenError, match=r"c\.nc"):
            run(tmp_path / "c.nc", tmp_path)


def test_numbers_that_are_stated_to_have_no_sign(tmp_path, red, classes):
    red[0, 0, 0], red[0, 1, 1] = 65535, 40_000
    data = cube(10, 8, {"B04": red.view("int16"), "SCL": classes.repeat(2, 1).repeat(2, 2).view("int8")})
    data["B04"].attrs |= {"_Unsigned": "true", "_FillValue": np.int16(-1)}
    data.to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    layer = open_scenes(tmp_path / "c.nc", Silent()).acquisitions[0].layers["B04"]
    assert layer.nodata == 65535
    np.testing.assert_array_equal(layer.read(Window(0, 8, 0, 8)), red[0])


def test_zarr_with_other_names(tmp_path, red, classes):
    full = np.repeat(np.repeat(classes, 2, 1), 2, 2)
    data = cube(10, 8, {"S2-L2A-B04": red, "S2-L2A-SCL": full}, time="timestamp")
    data["S2-L2A-SCL"].attrs.pop("scale_factor")
    data.to_zarr(tmp_path / "c.zarr", zarr_format=3, consolidated=False)
    expect(run(tmp_path / "c.zarr", tmp_path), red)


def test_band_axis_and_rows_from_the_south(tmp_path, red, classes):
    full = np.repeat(np.repeat(classes, 2, 1), 2, 2).astype("uint16")
    stacked = np.stack([red, full], 1)[:, :, ::-1]
    centre = (np.arange(8) + 0.5) * 10
    data = xr.Dataset(
        {"reflectance": (("t", "bands", "y", "x"), stacked, {"crs": UTM})},
        coords={"t": TIMES, "bands": ["B04", "SCL"], "y": NORTH - centre[::-1], "x": WEST + centre},
    )
    data.to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    expect(run(tmp_path / "c.nc", tmp_path, PLAIN.model_copy(update={"scale": 1e-4})), red)


def test_windows_and_blocks_of_dates(tmp_path, red, classes, monkeypatch):
    cube(10, 8, {"B04": red, "B08": red + 1}).to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    for values in (1, 40, 10_000):
        monkeypatch.setattr("cropgen.imagery.cube._BLOCK_VALUES", values)
        source = open_scenes(tmp_path / "c.nc", Silent())
        for t, acquisition in enumerate(source.acquisitions):
            layer = acquisition.layers["B04"]
            np.testing.assert_array_equal(layer.read(Window(2, 5, 1, 8)), red[t, 2:5, 1:8])
            np.testing.assert_array_equal(layer.read(Window(0, 8, 0, 8)), red[t])


def test_places_apart_stay_apart(tmp_path, red):
    (tmp_path / "c").mkdir()
    one = cube(10, 8, {"B04": red})
    one.to_netcdf(tmp_path / "c" / "one.nc", engine="h5netcdf")
    one.assign_coords(x=one["x"] + 1000).to_netcdf(tmp_path / "c" / "two.nc", engine="h5netcdf")
    source = open_scenes(tmp_path / "c", Silent())
    assert len(source.acquisitions) == 6
    assert len({a.layers["B04"].grid for a in source.acquisitions}) == 2


def test_cubes_of_one_name_over_two_places(tmp_path, red):
    """One of them lacks a band: only its own acquisitions are left out."""
    for folder, west, bands in (("a", 0, ("B04",)), ("b", 1000, ("B04", "B08"))):
        (tmp_path / "c" / folder).mkdir(parents=True)
        data = cube(10, 8, dict.fromkeys(bands, red))
        data.assign_coords(x=data["x"] + west).to_netcdf(tmp_path / "c" / folder / "openEO.nc", engine="h5netcdf")
    source = open_scenes(tmp_path / "c", Silent())
    assert [a.key for a in source.acquisitions][:2] == ["a/openEO 2021-05-01T10:50:31", "b/openEO 2021-05-01T10:50:31"]
    report = Silent()
    usable = usable_acquisitions(source, ("B04", "B08"), CloudMask(()), report)
    assert {a.key.partition(" ")[0] for a in usable} == {"b/openEO"}
    assert len(usable) == len(report.warnings) == 3


def test_a_time_stamp_that_is_repeated_is_an_acquisition_each_time(tmp_path, red, classes):
    """Two tiles of one datatake side by side, each without data where the other lies."""
    twice = np.stack([red[0], red[0], red[2]])
    twice[0, :, 4:] = twice[1, :, :4] = 0
    classes[1] = 4
    times = TIMES[[0, 0, 2]]
    (tmp_path / "c").mkdir()
    cube(10, 8, {"B04": twice}).assign_coords(t=times).to_netcdf(tmp_path / "c" / "s2_10m.nc", engine="h5netcdf")
    cube(20, 4, {"SCL": classes}).assign_coords(t=times).to_netcdf(tmp_path / "c" / "s2_20m.nc", engine="h5netcdf")
    keys = [a.key for a in open_scenes(tmp_path / "c", Silent()).acquisitions]
    assert keys == ["s2_10m 2021-05-01T10:50:31", "s2_10m 2021-05-01T10:50:31 (2)", "s2_10m 2021-05-11T10:50:31"]
    expect(run(tmp_path / "c", tmp_path), red)


def test_a_step_without_a_date_is_left_out(tmp_path, red):
    data = cube(10, 8, {"B04": red}).assign_coords(t=np.where([True, False, True], TIMES, np.datetime64("NaT")))
    data.to_netcdf(tmp_path / "c.nc", engine="h5netcdf")
    report = Silent()
    found = open_scenes(tmp_path / "c.nc", report).acquisitions
    assert [a.date for a in found] == ["2021-05-01", "2021-05-11"]
    np.testing.assert_array_equal(found[1].layers["B04"].read(Window(0, 8, 0, 8)), red[2])
    assert "1 steps without a date" in report.warnings[0]


def test_cube_faults(tmp_path, red):
    (tmp_path / "broken.nc").write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 50)
    with pytest.raises(CorruptInputError, match=r"broken\.nc"):
        open_scenes(tmp_path / "broken.nc", Silent())
    cube(10, 8, {"B04": red}).drop_vars("crs").to_netcdf(tmp_path / "nowhere.nc", engine="h5netcdf")
    with pytest.raises(SchemaError, match="coordinate system"):
        open_scenes(tmp_path / "nowhere.nc", Silent())
    xr.Dataset({"label": (("y", "x"), red[0])}).to_netcdf(tmp_path / "flat.nc", engine="h5netcdf")
    with pytest.raises(SchemaError, match="no band over time"):
        open_scenes(tmp_path / "flat.nc", Silent())
    uneven = cube(10, 8, {"B04": red})
    uneven.assign_coords(x=WEST + (uneven["x"] - WEST) ** 1.5).to_netcdf(tmp_path / "uneven.nc", engine="h5netcdf")
    with pytest.raises(SchemaError, match="evenly"):
        open_scenes(tmp_path / "uneven.nc", Silent())


def labelled_polygons(patch: Path) -> gpd.GeoDataFrame:
    """The crop raster of a patch as parcels of at least half a hectare."""
    with xr.open_dataset(next(patch.glob("OUTPUT*.nc")), engine="h5netcdf", mask_and_scale=False) as data:
        codes = data["CT"].to_numpy().astype("int32")
        x, y, attributes = data["x"].to_numpy(), data["y"].to_numpy(), dict(data.attrs)
    if y[1] > y[0]:
        codes, y = codes[::-1], y[::-1]
    transform = rasterio.Affine(10, 0, x[0] - 5, 0, -10, y[0] + 5)
    found = rasterio.features.shapes(codes, mask=codes > 0, transform=transform)
    shapes, values = zip(*((shapely.geometry.shape(s), int(v)) for s, v in found), strict=True)
    frame = gpd.GeoDataFrame(
        {"parcel_id": [f"p{i}" for i in range(len(shapes))], "crop_code": values},
        geometry=list(shapes), crs=int(str(attributes["epsg"])),
    )  # fmt: skip
    frame["year"] = int(str(attributes["end_date"])[:4])
    return frame[frame.area > 5000]


@pytest.mark.real
@pytest.mark.parametrize(
    ("patch", "bands"), [("00002806639B424A", 10), ("0000280849BAC91C", 10), ("000028085BF08E7E", 6)]
)
def test_real_patches(tmp_path, shared_data, patch, bands):
    folder = shared_data / "worldcereal-classification" / "patches" / patch
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    parcels = labelled_polygons(folder)
    parcels.to_file(tmp_path / "p.gpkg")
    output = tmp_path / "series.zarr"
    done = aggregate(folder, tmp_path / "p.gpkg", output, AggregateOptions(), Silent())
    series = SeriesStore.open(output).read()
    assert len(series) == len(parcels)
    assert len(series.bands) == bands
    assert done.clear_dates > 20
    clear = series.values[series.mask]
    assert clear.min() > -0.05
    assert np.quantile(clear, 0.999) < 0.8
    red_edge, short_wave = series.bands.index("B8A"), series.bands.index("B11")
    moisture = (clear[:, red_edge] - clear[:, short_wave]) / (clear[:, red_edge] + clear[:, short_wave])
    assert -0.5 < np.median(moisture) < 0.6
    if bands == 10:
        summer = (series.season_day > 120) & (series.season_day < 270) & series.mask
        red, near = (series.values[..., series.bands.index(b)] for b in ("B04", "B08"))
        index = np.where(summer, (near - red) / np.where(summer, near + red, 1), 0).max(1)
        assert np.median(index) > 0.7


@pytest.mark.real
def test_real_field_stack_agrees_with_its_own_index(tmp_path, shared_data):
    folder = shared_data / "fusets-field-stack"
    output = tmp_path / "series.zarr"
    options = AggregateOptions(bands=("B04", "B08", "NDVI"))
    aggregate(
        folder / "BIDS__demo__raw_s2_ndvi_field.nc", folder / "BIDS__demo__field.geojson", output, options, Silent()
    )
    series = SeriesStore.open(output).read()
    assert series.mask.sum() > 25
    red, near, index = series.values[series.mask].T
    np.testing.assert_allclose((near - red) / (near + red), index, atol=0.03)


@pytest.mark.real
def test_real_field_follows_its_published_index(tmp_path, shared_data):
    folder = shared_data / "fusets-field-stack"
    published = pd.read_csv(folder / "BIDS__demo__mogpr_input.csv", parse_dates=["date"]).dropna(subset=["NDVI"])
    days = published["date"].dt.tz_localize(None).to_numpy().astype("datetime64[D]").astype(int)
    options = AggregateOptions(bands=("NDVI",), buffer=0, clear=(), min_share=0, min_pixels=1)
    for method, tolerance in (("centre", 1e-6), ("coverage", 3e-3)):
        aggregate(
            folder / "BIDS__demo__raw_s2_ndvi_field.nc", folder / "BIDS__demo__field.geojson", tmp_path / "s.zarr",
            options.model_copy(update={"method": method}), Silent(), overwrite=True,
        )  # fmt: skip
        series = SeriesStore.open(tmp_path / "s.zarr").read()
        seen = series.mask[0]
        assert series.day[0, seen].tolist() == days.tolist()
        np.testing.assert_allclose(series.values[0, seen, 0], published["NDVI"], rtol=0, atol=tolerance)


@pytest.mark.real
def test_real_parcels_follow_the_pixels_of_their_patch(tmp_path, shared_data):
    folder = shared_data / "worldcereal-classification" / "patches" / "0000280849BAC91C"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent")
    parcels = labelled_polygons(folder)
    parcels.to_file(tmp_path / "p.gpkg")
    options = AggregateOptions(bands=("B04", "B08"), buffer=4, clear=(), min_share=0, min_pixels=1)
    aggregate(folder, tmp_path / "p.gpkg", tmp_path / "s.zarr", options, Silent())
    series = SeriesStore.open(tmp_path / "s.zarr").read()
    with xr.open_dataset(next(folder.glob("S2*10m*.nc")), engine="h5netcdf", mask_and_scale=False) as data:
        x, y = np.meshgrid(data["x"], data["y"])
        days = data["timestamp"].to_numpy().astype("datetime64[D]").astype(int)
        bands = np.stack([data[band].to_numpy() for band in ("B04", "B08")]).astype(float)
    shapes = parcels.set_index("parcel_id").geometry.buffer(-4)
    compared = 0
    for row in range(0, len(series), 4):
        inside = shapely.contains_xy(shapes[series.parcel_id[row]], x.ravel(), y.ravel()).reshape(x.shape)
        for t in np.flatnonzero(series.mask[row])[::5]:
            views = bands[:, days == series.day[row, t]][:, :, inside]
            pixels = views[:, int((views > 0).all(0).sum(-1).argmax())]
            valid = (pixels > 0).all(0)
            assert series.pixels[row, t] == valid.sum()
            expected = pixels[:, valid].mean(1) * 1e-4
            np.testing.assert_allclose(series.values[row, t], expected, atol=1e-6)
            compared += 1
    assert compared > 20
