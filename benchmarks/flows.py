"""What every normalizing flow gains over the tied Gaussian it begins at, and what it costs.

    python benchmarks/flows.py [--data ../shared/data] [--minutes 60] [--only arkansas] [--models maf] [--labels 0.1]
    python benchmarks/flows.py --short         # 120 steps on 1,024 augmented copies, scored on 1,000 rows of each split
    python benchmarks/flows.py --confirm       # keep rows of older code that one training of each flow finds unchanged
    python benchmarks/flows.py --share         # give the scoreboard the full trainings it lacks
    python benchmarks/flows.py --libraries     # times beside zuko's and normflows' flows of the same architecture

Every cell (data, label share, seed, flow) trains once, on one thread, on the rows and labels of `accuracy.py`, and is
scored on the same held-out rows: log-likelihood per observed value beside the tied Gaussian's, accuracy of what the
model answers and of each rule of decision, seconds of processor time to train and to draw 200 seasons. Finished cells
are kept in `results/flows.json` with a fingerprint of the code that decides them, so the script goes on where it
stopped; `results/flows.md` is made from it by `flows_report.py`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from accuracy import SEEDS as SCOREBOARD_SEEDS

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "flows.json"
DATA = ("arkansas", "fergana", "modis")
SHARES, SEEDS, DRAWN = (0.1, 1.0, 0.01), (0, 1, 2), 200
FEW = 0.01
FEW_SEEDS = SCOREBOARD_SEEDS[FEW]
"""With so few labels three seeds give false certainty: the recommended flow and the start are trained for ten."""
RECOMMENDED = "realnvp"
SHORT: dict[str, Any] = {"steps": 120, "copies": 1024}
SHORT_ROWS = 1000
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "tgem": ("tgem", {}),
    **{name: (name, {}) for name in ("realnvp", "nice", "maf", "iaf", "naf", "flowpp", "nsf", "planar", "radial",
                                     "sylvester", "resflow", "glow", "cnf", "flowgmm", "semiflow")},
    "naf ddsf": ("naf", {"transformer": "ddsf"}),
    "nsf autoregressive": ("nsf", {"conditioner": "autoregressive"}),
    "maf causal-conv": ("maf", {"conditioner": "causal-conv"}),
    "maf recurrent": ("maf", {"conditioner": "recurrent"}),
    "nsf linear": ("nsf", {"spline": "linear"}),
    "nsf quadratic": ("nsf", {"spline": "quadratic"}),
    "nsf cubic": ("nsf", {"spline": "cubic"}),
    "glow both": ("glow", {"class_in": "both"}),
    "maf textbook": ("maf", {"start": "none", "class_in": "both"}),
}  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One training, of the default length or a short one."""

    data: str
    labels: float
    seed: int
    model: str
    short: bool = False

    @property
    def options(self) -> dict[str, Any]:
        name, options = MODELS[self.model]
        return {**SHORT, **options} if self.short and name != "tgem" else options

    def rows(self, rows: np.ndarray) -> np.ndarray:
        """The test rows that are scored."""
        if not self.short or len(rows) <= SHORT_ROWS:
            return rows
        return np.sort(np.random.default_rng(0).choice(rows, SHORT_ROWS, replace=False))

    def key(self) -> str:
        """Fingerprint of what decides the result."""
        from kept import training_key

        return training_key(MODELS[self.model][0], self.options, asdict(self))


def run(cell: Cell, root: str) -> list[dict[str, Any]]:
    """Train one cell and score it on its splits."""
    import torch
    from accuracy import problem
    from scores import score

    from cropgen.evaluation.memory import PeakMemory
    from cropgen.models.base import GenerativeModel
    from cropgen.series.splits import label_subset
    from cropgen.training.data import assemble
    from cropgen.training.fit import fit_model

    torch.set_num_threads(1)
    task, name = problem(cell.data, root, cell.seed), MODELS[cell.model][0]
    series = task.series
    learnable = task.train[(series.label[task.train] >= 0) & (series.clear_dates[task.train] > 0)]
    labelled = learnable[label_subset(series.label[learnable], f"{100 * cell.labels:g}%", cell.seed)]
    rest = np.setdiff1d(learnable, labelled)
    spec, data = assemble(task.legend, series.take(labelled), series.take(rest) if len(rest) else None)
    classes = task.legend.encode(spec.legend.codes)
    began = time.process_time()
    with PeakMemory() as peak:
        model = fit_model(name, cell.options, spec, data, seed=cell.seed).model
    seconds = time.process_time() - began
    assert isinstance(model, GenerativeModel)
    began = time.process_time()
    with torch.inference_mode():
        model.sample(torch.arange(DRAWN) % spec.classes, torch.Generator().manual_seed(0))
    shared = {**asdict(cell), "n_labelled": len(labelled), "seconds": round(seconds, 2),
              "sampling_seconds": round(time.process_time() - began, 3), "peak_mb": round(peak.megabytes or 0),
              "key": cell.key()}  # fmt: skip
    return [
        {"split": split, **shared, **score(model, series.take(cell.rows(rows)), classes),
         **_densities(model, series.take(cell.rows(rows)), classes)}
        for split, rows in task.tests.items()
    ]  # fmt: skip


def _densities(model: Any, series: Any, classes: np.ndarray) -> dict[str, Any]:
    """Nats per observed value of the model and of the tied Gaussian inside it, and macro-F1 by each rule."""
    import torch

    from cropgen.metrics.classification import confusion_matrix, macro_f1
    from cropgen.models.layers.bank import see
    from cropgen.models.layers.flows.defence import DefendedModel
    from cropgen.models.layers.residual import ResidualModel, WhitenedBatch
    from cropgen.series.batches import make_batch

    known = series.take(np.isin(series.label, classes)).select_bands(model.spec.bands)
    batch = make_batch(known, model.spec.calendar, classes)
    tied = model.tied if hasattr(model, "tied") else model.gaussian
    joint, alone, begun, values = [], [], [], 0
    answers: dict[str, list[Any]] = {}
    with torch.inference_mode():
        for rows in torch.arange(len(known)).split(512):
            part = batch.take(rows)
            x, mask = tied.grid(part)
            begun.append(tied.log_joint(x, mask))
            if isinstance(model, ResidualModel):
                part = WhitenedBatch(**vars(part), seasons=see(tied, part, model.start_days))
            joint.append(model.log_joint(part))
            alone.append(_of_flow_alone(model, part) if isinstance(model, DefendedModel) else joint[-1])
            values += int(mask.sum()) * len(model.spec.bands)
            told_by = model.posteriors(part) if isinstance(model, ResidualModel) else {}
            for rule, told in told_by.items():
                answers.setdefault(rule, []).append(told.argmax(1))

    def f1(answer: Any) -> float:
        return round(float(macro_f1(confusion_matrix(batch.y.numpy(), answer.numpy(), len(classes)))), 5)

    return {
        "nats_per_value": round(float(torch.cat(joint).logsumexp(1).sum()) / values, 4),
        "nats_per_value_alone": round(float(torch.cat(alone).logsumexp(1).sum()) / values, 4),
        "nats_per_value_start": round(float(torch.cat(begun).logsumexp(1).sum()) / values, 4),
        "bayes_macro_f1": f1(torch.cat(joint).argmax(1)),
        "rules": {rule: f1(torch.cat(parts)) for rule, parts in answers.items()},
    }


def _of_flow_alone(model: Any, part: Any) -> Any:
    """(B, K) log p(x, y) without the share of the start."""
    options = model.options
    model.options = options.model_copy(update={"defence": 0.0})
    joint = model.log_joint(part)
    model.options = options
    return joint


def cells(only: list[str] | None, models: list[str] | None, labels: list[float] | None, *, short: bool) -> list[Cell]:
    """Every cell, one seed of everything first."""
    return [
        Cell(data, share, seed, model, short)
        for seed in FEW_SEEDS
        for share in SHARES
        for data in DATA
        for model in MODELS
        if (seed in SEEDS or (not short and share == FEW and model in ("tgem", RECOMMENDED)))
        and (not only or data in only)
        and (not models or model in models)
        and (not labels or share in labels)
    ]


def confirm(root: str) -> list[dict[str, Any]]:
    """All rows; those of older code under today's key where the cheapest training of their flow comes out the same."""
    rows = sorted(stored()["rows"], key=lambda row: row["seconds"])
    stale: dict[str, list[tuple[Cell, list[dict[str, Any]]]]] = {}
    for cell in dict.fromkeys(Cell(*(row[name] for name in _FIELDS)) for row in rows if row["model"] in MODELS):
        found = [row for row in rows if asdict(cell).items() <= row.items()]
        if found[0]["key"] != cell.key():
            stale.setdefault(cell.model, []).append((cell, found))
    for model, members in stale.items():
        cell, old = members[0]
        new = {row["split"]: row for row in run(cell, root)}
        same = all(row[score] == new[row["split"]][score] for row in old for score in _CONFIRMED)
        print(f"{model}: {len(members)} cells {'kept' if same else 'to be run again'}", flush=True)
        for other, found in members if same else []:
            for row in found:
                row["key"] = other.key()
    return rows


_CONFIRMED = ("macro_f1", "accuracy", "nll", "ece", "nats_per_value", "bayes_macro_f1")


def share() -> int:
    """Give the scoreboard the full trainings that it plans and lacks; the number given."""
    import accuracy

    planned = {(c.data, c.labels, c.seed, c.model): c for c in accuracy.cells(None, None)
               if not c.target_unlabelled and not c.dates}  # fmt: skip
    kept = [row for found in accuracy.finished().values() for row in found]
    there = {row["key"] for row in kept}
    given: list[dict[str, Any]] = []
    for row in stored()["rows"]:
        cell = planned.get((row["data"], row["labels"], row["seed"], row["model"]))
        known = cell is not None and not row["short"] and row["key"] == Cell(*(row[n] for n in _FIELDS)).key()
        if cell is None or not known or cell.key() in there:
            continue
        told = {name: value for name, value in row.items() if name not in _OWN}
        given.append({**told, **asdict(cell), "family": accuracy.CONTENDERS[cell.model].family, "key": cell.key()})
        kept = [old for old in kept if not asdict(cell).items() <= old.items()]
    if given:
        accuracy.write(kept + given)
    return len(given)


_FIELDS = tuple(Cell.__dataclass_fields__)
_NATS = ("nats_per_value", "nats_per_value_alone", "nats_per_value_start")
_OWN = (*_NATS, "short", "sampling_seconds", "bayes_macro_f1", "rules")


def stored() -> dict[str, Any]:
    """The document of finished cells and of the times beside other libraries."""
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": [], "libraries": []}


def write(document: dict[str, Any]) -> None:
    """Keep the document and the tables made from it."""
    from flows_report import page
    from kept import keep

    keep(RESULTS, document, page)


ENTRIES, ROWS, LAYERS, HIDDEN = 60, 256, 3, 64


def libraries(rounds: int, again: list[str], done: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Times of the same architecture here and in zuko and normflows, in turn in one process: all rows after each.

    Arguments:
        rounds: runs of each call.
        again: the only architectures to time, although they have been; none: all that have not been.
        done: rows so far.
    """
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    found = [row for row in done if row["architecture"] not in again]
    for architecture, library, theirs, ours in _pairs():
        if (again and architecture not in again) or any(row["architecture"] == architecture for row in found):
            continue
        calls: dict[str, Callable[[], object]] = {
            "train": theirs[0], "train_ours": ours[0], "draw": theirs[1], "draw_ours": ours[1],
        }  # fmt: skip
        spent: dict[str, list[float]] = {name: [] for name in calls}
        for turn in range(rounds + 1):
            for name, call in calls.items():
                began = time.process_time()
                call()
                if turn:
                    spent[name].append(1000 * (time.process_time() - began))
        found.append({"architecture": architecture, "library": library,
                      **{name: round(median(times), 2) for name, times in spent.items()}})  # fmt: skip
        print(found[-1], flush=True)
        yield found


Timed = tuple[Callable[[], object], Callable[[], object]]


def _pairs() -> list[tuple[str, str, Timed, Timed]]:
    """(architecture, library, its step and draw, our step and draw)."""
    import normflows
    import torch
    import zuko

    x = torch.randn(ROWS, ENTRIES)
    pair = (HIDDEN, HIDDEN)

    def of_zuko(flow: Any) -> Timed:
        return lambda: flow().log_prob(x).mean().backward(), lambda: _quietly(lambda: flow().sample((ROWS,)))

    def of_normflows(layers: list[Any]) -> Timed:
        flow = normflows.NormalizingFlow(normflows.distributions.DiagGaussian(ENTRIES, trainable=False), layers)
        return lambda: flow.log_prob(x).mean().backward(), lambda: _quietly(lambda: flow.sample(ROWS))

    nf = normflows.flows
    return [
        ("maf", "zuko", of_zuko(zuko.flows.MAF(ENTRIES, transforms=LAYERS, hidden_features=pair)),
         _ours(x, "maf", {"layers": LAYERS})),
        ("cnf", "zuko", of_zuko(zuko.flows.CNF(ENTRIES, hidden_features=(HIDDEN,), activation=torch.nn.Tanh)),
         _ours(x, "cnf", {})),
        ("realnvp", "normflows", of_normflows([layer for i in range(LAYERS) for layer in (
            nf.AffineCouplingBlock(normflows.nets.MLP([ENTRIES // 2, *pair, ENTRIES], init_zeros=True)),
            nf.Permute(ENTRIES, mode="swap"))]), _ours(x, "semiflow", {"layers": LAYERS})),
        ("nsf, autoregressive", "zuko", of_zuko(zuko.flows.NSF(ENTRIES, transforms=LAYERS, hidden_features=pair)),
         _ours(x, "nsf", {"layers": LAYERS, "conditioner": "autoregressive"})),
        ("nsf, coupling", "normflows",
         of_normflows([nf.CoupledRationalQuadraticSpline(ENTRIES, 2, HIDDEN, reverse_mask=i % 2 == 1)
                       for i in range(LAYERS)]), _ours(x, "nsf", {"layers": LAYERS})),
        ("naf, monotonic network", "zuko",
         of_zuko(zuko.flows.NAF(ENTRIES, transforms=1, signal=8, network={"hidden_features": pair},
                                hidden_features=pair)), _ours(x, "naf", {"transformer": "mnn"})),
    ]  # fmt: skip


def _ours(x: Any, name: str, options: dict[str, Any]) -> Timed:
    """Density with gradient, and draws, of the layers of one of our rows, told of complete seasons."""
    import torch

    from cropgen.models.base import InputSpec
    from cropgen.models.checkpoint import build_model
    from cropgen.models.flows.flow import FlowModel
    from cropgen.models.layers.flows.layer import Seen
    from cropgen.series.calendar import Calendar
    from cropgen.series.legend import Legend

    bands = 5
    spec = InputSpec(tuple(f"B{i:02d}" for i in range(1, 1 + bands)), Calendar("dekad", 0, ENTRIES // bands),
                     Legend.from_codes("one", ["a"]))  # fmt: skip
    model = build_model(name, {"hidden": HIDDEN, "start": "none", **options}, spec)
    assert isinstance(model, FlowModel)
    flow = model.flow
    seen = Seen.of_dates(torch.ones(ROWS, spec.calendar.count, dtype=torch.bool), bands, torch.float32)

    def step() -> None:
        v, log_det = flow(x, seen)
        (log_det - 0.5 * v.square().sum(-1)).mean().backward()

    return step, lambda: _quietly(lambda: flow.inverse(torch.randn_like(x), seen))


def _quietly(call: Callable[[], object]) -> object:
    import torch

    with torch.no_grad():
        return call()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data", help="folder of real data")
    parser.add_argument("--minutes", type=float, default=480.0, help="begin no cell after this time")
    parser.add_argument("--only", nargs="*", choices=DATA, help="data sets")
    parser.add_argument("--models", nargs="*", choices=sorted(MODELS), help="flows")
    parser.add_argument("--labels", nargs="*", type=float, choices=SHARES, help="label shares")
    parser.add_argument("--seeds", nargs="*", type=int, choices=FEW_SEEDS, help="seeds")
    parser.add_argument("--short", action="store_true", help="short trainings, kept beside the full ones")
    parser.add_argument("--confirm", action="store_true", help="keep rows of older code that still come out the same")
    parser.add_argument("--share", action="store_true", help="give the scoreboard the full trainings it lacks")
    parser.add_argument(
        "--libraries",
        nargs="*",
        metavar="ARCHITECTURE",
        help="time other libraries' flows beside ours instead: what is missing, or these again",
    )
    parser.add_argument("--rounds", type=int, default=15, help="runs of each timed call")
    options = parser.parse_args()
    if options.libraries is not None:
        for rows in libraries(options.rounds, options.libraries, stored()["libraries"]):
            write({**stored(), "libraries": rows})
        return
    if options.confirm:
        write({**stored(), "rows": confirm(str(options.data))})
        return
    if options.share:
        print(f"{share()} rows given to the scoreboard")
        return
    wanted = [c for c in cells(options.only, options.models, options.labels, short=options.short)
              if options.seeds is None or c.seed in options.seeds]  # fmt: skip
    importlib.import_module("torch._dynamo")  # which the first optimiser of a process loads, for some seconds
    done = {row["key"] for row in stored()["rows"]}
    until = time.monotonic() + 60 * options.minutes
    for cell in wanted:
        if cell.key() in done or time.monotonic() > until:
            continue
        rows = run(cell, str(options.data))
        document = stored()
        kept = [row for row in document["rows"] if not asdict(cell).items() <= row.items()]
        write({**document, "rows": kept + rows})
        told = " ".join(
            f"{r['split']} {100 * r['macro_f1']:.1f} ({100 * r['bayes_macro_f1']:.1f}) "
            f"{r['nats_per_value'] - r['nats_per_value_start']:+.3f}" for r in rows)  # fmt: skip
        print(f"{cell.data} {cell.labels:g} seed {cell.seed} {cell.model}: {told} in {rows[0]['seconds']} s, draw "
              f"{rows[0]['sampling_seconds']} s", flush=True)  # fmt: skip


if __name__ == "__main__":
    sys.path.insert(0, str(HERE))
    main()
