"""Which auto-encoder should be the preset, and how long it should learn, judged on the training side alone.

    python benchmarks/presets.py [--data ../shared/data] [--jobs 2] [--minutes 90]

No test parcel of the scoreboard's other regions or later years is looked at. A cell trains every contender on blocks
of one part of the training side (see `decisions.py`) and scores it on held-out blocks of the same part ("in") and on
the other part ("shift"). The rule, set before a cell was run: the preset gives way to a contender that is ahead in
macro-F1 on shifted parts by two standard errors over all trainings and is not behind by one on held-out blocks.
Finished cells are kept in `results/presets.json`; `results/presets.md` is made from it.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from decisions import Cell, material
from kept import grow

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "presets.json"
PRESET = "ssvae"
CONTENDERS: dict[str, tuple[str, dict[str, Any]]] = {
    PRESET: ("ssvae", {}),
    "m2": ("m2", {}),
    "adgm": ("adgm", {}),
    "ssdgm": ("ssdgm", {}),
    "ssvae, 1,200 steps": ("ssvae", {"steps": 1200}),
}
CELLS = [
    Cell(data, "part", labels, seed)
    for labels, seeds in ((0.1, (0, 1)), (1.0, (0, 1)), (0.1, (2, 3)), (0.02, (0, 1)), (0.02, (2, 3)), (1.0, (2, 3)))
    for data in ("modis", "fergana", "arkansas")
    for seed in seeds
]
BUDGETS = ((0.0, 9.0), (9.0, 45.0), (45.0, float("inf")), (0.0, float("inf")))


def run(cell: Cell, root: str) -> list[dict[str, Any]]:
    """Train and score every contender on one cell."""
    import torch
    from scores import score

    from cropgen.training.fit import fit_model

    torch.set_num_threads(1)
    given, found = material(cell, root), []
    for name, (model, options) in CONTENDERS.items():
        begun = time.process_time()
        trained = fit_model(model, options, given.spec, given.data, seed=cell.seed).model
        seconds = round(time.process_time() - begun, 1)
        found += [
            {**asdict(cell), "contender": name, "split": split, "labels_per_class": given.labels_per_class,
             "seconds": seconds, **score(trained, series, given.classes)}
            for split, series in given.judged.items()
        ]  # fmt: skip
    return found


def page(document: dict[str, Any]) -> str:
    """The table as Markdown."""
    from tables import gains, label_range, markdown, training_of

    rows, lines = document["rows"], []
    done = len({training_of(row) for row in rows})
    for low, high in BUDGETS:
        for split in ("in", "shift"):
            here = [row for row in rows if row["split"] == split and low <= row["labels_per_class"] < high]
            before = {training_of(row): row for row in here if row["contender"] == PRESET}
            for name in CONTENDERS:
                after = [(row, before[training_of(row)]) for row in here if row["contender"] == name]
                if name == PRESET or not after:
                    continue
                time_ratio = f"{np.median([new['seconds'] / old['seconds'] for new, old in after]):.1f} ×"
                place = [label_range(low, high), split, str(len(after))]
                lines.append([*place, f"`{name}`", *gains(after), time_ratio])
    head = ["labels a class", "split", "trainings", "contender", "macro-F1", "accuracy", "NLL", "time"]
    return (
        "# Which auto-encoder is the preset, judged inside the training side\n\n"
        f"Made by `{document['command']}`. Machine: {document['machine']}; Python {document['python']}, torch "
        f"{document['torch']}; {done} of {document['planned']} cells are in. Points above `{PRESET}`, mean ± standard "
        "error over trainings on Arkansas, Fergana and Mato Grosso.\n\n" + markdown(head, lines, 4) + "\n"
    )


if __name__ == "__main__":
    grow(RESULTS, CELLS, run, page, __doc__ or "")
