"""Masked autoregressive flow around the tied Gaussian."""

from __future__ import annotations

from cropgen.models.flows.autoregressive import AutoregressiveFlow, MemoryOptions
from cropgen.models.layers.flows.univariate import Affine


class MAFOptions(MemoryOptions):
    """Options of `maf`."""


class MAF(AutoregressiveFlow):
    """Every innovation is shifted and scaled by a network of earlier ones.

        v_i' = v_i exp a_i(v_<i, mask) + b_i(v_<i, mask),   log |det T'| = Σ_i a_i

    One pass scores a season; a sample is the fixed point of its inverse.

    Reference:
        Masked Autoregressive Flow for Density Estimation, Papamakarios, Pavlakou and Murray, 2017.
    """

    Settings = MAFOptions

    def univariate(self) -> Affine:
        return Affine()
