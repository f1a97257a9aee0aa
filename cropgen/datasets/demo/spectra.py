"""Optical constants in the ten land bands of Sentinel-2, averaged over each band's width.

Leaf constants are those of PROSPECT-D, soil reflectances are the dry and the wet soil distributed with PROSPECT-5, the
directional weights are the global means for Sentinel-2.

References:
    PROSPECT-D: Towards modeling leaf optical properties through a complete lifecycle, J.-B. Féret, A. A. Gitelson,
        S. D. Noble, S. Jacquemoud, 2017.
    PROSPECT-4 and 5: Advances in the leaf optical properties model separating photosynthetic pigments, J.-B. Féret and
        others, 2008.
    Adjustment of Sentinel-2 Multi-Spectral Instrument red-edge band reflectance to nadir BRDF adjusted reflectance,
        D. P. Roy, Z. Li, H. K. Zhang, 2017; and for the other bands D. P. Roy and others, 2016.
"""

from __future__ import annotations

import numpy as np

from cropgen.series.bands import LAND_BANDS, SENTINEL2

BANDS = LAND_BANDS
"""The order of the band axis everywhere in the demo region."""

WAVELENGTH = np.array([SENTINEL2[name].wavelength for name in BANDS])
"""(10,) central wavelength in nm."""

_LEAF = np.array([
    # refractive index, chlorophyll, carotenoids, brown pigments, water, dry matter
    (1.4887, 2.441e-2, 1.057e-1, 4.246e-1, 2.341e-4, 2.758),  # B02
    (1.4701, 1.140e-2, 2.091e-3, 3.372e-1, 6.771e-4, 2.300),  # B03
    (1.4466, 5.589e-2, 0.0, 1.708e-1, 3.890e-3, 2.300),  # B04
    (1.4439, 8.887e-3, 0.0, 1.195e-1, 6.445e-3, 2.300),  # B05
    (1.4380, 5.779e-4, 0.0, 8.217e-2, 2.474e-2, 2.300),  # B06
    (1.4341, 2.203e-6, 0.0, 5.122e-2, 2.601e-2, 2.300),  # B07
    (1.4345, 0.0, 0.0, 3.002e-2, 3.487e-2, 2.300),  # B08
    (1.4345, 0.0, 0.0, 1.920e-2, 4.621e-2, 2.300),  # B8A
    (1.3542, 0.0, 0.0, 0.0, 6.761, 5.400),  # B11
    (1.2934, 0.0, 0.0, 0.0, 20.08, 20.82),  # B12
])  # fmt: skip
REFRACTIVE_INDEX = _LEAF[:, 0]
ABSORPTION = _LEAF[:, 1:].T
"""(5, 10) specific absorption: chlorophyll and carotenoids in cm²/µg, brown pigments per unit, water and dry matter in
cm²/g."""

DRY_SOIL = np.array([0.2322, 0.2636, 0.3174, 0.3383, 0.3586, 0.3788, 0.4003, 0.4129, 0.5091, 0.4932])
WET_SOIL = np.array([0.0252, 0.0286, 0.0383, 0.0431, 0.0506, 0.0574, 0.0668, 0.0724, 0.1578, 0.1135])

PETALS = np.array([0.06, 0.44, 0.48, 0.52, 0.55, 0.57, 0.58, 0.58, 0.38, 0.24])
"""A closed layer of yellow petals: carotenoids absorb the blue and nothing beyond 520 nm (after Spectral
considerations for modeling yield of canola, J. J. Sulik and D. S. Long, 2016)."""

ASPHALT = np.array([0.10, 0.12, 0.135, 0.14, 0.15, 0.155, 0.16, 0.165, 0.21, 0.20])
WATER = np.array([0.045, 0.055, 0.040, 0.032, 0.022, 0.020, 0.018, 0.017, 0.010, 0.007])
"""Roads and rivers: typical values, rounded; no parcel has them but at its border."""

BRDF = np.array([
    # isotropic, geometric, volumetric
    (0.0774, 0.0079, 0.0372), (0.1306, 0.0178, 0.0580), (0.1690, 0.0227, 0.0574), (0.2085, 0.0256, 0.0845),
    (0.2316, 0.0273, 0.1003), (0.2599, 0.0294, 0.1197), (0.3093, 0.0330, 0.1535), (0.3093, 0.0330, 0.1535),
    (0.3430, 0.0453, 0.1154), (0.2658, 0.0387, 0.0639),
])  # fmt: skip
"""(10, 3) weights of the Ross-Li kernels."""
