"""What a richer prior of the latent says of real seasons, in nats, beside N(0, I).

    python benchmarks/priors.py [--data ../shared/data] [--minutes 20] [--only arkansas] [--form "latent of 4"]

Seasons of all crops are one density here: `vae` in its textbook form is told no class, so that what tells crops apart
is left to the latent, of the usual size or a small one, for as many steps as is usual or five times as many. (From the
common start little is left to it.)
Every cell (data, form, seed, prior) trains once, on one thread, within a form with the same steps, mini-batches and
networks, on the rows that `accuracy.py` learns from, by months, and tells held-out blocks of the same region by the
importance-weighted bound of DRAWS draws, per observed value and in units of reflectance. Priors are compared parcel by
parcel with N(0, I) of the same seed. Finished cells are kept in `results/priors.json`, so the script goes on where it
stopped; `results/priors.md` is made from it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "priors.json"
DATA, SEEDS, CALENDAR, DRAWS, ROWS = ("arkansas", "modis"), (0, 1, 2), "month", 256, 600
FORMS: dict[str, dict[str, Any]] = {f"latent of {size}": {"start": "none", "latent": size} for size in (16, 4)}
FORMS["latent of 16, long training"] = {**FORMS["latent of 16"], "steps": 3000}
PRIORS: dict[str, dict[str, Any]] = {
    "standard": {},
    "realnvp": {"prior": "realnvp"},
    "vamp of 500": {"prior": "vamp", "prior_components": 500},
    "vamp of 32": {"prior": "vamp", "prior_components": 32},
}
OPTIONS: dict[str, Any] = {
    "steps": 600, "labelled_batch": 64, "unlabelled_batch": 0, "learning_rate": 2e-3, "augmentation": "none",
    "hybrid": 0.0, "recognition": 0.0, "decide": "bayes", "tied": {"augment": "none", "em": "off"},
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One training."""

    data: str
    form: str
    seed: int
    prior: str

    @property
    def options(self) -> dict[str, Any]:
        return {**OPTIONS, **FORMS[self.form], **PRIORS[self.prior]}

    def key(self) -> str:
        """Fingerprint of what decides the result."""
        from kept import training_key

        return training_key("vae", self.options, {**asdict(self), "rows": ROWS, "draws": DRAWS})


def run(cell: Cell, root: str) -> dict[str, Any]:
    """Train one cell and score it on the held-out blocks."""
    import torch
    from accuracy import problem

    from cropgen.models.base import TrainingData
    from cropgen.series.batches import make_batch
    from cropgen.series.legend import Legend
    from cropgen.training.data import assemble
    from cropgen.training.fit import fit_model

    torch.set_num_threads(1)
    task = problem(cell.data, root, cell.seed)
    train, held = (rows[task.series.clear_dates[rows] > 0] for rows in (task.train, task.tests["in"]))
    held = np.sort(np.random.default_rng(0).permutation(held)[:ROWS])
    spec, data = assemble(task.legend, task.series.take(train), calendar=CALENDAR)
    spec = replace(spec, legend=Legend.from_codes("seasons", ["any"]))
    known = replace(data.labelled, y=torch.zeros(len(train), dtype=torch.int64))
    began = time.process_time()
    model: Any = fit_model("vae", cell.options, spec, TrainingData(known), seed=cell.seed).model
    seconds = time.process_time() - began
    batch = make_batch(task.series.take(held), spec.calendar).without_labels()
    with torch.inference_mode():
        use = model.use_of_latents(batch)
        model.noise = torch.randn((DRAWS, *model.noise.shape[1:]), generator=torch.Generator().manual_seed(cell.seed))
        nats = torch.cat([model.log_joint(batch.take(rows))[:, 0] for rows in torch.arange(len(batch)).split(100)])
        observed = model.seen_rows(batch).seasons.observed
    told = {name: round(float(use[name]), 4) for name in ("reconstruction", "kl_total", "active_units")}
    return {
        **asdict(cell), **told, "seconds": round(seconds, 1), "values": int(observed.sum()),
        "parcels": [round(float(value), 3) for value in nats], "key": cell.key(),
    }  # fmt: skip


def per_value(row: dict[str, Any]) -> float:
    """Nats of an observed value."""
    return sum(row["parcels"]) / row["values"]


def beside(row: dict[str, Any], plain: dict[str, Any]) -> tuple[float, float]:
    """Nats of a parcel above N(0, I) of the same seed, and the standard error over parcels."""
    gains = [ours - theirs for ours, theirs in zip(row["parcels"], plain["parcels"], strict=True)]
    return fmean(gains), stdev(gains) / len(gains) ** 0.5


def page(document: dict[str, Any]) -> str:
    """The tables as Markdown."""
    from tables import NAMES, markdown

    parts = [
        "# Priors of the latent, on real seasons\n",
        f"Command: `{document['command']}`. Machine: {document['machine']}.\n",
        f"`vae`, textbook form, of seasons whose crop is not told, {OPTIONS['steps']} steps, or "
        f"{FORMS['latent of 16, long training']['steps']} where the training is called long; held-out blocks, {DRAWS} "
        "draws. The gain is over N(0, I) of the same seed: mean and least over the seeds, nats of a parcel; in "
        "brackets the largest standard error over parcels. ELBO: that of a parcel, in other units of the values.\n",
    ]
    head = ["prior", "seeds", "nats of a value", "gain, nats of a parcel", "least gain", "ELBO", "KL", "active",
            "train, s"]  # fmt: skip
    for form in FORMS:
        for data in DATA:
            rows = [row for row in document["rows"] if (row["data"], row["form"]) == (data, form)]
            lines = [_line(prior, rows) for prior in PRIORS if any(row["prior"] == prior for row in rows)]
            if lines:
                parts += [f"## {NAMES[data]}, {form}\n", markdown(head, lines, 1) + "\n"]
    return "\n".join(parts)


def _line(prior: str, rows: list[dict[str, Any]]) -> list[str]:
    plain = {row["seed"]: row for row in rows if row["prior"] == "standard"}
    own = [row for row in rows if row["prior"] == prior]
    gains = [beside(row, plain[row["seed"]]) for row in own if row["seed"] in plain]
    told = ["", ""]
    if prior != "standard" and gains:
        error = max(error for _, error in gains)
        told = [f"{fmean(g for g, _ in gains):+.2f} ({error:.2f})", f"{min(g for g, _ in gains):+.2f}"]
    means = [fmean(row[name] for row in own) for name in ("reconstruction", "kl_total", "active_units", "seconds")]
    return [
        prior, str(len(own)), f"{fmean(per_value(row) for row in own):.4f}", *told,
        f"{-means[0] - means[1]:.2f}", f"{means[1]:.2f}", f"{means[2]:.1f}", f"{means[3]:.0f}",
    ]  # fmt: skip


def stored() -> dict[str, Any]:
    """The document of finished cells."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder of real data")
    parser.add_argument("--minutes", type=float, default=20.0, help="begin no cell after this time")
    parser.add_argument("--only", nargs="*", choices=DATA, help="data sets")
    parser.add_argument("--form", nargs="*", choices=FORMS, help="forms of the model")
    options = parser.parse_args()
    from kept import keep

    until = time.monotonic() + 60 * options.minutes
    cells = [
        Cell(data, form, seed, prior)
        for form in options.form or FORMS
        for seed in SEEDS
        for data in options.only or DATA
        for prior in PRIORS
    ]
    for cell in cells:
        document = stored()
        if time.monotonic() > until or cell.key() in {row["key"] for row in document["rows"]}:
            continue
        row = run(cell, str(options.data))
        others = [old for old in document["rows"] if any(old[name] != own for name, own in asdict(cell).items())]
        keep(RESULTS, {**document, "rows": [*others, row]}, page)
        print(f"{cell}: {per_value(row):.4f} nats a value, KL {row['kl_total']:.2f}, {row['seconds']} s", flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
