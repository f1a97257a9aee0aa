"""How should the semi-supervised network use its unlabelled parcels: how strong the augmentation, how sure the guesses?

    python benchmarks/fixmatch.py [--data ../shared/data] [--jobs 1] [--minutes 25] [--seeds 20]

FixMatch with light and strong augmentation, thresholds 0.8, 0.9 and 0.95, and with unlabelled rows of the source alone
or of the target too, on Arkansas, Fergana and MODIS at 1 and 10 % labels. Every training keeps a fifth of the blocks it
learns from for validation; the setting for a label share, with or without target rows, is the one of the highest mean
macro-F1 on those rows over the three data sets. Only then are there trainings for fresh seeds from 200 on, scored on
held-out blocks of the source ("in") and on one half of the target ("cross"): the chosen setting, the default, and no
unlabelled rows.

The networks are TempCNN of a quarter of the width, on half the mini-batch and for two thirds of the steps, which cost a
tenth: what is asked here is how settings differ, and how well the network does is told by `accuracy.py`. Trainings are
kept in `results/fixmatch.json`, so the script goes on where it stopped; `results/fixmatch.md` is made from it and says
how many seeds there are.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "fixmatch.json"
DATA = ("fergana", "modis", "arkansas")
LABELS = (0.1, 0.01)
AUGMENT = ("lite", "strong")
THRESHOLDS = (0.8, 0.9, 0.95)
DEFAULT = ("lite", 0.9)
CHOICE_SEEDS = (100,)
FIRST_FRESH = 200
SMALL = {"hidden": 16, "labelled_batch": 32, "unlabelled_batch": 48, "steps": 300}
Row = dict[str, Any]
_INTRODUCTION = """# FixMatch: augmentation and threshold

Made by `benchmarks/fixmatch.py`; see there. The choice is the setting of the highest macro-F1 on validation rows, a
mean over the data sets; the test is on fresh seeds: mean ± standard deviation over them, and in brackets the paired
difference from the default.
"""


@dataclass(frozen=True)
class Cell:
    """One training; augmentation "none" is the network without unlabelled rows, lightly augmented."""

    data: str
    labels: float
    target: bool
    augment: str
    threshold: float
    seed: int

    @property
    def options(self) -> dict[str, Any]:
        if self.augment == "none":
            return SMALL
        return {**SMALL, "semi": "fixmatch", "augment": self.augment, "threshold": self.threshold}

    def key(self) -> str:
        """Fingerprint of what decides the result."""
        from kept import training_key

        return training_key("tempcnn", self.options, asdict(self))


def run(cell: Cell, root: str) -> Row:
    """Train one cell; score it on validation rows, and for fresh seeds on the test rows too."""
    import torch
    from accuracy import problem
    from problems import BLOCK_KM, blocks
    from scores import score

    from cropgen.models.base import TrainingData
    from cropgen.series.batches import make_batch
    from cropgen.series.splits import label_subset
    from cropgen.training.data import assemble
    from cropgen.training.fit import fit_model

    torch.set_num_threads(1)
    task = problem(cell.data, root, cell.seed)
    series = task.series
    kept, judges = blocks(series, task.train, 0.2, cell.seed + 1, BLOCK_KM[cell.data])
    learnable = kept[(series.label[kept] >= 0) & (series.clear_dates[kept] > 0)]
    labelled = learnable[label_subset(series.label[learnable], f"{100 * cell.labels:g}%", cell.seed)]
    spec, data = assemble(task.legend, series.take(labelled), series.take(np.setdiff1d(learnable, labelled)))
    classes = task.legend.encode(spec.legend.codes)
    if cell.target:
        free = make_batch(series.take(task.target).select_bands(spec.bands), spec.calendar, classes).without_labels()
        data = TrainingData(data.labelled, TrainingData(data.labelled, data.unlabelled, target=free).free)
    began = time.process_time()
    fitted = fit_model("tempcnn", cell.options, spec, data, seed=cell.seed)
    row = {**asdict(cell), "key": cell.key(), "n_labelled": len(labelled),
           "seconds": round(time.process_time() - began, 2)}  # fmt: skip
    tests = {"validation": judges, **(task.tests if cell.seed >= FIRST_FRESH else {})}
    scores = {split: score(fitted.model, series.take(rows), classes) for split, rows in tests.items()}
    return row | {f"{split}_{name}": scores[split][name] for split in scores for name in ("macro_f1", "accuracy")}


def tasks() -> list[tuple[str, float, bool]]:
    return [(data, labels, target) for labels in LABELS for target in (False, True) for data in DATA]


def trials() -> list[Cell]:
    """What the settings are chosen from."""
    return [Cell(*task, augment, threshold, seed) for seed in CHOICE_SEEDS for task in tasks()
            for augment in AUGMENT for threshold in THRESHOLDS]  # fmt: skip


def validation_means(rows: list[Row], labels: float, target: bool) -> dict[tuple[str, float], float]:
    """Mean macro-F1 on validation rows by setting, of those with all data sets and seeds of the choice."""
    found: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        if (row["labels"], row["target"]) == (labels, target) and row["seed"] in CHOICE_SEEDS:
            found.setdefault((row["augment"], row["threshold"]), []).append(row["validation_macro_f1"])
    most = len(DATA) * len(CHOICE_SEEDS)
    return {setting: fmean(values) for setting, values in found.items() if len(values) == most}


def choice(rows: list[Row], labels: float, target: bool) -> tuple[str, float]:
    """The setting with the highest mean; the default while some are missing."""
    means = validation_means(rows, labels, target)
    return max(means, key=lambda setting: means[setting]) if len(means) == len(AUGMENT) * len(THRESHOLDS) else DEFAULT


def finals(rows: list[Row], seeds: int) -> list[Cell]:
    """Trainings with fresh seeds: no unlabelled rows, the default, and the chosen setting."""
    found: list[Cell] = []
    for seed in range(FIRST_FRESH, FIRST_FRESH + seeds):
        for task in tasks():
            plain = [] if task[2] else [Cell(*task, "none", 0.0, seed)]
            found += plain + [Cell(*task, *setting, seed) for setting in sorted({DEFAULT, choice(rows, *task[1:])})]
    return found


def page(rows: list[Row]) -> str:
    """Markdown: macro-F1 on validation rows that the choice is made by, then scores on test rows."""
    settings = [(augment, threshold) for augment in AUGMENT for threshold in THRESHOLDS]
    lines = [_INTRODUCTION, "## Choice", ""]
    lines += _head(["labels", "target rows", *(f"{a}, {t:g}" for a, t in settings)], numeric=2)
    for labels in LABELS:
        for target in (False, True):
            means = validation_means(rows, labels, target)
            told = [f"{100 * means[setting]:.1f}" if setting in means else "" for setting in settings]
            lines.append(f"| {100 * labels:g}% | {'yes' if target else 'no'} | {' | '.join(told)} |")
    lines += ["", "## Test", ""]
    head = ["data", "labels", "target rows", "setting", "seeds", "in F1", "cross F1", "cross accuracy"]
    lines += _head(head, numeric=4)
    for task in tasks():
        first = f"| {task[0]} | {100 * task[1]:g}% | {'yes' if task[2] else 'no'} | "
        lines += [f"{first}{cells} |" for cells in _settings(rows, task)]
    seconds = sum(row["seconds"] for row in rows)
    return "\n".join(lines) + f"\n\n{len(rows)} trainings, {seconds / 60:.0f} minutes of one core.\n"


def _head(names: list[str], numeric: int) -> list[str]:
    rule = ["---:" if i >= numeric else "---" for i in range(len(names))]
    return ["| " + " | ".join(cells) + " |" for cells in (names, rule)]


def _settings(rows: list[Row], task: tuple[str, float, bool]) -> Iterator[str]:
    """Cells of the table for one task: no unlabelled rows, default, chosen."""
    fresh = [r for r in rows if (r["data"], r["labels"]) == task[:2] and r["seed"] >= FIRST_FRESH]
    chosen = choice(rows, *task[1:])
    settings = {f"default: {DEFAULT[0]}, {DEFAULT[1]:g}": DEFAULT, f"chosen: {chosen[0]}, {chosen[1]:g}": chosen}
    named = {"no unlabelled rows": {r["seed"]: r for r in fresh if r["augment"] == "none"}}
    for name, setting in settings.items():
        named[name] = {
            r["seed"]: r for r in fresh if (r["target"], r["augment"], r["threshold"]) == (task[2], *setting)
        }
    default = next(found for name, found in named.items() if name.startswith("default"))
    for name, found in named.items():
        seeds = sorted(found.keys() & default.keys())
        if len(seeds) > 1:
            shown = [_shown([found[s][c] for s in seeds], [default[s][c] for s in seeds])
                     for c in ("in_macro_f1", "cross_macro_f1", "cross_accuracy")]  # fmt: skip
            yield " | ".join([name, str(len(seeds)), *shown])


def _shown(values: list[float], other: list[float]) -> str:
    told = f"{100 * fmean(values):.1f} ± {100 * stdev(values):.1f}"
    return told if values == other else f"{told} ({100 * (fmean(values) - fmean(other)):+.1f})"


def write(rows: list[Row]) -> None:
    """Keep all rows, and the table made from them."""
    from cropgen.core.files import write_text

    document = json.dumps({"command": "python benchmarks/fixmatch.py", "rows": rows}, separators=(",", ":"))
    write_text(RESULTS, document.replace('},{"data"', '},\n{"data"') + "\n")
    write_text(RESULTS.with_suffix(".md"), page(rows))


def results(todo: list[Cell], root: str, jobs: int, until: float) -> Iterator[Row]:
    """Rows of the cells as they end; none is begun after `until`."""
    waiting, running = list(reversed(todo)), set[Future[Row]]()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
        while waiting or running:
            while waiting and len(running) < jobs and time.monotonic() < until:
                running.add(workers.submit(run, waiting.pop(), root))
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (future.result() for future in done)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder of real data")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=25.0, help="begin no training after this time")
    parser.add_argument("--seeds", type=int, default=20, help="fresh seeds of the test")
    options = parser.parse_args()
    rows: list[Row] = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    until = time.monotonic() + 60 * options.minutes
    for stage in ("choice", "test"):
        todo = waiting(trials() if stage == "choice" else finals(rows, options.seeds), rows)
        print(f"{stage}: {len(todo)} trainings to do", flush=True)
        for row in results(todo, str(options.data), options.jobs, until):
            rows = [*(old for old in rows if any(old[n] != row[n] for n in Cell.__dataclass_fields__)), row]
            write(rows)
            print({name: value for name, value in row.items() if name != "key"}, flush=True)
        if time.monotonic() >= until:
            return


def waiting(cells: list[Cell], rows: list[Row]) -> list[Cell]:
    done = {row["key"] for row in rows}
    return [cell for cell in cells if cell.key() not in done]


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
