"""Every remedy of posterior collapse on a case that collapses without it.

    python benchmarks/collapse.py [--seeds 3] [--only "common start"]

A season is a green-up and a decline of fixed shape whose peak comes s ~ N(0, 1) times 20 days early or late, and noise,
so one number is all there is to say of it. Four cases in which `vae` or `vae-rnn` says less of it than it could, each
for another reason:

    common start    the model begins at the tied Gaussian, decoder and encoder at zero: neither has anything to learn
                    from the other
    weak signal     random start, much noise: the divergence rules while the encoder lags behind the decoder
    fed decoder     a recurrent decoder is fed every date before
    deep decoder    ten layers between the latent and the season

Every remedy learns the same 512 seasons with the same steps. 256 fresh seasons tell divergence, active units, the
reconstruction −E log p(x | z) and the importance-weighted bound, in nats of a season. Written to
`results/collapse.json`, and `results/collapse.md` from it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "collapse.json"
SLOTS, ROWS, FRESH, COLLAPSED = 12, 512, 256, 0.1
OPTIONS: dict[str, Any] = {
    "hidden": 32, "latent": 2, "copies": ROWS, "augmentation": "none", "tied": {"augment": "none"},
    "hybrid": 0.0, "recognition": 0.0, "distillation": 0.0, "unlabelled_batch": 0,
}  # fmt: skip
RANDOM, FED = {"start": "none"}, {"start": "none", "rate": 0.6}
DATES = {**RANDOM, "decoder": "dates"}
Remedy = tuple[str, dict[str, Any]]
Row = dict[str, Any]


@dataclass(frozen=True)
class Case:
    """Seasons of some noise, learnt in some steps, and the remedies by name; `none` is the case without."""

    noise: float
    steps: int
    remedies: dict[str, Remedy]


CASES: dict[str, Case] = {
    "common start": Case(
        0.15,
        200,
        {
            "none": ("vae", {}),
            "linear": ("vae", {"collapse": "linear"}),
            "cyclical": ("vae", {"collapse": "cyclical"}),
            "free-bits": ("vae", {"collapse": "free-bits", "free_bits": 0.5}),
            "pretrain": ("vae", {"collapse": "pretrain", "free_bits": 0.5}),
            "auxiliary": ("vae", {"collapse": "auxiliary", "auxiliary": 1.0}),
        },
    ),
    "weak signal": Case(
        1.0, 100, {"none": ("vae", RANDOM), "aggressive": ("vae", {**RANDOM, "collapse": "aggressive"})}
    ),
    "fed decoder": Case(
        0.7,
        300,
        {
            "none": ("vae-rnn", {**FED, "dropout": "none"}),
            "dynamic-input": ("vae-rnn", {**FED, "dropout": "dynamic-input"}),
            "bounded-field": ("vae", {**DATES, "collapse": "bounded-field"}),
        },
    ),
    "deep decoder": Case(
        0.15,
        75,
        {
            "none": ("vae", {**DATES, "depth": 10}),
            "skip": ("vae", {**DATES, "depth": 10, "collapse": "skip"}),
        },
    ),
}


def learnt(case: Case, remedy: str, seed: int) -> Row:
    """What fresh seasons say of one training."""
    from dropout import seasons

    from cropgen.models.base import Context, InputSpec, TrainingData
    from cropgen.models.checkpoint import build_model
    from cropgen.series.calendar import Calendar
    from cropgen.series.legend import Legend

    began = time.process_time()
    spec = InputSpec(("NDVI",), Calendar("dekad", 9, SLOTS), Legend.from_codes("one", ["a"]))
    data = TrainingData(seasons(ROWS, 100 + seed, case.noise, SLOTS))
    fresh = seasons(FRESH, 900 + seed, case.noise, SLOTS)
    name, options = case.remedies[remedy]
    torch.manual_seed(seed)
    model: Any = build_model(name, {**OPTIONS, **options, "steps": case.steps}, spec, seed=seed)
    model.prepare(data, Context(seed))
    model.train()
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(case.steps):
        first = (seed * case.steps + step) * 2
        batch = model.augmented(data.labelled.take(torch.arange(64)), torch.Generator().manual_seed(first))
        optimiser.zero_grad()
        model.objective(batch, torch.Generator().manual_seed(first + 1)).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
    model.eval()
    with torch.no_grad():
        use, nats = model.use_of_latents(fresh), model.log_joint(fresh).mean()
    return {
        "seed": seed, "remedy": remedy, "kl": round(use["kl_total"], 4), "active_units": use["active_units"],
        "reconstruction": round(use["reconstruction"], 4), "elbo": round(use["elbo"], 4), "nats": round(float(nats), 4),
        "seconds": round(time.process_time() - began, 1),
    }  # fmt: skip


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown."""
    from tables import markdown

    parts = [
        "# Remedies of posterior collapse\n",
        f"Command: `{document['command']}`. Machine: {document['machine']}.\n",
        f"Fresh seasons, nats of a season, means over the seeds; in use: seeds whose latent holds {COLLAPSED} nat or "
        "more. −log p(x) is the importance-weighted bound.\n",
    ]
    head = ["remedy", "seeds", "in use", "KL", "least KL", "active units", "reconstruction", "−ELBO", "−log p(x)"]
    for name, rows in document["cases"].items():
        case = CASES[name]
        lines = [_line(remedy, [row for row in rows if row["remedy"] == remedy]) for remedy in case.remedies]
        parts += [
            f"## {name.capitalize()}: noise {case.noise:g}, {case.steps} steps\n",
            markdown(head, lines, 1) + "\n",
        ]
    return "\n".join(parts)


def _line(remedy: str, rows: list[Row]) -> list[str]:
    def mean(name: str) -> float:
        return fmean(row[name] for row in rows)

    used = sum(row["kl"] >= COLLAPSED for row in rows)
    return [
        remedy, str(len(rows)), str(used), f"{mean('kl'):.2f}", f"{min(row['kl'] for row in rows):.2f}",
        f"{mean('active_units'):.1f}", f"{mean('reconstruction'):.2f}", f"{-mean('elbo'):.2f}", f"{-mean('nats'):.2f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=CASES, help="cases")
    asked = parser.parse_args()
    from kept import keep

    torch.set_num_threads(1)
    cases = json.loads(RESULTS.read_text())["cases"] if RESULTS.exists() else {}
    for name in asked.only or CASES:
        rows = []
        for seed in range(asked.seeds):
            for remedy in CASES[name].remedies:
                rows.append(learnt(CASES[name], remedy, seed))
                print(name, rows[-1], flush=True)
        cases[name] = rows
        keep(RESULTS, {"cases": {known: cases[known] for known in CASES if known in cases}}, page)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
