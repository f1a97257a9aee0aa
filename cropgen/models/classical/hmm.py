"""A hidden Markov model of the season for every class: stages from bare soil to harvest, passed in one direction.

    p(x | y) = Σ_s p(s_1) Π_l p(s_l | s_{l−1}) Π_t N(x_t; μ_{y s(t)}, Σ_{y s(t)})

The stage s is kept over steps of a few days; at every step a parcel stays in its stage or goes on to the next. Every
clear date, on its own day, is an emission at the step it falls into, steps without any are passed over, so the
transition between two dates is the power of the gap between them, and the forward recursion gives the exact likelihood
of whatever dates a parcel shows. Fitted by Baum-Welch; few labels are helped by shrinking the covariance of a stage
towards the one pooled over all stages and classes, and its mean a little towards that of its class. The emissions of a
parcel depend on each other more than the stages explain, so the posterior is tempered by cross-validation on the
labels.

References:
    A Tutorial on Hidden Markov Models and Selected Applications in Speech Recognition, Rabiner, 1989;
    Hidden Markov Models for Real-Time Estimation of Corn Progress Stages using MODIS and Meteorological Data, Shen, Wu,
    Di, Yu, Tang, Yu and Shao, 2013 (stages of a crop as hidden states).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from cropgen.models.base import Context, GenerativeModel, InputSpec, Options, TrainingData
from cropgen.models.layers.features import class_log_prior, require_every_class
from cropgen.models.layers.held_out import fit_temperature, held_out_scores
from cropgen.models.layers.innovations import CAUTIOUS_BETA, tempered
from cropgen.models.layers.left_right import Chain
from cropgen.series.batches import Batch

_ROWS_AT_ONCE = 512
_LEAST_VARIANCE = 1e-3
_MEAN_WEIGHT = 0.5
_LOG_2PI = math.log(2 * math.pi)


class StageOptions(Options):
    """Options of the hidden Markov model."""

    stages: int = Field(10, ge=1, description="stages of a season", json_schema_extra={"search": [6, 10, 14]})
    step_days: int = Field(5, ge=1, description="days of a step, in which a parcel changes its stage at most once")
    pooling: float = Field(
        20.0, gt=0, description="pseudo-dates that draw the covariance of a stage to the pooled one",
        json_schema_extra={"search": [5.0, 20.0, 80.0]},
    )  # fmt: skip
    iterations: int = Field(10, ge=1, description="steps of Baum-Welch", json_schema_extra={"search": [5, 10, 20]})
    prior_exponent: float = Field(1.0, ge=0, description="class prior ∝ label counts to this power; 0 is uniform")


@dataclass(frozen=True)
class Seen:
    """Standardised dates x (N, T, C), the step of each (N, T), which are clear (N, T), and classes y (N,)."""

    x: Tensor
    step: Tensor
    mask: Tensor
    y: Tensor

    def take(self, rows: Tensor) -> Seen:
        return Seen(self.x[rows], self.step[rows], self.mask[rows], self.y[rows])


@dataclass(frozen=True)
class Phenology:
    """Parameters of all classes in standardised units.

    Arguments:
        start: (K, S) probability of the first stage.
        stay: (K, S) probability of staying for a step.
        mean: (K, S, C).
        cov: (K, S, C, C).
    """

    start: Tensor
    stay: Tensor
    mean: Tensor
    cov: Tensor

    def emission(self, seen: Seen, steps: int) -> Tensor:
        """(N, K, L, S) log density of what each step shows; 0 where it shows nothing."""
        chol = torch.linalg.cholesky(self.cov)
        inverse = torch.linalg.solve_triangular(chol, torch.eye(chol.shape[-1]).to(chol), upper=False)
        white = torch.einsum("ksab,ntb->ntksa", inverse, seen.x)
        white = white - torch.einsum("ksab,ksb->ksa", inverse, self.mean)
        constant = chol.diagonal(dim1=-2, dim2=-1).log().sum(-1) + 0.5 * chol.shape[-1] * _LOG_2PI
        by_date = -0.5 * white.square().sum(-1) - constant
        return by_step(torch.where(seen.mask[..., None, None], by_date, 0), seen.step, steps).transpose(1, 2)

    def log_likelihood(self, seen: Seen, steps: int) -> Tensor:
        """(N, K) log p(x | y)."""
        chain = Chain.of(self.start, self.stay)
        rows = torch.arange(len(seen.y), device=seen.y.device).split(_ROWS_AT_ONCE)
        return torch.cat([chain.log_likelihood(self.emission(seen.take(part), steps)) for part in rows])


def by_step(values: Tensor, step: Tensor, steps: int) -> Tensor:
    """(N, L, …) sums over the dates of each step of values (N, T, …) given by date at steps (N, T)."""
    index = step.reshape(*step.shape, *[1] * (values.ndim - 2)).expand_as(values)
    total = values.new_zeros(len(values), steps, *values.shape[2:])
    return total.scatter_add(1, index, values)


def first_guess(seen: Seen, classes: int, stages: int, steps: int) -> Phenology:
    """Stages of equal length, one after the other."""
    stage = (seen.step * stages // steps).clamp(max=stages - 1)
    share = torch.nn.functional.one_hot(stage, stages).to(seen.x.dtype) * seen.mask[..., None]
    start = torch.full((classes, stages), 0.1 / stages, dtype=seen.x.dtype)
    start[:, 0] += 0.9
    stay = torch.full((classes, stages), 1 - min(0.5, stages / steps), dtype=seen.x.dtype)
    bands = seen.x.shape[2]
    blank = Phenology(start, stay, seen.x.new_zeros(classes, stages, bands), seen.x.new_zeros(1))
    return emitting(blank, seen, [share[seen.y == k] for k in range(classes)], pooling=float(bands))


def emitting(phenology: Phenology, seen: Seen, shares: list[Tensor], pooling: float) -> Phenology:
    """The M-step of the emissions, from the shares (n, T, S) of each class's dates in its stages."""
    means, scatters, counts = [], [], []
    for k, share in enumerate(shares):
        x = seen.x[seen.y == k]
        count = share.sum((0, 1))
        middle = torch.einsum("nts,ntc->c", share, x) / count.sum().clamp(min=1)
        mean = (torch.einsum("nts,ntc->sc", share, x) + _MEAN_WEIGHT * middle) / (count + _MEAN_WEIGHT)[:, None]
        gap = x[:, :, None] - mean
        scatters.append(torch.einsum("nts,ntsc,ntsd->scd", share, gap, gap))
        means.append(mean)
        counts.append(count)
    scatter, count = torch.stack(scatters), torch.stack(counts)
    floor = _LEAST_VARIANCE * torch.eye(seen.x.shape[2]).to(seen.x)
    pooled = scatter.sum((0, 1)) / count.sum() + floor
    cov = (scatter + pooling * pooled) / (count + pooling)[..., None, None]
    return replace(phenology, mean=torch.stack(means), cov=cov)


def baum_welch(phenology: Phenology, seen: Seen, steps: int, pooling: float) -> tuple[Phenology, float]:
    """One step of Baum-Welch.

    Returns:
        The parameters after it, and the mean log-likelihood per row of those before.
    """
    classes, stages = phenology.start.shape
    start, stay, shares, total = [], [], [], 0.0
    for k in range(classes):
        rows = seen.take(seen.y == k)
        one = Phenology(*(getattr(phenology, name)[k : k + 1] for name in ("start", "stay", "mean", "cov")))
        found = Chain.of(one.start[0], one.stay[0]).expect(one.emission(rows, steps)[:, 0])
        shares.append(found.occupied.gather(1, rows.step[..., None].expand(-1, -1, stages)) * rows.mask[..., None])
        start.append((found.occupied[:, 0].sum(0) + 1 / stages) / (len(rows.y) + 1))
        stay.append((found.stayed + 1) / (found.stayed + found.went + 1 + stages / steps))
        total += float(found.log_likelihood.sum())
    moved = replace(phenology, start=torch.stack(start), stay=torch.stack(stay))
    return emitting(moved, seen, shares, pooling), total / len(seen.y)


class HiddenMarkov(GenerativeModel):
    """Stages of the season with Gaussian emissions for every class.

    Attributes:
        centre, scale: (C,) standardisation of each band.
        start, stay: (K, S); mean: (K, S, C); cov: (K, S, C, C): as in `Phenology`.
    """

    Settings: ClassVar[type[Options]] = StageOptions
    centre: Tensor
    scale: Tensor
    start: Tensor
    stay: Tensor
    mean: Tensor
    cov: Tensor
    log_prior: Tensor
    beta: Tensor

    def __init__(self, spec: InputSpec, options: StageOptions) -> None:
        super().__init__(spec, options)
        self.settings = options
        classes, stages, bands = spec.classes, options.stages, len(spec.bands)
        days = spec.calendar.start_days()
        slot_days = int(days[-1] - days[0]) / max(len(days) - 1, 1) if len(days) > 1 else 31
        self.first_day, self.slot_days = float(days[0]), float(slot_days)
        self.steps = max(1, math.ceil((float(days[-1] - days[0]) + slot_days + 1) / options.step_days))
        self.register_buffer("centre", torch.zeros(bands))
        self.register_buffer("scale", torch.ones(bands))
        self.register_buffer("start", torch.full((classes, stages), 1 / stages))
        self.register_buffer("stay", torch.full((classes, stages), 0.5))
        self.register_buffer("mean", torch.zeros(classes, stages, bands))
        self.register_buffer("cov", torch.eye(bands).expand(classes, stages, -1, -1).clone())
        self.register_buffer("log_prior", torch.full((classes,), -math.log(classes)))
        self.register_buffer("beta", torch.tensor(CAUTIOUS_BETA))

    def see(self, batch: Batch) -> Seen:
        """Standardised dates and their steps."""
        mask = batch.mask & (batch.slot >= 0)
        day = torch.where(mask, batch.day, self.first_day)
        step = ((day - self.first_day) / self.settings.step_days).long().clamp(0, self.steps - 1)
        x = (batch.values.to(self.scale.dtype) - self.centre) / self.scale
        return Seen(torch.where(mask[..., None], x, 0), step, mask, batch.y)

    def prepare(self, data: TrainingData, context: Context) -> None:
        mask = data.labelled.mask & (data.labelled.slot >= 0)
        rows = data.labelled.take(mask.any(1) & data.labelled.y_mask)
        require_every_class(rows.y, self.spec)
        shown = rows.values[rows.mask & (rows.slot >= 0)].double()
        spread = shown.std(0, correction=0)
        self.centre.copy_(shown.mean(0))
        self.scale.copy_(torch.where(spread > 0, spread, 1.0))
        prior = class_log_prior(rows.y, self.spec.classes)
        self.log_prior.copy_(torch.log_softmax(self.settings.prior_exponent * prior, -1))
        seen = self.see(rows)
        seen = replace(seen, x=seen.x.double())
        facts = self._temper(seen, context)
        fitted, likelihood = self._fit(seen, context)
        for name in ("start", "stay", "mean", "cov"):
            getattr(self, name).copy_(getattr(fitted, name))
        context.facts["hmm"] = facts | {"log_likelihood": [round(value, 4) for value in likelihood]}

    def _fit(self, seen: Seen, context: Context) -> tuple[Phenology, list[float]]:
        phenology, likelihood = first_guess(seen, self.spec.classes, self.settings.stages, self.steps), []
        with context.report.task("Baum-Welch", self.settings.iterations) as task:
            for _ in range(self.settings.iterations):
                phenology, reached = baum_welch(phenology, seen, self.steps, self.settings.pooling)
                likelihood.append(reached)
                task.advance()
        return phenology, likelihood

    def _temper(self, seen: Seen, context: Context) -> dict[str, float]:
        """Find the temperature on labels that were held out; what to keep in the facts of a run."""

        def score(learn: Tensor, judge: Tensor) -> Tensor:
            fitted, _ = self._fit(seen.take(learn), context)
            return fitted.log_likelihood(seen.take(judge), self.steps) + self.log_prior

        scores, answers = held_out_scores(seen.y, score, context.generator("hmm/folds"))
        if not len(answers):
            return {"beta": float(self.beta)}
        held_out = fit_temperature(scores, answers)
        self.beta.fill_(held_out.beta)
        return {"beta": held_out.beta, "nll": round(held_out.nll, 4)}

    @property
    def phenology(self) -> Phenology:
        """The fitted parameters."""
        return Phenology(self.start, self.stay, self.mean, self.cov)

    def log_joint(self, batch: Batch) -> Tensor:
        seen = self.see(batch)
        units = seen.mask.sum(1).to(self.scale.dtype) * self.scale.log().sum()
        return self.phenology.log_likelihood(seen, self.steps) - units[:, None] + self.log_prior

    def log_posterior(self, batch: Batch) -> Tensor:
        seen = (batch.mask & (batch.slot >= 0)).any(1)
        return torch.where(seen[:, None], tempered(self.log_joint(batch), self.beta), self.log_prior)

    def sample(self, y: Tensor, generator: torch.Generator, temperature: float = 1.0) -> Tensor:
        chain = Chain.of(self.start[y], self.stay[y])
        stages = chain.walk(self.steps, generator).to(y.device)
        days = torch.as_tensor(self.spec.calendar.start_days()).to(y.device) + self.slot_days / 2
        step = ((days - self.first_day) / self.settings.step_days).long().clamp(0, self.steps - 1)
        stage = stages[:, step]
        chol = torch.linalg.cholesky(self.cov)[y[:, None], stage]
        shape = (len(y), len(days), len(self.spec.bands))
        noise = torch.randn(shape, generator=generator, dtype=self.mean.dtype).to(y.device)
        season = self.mean[y[:, None], stage] + temperature * torch.einsum("bgcd,bgd->bgc", chol, noise)
        return season * self.scale + self.centre
