"""Judging a fit on labels it did not see: stratified folds, and the temperature that makes scores honest.

Reference: On Calibration of Modern Neural Networks, Guo, Pleiss, Sun and Weinberger, 2017 (temperature scaling).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from cropgen.models.layers.innovations import tempered

FOLDS = 3
_BETAS = torch.logspace(-2.5, 1.5, 41, dtype=torch.float64)


@dataclass(frozen=True)
class HeldOut:
    """Score on labels that were held out: mean NLL in nats at the inverse temperature that minimises it."""

    nll: float
    beta: float


def stratified_folds(y: Tensor, generator: torch.Generator, folds: int = FOLDS) -> Tensor:
    """(N,) fold of each row, classes spread evenly; −1, always learnt from, for the only row of a class."""
    fold = torch.full_like(y, -1)
    offset = 0
    for value in y.unique().tolist():
        rows = (y == value).nonzero()[:, 0]
        if len(rows) > 1:
            shuffled = rows[torch.randperm(len(rows), generator=generator)]
            fold[shuffled] = (torch.arange(len(rows)) + offset) % folds
            offset += len(rows)
    return fold


def held_out_scores(
    y: Tensor, score: Callable[[Tensor, Tensor], Tensor], generator: torch.Generator, folds: int = FOLDS
) -> tuple[Tensor, Tensor]:
    """Scores of every row that can be held out, from a fit to the rows of the other folds.

    Arguments:
        y: (N,) classes.
        score: from (N,) bool rows to learn from and (N,) bool rows to judge to a score (M, …) of each row judged.

    Returns:
        scores (M, …) and classes (M,), both empty when no class has two rows.
    """
    fold = stratified_folds(y, generator, folds)
    scores, answers = [], []
    for index in range(folds):
        test = fold == index
        if test.any():
            scores.append(score(~test, test))
            answers.append(y[test])
    if not answers:
        return torch.empty(0), y[:0]
    return torch.cat(scores), torch.cat(answers)


def fit_temperature(log_joint: Tensor, y: Tensor, betas: Tensor = _BETAS) -> HeldOut:
    """The β of a grid with the least mean −log of the tempered posterior.

    Arguments:
        log_joint: (N, K) log p(x, y) or another score of held-out rows.
        y: (N,) their classes.
        betas: the grid, by default from 0.003 to 30.
    """
    grid = betas.to(log_joint.dtype).tolist()
    nll = {b: float(functional.nll_loss(tempered(log_joint, b), y)) for b in grid}
    beta = min(nll, key=lambda b: nll[b])
    return HeldOut(nll[beta], beta)
