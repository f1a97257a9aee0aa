"""What a dynamical model expects where a season was not seen: gaps filled, days to come foreseen, with intervals.

Given the class and the latent path, the innovations of a season are Gaussian, e_t ~ N(o_{y,t} + c_t, diag e^{v_t}), and
they are affine in the values u that are asked for, e = e₀ + J (u − u₀), where J holds columns of L⁻¹ of the dates
observed and asked for together. So u is Gaussian too:

    P = Jᵀ W J,   W = diag e^{−v},      u | x, y ~ N(u₀ − P⁻¹ Jᵀ W (e₀ − o_y − c), P⁻¹)

Where c is 0 and v is 0 this is the conditional of the tied Gaussian, whatever u₀ is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from cropgen.models.base import Mixture
from cropgen.models.layers.innovations import TiedGaussian

_BISECTIONS = 60


def foresee(
    tied: TiedGaussian, x: Tensor, mask: Tensor, slots: Tensor, departure: Tensor, log_variance: Tensor
) -> tuple[Tensor, Tensor]:
    """Means and variances (B, K, S, C), standardised, of the values at slots (S,); observed ones are as observed.

    Arguments:
        x: (B, G, C) standardised seasons.
        mask: (B, G) bool.
        departure: (B, K, D) c.
        log_variance: (B, K, D) v.
    """
    bands = tied.bands
    slots, place = slots.unique(return_inverse=True)
    asked = (slots[:, None] * bands + torch.arange(bands, device=slots.device)).flatten()
    unseen = torch.zeros(mask.shape[1], dtype=torch.bool, device=mask.device).index_fill(0, slots, True)
    together, shape = mask | unseen, (len(slots), bands)
    start = torch.where(mask[..., None], x, tied.overall_mean.view(x.shape[1:]))
    white = tied.whiten(start, together)
    columns = _columns(tied, together, asked).double()
    weight = torch.exp(-log_variance.double())
    residual = (white.e[:, None] - white.offset).double() - departure
    precision = torch.einsum("bad,bkd,bed->bkae", columns, weight, columns)
    slope = torch.einsum("bad,bkd->bka", columns, weight * residual)
    free = (~mask[:, slots]).double().repeat_interleave(bands, 1)[:, None]
    held = torch.diag_embed(1 - free)
    factor = torch.linalg.cholesky(free[..., None] * precision * free[..., None, :] + held)
    mean = start.flatten(1)[:, None, asked] - torch.cholesky_solve((free * slope)[..., None], factor)[..., 0]
    variance = free * torch.cholesky_inverse(factor).diagonal(dim1=-2, dim2=-1)
    return mean.to(x.dtype).unflatten(2, shape)[:, :, place], variance.to(x.dtype).unflatten(2, shape)[:, :, place]


def _columns(tied: TiedGaussian, mask: Tensor, asked: Tensor) -> Tensor:
    """(B, A, D) columns of L⁻¹ at the entries `asked` (A,), all of them observed by mask (B, G)."""
    masks, which = torch.unique(mask, dim=0, return_inverse=True)
    unit = torch.eye(len(tied.overall_mean), dtype=tied.cov.dtype, device=tied.cov.device)[asked]
    rows = (tied.overall_mean + unit).view(-1, tied.slots, tied.bands).repeat(len(masks), 1, 1)
    found = tied.whiten(rows, masks.repeat_interleave(len(asked), 0)).e
    return found.view(len(masks), len(asked), -1)[which]


def interval(expected: Mixture, level: float) -> tuple[Tensor, Tensor]:
    """Lower and upper ends (B, S, C), in reflectance, of the central interval of a mixture.

    Arguments:
        level: share of the probability between the ends, such as 0.9.
    """
    weight = expected.weight[:, :, None, None].double()
    mean, deviation = expected.mean.double(), expected.variance.double().sqrt()[:, None]
    tail = (1 - level) / 2
    return _quantile(weight, mean, deviation, tail), _quantile(weight, mean, deviation, 1 - tail)


def _quantile(weight: Tensor, mean: Tensor, deviation: Tensor, share: float) -> Tensor:
    """Where the distribution function of the mixture passes `share`, by bisection."""
    reach = 10 * deviation
    low, high = (mean - reach).amin(1), (mean + reach).amax(1)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = (weight * torch.special.ndtr((middle[:, None] - mean) / deviation.clamp(min=1e-12))).sum(1) < share
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return (low + high) / 2
