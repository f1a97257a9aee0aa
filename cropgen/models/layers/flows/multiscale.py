"""Multi-scale flow over time: squeeze, steps of norm, linear map and coupling, and split with its own prior."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from cropgen.models.layers.flows.layer import FlowLayer, Seen
from cropgen.models.layers.flows.norm import ActNorm, BatchNorm, NormKind
from cropgen.models.layers.flows.univariate import soft_clipped

_LOG_SCALE_BOUND = 2.0


def squeeze(x: Tensor) -> Tensor:
    """(B, T, W) → (B, ⌈T/2⌉, 2W): each two dates become one of twice the channels, an odd end is padded with 0."""
    padded = functional.pad(x, (0, 0, 0, x.shape[1] % 2))
    return padded.reshape(len(x), -1, 2 * x.shape[2])


def unsqueeze(x: Tensor, dates: int) -> Tensor:
    """The inverse of `squeeze` for T = `dates`."""
    return x.reshape(len(x), -1, x.shape[2] // 2)[:, :dates]


class ChannelMix(nn.Module):
    """x' = L_m U_m x along the channels; U_m = M U M + I − M, and L_m with unit diagonal alike; log |det| = Σ_m s.

    The factors run through the channels in a fixed order and every channel keeps its place (W = Pᵀ L U P), so that
    whatever is observed is mapped onto itself: a principal part of a triangular factor is invertible for every mask.

    Reference:
        Glow: Generative Flow with Invertible 1×1 Convolutions, Kingma and Dhariwal, 2018.
    """

    order: Tensor

    def __init__(self, width: int, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)
        self.factors = nn.Parameter(torch.zeros(width, width))

    def _factors(self) -> tuple[Tensor, Tensor, Tensor]:
        """L and U in the places of the channels, and s."""
        s = self.factors.diagonal()
        unit = torch.eye(len(s), dtype=s.dtype, device=s.device)
        lower = self.factors.tril(-1) + unit
        upper = self.factors.triu(1) + torch.diag(s.exp())
        back = torch.argsort(self.order)
        return lower[back][:, back], upper[back][:, back], s[back]

    def forward(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        lower, upper, s = self._factors()
        return ((x @ upper.T * present) @ lower.T) * present, (s * present).sum((1, 2))

    def inverse(self, x: Tensor, present: Tensor) -> Tensor:
        lower, upper, _ = self._factors()
        unit = torch.eye(len(upper), dtype=x.dtype, device=x.device)
        both = present[..., :, None] * present[..., None, :]
        for factor in (lower, upper):
            restricted = factor * both + unit * (1 - present)[..., None]
            x = torch.linalg.solve(restricted, x[..., None])[..., 0] * present
        return x


class TemporalAffine(nn.Module):
    """b' = b eˢ + t with s, t from convolutions over time of the given channels, the presence of all, and context.

    Arguments:
        given, changed: numbers of channels.
        context: H.
        hidden: channels of the convolutions.
        at_identity: begin with s = t = 0.
    """

    def __init__(self, given: int, changed: int, context: int, hidden: int, *, at_identity: bool) -> None:
        super().__init__()
        last = nn.Conv1d(hidden, 2 * changed, 3, padding=1)
        if at_identity:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias if last.bias is not None else last.weight)
        enter = nn.Conv1d(2 * given + changed + context, hidden, 3, padding=1)
        self.network = nn.Sequential(enter, nn.ReLU(), nn.Conv1d(hidden, hidden, 1), nn.ReLU(), last)

    def _affine(self, given: Tensor, there: Tensor, present: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        told = [given, there, present]
        if context is not None:
            told.append(context[:, None].expand(-1, given.shape[1], -1))
        s, t = self.network(torch.cat(told, -1).transpose(1, 2)).transpose(1, 2).chunk(2, -1)
        return soft_clipped(s, _LOG_SCALE_BOUND) * present, t * present

    def forward(
        self, x: Tensor, present: Tensor, given: Tensor, there: Tensor, context: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The changed channels (B, T, W) and the log-determinant (B,).

        Arguments:
            x, present: (B, T, W) changed channels and their presence.
            given, there: (B, T, W') given channels and their presence.
        """
        s, t = self._affine(given, there, present, context)
        return x * s.exp() + t, s.sum((1, 2))

    def inverse(self, x: Tensor, present: Tensor, given: Tensor, there: Tensor, context: Tensor | None) -> Tensor:
        s, t = self._affine(given, there, present, context)
        return (x - t) * (-s).exp()


class Step(nn.Module):
    """Normalisation, linear map of the channels, and a coupling between the earlier and the later dates of a pair."""

    def __init__(
        self,
        width: int,
        context: int,
        hidden: int,
        number: int,
        norm: NormKind,
        order: Tensor | None,
        *,
        at_identity: bool,
    ) -> None:
        super().__init__()
        kinds = {"act": ActNorm, "batch": BatchNorm}
        self.norm = None if norm == "none" else kinds[norm](width, at_identity=at_identity)
        self.mix = None if order is None else ChannelMix(width, order)
        self.later_given = number % 2 == 1
        self.affine = TemporalAffine(width // 2, width // 2, context, hidden, at_identity=at_identity)

    def forward(
        self, x: Tensor, present: Tensor, context: Tensor | None, *, initialise: bool = False
    ) -> tuple[Tensor, Tensor]:
        log_det = x.new_zeros(len(x))
        if self.norm is not None:
            flat, rows = x.flatten(0, 1), Seen(present.flatten(0, 1), present.flatten(0, 1))
            if initialise:
                self.norm.initialise(flat, rows)
            flat, log_slope = self.norm.stretched(flat, rows)
            x = flat.view_as(x)
            log_det = log_det + log_slope.view_as(x).sum((1, 2))
        if self.mix is not None:
            x, change = self.mix(x, present)
            log_det = log_det + change
        (a, b), (there_a, there_b) = self._parts(x), self._parts(present)
        b, change = self.affine(b, there_b, a, there_a, context)
        return self._whole(a, b), log_det + change

    def inverse(self, x: Tensor, present: Tensor, context: Tensor | None) -> Tensor:
        (a, b), (there_a, there_b) = self._parts(x), self._parts(present)
        x = self._whole(a, self.affine.inverse(b, there_b, a, there_a, context))
        if self.mix is not None:
            x = self.mix.inverse(x, present)
        if self.norm is None:
            return x
        rows = Seen(present.flatten(0, 1), present.flatten(0, 1))
        return self.norm.inverse(x.flatten(0, 1), rows).view_as(x)

    def _parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The given and the changed half."""
        first, second = x.chunk(2, -1)
        return (second, first) if self.later_given else (first, second)

    def _whole(self, given: Tensor, changed: Tensor) -> Tensor:
        return torch.cat([changed, given] if self.later_given else [given, changed], -1)


class MultiScale(FlowLayer):
    """Levels of squeeze, steps and split over the dates of a season.

    At every level two neighbouring dates become one with twice the channels, `steps` steps follow, and the later dates
    of the pairs leave with the prior p(u_gone | u_kept) = N(o + t(u_kept), eˢ⁽ᵘ⁾), which is an affine map of them
    before the base; the earlier dates go on to the next level. In the end every entry is back in its place.

    Arguments:
        slots, bands: G and C.
        context: H.
        hidden: channels of the convolutions.
        levels, steps: numbers of levels, and of steps in each.
        norm: of each step.
        mixed: whether each step has a linear map of the channels.
        seed: of the order of the channels.
        at_identity: begin with the identity.

    References:
        Density Estimation using Real NVP, Dinh, Sohl-Dickstein and Bengio, 2017;
        Glow: Generative Flow with Invertible 1×1 Convolutions, Kingma and Dhariwal, 2018.
    """

    def __init__(
        self,
        slots: int,
        bands: int,
        context: int,
        hidden: int,
        *,
        levels: int,
        steps: int,
        norm: NormKind,
        mixed: bool,
        seed: int,
        at_identity: bool,
    ) -> None:
        super().__init__()
        self.bands = bands
        generator = torch.Generator().manual_seed(seed)
        self.steps, self.priors = nn.ModuleList(), nn.ModuleList()
        for level in range(levels):
            width = 2 * bands

            def step(number: int, width: int = width) -> Step:
                order = torch.randperm(width, generator=generator) if mixed else None
                return Step(width, context, hidden, number, norm, order, at_identity=at_identity)

            self.steps.append(nn.ModuleList(step(number) for number in range(steps)))
            if level < levels - 1:
                self.priors.append(TemporalAffine(bands, bands, context, hidden, at_identity=at_identity))

    def forward(self, v: Tensor, seen: Seen) -> tuple[Tensor, Tensor]:
        return self._towards_base(v, seen, initialise=False)

    def initialise(self, v: Tensor, seen: Seen) -> None:
        self._towards_base(v, seen, initialise=True)

    def _towards_base(self, v: Tensor, seen: Seen, *, initialise: bool) -> tuple[Tensor, Tensor]:
        x, present = v.unflatten(-1, (-1, self.bands)), seen.present.unflatten(-1, (-1, self.bands))
        log_det, gone, dates = v.new_zeros(len(v)), list[Tensor](), list[int]()
        for level, steps in enumerate(self.steps):
            dates.append(x.shape[1])
            x, present = squeeze(x), squeeze(present)
            for step in cast(nn.ModuleList, steps):
                x, change = step(x, present, seen.context, initialise=initialise)
                log_det = log_det + change
            if level < len(self.priors):
                (x, leaving), (present, there) = x.chunk(2, -1), present.chunk(2, -1)
                leaving, change = self.priors[level](leaving, there, x, present, seen.context)
                gone.append(leaving)
                log_det = log_det + change
        return self._together(x, gone, dates, lambda level, x, _: x), log_det

    @torch.no_grad()
    def inverse(self, v: Tensor, seen: Seen) -> Tensor:
        x, present = v.unflatten(-1, (-1, self.bands)), seen.present.unflatten(-1, (-1, self.bands))
        gone, presences, dates = list[Tensor](), list[Tensor](), list[int]()
        for level in range(len(self.steps)):
            dates.append(x.shape[1])
            x, present = squeeze(x), squeeze(present)
            presences.append(present)
            if level < len(self.priors):
                (x, leaving), (present, _) = x.chunk(2, -1), present.chunk(2, -1)
                gone.append(leaving)

        def undo(level: int, x: Tensor, leaving: Tensor | None) -> Tensor:
            if leaving is not None:
                kept, there = presences[level].chunk(2, -1)
                prior = cast(TemporalAffine, self.priors[level])
                x = torch.cat([x, prior.inverse(leaving, there, x, kept, seen.context)], -1)
            for step in reversed(cast(nn.ModuleList, self.steps[level])):
                x = cast(Step, step).inverse(x, presences[level], seen.context)
            return x

        return self._together(x, gone, dates, undo, joined=True)

    def _together(
        self,
        x: Tensor,
        gone: list[Tensor],
        dates: list[int],
        at_level: Callable[[int, Tensor, Tensor | None], Tensor],
        *,
        joined: bool = False,
    ) -> Tensor:
        """Every entry back in its place, from the last level to the first.

        Arguments:
            at_level: what is done at a level before its dates are taken apart.
            joined: whether `at_level` puts back what left at the level.
        """
        for level in reversed(range(len(dates))):
            leaving = gone[level] if level < len(gone) else None
            if leaving is not None and not joined:
                x = torch.cat([x, leaving], -1)
            x = unsqueeze(at_level(level, x, leaving), dates[level])
        return x.flatten(1)
