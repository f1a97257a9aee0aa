"""The tables of `results/flows.md`, made from `results/flows.json` and, for networks beside the flows, `accuracy.json`.

python benchmarks/flows_report.py            # writes flows.md again
python benchmarks/flows_report.py --check    # exit code 1 when it is not what the rows say
"""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

from flows import (
    DATA,
    DRAWN,
    ENTRIES,
    FEW_SEEDS,
    HIDDEN,
    LAYERS,
    MODELS,
    RECOMMENDED,
    ROWS,
    SEEDS,
    SHARES,
    SHORT,
)
from kept import page_from
from scoreboard import above, with_interval
from tables import NAMES, markdown

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "flows.json"
SCOREBOARD = HERE / "results" / "accuracy.json"
NETWORKS = ("tempcnn", "tempcnn+fixmatch")
SPLITS = {"in": "in", "cross": "across"}
_PLACE = ("short", "data", "labels", "model", "split")
_SHAPE = (
    f"{ROWS} complete seasons of {ENTRIES} values in single precision, {LAYERS} layers, two hidden layers of {HIDDEN}; "
    "a training step is the density and its gradient. Medians of alternating runs."
)
Row = dict[str, Any]


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown."""
    rows = document["rows"]
    usual = [row for row in rows if row["seed"] in SEEDS]
    parts = [
        "# Normalizing flows\n",
        f"Command: `{document['command']}`. Machine: {document['machine']}.\n",
        '"in": held-out spatial blocks of the training region or years; "across": one half of another region or later '
        "years. Nats are log-likelihood per observed value, classes summed out, less that of the tied Gaussian the "
        "flow began at: of the density, which keeps a share of that Gaussian, and of the flow alone. Means over "
        f"{len(SEEDS)} seeds; at 1 % the first table has {len(FEW_SEEDS)}, since few labels give false certainty.\n",
    ]
    if lines := recommended(rows):
        parts += [
            f"## `{RECOMMENDED}` above `tgem`\n\nThe flow that `--model flow` stands for, seed by seed; the networks "
            "of the scoreboard beside it. Nats per observed value; macro-F1 and accuracy in points, 95 % intervals "
            "over seeds.\n",
            markdown(["data", "labels", "split", "seeds", "nats", "macro-F1", "accuracy",
                      *(f"`{name}`, macro-F1" for name in NETWORKS)], lines, 3) + "\n",
        ]  # fmt: skip
    for short, data, labels in product((False, True), DATA, sorted(SHARES, reverse=True)):
        lines = []
        for model, split in product(MODELS, SPLITS):
            found = chosen(usual, short, data, labels, model, split)
            lines += [line(model, split, found)] if found else []
        if lines:
            length = f", trained for {SHORT['steps']} steps on {SHORT['copies']} copies" if short else ""
            parts += [f"## {NAMES[data]}, {100 * labels:g} % of the labels{length}\n", markdown(HEAD, lines, 2) + "\n"]
    if _columns(rows):
        parts.append(
            "## Beside `tgem` and the networks\n\nDifference of macro-F1 in points, paired by seed; with two seeds "
            "and more, a 95 % interval over seeds. The last rows are networks of the scoreboard.\n"
        )
    for data in DATA:
        columns = [(share, split) for name, share, split in _columns(rows) if name == data]
        if columns:
            head = ["model", *(f"{100 * share:g} %, {SPLITS[split]}" for share, split in columns)]
            parts.append(f"### {NAMES[data]}\n\n{markdown(head, beside(usual, data, columns), 1)}\n")
    if document["libraries"]:
        parts += [f"## Beside other libraries\n\n{_SHAPE}\n", libraries(document["libraries"]) + "\n"]
    return "\n".join(parts)


HEAD = ["flow", "split", "seeds", "nats per value above `tgem`", "of the flow alone", "macro-F1", "accuracy",
        "macro-F1 of Bayes' rule", "of q", "train, s", f"draw {DRAWN}, s"]  # fmt: skip


def chosen(rows: list[Row], *place: Any) -> list[Row]:
    """Rows of (short, data, labels, model, split), one for each seed."""
    return [row for row in rows if tuple(row[name] for name in _PLACE) == place]


def line(model: str, split: str, rows: list[Row]) -> list[str]:
    """A flow on one split, means over seeds."""

    def mean(name: str) -> float:
        return fmean(row[name] for row in rows)

    told = [row["rules"]["q"] for row in rows if row.get("rules")]
    start = mean("nats_per_value_start")
    alone = fmean(row.get("nats_per_value_alone", row["nats_per_value"]) for row in rows) - start
    told_apart = model == "tgem" or all("nats_per_value_alone" in row for row in rows)
    gain = f"{mean('nats_per_value') - start:+.3f}" if told_apart else ""
    return [model, SPLITS[split], str(len(rows)), gain, f"{alone:+.3f}", f"{100 * mean('macro_f1'):.1f}",
            f"{100 * mean('accuracy'):.1f}", f"{100 * mean('bayes_macro_f1'):.1f}",
            f"{100 * fmean(told):.1f}" if told else "", f"{mean('seconds'):.0f}",
            f"{mean('sampling_seconds'):.2f}"]  # fmt: skip


def recommended(rows: list[Row]) -> list[list[str]]:
    """The recommended flow less `tgem`, and the networks less it, at every budget and split that has been run."""
    beside, lines = networks(), []
    for data, share, split in _columns(rows):
        start, mine = (chosen(rows, False, data, share, name, split) for name in ("tgem", RECOMMENDED))
        told = [above(mine, start, "nats_per_value", 1, 3), *(above(mine, start, s) for s in ("macro_f1", "accuracy"))]
        if not all(told):
            continue
        seeds = {row["seed"] for row in mine} & {row["seed"] for row in start}
        nets = [above(chosen(beside, False, data, share, name, split), start, "macro_f1") for name in NETWORKS]
        lines.append([NAMES[data], f"{100 * share:g} %", SPLITS[split], str(len(seeds)), *told, *nets])
    return lines


def networks() -> list[Row]:
    """Rows of the networks on the scoreboard."""
    return [
        {**row, "short": False}
        for row in (json.loads(SCOREBOARD.read_text())["rows"] if SCOREBOARD.exists() else [])
        if row["model"] in NETWORKS and not row["target_unlabelled"] and not row["dates"]
    ]


def beside(rows: list[Row], data: str, columns: list[tuple[float, str]]) -> list[list[str]]:
    """Every flow, and the networks of the scoreboard, less `tgem` at every budget and split of a data set."""
    nets, lines = networks(), []
    for model in [name for name in MODELS if name != "tgem"] + list(NETWORKS):
        cells = []
        for share, split in columns:
            start = {row["seed"]: row["macro_f1"] for row in chosen(rows, False, data, share, "tgem", split)}
            mine = chosen(nets if model in NETWORKS else rows, False, data, share, model, split)
            gaps = [row["macro_f1"] - start[row["seed"]] for row in mine if row["seed"] in start]
            cells.append(with_interval({data: gaps}) if gaps else "")
        lines += [[model, *cells]] if any(cells) else []
    return lines


def _columns(rows: list[Row]) -> list[tuple[str, float, str]]:
    """(data, label share, split) of full trainings of `tgem`."""
    return [
        (data, share, split)
        for data, share, split in product(DATA, sorted(SHARES), SPLITS)
        if chosen(rows, False, data, share, "tgem", split)
    ]


def libraries(rows: list[Row]) -> str:
    """Times beside other libraries."""
    head = ["architecture", "library", "its training step, ms", "ours, ms", "ours / theirs", "its draw, ms", "ours, ms"]
    lines = [
        [r["architecture"], r["library"], f"{r['train']:.1f}", f"{r['train_ours']:.1f}",
         f"{r['train_ours'] / r['train']:.2f}", f"{r['draw']:.1f}", f"{r['draw_ours']:.1f}"]
        for r in rows
    ]  # fmt: skip
    return markdown(head, lines, 2)


if __name__ == "__main__":
    page_from(RESULTS, page, __doc__ or "")
