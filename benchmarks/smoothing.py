"""Do neighbours help? Crops by themselves and smoothed over neighbours, strength and kind chosen on validation labels.

    python benchmarks/smoothing.py [--data ../shared/data] [--only arkansas]

`tgem` and `rf` at 10 % labels on Arkansas (pixels scattered at about a kilometre, so neighbours are within 1.5 km) and
on the demo region (parcels; within 300 m), three seeds. A fifth of the blocks learnt from judges every candidate of
`predict --smooth-neighbours auto`; the choice is then scored on held-out blocks of the source ("in") and on half of the
other zone or year ("cross"), beside a mild strength that nothing was chosen by (equal crops, 0.4). Neighbours may be
any parcels, labelled or not. Writes `results/smoothing.json`.
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
REACH_M = {"arkansas": 1500.0, "demo": 300.0}
BLOCK_KM = {"arkansas": 5.0, "demo": 1.0}
MODELS: dict[str, dict[str, Any]] = {"tgem": {}, "rf": {}}
SEEDS = (0, 1, 2)
LABELS = "10%"


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

    task = problem(data, root, seed)
    series = task.series
    kept, judges = blocks(series, task.train, 0.2, seed + 1, BLOCK_KM[data])
    usable = kept[(series.label[kept] >= 0) & (series.clear_dates[kept] > 0)]
    labelled = usable[label_subset(series.label[usable], LABELS, seed)]
    judges = judges[label_subset(series.label[judges], LABELS, seed)]
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


def main() -> None:
    from cropgen.core.files import write_text

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
        text = json.dumps({"command": "python benchmarks/smoothing.py", "rows": rows}, separators=(",", ":"))
        write_text(RESULTS, text.replace('},{"data"', '},\n{"data"') + "\n")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
