"""Cluster-aware generative model: the class is made by the upper latent, and makes the lower one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cropgen.models.base import InputSpec
from cropgen.models.vaes.m1m2 import StackedOptions, StackedVAE

_CANDIDATES = 16


class CaGeMOptions(StackedOptions):
    """Options of `cagem`."""


class CaGeM(StackedVAE):
    """The class is a part of the hierarchy of latents, not a root of its own.

        p(x, y, z1, z2) = p(z2) p(y | z2) p(z1 | y, z2) p(x | z1),   q(z1, z2 | x, y) = q(z1 | x) q(z2 | z1, y)
        p(y | z2) = softmax(log π + B z2)

        J_y = E_q [log p(x | z1) + log p(z1 | y, z2) + log p(y | z2) − log q(z1 | x)] − E KL(q(z2 | z1, y) ‖ N(0, I))

    p(y | z2) makes the upper latent gather parcels of a class, told or not: unlabelled parcels shape the clusters and
    labels name them. B, g and all departures from N(0, I) begin at zero, so the model begins exactly at the tied
    Gaussian, o_y + d_y in the mean of p(x | z1) included; in the textbook, start=none, they are absent. Seasons of a
    class are drawn by importance resampling of z2. z1 (S, B, 1, Z1), z2 (S, B, K, Z2).

    Reference:
        CaGeM: A Cluster Aware Deep Generative Model, Maaløe, Fraccaro and Winther, 2017.
    """

    Settings = CaGeMOptions

    def __init__(self, spec: InputSpec, options: CaGeMOptions) -> None:
        super().__init__(spec, options)
        self.cluster = nn.Linear(options.upper, spec.classes, bias=False)
        nn.init.zeros_(self.cluster.weight)

    def of_class(self, upper: Tensor) -> Tensor:
        found = torch.log_softmax(self.tied.log_prior + self.cluster(upper), -1)
        return found.diagonal(dim1=-2, dim2=-1) - torch.log_softmax(self.tied.log_prior, -1)

    @torch.no_grad()
    def draw_upper(self, y: Tensor, generator: torch.Generator, temperature: float) -> Tensor:
        candidates = self.standard_normal(len(y) * _CANDIDATES, self.stack.upper, generator)
        candidates = candidates.view(len(y), _CANDIDATES, -1)
        told = torch.log_softmax(self.tied.log_prior + self.cluster(candidates), -1)
        share = told[torch.arange(len(y)), :, y].softmax(-1)
        chosen = torch.multinomial(share.cpu(), 1, generator=generator)[:, 0].to(y.device)
        return temperature * candidates[torch.arange(len(y)), chosen]
