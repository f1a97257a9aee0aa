"""Parts of the dynamical models: features of time, perceptrons of the latent chain, the emission.

Everything is time-major, (G, S, B, K, ·): slots, samples, parcels, classes; an axis of length 1 is shared.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cropgen.kernels.recurrence.reference import Cell, ChainPath, Head, bounded
from cropgen.models.layers.temporal_conv import DATE_FEATURES, date_harmonics

TIME_FEATURES = DATE_FEATURES + 1
_GAP_DAYS = 30.0
_LOG_2PI = math.log(2 * math.pi)


def gap_days(day: Tensor, mask: Tensor) -> Tensor:
    """(B, G) days since the last earlier observation, or since the first slot where there is none.

    Arguments:
        day: (B, G) days since 1 January.
        mask: (B, G) bool.
    """
    seen = torch.where(mask, day, -torch.inf)
    last = torch.cat([day[:, :1], torch.maximum(seen.cummax(1).values, day[:, :1])[:, :-1]], 1)
    return (day - last).clamp(min=0)


def time_features(day: Tensor, mask: Tensor) -> Tensor:
    """(B, G, 5) two yearly harmonics of the day, and the gap since the last observation in months."""
    return torch.cat([date_harmonics(day), gap_days(day, mask)[..., None] / _GAP_DAYS], -1)


class LatentHead(nn.Module):
    """A perceptron of the latent chain for every class: one hidden layer, the class added to it, the last layer zero.

    Arguments:
        shared: width of the input all classes share.
        own: width of the input of each class, 0 for none; its weights begin at zero.
        classes: K.
        latent: Z.
        hidden: E.
        state: S, size of the state it sees; by default Z, of z_{t−1}.
        gated: with Z outputs more, for the gate.
        combine: the inputs are added behind the nonlinearity of the state.
    """

    def __init__(
        self,
        shared: int,
        own: int,
        classes: int,
        latent: int,
        hidden: int,
        *,
        state: int = 0,
        gated: bool = False,
        combine: bool = False,
    ) -> None:
        super().__init__()
        state, outputs = state or latent, (3 if gated else 2) * latent
        reach = 1 / math.sqrt(shared + state)
        self.shared = nn.Parameter(torch.empty(shared, hidden).uniform_(-reach, reach))
        self.state = nn.Parameter(torch.empty(state, hidden).uniform_(-reach, reach))
        self.own = nn.Parameter(torch.zeros(own, hidden)) if own else None
        self.of_class = nn.Parameter(torch.zeros(classes, hidden))
        self.bias = nn.Parameter(torch.zeros(hidden))
        self.out = nn.Parameter(torch.zeros(hidden, outputs))
        self.out_bias = nn.Parameter(torch.zeros(outputs))
        self.combine = combine

    def weights(self) -> Head:
        """In the order of `inputs`."""
        own = () if self.own is None else (self.own,)
        inputs = (self.shared, *own, self.of_class)
        return Head(inputs, self.state, self.bias, self.out, self.out_bias, self.combine)

    def inputs(self, which: Tensor, shared: Tensor, own: Tensor | None = None) -> tuple[Tensor, ...]:
        """Inputs of the chain in the order of `weights`.

        Arguments:
            which: (..., K) indicator of the class.
            shared: (G, 1, B, 1, ·).
            own: (G, 1, B, K, ·), for heads that have an input of each class.
        """
        return (shared, which) if own is None else (shared, own, which)


class LatentCell(nn.Module):
    """A gated recurrent unit over z_{t−1} and other inputs, as a cell of the chain.

    Arguments:
        inputs: width of the other inputs, 0 for none.
        classes: K where the class is an input too, else 0.
        latent: Z.
        hidden: H.
    """

    def __init__(self, inputs: int, classes: int, latent: int, hidden: int) -> None:
        super().__init__()
        reach = 1 / math.sqrt(hidden)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.empty(*shape).uniform_(-reach, reach))

        self.inputs = drawn(inputs, 3 * hidden) if inputs else None
        self.of_class = nn.Parameter(torch.zeros(classes, 3 * hidden)) if classes else None
        self.latent = drawn(latent, 3 * hidden)
        self.state = drawn(hidden, 3 * hidden)
        self.bias = nn.Parameter(torch.zeros(3 * hidden))
        self.state_bias = nn.Parameter(torch.zeros(hidden))
        self.initial = nn.Parameter(torch.zeros(hidden))

    def weights(self) -> Cell:
        """Inputs in the order: others, class."""
        inputs = tuple(weight for weight in (self.inputs, self.of_class) if weight is not None)
        return Cell(inputs, self.latent, self.state, self.bias, self.state_bias, self.initial)


class Reading(nn.Module):
    """Departure of q from a standard normal where q reads the season alone: δ and ρ, zero at first.

        (δ, ρ) = out(tanh(W shared + V own + U_y)),   |ρ| < 3

    Arguments:
        shared: width of the input all classes share.
        own: width of the input of each class, 0 for none.
        classes: K.
        latent: Z.
        hidden: width of the hidden layer.
    """

    def __init__(self, shared: int, own: int, classes: int, latent: int, hidden: int) -> None:
        super().__init__()
        self.of_shared = nn.Linear(shared, hidden)
        self.of_own = nn.Parameter(torch.zeros(own, hidden)) if own else None
        self.of_class = nn.Parameter(torch.zeros(classes, hidden))
        self.out = nn.Linear(hidden, 2 * latent)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, which: Tensor, shared: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """δ and ρ (..., K, Z) for shared (..., 1, ·), own (..., K, ·) and indicators (..., K, K)."""
        hidden = self.of_shared(shared) + which @ self.of_class
        if self.of_own is not None and own is not None:
            hidden = hidden + own @ self.of_own
        shift, change = self.out(torch.tanh(hidden)).chunk(2, -1)
        return shift, bounded(change)


def standard_path(shift: Tensor, log_ratio: Tensor, noise: Tensor) -> ChainPath:
    """z = δ + e^{ρ/2} ε of a state whose prior is the standard normal."""
    return ChainPath(shift + torch.exp(log_ratio / 2) * noise, torch.zeros_like(shift), shift, log_ratio)


class Emission(nn.Module):
    """Residual mean and log-variance of a date's innovation given the state: zero at first.

        (g, s) = out(tanh(W_z z + W_h h + U_y)),   |s| < 3

    Arguments:
        context: width of h, which all classes share.
        latent: Z.
        classes: K.
        hidden: width of the hidden layer.
        bands: C.
    """

    def __init__(self, context: int, latent: int, classes: int, hidden: int, bands: int) -> None:
        super().__init__()
        self.of_context = nn.Linear(context, hidden)
        self.of_state = nn.Linear(latent, hidden, bias=False)
        self.of_class = nn.Parameter(torch.zeros(classes, hidden))
        self.out = nn.Linear(hidden, 2 * bands)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, z: Tensor, context: Tensor, which: Tensor) -> tuple[Tensor, Tensor]:
        """g and s (G, S, B, K, C) for z (G, S, B, K, Z), context (G, 1, B, 1, ·) and class indicators (..., K)."""
        hidden = torch.tanh(self.of_state(z) + (self.of_context(context) + which @ self.of_class))
        mean, change = self.out(hidden).chunk(2, -1)
        return mean, bounded(change)


def kl_per_date(path: ChainPath) -> Tensor:
    """KL(q(z_t | z_{t−1}, ·) ‖ p(z_t | z_{t−1})) = ½ Σ e^ρ + δ² e^−λ − 1 − ρ over the latent axis; 0 where m_t = 0."""
    distance = path.shift.square() * torch.exp(-path.transition_log_variance)
    return 0.5 * (torch.expm1(path.log_ratio) + distance - path.log_ratio).sum(-1)


def log_ratio_per_date(path: ChainPath, noise: Tensor) -> Tensor:
    """log p(z_t | z_{t−1}) − log q(z_t | z_{t−1}, ·) of the sampled states; its mean over ε is −`kl_per_date`."""
    standard = path.shift * torch.exp(-path.transition_log_variance / 2) + torch.exp(path.log_ratio / 2) * noise
    return 0.5 * (path.log_ratio + noise.square() - standard.square()).sum(-1)


def gaussian_per_date(residual: Tensor, log_variance: Tensor, mask: Tensor) -> Tensor:
    """log N(residual; 0, e^v) at observed dates and 0 elsewhere, the bands summed.

    Arguments:
        residual, log_variance: (..., C), broadcast.
        mask: (...) 1 at observed dates.
    """
    terms = residual.square() * torch.exp(-log_variance) + log_variance
    return -0.5 * mask * (terms.sum(-1) + residual.shape[-1] * _LOG_2PI)
