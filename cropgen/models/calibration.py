"""How sure to be: a classifier's probabilities corrected on validation rows, after everything else is fitted.

    log q = log softmax(W log p + b),     log p no lower than −30

temperature   W = I / T, b = 0: one number, and the same answers
dirichlet     W a full matrix, b a vector, minimising the mean −log q(true class) plus
              λ / (K (K − 1)) Σ_{i≠j} W_ij² + λ / K Σ_j b_j² + λ / K Σ_j (W_jj − 1)²,
              λ of five by cross-validation on the validation rows

The last term is not in the paper: where a few validation rows are told apart without a mistake, nothing else would
bound the diagonal. A large λ leaves the probabilities as they are.

A row without any clear date keeps the class prior. Labels that were learnt from cannot tell how sure to be, so only
validation rows are used.

References:
    On Calibration of Modern Neural Networks, Guo, Pleiss, Sun and Weinberger, 2017;
    Beyond temperature scaling: Obtaining well-calibrated multiclass probabilities with Dirichlet calibration, Kull,
    Perello Nieto, Kängsepp, Silva Filho, Song and Flach, 2019.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from cropgen.core.errors import DataError, UsageError
from cropgen.metrics.calibration import best_temperature
from cropgen.models.base import Classifier
from cropgen.models.layers.affine_calibrator import FLOOR, AffineCalibrator
from cropgen.series.batches import Batch

Calibration = Literal["none", "temperature", "dirichlet"]
STRENGTHS = (1e-2, 1e-1, 1.0, 10.0, 100.0)
_PARTS = 3
_ROWS_AT_ONCE = 512
_LBFGS_STEPS = 200


def require_validation(calibration: Calibration, share: float) -> None:
    """Refuse a calibration without rows to fit it on.

    Arguments:
        share: share of the labelled rows kept for validation.

    Raises:
        UsageError: a calibration is asked for and no row is kept.
    """
    if calibration != "none" and share == 0:
        raise UsageError(
            f"calibration = {calibration!r} needs labelled parcels that are not learnt from, and none are kept",
            hint="keep some with --validation 20%",
        )


def calibrate_model(model: Classifier, calibration: Calibration, validation: Batch | None) -> dict[str, Any]:
    """Give a fitted model the calibrator of this kind, in place of any it has; `none` takes it away.

    Arguments:
        validation: rows with classes that no weight was fitted to.

    Returns:
        JSON-able facts: the kind, the rows used, the mean −log p of the true class on them before and after, and
        what was chosen; empty for `none`.

    Raises:
        UsageError: there are no validation rows.
        DataError: none of them has a class and a clear date.
    """
    model.calibrator = None
    if calibration == "none":
        return {}
    require_validation(calibration, 0.0 if validation is None else 1.0)
    log_posterior, y = _answers(model, validation)
    calibrator = AffineCalibrator(model.spec.classes, calibration)
    if calibration == "temperature":
        temperature = best_temperature(log_posterior.numpy(), y.numpy())
        calibrator.weight.copy_(torch.eye(model.spec.classes) / temperature)
        chosen = {"temperature": temperature}
    else:
        strength = _best_strength(log_posterior, y)
        weight, bias = fit_dirichlet(log_posterior, y, strength)
        calibrator.weight.copy_(weight)
        calibrator.bias.copy_(bias)
        chosen = {"strength": strength}
    model.calibrator = calibrator.eval()
    before, after = _loss(log_posterior, y), _loss(calibrator(log_posterior), y)
    return {"kind": calibration, "rows": len(y), "nll_before": before, "nll_after": after, **chosen}


def fit_dirichlet(log_posterior: Tensor, y: Tensor, strength: float) -> tuple[Tensor, Tensor]:
    """W (K, K) and b (K,) of the least regularised loss, which is convex; begun at the identity.

    Arguments:
        log_posterior: (N, K) float64, no lower than −30.
        y: (N,) classes.
        strength: λ.
    """
    classes = log_posterior.shape[1]
    weight = torch.eye(classes, dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.float64, requires_grad=True)
    identity = torch.eye(classes, dtype=torch.float64)
    share = torch.where(identity > 0, 1 / classes, 1 / (classes * (classes - 1)))
    solver = torch.optim.LBFGS(
        [weight, bias], max_iter=_LBFGS_STEPS, tolerance_grad=1e-9, tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )  # fmt: skip

    def closure() -> Tensor:
        solver.zero_grad()
        penalty = ((weight - identity).square() * share).sum() + bias.square().mean()
        loss = nn.functional.cross_entropy(log_posterior @ weight.T + bias, y) + strength * penalty
        loss.backward()
        return loss

    solver.step(closure)
    return weight.detach(), bias.detach()


def _best_strength(log_posterior: Tensor, y: Tensor) -> float:
    """The λ with the least loss on parts of the rows that were left out in turn; each part has its share of a class."""
    order = torch.argsort(y, stable=True)
    part = torch.empty_like(y)
    part[order] = torch.arange(len(y)) % _PARTS
    losses = []
    for strength in STRENGTHS:
        total = 0.0
        for held in range(_PARTS):
            kept, judged = part != held, part == held
            if kept.any() and judged.any():
                weight, bias = fit_dirichlet(log_posterior[kept], y[kept], strength)
                said = torch.log_softmax(log_posterior[judged] @ weight.T + bias, -1)
                total += _loss(said, y[judged]) * int(judged.sum())
        losses.append(total)
    return STRENGTHS[losses.index(min(losses))]


def _answers(model: Classifier, validation: Batch | None) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N, K) in float64, no lower than −30, and classes of the rows with both."""
    rows = torch.zeros(0, dtype=torch.int64)
    if validation is not None:
        seen = (validation.mask & (validation.slot >= 0)).any(1)
        rows = (validation.y_mask & seen).nonzero()[:, 0]
    if validation is None or not len(rows):
        raise DataError(
            "no validation parcel has a class and a clear date, so nothing can be calibrated",
            hint="keep more for validation: --validation 20%",
        )
    with torch.inference_mode():
        said = [model.log_posterior(validation.take(part)).double().cpu() for part in rows.split(_ROWS_AT_ONCE)]
    return torch.cat(said).clamp(min=FLOOR).clone(), validation.y[rows]


def _loss(log_posterior: Tensor, y: Tensor) -> float:
    return float(nn.functional.nll_loss(log_posterior, y))
