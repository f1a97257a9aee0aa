"""Band names."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cropgen.series.bands import LAND_BANDS, SENTINEL2, normalise_band, order_bands


@pytest.mark.parametrize(
    ("written", "band"),
    [
        ("B2", "B02"), ("b02", "B02"), ("B8A", "B8A"), ("B08A", "B8A"), ("b8a", "B8A"), ("B8", "B08"), ("B12", "B12"),
        ("S2-L2A-B02", "B02"), ("B4_mean", "B04"), ("T31UFS_20210605T105031_B11_20m", "B11"), ("blue", "B02"),
        ("NIR", "B08"), ("red-edge-1", "B05"), ("swir16", "B11"), ("SCL", "SCL"), ("T31UFS_SCL_20m", "SCL"),
        ("OPTICAL-B8A-ts0-20m", "B8A"), ("B10", "B10"),
    ],
)  # fmt: skip
def test_usual_spellings(written, band):
    assert normalise_band(written) == band


@pytest.mark.parametrize(
    "written", ["NDVI", "B13", "B0", "B02_B03", "AB02", "B020", "slope", "", "year", "TCI", "B4mean"]
)
def test_what_is_no_band(written):
    assert normalise_band(written) is None


@given(st.sampled_from(sorted(SENTINEL2)), st.sampled_from(["", "S2_", "x-"]), st.sampled_from(["", "_mean", " 10m"]))
def test_names_survive_prefix_and_suffix(band, before, after):
    assert normalise_band(before + band + after) == band


def test_table_of_bands():
    assert len(SENTINEL2) == 13
    assert LAND_BANDS == ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B8A", "B11", "B12")
    wavelengths = [info.wavelength for info in SENTINEL2.values()]
    assert wavelengths == sorted(wavelengths)


def test_order_is_by_wavelength_then_as_given():
    assert order_bands(["NDVI", "B11", "B02", "EVI", "B11"]) == ("B02", "B11", "NDVI", "EVI")
