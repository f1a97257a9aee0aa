"""What every variational auto-encoder is worth alone and in the pool, what its parts are, and what all classes cost.

    python benchmarks/vaes.py [--data ../shared/data] [--minutes 60] [--only fergana] [--models "vae, exact"]
    python benchmarks/vaes.py --cost       # time of a training step over K classes beside the step without classes
    python benchmarks/vaes.py --page       # the page alone, from the rows of this script and of the scoreboard

The rows of the catalogue, and the pool with and without them, are trained by `accuracy.py`. Here stand the variants:
one part of `vae` changed at a time, losses left out or added, the textbook forms, and the control, the same losses
without a latent; on the rows, labels and held-out parcels of the scoreboard, at 10 % of the labels. Finished cells
are kept in `results/vaes.json` with a fingerprint of the code that decides them, so the script goes on where it
stopped; `results/vaes.md` is made from both files.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from itertools import product
from pathlib import Path
from statistics import fmean, median
from typing import Any

from accuracy import CONTENDERS, Cell, Contender, run
from comparisons import (
    DATA,
    EVERYWHERE,
    GOALS_HEAD,
    LABELS,
    PRESET_HEAD,
    SCORES,
    SPLITS,
    START,
    START_HEAD,
    WORDS,
    Row,
    beside_preset,
    beside_start,
    differences,
    differences_head,
    goal,
    nowhere_below,
    scored,
    section,
    short,
    verdict,
)
from kept import keep
from scoreboard import above, best, means, paired, with_interval
from tables import markdown

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "vaes.json"
SCOREBOARD = HERE / "results" / "accuracy.json"
SEEDS, BUDGETS = (0, 1, 2), (0.01, 0.1, 1.0)
BEST = "ssvae"
POOL, POOL_START = "pool, ssvae", "pool, tgem"
OPPONENTS = ("rf", "hgb", "lda", "tempcnn 3000 steps", "tempcnn+fixmatch", "tempcnn2")
_CATEGORICAL = {"latent_kind": "categorical", "latent": 4, "categories": 8}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "control, no latent": ("vae", {"latent_kind": "none"}),
    "vae, student": ("vae", {"likelihood": "student"}),
    **{f"vae, prior {kind}": ("vae", {"prior": kind}) for kind in ("mog", "vamp", "realnvp", "autoregressive")},
    **{f"vae, posterior {kind}": ("vae", {"posterior": kind})
       for kind in ("planar", "radial", "sylvester", "householder", "iaf")},
    "vae, stl": ("vae", {"estimator": "stl"}),
    **{f"vae, {name} 4": ("vae", {"estimator": name, "draws": 4}) for name in ("iwae", "dreg", "jvi")},
    **{f"vae, {kind}": ("vae", {**_CATEGORICAL, "relaxation": kind}) for kind in ("gumbel", "straight-through", "igr")},
    "vae, exact": ("vae", {**_CATEGORICAL, "latent": 1, "relaxation": "exact"}),
    **{f"vae, {name}": ("vae", {**_CATEGORICAL, "relaxation": "none", "estimator": name, "draws": 4})
       for name in ("nvil", "vimco", "sleep")},
    "vae, wake": ("vae", {**_CATEGORICAL, "relaxation": "none", "estimator": "wake", "draws": 4, "hybrid": 0.0}),
    "vae, dates": ("vae", {"decoder": "dates"}),
    "vae, skip": ("vae", {"collapse": "skip", "decoder": "dates"}),
    **{f"vae, {kind}": ("vae", {"collapse": kind})
       for kind in ("linear", "cyclical", "free-bits", "auxiliary", "aggressive", "pretrain")},
    "vae textbook": ("vae", {"start": "none"}),
    "vae textbook, logistics": ("vae", {"start": "none", "likelihood": "logistics"}),
    "m2 textbook": ("m2", {"start": "none", "decide": "q"}),
    "m1 textbook": ("m1", {"start": "none"}),
    "m1m2 textbook": ("m1m2", {"start": "none", "decide": "q"}),
    "vade textbook": ("vade", {"start": "none", "collapse": "pretrain", "decide": "bayes"}),
}  # fmt: skip
LOSSES: dict[str, tuple[str, dict[str, Any]]] = {
    "vae, no marginal": ("vae", {"marginal": 0.0}),
    "vae, no distillation": ("vae", {"distillation": 0.0}),
    "vae, no hybrid": ("vae", {"hybrid": 0.0}),
    "vae, no density": ("vae", {"generative": 0.0, "marginal": 0.0}),
    "vae, consistency": ("vae", {"consistency": 1.0}),
    "vae, class balance": ("vae", {"class_balance": 1.0}),
    "m2, marginalise q": ("m2", {"marginalise": "q"}),
}
BATCH, DATES, BANDS = 160, 36, 10


def contenders() -> None:
    """Let the scoreboard's cells know the variants."""
    for name, (model, options) in (VARIANTS | LOSSES).items():
        CONTENDERS.setdefault(name, Contender(model, "vae", options))


def stored() -> dict[str, Any]:
    """The document of finished cells and of the cost."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": [], "cost": []}


def write(document: dict[str, Any]) -> None:
    """Keep the document and the tables made from it."""
    keep(RESULTS, document, page)


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown."""
    board = json.loads(SCOREBOARD.read_text())["rows"] if SCOREBOARD.exists() else []
    whole = [row for row in board if not row["dates"]]
    parts = [
        "# Variational auto-encoders\n",
        f"Command: `{document['command']}`. Machine: {document['machine']}.\n",
        WORDS,
    ]
    parts += section("What was asked, and what was found", _ASKED, GOALS_HEAD, 9, asked(whole))
    head_best = ["labels", "split", "model", "best opponent", "macro-F1", "accuracy"]
    parts += section("Against the best opponent", _AGAINST, head_best, 4, against_best(whole))
    parts += section(f"`{BEST}` above `{START}`", _BESIDE, START_HEAD, 3, beside_start(whole, BEST))
    parts += section("In the pool", _POOLED, [*START_HEAD[:4], *(title for title, *_ in POOLED)], 3, pooled(whole))
    head = differences_head()
    parts += section("Every row", _ROWS, head, 1, differences(whole, _rows(), START))
    parts += section(f"Is `{BEST}` the best of them?", _PRESET, PRESET_HEAD, 1, beside_preset(whole, _rows(), BEST))
    own = document["rows"] + [row for row in whole if row["model"] == "vae"]
    parts += section("Parts of `vae`", _PARTS, head, 1, differences(own, list(VARIANTS), "vae"))
    own += [row for row in whole if row["model"] == "m2"]
    lines = [line for base in ("vae", "m2")
             for line in differences(own, [name for name in LOSSES if LOSSES[name][0] == base], base)]  # fmt: skip
    parts += section("Losses", _LOST, head, 1, lines)
    if document["cost"]:
        head = ["model", "classes", "step, ms", "step without classes, ms", "ratio"]
        lines = [[r["model"], str(r["classes"]), f"{r['step']:.1f}", f"{r['plain']:.1f}", f"{r['ratio']:.2f}"]
                 for r in document["cost"]]  # fmt: skip
        parts += [f"## Cost of scoring every class\n\n{_SHAPE}\n", markdown(head, lines, 1) + "\n"]
    return "\n".join(parts)


def _rows() -> list[str]:
    """Rows of the catalogue that the scoreboard trains, and its textbook form."""
    own = VARIANTS | LOSSES
    return [name for name, contender in CONTENDERS.items() if contender.family == "vae" and name not in own] + [
        name for name in VARIANTS if name in CONTENDERS and LABELS in CONTENDERS[name].budgets
    ]


def pooled(rows: list[Row]) -> list[list[str]]:
    """The pool with the best auto-encoder above pools with others, and above the semi-supervised network."""
    lines = []
    for labels, data, split in product(BUDGETS, EVERYWHERE, SPLITS):
        pairs = [[scored(rows, name, data, labels, split) for name in pair] for _, *pair in POOLED]
        told = [above(mine, other, "macro_f1") for mine, other in pairs]
        if any(told):
            seeds = str(len(scored(rows, "pool, ssvae", data, labels, split)))
            lines.append([short(data), f"{100 * labels:g} %", SPLITS[split], seeds, *told])
    return lines


def best_opponent(rows: list[Row], labels: float, split: str) -> str | None:
    """The opponent of the highest mean macro-F1 over the three tasks: chosen by the scores it is compared with."""
    return best(rows, labels, lambda row: row["model"] in OPPONENTS and not row["target_unlabelled"], split)


def against_best(rows: list[Row]) -> list[list[str]]:
    """The best auto-encoder, alone and in the pool, less the best opponent: means over the three tasks."""
    lines = []
    for labels, split in product(BUDGETS, SPLITS):
        opponent = best_opponent(rows, labels, split)
        adapted = (f"{BEST} + target rows", f"{POOL} + target rows") if split == "cross" else ()
        for name in (BEST, POOL, *adapted):
            if opponent is None or name not in means(rows, labels, split, "macro_f1"):
                continue
            told = [with_interval(paired(rows, name, opponent, labels, split, score)) for score in SCORES]
            lines.append([f"{100 * labels:g} %", SPLITS[split], f"`{name}`", f"`{opponent}`", *told])
    return lines


def asked(rows: list[Row]) -> list[list[str]]:
    """What the auto-encoders were to reach, what they reach, and whether that is it."""
    lines = [nowhere_below(rows, BEST)]
    lines.append(goal(rows, BEST, START, LABELS, "in", 3))
    for labels, split in product(BUDGETS, SPLITS):
        if POOL in means(rows, labels, split, "macro_f1"):
            lines.append(goal(rows, POOL, POOL_START, labels, split, 1))
    for labels, name, wanted in (
        (0.1, f"{BEST} + target rows", (8, 3)), (0.1, f"{POOL} + target rows", (8, 3)), (1.0, BEST, (0, 0)),
        (1.0, POOL, (0, 0)),
    ):  # fmt: skip
        opponent = best_opponent(rows, labels, "cross")
        if opponent is not None and name in means(rows, labels, "cross", "macro_f1"):
            lines.append(goal(rows, name, opponent, labels, "cross", *wanted))
    for name in (BEST, POOL):
        errors = {data: [row["ece"] for row in scored(rows, name, data, LABELS, "in")] for data in EVERYWHERE}
        found = {data: 100 * fmean(values) for data, values in errors.items() if values}
        if found.keys() >= set(DATA):
            told = ", ".join(f"{short(data)} {value:.1f}" for data, value in found.items())
            lines.append([f"calibration error of `{name}`, in, 10 %, per cent", "≤ 3", told,
                          verdict(max(found.values()) <= 3)])  # fmt: skip
    return lines


POOLED = (
    ("− `pool, tgem`", "pool, ssvae", "pool, tgem"),
    ("− `pool`", "pool, ssvae", "pool"),
    ("− `tempcnn+fixmatch`", "pool, ssvae", "tempcnn+fixmatch"),
    ("with target rows − `tempcnn+fixmatch`", "pool, ssvae + target rows", "tempcnn+fixmatch"),
)


_ASKED = (
    "Points of macro-F1, or of macro-F1 / accuracy, means over Arkansas, Fergana and Mato Grosso. The mean decides "
    "what is reached, and its interval says how sure that is."
)
_AGAINST = (
    f"Of {', '.join(f'`{name}`' for name in OPPONENTS)} the one of the highest macro-F1, chosen by the very scores "
    "it is compared with; means over the three tasks."
)
_BESIDE = f"`{BEST}` less `{START}`, its calibration error, and the networks less `{START}`."
_POOLED = "Macro-F1 of the pool whose generative member is `ssvae` (by default it is a flow)."
_ROWS = f"Macro-F1 less that of `{START}` at 10 % of the labels."
_PRESET = (
    f"Less `{BEST}`, means over the three tasks at 10 % of the labels, best across first. Held-out parcels chose "
    "nothing here: to take the row that stands first would be a choice by the very scores that are shown. The choice "
    "inside the training sides is in [presets.md](presets.md)."
)
_PARTS = "Macro-F1 less that of `vae` as it is, one part changed at a time, at 10 % of the labels."
_LOST = "Macro-F1 less that of `vae`, or of `m2`, with its losses as they are, at 10 % of the labels."
_SHAPE = (
    f"A training step, forward and backward, of {BATCH} seasons of {DATES} slots and {BANDS} bands, whitened before; "
    "beside it the same model of one class. Medians of alternating runs."
)


def cost(rounds: int, classes: int = 10) -> list[dict[str, Any]]:
    """Time of a step of K classes and of one class, in turn in one process."""
    import torch

    torch.set_num_threads(1)
    found = []
    for name in ("ssvae", "vae", "m2", "adgm", "vade"):
        calls = {"step": _step(name, classes), "plain": _step(name, 1)}
        spent: dict[str, list[float]] = {part: [] for part in calls}
        for turn in range(rounds + 2):
            for part, call in calls.items():
                began = time.process_time()
                call()
                if turn > 1:
                    spent[part].append(1000 * (time.process_time() - began))
        row = {"model": name, "classes": classes, **{part: round(median(times), 2) for part, times in spent.items()}}
        found.append({**row, "ratio": round(row["step"] / row["plain"], 3)})
        print(found[-1], flush=True)
    return found


def _step(name: str, classes: int) -> Callable[[], object]:
    """A training step of a model that sees K classes, on random whitened seasons."""
    import torch

    from cropgen.models.base import InputSpec
    from cropgen.models.checkpoint import build_model
    from cropgen.models.layers.bank import Seasons
    from cropgen.models.layers.residual import WhitenedBatch
    from cropgen.series.calendar import Calendar
    from cropgen.series.legend import Legend

    spec = InputSpec(tuple(f"B{i:02d}" for i in range(1, 1 + BANDS)), Calendar("dekad", 0, DATES),
                     Legend.from_codes("crops", [str(k) for k in range(classes)]))  # fmt: skip
    model = build_model(name, {}, spec).train()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn((BATCH, DATES, BANDS), generator=generator)
    mask = torch.ones((BATCH, DATES), dtype=torch.bool)
    day = (5.0 + 10 * torch.arange(DATES)).expand(BATCH, -1)
    y = torch.where(torch.arange(BATCH) < 64, torch.arange(BATCH) % classes, -1)
    offset = torch.randn((BATCH, classes, DATES * BANDS), generator=generator)
    seasons = Seasons(x, mask, day, x.flatten(1), offset, torch.zeros(BATCH, DATES), y)
    batch = WhitenedBatch(x, mask, day, torch.arange(DATES).expand(BATCH, -1), y, seasons)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        model.objective(batch, generator).total.backward()

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder of real data")
    parser.add_argument("--minutes", type=float, default=480.0, help="begin no cell after this time")
    parser.add_argument("--only", nargs="*", choices=DATA, help="data sets")
    parser.add_argument("--models", nargs="*", choices=sorted(VARIANTS | LOSSES), help="variants")
    parser.add_argument("--cost", action="store_true", help="time a step over all classes instead")
    parser.add_argument("--page", action="store_true", help="make the page again, nothing else")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each timed call")
    options = parser.parse_args()
    contenders()
    if options.cost or options.page:
        write({**stored(), **({"cost": cost(options.rounds)} if options.cost else {})})
        return
    until = time.monotonic() + 60 * options.minutes
    for data, seed, model in product(options.only or DATA, SEEDS, options.models or VARIANTS | LOSSES):
        cell = Cell(data, LABELS, seed, model)
        if time.monotonic() > until or cell.key() in {row["key"] for row in stored()["rows"]}:
            continue
        rows = run(cell, str(options.data))
        document = stored()
        kept = [row for row in document["rows"] if asdict(cell).items() - row.items()]
        write({**document, "rows": kept + rows})
        told = " ".join(f"{r['split']} {100 * r['macro_f1']:.1f}/{100 * r['accuracy']:.1f}" for r in rows)
        print(f"{data} seed {seed} {model}: {told} in {rows[0]['seconds']} s", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
