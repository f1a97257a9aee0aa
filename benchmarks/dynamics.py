"""What can one causal dynamical model do: early in the season, on sparse series, in gaps, and running free?

    python benchmarks/dynamics.py [--data ../shared/data] [--minutes 60] [--only arkansas]
    python benchmarks/dynamics.py --tables     # only write the tables from the rows

Every cell (data, seed, contender) trains once at 10 % labels, on one thread, on the rows of `accuracy.py`, and is
measured on held-out blocks of its own region or years ("in") and on one half of the other region or years ("cross"):

    early      macro-F1 by dekads seen, of one filter beside exact prefix scores of the tied Gaussian and networks
               trained for each prefix, also distilled from a twin that sees the whole season (Arkansas only)
    sparse     70 % of the observations of every row dropped when it is classified
    gap        continuous ranked probability score of hidden real dates, a sixth of the slots, beside linear
               interpolation and a Gaussian process whose spread and hyper-parameters come from rows learnt from
    horizon    errors of dates foreseen from all dates before, and from the first third of the season alone
    kl         mean KL of each date under the true class

Finished cells are kept in `results/dynamics.json` with a fingerprint of the code that decides them, so the script goes
on where it stopped; `results/dynamics.md` is made from it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "dynamics.json"
DATA, SEEDS, LABELS = ("arkansas", "modis", "fergana"), (0, 1, 2), 0.1
NETWORKS = ("tempcnn", "tempcnn distilled")
PREFIXES = (12, 15, 18, 21)
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "srnn": ("srnn", {"inference": "filter"}),
    "srnn, smoothing": ("srnn", {}),
    "tgem": ("tgem", {}),
    "tempcnn": ("tempcnn", {}),
}
FILLERS = {"linear interpolation": "linear", "Gaussian process": "gp"}


@dataclass(frozen=True)
class Cell:
    """One training; `dates` is the number of dekads a network is trained for, 0 for the whole season."""

    data: str
    seed: int
    contender: str
    dates: int = 0

    def key(self) -> str:
        """Fingerprint of what decides the result."""
        from accuracy import Cell as Training
        from kept import training_key

        if self.dates:
            return Training(self.data, LABELS, self.seed, self.contender, False, self.dates).key()
        measures = (HERE / "dynamics_measures.py").read_bytes()
        model, options = MODELS[_trained(self.contender)]
        told = {**asdict(self), "measures": hashlib.sha256(measures).hexdigest()}
        return training_key(model, options, told)


def _trained(contender: str) -> str:
    """The model behind a contender: gaps are hidden from what interpolates as from the tied Gaussian."""
    return "tgem" if contender in FILLERS else contender


def cells(only: list[str] | None) -> list[Cell]:
    """Every cell, the ones that decide most first."""
    quick, found = ("tgem", *FILLERS), list[Cell]()
    for seed in SEEDS:
        found += [Cell("arkansas", seed, name) for name in (*quick, "srnn", "tempcnn")]
        found += [Cell("arkansas", seed, name, dates) for dates in PREFIXES for name in NETWORKS]
        found += [Cell(data, seed, name) for data in ("fergana", "modis") for name in (*quick, "tempcnn", "srnn")]
    found += [Cell(data, seed, "srnn, smoothing") for seed in SEEDS for data in DATA]
    return [cell for cell in found if not only or cell.data in only]


def run(cell: Cell, root: str) -> Iterator[dict[str, Any]]:
    """Train one cell and measure it."""
    import accuracy
    import dynamics_measures as measures

    if cell.dates:
        training = accuracy.Cell(cell.data, LABELS, cell.seed, cell.contender, False, cell.dates)
        for row in accuracy.finished().get(training.key()) or accuracy.run(training, root):
            scores = {name: row[name] for name in ("n_test", "macro_f1", "accuracy", "nll", "ece")}
            yield {"measure": "early", "split": row["split"], "dates": cell.dates, "answer": "model", **scores}
        return
    model, options = MODELS[_trained(cell.contender)]
    fitted = measures.fit(cell.data, root, cell.seed, LABELS, model, options)
    if cell.contender in FILLERS:
        yield from measures.filled(fitted, FILLERS[cell.contender])
        return
    yield from measures.sparse(fitted)
    if cell.data == "arkansas" and cell.contender in ("srnn", "tgem"):
        yield from measures.early(fitted)
    if cell.contender != "tempcnn":
        yield from measures.filled(fitted, "model")
        yield from measures.ageing(fitted)
        yield from measures.divergence(fitted)


def finished() -> dict[str, list[dict[str, Any]]]:
    """Rows of finished cells by key."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"] if RESULTS.exists() else []:
        found.setdefault(row["key"], []).append(row)
    return found


def write(rows: list[dict[str, Any]]) -> None:
    """Keep all rows and the tables made from them."""
    from kept import keep

    keep(RESULTS, {"planned": len(cells(None)), "rows": rows}, page, on=f"{os.cpu_count()} cores, one thread")


def _mean(rows: list[dict[str, Any]], value: str, **wanted: Any) -> str:
    """Mean and standard deviation over seeds, in per cent points, and how many where some are to come; else a dash."""
    found = [100 * row[value] for row in rows if wanted.items() <= row.items()]
    if len(found) < 2:
        return f"{found[0]:.1f} (1)" if found else "–"
    few = f" ({len(found)})" if len(found) < len(SEEDS) else ""
    return f"{np.mean(found):.1f} ± {np.std(found, ddof=1):.1f}{few}"


def page(document: dict[str, Any]) -> str:
    """Markdown of the rows."""
    rows = _paired(document["rows"])
    done = len({row["key"] for row in document["rows"]})
    lines = [f"Command: `{document['command']}`; {done} of {document['planned']} trainings. 10 % labels; mean "
             "± standard deviation of three seeds, in brackets how many where fewer are done; only seeds that all of a "
             "table have. `in`: held-out blocks; `cross`: the other zone or years."]  # fmt: skip
    parts = (_early(rows), _sparse(rows), _gaps(rows), _ageing(rows), _divergence(rows))
    return "\n".join([*lines, *(line for part in parts for line in ("", *part)), ""])


def _paired(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of seeds that every contender of a measure has on a data set: what stands in a table is comparable."""
    seeds: dict[tuple[str, str], dict[str, set[int]]] = {}
    for row in rows:
        mine = seeds.setdefault((row["measure"], row["data"]), {})
        mine.setdefault(row["contender"], set()).add(row["seed"])
    shared = {what: set.intersection(*each.values()) for what, each in seeds.items()}
    return [row for row in rows if row["seed"] in shared[row["measure"], row["data"]]]


def _early(rows: list[dict[str, Any]]) -> list[str]:
    """Macro-F1 by dekads seen."""
    lines = ["## Early in the season", "", "Macro-F1 on Arkansas by dekads seen of 36. Trained once on whole seasons: "
             "`srnn` (a filter), by its answers and by Bayes' rule on the scores of one pass over the season, and "
             "`tgem` (exact prefix scores). Trained for each prefix: the others.", ""]  # fmt: skip
    dates = (*PREFIXES, 36)
    lines += ["| model | split | " + " | ".join(map(str, dates)) + " |", "| --- | --- |" + " ---: |" * len(dates)]
    named = (("srnn", "model", "`srnn`"), ("srnn", "filter", "`srnn`, scores of one pass"), ("tgem", "model", "`tgem`"),
             ("tempcnn", "model", "`tempcnn`, each prefix"),
             ("tempcnn distilled", "model", "`tempcnn`, each prefix, distilled"))  # fmt: skip
    whole = [row | {"measure": "early", "dates": 36, "answer": "model"} for row in rows
             if row["measure"] == "sparse" and row["contender"] == "tempcnn" and not row["dropped"]]  # fmt: skip
    for split in ("in", "cross"):
        for name, answer, title in named:
            wanted = {"measure": "early", "data": "arkansas", "contender": name, "split": split, "answer": answer}
            cells = [_mean([*rows, *whole], "macro_f1", **wanted, dates=d) for d in dates]
            lines.append(f"| {title} | {split} | " + " | ".join(cells) + " |")
    return lines


def _sparse(rows: list[dict[str, Any]]) -> list[str]:
    """Macro-F1 of complete and of thinned series."""
    lines = ["## Sparse series", "", "Macro-F1 of complete series, and with 70 % of the observations of every row "
             "dropped when it is classified.", "", "| data | model | split | complete | 70 % dropped |",
             "| --- | --- | --- | ---: | ---: |"]  # fmt: skip
    for data in DATA:
        for split in ("in", "cross"):
            for name in MODELS:
                wanted = {"measure": "sparse", "data": data, "contender": name, "split": split}
                pair = [_mean(rows, "macro_f1", **wanted, dropped=dropped) for dropped in (0.0, 0.7)]
                if "–" not in pair:
                    lines.append(f"| {data} | `{name}` | {split} | " + " | ".join(pair) + " |")
    return lines


def _gaps(rows: list[dict[str, Any]]) -> list[str]:
    """Scores of hidden dates, in hundredths of reflectance."""
    lines = ["## Gaps filled", "", "Hidden real dates, a sixth of the slots: continuous ranked probability score "
             "(CRPS) and root mean square error, in hundredths of reflectance (of the index on Fergana): less is "
             "better.", "", "| data | filled by | CRPS in | CRPS cross | RMSE in | RMSE cross |",
             "| --- | --- | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for data in DATA:
        for name in ("srnn", "srnn, smoothing", "tgem", *FILLERS):
            wanted = {"measure": "gap", "data": data, "contender": name}
            told = [
                [100 * row[value] for row in rows if (wanted | {"split": split}).items() <= row.items()]
                for value in ("crps", "rmse") for split in ("in", "cross")
            ]  # fmt: skip
            if all(told):
                title = name if name in FILLERS else f"`{name}`"
                lines.append(f"| {data} | {title} | " + " | ".join(f"{np.mean(each):.3f}" for each in told) + " |")
    return lines


def _ageing(rows: list[dict[str, Any]]) -> list[str]:
    """Errors one step ahead and free running."""
    lines = ["## Running free", "", "Root mean square error, in hundredths of reflectance, of the dates after the "
             "first third of the season: each foreseen from all dates before it, and all from the first third.",
             "", "| data | model | split | one step | free running |", "| --- | --- | --- | ---: | ---: |"]  # fmt: skip
    for data in DATA:
        for split in ("in", "cross"):
            for name in ("srnn", "srnn, smoothing", "tgem"):
                mine = _of(rows, "horizon", data, split, name)
                if mine:
                    told = [np.mean([_level(row[part]) for row in mine]) for part in ("one_step", "free_running")]
                    lines.append(f"| {data} | `{name}` | {split} | {100 * told[0]:.3f} | {100 * told[1]:.3f} |")
    return lines


def _level(errors: list[float | None]) -> float:
    """Root of the mean square over the slots that were seen."""
    return float(np.sqrt(np.mean([error**2 for error in errors if error is not None])))


def _divergence(rows: list[dict[str, Any]]) -> list[str]:
    """KL of a season, and where in it."""
    lines = ["## What the latent states carry", "", "KL of q from the transition under the true class, in nats: of a "
             "season, and the largest mean of a date.", "",
             "| data | model | split | of a season | largest of a date | at slot |",
             "| --- | --- | --- | ---: | ---: | ---: |"]  # fmt: skip
    for data in DATA:
        for split in ("in", "cross"):
            for name in ("srnn", "srnn, smoothing"):
                mine = _of(rows, "kl", data, split, name)
                if mine:
                    by_date = np.mean([[value or 0.0 for value in row["by_date"]] for row in mine], 0)
                    season = np.mean([row["of_a_season"] for row in mine])
                    lines.append(f"| {data} | `{name}` | {split} | {season:.3f} | {by_date.max():.4f} "
                                 f"| {by_date.argmax() + 1} of {len(by_date)} |")  # fmt: skip
    return lines


def _of(rows: list[dict[str, Any]], measure: str, data: str, split: str, name: str) -> list[dict[str, Any]]:
    wanted = {"measure": measure, "data": data, "split": split, "contender": name}
    return [row for row in rows if wanted.items() <= row.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder of real data")
    parser.add_argument("--minutes", type=float, default=480.0, help="begin no cell after this time")
    parser.add_argument("--only", nargs="*", choices=DATA, help="data sets")
    parser.add_argument("--tables", action="store_true", help="only write the tables from the rows")
    options = parser.parse_args()
    kept = finished()
    if options.tables:
        write([row for rows in kept.values() for row in rows])
        return
    import torch

    torch.set_num_threads(1)
    keys = {cell: cell.key() for cell in cells(options.only)}
    todo = [cell for cell, key in keys.items() if key not in kept]
    print(f"{len(keys)} cells, {len(keys) - len(todo)} done", flush=True)
    until = time.monotonic() + 60 * options.minutes
    for number, cell in enumerate(todo, 1):
        if time.monotonic() > until:
            break
        began = time.process_time()
        head = {"data": cell.data, "seed": cell.seed, "contender": cell.contender, "trained_for": cell.dates}
        rows = [{**row, **head, "key": keys[cell]} for row in run(cell, str(options.data))]
        seconds = round(time.process_time() - began, 1)
        kept = {key: old for key, old in kept.items() if not head.items() <= old[0].items()}
        kept[keys[cell]] = [row | {"seconds": seconds} for row in rows]
        write([row for old in kept.values() for row in old])
        print(f"{number}/{len(todo)} {cell.data} seed {cell.seed} {cell.contender} {cell.dates or ''}: {seconds} s",
              flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
