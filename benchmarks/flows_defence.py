"""What share of the tied Gaussian the density of a flow should keep, judged on parcels of the training side.

    python benchmarks/flows_defence.py [--data ../shared/data] [--minutes 60] [--only fergana]

`realnvp` trains on blocks of the training side of each data set, 10 % of the labels, seeds 0 to 2, and is scored on its
held-out blocks ("held out") and, for the record alone, on the other region or years of the scoreboard ("across"). The
share ε of the start is no matter of training, so one training tells of all shares: nats per observed value above the
start, and macro-F1 where the classes are compared by the flow alone and where they are by the mixture. Finished cells
are kept in `results/flows_defence.json`; `results/flows_defence.md` is made from it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "flows_defence.json"
DATA, SEEDS = ("fergana", "arkansas", "modis"), (0, 1, 2)
SHARES = (0.0, 0.05, 0.25, 0.5, 0.75)
MOST_JUDGED = 1500
Row = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """One training of `realnvp`."""

    data: str
    seed: int


def run(cell: Cell, root: str) -> list[Row]:
    """Train one cell and score every share on its splits."""
    import torch
    from accuracy import problem
    from problems import BLOCK_KM, blocks

    from cropgen.series.batches import make_batch
    from cropgen.series.splits import label_subset
    from cropgen.training.data import assemble
    from cropgen.training.fit import fit_model

    torch.set_num_threads(1)
    task = problem(cell.data, root, cell.seed)
    series = task.series
    train, held = blocks(series, task.train, 0.3, 100 + cell.seed, BLOCK_KM[cell.data])
    learnable = train[(series.label[train] >= 0) & (series.clear_dates[train] > 0)]
    labelled = learnable[label_subset(series.label[learnable], "10%", cell.seed)]
    spec, data = assemble(task.legend, series.take(labelled), series.take(np.setdiff1d(learnable, labelled)))
    classes = task.legend.encode(spec.legend.codes)
    model = fit_model("realnvp", {}, spec, data, seed=cell.seed).model
    found = []
    for split, rows in (("held out", held), ("across", task.tests["cross"])):
        known = rows[np.isin(series.label[rows], classes)]
        if len(known) > MOST_JUDGED:
            known = np.sort(np.random.default_rng(0).choice(known, MOST_JUDGED, replace=False))
        batch = make_batch(series.take(known).select_bands(spec.bands), spec.calendar, classes)
        found.append({**asdict(cell), "split": split, "parcels": len(known), "shares": _scores(model, batch)})
    return found


def _scores(model: Any, batch: Any) -> dict[str, dict[str, float]]:
    """Nats and macro-F1 by share."""
    import torch

    from cropgen.metrics.classification import confusion_matrix, macro_f1
    from cropgen.models.layers.semisupervised import RULES, decide, tempered_posterior

    tied, rule = model.tied, RULES[int(model.rule)]
    x, mask = tied.grid(batch)
    observed = mask.sum(1) * len(model.spec.bands)

    def f1(said: Any) -> float:
        counts = confusion_matrix(batch.y.numpy(), said.argmax(1).numpy(), model.spec.classes)
        return round(float(macro_f1(counts)), 5)

    with torch.inference_mode():
        start, told = tied.log_joint(x, mask), model.posteriors(batch)
        whole, answers = model.options, {}
        for share in SHARES:
            model.options = whole.model_copy(update={"defence": share})
            joint = torch.cat([model.log_joint(batch.take(rows)) for rows in torch.arange(len(batch)).split(512)])
            bayes = tempered_posterior(joint, tied.log_prior, model.log_beta)
            mixed = decide(rule, bayes, told["q"], tied.log_prior, observed, told["start"])
            gain = joint.logsumexp(1) - start.logsumexp(1)
            answers[f"{share:g}"] = {"nats": round(float(gain.sum() / observed.sum()), 4), "f1_of_mixture": f1(mixed)}
        alone = {"f1": f1(told[rule]), "f1_start": f1(told["start"])}
    return {share: {**answer, **alone} for share, answer in answers.items()}


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown."""
    from tables import NAMES, markdown

    rows = document["rows"]
    parts = [
        "# The share of the start in the density of a flow\n",
        f"Command: `{document['command']}`. Machine: {document['machine']}.\n",
        "`realnvp`, 10 % of the labels, trained on blocks of the training side. Nats are log-likelihood per observed "
        "value above the tied Gaussian's; means over seeds, the least of them in brackets.\n",
        "## Nats per value\n",
    ]
    lines, scores = [], []
    for data in DATA:
        for split in ("held out", "across"):
            found = [row["shares"] for row in rows if (row["data"], row["split"]) == (data, split)]
            if not found:
                continue
            place = [NAMES[data], split, str(len(found))]
            nats = [[one[f"{share:g}"]["nats"] for one in found] for share in SHARES]
            lines.append([*place, *(f"{fmean(values):+.3f} ({min(values):+.3f})" for values in nats)])
            mixed = [fmean(one[f"{share:g}"]["f1_of_mixture"] for one in found) for share in SHARES[1:]]
            plain = [fmean(one["0"][name] for one in found) for name in ("f1_start", "f1")]
            scores.append([*place, *(f"{100 * value:.1f}" for value in (*plain, *mixed))])
    head = ["data", "parcels", "seeds"]
    parts.append(markdown([*head, *(f"ε = {share:g}" for share in SHARES)], lines, 2) + "\n")
    compared = "The classes compared by the start, by the flow alone, and by the mixture of each share."
    parts.append(f"## Macro-F1 of what the model answers\n\n{compared}\n")
    parts.append(markdown([*head, "start", "flow", *(f"ε = {share:g}" for share in SHARES[1:])], scores, 2) + "\n")
    return "\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder of real data")
    parser.add_argument("--minutes", type=float, default=60.0, help="begin no cell after this time")
    parser.add_argument("--only", nargs="*", choices=DATA, help="data sets")
    options = parser.parse_args()
    from kept import keep

    document = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    done = {(row["data"], row["seed"]) for row in document["rows"]}
    until = time.monotonic() + 60 * options.minutes
    for cell in [Cell(data, seed) for seed in SEEDS for data in options.only or DATA]:
        if (cell.data, cell.seed) in done or time.monotonic() > until:
            continue
        document["rows"] += run(cell, str(options.data))
        keep(RESULTS, document, page)
        for row in document["rows"][-2:]:
            print(cell, row["split"], row["shares"]["0"], row["shares"]["0.5"], flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
