"""Fitting the tied Gaussian: augmented copies of the labels, EM on unlabelled parcels from two starts, and a guard.

Few labels: each is copied with shifts and warps of time, gains and noise, so that the first tied covariance sees what
varies within a crop. Unlabelled parcels: EM from two such covariances (Ledoit-Wolf; block autoregression of order 2,
which survives fewer labels); the end with the larger likelihood of the unlabelled parcels is kept. From there EM is
started again with the least likely unlabelled parcels given to one of the rarest classes, each in turn, and a likelier
end replaces the one before: a crop of few labels and many forms finds the forms its labels do not show. EM carries the
copies along, which makes the density wide enough for another region, or counts every real parcel once, which makes it
sharp.

Guard: where classes overlap, unlabelled parcels can pull the classes apart from the labels; cross-validation on the
labels finds that out, and EM is kept only when its tempered negative log-likelihood is at most a little above that of
the best fit without it; otherwise the best of all, with cautious weights of the unlabelled parcels among them.

Rows of the target domain, the season or region that is to be classified, join the unlabelled ones in EM where the guard
accepts EM without them and with them, and where few of them change class by it: where another season resembles another
crop EM renames whole crops, and no label of the source can tell. The class prior stays that of the labels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from cropgen.core.errors import DataError
from cropgen.models.base import Context, InputSpec, Options, TrainingData
from cropgen.models.layers.features import require_every_class
from cropgen.models.layers.held_out import FOLDS, HeldOut, fit_temperature, stratified_folds
from cropgen.models.layers.innovations import TiedGaussian
from cropgen.models.layers.tied_em import (
    Estimate,
    Rows,
    Weighted,
    block_autoregression,
    expectation_maximisation,
    give_strays,
    log_likelihood,
    maximise,
)
from cropgen.series.augment import Strength, augment, fill_gaps
from cropgen.series.batches import Batch

_FINAL = "final"
_START_LAG = 2
_LABELS_MAY_LOSE = 0.03
_ROWS_AFTER_AUGMENTATION = 3000
_MOST_COPIES = 30
_BETAS = torch.logspace(torch.tensor(0.02).log10().item(), torch.tensor(1.5).log10().item(), 25)
_CAUTIOUS_WEIGHTS = (0.1, 0.3)


class TiedOptions(Options):
    """Options of the tied Gaussian, and of the start of every deep generative model."""

    em: Literal["auto", "on", "off"] = Field(
        "auto", description="learn from unlabelled parcels: guarded, always, never"
    )
    unlabelled_weight: float = Field(
        1.0, gt=0, description="weight of an unlabelled parcel in EM", json_schema_extra={"search": [0.3, 1.0]}
    )
    augment: Strength = Field(
        "strong",
        description="augmentation of the labelled parcels: strong, lite, none",
        json_schema_extra={"search": ["strong", "lite", "none"]},
    )
    em_labels: Literal["copies", "once"] = Field("copies", description="labels in EM: augmented copies, or once each")
    em_steps: int = Field(8, ge=1, description="steps of EM")
    starts: Literal["two", "ledoit-wolf", "autoregression"] = Field("two", description="covariances EM starts from")
    restarts: int = Field(
        3, ge=0, description="rarest classes that EM is started again for, with the least likely unlabelled parcels"
    )
    guard_ratio: float = Field(
        1.25, gt=0, description="EM is kept when its cross-validated NLL is at most this multiple of the best without"
    )
    most_reassigned: float = Field(
        0.25, ge=0, le=1, description="parcels of a target are learnt from where at most this share changes class by it"
    )
    prior_exponent: float = Field(
        1.0,
        ge=0,
        description="class prior ∝ label counts to this power; 0 is uniform",
        json_schema_extra={"search": [0.0, 0.5, 1.0]},
    )


@dataclass(frozen=True)
class Candidate:
    """One way to fit.

    Arguments:
        name: how it is called in the facts of a run.
        augmented: with copies of the labels.
        weight: of an unlabelled row; 0: no EM.
    """

    name: str
    augmented: bool
    weight: float = 0.0


@dataclass(frozen=True)
class _Material:
    """Complete standardised seasons (N, G, C) in double precision, and what the fits draw on."""

    labelled: Tensor
    y: Tensor
    unlabelled: Rows | None
    classes: int
    options: TiedOptions
    context: Context


def fit_tied(spec: InputSpec, data: TrainingData, options: TiedOptions, context: Context) -> TiedGaussian:
    """Fit the tied Gaussian; decisions are recorded in `context.facts["tgem"]`.

    Raises:
        DataError: a class has no labelled row with a clear date.
    """
    gaussian = TiedGaussian(spec).double()
    _standardise(gaussian, data)
    material = _complete(gaussian, spec, data, options, context)
    candidates = _candidates(options, material.unlabelled is not None)
    held_out = _cross_validate(material, candidates)
    chosen = _choose(held_out, candidates, options, context)
    estimate, judged = _fit(material, material.labelled, material.y, chosen, _FINAL), held_out.get(chosen.name)
    target = _free(gaussian, data.target) if options.em != "off" else None
    if target is not None:
        estimate, judged = _with_target(material, target, estimate, chosen, held_out)
    gaussian.means.copy_(estimate.means)
    gaussian.cov.copy_(estimate.cov)
    gaussian.chol.copy_(torch.linalg.cholesky(estimate.cov))
    gaussian.log_prior.copy_(estimate.log_prior)
    if judged is not None:
        gaussian.beta.fill_(judged.beta)
    context.facts["tgem"] |= {"beta": float(gaussian.beta), "labels": len(material.y)}
    return gaussian.to(torch.get_default_dtype())


def _standardise(gaussian: TiedGaussian, data: TrainingData) -> None:
    batches = [data.labelled] if data.unlabelled is None else [data.labelled, data.unlabelled]
    seen = torch.cat([b.values[b.mask & (b.slot >= 0)] for b in batches]).double()
    if len(seen) == 0:
        raise DataError("no clear date in the training parcels", hint="check the clear classes and the cloud mask")
    scale = seen.std(0, correction=0)
    gaussian.centre.copy_(seen.mean(0))
    gaussian.scale.copy_(torch.where(scale > 0, scale, 1.0))


def _complete(
    gaussian: TiedGaussian, spec: InputSpec, data: TrainingData, options: TiedOptions, context: Context
) -> _Material:
    x, m = gaussian.grid(data.labelled)
    usable = m.any(1) & (data.labelled.y >= 0)
    y = data.labelled.y[usable]
    require_every_class(y, spec)
    unlabelled = _free(gaussian, data.unlabelled) if options.em != "off" else None
    return _Material(fill_gaps(x[usable], m[usable]), y, unlabelled, spec.classes, options, context)


def _free(gaussian: TiedGaussian, batch: Batch | None) -> Rows | None:
    """Complete seasons of the rows without class that were ever seen; None where there are none."""
    if batch is None:
        return None
    x, m = gaussian.grid(batch)
    x, m = x[m.any(1)], m[m.any(1)]
    return Rows(fill_gaps(x, m).flatten(1)) if len(x) else None


def _candidates(options: TiedOptions, unlabelled: bool) -> list[Candidate]:
    """The fits that cross-validation compares, most trusted first."""
    copies = options.augment != "none"
    plain = [Candidate("augmented", True)] * copies + [Candidate("plain", False)]
    if not unlabelled:
        return plain
    weight = options.unlabelled_weight
    full = [Candidate(f"em {weight:g}", copies, weight)]
    if options.em == "on":
        return full
    return full + [Candidate(f"em {w:g}", copies, w) for w in _CAUTIOUS_WEIGHTS if w < weight] + plain


def _fit(material: _Material, x: Tensor, y: Tensor, how: Candidate, purpose: str) -> Estimate:
    """Fit one candidate to labelled seasons x (N, G, C) of classes y."""
    options, free = material.options, material.unlabelled
    log_prior = _log_prior(y, material.classes, options.prior_exponent)
    once = _once(x, y, material.classes)
    many = _copies(material, x, y, purpose) if how.augmented else once
    first = maximise([many], log_prior)
    if how.weight == 0 or free is None:
        return first
    known = many if options.em_labels == "copies" else once
    rarest = torch.bincount(y, minlength=material.classes).argsort(stable=True)[: options.restarts]
    return _learn_unlabelled(
        known, free, how.weight, first, options, x.shape[2], rarest.tolist() if purpose == _FINAL else []
    )


def _learn_unlabelled(
    known: Weighted, free: Rows, weight: float, first: Estimate, options: TiedOptions, bands: int, receivers: list[int]
) -> Estimate:
    """The likeliest end of EM: from both starts, then from restarts that give strays to each receiving class.

    A restart must be likelier and must not contradict the labels, which it could where classes overlap.
    """

    def climb(start: Estimate) -> Estimate:
        return expectation_maximisation(known, free, weight, start, options.em_steps)

    def fitness(end: Estimate) -> float:
        return log_likelihood(known, free, weight, end)

    starts = []
    if options.starts != "autoregression":
        starts.append(first)
    if options.starts != "ledoit-wolf":
        starts.append(Estimate(first.means, block_autoregression(first.cov, bands, _START_LAG), first.log_prior))
    end = max([climb(start) for start in starts], key=fitness)
    most = end.surprise(known) + _LABELS_MAY_LOSE
    for receiver in receivers:
        other = climb(give_strays(known, free, weight, end, receiver))
        if fitness(other) > fitness(end) and other.surprise(known) <= most:
            end = other
    return end


def _log_prior(y: Tensor, classes: int, exponent: float) -> Tensor:
    count = torch.bincount(y, minlength=classes).double().clamp(min=1)
    return torch.log_softmax(exponent * count.log(), -1)


def _once(x: Tensor, y: Tensor, classes: int) -> Weighted:
    return Weighted(Rows(x.flatten(1)), functional.one_hot(y, classes).double())


def _copies(material: _Material, x: Tensor, y: Tensor, purpose: str) -> Weighted:
    number = min(max(_ROWS_AFTER_AUGMENTATION // len(y), 2), _MOST_COPIES)
    x, y = x.repeat(number, 1, 1), y.repeat(number)
    generator = material.context.generator(f"tied/{purpose}")
    seen = torch.ones(x.shape[:2], dtype=torch.bool)
    copies, _ = augment(x, seen, material.options.augment, generator, drop_dates=False)
    return _once(copies, y, material.classes)


def _cross_validate(material: _Material, candidates: list[Candidate]) -> dict[str, HeldOut]:
    """Scores of the candidates on labelled rows they did not see; empty when no class has two labels."""
    fold = stratified_folds(material.y, material.context.generator("tied/folds"))
    joint: dict[str, list[Tensor]] = {c.name: [] for c in candidates}
    answers: list[Tensor] = []
    with material.context.report.task("cross-validation", FOLDS * len(candidates)) as task:
        for index in range(FOLDS):
            test = fold == index
            if not test.any():
                continue
            x, y = material.labelled[~test], material.y[~test]
            answers.append(material.y[test])
            for candidate in candidates:
                estimate = _fit(material, x, y, candidate, f"fold {index}")
                joint[candidate.name].append(estimate.log_joint(material.labelled[test].flatten(1)))
                task.advance()
    if not answers:
        return {}
    y = torch.cat(answers)
    return {name: fit_temperature(torch.cat(parts), y, _BETAS) for name, parts in joint.items()}


def _choose(
    held_out: dict[str, HeldOut], candidates: list[Candidate], options: TiedOptions, context: Context
) -> Candidate:
    """EM with full weight where its NLL is within the guard's ratio of the best without EM, else the least.

    Without cross-validation (one label per class), the most trusted candidate.
    """
    chosen = preferred = candidates[0]
    if held_out:
        least = min(candidates, key=lambda c: held_out[c.name].nll)
        without = min((held_out[c.name].nll for c in candidates if c.weight == 0), default=math.inf)
        chosen = preferred if held_out[preferred.name].nll <= options.guard_ratio * without else least
    fell_back = chosen.weight < preferred.weight
    context.facts["tgem"] = {
        "fit": chosen.name,
        "guard_fell_back": fell_back,
        "nll": {name: round(score.nll, 4) for name, score in held_out.items()},
    }
    if fell_back:
        context.report.warn(
            f"unlabelled parcels hurt: cross-validated NLL {held_out[preferred.name].nll:.3f} with EM, "
            f"{held_out[chosen.name].nll:.3f} with the fit {chosen.name!r}; continuing with that one"
        )
    return chosen


def _with_target(
    material: _Material, target: Rows, before: Estimate, chosen: Candidate, held_out: dict[str, HeldOut]
) -> tuple[Estimate, HeldOut | None]:
    """The fit with the target's rows in EM and its score, or the fit before where the guard refuses them.

    Three conditions: EM with full weight was chosen without the target's rows too, unless there were no others; its
    cross-validated NLL with them is within the guard's ratio of the least without them; and few of them change class.
    """
    options, facts, source = material.options, material.context.facts["tgem"], material.unlabelled
    wider = replace(material, unlabelled=target if source is None else Rows(torch.cat([source.x, target.x])))
    copies = options.augment != "none"
    candidates = [Candidate("em with target", copies, options.unlabelled_weight)]
    if source is None and copies:
        candidates.append(Candidate("em with target, plain", False, options.unlabelled_weight))
    scores = _cross_validate(wider, candidates)
    best = min(candidates, key=lambda c: scores[c.name].nll) if scores else candidates[0]
    least = min([score.nll for score in (held_out | scores).values()], default=0.0)
    after = _fit(wider, material.labelled, material.y, best, _FINAL)
    moved = before.posterior(target.x).argmax(1) != after.posterior(target.x).argmax(1)
    changed = float(moved.double().mean())
    accepted = options.em == "on" or (
        (source is None or chosen.weight == options.unlabelled_weight)
        and (not scores or scores[best.name].nll <= options.guard_ratio * least)
        and changed <= options.most_reassigned
    )
    facts |= {"target_rows": len(target), "target_accepted": accepted, "target_reassigned": round(changed, 4)}
    facts["nll"] |= {name: round(score.nll, 4) for name, score in scores.items()}
    if accepted:
        facts["fit"] = best.name
        return after, scores.get(best.name)
    material.context.report.warn(
        f"the {len(target)} parcels of the target are not learnt from: by the labels they, or the other unlabelled "
        f"ones, hurt, or too many would change class ({changed:.0%}); continuing with the fit {chosen.name!r}"
    )
    return before, held_out.get(chosen.name)
