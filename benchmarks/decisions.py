"""Which rule of decision a residual density should have, judged on parcels of the training side alone.

    python benchmarks/decisions.py [--data ../shared/data] [--minutes 60]

No test parcel of the scoreboard is looked at. A cell trains on blocks of its training side ("whole"), or of one part of
it ("part": one year of Fergana, the earlier harvests of Mato Grosso, one half of the zone of Arkansas), and scores each
rule on held-out blocks of the same ("in") and on the other part ("shift"): on whole seasons, and on their beginnings,
for which a model trained on whole seasons needs a rule of its own. Finished cells are kept in `results/decisions.json`;
`results/decisions.md` is made from it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from kept import grow

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "decisions.json"
RULES = ("start", "bayes", "q", "learnt")
BEGINNINGS = (1 / 3, 5 / 12, 1 / 2, 7 / 12)
"""Shares of the calendar that are seen of a beginning."""
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
    """Train one cell and score every rule on its splits, seen whole and in part."""
    import torch

    from cropgen.training.fit import fit_model

    torch.set_num_threads(1)
    given = material(cell, root)
    model = fit_model("realnvp", {}, given.spec, given.data, seed=cell.seed).model
    return [
        {**asdict(cell), "split": split, "seen": round(seen, 3), "labels_per_class": given.labels_per_class,
         "parcels": len(series), "rules": _scores(model, series, given.classes, seen)}
        for split, series in given.judged.items()
        for seen in (1.0, *BEGINNINGS)
    ]  # fmt: skip


def _scores(model: Any, series: Any, classes: np.ndarray, seen: float) -> dict[str, dict[str, float]]:
    """Macro-F1, accuracy and NLL of every rule where a share of the calendar has been seen."""
    from cropgen.metrics.calibration import negative_log_likelihood
    from cropgen.metrics.classification import confusion_matrix, macro_f1, overall_accuracy
    from cropgen.series.batches import make_batch

    batch = make_batch(series.select_bands(model.spec.bands), model.spec.calendar, classes)
    mask = batch.mask & (batch.slot < round(seen * model.spec.calendar.count))
    batch = replace(batch, mask=mask, values=batch.values * mask[..., None])
    true, found = batch.y.numpy(), {}
    for rule, said in model.posteriors(batch).items():
        told = said.double().numpy()
        counts = confusion_matrix(true, told.argmax(1), len(classes))
        found[rule] = {
            "macro_f1": round(float(macro_f1(counts)), 5),
            "accuracy": round(float(overall_accuracy(counts)), 5),
            "nll": round(negative_log_likelihood(np.maximum(told, -30.0), true), 5),
        }
    return found


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown."""
    rows = document["rows"]
    whole = [row for row in rows if row["seen"] == 1.0]
    begun = [row for row in rows if row["seen"] < 1.0]
    return (
        "# Rules of decision of a residual flow, judged inside the training side\n\n"
        f"Made by `{document['command']}`. Machine: {document['machine']}. `realnvp`; points, mean ± "
        "standard error over trainings on Arkansas, Fergana and Mato Grosso.\n\n"
        + _table(whole, RULES, "product")
        + "\n\n"
        "## Beginnings of seasons\n\nTrained on whole seasons, shown a third to seven twelfths of them: a mean over "
        f"{len(BEGINNINGS)} lengths.\n\n" + _table(begun, (*RULES, "product"), "densities") + "\n"
    )


def _table(rows: list[dict[str, Any]], rules: tuple[str, ...], other: str) -> str:
    """What each rule is above another, by labels a class and split."""
    from tables import markdown, with_error

    lines = []
    for few, split in ((False, "in"), (False, "shift"), (True, "in"), (True, "shift")):
        here = [r for r in rows if r["split"] == split and (r["labels_per_class"] < MANY) == few]
        for rule in rules if here else ():
            gaps = {score: _gaps(here, rule, other, score) for score in ("macro_f1", "accuracy", "nll")}
            cells = [with_error([100 * gap for gap in gaps[score]]) for score in ("macro_f1", "accuracy")]
            labels = f"{'fewer than' if few else 'at least'} {MANY:g}"
            lines.append([labels, split, str(len(gaps["nll"])), f"`{rule}`", *cells, f"{fmean(gaps['nll']):+.3f}"])
    head = ["labels a class", "split", "trainings", "rule", f"macro-F1 − `{other}`", f"accuracy − `{other}`",
            f"NLL − `{other}`"]  # fmt: skip
    return markdown(head, lines, 4)


def _gaps(rows: list[dict[str, Any]], rule: str, other: str, score: str) -> list[float]:
    """A score by one rule less that by another, a mean of each training."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for row in rows:
        cell = tuple(row[name] for name in Cell.__dataclass_fields__)
        found.setdefault(cell, []).append(row["rules"][rule][score] - row["rules"][other][score])
    return [fmean(gaps) for gaps in found.values()]


if __name__ == "__main__":
    grow(RESULTS, CELLS, run, page, __doc__ or "")
