"""Bidirectional-inference variational auto-encoder over time around the tied Gaussian."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cropgen.models.base import InputSpec
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
from cropgen.models.layers.vae.ladder import Head, Place, SeasonEntry, Stage, half_lengths


class BIVAOptions(HierarchicalOptions):
    """Options of `biva`."""


class BIVA(HierarchicalModel):
    """Latents inferred on the way up and on the way down, and a deterministic way down beside them.

    Every level but the top has two halves, b_l inferred bottom-up and t_l inferred top-down, z_l = (t_l, b_l):

        p(e, z | y) = p(e | z, y) p(z_L | y) Π_{l<L} p(t_l | z_{>l}, y) p(b_l | z_{>l}, y)
        q(z | x, y) = Π_{l<L} q(b_l | b_{<l}, x) · q(z_L | b, x, y) Π_{l<L} q(t_l | b_{<l}, z_{>l}, x, y)

    Level l has ⌈G / 2^l⌉ positions of Z numbers a half. Skip connections carry every level above to each level and to
    the decoder. q(t_l) is p's mean + δ and p's log-deviation + ρ, δ and ρ zero at first; q(b_l) is known before the
    levels above are, so both q(b_l) and p(b_l) begin at N(0, I), and its divergence is log q − log p at the draw, for
    what stands above depends on it; that of t_l has a closed form. b is drawn once for all classes. In L^{>k} the
    draws b_{≤k} only steer the inference of the levels above, and are drawn anew from p for the decoder: as auxiliary
    variables whose reverse density is q itself, they cost nothing, and it remains a bound.

    Reference:
        BIVA: A Very Deep Hierarchy of Latent Variables for Generative Modeling, Maaløe, Fraccaro, Liévin and Winther,
        2019.
    """

    Settings = BIVAOptions

    def __init__(self, spec: InputSpec, options: BIVAOptions) -> None:
        super().__init__(spec, options)
        k, z, hidden, count = spec.classes, options.latent, options.hidden, options.levels
        zero = self.at_start
        self.enter = SeasonEntry(self.bands, hidden)
        self.down = nn.ModuleList([nn.Conv1d(hidden, hidden, 3, stride=2, padding=1) for _ in range(count)])
        self.upward = nn.ModuleList([Head(hidden, z, start_at_zero=zero) for _ in range(count - 1)])
        self.carried = nn.ModuleList([nn.Conv1d(z, hidden, 1) for _ in range(count - 1)])
        widths = [2 * z] * (count - 1) + [z]
        self.top = Place(hidden, self.lengths[-1], k)
        self.expected = nn.ModuleList([Head(hidden, width, start_at_zero=zero) for width in widths])
        self.both = nn.ModuleList([nn.Conv1d(2 * hidden, hidden, 1) for _ in range(count)])
        self.told = nn.ModuleList([Head(hidden, z, k, start_at_zero=zero) for _ in range(count)])
        self.stages = nn.ModuleList(
            [Stage(width + hidden, hidden, length, k) for width, length in zip(widths, self.lengths[:-1], strict=True)]
        )

    def noises(self) -> list[tuple[int, int]]:
        """Of the way up, b_l of each level but the top; then of the way down, (t_l, b_l) and the top."""
        z, lengths = self.settings.latent, half_lengths(self.slots, self.settings.levels)[1:]
        return [(z, n) for n in lengths[:-1]] + [(2 * z, n) for n in lengths[:-1]] + [(z, lengths[-1])]

    def ascend(self, seasons: Seasons, noise: list[Tensor]) -> Seen:
        h = torch.relu(self.enter(seasons))
        h = h.repeat(len(noise[0]) // len(h), 1, 1)
        features, found = list[Tensor](), list[tuple[Tensor, Tensor, Tensor]]()
        for number, down in enumerate(self.down):
            h = torch.relu(down(h))
            features.append(h)
            if number < len(self.upward):
                mean, spread = self.upward[number](h)
                q = mean, bounded(spread)
                b = drawn(*q, noise[number])
                found.append((b, *q))
                h = torch.relu(h + self.carried[number](b))
        return Seen(tuple(features), tuple(found))

    def descend(self, seen: Seen | None, y: Tensor, noise: list[Tensor], above: int) -> Descent:
        h, levels, z = torch.relu(self.top(y)), list[Level](), self.settings.latent
        for number in reversed(range(len(self.stages))):
            mean, spread = self.expected[number](h)
            log_std, fresh = bounded(spread), noise[len(self.upward) + number]
            p = q = mean[:, :z], log_std[:, :z]
            inferred = seen is not None and number >= above
            if seen is not None and inferred:
                told = self.both[number](torch.cat([seen.features[number], h], 1))
                q = residual_posterior(*p, *self.told[number](told, y))
            t = drawn(*q, fresh[:, :z])
            levels.append(Level(t, *p, *q))
            latent = t
            if number < len(self.upward):
                p = q = mean[:, z:], log_std[:, z:]
                b = drawn(*p, fresh[:, z:])
                if seen is not None and inferred:
                    b, *q = seen.drawn[number]
                levels.append(Level(b, *p, *q, closed=not inferred))
                latent = torch.cat([t, b], 1)
            h = self.stages[number](torch.cat([latent, h], 1), y)
        return Descent(tuple(levels), self.decoded(h))
