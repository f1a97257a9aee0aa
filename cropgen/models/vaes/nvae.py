"""Deep hierarchical variational auto-encoder of residual cells over time around the tied Gaussian."""

from __future__ import annotations

from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from cropgen.models.base import InputSpec, Objective
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.vae.hierarchy import (
    Descent,
    HierarchicalModel,
    HierarchicalOptions,
    Level,
    Seen,
    bounded,
    drawn,
    residual_posterior,
)
from cropgen.models.layers.vae.ladder import Head, Place, SeasonEntry, doubled, half_lengths
from cropgen.models.layers.vae.residual_cells import DecoderCell, EncoderCell, SpectralPenalty
from cropgen.series.batches import Batch


class NVAEOptions(HierarchicalOptions):
    """Options of `nvae`."""

    hidden: int = Field(16, ge=1, description="channels of the convolutions", json_schema_extra={"search": [16, 32]})
    groups: int = Field(
        1, ge=1, description="groups of latents of a level, one given the other", json_schema_extra={"search": [1, 2]}
    )
    expansion: int = Field(2, ge=1, description="widening of the channels inside a cell of the decoder")
    spectral: float = Field(1e-3, ge=0, description="weight of the spectral norms of the cells' convolutions")


class Group(nn.Module):
    """One group of latents: its prior and posterior from the way down and the way up, and the cell that takes it in.

        p = N(μ(h), s²(h)),   q = N(μ + δ, s² e^{2ρ}),   (δ, ρ) of (d, h, y),   h' = cell(h + W z)

    Arguments:
        hidden: H.
        latent: Z.
        classes: K.
        expansion: of the cell.
        start_at_zero: p begins at N(0, I) and q at p.
    """

    def __init__(self, hidden: int, latent: int, classes: int, expansion: int, *, start_at_zero: bool) -> None:
        super().__init__()
        self.expected = Head(hidden, latent, start_at_zero=start_at_zero)
        self.both = nn.Conv1d(2 * hidden, hidden, 1)
        self.told = Head(hidden, latent, classes, start_at_zero=start_at_zero)
        self.into = nn.Conv1d(latent, hidden, 1)
        self.cell = DecoderCell(hidden, expansion)

    def forward(self, h: Tensor, seen: Tensor | None, y: Tensor, noise: Tensor) -> tuple[Tensor, Level]:
        """The context behind the group and its latents; without anything seen they are drawn from p."""
        mean, spread = self.expected(h)
        p = q = mean, bounded(spread)
        if seen is not None:
            q = residual_posterior(*p, *self.told(self.both(torch.cat([seen, h], 1)), y))
        z = drawn(*q, noise)
        return self.cell(h + self.into(z)), Level(z, *p, *q)


class NVAE(HierarchicalModel):
    """Groups of latents in a deep ladder of residual cells.

        p(e, z | y) = p(e | z, y) Π_i p(z_i | z_{<i}, y),   q(z | x, y) = Π_i q(z_i | z_{<i}, x, y)

    i runs over the groups of all levels, the coarsest first; a group of level l has ⌈G / 2^l⌉ positions of Z numbers.
    The season is read upwards once for all classes by cells of two convolutions; the way down is a chain of
    depthwise-separable cells, common to prior and posterior. Posteriors are residual, N(μ + δ, s² e^{2ρ}) about the
    prior's N(μ, s²), so that the divergence ½ Σ (δ²/s² + e^{2ρ} − 1 − 2ρ) is easy to keep small; δ and ρ begin at zero.
    The largest singular value of every convolution of the cells is penalised, which bounds how fast the divergences can
    grow.

    Reference:
        NVAE: A Deep Hierarchical Variational Autoencoder, Vahdat and Kautz, 2020.
    """

    Settings = NVAEOptions

    def __init__(self, spec: InputSpec, options: NVAEOptions) -> None:
        super().__init__(spec, options)
        k, hidden, count = spec.classes, options.hidden, options.levels

        def group() -> Group:
            return Group(hidden, options.latent, k, options.expansion, start_at_zero=self.at_start)

        self.enter = SeasonEntry(self.bands, hidden)
        self.down = nn.ModuleList([nn.Conv1d(hidden, hidden, 3, stride=2, padding=1) for _ in range(count)])
        self.read = nn.ModuleList([EncoderCell(hidden) for _ in range(count)])
        self.groups = nn.ModuleList([nn.ModuleList([group() for _ in range(options.groups)]) for _ in range(count)])
        self.up = nn.ModuleList([nn.Conv1d(hidden, hidden, 3, padding=1, bias=False) for _ in range(count)])
        self.places = nn.ModuleList([Place(hidden, length, k) for length in self.lengths])
        self.last = DecoderCell(hidden, options.expansion)
        self.smoothness = SpectralPenalty(self._convolutions())

    @property
    def parts(self) -> NVAEOptions:
        return cast(NVAEOptions, self.options)

    def noises(self) -> list[tuple[int, int]]:
        """Of every group, the finest level first."""
        options = self.parts
        lengths = half_lengths(self.slots, options.levels)[1:]
        return [(options.latent, length) for length in lengths for _ in range(options.groups)]

    def _convolutions(self) -> list[Tensor]:
        cells = [cell for cell in self.modules() if isinstance(cell, EncoderCell | DecoderCell)]
        return [part.weight for cell in cells for part in cell.inside if isinstance(part, nn.Conv1d)]

    def objective(self, batch: Batch, generator: torch.Generator) -> Objective:
        loss = super().objective(batch, generator)
        spectral = self.parts.spectral * self.smoothness(self._convolutions())
        return Objective(loss.total + spectral, {**loss.terms, "spectral": spectral})

    def ascend(self, seasons: Seasons, noise: list[Tensor]) -> Seen:
        h, features = self.enter(seasons), list[Tensor]()
        for down, read in zip(self.down, self.read, strict=True):
            h = read(down(nn.functional.silu(h)))
            features.append(h)
        return Seen(tuple(features))

    def descend(self, seen: Seen | None, y: Tensor, noise: list[Tensor], above: int) -> Descent:
        h, levels = self.places[-1](y), list[Level]()
        for number in reversed(range(len(self.groups))):
            told = seen.features[number] if seen is not None and number >= above else None
            for place, group in enumerate(cast(nn.ModuleList, self.groups[number])):
                h, level = group(h, told, y, noise[number * self.parts.groups + place])
                levels.append(level)
            h = doubled(self.up[number](h), self.lengths[number]) + self.places[number](y)
        return Descent(tuple(levels), self.decoded(nn.functional.silu(self.last(h))))
