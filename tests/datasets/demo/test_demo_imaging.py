"""Land, pixels and clouds."""

from __future__ import annotations

import numpy as np
import pytest
import shapely

from cropgen.datasets.demo import clouds
from cropgen.datasets.demo.landscape import divide_land
from cropgen.datasets.demo.sensor import digital_numbers, halved, mixing_matrix, render, smooth_field
from cropgen.datasets.demo.spectra import BANDS

SUN = (40.0, 160.0)


@pytest.fixture(scope="module")
def land():
    return divide_land(120, np.random.default_rng(2))


def test_fields_are_valid_apart_and_as_many_as_asked(land):
    assert len(land.fields) == 120
    assert shapely.is_valid(land.fields).all()
    assert set(shapely.get_type_id(land.fields)) == {shapely.GeometryType.POLYGON}
    touching = shapely.STRtree(land.fields).query(land.fields, predicate="intersects")
    assert (touching[0] == touching[1]).all(), "verges and roads lie between fields"
    assert not shapely.intersects(land.fields, land.river).any()


def test_fields_are_not_rectangles_and_vary_in_size(land):
    area = shapely.area(land.fields)
    assert area.min() > 1_500
    assert np.quantile(area, 0.9) > 1.8 * np.quantile(area, 0.1)
    boxed = area / shapely.area(shapely.oriented_envelope(land.fields))
    assert np.median(boxed) < 0.97


def test_the_order_of_fields_says_nothing_of_their_place(land):
    points = shapely.get_coordinates(shapely.centroid(land.fields))
    jump = np.hypot(*np.diff(points, axis=0).T).mean()
    spread = np.hypot(*(points - points.mean(0)).T).mean()
    assert jump > spread, "neighbours in the list are neighbours on the ground"


def test_weights_sum_to_one_and_pixels_inside_are_pure():
    fine = np.zeros((24, 24), int)
    fine[:, 12:] = 1
    mixing = mixing_matrix(fine, 2).toarray().reshape(12, 12, 2)
    np.testing.assert_allclose(mixing.sum(-1), 1.0, rtol=1e-5)
    np.testing.assert_allclose(mixing[:, :4, 0], 1.0, rtol=1e-5)
    assert 0.6 < mixing[5, 5, 0] < 0.95, "the pixel beside the border sees across it"
    np.testing.assert_allclose(mixing[..., 0], mixing[:, ::-1, 1], rtol=1e-5)


def test_render_is_first_order_in_texture():
    spectra = np.array([[[0.2, 0.4], [0.1, -0.1], [0.05, 0.0]]])
    mixing = mixing_matrix(np.zeros((4, 4), int), 1)
    image = render(mixing, spectra, np.full((2, 2), 0.5, np.float32), np.full((2, 2), -1.0, np.float32))
    np.testing.assert_allclose(image[1, 1], [0.2 + 0.05 - 0.05, 0.4 - 0.05], rtol=1e-5)


def test_digital_numbers_carry_scale_and_offset():
    generator = np.random.default_rng(0)
    numbers = digital_numbers(np.full((200, 200, 1), 0.25, np.float32), generator)
    assert numbers.dtype == np.uint16
    assert numbers.mean() == pytest.approx(3500, abs=1)
    assert digital_numbers(np.full((2, 2, 1), -0.5, np.float32), generator).min() == 1, "0 is kept for no data"


def test_halved_averages_four_pixels():
    np.testing.assert_array_equal(halved(np.array([[1.0, 3.0], [5.0, 7.0]])), [[4.0]])


@pytest.mark.parametrize("length", [1.0, 3.0, 12.0])
def test_smooth_fields_are_standard_and_smooth(length):
    field = smooth_field((160, 140), length, np.random.default_rng(0))
    assert field.shape == (160, 140)
    assert field.mean() == pytest.approx(0, abs=0.3)
    assert field.std() == pytest.approx(1, abs=0.25)
    step = np.abs(np.diff(field, axis=0)).mean()
    assert step < 1.6 / length


def test_clouds_cover_about_what_was_asked():
    share = [
        (clouds.draw_sky(200, 0.3, SUN, 0.0, np.random.default_rng(seed)).opacity > 0).mean() for seed in range(12)
    ]
    assert np.mean(share) == pytest.approx(0.3, abs=0.08)


def test_a_clear_sky_shows_the_ground_but_for_the_veil():
    sky = clouds.draw_sky(64, 0.0, SUN, 0.0, np.random.default_rng(0))
    ground = np.full((64, 64, len(BANDS)), 0.2, np.float32)
    seen = clouds.through(sky, ground, BANDS)
    assert sky.opacity.max() == sky.shadow.max() == 0
    np.testing.assert_allclose(seen[sky.veil == 0], 0.2, atol=1e-6)


def test_shadows_lie_away_from_the_sun():
    """Sun in the south: the shadow of a cloud lies to its north, which is up."""
    sky = clouds.draw_sky(300, 0.15, (45.0, 180.0), 0.0, np.random.default_rng(4))
    lag = [
        (sky.opacity[: 300 - d, :] * sky.shadow[d:, :]).sum() - (sky.opacity[d:, :] * sky.shadow[: 300 - d, :]).sum()
        for d in range(3, 25)
    ]
    assert np.sum(lag) < 0


def test_clouds_are_bright_and_shadows_dark():
    ones = np.ones((1, 1), np.float32)
    ground = np.full((1, 1, len(BANDS)), 0.25, np.float32)
    cloudy = clouds.through(clouds.Sky(ones, 0 * ones, 0 * ones, 0 * ones), ground, BANDS)
    shaded = clouds.through(clouds.Sky(0 * ones, 0 * ones, ones, 0 * ones), ground, BANDS)
    assert (cloudy > 0.3).all()
    assert (shaded < 0.12).all()


def test_the_classification_is_mostly_right_and_not_always():
    found, missed, total = 0, 0, 0
    for seed in range(8):
        generator = np.random.default_rng(seed)
        sky = clouds.on_twenty_metres(clouds.draw_sky(240, 0.35, SUN, 0.004, generator))
        ground = np.broadcast_to(np.array([0.04, 0.07, 0.05, 0.40], np.float32), (*sky.opacity.shape, 4))
        scl = clouds.classify(sky, ground, generator)
        clear = np.isin(scl, (clouds.VEGETATION, clouds.SOIL))
        thick, touched = sky.opacity > 0.6, sky.opacity > 0.02
        found += (thick & ~clear).sum()
        total += thick.sum()
        missed += (touched & clear).sum()
    assert found / total > 0.98
    assert missed > 0
