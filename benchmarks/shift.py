"""What helps where the target differs from the training: standardisation, prior correction, or target adaptation?

    python benchmarks/shift.py --data ../shared/data [--jobs 1] [--only modis] [--ledger FOLDER]

Models learn from labels of one region or period (the source) and are scored on half of the blocks of another (the
target). The other half of the target is what may be used without labels:

    plain            the source alone
    prior em         plain, reweighed for class shares estimated by EM from the posteriors of the scored parcels
    prior uniform    plain, reweighed for equal shares
    prior known      plain, reweighed for the true shares of the other half, as official statistics would give
    adapt            the generative member fitted with the other half as unlabelled rows, guarded
    adapt, prior em  both
    transductive     as adapt, with the series of the scored parcels too; their labels are never used
    standardise      training and target brought to one level and spread per region-year, then as plain
    … τ ≤ 3, τ = 1   of the pool: its network tempered at most by 3, or not at all

Every cell (data, label share, seed, model, what is fitted) is one process and is kept in the ledger under a key of the
code that decides it, so the script continues where it stopped. Writes `results/shift.json`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "shift.json"
DATA = ("modis", "fergana", "arkansas")
LABELS = ("10%", "1%")
SEEDS = (0, 1, 2)
CODE = ("series", "models", "kernels", "training", "metrics")


@dataclass(frozen=True)
class Cell:
    """One training, with what is derived from it."""

    data: str
    labels: str
    seed: int
    model: str
    series: str

    def key(self, code: str) -> str:
        return hashlib.sha256(json.dumps([asdict(self), code]).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Problem:
    """Series and legend; rows of the source, of the target that may be used without labels, and of the one scored."""

    series: Any
    legend: Any
    source: np.ndarray
    free: np.ndarray
    scored: np.ndarray


@cache
def standardised(data: str, root: str) -> Any:
    """The series of a data set, every region-year brought to one level and spread."""
    from problems import read

    from cropgen.series.transforms import Standardisation

    series = read(data, root).series
    return Standardisation.fit([series]).apply(series)


def problem(data: str, root: str, seed: int, *, level: bool) -> Problem:
    """Zone 0 → zone 1 of Arkansas; 2015–2016 → 2017–2018 of Fergana; harvests up to 2015 → 2016 of Mato Grosso."""
    from problems import BLOCK_KM, LEAST, blocks, common, read, source_and_target

    real = read(data, root)
    series = standardised(data, root) if level else real.series
    source, target = source_and_target(data, series)
    kept, _ = blocks(series, common(series, real.legend, LEAST, source), 0.3, seed, BLOCK_KM[data])
    free, scored = blocks(series, np.flatnonzero(target), 0.5, seed, BLOCK_KM[data])
    return Problem(series, real.legend, kept, free, scored)


def run(cell: Cell, root: str) -> list[dict[str, Any]]:
    """Train one cell and score what is derived from it."""
    import torch

    from cropgen.series.batches import make_batch
    from cropgen.series.splits import label_subset
    from cropgen.training.adapt import adapt_model
    from cropgen.training.data import assemble
    from cropgen.training.fit import fit_model

    torch.set_num_threads(1)
    task = problem(cell.data, root, cell.seed, level=cell.series == "standardise")
    series = task.series
    usable = task.source[(series.label[task.source] >= 0) & (series.clear_dates[task.source] > 0)]
    labelled = usable[label_subset(series.label[usable], cell.labels, cell.seed)]
    rest = np.setdiff1d(usable, labelled)
    spec, data = assemble(task.legend, series.take(labelled), series.take(rest) if len(rest) else None)
    classes = task.legend.encode(spec.legend.codes)
    scored = task.scored[np.isin(series.label[task.scored], classes)]
    free, seen = (make_batch(series.take(rows), spec.calendar, classes) for rows in (task.free, scored))
    began = time.perf_counter()
    fitted = fit_model(cell.model, {}, spec, data, seed=cell.seed)
    seconds = time.perf_counter() - began
    head = {**asdict(cell), "n_labelled": len(labelled), "n_target": len(free), "n_test": len(seen)}
    if cell.series == "standardise":
        return [head | {"variant": "standardise", "seconds": round(seconds, 1), **_score(fitted.model, seen, None)}]
    rows = [head | row for row in _reweighed(fitted.model, seen, free, classes)]
    rows[0]["seconds"] = round(seconds, 1)
    rows += [head | row for row in _tempered("plain", fitted.model, seen)]
    for variant, target in (("adapt", free), ("transductive", _joined(free, seen))):
        if cell.model == "realnvp" and variant == "transductive":
            continue
        began = time.perf_counter()
        told = replace(data, target=target.without_labels())
        again = adapt_model(cell.model, fitted.model, told, seed=cell.seed)
        facts = {"accepted": again.facts["tgem"]["target_accepted"],
                 "reassigned": again.facts["tgem"]["target_reassigned"],
                 "seconds": round(time.perf_counter() - began, 1)}  # fmt: skip
        rows.append(head | {"variant": variant, **facts, **_score(again.model, seen, None)})
        if variant == "adapt":
            rows += [head | row for row in _tempered("adapt", again.model, seen)]
            shift = _estimated(again.model, seen)
            rows.append(head | {"variant": "adapt, prior em", **_score(again.model, seen, shift)})
    return rows


def _tempered(variant: str, model: Any, seen: Any) -> Iterator[dict[str, Any]]:
    """Scores of a pool whose network is tempered less; nothing for other models."""
    temperature = getattr(model, "temperature", None)
    if temperature is None:
        return
    chosen = float(temperature)
    for most in (3.0, 1.0):
        temperature.fill_(min(chosen, most))
        name = f"{variant}, τ ≤ 3" if most > 1 else f"{variant}, τ = 1"
        yield {"variant": name, "temperature": round(chosen, 3), **_score(model, seen, None)}
    temperature.fill_(chosen)


def _joined(first: Any, second: Any) -> Any:
    from cropgen.series.batches import concatenate_batches

    return concatenate_batches([first, second])


def _reweighed(model: Any, seen: Any, free: Any, classes: np.ndarray) -> Iterator[dict[str, Any]]:
    """Scores of a model as it is, and for other class shares."""
    from cropgen.prediction.prior_shift import PriorShift, class_prior, uniform_prior

    trained = class_prior(model)
    known = np.bincount(free.y[free.y >= 0].numpy(), minlength=len(classes)) + 0.5
    yield {"variant": "plain", **_score(model, seen, None)}
    yield {"variant": "prior em", **_score(model, seen, _estimated(model, seen))}
    yield {"variant": "prior uniform", **_score(model, seen, PriorShift(trained, uniform_prior(len(classes))))}
    yield {"variant": "prior known", **_score(model, seen, PriorShift(trained, known / known.sum()))}


def _estimated(model: Any, seen: Any) -> Any:
    from cropgen.prediction.infer import infer
    from cropgen.prediction.prior_shift import PriorShift, class_prior, estimate_prior

    answer, trained = infer(model, seen), class_prior(model)
    return PriorShift(trained, estimate_prior(answer.probability[answer.clear_dates > 0], trained))


def _score(model: Any, seen: Any, shift: Any) -> dict[str, float]:
    """Scores on the scored parcels, reweighed for a shift of class shares where one is given."""
    from cropgen.metrics.calibration import expected_calibration_error, negative_log_likelihood
    from cropgen.metrics.classification import confusion_matrix, macro_f1, overall_accuracy
    from cropgen.prediction.infer import infer

    probability = infer(model, seen).probability
    if shift is not None:
        probability = shift.apply(probability)
    true, bounded = seen.y.numpy(), np.log(np.maximum(probability, np.exp(-30.0)))
    counts = confusion_matrix(true, probability.argmax(1), probability.shape[1])
    return {
        "macro_f1": round(float(macro_f1(counts)), 5), "accuracy": round(float(overall_accuracy(counts)), 5),
        "nll": round(negative_log_likelihood(bounded, true), 5),
        "ece": round(expected_calibration_error(bounded, true), 5),
    }  # fmt: skip


def cells(only: list[str] | None) -> list[Cell]:
    """Every cell, the quick ones first; the deep density is fitted for one seed."""
    found = [Cell(d, share, seed, "tgem", s) for s in ("plain", "standardise") for share in LABELS for d in DATA
             for seed in SEEDS]  # fmt: skip
    found += [Cell(d, share, seed, "pool", "plain") for seed in SEEDS for share in LABELS for d in DATA]
    found += [Cell(d, "10%", 0, "realnvp", s) for s in ("plain", "standardise") for d in DATA]
    found += [Cell(d, "10%", 0, "pool", "standardise") for d in DATA]
    return [cell for cell in found if not only or cell.data in only]


def code_key() -> str:
    """Hex digest of the sources that decide a result."""
    import cropgen

    root = Path(cropgen.__file__).parent
    digest = hashlib.sha256()
    for folder in CODE:
        for source in sorted((root / folder).rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder of real data")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--only", nargs="*", help="data sets")
    parser.add_argument("--ledger", type=Path, default=HERE / "work" / "shift", help="finished cells")
    parser.add_argument("--code", help="use the cells kept for this code instead of the present one")
    options = parser.parse_args()
    options.ledger.mkdir(parents=True, exist_ok=True)
    code = options.code or code_key()
    kept = {cell: options.ledger / f"{cell.key(code)}.json" for cell in cells(options.only)}
    todo = [cell for cell, path in kept.items() if not path.exists()]
    print(f"{len(kept)} cells, {len(kept) - len(todo)} done, code {code}", flush=True)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn")) as workers:
        futures = {workers.submit(run, cell, str(options.data)): cell for cell in todo}
        for number, future in enumerate(as_completed(futures), 1):
            cell, rows = futures[future], future.result()
            kept[cell].write_text(json.dumps(rows))
            told = ", ".join(f"{r['variant']} {100 * r['macro_f1']:.1f}/{100 * r['accuracy']:.1f}" for r in rows)
            print(f"{number}/{len(todo)} {cell.data} {cell.labels} {cell.seed} {cell.model}: {told}", flush=True)
            if not options.only:
                write([json.loads(path.read_text()) for path in kept.values() if path.exists()], code)


def write(done: list[list[dict[str, Any]]], code: str) -> None:
    """The committed result."""
    import platform

    import torch

    document = {
        "command": "python benchmarks/shift.py",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread per training, no GPU",
        "python": platform.python_version(), "torch": torch.__version__, "code": code, "cells": len(done),
        "planned": len(cells(None)),
        "rows": [row for rows in done for row in rows],
    }  # fmt: skip
    text = json.dumps(document, separators=(",", ":"))
    RESULTS.write_text(text.replace('},{"data"', '},\n{"data"') + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
