"""Ladder variational auto-encoder over time around the tied Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cropgen.models.base import InputSpec
from cropgen.models.layers.bank import Seasons
from cropgen.models.layers.vae.emissions import held_within
from cropgen.models.layers.vae.hierarchy import (
    Descent,
    HierarchicalModel,
    HierarchicalOptions,
    Level,
    Seen,
    bounded,
    drawn,
)
from cropgen.models.layers.vae.ladder import Ascent, Head, Place, Stage

_MOST_PRECISE = 1e4


class LVAEOptions(HierarchicalOptions):
    """Options of `lvae`."""


def merged(mean: Tensor, log_std: Tensor, told: Tensor, precision: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and log-deviation of N(m, s²) · N(told; ·, 1 / precision), normalised: the precisions add up.

        1/s_q² = 1/s² + λ̂,   m_q = s_q² (m/s² + λ̂ μ̂)

    Arguments:
        mean, log_std: of what the levels above expect.
        told: μ̂, what the season says.
        precision: λ̂ ≥ 0, how surely; 0 leaves the expectation as it is.
    """
    expected = (-2 * log_std).exp()
    total = expected + precision
    return (expected * mean + precision * told) / total, -0.5 * total.log()


class LVAE(HierarchicalModel):
    """A ladder of latents over time: what the season says and what the levels above expect, weighted by precision.

        p(e, z | y) = p(e | z_1, y) p(z_L | y) Π_{l<L} p(z_l | z_{l+1}, y)
        q(z | x, y) = q(z_L | x, y) Π_{l<L} q(z_l | z_{l+1}, x, y)

        p(z_l | z_{l+1}, y) = N(m_l, s_l²),   q(z_l | z_{l+1}, x, y) ∝ N(z_l; m_l, s_l²) N(μ̂_l; z_l, 1/λ̂_l)

    Level l has ⌈G / 2^l⌉ positions of Z numbers. The season is read upwards once for all classes, without noise, and
    each level gets μ̂_l and λ̂_l ≥ 0 from it; the way down is that of the generative model, which so takes part in the
    inference. λ̂ begins at zero, so that q is p. Every level pays its divergence, in closed form given the level above.
    collapse=linear is the warm-up of the paper.

    Reference:
        Ladder Variational Autoencoders, Sønderby, Raiko, Maaløe, Sønderby and Winther, 2016.
    """

    Settings = LVAEOptions

    def __init__(self, spec: InputSpec, options: LVAEOptions) -> None:
        super().__init__(spec, options)
        k, z, hidden, count = spec.classes, options.latent, options.hidden, options.levels
        self.ascent = Ascent(self.bands, hidden, count)
        self.top = Place(hidden, self.lengths[-1], k)
        self.stages = nn.ModuleList([Stage(z, hidden, length, k) for length in self.lengths[:-1]])
        self.expected = nn.ModuleList([Head(hidden, z, start_at_zero=self.at_start) for _ in range(count)])
        self.told = nn.ModuleList([Head(hidden, z, k, start_at_zero=self.at_start) for _ in range(count)])

    def ascend(self, seasons: Seasons, noise: list[Tensor]) -> Seen:
        return Seen(self.ascent(seasons))

    def descend(self, seen: Seen | None, y: Tensor, noise: list[Tensor], above: int) -> Descent:
        h, levels = torch.relu(self.top(y)), list[Level]()
        for number in reversed(range(len(self.stages))):
            mean, spread = self.expected[number](h)
            p = q = mean, bounded(spread)
            if seen is not None and number >= above:
                told, precision = self.told[number](seen.features[number], y)
                q = merged(*p, told, held_within(precision, 0.0, _MOST_PRECISE))
            z = drawn(*q, noise[number])
            levels.append(Level(z, *p, *q))
            h = self.stages[number](z, y)
        return Descent(tuple(levels), self.decoded(h))
