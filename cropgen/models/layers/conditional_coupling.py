"""Affine couplings on the bands of a date, told what the date is to be conditioned on."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cropgen.models.layers.coupling import LOG_SCALE_BOUND, divide


class ConditionalCoupling(nn.Module):
    """An affine coupling of the bands that begins at the identity.

    With a the given and b the changed bands, and c the condition,

        b' = b exp(s) + t,   (s, t) = out(relu(W [a, c])),   |s| < 1/2,   log |det| = Σ s

    Arguments:
        given: (n,) positions of the bands that are left as they are; none makes an affine map of c alone.
        bands: C.
        condition: width of c.
        hidden: width of the hidden layer.

    References:
        Density Estimation using Real NVP, Dinh, Sohl-Dickstein and Bengio, 2017; Learning Likelihoods with Conditional
        Normalizing Flows, Winkler, Worrall, Hoogeboom and Welling, 2019.
    """

    given: Tensor
    changed: Tensor
    order: Tensor

    def __init__(self, given: Tensor, bands: int, condition: int, hidden: int) -> None:
        super().__init__()
        changed, order = divide(given, bands)
        self.register_buffer("given", given)
        self.register_buffer("changed", changed)
        self.register_buffer("order", order)
        self.embed = nn.Linear(len(given) + condition, hidden)
        self.out = nn.Linear(hidden, 2 * len(changed))
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def _affine(self, kept: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        kept = kept.expand(*condition.shape[:-1], -1)
        s, t = self.out(torch.relu(self.embed(torch.cat([kept, condition], -1)))).chunk(2, -1)
        return LOG_SCALE_BOUND * torch.tanh(s / LOG_SCALE_BOUND), t

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Towards the base: x (..., C) and condition (..., ·) → (..., C) and the log-determinant (...)."""
        kept = x[..., self.given]
        s, t = self._affine(kept, condition)
        moved = x[..., self.changed] * s.exp() + t
        return torch.cat([kept.expand(*moved.shape[:-1], -1), moved], -1)[..., self.order], s.sum(-1)

    def inverse(self, x: Tensor, condition: Tensor) -> Tensor:
        """(..., C) such that `forward` gives `x`."""
        kept = x[..., self.given]
        s, t = self._affine(kept, condition)
        moved = (x[..., self.changed] - t) * (-s).exp()
        return torch.cat([kept, moved], -1)[..., self.order]
