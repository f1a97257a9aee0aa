"""Leaf reflectance and transmittance: the plate model PROSPECT.

A leaf is a pile of N plates with rough surfaces. One plate transmits τ = (1 − k) e^(−k) + k² E₁(k) of diffuse light,
where k = Σ contentᵢ·absorptionᵢ / N; surfaces reflect after Fresnel; the pile is solved after Stokes.

References:
    PROSPECT: a model of leaf optical properties spectra, S. Jacquemoud and F. Baret, 1990.
    PROSPECT-D, J.-B. Féret and others, 2017.
    Transmission of isotropic radiation across an interface of two dielectrics, F. Stern, 1964.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import exp1

from cropgen.datasets.demo.spectra import ABSORPTION, REFRACTIVE_INDEX

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(64)


@dataclass(frozen=True)
class LeafTraits:
    """What leaves consist of; every field broadcasts to one shape (…).

    Arguments:
        layers: structure N, about 1.5 for cereals, 2 for broad leaves.
        chlorophyll, carotenoids: µg/cm².
        brown: brown pigments, 0 green to 1 dead.
        water: equivalent thickness, g/cm².
        dry_matter: g/cm².
    """

    layers: np.ndarray
    chlorophyll: np.ndarray
    carotenoids: np.ndarray
    brown: np.ndarray
    water: np.ndarray
    dry_matter: np.ndarray


def surface_transmissivity(angle: float, index: np.ndarray) -> np.ndarray:
    """Mean transmissivity of a surface for light from a cone of half-opening `angle` (degrees).

    t(α) = ∫₀^α T(θ) sin 2θ dθ / sin² α, where T is the Fresnel transmissivity of unpolarised light; integrated in
    u = cos θ by Gauss-Legendre quadrature, which the smooth integrand makes exact to about ten digits.

    Arguments:
        index: (C,) refractive index of the medium behind the surface.
    Returns: (C,)
    """
    lowest = np.cos(np.radians(angle))
    u = lowest + (1 - lowest) * (_NODES + 1) / 2
    n = index[:, None]
    refracted = np.sqrt(1 - (1 - u**2) / n**2)
    across = ((u - n * refracted) / (u + n * refracted)) ** 2
    along = ((n * u - refracted) / (n * u + refracted)) ** 2
    integrand = (1 - (across + along) / 2) * 2 * u
    return (integrand * _WEIGHTS).sum(-1) * (1 - lowest) / 2 / (1 - lowest**2)


_T40 = surface_transmissivity(40.0, REFRACTIVE_INDEX)
_T90 = surface_transmissivity(90.0, REFRACTIVE_INDEX)


def leaf_optics(traits: LeafTraits) -> tuple[np.ndarray, np.ndarray]:
    """Hemispherical reflectance and transmittance of a leaf in the ten bands.

    Returns: two arrays (…, 10), 0–1; their sum is below 1.
    """
    contents = (traits.chlorophyll, traits.carotenoids, traits.brown, traits.water, traits.dry_matter)
    layers = np.asarray(traits.layers, dtype=np.float64)[..., None]
    k = np.maximum(np.stack(np.broadcast_arrays(*contents), -1) @ ABSORPTION / layers, 1e-9)
    plate = (1 - k) * np.exp(-k) + k**2 * exp1(k)
    inner = _T90 / REFRACTIVE_INDEX**2
    trapped = 1 - (1 - inner) ** 2 * plate**2
    top_t = _T40 * inner * plate / trapped
    top_r = 1 - _T40 + top_t * (1 - inner) * plate
    t = _T90 * inner * plate / trapped
    r = 1 - _T90 + t * (1 - inner) * plate
    pile_r, pile_t = _stokes(r, t, layers - 1)
    joined = 1 - pile_r * r
    return top_r + top_t * pile_r * t / joined, top_t * pile_t / joined


def _stokes(r: np.ndarray, t: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reflectance and transmittance of `count` equal plates of reflectance r and transmittance t."""
    d = np.sqrt(np.maximum((1 + r + t) * (1 + r - t) * (1 - r + t) * (1 - r - t), 1e-18))
    a = (1 + r**2 - t**2 + d) / (2 * r)
    b = ((1 - r**2 + t**2 + d) / (2 * t)) ** count
    common = a**2 * b**2 - 1
    return a * (b**2 - 1) / common, b * (a**2 - 1) / common
