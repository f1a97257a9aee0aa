"""Further channels against numbers computed by hand: weather, relief and backscatter at the dates of the parcels."""

from __future__ import annotations

from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import xarray

from cropgen.api.data import aggregate
from cropgen.core.errors import CropgenError, MissingInputError, SchemaError, UsageError
from cropgen.core.paths import Workspace
from cropgen.core.progress import Silent
from cropgen.imagery.backscatter import open_backscatter
from cropgen.imagery.channels import Addition, joined
from cropgen.imagery.options import AggregateOptions
from cropgen.imagery.relief import open_relief, slope
from cropgen.imagery.weather import Weather, open_weather
from cropgen.series.schema import ParcelSeries
from cropgen.series.store import SeriesStore
from tests.imagery.scene_files import NORTH, UTM, WEST, square, write_date, write_parcels, write_raster

JUNE = int(np.datetime64("2021-06-01", "D").astype(int))


def series(days: list[list[int]], **more: object) -> ParcelSeries:
    n, t = len(days), len(days[0])
    facts = {"parcel_id": [str(i) for i in range(n)], "lon": np.zeros(n), "lat": np.zeros(n)} | more
    return ParcelSeries.build(
        bands=("B04",), values=np.full((n, t, 1), 0.2), mask=np.ones((n, t)), day=JUNE + np.array(days), year=2021,
        **facts,  # type: ignore[arg-type]
    )  # fmt: skip


def daily(values: list[float], **more: object) -> Weather:
    return Weather("w.csv", ("temperature",), JUNE, np.array(values)[:, None, None], **more)  # type: ignore[arg-type]


def test_weather_is_the_mean_of_the_ten_days_up_to_a_date() -> None:
    found = daily([float(v) for v in range(20)]).at(series([[0, 4, 9, 14, 19]]))[0, :, 0]
    assert found.tolist() == [0, 2, 4.5, 9.5, 14.5]


def test_days_without_weather_are_left_out_of_the_mean_and_a_window_without_any_is_unknown() -> None:
    found = daily([10.0, np.nan, 20.0]).at(series([[-1, 1, 2, 11, 12]]))[0, :, 0]
    np.testing.assert_array_equal(found, np.array([np.nan, 10, 15, 20, np.nan], np.float32))


def test_weather_of_the_nearest_place_or_of_the_parcel_itself() -> None:
    values = np.array([[[1.0], [2.0], [3.0]]])
    lon, lat = np.array([0.0, 10.0, 179.5]), np.array([0.0, 50.0, 0.0])
    rows = series([[0], [0], [0], [0]], lon=np.array([0.4, 9.0, -179.0, np.nan]), lat=np.array([0.1, 51.0, 0.0, 0.0]))
    nearest = Weather("w", ("temperature",), JUNE, values, lon, lat).at(rows)[:, 0, 0]
    np.testing.assert_array_equal(nearest, np.array([1, 2, 3, np.nan], np.float32))
    own = Weather("w", ("temperature",), JUNE, values, parcel_id=np.array(["2", "0", "x"])).at(rows)[:, 0, 0]
    np.testing.assert_array_equal(own, np.array([2, np.nan, 1, np.nan], np.float32))


def test_tables_and_grids_of_weather_agree(tmp_path: Path) -> None:
    day = pd.date_range("2021-06-01", periods=3)
    celsius = np.arange(12.0).reshape(3, 2, 2)
    grid = xarray.Dataset(
        {"t2m": (("time", "latitude", "longitude"), celsius + 273.15, {"units": "K"}),
         "tp": (("time", "latitude", "longitude"), celsius / 1000, {"units": "m"})},
        coords={"time": day, "latitude": [51.0, 50.0], "longitude": [3.0, 4.0]},
    )  # fmt: skip
    grid.to_netcdf(tmp_path / "w.nc", engine="h5netcdf")
    table = [(d.date(), lat, lon, celsius[i, j, k], celsius[i, j, k]) for i, d in enumerate(day)
             for j, lat in enumerate((51.0, 50.0)) for k, lon in enumerate((3.0, 4.0))]  # fmt: skip
    frame = pd.DataFrame(table, columns=["Date", "lat", "lon", "TMEAN", "Rain"])
    frame.to_csv(tmp_path / "w.csv", index=False)
    rows = series([[0, 2], [1, 2]], lon=np.array([3.1, 3.9]), lat=np.array([50.9, 50.1]))
    for name in ("w.nc", "w.csv"):
        weather = open_weather(tmp_path / name)
        assert weather.bands == ("temperature", "precipitation")
        expected = [[0, 4], [5, 7]]
        np.testing.assert_allclose(weather.at(rows), np.stack([expected, expected], -1), atol=1e-4)


def test_dates_of_weather_may_be_written_as_whole_numbers(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("date,temperature\n20210601,3\n20210602,5\n")
    assert open_weather(path).at(series([[0, 1]]))[0, :, 0].tolist() == [3, 4]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_days_of_weather_are_those_of_its_own_clocks(tmp_path: Path, kind: str) -> None:
    day = pd.date_range("2021-03-27", periods=3, tz="Europe/Paris")
    frame, path = pd.DataFrame({"date": day, "temperature": [1.0, 2, 3]}), tmp_path / f"w.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    found = open_weather(path)
    assert np.datetime64(found.first, "D") == np.datetime64("2021-03-27")
    assert found.values.ravel().tolist() == [1, 2, 3]


def test_weather_that_cannot_be_used_says_why(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    with pytest.raises(MissingInputError):
        open_weather(path)
    for text, said in (
        ("date,wind\n2021-06-01,3\n", "temperature or precipitation"),
        ("when,temperature\n2021-06-01,3\n", "a date"),
        ("date,temperature\nsoon,3\n", "no date in some lines"),
        ("date,temperature\n05/06/2021,3\n06/06/2021,4\n", "no date in some lines"),
        ("date,temperature\n20210601,3\n20219901,3\n", "no date in some lines"),
        ("date,temperature\n2021-06-01,3\n2021-06-01,4\n", "several lines for one day"),
        ("date,temperature\n2021-06-01,3\n2021-06-02,-\n", "column temperature: expected numbers, got '-' in 1 lines"),
        ("date,lon,lat,temperature\n2021-06-01,west,50,3\n", "column lon: expected numbers, got 'west'"),
        ("date,lon,lat,temperature\n2021-06-01,,50,3\n", "lon and lat in degrees in every line, got nan and 50"),
        ("date,parcel_id,temperature\n2021-06-01,,3\n", "parcel_id is empty in some lines"),
    ):
        path.write_text(text)
        with pytest.raises(SchemaError, match=said):
            open_weather(path)


def weather_grid(path: Path, name: str, value: float, unit: str, x: tuple[float, float] = (3.0, 4.0)) -> Path:
    """One value at two places on the first of June."""
    xarray.Dataset(
        {name: (("time", "y", "x"), np.full((1, 1, 2), value), {"units": unit})},
        coords={"time": pd.date_range("2021-06-01", periods=1), "y": [51.0], "x": list(x)},
    ).to_netcdf(path, engine="h5netcdf")
    return path


@pytest.mark.parametrize(
    ("name", "value", "units", "expected"),
    [
        ("t2m", 280.0, ("K", "kelvin", "Kelvin", "degK", "degrees_kelvin"), 6.85),
        ("t2m", 6.85, ("C", "degC", "degree_Celsius", "celsius", "°C", ""), 6.85),
        ("tp", 0.01, ("m", "metre", "meters", "m/day", "m day**-1"), 10.0),
        ("tp", 10.0, ("mm", "mm/day", "mm d-1", "mm day^-1", "millimeter", "kg m-2", "kg m**-2", "kg/m2", ""), 10.0),
    ],
)
def test_units_of_grids(tmp_path: Path, name, value, units, expected) -> None:
    for number, unit in enumerate(units):
        weather = open_weather(weather_grid(tmp_path / f"{number}.nc", name, value, unit))
        np.testing.assert_allclose(weather.values, expected, rtol=1e-6, err_msg=unit)


def test_grids_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    for number, (name, unit) in enumerate((("t2m", "degF"), ("tp", "kg m-2 s-1"), ("tp", "mm/hr"), ("t2m", "mm"))):
        path = weather_grid(tmp_path / f"{number}.nc", name, 1.0, unit)
        with pytest.raises(SchemaError, match=f"got units '{unit}'"):
            open_weather(path)
    with pytest.raises(SchemaError, match="in degrees in every line, got 500000 and 51"):
        open_weather(weather_grid(tmp_path / "utm.nc", "t2m", 280.0, "K", (500_000.0, 501_000.0)))


def test_ids_of_weather_are_text_and_stations_have_positions(tmp_path: Path) -> None:
    path = tmp_path / "w.csv"
    path.write_text("date,Parcel_ID,temperature\n2021-06-01,001,5\n2021-06-01,1,6\n")
    rows = series([[0], [0]], parcel_id=["001", "1"])
    assert open_weather(path).at(rows)[:, 0, 0].tolist() == [5, 6]
    path.write_text("date,id,temperature\n2021-06-01,001,5\n2021-06-01,1,6\n")
    assert open_weather(path).at(rows)[:, 0, 0].tolist() == [5, 6]
    pd.DataFrame({"date": ["2021-06-01"] * 2, "id": [7.0, 8.0], "temperature": [5, 6]}).to_parquet(
        tmp_path / "w.parquet"
    )
    rows_of_numbers = series([[0], [0]], parcel_id=["8", "7"])
    assert open_weather(tmp_path / "w.parquet").at(rows_of_numbers)[:, 0, 0].tolist() == [6, 5]
    path.write_text("date,id,lon,lat,temperature\n2021-06-01,17,0,0,5\n2021-06-01,18,9,9,6\n")
    assert open_weather(path).at(rows)[:, 0, 0].tolist() == [5, 5]


def test_slopes_by_hand() -> None:
    plane = np.add.outer(3.0 * np.arange(3), 4.0 * np.arange(3))
    z = np.stack([np.full((3, 3), 7.0), plane, plane])
    found = slope(z, np.array([10.0, 10.0, 4.0]), np.array([10.0, 10.0, 3.0]))
    np.testing.assert_allclose(found, [0, np.degrees(np.arctan(0.5)), np.degrees(np.arctan(np.sqrt(2)))])


def test_relief_at_a_point_of_each_parcel(tmp_path: Path) -> None:
    height = (100 + np.add.outer(np.zeros(6), 20.0 * np.arange(6))).astype("float32")
    height[5, 5] = -9999
    path = write_raster(tmp_path / "dem.tif", height, 20, nodata=-9999, scale=1, offset=0)
    east, south = np.array([50.0, 90, 10, 900]), np.array([50.0, 90, 50, 50])
    place = gpd.GeoSeries(shapely.points(WEST + east, NORTH - south), crs=UTM).to_crs(4326)
    found = open_relief(path).here(place.x.to_numpy(), place.y.to_numpy())
    np.testing.assert_allclose(found[0], [140, 45], atol=1e-4)
    assert found[1, 0] == pytest.approx(180)
    assert np.isnan(found[1, 1])
    assert np.isnan(found[2:]).all()


def test_a_date_about_which_nothing_is_known_is_masked() -> None:
    rows = series([[0, 50]])
    found = joined(rows, [daily([10.0])])
    assert found.bands == ("B04", "temperature")
    assert found.mask.tolist() == [[True, False]]
    np.testing.assert_allclose(found.values[0], [[0.2, 10], [0, 0]], atol=1e-6)


def test_channels_are_joined_to_an_aggregated_series(tmp_path: Path) -> None:
    red, vv = np.full((6, 6), 3000.0), np.full((6, 6), 0.1)
    for date in ("20210605", "20210615"):
        write_date(tmp_path / "scenes" / date, {"B04": red, "SCL": np.full((3, 3), 4)})
    for date, power in (("20210601", vv), ("20210611", 0.01 * vv / 0.1)):
        for name, factor in (("VV", 1.0), ("VH", 0.1)):
            write_raster(
                tmp_path / "radar" / date / f"{name}.tif", (power * factor).astype("float32"), scale=1, offset=0
            )
    write_raster(tmp_path / "dem.tif", np.full((6, 6), 50, "float32"), 20, west=WEST - 30, nodata=-1, scale=1, offset=0)
    (tmp_path / "w.csv").write_text("date,temperature\n" + "".join(f"2021-06-{d:02d},{d}\n" for d in range(1, 21)))
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 60, 60)})
    add = [f"s1={tmp_path / 'radar'}", f"weather={tmp_path / 'w.csv'}", f"dem={tmp_path / 'dem.tif'}"]
    result = aggregate(
        Workspace(tmp_path / "ws"), tmp_path / "scenes", [parcels], name="all", add=add,
        options={"buffer": 0.0, "min_pixels": 1, "pixels": 3},
    )  # fmt: skip
    store = SeriesStore.open(result.series)
    assert store.bands == ("B04", "VV", "VH", "temperature", "elevation", "slope")
    assert [facts["kind"] for facts in store.source["channels"]] == ["s1", "weather", "relief"]
    found = store.read(pixel_bands=store.pixel_bands)
    expected = [[0.2, -14, -24, 3, 50, 0], [0.2, -20, -30, 10.5, 50, 0]]
    np.testing.assert_allclose(found.values[0], expected, atol=1e-4)
    assert found.pixel_sets is not None
    assert found.pixel_sets.bands == ("B04",)
    assert found.pixel_sets.mask.all()
    assert store.geometry() is not None
    assert [path.name for path in result.series.parent.iterdir()] == ["series.zarr"]


def test_beside_the_swath_is_no_power(tmp_path: Path) -> None:
    for date in ("20210601", "20210611"):
        power = np.full((6, 6), 0.1, "float32")
        power[:, 3:] = 0
        write_raster(tmp_path / "radar" / date / "VV.tif", power, nodata=None, scale=1, offset=0)
        write_raster(tmp_path / "radar" / date / "VH.tif", power, nodata=None, scale=1, offset=0)
    parcels = write_parcels(tmp_path / "p.gpkg", {"half": square(0, 0, 60, 60), "none": square(30, 0, 60, 60)})
    rows, plain = series([[4], [4]], parcel_id=["half", "none"]), AggregateOptions(buffer=0)
    with open_backscatter(tmp_path / "radar", [parcels], plain, tmp_path / "s.zarr", Silent(), decibels=False) as found:
        np.testing.assert_allclose(found.at(rows)[:, 0], [[-10, -10], [np.nan, np.nan]], atol=1e-4)


def test_what_is_added_is_named_by_kind_and_path(tmp_path: Path) -> None:
    assert Addition.parse("dem=a=b.tif") == Addition("dem", Path("a=b.tif"))
    for text in ("dem", "soil=x.tif", "dem=", "=x"):
        with pytest.raises(UsageError, match="KIND=PATH"):
            Addition.parse(text)
    with pytest.raises(CropgenError, match="dem"):
        Addition.parse(f"dem={tmp_path / 'none.tif'}").check()
