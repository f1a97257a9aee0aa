"""Which generative member the pool should have, and how much it should count, judged on the training side alone.

    python benchmarks/pool_members.py [--data ../shared/data] [--jobs 2] [--minutes 60]

No test parcel of the scoreboard's other regions or later years is looked at. A cell trains the pool with each member on
blocks of one part of the training side (one year of Fergana, the earlier harvests of Mato Grosso, one half of the zone
of Arkansas) and scores it on held-out blocks of the same part ("in") and on the other part ("shift"), with the weight
of the pool's own rule and with fixed ones. Finished cells are kept in `results/pool_members.json`;
`results/pool_members.md` is made from it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from kept import grow

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "pool_members.json"
MEMBERS = ("tgem", "realnvp")
WEIGHTS = (0.3, 0.5, 0.7, 0.9)
BUDGETS = ((0.0, 9.0), (9.0, 45.0), (45.0, float("inf")))


@dataclass(frozen=True)
class Cell:
    """One training of the pool with each member, on one part of the training side."""

    data: str
    labels: float
    seed: int


CELLS = [
    Cell(data, labels, seed)
    for seeds in ((0, 1), (2, 3))
    for labels in (0.1, 0.02, 1.0)
    for data in ("modis", "fergana", "arkansas")
    for seed in seeds
]


def run(cell: Cell, root: str) -> list[dict[str, Any]]:
    """Train and score one cell."""
    import torch
    from decisions import Cell as Part
    from decisions import material
    from scores import score

    from cropgen.training.fit import fit_model

    torch.set_num_threads(1)
    given, found = material(Part(cell.data, "part", cell.labels, cell.seed), root), []
    for member in MEMBERS:
        model: Any = fit_model("pool", {"generative": member}, given.spec, given.data, seed=cell.seed).model
        rule = float(model.weight)
        for split, series in given.judged.items():
            told = {}
            for name, weight in (("rule", rule), *((f"{w:g}", w) for w in WEIGHTS)):
                model.weight.fill_(weight)
                told[name] = score(model, series, given.classes)
            found.append({**asdict(cell), "member": member, "split": split, "weight": round(rule, 3),
                          "labels_per_class": given.labels_per_class, "scores": told})  # fmt: skip
    return found


def page(document: dict[str, Any]) -> str:
    """The table as Markdown."""
    from tables import gains, label_range, markdown, training_of

    rows, lines = document["rows"], []
    for low, high in BUDGETS:
        for split in ("in", "shift"):
            here = [row for row in rows if row["split"] == split and low <= row["labels_per_class"] < high]
            before = {training_of(row): row["scores"]["rule"] for row in here if row["member"] == "tgem"}
            for member in MEMBERS:
                for weight in ("rule", *(f"{w:g}" for w in WEIGHTS)):
                    after = [
                        (row["scores"][weight], before[training_of(row)]) for row in here if row["member"] == member
                    ]
                    if after and (member, weight) != ("tgem", "rule"):
                        place = [label_range(low, high), split, str(len(after))]
                        lines.append([*place, f"`{member}`", weight, *gains(after)])
    head = ["labels a class", "split", "trainings", "member", "weight", "macro-F1", "accuracy", "NLL"]
    return (
        "# The pool's generative member and its weight, judged inside the training side\n\n"
        f"Made by `{document['command']}`. Machine: {document['machine']}; Python {document['python']}, torch "
        f"{document['torch']}. Points above the pool with `tgem` at the weight of the pool's rule, mean ± standard "
        "error over trainings on Arkansas, Fergana and Mato Grosso.\n\n" + markdown(head, lines, 5) + "\n"
    )


if __name__ == "__main__":
    grow(RESULTS, CELLS, run, page, __doc__ or "")
