"""The tied Gaussian on a calendar grid, and the time-ordered whitening it defines.

A season x on G slots of C bands, standardised band by band, is D = G·C numbers ordered by time, and

    p(x | y) = N(μ_y, V),   V = L Lᵀ the same for every class,   p(y) = π_y.

L is lower triangular and x is ordered by time, so e = L⁻¹ (x − μ) holds the innovation of each date: what it adds to
all earlier ones. With the 0/1 mask M of a row the factor becomes L_r = chol(M V M + I − M). Its innovations are 0 at
missing dates, and its determinant is that of the observed part, so gaps and prefixes of a season are scored by the
exact marginal; nothing is interpolated.

References:
    Maximum Likelihood from Incomplete Data via the EM Algorithm, Dempster, Laird and Rubin, 1977.
    A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices, Ledoit and Wolf, 2004.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cropgen.core.errors import UsageError
from cropgen.models.base import InputSpec, Mixture
from cropgen.models.layers.grid import slot_sums
from cropgen.series.batches import Batch

MOST_DIMENSIONS = 3000
_BLOCK_ELEMENTS, _CACHED_ELEMENTS = 1 << 24, 1 << 18
_LOG_2PI = math.log(2 * math.pi)
CAUTIOUS_BETA = 0.3
UNIFORM_SHARE = 0.01


def tempered(log_joint: Tensor, beta: Tensor | float) -> Tensor:
    """(B, K) log of 99 % softmax(β log p(x, y)) and 1 % of the uniform: the classes keep their order.

    A density of many correlated values is far too sure of itself; β makes its posterior honest.
    """
    posterior = torch.softmax(beta * log_joint, -1)
    return torch.log((1 - UNIFORM_SHARE) * posterior + UNIFORM_SHARE / log_joint.shape[-1])


@dataclass(frozen=True)
class Whitened:
    """Innovations of B rows, zero at missing dates.

    Arguments:
        e: (B, D) innovations L_r⁻¹ M (x − μ0), where μ0 = Σ_y π_y μ_y.
        offset: (B, K, D) the class means in the same coordinates, L_r⁻¹ M (μ_y − μ0).
        date_log_det: (B, G) log determinant of each date's innovation, with the log of the bands' scale, so that
            densities are per unit of reflectance.
        date_observed: (B, G) number of observed values of each date.
    """

    e: Tensor
    offset: Tensor
    date_log_det: Tensor
    date_observed: Tensor

    @property
    def log_det(self) -> Tensor:
        """(B,) log determinant of a row's factor, in reflectance units."""
        return self.date_log_det.sum(-1)

    @property
    def observed(self) -> Tensor:
        """(B,) number of observed values."""
        return self.date_observed.sum(-1)


@dataclass(frozen=True)
class _Group:
    """Rows that share few masks of equally many clear dates.

    Arguments:
        rows: (R,) positions in the batch.
        which: (R,) position of each row's mask among the masks of the group.
        place: (R,) position of each row among the rows with its mask.
        kept: (U, n) the observed entries of each mask, ascending.
        factor: (U, n, n) lower Cholesky factor of their covariance.
    """

    rows: Tensor
    which: Tensor
    place: Tensor
    kept: Tensor
    factor: Tensor


class TiedGaussian(nn.Module):
    """Class means, one covariance and a class prior as buffers: the common start of the deep generative models.

    Arguments:
        spec: bands (C), calendar (G) and legend (K) of the model.

    Attributes:
        centre, scale: (C,) standardisation of each band.
        means: (K, D) class means of standardised seasons, date by date.
        cov, chol: (D, D) covariance of standardised seasons and its lower Cholesky factor.
        log_prior: (K,) log π.
        beta: () inverse temperature of the posterior.

    Raises:
        UsageError: the season has too many values for a full covariance.
    """

    centre: Tensor
    scale: Tensor
    means: Tensor
    cov: Tensor
    chol: Tensor
    log_prior: Tensor
    beta: Tensor

    def __init__(self, spec: InputSpec) -> None:
        super().__init__()
        self.slots, self.bands, classes = spec.calendar.count, len(spec.bands), spec.classes
        size = self.slots * self.bands
        if size > MOST_DIMENSIONS:
            raise UsageError(
                f"{self.slots} slots of {self.bands} bands are {size} values a season; "
                f"the tied Gaussian takes at most {MOST_DIMENSIONS}",
                hint="choose a coarser calendar or fewer bands",
            )
        self.register_buffer("centre", torch.zeros(self.bands))
        self.register_buffer("scale", torch.ones(self.bands))
        self.register_buffer("means", torch.zeros(classes, size))
        self.register_buffer("cov", torch.eye(size))
        self.register_buffer("chol", torch.eye(size))
        self.register_buffer("log_prior", torch.full((classes,), -math.log(classes)))
        self.register_buffer("beta", torch.tensor(CAUTIOUS_BETA))

    def grid(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Standardised seasons on the calendar: the observations of a slot averaged.

        Returns:
            x (B, G, C), 0 where missing, and m (B, G) bool.
        """
        dtype = self.scale.dtype
        number = slot_sums(batch.mask.to(dtype), batch, self.slots)
        total = slot_sums(batch.values.to(dtype), batch, self.slots)
        mask = number > 0
        mean = total / number.clamp(min=1)[..., None]
        return self.standardise(mean) * mask[..., None], mask

    def standardise(self, values: Tensor) -> Tensor:
        """Reflectance (…, C) in standard deviations from the mean of each band."""
        return (values - self.centre) / self.scale

    def restore(self, x: Tensor) -> Tensor:
        """Standardised values (…, C) back in reflectance."""
        return x * self.scale + self.centre

    @property
    def overall_mean(self) -> Tensor:
        """(D,) μ0, the mean of the class means weighted by the prior."""
        return self.log_prior.exp() @ self.means

    def whiten(self, x: Tensor, m: Tensor) -> Whitened:
        """Innovations of standardised seasons x (B, G, C) observed where m (B, G)."""
        rows, classes = x.shape[0], self.means.shape[0]
        deviation = x.flatten(1) - self.overall_mean
        contrast = (self.means - self.overall_mean).T
        e = x.new_zeros(rows, self.means.shape[1])
        offset = x.new_zeros(rows, classes, self.means.shape[1])
        log_diagonal = torch.zeros_like(e)
        for group in self._groups(m):
            kept, width = group.kept[group.which], int(group.place.max()) + 1
            right = x.new_zeros(*group.kept.shape, width + classes)
            right[group.which, :, group.place] = deviation[group.rows[:, None], kept]
            right[:, :, width:] = contrast[group.kept]
            solved = torch.linalg.solve_triangular(group.factor, right, upper=False)
            e[group.rows[:, None], kept] = solved[group.which, :, group.place]
            diagonal = group.factor.diagonal(dim1=-2, dim2=-1).log()
            log_diagonal[group.rows[:, None], kept] = diagonal[group.which]
            classwise = solved[:, :, width:].transpose(1, 2)[group.which]
            where = kept[:, None, :].expand(-1, classes, -1)
            offset[group.rows] = offset[group.rows].scatter(2, where, classwise)
        per_date = log_diagonal.unflatten(1, (self.slots, self.bands)).sum(-1)
        return Whitened(e, offset, per_date + m * self.scale.log().sum(), m.to(x.dtype) * self.bands)

    def date_log_density(self, white: Whitened) -> Tensor:
        """(B, G, K) log p(x_t | earlier dates, y) in reflectance units; 0 at missing dates."""
        residual = white.e[:, None] - white.offset
        quadratic = residual.square().unflatten(2, (self.slots, self.bands)).sum(-1).transpose(1, 2)
        constant = white.date_log_det + 0.5 * _LOG_2PI * white.date_observed
        return -0.5 * quadratic - constant[..., None]

    def log_joint(self, x: Tensor, m: Tensor) -> Tensor:
        """(B, K) log p(x_observed, y), the missing dates integrated out; log π without any clear date."""
        return self.date_log_density(self.whiten(x, m)).sum(1) + self.log_prior

    def log_posterior(self, x: Tensor, m: Tensor) -> Tensor:
        """(B, K) tempered log p(y | x_observed); log π without any clear date."""
        posterior = tempered(self.log_joint(x, m), self.beta)
        return torch.where(m.any(1)[:, None], posterior, self.log_prior)

    def prefix_log_joint(self, x: Tensor, m: Tensor) -> Tensor:
        """(B, G, K) log p(x_1…t, y) after each slot t: the exact score of every beginning of the season."""
        return self.date_log_density(self.whiten(x, m)).cumsum(1) + self.log_prior

    def complete(self, x: Tensor, m: Tensor, posterior: Tensor | None = None) -> Tensor:
        """(B, G, C) the season with each missing date replaced by its conditional mean.

        E[x_miss | x_obs] = μ̄_miss + V_mo V_oo⁻¹ (x_obs − μ̄_obs) with μ̄ = Σ_y p(y | x_obs) μ_y.

        Arguments:
            x: (B, G, C) standardised.
            m: (B, G) bool.
            posterior: (B, K) class weights; by default p(y | x_obs) of this Gaussian.
        """
        weights = torch.softmax(self.log_joint(x, m), -1) if posterior is None else posterior
        expected = weights @ self.means
        flat, observed = x.flatten(1), m.repeat_interleave(self.bands, 1)
        filled = expected.clone()
        for group in self._groups(m):
            kept, width = group.kept[group.which], int(group.place.max()) + 1
            right = x.new_zeros(*group.kept.shape, width)
            right[group.which, :, group.place] = (flat - expected)[group.rows[:, None], kept]
            weight = torch.cholesky_solve(right, group.factor)
            update = self.cov[group.kept].transpose(1, 2) @ weight
            filled[group.rows] += update[group.which, :, group.place]
        return torch.where(observed, flat, filled).view_as(x)

    def predictive(self, x: Tensor, m: Tensor, slots: Tensor) -> Mixture:
        """What is expected at `slots` (S,), each value by itself, in reflectance.

        Given the class, the values a at those slots are Gaussian with mean μ_y,a + V_ao V_oo⁻¹ (x_o − μ_y,o) and
        covariance V_aa − V_ao V_oo⁻¹ V_oa, of which the diagonal is kept; the classes weigh p(y | x_o).

        Arguments:
            x: (B, G, C) standardised.
            m: (B, G) bool.
        """
        asked = (slots[:, None] * self.bands + torch.arange(self.bands, device=slots.device)).flatten()
        mean = self.means[:, asked].expand(len(x), -1, -1).clone()
        variance = self.cov.diagonal()[asked].expand(len(x), -1).clone()
        flat = x.flatten(1)
        for group in self._groups(m):
            across = self.cov[group.kept[:, :, None], asked]
            solved = torch.cholesky_solve(across, group.factor)
            kept = group.kept[group.which]
            residual = flat[group.rows[:, None], kept][:, None] - self.means[:, kept].transpose(0, 1)
            mean[group.rows] += residual @ solved[group.which]
            variance[group.rows] -= (across * solved).sum(1)[group.which]
        shape = (len(slots), self.bands)
        weight = torch.softmax(self.log_joint(x, m), -1)
        spread = variance.clamp(min=0).unflatten(1, shape) * self.scale.square()
        return Mixture(weight, self.restore(mean.unflatten(2, shape)), spread)

    def sample(self, y: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        """(B, G, C) seasons in reflectance drawn from p(x | y) for classes y (B,), noise scaled by `temperature`."""
        shape = (len(y), self.means.shape[1])
        noise = torch.randn(shape, generator=generator, dtype=self.means.dtype).to(self.means.device)
        season = self.means[y] + temperature * noise @ self.chol.T
        return self.restore(season.unflatten(1, (self.slots, self.bands)))

    def _groups(self, m: Tensor) -> Iterator[_Group]:
        """Rows with any clear date, grouped by mask; each mask is factorised once, complete rows use `chol`."""
        patterns, inverse, counts = torch.unique(m, dim=0, return_inverse=True, return_counts=True)
        dates, cells = patterns.sum(1), self._cells()
        most = _CACHED_ELEMENTS if m.device.type == "cpu" else _BLOCK_ELEMENTS
        order = torch.argsort(inverse, stable=True)
        begins = counts.cumsum(0) - counts
        for clear in dates.unique().tolist():
            if clear == 0:
                continue
            alike = (dates == clear).nonzero()[:, 0]
            alike = alike[torch.argsort(counts[alike], stable=True)]
            size = clear * self.bands
            for block in alike.split(max(1, most // size**2)):
                which = torch.repeat_interleave(torch.arange(len(block), device=m.device), counts[block])
                first = counts[block].cumsum(0) - counts[block]
                place = torch.arange(len(which), device=m.device) - first[which]
                rows = order[begins[block][which] + place]
                slots = patterns[block].nonzero()[:, 1].view(len(block), clear)
                kept = (slots[:, :, None] * self.bands + torch.arange(self.bands, device=m.device)).flatten(1)
                yield _Group(rows, which, place, kept, self._factor(slots, cells))

    def _cells(self) -> Tensor:
        """(G, G, C, C) the covariance of the bands of two dates: what belongs together lies together in memory."""
        return self.cov.unflatten(0, (-1, self.bands)).unflatten(2, (-1, self.bands)).transpose(1, 2).contiguous()

    def _factor(self, slots: Tensor, cells: Tensor) -> Tensor:
        """(M or 1, n·C, n·C) lower Cholesky factor of the covariance of n dates each (M, n)."""
        if slots.shape[1] == self.slots:
            return self.chol[None]
        chosen = cells[slots[:, :, None], slots[:, None, :]].transpose(2, 3)
        return torch.linalg.cholesky(chosen.flatten(3).flatten(1, 2))
