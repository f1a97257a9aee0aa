"""How well does each model do on real series, with few and many labels, in its region and across regions or years?

    python benchmarks/real_input.py --data ../shared/data [--jobs 2] [--only arkansas] [--ledger FOLDER]

Every cell (data, label share, seed, model) trains once, in a process of its own, and is scored on every test set of
its data. Finished cells are kept in the ledger under a key of the code that decides them, so the script continues
where it stopped. Writes `results/real_input.json` and, through `tables.py`, the tables of the documentation.

Nothing is chosen on test parcels: every model runs with its defaults, the same rows and the same labels.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "real_input.json"
CODE = ("series", "models", "kernels", "training", "metrics")
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "rf": ("rf", {}),
    "tempcnn": ("tempcnn", {}),
    "realnvp": ("realnvp", {"decide": "product"}),
    "ssvae": ("ssvae", {"decide": "product"}),
    "srnn": ("srnn", {"decide": "product"}),
    "pool": ("pool", {}),
}
SEEDS = {"1%": tuple(range(10)), "10%": tuple(range(3)), "100%": tuple(range(3))}
MORE_SEEDS = {("central-asia", "10%"): tuple(range(6))}  # its rarest crops have a handful of test parcels
SHARES = (
    ("arkansas", "10%"),
    ("arkansas", "1%"),
    ("central-asia", "10%"),
    ("central-asia", "100%"),
    ("bavaria", "100%"),
    ("patches", "100%"),
)


@dataclass(frozen=True)
class Cell:
    """One training."""

    data: str
    labels: str
    seed: int
    model: str

    def key(self, code: str) -> str:
        return hashlib.sha256(json.dumps([asdict(self), code]).encode()).hexdigest()[:20]


@dataclass(frozen=True)
class Problem:
    """Rows to learn from and rows to test on.

    Arguments:
        train: rows that may be learnt from; which of them carry labels is drawn by seed and share.
        tests: name of the split → rows.
    """

    series: Any
    legend: Any
    train: np.ndarray
    tests: dict[str, np.ndarray]


def code_key() -> str:
    """Hex digest of the sources that decide a result."""
    import cropgen

    root = Path(cropgen.__file__).parent
    digest = hashlib.sha256()
    for folder in CODE:
        for source in sorted((root / folder).rglob("*.py")):
            digest.update(source.read_bytes())
    return digest.hexdigest()


def problem(data: str, root: str, seed: int) -> Problem:
    """How a data set is split; see benchmarks/README.md."""
    from problems import BLOCK_KM, LEAST, blocks, common, read, source_and_target

    real = read(data, root)
    series = real.series
    if data in ("arkansas", "central-asia"):
        task = {"central-asia": "fergana"}.get(data, data)
        source, target = source_and_target(task, series)
        rows = np.flatnonzero(source) if data == "arkansas" else common(series, real.legend, LEAST, source)
        kept, held = blocks(series, rows, 0.3, seed, BLOCK_KM[task])
        here, there = {"arkansas": ("zone 0", "zone 1")}.get(data, ("2015-2016", "2017-2018"))
        return Problem(series, real.legend, kept, {here: held, f"{here} -> {there}": np.flatnonzero(target)})
    least = LEAST if data == "bavaria" else 4
    rows = common(series, real.legend, least, np.ones(len(series), bool))
    kept, held = blocks(series, rows, 0.3, seed, BLOCK_KM[data])
    return Problem(series, real.legend, kept, {"held-out blocks": held})


def run(cell: Cell, root: str) -> list[dict[str, Any]]:
    """Train one cell and score it on every test set of its data; the members of the pool are scored too."""
    import torch

    from cropgen.series.splits import label_subset
    from cropgen.training.data import assemble
    from cropgen.training.fit import fit_model

    torch.set_num_threads(1)
    task = problem(cell.data, root, cell.seed)
    learnable = task.train[(task.series.label[task.train] >= 0) & (task.series.clear_dates[task.train] > 0)]
    labelled = learnable[label_subset(task.series.label[learnable], cell.labels, cell.seed)]
    rest = np.setdiff1d(learnable, labelled)
    unlabelled = task.series.take(rest) if len(rest) else None
    spec, data = assemble(task.legend, task.series.take(labelled), unlabelled)
    name, settings = MODELS[cell.model]
    began = time.process_time()
    fitted = fit_model(name, settings, spec, data, seed=cell.seed)
    seconds = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    classes = task.legend.encode(spec.legend.codes)
    rows = []
    for variant, model in _variants(cell.model, fitted.model):
        for split, test in task.tests.items():
            scores = score(model, task.series.take(test), classes)
            rows.append(
                {"data": cell.data, "split": split, "labels": cell.labels, "seed": cell.seed, "model": variant,
                 "family": _family(variant), "n_labelled": len(labelled), "n_unlabelled": len(rest), **scores,
                 "seconds": round(seconds, 2) if variant == cell.model else None,
                 "peak_mb": round(peak) if variant == cell.model else None,
                 "guard": fitted.facts.get("tgem")}
            )  # fmt: skip
    return rows


def _variants(name: str, model: Any) -> Iterator[tuple[str, Any]]:
    """The model itself and, for the pool, its members: each alone, as it was trained for the pool."""
    yield name, model
    if name == "pool":
        yield "tgem", model.generative
        yield "tempcnn+fixmatch", model.discriminative


def _family(variant: str) -> str:
    from cropgen.models.catalog import find

    return find(variant.partition("+")[0]).family


def score(model: Any, series: Any, classes: np.ndarray) -> dict[str, Any]:
    """Scores on the rows whose class the model knows."""
    import torch

    from cropgen.metrics.calibration import expected_calibration_error, negative_log_likelihood
    from cropgen.metrics.classification import confusion_matrix, macro_f1, overall_accuracy
    from cropgen.series.batches import make_batch

    known = series.take(np.isin(series.label, classes)).select_bands(model.spec.bands)
    batch = make_batch(known, model.spec.calendar, classes)
    with torch.inference_mode():
        parts = [model.log_posterior(batch.take(rows)) for rows in torch.arange(len(known)).split(1024)]
    log_posterior = torch.cat(parts).double().numpy()
    true = batch.y.numpy()
    counts = confusion_matrix(true, log_posterior.argmax(1), len(classes))
    bounded = np.maximum(log_posterior, -30.0)
    return {
        "n_test": len(true),
        "macro_f1": round(float(macro_f1(counts)), 5),
        "accuracy": round(float(overall_accuracy(counts)), 5),
        "nll": round(negative_log_likelihood(bounded, true), 5),
        "ece": round(expected_calibration_error(bounded, true), 5),
    }


def cells(only: list[str] | None, models: list[str] | None) -> list[Cell]:
    """Every cell, the ones that decide most first."""
    return [
        Cell(data, labels, seed, model)
        for data, labels in SHARES
        if not only or data in only
        for seed in MORE_SEEDS.get((data, labels), SEEDS[labels])
        for model in (models or MODELS)
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder of real data")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", nargs="*", help="data sets")
    parser.add_argument("--models", nargs="*", choices=sorted(MODELS), help="models")
    parser.add_argument("--ledger", type=Path, default=HERE / "work" / "real_input", help="finished cells")
    options = parser.parse_args()
    options.ledger.mkdir(parents=True, exist_ok=True)
    code = code_key()
    wanted = cells(options.only, options.models)
    kept = {cell: options.ledger / f"{cell.key(code)}.json" for cell in wanted}
    todo = [cell for cell, path in kept.items() if not path.exists()]
    print(f"{len(wanted)} cells, {len(wanted) - len(todo)} done", flush=True)
    with ProcessPoolExecutor(options.jobs, mp_context=get_context("spawn"), max_tasks_per_child=1) as workers:
        futures = {workers.submit(run, cell, str(options.data)): cell for cell in todo}
        for number, future in enumerate(as_completed(futures), 1):
            cell = futures[future]
            rows = future.result()
            kept[cell].write_text(json.dumps(rows))
            last = rows[len(rows) - 1 if cell.model != "pool" else rows_of_pool(rows)]
            print(
                f"{number}/{len(todo)} {cell.data} {cell.labels} seed {cell.seed} {cell.model}: {last['split']} "
                f"F1 {100 * last['macro_f1']:.1f} accuracy {100 * last['accuracy']:.1f} in {last['seconds']} s",
                flush=True,
            )
    rows = [row for path in kept.values() for row in json.loads(path.read_text())]
    if not options.only and not options.models:
        write(rows, code)


def rows_of_pool(rows: list[dict[str, Any]]) -> int:
    """Position of the pool's own last row, before those of its members."""
    return max(i for i, row in enumerate(rows) if row["model"] == "pool")


def write(rows: list[dict[str, Any]], code: str) -> None:
    """The committed result."""
    import torch

    document = {
        "command": "python benchmarks/real_input.py",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, one thread per training, no GPU; "
        "seconds are of processor time",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "code": code,
        "rows": rows,
    }
    text = json.dumps(document, indent=None, separators=(",", ":"))
    RESULTS.write_text(text.replace('},{"data"', '},\n{"data"') + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
