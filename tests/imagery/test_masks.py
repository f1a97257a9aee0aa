"""Cloud masks: which layers are looked at, and how clouds grow on the mask's own grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cropgen.core.errors import SchemaError
from cropgen.core.progress import Silent
from cropgen.imagery.aggregate import AggregateOptions, aggregate
from cropgen.imagery.masks import CloudMask, grown, probability_band
from cropgen.imagery.scene import Acquisition
from cropgen.imagery.sources import open_scenes
from cropgen.series.store import SeriesStore
from tests.imagery.scene_files import square, write_date, write_parcels, write_raster

VEGETATION, SNOW, CLOUD = 4, 11, 9


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.floats(0, 4.2), st.floats(0, 4.2))
def test_spots_grow_to_ellipses(seed, down, across):
    spots = np.random.default_rng(seed).random((9, 12)) < 0.05
    rows, columns = np.indices(spots.shape)
    expected = spots.copy()
    for r, c in zip(*np.nonzero(spots), strict=True):
        far = ((rows - r) / max(down, 1e-12)) ** 2 + ((columns - c) / max(across, 1e-12)) ** 2
        expected |= far <= 1 + 1e-12
    np.testing.assert_array_equal(grown(spots, down, across), expected)


@pytest.mark.parametrize("shape", [(3, 10), (10, 3), (1, 1), (0, 4)])
def test_spots_may_grow_beyond_the_raster(shape):
    spots = np.zeros(shape, bool)
    spots[:1, :1] = True
    assert grown(spots, 40.5, 40.5).all()


def acquisition(tmp_path, bands) -> Acquisition:
    write_date(tmp_path / "s" / "20210605", bands)
    return open_scenes(tmp_path / "s", Silent()).acquisitions[0]


def test_clouds_grow_and_snow_does_not(tmp_path):
    scl = np.full((7, 7), VEGETATION)
    scl[1, 1], scl[5, 5] = CLOUD, SNOW
    found = acquisition(tmp_path, {"B04": np.full((14, 14), 2000), "SCL": scl})
    layer = found.layers["SCL"]
    whole = layer.grid.window(layer.grid.bounds)
    near = CloudMask((VEGETATION,), dilation=20).clear(found, layer.grid, whole)
    expected = np.ones((7, 7), bool)
    expected[1, 0:3] = expected[0:3, 1] = expected[5, 5] = False
    np.testing.assert_array_equal(near, expected)
    diagonal = CloudMask((VEGETATION,), dilation=28.3).clear(found, layer.grid, whole)
    expected[0:3, 0:3] = False
    np.testing.assert_array_equal(diagonal, expected)
    cloudy = CloudMask((VEGETATION, CLOUD), dilation=50).clear(found, layer.grid, whole)
    assert np.argwhere(~np.asarray(cloudy)).tolist() == [[5, 5]]


def test_clouds_beyond_the_window_that_is_read_grow_into_it(tmp_path):
    scl = np.full((8, 8), VEGETATION)
    scl[2, 2] = CLOUD
    found = acquisition(tmp_path, {"B04": np.full((16, 16), 2000), "SCL": scl})
    mask, fine = CloudMask((VEGETATION,), dilation=45), found.layers["B04"].grid
    whole = np.asarray(mask.clear(found, fine, fine.window(fine.bounds)))
    for top, left in ((0, 0), (6, 0), (8, 6), (7, 7)):
        window = type(fine.window(fine.bounds))(top, 16, left, 16)
        np.testing.assert_array_equal(mask.clear(found, fine, window), whole[top:, left:])


def test_cloud_probability(tmp_path):
    place = tmp_path / "s" / "20210605"
    write_raster(place / "B04.tif", np.full((2, 4), 3000, "uint16"))
    share = np.array([[10, 60]], "uint8")
    write_raster(place / "MSK_CLDPRB_20m.tif", share, 20, nodata=None, scale=1, offset=0)
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 20, 20), "b": square(20, 0, 40, 20)})
    options = AggregateOptions(buffer=0, min_share=0, clear=(), cloud_probability=60)
    for largest, seen in ((60.0, [4, 4]), (59.0, [4, 0]), (9.0, [0, 0])):
        chosen = options.model_copy(update={"cloud_probability": largest})
        aggregate(tmp_path / "s", parcels, tmp_path / "o.zarr", chosen, Silent(), overwrite=True)
        pixels = SeriesStore.open(tmp_path / "o.zarr").read().pixels
        assert pixels is not None
        assert pixels[:, 0].tolist() == seen
    grow = options.model_copy(update={"cloud_probability": 59.0, "dilate": 20.0})
    aggregate(tmp_path / "s", parcels, tmp_path / "o.zarr", grow, Silent(), overwrite=True)
    assert not SeriesStore.open(tmp_path / "o.zarr").read().mask.any()


def test_a_probability_that_is_missing_does_not_grow(tmp_path):
    share = np.full((4, 4), 10, "uint8")
    share[0, 0], share[3, 3] = 255, 90
    write_raster(tmp_path / "s" / "20210605" / "B04.tif", np.full((8, 8), 3000, "uint16"))
    write_raster(tmp_path / "s" / "20210605" / "CLDPRB.tif", share, 20, nodata=255, scale=1, offset=0)
    (found,) = open_scenes(tmp_path / "s", Silent()).acquisitions
    grid = found.layers["CLDPRB"].grid
    seen = CloudMask((), 40.0, dilation=20).clear(found, grid, grid.window(grid.bounds))
    assert np.argwhere(~np.asarray(seen)).tolist() == [[0, 0], [2, 3], [3, 2], [3, 3]]


@pytest.mark.parametrize(("name", "pixels"), [("CLP", 3), ("CLD", 2)])
def test_clp_counts_to_255(tmp_path, name, pixels):
    write_raster(tmp_path / "s" / "20210605" / "B04.tif", np.full((2, 4), 3000, "uint16"))
    stored = np.array([[0, 40, 102, 103]], "uint8")
    write_raster(tmp_path / "s" / "20210605" / f"{name}.tif", stored, nodata=None, scale=1, offset=0)
    (found,) = open_scenes(tmp_path / "s", Silent()).acquisitions
    grid = found.layers[name].grid
    seen = CloudMask((), 40.0).clear(found, grid, grid.window(grid.bounds))
    assert seen is not None
    assert seen.sum() == pixels


def test_a_probability_that_is_not_there_is_told(tmp_path, scene):
    scenes = scene({"20210605": {"B04": np.full((2, 2), 3000), "SCL": np.full((1, 1), VEGETATION)}})
    parcels = write_parcels(tmp_path / "p.gpkg", {"a": square(0, 0, 20, 20)})
    with pytest.raises(SchemaError, match="cloud probability"):
        aggregate(scenes, parcels, tmp_path / "o.zarr", AggregateOptions(cloud_probability=40), Silent())


@pytest.mark.parametrize("name", ["MSK_CLDPRB_20m", "CLDPRB", "CLD_20m", "CLP", "cloud_probability", "Cloud"])
def test_names_of_probability_bands(name):
    assert probability_band(Acquisition("a", 0, {"B04": None, name: None})) == name  # type: ignore[dict-item]


def test_other_bands_are_no_probability():
    assert probability_band(Acquisition("a", 0, {"B04": None, "SCL": None, "CLOUDINESS": None})) is None  # type: ignore[dict-item]
