"""Leaves, canopies and viewing: limits that are known exactly, and published spectra."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropgen.datasets.demo.canopy import canopy_reflectance, soil_reflectance
from cropgen.datasets.demo.leaf import LeafTraits, leaf_optics, surface_transmissivity
from cropgen.datasets.demo.spectra import DRY_SOIL, WET_SOIL
from cropgen.datasets.demo.viewing import ORBITS, li_sparse, ross_thick, sun_position, view_factor


def traits(layers=1.5, chlorophyll=45.0, carotenoids=10.0, brown=0.0, water=0.015, dry_matter=0.006) -> LeafTraits:
    return LeafTraits(*(np.float64(v) for v in (layers, chlorophyll, carotenoids, brown, water, dry_matter)))


@pytest.mark.parametrize(
    ("leaf", "reflectance", "transmittance"),
    [  # PROSPECT-D as its authors distribute it, nanometre by nanometre, then averaged over each band
        (
            traits(),
            [0.1237, 0.0378, 0.4114, 0.4547, 0.4547, 0.4544, 0.2847, 0.1316],
            [0.1209, 0.0091, 0.4404, 0.4873, 0.4871, 0.4867, 0.3674, 0.2200],
        ),
        (
            traits(2.1, 20.0, 5.0, 0.5, 0.008, 0.010),
            [0.2003, 0.0797, 0.4393, 0.4782, 0.4959, 0.5050, 0.3833, 0.2046],
            [0.1029, 0.0265, 0.3100, 0.3464, 0.3618, 0.3699, 0.3163, 0.1879],
        ),
        (
            traits(1.3, 5.0, 2.0, 1.0, 0.003, 0.005),
            [0.1361, 0.1216, 0.3046, 0.3433, 0.3734, 0.3896, 0.3413, 0.2180],
            [0.1801, 0.1709, 0.3971, 0.4429, 0.4756, 0.4932, 0.5051, 0.4066],
        ),
    ],
)
def test_prospect_equals_the_reference_in_smooth_bands(leaf, reflectance, transmittance):
    smooth = [1, 2, 4, 5, 6, 7, 8, 9]  # B02 and B05 lie on steep slopes, where a band mean is not the mean's band
    r, t = leaf_optics(leaf)
    np.testing.assert_allclose(r[smooth], reflectance, atol=0.0035)
    np.testing.assert_allclose(t[smooth], transmittance, atol=0.0035)


def test_a_surface_of_index_one_lets_everything_through():
    np.testing.assert_allclose(surface_transmissivity(40.0, np.array([1.0])), 1.0, atol=1e-12)


def test_nearly_normal_light_follows_fresnel():
    n = np.array([1.4, 1.5])
    np.testing.assert_allclose(surface_transmissivity(1.0, n), 4 * n / (n + 1) ** 2, rtol=1e-5)


@given(
    st.floats(1.0, 3.0), st.floats(0.5, 90.0), st.floats(0.0, 20.0), st.floats(0.0, 1.0), st.floats(0.0005, 0.05),
    st.floats(0.001, 0.02),
)  # fmt: skip
def test_a_leaf_conserves_energy(layers, chlorophyll, carotenoids, brown, water, dry_matter):
    r, t = leaf_optics(traits(layers, chlorophyll, carotenoids, brown, water, dry_matter))
    assert (r > 0).all()
    assert (t > 0).all()
    assert (r + t < 1).all()


def test_water_darkens_only_the_short_wave_infrared():
    dry, wet = leaf_optics(traits(water=0.005))[0], leaf_optics(traits(water=0.03))[0]
    np.testing.assert_allclose(dry[:5], wet[:5], atol=2e-3)
    assert (dry[8:] - wet[8:] > 0.05).all()


def canopy(area: float) -> np.ndarray:
    r, t = leaf_optics(traits())
    return canopy_reflectance(r, t, DRY_SOIL, np.float64(area), np.float64(0.5))


def test_no_leaves_show_the_soil_and_many_hide_it():
    np.testing.assert_allclose(canopy(0.0), DRY_SOIL, rtol=1e-12)
    r, t = leaf_optics(traits())
    over_dark = canopy_reflectance(r, t, WET_SOIL, np.float64(60.0), np.float64(0.5))
    np.testing.assert_allclose(canopy(60.0), over_dark, atol=1e-6)


def test_black_leaves_absorb_after_beer():
    """Leaves that scatter nothing: the soil is seen through e^(−2KL)."""
    black = np.zeros(10)
    seen = canopy_reflectance(black, black, DRY_SOIL, np.float64(1.2), np.float64(0.7))
    np.testing.assert_allclose(seen, DRY_SOIL * np.exp(-2 * np.sqrt(1 - 0.0) * 0.7 * 1.2), rtol=1e-12)


def test_growth_darkens_red_and_brightens_near_infrared():
    steps = np.array([canopy(area) for area in (0.0, 0.5, 1.0, 2.0, 4.0)])
    assert (np.diff(steps[:, 2]) < 0).all()
    assert (np.diff(steps[:, 6]) > 0).all()


def test_soil_lies_between_dry_and_wet():
    one = np.ones(1)
    np.testing.assert_allclose(soil_reflectance(one, 0 * one, 0 * one)[0], DRY_SOIL)
    np.testing.assert_allclose(soil_reflectance(one, one, 0 * one)[0], WET_SOIL)


def test_kernels_vanish_for_a_vertical_sun_seen_from_above():
    assert ross_thick(0.0, 0.0, 0.0) == pytest.approx(0.0, abs=1e-12)
    assert li_sparse(0.0, 0.0, 0.0) == pytest.approx(0.0, abs=1e-12)


def test_kernels_do_not_change_when_sun_and_view_are_exchanged():
    assert ross_thick(0.7, 0.2, 1.1) == pytest.approx(ross_thick(0.2, 0.7, 1.1))
    assert li_sparse(0.7, 0.2, 1.1) == pytest.approx(li_sparse(0.2, 0.7, 1.1))


def test_the_sun_stands_highest_at_the_solstice_in_the_south_east_before_noon():
    zenith, azimuth = sun_position(172, ORBITS[0].hour)
    assert zenith == pytest.approx(48.6 - 23.44, abs=5)
    assert 120 < azimuth < 180
    assert sun_position(355, ORBITS[0].hour)[0] > 70


def test_the_two_orbits_see_the_same_field_a_few_percent_apart():
    first, second = (view_factor(orbit, 172) for orbit in ORBITS)
    assert (np.abs(first - second) > 0.01).all()
    assert (np.abs(first - second) < 0.15).all()
