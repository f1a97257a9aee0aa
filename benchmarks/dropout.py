"""What dynamic dropout does to a recurrent decoder, on seasons that one number decides.

    python benchmarks/dropout.py [--seeds 5] [--steps 100]

A season is a green-up and a decline of fixed shape whose peak comes s ~ N(0, 1) times 20 days early or late, and noise.
`vae-rnn` in its textbook form learns 1,024 of them with every kind of dropout named below. After every 25 steps 256
fresh seasons tell the reconstruction −E log p(x | x_<t, z), the divergence KL(q(z | x) ‖ p(z)) and the error of a free
run: the mean square of the season less what the decoder says from z when it is fed its own expectations, in standard
deviations of the band. Kinds are compared where their reconstruction is equal: at the best that both reach, read off
by lines between the measurements. Written to `results/dropout.json`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "dropout.json"
SLOTS, ROWS, FRESH, EVERY = 16, 1024, 256, 25
KINDS = ("none", "dynamic-input")
OPTIONS: dict[str, Any] = {
    "start": "none", "hidden": 32, "latent": 2, "copies": ROWS, "augmentation": "none", "tied": {"augment": "none"},
    "hybrid": 0.0, "recognition": 0.0, "distillation": 0.0, "unlabelled_batch": 0, "rate": 0.6, "price": 1.0,
}  # fmt: skip
Measured = dict[str, float]


def seasons(count: int, seed: int, noise: float = 0.15, slots: int = SLOTS) -> Any:
    """Seasons of one class and one band."""
    from cropgen.series.batches import Batch
    from cropgen.series.calendar import Calendar

    generator = torch.Generator().manual_seed(seed)
    slot = torch.arange(slots)
    late = 2 * torch.randn(count, 1, generator=generator)
    values = torch.exp(-0.5 * ((slot - slots / 2 - late) / 2.5) ** 2)
    values = values + noise * torch.randn(values.shape, generator=generator)
    day = torch.as_tensor(Calendar("dekad", 9, slots).start_days(), dtype=torch.float32).expand(count, -1) + 4
    return Batch(
        values[..., None],
        torch.ones(count, slots, dtype=torch.bool),
        day.contiguous(),
        slot.expand(count, -1).contiguous(),
        torch.zeros(count, dtype=torch.int64),
    )


def measured(model: Any, fresh: Any) -> Measured:
    """Reconstruction and divergence in nats of a season, and the error of a free run."""
    model.eval()
    with torch.no_grad():
        use = model.use_of_latents(fresh)
        error = (model.free_run(fresh)[:, 0].flatten(1) - model.seen_rows(fresh).seasons.e).square().mean()
    model.train()
    return {
        "reconstruction": round(use["reconstruction"], 4),
        "kl": round(use["kl_total"], 4),
        "free_running_error": round(float(error), 5),
    }


def learnt(kind: str, seed: int, steps: int) -> list[Measured]:
    """The measurements along one training."""
    from cropgen.models.base import Context, InputSpec, TrainingData
    from cropgen.models.checkpoint import build_model
    from cropgen.series.calendar import Calendar
    from cropgen.series.legend import Legend

    spec = InputSpec(("NDVI",), Calendar("dekad", 9, SLOTS), Legend.from_codes("one", ["a"]))
    data, fresh = TrainingData(seasons(ROWS, 100 + seed)), seasons(FRESH, 900 + seed)
    torch.manual_seed(seed)
    model = build_model("vae-rnn", OPTIONS | {"dropout": kind, "steps": steps}, spec, seed=seed)
    model.prepare(data, Context(seed))
    optimiser, path = torch.optim.Adam(model.parameters(), 3e-3), list[Measured]()
    for step in range(steps):
        first = (seed * steps + step) * 2
        batch = model.augmented(data.labelled.take(torch.arange(64)), torch.Generator().manual_seed(first))
        optimiser.zero_grad()
        model.objective(batch, torch.Generator().manual_seed(first + 1)).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
        optimiser.step()
        if (step + 1) % EVERY == 0:
            path.append(measured(model, fresh))
    return path


def where(path: list[Measured], reconstruction: float) -> Measured:
    """The first place of a training whose reconstruction is as good as asked for."""
    before = path[0]
    for after in path:
        if after["reconstruction"] <= reconstruction:
            gain = before["reconstruction"] - after["reconstruction"]
            share = (before["reconstruction"] - reconstruction) / gain if gain > 0 else 1.0
            return {name: before[name] + share * (after[name] - before[name]) for name in after}
        before = after
    return path[-1]


def compared(plain: list[Measured], other: list[Measured], kind: str) -> dict[str, Any]:
    """Divergence and error of two trainings at the best reconstruction that both reach."""
    best = max(min(at["reconstruction"] for at in path) for path in (plain, other))
    ends = {"none": where(plain, best), kind: where(other, best)}
    return {
        "reconstruction": round(best, 4),
        **{name: {key: round(end[name], 4) for key, end in ends.items()} for name in ("kl", "free_running_error")},
    }


def table(runs: dict[str, list[list[Measured]]]) -> list[str]:
    """The means at the end of training, by kind."""
    lines = ["| dropout | −ELBO | reconstruction | KL | free-running error |", "|---|---|---|---|---|"]
    for kind, paths in runs.items():
        rc, kl, error = (fmean(p[-1][n] for p in paths) for n in ("reconstruction", "kl", "free_running_error"))
        lines.append(f"| {kind} | {rc + kl:.2f} | {rc:.2f} | {kl:.2f} | {error:.3f} |")
    return lines


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    began, runs = time.process_time(), {kind: list[list[Measured]]() for kind in KINDS}
    for seed in range(asked.seeds):
        for kind in KINDS:
            runs[kind].append(learnt(kind, seed, asked.steps))
            print(f"seed {seed} {kind}: {runs[kind][-1][-1]}", flush=True)
        write(runs, asked.steps, time.process_time() - began)
    print("\n".join(table(runs)))
    return 0


def write(runs: dict[str, list[list[Measured]]], steps: int, seconds: float) -> None:
    """Keep what is known so far."""
    told = {
        kind: [compared(plain, other, kind) for plain, other in zip(runs["none"], runs[kind], strict=True)]
        for kind in KINDS[1:]
    }
    document = {
        "steps": steps,
        "seconds": round(seconds),
        "table": table(runs),
        "at_equal_reconstruction": told,
        "trainings": runs,
    }
    RESULT.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
