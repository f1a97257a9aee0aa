"""Which model is best with few and with many labels, in its region and in another region or year: the scoreboard.

    python benchmarks/accuracy.py [--data ../shared/data] [--jobs 2] [--minutes 60]
    python benchmarks/accuracy.py --only arkansas --models tgem --labels 0.1
    python benchmarks/accuracy.py --quick      # one seed at 10 % labels on Arkansas
    python benchmarks/accuracy.py --confirm    # keep rows of older code that one training of each model finds unchanged

Every cell (data, label share, seed, model, with or without unlabelled target rows) trains once, on one thread, and
is scored on held-out blocks of its own region or years ("in") and on one half of the other region or years
("cross"); the other half of the target, in other blocks, is what adaptation may look at, without labels: as such for
models that guard themselves against it, among the unlabelled rows for the others. All models see the same rows and
labels. Finished cells are kept in `results/accuracy.json` with a fingerprint of the code that decides them, so the
script goes on where it stopped; `results/accuracy.md` is made from it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from kept import keep, training_key

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "accuracy.json"
TASKS = ("arkansas", "fergana", "modis")
FURTHER = ("france", "bavaria", "demo")
SEEDS = {0.01: tuple(range(10)), 0.05: (0, 1, 2), 0.1: (0, 1, 2), 1.0: (0, 1, 2)}
BUDGETS, MANY, ONE = (0.1, 1.0, 0.01), (0.1, 1.0), (0.1,)
PREFIXES = (12, 15, 18, 21)
CONTROL, TARGET = "ssvae without density", " + target rows"
SHOWN = ("rf", "tempcnn", "tempcnn+fixmatch", "omniscale", "tgem", "realnvp", "ssvae", "srnn", "pool",
         f"tempcnn+fixmatch{TARGET}", f"pool{TARGET}")  # fmt: skip
"""What README.md shows."""
LEADING, LEADING_SEEDS = (*SHOWN, CONTROL), tuple(range(10))
"""What is run with more seeds at 10 % of the labels, and with which: three tell little of few parcels."""
NO_DENSITY = {"generative": 0.0, "marginal": 0.0, "hybrid": 0.0, "distillation": 0.0, "decide": "q"}
"""Control: network, schedule, augmentation and innovations of a density stay, every term of the density goes."""


@dataclass(frozen=True)
class Contender:
    """A model with its options, and the family its scores are compared in.

    Arguments:
        budgets: label shares at which it is run.
        target: label shares at which it is also run with unlabelled rows of the target.
        best: of its family; run on the further data and at 5 % too.
        early: run on prefixes of the season: "cut" at prediction only, "trained" for each, or "distilled": its network
            trained for each beside a twin that sees the whole season, all else cut at prediction.
    """

    model: str
    family: str
    options: dict[str, Any]
    budgets: tuple[float, ...] = BUDGETS
    target: tuple[float, ...] = ()
    best: bool = False
    early: str = ""


def _contenders() -> dict[str, Contender]:
    classical, discriminative = "classical-generative", "discriminative"
    plain = {name: Contender(name, discriminative, {}) for name in
             ("svm", "hgb", "ncc", "lstm", "gru", "starrnn", "inceptiontime", "omniscale", "msresnet", "transformer",
              "ltae", "tempcnn2")}  # fmt: skip
    zoo = (
        f"breizhcrops:{name}"
        for name in ("tempcnn", "lstm", "starrnn", "inceptiontime", "msresnet", "omniscalecnn", "transformer")
    )
    published = {name: Contender(name, discriminative, {}, ONE) for name in zoo}
    flows = {name: Contender(name, "flow", {}, ONE) for name in
             ("nice", "maf", "iaf", "naf", "flowpp", "nsf", "planar", "radial", "sylvester", "resflow", "glow", "cnf",
              "flowgmm", "semiflow")}  # fmt: skip
    vaes = {name: Contender(name, "vae", {}, ONE) for name in
            ("vae", "m1", "m2", "m1m2", "adgm", "vade", "cagem", "ssdgm", "lvae", "biva", "nvae", "vqvae", "vqvae2",
             "hqa", "selfsup-vae", "vae-rnn", "sdn-vae", "tampered-vae")}  # fmt: skip
    return {
        "rf": Contender("rf", discriminative, {}, best=True),
        "lda": Contender("lda", classical, {}),
        "qda": Contender("qda", classical, {}),
        "gmm": Contender("gmm", classical, {}),
        "hmm": Contender("hmm", classical, {}),
        "dti": Contender("dti", classical, {}),
        "tgem": Contender("tgem", classical, {}, target=BUDGETS, best=True, early="cut"),
        "tempcnn": Contender("tempcnn", discriminative, {}, best=True, early="trained"),
        "tempcnn distilled": Contender("tempcnn", discriminative, {}, early="distilled"),
        "tempcnn+fixmatch": Contender("tempcnn", discriminative, {"semi": "fixmatch"}, target=BUDGETS, best=True),
        "tempcnn+fixmatch strong": Contender("tempcnn", discriminative, {"semi": "fixmatch", "augment": "strong"}),
        "tempcnn 3000 steps": Contender("tempcnn", discriminative, {"steps": 3000}),
        **plain,
        **published,
        "realnvp": Contender("realnvp", "flow", {}, target=MANY, best=True),
        **flows,
        "maf textbook": Contender("maf", "flow", {"start": "none", "class_in": "both"}, ONE),
        "ssvae": Contender("ssvae", "vae", {}, target=MANY, best=True),
        CONTROL: Contender("ssvae", discriminative, NO_DENSITY),
        **vaes,
        "m2 textbook": Contender("m2", "vae", {"start": "none", "decide": "q"}, ONE),
        "srnn": Contender("srnn", "dvae", {}, target=MANY, best=True, early="cut"),
        **{
            name: Contender(name, "dvae", {}, ONE)
            for name in ("dkf", "dmm", "kvae", "storn", "vrnn", "rvae", "dsae", "rfn")
        },
        "dkf textbook": Contender("dkf", "dvae", {"start": "none"}, ONE),
        "srnn textbook": Contender("srnn", "dvae", {"start": "none"}, ONE),
        "pool, whole seasons": Contender("pool", "pool", {}, (), early="cut"),
        "pool distilled": Contender("pool", "pool", {}, early="distilled"),
        "pool": Contender("pool", "pool", {}, target=BUDGETS, best=True, early="trained"),
        "pool, ssvae": Contender("pool", "pool", {"generative": "ssvae"}, target=ONE),
        "pool, tgem": Contender("pool", "pool", {"generative": "tgem"}, target=BUDGETS, early="trained"),
    }


CONTENDERS = _contenders()


@dataclass(frozen=True)
class Cell:
    """One training; `dates` is the number of calendar slots seen, 0 for the whole season."""

    data: str
    labels: float
    seed: int
    model: str
    target_unlabelled: bool = False
    dates: int = 0

    def key(self) -> str:
        """Fingerprint of what decides the result: this cell, the options, and the code the model reaches."""
        return training_key(CONTENDERS[self.model].model, self.options, asdict(self))

    @property
    def options(self) -> dict[str, Any]:
        """Options of the model."""
        contender = CONTENDERS[self.model]
        if contender.early != "distilled" or not self.dates:
            return contender.options
        end, start = (day.last_day(np.array([2021]))[0] for day in (season_end(self.dates), season_end(0)))
        distil = {"distil": str(int(end - start))}
        return contender.options | ({"discriminative_options": distil} if contender.model == "pool" else distil)


@dataclass(frozen=True)
class Problem:
    """Rows of a data set: to learn from, of the target for adaptation, and to test on, by split."""

    series: Any
    legend: Any
    train: np.ndarray
    target: np.ndarray
    tests: dict[str, np.ndarray]


def problem(data: str, root: str, seed: int) -> Problem:
    """How a data set is split; blocks of 5 km (Arkansas, MODIS, France) or 2 km; one half of the target is tested."""
    from problems import BLOCK_KM, LEAST, blocks, common, read, source_and_target

    if data == "demo":
        return _demo(seed)
    real = read(data, root)
    series, block_km = real.series, BLOCK_KM[data]
    if data in FURTHER:
        kept, held = blocks(series, common(series, real.legend, LEAST, series.label >= -1), 0.3, seed, block_km)
        return Problem(series, real.legend, kept, np.zeros(0, np.int64), {"in": held})
    source, target = source_and_target(data, series)
    rows = common(series, real.legend, LEAST, source) if data == "fergana" else np.flatnonzero(source)
    kept, held = blocks(series, rows, 0.3, seed, block_km)
    free, scored = blocks(series, np.flatnonzero(target), 0.5, seed, block_km)
    return Problem(series, real.legend, kept, free, {"in": held, "cross": scored})


def _demo(seed: int) -> Problem:
    """The simulated region, made once: the first year in, the second across; crops of the first year only."""
    from demo_difficulty import series_of
    from problems import LEAST, blocks, common

    from cropgen.series.store import SeriesStore

    folder = HERE / "work" / "demo"
    folder.mkdir(parents=True, exist_ok=True)
    series, _, _ = series_of(2000, folder)
    legend = SeriesStore.open(folder / "series.zarr").legend
    years = np.unique(series.year)
    kept, held = blocks(series, common(series, legend, LEAST, series.year == years[0]), 0.3, seed, 1.0)
    free, scored = blocks(series, np.flatnonzero(series.year == years[1]), 0.5, seed, 1.0)
    return Problem(series, legend, kept, free, {"in": held, "cross": scored})


def run(cell: Cell, root: str) -> list[dict[str, Any]]:
    """Train one cell and score it on its splits."""
    return run_together((cell,), root)[cell]


def run_together(cells: Sequence[Cell], root: str) -> dict[Cell, list[dict[str, Any]]]:
    """Rows of cells that share a training: they differ at most in the part of the season that is seen in the test."""
    import torch
    from scores import score

    from cropgen.evaluation.memory import PeakMemory
    from cropgen.models.base import TrainingData
    from cropgen.series.batches import make_batch
    from cropgen.series.splits import label_subset
    from cropgen.training.data import assemble
    from cropgen.training.fit import fit_model

    torch.set_num_threads(1)
    cell = cells[0]
    contender, task = CONTENDERS[cell.model], problem(cell.data, root, cell.seed)
    seen = _seen(task, cell) if contender.early == "trained" else task.series
    learnable = task.train[(seen.label[task.train] >= 0) & (seen.clear_dates[task.train] > 0)]
    labelled = learnable[label_subset(seen.label[learnable], f"{100 * cell.labels:g}%", cell.seed)]
    rest = np.setdiff1d(learnable, labelled)
    spec, data = assemble(task.legend, seen.take(labelled), seen.take(rest) if len(rest) else None)
    classes = task.legend.encode(spec.legend.codes)
    if cell.target_unlabelled:
        free = make_batch(seen.take(task.target).select_bands(spec.bands), spec.calendar, classes).without_labels()
        data = TrainingData(data.labelled, data.unlabelled, target=free)
        if contender.family == "discriminative":
            data = TrainingData(data.labelled, data.free)
    began = time.process_time()
    with PeakMemory() as peak:
        fitted = fit_model(contender.model, cell.options, spec, data, seed=cell.seed)
    seconds = time.process_time() - began
    cost = {"n_labelled": len(labelled), "seconds": round(seconds, 2), "peak_mb": round(peak.megabytes or 0)}
    found: dict[Cell, list[dict[str, Any]]] = {}
    for each in cells:
        shared = {**asdict(each), "family": contender.family, **cost, "key": each.key()}
        tested = _seen(task, each)
        found[each] = [
            {"split": split, **shared, **score(fitted.model, tested.take(rows), classes)}
            for split, rows in task.tests.items()
        ]
    return found


def _seen(task: Problem, cell: Cell) -> Any:
    """The series up to the given number of dekads of the calendar year; all of it for 0."""
    return season_end(cell.dates).cut(task.series) if cell.dates else task.series


def season_end(dates: int) -> Any:
    """The last day of the given number of dekads of the calendar year; 1 January for 0."""
    from cropgen.series.season import SeasonEnd

    if not dates:
        return SeasonEnd(1, 1)
    month, third = divmod(dates - 1, 3)
    return SeasonEnd(month + 1, (10, 20, 31)[third] if third < 2 else 28, 0 if third < 2 else 3)


def cells(only: list[str] | None, models: list[str] | None, *, quick: bool = False) -> list[Cell]:
    """Every cell, the ones that decide most first."""
    found: list[Cell] = []
    everywhere = {name: contender for name, contender in CONTENDERS.items() if contender.early != "distilled"}
    for labels in BUDGETS:
        for strongest in (True, False):
            here = {name: contender for name, contender in everywhere.items() if contender.best == strongest}
            for data in TASKS:
                found += _grid(data, labels, [n for n, c in here.items() if labels in c.budgets])
            for data in TASKS:
                found += _grid(data, labels, [n for n, c in here.items() if labels in c.target], target=True)
    best = [name for name, contender in CONTENDERS.items() if contender.best]
    for data in FURTHER:
        for labels in (0.1, 1.0):
            found += _grid(data, labels, best)
    for data in TASKS:
        found += _grid(data, 0.05, best)
    early = [name for name, contender in CONTENDERS.items() if contender.early]
    found += [Cell("arkansas", 0.1, s, name, False, d) for d in PREFIXES for s in SEEDS[0.1] for name in early]
    further = [seed for seed in LEADING_SEEDS if seed not in SEEDS[0.1]]
    found += [
        Cell(data, 0.1, seed, name.removesuffix(TARGET), name.endswith(TARGET))
        for name in LEADING
        for data in TASKS
        for seed in further
    ]
    chosen = [c for c in found if (not only or c.data in only) and (not models or c.model in models)]
    return [c for c in chosen if not quick or (c.data, c.labels, c.seed, c.dates) == ("arkansas", 0.1, 0, 0)]


def _grid(data: str, labels: float, names: list[str], *, target: bool = False) -> list[Cell]:
    return [Cell(data, labels, seed, name, target) for seed in SEEDS[labels] for name in names]


def finished() -> dict[str, list[dict[str, Any]]]:
    """Rows of finished cells by key."""
    found: dict[str, list[dict[str, Any]]] = {}
    if RESULTS.exists():
        for row in json.loads(RESULTS.read_text())["rows"]:
            found.setdefault(row["key"], []).append(row)
    return found


def write(rows: list[dict[str, Any]]) -> None:
    """Keep all rows and the tables made from them."""
    import scoreboard

    document = {"planned": len(trainings(cells(None, None))), "rows": rows}
    keep(RESULTS, document, scoreboard.page, on=f"{os.cpu_count()} cores, one thread per training")


def trainings(todo: list[Cell]) -> list[list[Cell]]:
    """Cells by the training they share: a season cut at prediction alone is cut at every prefix after one training."""
    found: dict[Cell, list[Cell]] = {}
    for cell in todo:
        cut = CONTENDERS[cell.model].early == "cut"
        found.setdefault(replace(cell, dates=0) if cut else cell, []).append(cell)
    return list(found.values())


def results(todo: list[list[Cell]], root: str, jobs: int, minutes: float) -> Iterator[tuple[list[Cell], Any]]:
    """Rows of the cells of each training, or the error that ended it, as it ends; none is begun after `minutes`."""
    until = time.monotonic() + 60 * minutes
    waiting, running = list(reversed(todo)), dict[Future[dict[Cell, list[dict[str, Any]]]], list[Cell]]()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
        while waiting or running:
            while waiting and len(running) < jobs and time.monotonic() < until:
                together = waiting.pop()
                running[workers.submit(run_together, together, root)] = together
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.exception() or future.result()


def confirm(wanted: list[Cell], root: str) -> list[dict[str, Any]]:
    """All rows; those of older code come under today's key where the code has changed but its results have not.

    The cheapest stale training of every model (with and without target rows, whole seasons and beginnings apart) is
    run again. Where all its scores are as they were, to the digits kept, the other rows of that model are kept too.
    """
    rows = [row for found in finished().values() for row in found]
    today = {tuple(asdict(cell).values()): cell for cell in wanted}
    stale: dict[tuple[str, bool, bool], list[Cell]] = {}
    for row in sorted(rows, key=lambda row: row["seconds"]):
        cell = today.get(tuple(row[name] for name in Cell.__dataclass_fields__))
        if cell and row["key"] != cell.key() and row["split"] == "in":
            stale.setdefault((cell.model, cell.target_unlabelled, bool(cell.dates)), []).append(cell)
    for (model, *_), members in stale.items():
        old = [row for row in rows if asdict(members[0]).items() <= row.items()]
        new = run(members[0], root)
        same = all(a[s] == b[s] for a, b in zip(old, new, strict=True) for s in ("macro_f1", "accuracy", "nll", "ece"))
        print(f"{model}: {len(members)} cells {'kept' if same else 'to be run again'}", flush=True)
        for row in rows if same else []:
            cell = next((c for c in members if asdict(c).items() <= row.items()), None)
            row["key"] = cell.key() if cell else row["key"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder of real data")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--minutes", type=float, default=480.0, help="begin no cell after this time")
    parser.add_argument("--only", nargs="*", choices=(*TASKS, *FURTHER), help="data sets")
    parser.add_argument("--models", nargs="*", choices=sorted(CONTENDERS), help="models")
    parser.add_argument("--labels", nargs="*", type=float, choices=sorted(SEEDS), help="label shares")
    parser.add_argument("--confirm", action="store_true", help="keep rows of older code that still come out the same")
    parser.add_argument("--quick", action="store_true", help="one seed at 10 %% labels on Arkansas")
    options = parser.parse_args()
    wanted = [
        cell
        for cell in cells(options.only, options.models, quick=options.quick)
        if not options.labels or cell.labels in options.labels
    ]
    if options.confirm:
        write(confirm(wanted, str(options.data)))
        return
    done = finished()
    keys = {cell: cell.key() for cell in wanted}
    todo = [cell for cell, key in keys.items() if key not in done]
    print(f"{len(wanted)} cells, {len(wanted) - len(todo)} done", flush=True)
    kept = dict(done)
    failed: list[Cell] = []
    began = time.monotonic()
    shared = trainings(todo)
    for number, (together, found) in enumerate(results(shared, str(options.data), options.jobs, options.minutes), 1):
        if isinstance(found, BaseException):
            print(f"{number}/{len(shared)} failed: {together}: {found!r}", flush=True)
            failed += together
            continue
        for cell, rows in found.items():
            kept = {key: old for key, old in kept.items() if asdict(cell).items() - old[0].items()}
            kept[keys[cell]] = rows
            told = " ".join(f"{r['split']} {100 * r['macro_f1']:.1f}/{100 * r['accuracy']:.1f}" for r in rows)
            print(f"{number}/{len(shared)} {cell.data} {cell.labels:g} seed {cell.seed} {cell.model}"
                  f"{' +target' if cell.target_unlabelled else ''}{f' {cell.dates} dates' if cell.dates else ''}: "
                  f"{told} in {rows[0]['seconds']} s, {time.monotonic() - began:.0f} s so far", flush=True)  # fmt: skip
        write([row for old in kept.values() for row in old])
    if failed:
        sys.exit(f"{len(failed)} cells failed")


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
