"""Canopy reflectance over soil: Goudriaan's extinction model.

With leaf scattering σ = ρ + τ, κ = √(1 − σ) and extinction K of black leaves,

    ρ∞ = 2K/(1 + K) · (1 − κ)/(1 + κ)                     an endless canopy
    η  = (ρ∞ − ρs) / (ρ∞ ρs − 1)
    ρ  = (ρ∞ + η e^(−2 κ K Ω L)) / (1 + ρ∞ η e^(−2 κ K Ω L))     leaf area L over soil ρs

where Ω < 1 clumps leaves into rows. L = 0 gives the soil, L → ∞ the endless canopy.

Reference: Crop micrometeorology: a simulation study, J. Goudriaan, 1977.
"""

from __future__ import annotations

import numpy as np

from cropgen.datasets.demo.spectra import DRY_SOIL, WAVELENGTH, WET_SOIL


def canopy_reflectance(
    leaf_r: np.ndarray, leaf_t: np.ndarray, soil: np.ndarray, depth: np.ndarray, extinction: np.ndarray
) -> np.ndarray:
    """Reflectance of leaves above soil.

    Arguments:
        leaf_r, leaf_t: (…, C) leaf reflectance and transmittance.
        soil: (…, C) reflectance of the soil.
        depth: (…) effective leaf area index Ω L, m²/m².
        extinction: (…) K of black leaves, about 0.4 for upright and 0.8 for flat leaves.
    Returns: (…, C), 0–1.
    """
    kappa = np.sqrt(1 - np.minimum(leaf_r + leaf_t, 0.999))
    k = extinction[..., None]
    endless = 2 * k / (1 + k) * (1 - kappa) / (1 + kappa)
    eta = (endless - soil) / (endless * soil - 1)
    decay = eta * np.exp(-2 * kappa * k * depth[..., None])
    return (endless + decay) / (1 + endless * decay)


def soil_reflectance(brightness: np.ndarray, moisture: np.ndarray, redness: np.ndarray) -> np.ndarray:
    """Reflectance of a bare soil between the published dry and wet soil.

    Arguments:
        brightness: (…) factor on the whole spectrum.
        moisture: (…) 0 dry to 1 wet at the surface.
        redness: (…) exponent of (λ / 800 nm): iron-rich soils above 0.
    Returns: (…, 10), 0–1.
    """
    mixed = DRY_SOIL + moisture[..., None] * (WET_SOIL - DRY_SOIL)
    tint = (WAVELENGTH / 800.0) ** redness[..., None]
    return np.clip(brightness[..., None] * mixed * tint, 0.005, 0.9)
