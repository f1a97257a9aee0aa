"""Gaussian class densities fitted to labels alone: one or several components per class, one covariance or one each.

    p(x | y) = Σ_j w_yj N(x; μ_yj, Σ_y),      Σ_y = (1 − r_y) Σ + r_y S_y,      r_y = s n_y / (n_y + D)

on the calendar grid, D = G·C values a season. Σ is the covariance within components pooled over the classes and S_y
that within the components of class y, both with Ledoit-Wolf shrinkage; n_y counts the labels of the class and s is the
share asked for, so a class departs from the pooled form as its labels allow. Fits see complete seasons (gaps filled
linearly) and augmented copies of the labels, where cross-validation finds that copies help; scores are exact marginals
of what a parcel shows. Posteriors are tempered by an inverse temperature from the same cross-validation.

References:
    Regularized Discriminant Analysis, Friedman, 1989;
    A Well-Conditioned Estimator for Large-Dimensional Covariance Matrices, Ledoit and Wolf, 2004;
    Discriminant Analysis by Gaussian Mixtures, Hastie and Tibshirani, 1996.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from cropgen.models.base import Context, GenerativeModel, InputSpec, Options, TrainingData
from cropgen.models.layers.features import require_every_class
from cropgen.models.layers.held_out import HeldOut, fit_temperature, held_out_scores
from cropgen.models.layers.innovations import CAUTIOUS_BETA, TiedGaussian, tempered
from cropgen.models.layers.tied_em import Estimate, Rows, Weighted, maximise
from cropgen.series.augment import Strength, augment, fill_gaps
from cropgen.series.batches import Batch
from cropgen.series.legend import Legend

_ROWS_AT_ONCE = 4096
_ROWS_AFTER_AUGMENTATION = 3000
_MOST_COPIES = 30
_K_MEANS_STEPS = 10
_LEAST_SHARE = 1e-3


class GaussianOptions(Options):
    """Options of every Gaussian classifier that learns from labels alone."""

    augment: Strength = Field(
        "strong", description="copies of the labelled parcels, used where cross-validation finds that they help",
        json_schema_extra={"search": ["strong", "lite", "none"]},
    )  # fmt: skip
    prior_exponent: float = Field(
        1.0, ge=0, description="class prior ∝ label counts to this power; 0 is uniform",
        json_schema_extra={"search": [0.0, 0.5, 1.0]},
    )  # fmt: skip


@dataclass(frozen=True)
class Labelled:
    """Complete standardised seasons x (N, G, C), float64, of classes y (N,); centre and scale (C,) of the bands."""

    x: Tensor
    y: Tensor
    centre: Tensor
    scale: Tensor

    @classmethod
    def of(cls, spec: InputSpec, batch: Batch) -> Labelled:
        """The labelled rows with a clear date.

        Raises:
            DataError: a class has none.
        """
        gaussian = TiedGaussian(spec).double()
        x, m = gaussian.grid(batch)
        usable = m.any(1) & batch.y_mask
        x, m, y = x[usable], m[usable], batch.y[usable]
        require_every_class(y, spec)
        centre, scale = x[m].mean(0), x[m].std(0, correction=0)
        scale = torch.where(scale > 0, scale, 1.0)
        return cls(fill_gaps((x - centre) / scale * m[..., None], m), y, centre, scale)

    def take(self, rows: Tensor) -> Labelled:
        return replace(self, x=self.x[rows], y=self.y[rows])

    def copies(self, strength: Strength, generator: torch.Generator) -> Labelled:
        """Augmented copies: about 3,000, at least 2 and at most 30 of each season."""
        number = min(max(_ROWS_AFTER_AUGMENTATION // len(self.y), 2), _MOST_COPIES)
        x = self.x.repeat(number, 1, 1)
        seen = torch.ones(x.shape[:2], dtype=torch.bool)
        return replace(self, x=augment(x, seen, strength, generator, drop_dates=False)[0], y=self.y.repeat(number))


@dataclass(frozen=True)
class Form:
    """What is fitted.

    Arguments:
        share: s, how much of a covariance of its own a class gets; 0 ties the covariance.
        components: most components of a class.
        labels_per_component: labels that a further component takes.
        steps: of EM, where a class has several components.
    """

    share: float = 0.0
    components: int = 1
    labels_per_component: int = 1
    steps: int = 1

    def counts(self, labels: Tensor) -> list[int]:
        """Components of each class, given its labels (K,)."""
        return [min(self.components, max(1, int(n) // self.labels_per_component)) for n in labels]


@dataclass(frozen=True)
class Fit:
    """Class densities in standardised units.

    Arguments:
        classes: of each class its component means (J, D), covariance (D, D) and log weights (J,).
        tied: the means of all components and the pooled covariance.
        log_prior: (K,).
    """

    classes: list[Estimate]
    tied: Estimate
    log_prior: Tensor

    def log_joint(self, x: Tensor) -> Tensor:
        """(N, K) log p(x, y) of complete seasons x (N, D)."""
        return torch.stack([one.log_joint(x).logsumexp(1) for one in self.classes], 1) + self.log_prior


def fit_densities(seen: Labelled, real: Tensor, form: Form, exponent: float, generator: torch.Generator) -> Fit:
    """Fit the densities.

    Arguments:
        seen: labelled seasons, or copies of them.
        real: (K,) labels of each class, copies not counted.
        form: what is fitted.
        exponent: of the class prior.
        generator: source of the first components.
    """
    rows = [Rows(seen.x[seen.y == k].flatten(1)) for k in range(len(real))]
    number = form.counts(real)
    shares = [_cluster(r.x, j, generator) for r, j in zip(rows, number, strict=True)]
    log_prior = torch.log_softmax(exponent * real.double().clamp(min=1).log(), -1)
    fit = _maximise(rows, shares, real, form.share, log_prior)
    for _ in range(form.steps if max(number) > 1 else 0):
        shares = [_floored(one.posterior(r.x)) for one, r in zip(fit.classes, rows, strict=True)]
        fit = _maximise(rows, shares, real, form.share, log_prior)
    return fit


def _maximise(rows: list[Rows], shares: list[Tensor], real: Tensor, share: float, log_prior: Tensor) -> Fit:
    """The M-step."""
    weights = [(s.sum(0) / len(s)).log() for s in shares]
    pooled = Weighted(Rows(torch.cat([r.x for r in rows])), torch.block_diag(*shares))
    tied = maximise([pooled], torch.cat([w + p for w, p in zip(weights, log_prior, strict=True)]))
    classes = []
    means = tied.means.split([s.shape[1] for s in shares])
    for mean, r, s, weight, n in zip(means, rows, shares, weights, real.tolist(), strict=True):
        cov, blend = tied.cov, share * n / (n + tied.cov.shape[0])
        if blend > 0:
            cov = (1 - blend) * cov + blend * maximise([Weighted(r, s)], weight).cov
        classes.append(Estimate(mean, cov, weight))
    return Fit(classes, tied, log_prior)


def _floored(share: Tensor) -> Tensor:
    """Shares (N, J) of which every component gets a little, so that none dies."""
    return (1 - _LEAST_SHARE) * share + _LEAST_SHARE / share.shape[1]


def _cluster(x: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(N, J) shares of the clusters that k-means finds in x (N, D), its centres begun far apart."""
    if count == 1:
        return x.new_ones(len(x), 1)
    centres = x[torch.randint(len(x), (1,), generator=generator)]
    while len(centres) < count:
        nearest = torch.cdist(x, centres).amin(1).square()
        chance = nearest if nearest.sum() > 0 else torch.ones_like(nearest)
        centres = torch.cat([centres, x[torch.multinomial(chance, 1, generator=generator)]])
    for _ in range(_K_MEANS_STEPS):
        share = _nearest(x, centres)
        centres = share.T @ x / share.sum(0)[:, None]
    return _nearest(x, centres)


def _nearest(x: Tensor, centres: Tensor) -> Tensor:
    return _floored(functional.one_hot(torch.cdist(x, centres).argmin(1), len(centres)).to(x.dtype))


@dataclass(frozen=True)
class Chosen:
    """A fit to all labels, its temperature, and what is worth keeping in the facts of a run."""

    fit: Fit
    seen: Labelled
    beta: float | None
    facts: dict[str, Any]


def fit_chosen(spec: InputSpec, data: TrainingData, options: GaussianOptions, form: Form, context: Context) -> Chosen:
    """Fit with and without copies of the labels, and keep what judges held-out labels better.

    Without cross-validation (one label per class) the copies are kept.

    Raises:
        DataError: a class has no labelled row with a clear date.
    """
    seen = Labelled.of(spec, data.labelled)
    ways: list[Strength] = ["none"] if options.augment == "none" else [options.augment, "none"]

    def fit(part: Labelled, strength: Strength, purpose: str) -> Fit:
        real = torch.bincount(part.y, minlength=spec.classes)
        generator = context.generator(f"gaussians/{purpose}")
        shown = part if strength == "none" else part.copies(strength, generator)
        return fit_densities(shown, real, form, options.prior_exponent, generator)

    judged: dict[Strength, HeldOut] = {}
    with context.report.task("cross-validation", len(ways)) as task:
        for strength in ways:

            def score(learn: Tensor, judge: Tensor, strength: Strength = strength) -> Tensor:
                return fit(seen.take(learn), strength, "fold").log_joint(seen.x[judge].flatten(1))

            scores, answers = held_out_scores(seen.y, score, context.generator("gaussians/folds"))
            if len(answers):
                judged[strength] = fit_temperature(scores, answers)
            task.advance()
    best = min(judged, key=lambda way: judged[way].nll) if judged else ways[0]
    nll = {way: round(one.nll, 4) for way, one in judged.items()}
    facts = {"copies": best, "nll": nll, "labels": len(seen.y)}
    return Chosen(fit(seen, best, "final"), seen, judged[best].beta if judged else None, facts)


def keep_estimate(gaussian: TiedGaussian, estimate: Estimate, seen: Labelled) -> None:
    """Write an estimate and the standardisation of the bands into the buffers of a Gaussian."""
    for name, content in (
        ("means", estimate.means), ("cov", estimate.cov), ("chol", torch.linalg.cholesky(estimate.cov)),
        ("log_prior", estimate.log_prior), ("centre", seen.centre), ("scale", seen.scale),
    ):  # fmt: skip
        getattr(gaussian, name).copy_(content)


class ClassGaussians(GenerativeModel):
    """A mixture of Gaussians for every class.

    Each class is a `TiedGaussian` whose "classes" are its components: they share the covariance of the class.
    """

    log_prior: Tensor
    beta: Tensor
    name: str

    def __init__(self, spec: InputSpec, options: GaussianOptions) -> None:
        super().__init__(spec, options)
        self.settings = options
        self._allocate([1] * spec.classes)
        self.register_buffer("log_prior", torch.full((spec.classes,), -math.log(spec.classes)))
        self.register_buffer("beta", torch.tensor(CAUTIOUS_BETA))

    def _allocate(self, components: list[int]) -> None:
        self.densities = nn.ModuleList(TiedGaussian(replace(self.spec, legend=_numbered(j))) for j in components)

    @property
    def parts(self) -> list[TiedGaussian]:
        """The density of each class."""
        return [part for part in self.densities if isinstance(part, TiedGaussian)]

    def form(self) -> Form:
        """What the options ask for."""
        raise TypeError(f"{type(self).__name__} does not say what it fits")

    def fixed_state(self) -> dict[str, Any]:
        return {"components": [len(part.log_prior) for part in self.parts]}

    def restore_fixed_state(self, state: dict[str, Any]) -> None:
        self._allocate(state["components"])

    def prepare(self, data: TrainingData, context: Context) -> None:
        chosen = fit_chosen(self.spec, data, self.settings, self.form(), context)
        self._allocate([len(one.log_prior) for one in chosen.fit.classes])
        for part, estimate in zip(self.parts, chosen.fit.classes, strict=True):
            keep_estimate(part, estimate, chosen.seen)
        self.log_prior.copy_(chosen.fit.log_prior)
        if chosen.beta is not None:
            self.beta.fill_(chosen.beta)
        context.facts[self.name] = chosen.facts | {"beta": float(self.beta)} | self.fixed_state()

    def log_joint(self, batch: Batch) -> Tensor:
        x, m = self.parts[0].grid(batch)
        blocks = list(zip(x.split(_ROWS_AT_ONCE), m.split(_ROWS_AT_ONCE), strict=True))
        per_class = [torch.cat([part.log_joint(*block).logsumexp(1) for block in blocks]) for part in self.parts]
        return torch.stack(per_class, 1) + self.log_prior

    def log_posterior(self, batch: Batch) -> Tensor:
        seen = (batch.mask & (batch.slot >= 0)).any(1)
        return torch.where(seen[:, None], tempered(self.log_joint(batch), self.beta), self.log_prior)

    def sample(self, y: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        drawn = self.log_prior.new_zeros(len(y), self.spec.calendar.count, len(self.spec.bands))
        for k, part in enumerate(self.parts):
            rows = (y == k).nonzero()[:, 0]
            if len(rows):
                weight = part.log_prior.exp().double().cpu()
                component = torch.multinomial(weight, len(rows), replacement=True, generator=generator)
                drawn[rows] = part.sample(component.to(y.device), generator, temperature)
        return drawn


def _numbered(count: int) -> Legend:
    return Legend.from_codes("components", [str(j) for j in range(count)])
