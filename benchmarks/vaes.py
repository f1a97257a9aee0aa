"""What the parts of a variational auto-encoder are worth, and what scoring all classes costs.

    python benchmarks/vaes.py [--data ../shared/data] [--minutes 60] [--only arkansas] [--models vade] [--labels 0.1]
    python benchmarks/vaes.py --short      # 120 steps on 1,024 augmented copies, kept beside the full trainings
    python benchmarks/vaes.py --cost       # time of a training step over K classes beside the step without classes

Every cell (data, label share, seed, model) trains once, on one thread, on the rows and labels of `accuracy.py`, and is
scored on the same held-out rows. Beside the rows of the catalogue stand variants of `vae`, one part changed at a time,
the textbook forms, and the control: the same losses without a latent. Finished cells are kept in `results/vaes.json`
with a fingerprint of the code that decides them, so the script goes on where it stopped; `results/vaes.md` is made
from it.
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
from statistics import fmean, median, stdev
from typing import Any

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "vaes.json"
DATA = ("arkansas", "fergana", "modis", "demo")
SEEDS = {0.1: (0, 1, 2), 1.0: (0, 1, 2), 0.01: tuple(range(10))}
ROWS = ("tgem", "ssvae", "vae", "m1", "m2", "m1m2", "adgm", "vade", "cagem", "ssdgm")
_CATEGORICAL = {"latent_kind": "categorical", "latent": 4, "categories": 8}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ROWS},
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
       for name in ("nvil", "vimco", "wake")},
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
SHORT: dict[str, Any] = {"steps": 120, "copies": 1024}
SHORTLY = ", 120 steps"
BATCH, DATES, BANDS = 160, 36, 10


def contenders() -> None:
    """Let the scoreboard's cells know the variants."""
    from accuracy import CONTENDERS, Contender

    for name, (model, options) in VARIANTS.items():
        if name not in CONTENDERS:
            CONTENDERS[name] = Contender(model, "vae", options)
        if model != "tgem":
            CONTENDERS[name + SHORTLY] = Contender(model, "vae", {**SHORT, **options})


def stored() -> dict[str, Any]:
    """The document of finished cells and of the cost."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": [], "cost": []}


def write(document: dict[str, Any]) -> None:
    """Keep the document and the tables made from it."""
    from kept import keep

    keep(RESULTS, document, page)


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown."""
    from tables import NAMES, markdown

    parts = ["# Variational auto-encoders\n", f"Command: `{document['command']}`. Machine: {document['machine']}.\n"]
    head = ["model", "split", "seeds", "macro-F1", "accuracy", "NLL", "ECE", "train, s"]
    for data, labels in product(DATA, sorted(SEEDS, reverse=True)):
        lines = []
        for model, split in product(_titles(), ("in", "cross")):
            rows = [r for r in document["rows"]
                    if (r["data"], r["labels"], r["model"], r["split"]) == (data, labels, model, split)]  # fmt: skip
            lines += [_line(model, split, rows)] if rows else []
        if lines:
            title = NAMES.get(data, "The simulated region")
            parts += [f"## {title}, {100 * labels:g} % of the labels\n", markdown(head, lines, 2) + "\n"]
    if document["cost"]:
        head = ["model", "classes", "step, ms", "step without classes, ms", "ratio"]
        lines = [[r["model"], str(r["classes"]), f"{r['step']:.1f}", f"{r['plain']:.1f}", f"{r['ratio']:.2f}"]
                 for r in document["cost"]]  # fmt: skip
        parts += [f"## Cost of scoring every class\n\n{_SHAPE}\n", markdown(head, lines, 1) + "\n"]
    return "\n".join(parts)


def _titles() -> list[str]:
    """Every variant, and its short training after it."""
    return [title for name in VARIANTS for title in (name, name + SHORTLY)]


def _line(model: str, split: str, rows: list[dict[str, Any]]) -> list[str]:
    def told(name: str, scale: float, digits: int) -> str:
        values = [scale * row[name] for row in rows]
        spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
        return f"{fmean(values):.{digits}f}{spread}"

    return [model, split, str(len(rows)), told("macro_f1", 100, 1), told("accuracy", 100, 1), told("nll", 1, 2),
            told("ece", 100, 1), told("seconds", 1, 0)]  # fmt: skip


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
    parser.add_argument("--models", nargs="*", choices=sorted(VARIANTS), help="models and variants")
    parser.add_argument("--labels", nargs="*", type=float, choices=sorted(SEEDS), help="label shares")
    parser.add_argument("--seeds", nargs="*", type=int, help="seeds")
    parser.add_argument("--short", action="store_true", help="short trainings, kept beside the full ones")
    parser.add_argument("--cost", action="store_true", help="time a step over all classes instead")
    parser.add_argument("--rounds", type=int, default=9, help="runs of each timed call")
    options = parser.parse_args()
    if options.cost:
        timed = cost(options.rounds)
        write({**stored(), "cost": timed})
        return
    from accuracy import Cell, run

    contenders()
    until = time.monotonic() + 60 * options.minutes
    names = [name + SHORTLY * (options.short and name != "tgem") for name in options.models or VARIANTS]
    for labels, data, model in product(options.labels or SEEDS, options.only or DATA, names):
        for seed in SEEDS[labels]:
            cell = Cell(data, labels, seed, model)
            unasked = options.seeds is not None and seed not in options.seeds
            if unasked or time.monotonic() > until or cell.key() in {row["key"] for row in stored()["rows"]}:
                continue
            rows = run(cell, str(options.data))
            document = stored()
            kept = [row for row in document["rows"] if asdict(cell).items() - row.items()]
            write({**document, "rows": kept + rows})
            told = " ".join(f"{r['split']} {100 * r['macro_f1']:.1f}/{100 * r['accuracy']:.1f}" for r in rows)
            print(f"{data} {labels:g} seed {seed} {model}: {told} in {rows[0]['seconds']} s", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
