"""Affine couplings on vectors with missing entries."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LOG_SCALE_BOUND = 0.5


def divide(given: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Positions of the part that is changed, and the order that puts [given, changed] back into place.

    Arguments:
        given: positions of the part that is left as it is.
        size: number of entries D.
    """
    rest = torch.ones(size, dtype=torch.bool)
    rest[given] = False
    changed = rest.nonzero()[:, 0]
    return changed, torch.argsort(torch.cat([given, changed]))


class MaskedCoupling(nn.Module):
    """An affine coupling that starts at the identity and leaves missing entries untouched.

    With a the given and b the changed half of v, and m the presence of the entries,

        b' = b exp(s) + t,   (s, t) = m_b · MLP([m_a a, m]),   |s| < 1/2,   log |det| = Σ s

    Arguments:
        given: positions of the half that is left as it is.
        size: number of entries D.
        slots: G, presence is told to the conditioner per slot.
        hidden: width of its two hidden layers.
        start_at_identity: the last layer begins at zero.

    Reference:
        Density Estimation using Real NVP, Dinh, Sohl-Dickstein and Bengio, 2017.
    """

    given: Tensor
    changed: Tensor
    order: Tensor

    def __init__(self, given: Tensor, size: int, slots: int, hidden: int, *, start_at_identity: bool = True) -> None:
        super().__init__()
        changed, order = divide(given, size)
        self.register_buffer("given", given)
        self.register_buffer("changed", changed)
        self.register_buffer("order", order)
        last = nn.Linear(hidden, 2 * len(changed))
        if start_at_identity:
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)
        self.conditioner = nn.Sequential(
            nn.Linear(len(given) + slots, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), last
        )

    def _affine(self, kept: Tensor, present: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        s, t = self.conditioner(torch.cat([kept, mask.to(kept.dtype)], -1)).chunk(2, -1)
        there = present[:, self.changed]
        return LOG_SCALE_BOUND * torch.tanh(s / LOG_SCALE_BOUND) * there, t * there

    def forward(self, v: Tensor, present: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Towards the base.

        Arguments:
            v: (B, D), 0 at missing entries.
            present: (B, D) 0 or 1.
            mask: (B, G) presence of the slots.

        Returns:
            (B, D) and the log-determinant (B,).
        """
        kept = v[:, self.given]
        s, t = self._affine(kept, present, mask)
        moved = v[:, self.changed] * s.exp() + t
        return torch.cat([kept, moved], -1)[:, self.order], s.sum(-1)

    def inverse(self, v: Tensor, present: Tensor, mask: Tensor) -> Tensor:
        """(B, D) such that `forward` gives `v`."""
        kept = v[:, self.given]
        s, t = self._affine(kept, present, mask)
        moved = (v[:, self.changed] - t) * (-s).exp()
        return torch.cat([kept, moved], -1)[:, self.order]
