"""Do neighbours help? Crops by themselves and smoothed over neighbours, strength and kind chosen on validation labels.

    python benchmarks/smoothing.py [--data ../shared/data] [--only arkansas]

`tgem` and `rf` on Arkansas at 10 % labels (pixels scattered at about a kilometre, so neighbours are within 1.5 km) and
on the demo region of 600 parcels at 50 % (within 300 m), three seeds. A fifth of the blocks learnt from judges every
candidate of `predict --smooth-neighbours auto`; the choice is then scored on held-out blocks of the source ("in") and
on half of the other zone or year ("cross"), beside a mild strength that nothing was chosen by (equal crops, 0.4).
Neighbours may be any parcels, labelled or not. Writes `results/smoothing.json` and the table of docs/neighbours.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "smoothing.json"
PAGE = HERE.parent / "docs" / "neighbours.md"
MARKS = ("<!-- results:begin -->", "<!-- results:end -->")
REACH_M = {"arkansas": 1500.0, "demo": 300.0}
BLOCK_KM = {"arkansas": 5.0, "demo": 1.0}
MODELS: dict[str, dict[str, Any]] = {"tgem": {}, "rf": {}}
SEEDS = (0, 1, 2)
LABELS = {"arkansas": "10%", "demo": "50%"}
PARCELS = 600


def run(data: str, root: str, seed: int, name: str) -> list[dict[str, Any]]:
    """Fit one model and score it by itself and smoothed."""
    from accuracy import problem
    from problems import blocks

    from cropgen.api.smoothing import Neighbourhood, choose
    from cropgen.prediction.infer import infer
    from cropgen.prediction.neighbours import Field, potts, smooth
    from cropgen.prediction.smoothing import located
    from cropgen.series.batches import make_batch
    from cropgen.series.splits import label_subset
    from cropgen.training.data import assemble
    from cropgen.training.fit import fit_model

    task = problem(data, root, seed) if data != "demo" else _demo(seed)
    series = task.series
    kept, judges = blocks(series, task.train, 0.2, seed + 1, BLOCK_KM[data])
    usable = kept[(series.label[kept] >= 0) & (series.clear_dates[kept] > 0)]
    labelled = usable[label_subset(series.label[usable], LABELS[data], seed)]
    judges = judges[label_subset(series.label[judges], LABELS[data], seed)]
    spec, content = assemble(task.legend, series.take(labelled), series.take(np.setdiff1d(usable, labelled)))
    model = fit_model(name, MODELS[name], spec, content, seed=seed).model
    batch = make_batch(series, spec.calendar, task.legend.encode(spec.legend.codes))
    said = np.log(np.maximum(infer(model, batch).probability, 1e-12))
    place, label = located(series.lon, series.lat, series.year), batch.y.numpy()
    only = {part: np.where(np.isin(np.arange(len(series)), rows), label, -1)
            for part, rows in (("judge", judges), ("teach", labelled))}  # fmt: skip
    field, gain = choose(Neighbourhood(place, said, only["judge"], only["teach"]), REACH_M[data])
    found = smooth(place, said, field)
    head = {"data": data, "seed": seed, "model": name, "chosen": field.name, "validation_gain": round(gain, 5),
            "neighbours": round(float(found.neighbours.mean()), 2)}  # fmt: skip
    mild = Field("potts 0.4", 0.4 * potts(spec.classes), REACH_M[data])
    answers = {"alone": said, "smoothed": found.log_probability, "mild": smooth(place, said, mild).log_probability}
    return [
        head
        | {"split": split}
        | {k: v for what, p in answers.items() for k, v in _scores(what, p, label, rows).items()}
        for split, rows in task.tests.items()
    ]


def _demo(seed: int) -> Any:
    """The demo region, made once: the first year in, one half of the second across."""
    from accuracy import Problem
    from demo_difficulty import series_of
    from problems import LEAST, blocks, common

    from cropgen.series.store import SeriesStore

    folder = HERE / "work" / f"demo-{PARCELS}"
    folder.mkdir(parents=True, exist_ok=True)
    series, _, _ = series_of(PARCELS, folder)
    legend, years = SeriesStore.open(folder / "series.zarr").legend, np.unique(series.year)
    kept, held = blocks(series, common(series, legend, LEAST, series.year == years[0]), 0.3, seed, BLOCK_KM["demo"])
    free, scored = blocks(series, np.flatnonzero(series.year == years[1]), 0.5, seed, BLOCK_KM["demo"])
    return Problem(series, legend, kept, free, {"in": held, "cross": scored})


def _scores(what: str, said: np.ndarray, label: np.ndarray, rows: np.ndarray) -> dict[str, float]:
    from cropgen.metrics.calibration import negative_log_likelihood
    from cropgen.metrics.classification import confusion_matrix, macro_f1, overall_accuracy

    known = rows[label[rows] >= 0]
    counts = confusion_matrix(label[known], said[known].argmax(1), said.shape[1])
    return {
        f"{what}_macro_f1": round(float(macro_f1(counts)), 5),
        f"{what}_accuracy": round(float(overall_accuracy(counts)), 5),
        f"{what}_nll": round(negative_log_likelihood(np.maximum(said[known], -30.0), label[known]), 5),
    }


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: means over seeds, by itself, as chosen, and with a mild strength."""
    lines = ["| data | model | split | smoothed | F1 alone | as chosen | mild | NLL alone | as chosen | mild |",
             "| --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    groups: dict[tuple[str, str, str], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["data"], row["model"], row["split"]), []).append(row)
    for names, mine in groups.items():
        used = f"{sum(row['chosen'] != 'none' for row in mine)} of {len(mine)}"
        means = [np.mean([row[f"{what}_{score}"] for row in mine]) for score in ("macro_f1", "nll")
                 for what in ("alone", "smoothed", "mild")]  # fmt: skip
        told = [f"{100 * value:.1f}" for value in means[:3]] + [f"{value:.2f}" for value in means[3:]]
        lines.append("| " + " | ".join([*names, used, *told]) + " |")
    return "\n".join(lines)


def write(rows: list[dict[str, Any]]) -> None:
    """Keep the rows and write the table of the documentation anew."""
    from cropgen.core.files import write_text

    text = json.dumps({"command": "python benchmarks/smoothing.py", "rows": rows}, separators=(",", ":"))
    write_text(RESULTS, text.replace('},{"data"', '},\n{"data"') + "\n")
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(MARKS[0])
    write_text(PAGE, f"{before}{MARKS[0]}\n{table(rows)}\n{MARKS[1]}{rest.partition(MARKS[1])[2]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder of real data")
    parser.add_argument("--only", nargs="*", choices=sorted(REACH_M), default=sorted(REACH_M), help="data sets")
    options = parser.parse_args()
    rows = json.loads(RESULTS.read_text())["rows"] if RESULTS.exists() else []
    for data in options.only:
        rows = [row for row in rows if row["data"] != data]
        for seed in SEEDS:
            for name in MODELS:
                rows += run(data, str(options.data), seed, name)
                print(*(row for row in rows[-2:]), sep="\n", flush=True)
        write(rows)


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
