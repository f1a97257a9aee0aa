"""The gradient loop: AdamW on a one-cycle schedule over mini-batches of labelled and unlabelled rows.

Every random number of a step derives from the seed of that step, so a run that was killed and resumed from its last
checkpoint takes exactly the steps it would have taken. With patience, the validation rows judge the model every 30
steps; training ends when it no longer gets better, and the best model is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from cropgen.core.errors import CropgenError
from cropgen.models.base import Classifier, Context, GradientOptions, TrainingData
from cropgen.series.batches import Batch, concatenate_batches, random_rows
from cropgen.training.ledger import Elapsed, Ledger, MetricsLog
from cropgen.training.stopping import Watch

LOG_EVERY = 10
CHECKPOINT_EVERY = 50


@dataclass(frozen=True)
class Cycle:
    """The one-cycle schedule: the rate climbs for 30 % of the steps and falls to almost nothing, both along a cosine,
    while the first momentum goes the other way.

    Reference:
        Super-Convergence: Very Fast Training of Neural Networks Using Large Learning Rates, Smith and Topin, 2018.
    """

    steps: int
    climb: float = 0.3
    start: float = 1 / 25
    end: float = 1e-4 / 25
    momentum: tuple[float, float] = (0.85, 0.95)

    def at(self, step: int) -> tuple[float, float]:
        """Share of the peak rate, and first momentum, at a step counted from 0."""
        low, high = self.momentum
        top = self.climb * self.steps - 1
        if step <= top:
            share = step / top if top > 0 else 1.0
            return _cosine(self.start, 1.0, share), _cosine(high, low, share)
        share = (step - top) / (self.steps - 1 - top)
        return _cosine(1.0, self.end, share), _cosine(low, high, share)


def _cosine(first: float, last: float, share: float) -> float:
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


@dataclass(frozen=True)
class Learner:
    """A part of the model with its own peak rate, weight decay and clipping."""

    parameters: list[nn.Parameter]
    options: GradientOptions

    def set_rate(self, group: dict[str, Any], share: float, momentum: float) -> None:
        group["lr"] = self.options.learning_rate * share
        group["betas"] = (momentum, 0.999)

    def clip(self) -> Tensor:
        return nn.utils.clip_grad_norm_(self.parameters, self.options.clip)


class MiniBatches:
    """Mini-batches in the order of steps: labelled rows first, unlabelled rows after them.

    Arguments:
        model: draws unlabelled rows only where it uses them.
        data: the rows to draw from.
        learners: the largest mini-batch any of them asks for is drawn.
        context: source of the two row orders.
        skip: mini-batches that were drawn in earlier sittings.
    """

    def __init__(
        self, model: Classifier, data: TrainingData, learners: list[Learner], context: Context, *, skip: int
    ) -> None:
        unlabelled = data.unlabelled if model.uses_unlabelled else None
        self._parts: list[tuple[Batch, Iterator[Tensor]]] = []
        for rows, size, purpose in (
            (data.labelled, max(one.options.labelled_batch for one in learners), "labelled rows"),
            (unlabelled, max(one.options.unlabelled_batch for one in learners), "unlabelled rows"),
        ):
            if rows is not None and len(rows) and size:
                order = random_rows(len(rows), size, context.generator(purpose))
                self._parts.append((rows, islice(order, skip, None)))

    def draw(self) -> Batch:
        return concatenate_batches([rows.take(next(order)) for rows, order in self._parts])


def learn(model: Classifier, data: TrainingData, context: Context, *, device: torch.device, ledger: Ledger) -> Elapsed:
    """Train a prepared model in place.

    Arguments:
        data: rows in main memory.
        context: seed and reporter.
        device: where the steps are computed.
        ledger: where the metrics and the state to resume from are kept.

    Returns:
        The steps taken and the seconds they took, over all sittings.

    Raises:
        CropgenError: the loss or its gradient is not finite.
        UsageError: the checkpoint belongs to a different training, or there are no rows to judge by.
    """
    learners = [Learner(list(module.parameters()), options) for module, options in model.learners()]
    steps = max(learner.options.steps for learner in learners)
    model.to(device).train()
    optimiser = torch.optim.AdamW(
        [{"params": one.parameters, "weight_decay": one.options.weight_decay} for one in learners]
    )
    watch = Watch(max(learner.options.patience for learner in learners), data)
    before = ledger.restore(model, optimiser, watch)
    batches = MiniBatches(model, data, learners, context, skip=before.steps)
    done = before.steps
    seeds = torch.randint(2**62, (steps,), generator=context.generator("steps")).tolist()
    cycle = Cycle(steps)
    with (
        context.report.task("training", total=steps) as task,
        MetricsLog(ledger.metrics, after=before.steps) as log,
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        task.advance(before.steps)
        while done < steps and not watch.over:
            for group, learner in zip(optimiser.param_groups, learners, strict=True):
                learner.set_rate(group, *cycle.at(done))
            facts = _step(model, batches.draw(), learners, optimiser, seed=seeds[done], device=device)
            done += 1
            _check(done, facts)
            if watch.due(done, last=done == steps):
                facts["validation_nll"] = watch.judge(model, done, device)
            last = done == steps or watch.over
            if last or done % LOG_EVERY == 0:
                rate = optimiser.param_groups[0]["lr"]
                log.write({"step": done, **facts, "rate": rate, "seconds": round(before.seconds_by_now(), 3)})
                task.note(f"loss {facts['loss']:.3f}")
            task.advance()
            if last or done % CHECKPOINT_EVERY == 0:
                ledger.keep(model, optimiser, before.after(done), watch)
    if best := watch.recall(model):
        context.facts["early_stopping"] = {**best, "steps": done}
    return before.after(done)


def _step(
    model: Classifier,
    batch: Batch,
    learners: list[Learner],
    optimiser: torch.optim.Optimizer,
    *,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    """One update of the weights, left out where the gradient is not finite.

    Returns:
        The loss before the update, its terms, and the norm of the whole gradient before clipping.
    """
    torch.manual_seed(seed)
    view = model.augmented(batch, torch.Generator().manual_seed(seed + 1))
    loss = model.objective(view.to(device=device), torch.Generator().manual_seed(seed + 2))
    optimiser.zero_grad(set_to_none=True)
    loss.total.backward()
    norm = torch.stack([learner.clip() for learner in learners]).norm()
    if torch.isfinite(norm):
        optimiser.step()
    terms = {name: float(term.detach()) for name, term in loss.terms.items()}
    return {"loss": float(loss.total.detach()), **terms, "gradient": float(norm)}


def _check(step: int, facts: dict[str, float]) -> None:
    wrong = [f"{name} {value}" for name, value in facts.items() if not math.isfinite(value)]
    if wrong:
        raise CropgenError(
            f"training diverged at step {step}: {', '.join(wrong)}",
            hint="lower learning_rate or clip, and look for extreme values in the series with `cropgen info`",
        )
