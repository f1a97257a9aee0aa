"""What the weight β of the divergence does to the entries of a latent, on seasons whose factors are known.

    python benchmarks/disentanglement.py [--seeds 3] [--only 1 4]

A season is a green-up and a decline told by three independent factors, and noise: how early it peaks (± 20 days), how
long it stays green (± a fifth), how green it gets (± 0.12). `vae` in its textbook form, its latent of six entries twice
as wide as needed, learns 2,048 of them without being told the factors, with every weight β of the divergence. 2,000
fresh seasons tell reconstruction and divergence in nats of a season, the active entries, and how far an active entry
stands for one factor, by five scores (see `cropgen.models.layers.vae.disentanglement`): 1 where each factor has an
entry of its own. The last row, `factors turned`, is what the scores say of the three factors themselves turned by 45°
in each plane: all is there, and mixed. Written to `results/disentanglement.json`, and `results/disentanglement.md` from
it.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import torch
from torch import Tensor

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "disentanglement.json"
SLOTS, FACTORS, LATENT, ROWS, FRESH, NOISE = 24, 3, 6, 2048, 2000, 0.03
BETAS, TURNED = ("0.5", "1", "2", "4", "8"), "factors turned"
OPTIONS: dict[str, Any] = {
    "start": "none", "hidden": 64, "latent": LATENT, "steps": 600, "learning_rate": 5e-3, "copies": ROWS,
    "augmentation": "none", "tied": {"augment": "none"}, "hybrid": 0.0, "recognition": 0.0, "distillation": 0.0,
    "unlabelled_batch": 0,
}  # fmt: skip
SCORES = ("mig", "sap", "disentanglement", "completeness", "factor vote", "beta vote")
ACTIVE = 0.01
Row = dict[str, Any]


def seasons(factors: Tensor, generator: torch.Generator) -> Any:
    """Seasons of one class and one band for factors (N, 3): peak, length, height, each standard normal."""
    from cropgen.series.batches import Batch
    from cropgen.series.calendar import Calendar

    slot, count = torch.arange(SLOTS), len(factors)
    early, length, height = (factors[:, i, None] for i in range(FACTORS))
    distance = (slot - SLOTS / 2 - 2 * early) / (3.5 * torch.exp(0.2 * length))
    values = 0.15 + (0.6 + 0.12 * height) * torch.exp(-0.5 * distance**2)
    values = values + NOISE * torch.randn(values.shape, generator=generator)
    day = torch.as_tensor(Calendar("dekad", 6, SLOTS).start_days(), dtype=torch.float32).expand(count, -1) + 4
    known = torch.ones(count, SLOTS, dtype=torch.bool)
    return Batch(values[..., None], known, day.contiguous(), slot.expand(count, -1).contiguous(),
                 torch.zeros(count, dtype=torch.int64))  # fmt: skip


def scores(encode: Any, seed: int) -> Row:
    """Every score of an encoder of factors (N, 3) and a generator."""
    from cropgen.models.layers.vae.disentanglement import (
        beta_vote,
        dci,
        factor_vote,
        mutual_information_gap,
        separated_predictability,
        squared_correlation,
    )

    generator = torch.Generator().manual_seed(500 + seed)
    factors = torch.randn(FRESH, FACTORS, generator=generator)
    z = encode(factors, generator)
    parts = dci(squared_correlation(z, factors))
    found = (
        mutual_information_gap(z, factors), separated_predictability(z, factors), parts.disentanglement,
        parts.completeness, factor_vote(encode, FACTORS, generator), beta_vote(encode, FACTORS, generator),
    )  # fmt: skip
    return {name: round(value, 4) for name, value in zip(SCORES, found, strict=True)}


def learnt(beta: str, seed: int) -> Row:
    """What fresh seasons say of one training."""
    from cropgen.models.base import InputSpec, TrainingData
    from cropgen.series.calendar import Calendar
    from cropgen.series.legend import Legend
    from cropgen.training.fit import fit_model

    began, generator = time.process_time(), torch.Generator().manual_seed(seed)
    spec = InputSpec(("NDVI",), Calendar("dekad", 6, SLOTS), Legend.from_codes("one", ["a"]))
    data = TrainingData(seasons(torch.randn(ROWS, FACTORS, generator=generator), generator))
    model: Any = fit_model("vae", OPTIONS | {"beta": float(beta)}, spec, data, seed=seed).model
    fresh = seasons(torch.randn(FRESH, FACTORS, generator=generator), generator)

    def mean(batch: Any) -> Tensor:
        """(N, Z) the mean of q."""
        return model.scored(model.seen_rows(batch), torch.zeros(1, len(batch), 1, LATENT)).z[0, :, 0]

    with torch.inference_mode():
        use, active = model.use_of_latents(fresh), mean(fresh).var(0) > ACTIVE
        found = dict.fromkeys(SCORES, 0.0)
        if active.any():
            found = scores(lambda v, g: mean(seasons(v, g))[:, active], seed)
    return {
        "beta": beta, "seed": seed, "reconstruction": round(use["reconstruction"], 3), "kl": round(use["kl_total"], 3),
        "active": int(active.sum()), **found, "seconds": round(time.process_time() - began, 1),
    }  # fmt: skip


def turned(seed: int) -> Row:
    """What the scores say of the factors, turned by 45° in each plane in turn."""
    turn, half = torch.eye(FACTORS), math.sqrt(0.5)
    for a, b in ((0, 1), (1, 2), (0, 2)):
        plane = torch.eye(FACTORS)
        plane[a, a] = plane[b, b] = half
        plane[a, b], plane[b, a] = -half, half
        turn = turn @ plane
    return {"beta": TURNED, "seed": seed, "active": FACTORS, **scores(lambda v, _: v @ turn, seed)}


def page(document: dict[str, Any]) -> str:
    """The table as Markdown."""
    from tables import markdown

    head = ["β", "seeds", "reconstruction", "KL", "active entries", *SCORES]
    rows, lines = document["rows"], []
    for beta in (*BETAS, TURNED):
        mine = [row for row in rows if row["beta"] == beta]
        if mine:
            active = f"{fmean(row['active'] for row in mine):.1f}"
            lines.append([beta, str(len(mine)), _cell(mine, "reconstruction"), _cell(mine, "kl"), active,
                          *(_cell(mine, name) for name in SCORES)])  # fmt: skip
    return "\n".join([
        "# The weight of the divergence, and what an entry of the latent stands for\n",
        f"Command: `{document['command']}`. Machine: {document['machine']}.\n",
        f"{FACTORS} independent factors, {LATENT} entries, {ROWS} seasons learnt, {FRESH} fresh ones judged; means and "
        f"standard deviations over seeds. Reconstruction and KL in nats of a season; `{TURNED}` is the yardstick: a "
        "code that knows all and mixes it.\n",
        markdown(head, lines, 1) + "\n",
    ])  # fmt: skip


def _cell(rows: list[Row], name: str) -> str:
    if name not in rows[0]:
        return ""
    values = [row[name] for row in rows]
    return f"{fmean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(values) > 1 else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="*", choices=BETAS, help="weights")
    asked = parser.parse_args()
    from kept import keep

    torch.set_num_threads(1)
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    rows = [row for row in rows if row["beta"] != TURNED] + [turned(seed) for seed in range(asked.seeds)]
    for seed in range(asked.seeds):
        for beta in asked.only or BETAS:
            new = learnt(beta, seed)
            rows = [row for row in rows if (row["beta"], row["seed"]) != (beta, seed)] + [new]
            print(new, flush=True)
            keep(RESULTS, {"rows": rows}, page)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
