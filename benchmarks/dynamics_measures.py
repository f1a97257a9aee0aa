"""What is measured of one model by `dynamics.py`: early and sparse seasons, gaps filled, dates foreseen, and the KL.

Each measure takes a fitted model (or fits what it needs, as the interpolations do) and returns rows of numbers.

The continuous ranked probability score of a Gaussian mixture Σ w_k N(μ_k, σ²) is closed,

    CRPS(x) = Σ_k w_k A(x − μ_k, σ²) − ½ Σ_kl w_k w_l A(μ_k − μ_l, 2 σ²),   A(m, s²) = 2 s φ(m/s) + m (2 Φ(m/s) − 1).

References: Strictly Proper Scoring Rules, Prediction, and Estimation, Gneiting and Raftery, 2007; Gaussian Processes
for Machine Learning, Rasmussen and Williams, 2006.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy.special import ndtr

PREFIXES = (12, 15, 18, 21, 36)
DROPPED = 0.7
GROUPS, HIDDEN_SHARE, GAP_ROWS = 6, 1 / 6, 200
HORIZON_ROWS, WARM_UP = 100, 1 / 3
GP_ROWS, APART_DAYS, LEAST_RESIDUALS = 24, 1e5, 20


@dataclass(frozen=True)
class Fitted:
    """A model and what it was learnt from and is tested on.

    Arguments:
        task: of `accuracy.problem`.
        classes: (K,) labels in the order of the model.
        learnt: rows that were learnt from, with and without labels.
    """

    model: Any
    task: Any
    classes: np.ndarray
    learnt: np.ndarray
    seed: int

    def generator(self, purpose: str) -> np.random.Generator:
        """Random numbers that no other purpose has."""
        return np.random.default_rng([self.seed, zlib.crc32(purpose.encode())])

    def some(self, split: str, most: int) -> np.ndarray:
        """At most so many test rows of the model's classes."""
        rows = self.task.tests[split]
        rows = rows[np.isin(self.task.series.label[rows], self.classes)]
        return np.sort(self.generator(f"rows {split}").permutation(rows)[:most])

    def batch(self, rows: np.ndarray) -> Any:
        from cropgen.series.batches import make_batch

        series = self.task.series.take(rows).select_bands(self.model.spec.bands)
        return make_batch(series, self.model.spec.calendar, self.classes)


def fit(data: str, root: str, seed: int, labels: float, model: str, options: dict[str, Any]) -> Fitted:
    """Train as `accuracy.run` does, and keep the model."""
    from accuracy import problem

    from cropgen.series.splits import label_subset
    from cropgen.training.data import assemble
    from cropgen.training.fit import fit_model

    task = problem(data, root, seed)
    series = task.series
    rows = task.train[(series.label[task.train] >= 0) & (series.clear_dates[task.train] > 0)]
    labelled = rows[label_subset(series.label[rows], f"{100 * labels:g}%", seed)]
    rest = np.setdiff1d(rows, labelled)
    spec, content = assemble(task.legend, series.take(labelled), series.take(rest) if len(rest) else None)
    found = fit_model(model, options, spec, content, seed=seed)
    return Fitted(found.model, task, task.legend.encode(spec.legend.codes), rows, seed)


def early(fitted: Fitted) -> Iterator[dict[str, Any]]:
    """Scores of the beginnings of a season: the answers of the model, and of a filter its scores alone, in one pass."""
    from accuracy import season_end
    from scores import score

    for split, rows in fitted.task.tests.items():
        for dates in PREFIXES:
            cut = season_end(dates).cut(fitted.task.series.take(rows))
            yield {"measure": "early", "split": split, "dates": dates, "answer": "model",
                   **score(fitted.model, cut, fitted.classes)}  # fmt: skip
        if getattr(fitted.model, "causal", False):
            yield from _filtered(fitted, split, rows)


def _filtered(fitted: Fitted, split: str, rows: np.ndarray) -> Iterator[dict[str, Any]]:
    """Bayes' rule on the scores of all beginnings, from one pass of a causal model."""
    import torch

    from cropgen.metrics.classification import confusion_matrix, macro_f1, overall_accuracy

    known = rows[np.isin(fitted.task.series.label[rows], fitted.classes)]
    batch, model = fitted.batch(known), fitted.model
    with torch.inference_mode():
        parts = [model.prefix_log_joint(batch.take(some)) for some in torch.arange(len(batch)).split(512)]
    answers = torch.cat(parts).argmax(-1).numpy()
    for dates in PREFIXES:
        said = answers[:, dates - 1 - model.spec.calendar.first]
        counts = confusion_matrix(batch.y.numpy(), said, len(fitted.classes))
        yield {"measure": "early", "split": split, "dates": dates, "answer": "filter", "n_test": len(known),
               "macro_f1": round(float(macro_f1(counts)), 5),
               "accuracy": round(float(overall_accuracy(counts)), 5)}  # fmt: skip


def sparse(fitted: Fitted) -> Iterator[dict[str, Any]]:
    """Scores with complete series, and with most observations of every row dropped before it is classified."""
    from scores import score

    for split, rows in fitted.task.tests.items():
        series = fitted.task.series.take(rows)
        rank = np.where(series.mask, fitted.generator(f"drop {split}").random(series.mask.shape), np.inf).argsort(1)
        keep = np.maximum(np.round((1 - DROPPED) * series.mask.sum(1)), 1)
        chosen = np.zeros_like(series.mask)
        np.put_along_axis(chosen, rank, np.arange(series.mask.shape[1]) < keep[:, None], 1)
        mask = series.mask & chosen
        thin = replace(series, mask=mask, values=series.values * mask[..., None])
        for dropped, seen in ((0.0, series), (DROPPED, thin)):
            yield {"measure": "sparse", "split": split, "dropped": dropped, **score(fitted.model, seen, fitted.classes)}


@dataclass(frozen=True)
class Gap:
    """Rows that share the slots that are hidden from them.

    Arguments:
        shown: batch of the rows without the hidden slots.
        slots: (S,) hidden slots.
        truth: (B, S, C) what stood there, in reflectance.
        seen: (B, S) whether it was observed, in rows that show something elsewhere.
    """

    shown: Any
    slots: Any
    truth: np.ndarray
    seen: np.ndarray


def gaps(fitted: Fitted, rows: np.ndarray, purpose: str) -> Iterator[Gap]:
    """Rows in groups, a sixth of the slots hidden from each, drawn anew for each group."""
    import torch

    from cropgen.models.layers.grid import grid_view

    count, generator = fitted.model.spec.calendar.count, fitted.generator(f"gaps {purpose}")
    for group in np.array_split(generator.permutation(rows), GROUPS):
        hidden = np.sort(generator.permutation(count)[: max(1, round(HIDDEN_SHARE * count))])
        batch, slots = fitted.batch(np.sort(group)), torch.as_tensor(hidden)
        values, seen, _ = grid_view(batch, torch.arange(count, dtype=batch.day.dtype))
        mask = batch.mask & ~torch.isin(batch.slot, slots)
        shown = replace(batch, values=batch.values * mask[..., None], mask=mask).without_labels()
        told = seen[:, slots] & mask.any(1, keepdim=True)
        yield Gap(shown, slots, values[:, slots].double().numpy(), told.numpy())


def _crps_term(distance: np.ndarray, spread: np.ndarray) -> np.ndarray:
    ratio = distance / spread
    density = np.exp(-0.5 * ratio**2) / np.sqrt(2 * np.pi)
    return 2 * spread * density + distance * (2 * ndtr(ratio) - 1)


def crps(truth: np.ndarray, weight: np.ndarray, mean: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """(B, S, C) score of Gaussian mixtures: weight (B, K), mean (B, K, S, C), spread (B, S, C)."""
    share = weight[:, :, None, None]
    far = (share * _crps_term(truth[:, None] - mean, spread[:, None])).sum(1)
    apart = _crps_term(mean[:, :, None] - mean[:, None], np.sqrt(2) * spread[:, None, None])
    return far - 0.5 * (share[:, :, None] * share[:, None] * apart).sum((1, 2))


def filled(fitted: Fitted, kind: str) -> Iterator[dict[str, Any]]:
    """Scores of hidden dates.

    Arguments:
        kind: `model`, `linear` (interpolation, with the spread of its residuals on rows learnt from), or `gp`
            (departures from the mean season, hyper-parameters by marginal likelihood on rows learnt from).
    """
    filler = {"model": _by_model, "linear": _linear, "gp": _gaussian_process}[kind](fitted)
    for split in fitted.task.tests:
        scores, squares = [], []
        for gap in gaps(fitted, fitted.some(split, GAP_ROWS), split):
            weight, mean, spread = filler(gap)
            found = crps(gap.truth, weight, mean, np.maximum(spread, 1e-6))
            scores.append(found[gap.seen])
            squares.append(np.square(gap.truth - np.einsum("bk,bksc->bsc", weight, mean))[gap.seen])
        yield {"measure": "gap", "split": split, "dates": sum(map(len, scores)),
               "crps": round(float(np.concatenate(scores).mean()), 6),
               "rmse": round(float(np.sqrt(np.concatenate(squares).mean())), 6)}  # fmt: skip


def _by_model(fitted: Fitted) -> Any:
    import torch

    def fill(gap: Gap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        with torch.inference_mode():
            found = fitted.model.predictive(gap.shown, gap.slots)
        return (found.weight.double().numpy(), found.mean.double().numpy(), found.variance.double().sqrt().numpy())

    return fill


def _shown(gap: Gap, count: int) -> tuple[np.ndarray, np.ndarray]:
    import torch

    from cropgen.models.layers.grid import grid_view

    values, seen, _ = grid_view(gap.shown, torch.arange(count, dtype=gap.shown.day.dtype))
    return values.double().numpy(), seen.numpy()


def _interpolated(fitted: Fitted, gap: Gap) -> np.ndarray:
    """(B, S, C) between the nearest observed slots, the nearest one outside of them."""
    values, seen = _shown(gap, fitted.model.spec.calendar.count)
    days, slots = fitted.model.spec.calendar.start_days(), gap.slots.numpy()
    found = np.zeros_like(gap.truth)
    for row in range(len(values)):
        known = np.flatnonzero(seen[row])
        for band in range(values.shape[2] if len(known) else 0):
            found[row, :, band] = np.interp(days[slots], days[known], values[row, known, band])
    return found


def _linear(fitted: Fitted) -> Any:
    count, bands = fitted.model.spec.calendar.count, len(fitted.model.spec.bands)
    residuals: list[list[np.ndarray]] = [[] for _ in range(count)]
    for turn in range(3):
        for gap in gaps(fitted, _some_learnt(fitted, 300), f"spread {turn}"):
            error = gap.truth - _interpolated(fitted, gap)
            for place, slot in enumerate(gap.slots.tolist()):
                residuals[slot].append(error[gap.seen[:, place], place])
    joined = [np.concatenate(parts) if parts else np.zeros((0, bands)) for parts in residuals]
    overall = np.sqrt(np.square(np.concatenate(joined)).mean(0))
    spread = np.stack([np.sqrt(np.square(e).mean(0)) if len(e) >= LEAST_RESIDUALS else overall for e in joined])

    def fill(gap: Gap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        mean = _interpolated(fitted, gap)
        return np.ones((len(mean), 1)), mean[:, None], np.broadcast_to(spread[gap.slots.numpy()], mean.shape)

    return fill


def _some_learnt(fitted: Fitted, most: int) -> np.ndarray:
    return np.sort(fitted.generator("learnt").permutation(fitted.learnt)[:most])


def _gaussian_process(fitted: Fitted) -> Any:
    import torch
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

    from cropgen.models.layers.grid import grid_view

    count = fitted.model.spec.calendar.count
    days = fitted.model.spec.calendar.start_days().astype(float)[:, None]
    batch = fitted.batch(fitted.learnt)
    values, seen, _ = grid_view(batch, torch.arange(count, dtype=batch.day.dtype))
    values, seen = values.double().numpy(), seen.numpy()
    number = np.maximum(seen.sum(0), 1)[:, None]
    centre = (values * seen[..., None]).sum(0) / number
    departure = (values - centre) * seen[..., None]
    scale = np.sqrt(np.square(departure)[seen].mean(0))
    some = fitted.generator("process").permutation(len(values))[:GP_ROWS]
    where = np.concatenate([days[seen[row]] + APART_DAYS * k for k, row in enumerate(some)])
    start = ConstantKernel(1.0) * Matern(30.0, (5.0, 365.0), nu=1.5) + WhiteKernel(0.1, (1e-4, 2.0))
    kernels = [
        GaussianProcessRegressor(start).fit(where, np.concatenate([departure[r, seen[r], c] for r in some]) / s).kernel_
        for c, s in enumerate(scale)
    ]

    def fill(gap: Gap) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        shown, known = _shown(gap, count)
        slots = gap.slots.numpy()
        mean, spread = np.broadcast_to(centre[slots], gap.truth.shape).copy(), np.zeros_like(gap.truth)
        for row, here in enumerate(known):
            for c, (kernel, unit) in enumerate(zip(kernels, scale, strict=True)):
                process = GaussianProcessRegressor(kernel, optimizer=None)
                if here.any():
                    process.fit(days[here], (shown[row, here, c] - centre[here, c]) / unit)
                ahead, deviation = process.predict(days[slots], return_std=True)
                mean[row, :, c] += unit * ahead
                spread[row, :, c] = unit * deviation
        return np.ones((len(mean), 1)), mean[:, None], spread

    return fill


def ageing(fitted: Fitted) -> Iterator[dict[str, Any]]:
    """Root mean square errors by slot, foreseen from all slots before, and from the first third of the season alone."""
    from cropgen.evaluation.horizon import horizon

    count = fitted.model.spec.calendar.count
    for split in fitted.task.tests:
        batch = fitted.batch(fitted.some(split, HORIZON_ROWS))
        found = horizon(fitted.model, batch, max(1, round(WARM_UP * count)))
        if found is not None:
            yield {"measure": "horizon", "split": split, "one_step": _numbers(found.one_step),
                   "free_running": _numbers(found.free_running)}  # fmt: skip


def divergence(fitted: Fitted) -> Iterator[dict[str, Any]]:
    """Mean KL of each slot under the true class, over the rows that saw it; nothing without latent states."""
    import torch

    if not hasattr(fitted.model, "kl_by_date"):
        return
    for split in fitted.task.tests:
        batch = fitted.batch(fitted.some(split, HORIZON_ROWS))
        with torch.inference_mode():
            kl = fitted.model.kl_by_date(batch)[torch.arange(len(batch)), :, batch.y].double().numpy()
        seen = np.zeros(kl.shape, bool)
        rows, dates = np.nonzero((batch.mask & (batch.slot >= 0)).numpy())
        seen[rows, batch.slot.numpy()[rows, dates]] = True
        mean = np.where(seen.any(0), (kl * seen).sum(0) / np.maximum(seen.sum(0), 1), np.nan)
        yield {
            "measure": "kl",
            "split": split,
            "by_date": _numbers(mean),
            "of_a_season": round(float(kl.sum(1).mean()), 4),
        }


def _numbers(values: np.ndarray) -> list[float | None]:
    return [round(float(v), 5) if np.isfinite(v) else None for v in values]
