"""Which rule of decision a residual density should have, judged on parcels of the training side alone.

    python benchmarks/decisions.py [--data ../shared/data] [--minutes 60]

No test parcel of the scoreboard is looked at. A cell trains on blocks of its training side ("whole"), or of one part of
it ("part": one year of Fergana, the earlier harvests of Mato Grosso, one half of the zone of Arkansas), and scores each
rule on held-out blocks of the same ("in") and on the other part ("shift"). Finished cells are kept in
`results/decisions.json`; `results/decisions.md` is made from it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "decisions.json"
RULES = ("start", "bayes", "q", "learnt")
MOST_JUDGED = 1200
MANY = 9.0


@dataclass(frozen=True)
class Cell:
    """One training of `realnvp`; `scope` is "whole" or "part" of the training side."""

    data: str
    scope: str
    labels: float
    seed: int


CELLS = [
    *(Cell("fergana", "whole", 0.1, seed) for seed in range(7)),
    *(Cell("modis", "part", 0.1, seed) for seed in (0, 2, 4)),
    *(Cell("fergana", "part", 0.1, seed) for seed in (0, 2)),
    Cell("arkansas", "part", 0.1, 0),
    *(Cell(data, "part", 0.02, seed) for data in ("modis", "fergana") for seed in (0, 2)),
    Cell("arkansas", "part", 0.02, 0),
    Cell("modis", "part", 1.0, 0),
]


def parts(cell: Cell, root: str) -> tuple[Any, np.ndarray, np.ndarray]:
    """The problem, and the rows of its training side that are learnt from and that are shifted."""
    from accuracy import problem

    task = problem(cell.data, root, cell.seed)
    series, rows = task.series, task.train
    if cell.scope == "whole":
        return task, rows, rows[:0]
    odd = cell.seed % 2
    if cell.data == "fergana":
        first = series.year[rows] == (2015 if odd else 2016)
    elif cell.data == "modis":
        first = series.year[rows] <= (2013 if odd else 2014)
    else:
        place = series.lon[rows] if odd else series.lat[rows]
        first = (place < np.median(place)) == (cell.seed % 4 < 2)
    return task, rows[first], rows[~first]


@dataclass(frozen=True)
class Material:
    """What one cell learns from, and the series of known class it is judged on by split."""

    spec: Any
    data: Any
    classes: np.ndarray
    labels_per_class: float
    judged: dict[str, Any]


def material(cell: Cell, root: str) -> Material:
    """Blocks of the side that is learnt from, blocks held out of it ("in"), and the other part ("shift")."""
    from problems import BLOCK_KM, blocks

    from cropgen.series.splits import label_subset
    from cropgen.training.data import assemble

    task, side, shifted = parts(cell, root)
    series = task.series
    train, held = blocks(series, side, 0.3, 100 + cell.seed, BLOCK_KM[cell.data])
    learnable = train[(series.label[train] >= 0) & (series.clear_dates[train] > 0)]
    labelled = learnable[label_subset(series.label[learnable], f"{100 * cell.labels:g}%", cell.seed)]
    rest = np.setdiff1d(learnable, labelled)
    spec, data = assemble(task.legend, series.take(labelled), series.take(rest) if len(rest) else None)
    classes = task.legend.encode(spec.legend.codes)
    judged = {}
    for split, rows in (("in", held), ("shift", shifted)):
        known = rows[np.isin(series.label[rows], classes)]
        if len(known) > MOST_JUDGED:
            known = np.sort(np.random.default_rng(0).choice(known, MOST_JUDGED, replace=False))
        if len(known):
            judged[split] = series.take(known)
    return Material(spec, data, classes, round(len(labelled) / len(classes), 2), judged)


def run(cell: Cell, root: str) -> list[dict[str, Any]]:
    """Train one cell and score every rule on its splits."""
    import torch

    from cropgen.training.fit import fit_model

    torch.set_num_threads(1)
    given = material(cell, root)
    model = fit_model("realnvp", {}, given.spec, given.data, seed=cell.seed).model
    return [
        {**asdict(cell), "split": split, "labels_per_class": given.labels_per_class, "parcels": len(series),
         "rules": _scores(model, series, given.classes)}
        for split, series in given.judged.items()
    ]  # fmt: skip


def _scores(model: Any, series: Any, classes: np.ndarray) -> dict[str, dict[str, float]]:
    """Macro-F1, accuracy and NLL of every rule."""
    from cropgen.metrics.calibration import negative_log_likelihood
    from cropgen.metrics.classification import confusion_matrix, macro_f1, overall_accuracy
    from cropgen.series.batches import make_batch

    batch = make_batch(series.select_bands(model.spec.bands), model.spec.calendar, classes)
    true, found = batch.y.numpy(), {}
    for rule, said in model.posteriors(batch).items():
        told = said.double().numpy()
        counts = confusion_matrix(true, told.argmax(1), len(classes))
        found[rule] = {
            "macro_f1": round(float(macro_f1(counts)), 5),
            "accuracy": round(float(overall_accuracy(counts)), 5),
            "nll": round(float(negative_log_likelihood(np.exp(told), true)), 5),
        }
    return found


def page(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    from tables import markdown

    lines = []
    for few, split in ((False, "in"), (False, "shift"), (True, "in"), (True, "shift")):
        here = [r for r in rows if r["split"] == split and (r["labels_per_class"] < MANY) == few]
        for rule in RULES if here else ():
            gaps = [[r["rules"][rule][s] - r["rules"]["product"][s] for r in here] for s in ("macro_f1", "accuracy")]
            nll = [r["rules"][rule]["nll"] - r["rules"]["product"]["nll"] for r in here]
            cells = [f"{100 * fmean(g):+.1f} ± {100 * stdev(g) / len(g) ** 0.5:.1f}" for g in gaps]
            labels = f"{'fewer than' if few else 'at least'} {MANY:g}"
            lines.append([labels, split, str(len(here)), f"`{rule}`", *cells, f"{fmean(nll):+.3f}"])
    head = ["labels a class", "split", "trainings", "rule", "macro-F1 − `product`", "accuracy − `product`",
            "NLL − `product`"]  # fmt: skip
    return (
        "# Rules of decision of a residual flow, judged inside the training side\n\n"
        "Made by `python benchmarks/decisions.py`. `realnvp`; points, mean ± standard error over trainings on "
        "Arkansas, Fergana and Mato Grosso.\n\n" + markdown(head, lines, 4) + "\n"
    )


def write(rows: list[dict[str, Any]]) -> None:
    """Keep the rows and the table, atomically."""
    from cropgen.core.files import write_text

    text = json.dumps({"command": "python benchmarks/decisions.py", "rows": rows}, separators=(",", ":"))
    write_text(RESULTS, text.replace('},{"data"', '},\n{"data"') + "\n")
    write_text(RESULTS.with_suffix(".md"), page(rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder of real data")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no cell after this time")
    options = parser.parse_args()
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    until = time.monotonic() + 60 * options.minutes
    for cell in CELLS:
        if any(asdict(cell).items() <= row.items() for row in rows) or time.monotonic() > until:
            continue
        rows += run(cell, str(options.data))
        write(rows)
        print(cell, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
