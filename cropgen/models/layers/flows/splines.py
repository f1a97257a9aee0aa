"""Monotone splines on [−bound, bound], the identity outside, as transforms with parameters of a conditioner.

The bins run through the interval in both directions; with all parameters 0 every spline is the identity.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor
from torch.distributions import Transform
from torch.nn import functional
from zuko.transforms import MonotonicRQSTransform

from cropgen.models.layers.flows.univariate import LEAST_SLOPE, Increasing, Univariate, soft_clipped

SplineKind = Literal["linear", "quadratic", "cubic", "rational-quadratic"]


def _shares(raw: Tensor) -> Tensor:
    """(…, K) positive shares that sum to 1, none vanishing."""
    return torch.softmax(soft_clipped(raw) / 2, -1)


def _knots(shares: Tensor) -> Tensor:
    """(…, K + 1) from 0 to 1."""
    return functional.pad(shares.cumsum(-1), (1, 0))


class _Spline(Increasing):
    """A spline of the unit interval, stretched to [−bound, bound]."""

    def __init__(self, bound: float) -> None:
        super().__init__()
        self.bound = bound

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        inside = x.abs() < self.bound
        unit = (torch.where(inside, x, 0) + self.bound) / (2 * self.bound)
        y, slope = self._unit(unit)
        return torch.where(inside, self.bound * (2 * y - 1), x), torch.where(inside, slope.log(), 0)

    def _inverse(self, y: Tensor) -> Tensor:
        inside = y.abs() < self.bound
        unit = (torch.where(inside, y, 0) + self.bound) / (2 * self.bound)
        return torch.where(inside, self.bound * (2 * self._unit_inverse(unit) - 1), y)

    @abstractmethod
    def _unit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) and f'(x) on the unit interval."""

    def _unit_inverse(self, y: Tensor) -> Tensor:
        """By halving the unit interval."""
        low, high = torch.zeros_like(y), torch.ones_like(y)
        with torch.no_grad():
            for _ in range(60):
                middle = (low + high) / 2
                below = self._unit(middle)[0] < y
                low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2

    @staticmethod
    def _bin(knots: Tensor, value: Tensor) -> Tensor:
        """(…, 1) the bin of each value."""
        last = knots.shape[-1] - 2
        return ((knots[..., 1:] <= value[..., None]).sum(-1, keepdim=True)).clamp(max=last)


def _at(values: Tensor, which: Tensor) -> Tensor:
    return values.gather(-1, which)[..., 0]


class LinearSpline(_Spline):
    """Piecewise linear: K bins of one width, shares of the rise.

    Reference:
        Neural Importance Sampling, Müller, McWilliams, Rousselle, Gross and Novák, 2019.
    """

    def __init__(self, rises: Tensor, *, bound: float) -> None:
        super().__init__(bound)
        self.rises = _shares(rises)
        self.heights = _knots(self.rises)

    def _unit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        bins = self.rises.shape[-1]
        which = (x * bins).long().clamp(0, bins - 1)[..., None]
        rise = _at(self.rises, which)
        return _at(self.heights, which) + rise * (x * bins - which[..., 0]), rise * bins

    def _unit_inverse(self, y: Tensor) -> Tensor:
        which = self._bin(self.heights, y)
        share = (y - _at(self.heights, which)) / _at(self.rises, which)
        return (which[..., 0] + share) / self.rises.shape[-1]


class QuadraticSpline(_Spline):
    """Piecewise quadratic: its slope is piecewise linear between K + 1 knots.

    Reference:
        Neural Importance Sampling, Müller, McWilliams, Rousselle, Gross and Novák, 2019.
    """

    def __init__(self, widths: Tensor, slopes: Tensor, *, bound: float) -> None:
        super().__init__(bound)
        self.widths = _shares(widths)
        steep = torch.exp(soft_clipped(slopes) / 2)
        area = (self.widths * (steep[..., 1:] + steep[..., :-1]) / 2).sum(-1, keepdim=True)
        self.slopes = steep / area
        self.knots = _knots(self.widths)
        self.heights = _knots(self.widths * (self.slopes[..., 1:] + self.slopes[..., :-1]) / 2)

    def _unit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        which = self._bin(self.knots, x)
        width, first, last = _at(self.widths, which), _at(self.slopes, which), _at(self.slopes, which + 1)
        share = (x - _at(self.knots, which)) / width
        y = _at(self.heights, which) + width * (first * share + (last - first) * share**2 / 2)
        return y, first + (last - first) * share

    def _unit_inverse(self, y: Tensor) -> Tensor:
        which = self._bin(self.heights, y)
        width, first, last = _at(self.widths, which), _at(self.slopes, which), _at(self.slopes, which + 1)
        rest = (y - _at(self.heights, which)) / width
        share = 2 * rest / (first + (first**2 + 2 * (last - first) * rest).clamp(min=0).sqrt())
        return _at(self.knots, which) + share * width


class CubicSpline(_Spline):
    """Piecewise cubic, its inner slopes chosen by Steffen's rule so that it stays monotone.

    References:
        Cubic-Spline Flows, Durkan, Bekasov, Murray and Papamakarios, 2019;
        A Simple Method for Monotonic Interpolation in One Dimension, Steffen, 1990.
    """

    def __init__(self, widths: Tensor, rises: Tensor, ends: Tensor, *, bound: float) -> None:
        super().__init__(bound)
        self.widths, self.rises = _shares(widths), _shares(rises)
        self.knots, self.heights = _knots(self.widths), _knots(self.rises)
        chord = self.rises / self.widths
        before, after = chord[..., :-1], chord[..., 1:]
        w0, w1 = self.widths[..., :-1], self.widths[..., 1:]
        parabola = (before * w1 + after * w0) / (w0 + w1)
        inner = 2 * torch.minimum(torch.minimum(before, after), 0.5 * parabola)
        edge = 3 * torch.sigmoid(soft_clipped(ends) - math.log(2))
        self.chord = chord
        self.slopes = torch.cat([edge[..., :1] * chord[..., :1], inner, edge[..., 1:] * chord[..., -1:]], -1)

    def _unit(self, x: Tensor) -> tuple[Tensor, Tensor]:
        which = self._bin(self.knots, x)
        width, chord = _at(self.widths, which), _at(self.chord, which)
        first, last = _at(self.slopes, which), _at(self.slopes, which + 1)
        share = (x - _at(self.knots, which)) / width
        cubic, square = first + last - 2 * chord, 3 * chord - 2 * first - last
        y = _at(self.heights, which) + width * share * (first + share * (square + share * cubic))
        return y, first + share * (2 * square + 3 * share * cubic)


class Spline(Univariate):
    """A spline of `bins` bins on [−bound, bound].

    Reference:
        Neural Spline Flows, Durkan, Bekasov, Murray and Papamakarios, 2019.
    """

    def __init__(self, kind: SplineKind, bins: int, bound: float) -> None:
        super().__init__()
        self.kind, self.bound = kind, bound
        self.shapes = {
            "linear": ((bins,),),
            "quadratic": ((bins,), (bins + 1,)),
            "cubic": ((bins,), (bins,), (2,)),
            "rational-quadratic": ((bins,), (bins,), (bins - 1,)),
        }[kind]

    def transform(self, *parts: Tensor) -> Transform:
        if self.kind == "rational-quadratic":
            return MonotonicRQSTransform(*parts, bound=self.bound, slope=LEAST_SLOPE)
        made = {"linear": LinearSpline, "quadratic": QuadraticSpline, "cubic": CubicSpline}[self.kind]
        return made(*parts, bound=self.bound)
