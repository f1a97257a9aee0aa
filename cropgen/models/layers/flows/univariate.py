"""Increasing functions of one number, with parameters that a conditioner gives for every entry.

Each turns parameters into a transform (of `torch.distributions`, as zuko's are). With all parameters 0 it is the
identity, except the monotonic network.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import Transform, constraints
from torch.nn import functional
from zuko.nn import MonotonicMLP
from zuko.transforms import AdditiveTransform, ComposedTransform, MonotonicTransform
from zuko.utils import unpack

LEAST_SLOPE = 1e-3
LARGEST_LOG_SLOPE = -math.log(LEAST_SLOPE)
_HALVINGS = 64
_DOUBLINGS = 60


class _SoftClipped(torch.autograd.Function):
    """r / (1 + |r| / bound), whose derivative is the square of its factor; differentiated once."""

    @staticmethod
    def forward(ctx: Any, raw: Tensor, bound: float) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        factor = raw.abs().div_(bound).add_(1).reciprocal_()
        ctx.save_for_backward(factor)
        return raw * factor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (factor,) = ctx.saved_tensors
        return factor.mul(factor).mul_(grad), None


def soft_clipped(raw: Tensor, bound: float = LARGEST_LOG_SLOPE) -> Tensor:
    """Logarithm of a slope within ± bound, equal to `raw` near 0."""
    return cast(Tensor, _SoftClipped.apply(raw, bound))


class _ClippedAffine(torch.autograd.Function):
    """x eᵃ + b and a, with a softly clipped, where an entry is present; x and 0 where not. Differentiated once.

    One function, because a dozen small ones take as long as the network that steers them.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, parameters: Tensor, there: Tensor, bound: float) -> tuple[Tensor, Tensor]:  # pyright: ignore[reportIncompatibleMethodOverride]
        shift, raw = parameters.unbind(-1)
        raw = raw * there
        divisor = torch.rsub(raw.abs(), 1, alpha=-1 / bound)
        log_slope = raw / divisor
        slope = log_slope.exp()
        ctx.save_for_backward(x, there, divisor, slope)
        return (shift * there).addcmul_(x, slope), log_slope

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, grad_slope: Tensor) -> tuple[Tensor, Tensor, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, there, divisor, slope = ctx.saved_tensors
        both = grad.new_empty((*grad.shape[:-1], 2, grad.shape[-1]))
        shift, raw = both.unbind(-2)
        torch.mul(grad, there, out=shift)
        grad_x = grad * slope
        torch.mul(torch.addcmul(grad_slope, grad_x, x).div_(divisor).div_(divisor), there, out=raw)
        return grad_x, both.transpose(-1, -2), None, None


@torch.no_grad()
def invert_increasing(function: Callable[[Tensor], Tensor], y: Tensor) -> Tensor:
    """x with function(x) = y, entry by entry, by doubling a bracket and halving it to the precision of the type."""
    low, high, step = y - 1, y + 1, 1.0
    for _ in range(_DOUBLINGS):
        over, under = function(low) > y, function(high) < y
        if not bool((over | under).any()):
            break
        low, high = torch.where(over, low - step, low), torch.where(under, high + step, high)
        step *= 2
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        below = function(middle) < y
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2


class Increasing(Transform):
    """Base of increasing transforms of the real line; subclasses give `call_and_ladj`, the inverse is by bisection."""

    domain = constraints.real
    codomain = constraints.real
    bijective = True
    sign = +1  # pyright: ignore[reportIncompatibleMethodOverride, reportAssignmentType]

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) and log f'(x)."""
        raise TypeError(f"{type(self).__name__} gives no value")

    def _call(self, x: Tensor) -> Tensor:
        return self.call_and_ladj(x)[0]

    def _inverse(self, y: Tensor) -> Tensor:
        return invert_increasing(self._call, y)

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]


class AffineTransform(Increasing):
    """y = x eᵃ + b.

    Arguments:
        log_scale, shift: a and b.
    """

    def __init__(self, log_scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.log_scale, self.shift = log_scale, shift

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.addcmul(self.shift, x, self.log_scale.exp()), self.log_scale

    def _inverse(self, y: Tensor) -> Tensor:
        return (y - self.shift) * (-self.log_scale).exp()


class SigmoidalTransform(Increasing):
    """Deep sigmoidal flow of one layer, y = logit Σ_j w_j σ(a_j x + b_j); also a mixture-of-logistics CDF.

    Arguments:
        log_scale, shift, weight: (…, M) log a, b, and log w up to a constant.

    References:
        Neural Autoregressive Flows, Huang, Krueger, Lacoste and Courville, 2018.
    """

    def __init__(self, log_scale: Tensor, shift: Tensor, weight: Tensor) -> None:
        super().__init__()
        self.log_scale, self.shift = log_scale, shift
        self.log_weight = torch.log_softmax(weight, -1)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = x[..., None] * self.log_scale.exp() + self.shift
        rise, fall = functional.logsigmoid(z), functional.logsigmoid(-z)
        below = torch.logsumexp(self.log_weight + rise, -1)
        above = torch.logsumexp(self.log_weight + fall, -1)
        slope = torch.logsumexp(self.log_weight + self.log_scale + rise + fall, -1)
        return below - above, slope - below - above


class DenseSigmoidalTransform(Increasing):
    """Deep dense sigmoidal flow of two layers, h ← logit W σ(a ⊙ (U h) + b) with row-stochastic W and U.

    Arguments:
        scales, shifts: (…, 2, M) logarithms of a, and b.
        inner: (…, M, M) logits of the first W.
        mix: (…, M, M) logits of the second U.
        outer: (…, M) logits of the second W.

    References:
        Neural Autoregressive Flows, Huang, Krueger, Lacoste and Courville, 2018.
    """

    def __init__(self, scales: Tensor, shifts: Tensor, inner: Tensor, mix: Tensor, outer: Tensor) -> None:
        super().__init__()
        self.scales, self.shifts = soft_clipped(scales), shifts
        self.inner, self.mix = torch.log_softmax(inner, -1), torch.log_softmax(mix, -1)
        self.outer = torch.log_softmax(outer, -1)[..., None, :]

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        width = self.inner.shape[-1]
        h = x[..., None].expand(*x.shape, width)
        h, slope = self._layer(0, h, torch.zeros_like(h), self.inner)
        mixed = (self.mix.exp() * h[..., None, :]).sum(-1)
        mixed_slope = torch.logsumexp(self.mix + slope[..., None, :], -1)
        y, slope = self._layer(1, mixed, mixed_slope, self.outer)
        return y[..., 0], slope[..., 0]

    def _layer(self, number: int, h: Tensor, slope: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """logit W σ(a h + b) and its log-derivative, from those of h (…, M); `weight` (…, N, M) is log W."""
        log_scale = self.scales[..., number, :]
        z = h * log_scale.exp() + self.shifts[..., number, :]
        rise, fall = functional.logsigmoid(z), functional.logsigmoid(-z)
        below = torch.logsumexp(weight + rise[..., None, :], -1)
        above = torch.logsumexp(weight + fall[..., None, :], -1)
        steep = torch.logsumexp(weight + (log_scale + rise + fall + slope)[..., None, :], -1)
        return below - above, steep - below - above


class NetworkTransform(MonotonicTransform):
    """zuko's monotonic transform with an inverse to the precision of the type, and slopes in inference mode too."""

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """f(x) and log f'(x); the slope is differentiated, for which inference mode is left."""
        if not torch.is_inference_mode_enabled():
            return super().call_and_ladj(x)
        with torch.inference_mode(False), torch.no_grad():
            y, log_slope = super().call_and_ladj(x.clone())
        return y.detach(), log_slope

    def _inverse(self, y: Tensor) -> Tensor:
        return invert_increasing(self._call, y)


class Univariate(nn.Module, ABC):
    """Makes transforms from parameters (…, total).

    Attributes:
        shapes: of the parameters of one entry.
        alike: whether components that begin equal would stay equal, so that the parameters need a gate of zeros
            behind random weights instead of weights of zero.
        starts_at_identity: whether parameters of 0 are the identity.
    """

    shapes: tuple[tuple[int, ...], ...]
    alike = False
    starts_at_identity = True

    @property
    def total(self) -> int:
        """Number of parameters of one entry."""
        return sum(math.prod(shape) for shape in self.shapes)

    def forward(self, parameters: Tensor) -> Transform:
        """The transform of (…) numbers whose parameters are (…, total)."""
        if not any(self.shapes):
            return self.transform(*parameters.transpose(-1, -2).unbind(-2))
        return self.transform(*unpack(parameters, [torch.Size(shape) for shape in self.shapes]))

    def moved(self, parameters: Tensor, x: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        """The numbers x (…) moved, and the logarithms of the slopes: 0 and 0 where x and `there` are 0."""
        image, log_slope = self(parameters).call_and_ladj(x)
        return image * there, log_slope * there

    @torch.no_grad()
    def moved_back(self, parameters: Tensor, y: Tensor, there: Tensor) -> Tensor:
        """x (…) such that `moved` gives y, 0 where `there` is 0."""
        return self(parameters).inv(y) * there

    @abstractmethod
    def transform(self, *parts: Tensor) -> Transform:
        """From the parameters, each (…, *shape)."""


class Additive(Univariate):
    """x + b."""

    shapes = ((),)

    def transform(self, *parts: Tensor) -> Transform:
        return AdditiveTransform(*parts)


class Affine(Univariate):
    """x eᵃ + b, |a| softly below log 1000."""

    shapes = ((), ())

    def moved(self, parameters: Tensor, x: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
        return cast(tuple[Tensor, Tensor], _ClippedAffine.apply(x, parameters, there, LARGEST_LOG_SLOPE))

    @torch.no_grad()
    def moved_back(self, parameters: Tensor, y: Tensor, there: Tensor) -> Tensor:
        shift, raw = parameters.unbind(-1)
        slope = (raw / torch.rsub(raw.abs(), 1, alpha=-1 / LARGEST_LOG_SLOPE)).exp_()
        return (y - shift).div_(slope).mul_(there)

    def transform(self, *parts: Tensor) -> Transform:
        shift, raw = parts
        return AffineTransform(soft_clipped(raw), shift)


class Sigmoidal(Univariate):
    """Deep sigmoidal flow of `units` units."""

    alike = True

    def __init__(self, units: int) -> None:
        super().__init__()
        self.shapes = ((units,), (units,), (units,))

    def transform(self, *parts: Tensor) -> Transform:
        return SigmoidalTransform(soft_clipped(parts[0]), *parts[1:])


class DenseSigmoidal(Univariate):
    """Deep dense sigmoidal flow of two layers of `units` units."""

    alike = True

    def __init__(self, units: int) -> None:
        super().__init__()
        self.shapes = ((2, units), (2, units), (units, units), (units, units), (units,))

    def transform(self, *parts: Tensor) -> Transform:
        return DenseSigmoidalTransform(*parts)


class MixtureCDF(Univariate):
    """Mixture-of-logistics CDF, logit and affine: eᶜ logit Σ_j π_j σ((x − μ_j) / s_j) + d.

    Reference:
        Flow++: Improving Flow-Based Generative Models with Variational Dequantization and Architecture Design,
        Ho, Chen, Srinivas, Duan and Abbeel, 2019.
    """

    alike = True

    def __init__(self, components: int) -> None:
        super().__init__()
        self.shapes = ((components,), (components,), (components,), (), ())

    def transform(self, *parts: Tensor) -> Transform:
        log_scale = soft_clipped(parts[0])
        mixture = SigmoidalTransform(log_scale, -parts[1] * log_scale.exp(), parts[2])
        return ComposedTransform(mixture, AffineTransform(soft_clipped(parts[4]), parts[3]))


class MonotonicNetwork(Univariate):
    """One network of positive weights for all entries, steered by a signal of each: y = f(x, signal).

    Beginning near the identity it is y = x + λ f(x, signal) with a small learnt λ > 0.

    Reference:
        Neural Autoregressive Flows, Huang, Krueger, Lacoste and Courville, 2018, in the form of zuko's `MNN`.
    """

    starts_at_identity = False

    def __init__(self, signal: int, hidden: int, *, near_identity: bool) -> None:
        super().__init__()
        self.shapes = ((signal,),)
        self.network = MonotonicMLP(1 + signal, 1, hidden_features=(hidden, hidden))
        self.blend = nn.Parameter(torch.tensor(-7.0)) if near_identity else None

    def transform(self, *parts: Tensor) -> Transform:
        (signal,) = parts
        return NetworkTransform(lambda x: self._value(signal, x), phi=(signal, *self.parameters()))

    def _value(self, signal: Tensor, x: Tensor) -> Tensor:
        y = self.network(torch.cat([x[..., None], signal], -1))[..., 0]
        return y if self.blend is None else x + functional.softplus(self.blend) * y
