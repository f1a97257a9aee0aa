"""Seasons as the deep generative models see them, and a bank of augmented ones whitened once before training.

Whitening a row with gaps takes a factorisation of its own, about (G·C)³/3 operations, so a mini-batch would spend more
on it than on its networks. The bank whitens a fixed number of augmented copies before the first step, by the same exact
marginal that scores parcels, and mini-batches are drawn from it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Self

import torch
from torch import Tensor

from cropgen.core.progress import Reporter
from cropgen.models.base import TrainingData
from cropgen.models.layers.grid import grid_view
from cropgen.models.layers.innovations import TiedGaussian
from cropgen.series.augment import Strength, augment
from cropgen.series.batches import Batch, random_rows

_CHUNK = 256


def _nowhere() -> Tensor:
    return torch.empty(0)


@dataclass(frozen=True)
class Seasons:
    """B whitened seasons of G slots and C bands, D = G·C, for K classes.

    Arguments:
        x: (B, G, C) standardised bands, 0 where missing.
        mask: (B, G) bool, true where a slot holds an observation.
        day: (B, G) days since 1 January: mean of the slot's observations, its first day where it has none.
        e: (B, D) innovations about the mean over classes, time-major, 0 where missing.
        offset: (B, K, D) the class means in the same coordinates.
        date_log_det: (B, G) log-determinant of each date's factor, in nats of reflectance units.
        y: (B,) int64 class, −1 unknown.
        site: (B, S) covariates of the place, NaN unknown; (B, 0) when not given.
    """

    x: Tensor
    mask: Tensor
    day: Tensor
    e: Tensor
    offset: Tensor
    date_log_det: Tensor
    y: Tensor
    site: Tensor = field(default_factory=_nowhere, kw_only=True)

    def __post_init__(self) -> None:
        if self.site.ndim != 2:
            object.__setattr__(self, "site", self.x.new_zeros((len(self.y), 0)))

    def __len__(self) -> int:
        return self.y.shape[0]

    @property
    def present(self) -> Tensor:
        """(B, D) 1 at observed values and 0 elsewhere, in the values' type."""
        return self.mask.repeat_interleave(self.x.shape[-1], 1).to(self.e.dtype)

    @property
    def observed(self) -> Tensor:
        """(B,) int64 number of observed values."""
        return self.mask.sum(1) * self.x.shape[-1]

    @property
    def log_det(self) -> Tensor:
        """(B,) log-determinant of the row's factor, in nats of reflectance units."""
        return self.date_log_det.sum(1)

    def take(self, rows: Tensor | slice) -> Self:
        """The rows of an index or boolean tensor or a slice."""
        return type(self)(**{f.name: getattr(self, f.name)[rows] for f in fields(self)})

    def to(self, device: torch.device | str) -> Self:
        return type(self)(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def concatenate_seasons(parts: list[Seasons]) -> Seasons:
    """Rows of several sets."""
    return Seasons(**{f.name: torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Seasons)})


def whitened(
    tied: TiedGaussian, x: Tensor, mask: Tensor, day: Tensor, y: Tensor, site: Tensor | None = None
) -> Seasons:
    """Whiten rows on the grid by the exact marginal of what each observed; arguments as in `Seasons`."""
    white = tied.whiten(x, mask)
    given = {} if site is None else {"site": site}
    return Seasons(x, mask, day.to(x.dtype), white.e, white.offset, white.date_log_det, y, **given)


def see(tied: TiedGaussian, batch: Batch, start_days: Tensor) -> Seasons:
    """A batch as the deep models see it.

    Arguments:
        start_days: (G,) first day of each slot, days since 1 January.
    """
    x, mask = tied.grid(batch)
    return whitened(tied, x, mask, grid_view(batch, start_days)[2], batch.y, batch.site)


@dataclass(frozen=True)
class Bank:
    """Whitened augmented copies of the training rows.

    Arguments:
        labelled: copies of labelled rows.
        unlabelled: copies of unlabelled rows, or None.
    """

    labelled: Seasons
    unlabelled: Seasons | None

    @classmethod
    def build(
        cls,
        tied: TiedGaussian,
        data: TrainingData,
        start_days: Tensor,
        *,
        labelled: int,
        unlabelled: int,
        strength: Strength,
        generator: torch.Generator,
        report: Reporter,
    ) -> Bank:
        """Whiten copies of the training rows: shuffled passes over them, each copy augmented afresh.

        Arguments:
            start_days: (G,) first day of each slot, days since 1 January.
            labelled, unlabelled: numbers of copies.
            strength: of the augmentation.
        """
        pool = data.unlabelled if data.unlabelled is not None and len(data.unlabelled) and unlabelled else None
        with report.task("whitening", total=labelled + (unlabelled if pool is not None else 0)) as task:

            def copies(batch: Batch, count: int) -> Seasons:
                x, mask = tied.grid(batch)
                day = grid_view(batch, start_days)[2]
                parts = []
                for rows in next(random_rows(len(batch), count, generator)).split(_CHUNK):
                    copy, seen = augment(x[rows], mask[rows], strength, generator)
                    parts.append(whitened(tied, copy, seen, day[rows], batch.y[rows], batch.site[rows]))
                    task.advance(len(rows))
                return concatenate_seasons(parts)

            known = copies(data.labelled, labelled)
            return cls(known, None if pool is None else copies(pool, unlabelled))

    def draw(self, labelled: int, unlabelled: int, generator: torch.Generator) -> Seasons:
        """A mini-batch on the generator's device: rows of each kind drawn with replacement, labelled rows first."""
        parts = []
        for rows, count in ((self.labelled, labelled), (self.unlabelled, unlabelled)):
            if rows is not None and count:
                index = torch.randint(len(rows), (count,), generator=generator, device=generator.device)
                parts.append(rows.take(index.to(rows.y.device)).to(generator.device))
        return concatenate_seasons(parts)
