"""What the report says: tables, matrices and sentences made from evaluations, as plain values for the template."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cropgen.evaluation.command import command_line
from cropgen.evaluation.document import Contrast, Detail, Evaluation, Row
from cropgen.evaluation.plots import ACCENT, WARM, Curve, Mark, reliability_panels, score_chart
from cropgen.evaluation.summary import summarise
from cropgen.metrics.calibration import Reliability
from cropgen.metrics.classification import class_scores
from cropgen.series.legend import CropClass, Legend

THIN = "\u202f"
DASH = "–"


def percent(value: float | None, digits: int = 1) -> str:
    """A share as a percentage, without the sign; a dash for nothing."""
    return DASH if value is None or not np.isfinite(value) else f"{100 * value:.{digits}f}"


def signed(value: float) -> str:
    """A difference of shares in points, with a true minus sign."""
    return f"{100 * value:+.1f}".replace("-", "\u2212")


def count(value: float) -> str:
    """A whole number with thin spaces."""
    return f"{value:,.0f}".replace(",", THIN)


@dataclass(frozen=True)
class Setting:
    """A kind of cell of an evaluation: what the test parcels have in common with the training parcels."""

    name: str
    sentence: str
    colour: str
    holds: Callable[[Row], bool]


def settings_of(protocol: str) -> tuple[Setting, ...]:
    """The settings of a protocol, the easier first."""
    if protocol == "holdout":
        return (Setting("Held-out parcels", "of held-out blocks", ACCENT, lambda row: row.scope == "held-out"),)
    unit = protocol.removeprefix("cross-")
    return (
        Setting(f"Same {unit}", f"of the {unit} learnt from, in blocks held out", ACCENT,
                lambda row: row.scope == "held-out" and row.train == row.test),
        Setting(f"Other {unit}", f"of a {unit} never seen with labels", WARM,
                lambda row: row.scope == "held-out" and row.train != row.test),
    )  # fmt: skip


@dataclass(frozen=True)
class Line:
    """Scores of a model with a label share in one setting, averaged over cells and seeds."""

    macro_f1: Mark
    accuracy: Mark
    nll: float
    ece: float
    auroc: float | None
    cells: int


@dataclass(frozen=True)
class Entry:
    """A row of the table of models."""

    model: str
    family: str
    labels: str
    seeds: int
    lines: tuple[Line | None, ...]
    shift: Contrast | None
    seconds: float


@dataclass(frozen=True)
class Matrix:
    """Macro-F1 by training and test year of one model."""

    model: str
    labels: str
    names: tuple[str, ...]
    value: tuple[tuple[float | None, ...], ...]


@dataclass(frozen=True)
class ClassLine:
    """Scores of one crop in every setting, None where it was not tested."""

    crop: CropClass
    support: int
    precision: tuple[float | None, ...]
    recall: tuple[float | None, ...]
    f1: tuple[float | None, ...]


@dataclass(frozen=True)
class Confusion:
    """Counts summed over cells and seeds, and their shares of the row."""

    title: str
    crops: tuple[CropClass, ...]
    counts: tuple[tuple[int, ...], ...]
    shares: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Chapter:
    """One evaluation, ready to print."""

    protocol: str
    title: str
    intro: str
    settings: tuple[Setting, ...]
    entries: tuple[Entry, ...]
    headline: Entry
    chart: str
    matrices: tuple[Matrix, ...]
    confusions: tuple[Confusion, ...]
    classes: tuple[ClassLine, ...]
    reliability: str
    data: dict[str, Any]
    legend: Legend
    outside: float | None
    provenance: dict[str, str] = field(default_factory=dict)


def chapter(document: Evaluation, position: int, preferred: str | None) -> Chapter:
    """Make a chapter of an evaluation.

    Arguments:
        position: of the chapter on the page; keeps identifiers apart.
        preferred: the model whose details are shown; None or one that was not evaluated: the best on average.
    """
    document = document.uncalibrated()
    settings = settings_of(document.protocol)
    entries = _entries(document, settings)
    headline = next((e for e in entries if e.model == preferred), entries[0])
    legend = Legend.from_json(document.legend)
    cells = [(r, d) for r, d in zip(document.rows, document.details, strict=True)
             if (r.model, r.labels) == (headline.model, headline.labels)]  # fmt: skip
    pooled = [_pooled([d for r, d in cells if s.holds(r)], len(legend)) for s in settings]
    ranked = [r.auroc_out_of_legend for r, _ in cells if r.auroc_out_of_legend is not None and r.scope == "held-out"]
    return Chapter(
        protocol=document.protocol,
        title={"holdout": "Held-out parcels", "cross-year": "Across years"}.get(document.protocol, "Across regions"),
        intro=_intro(document),
        settings=settings,
        entries=entries,
        headline=headline,
        chart=_chart(entries, settings, f"scores{position}"),
        matrices=() if document.protocol == "holdout" else _matrices(document, entries),
        confusions=tuple(
            _confusion(s.name, counts, legend) for s, counts in zip(settings, pooled, strict=True) if counts.any()
        ),
        classes=_class_lines(pooled, legend),
        reliability=_reliability(document, entries, settings, position),
        data=document.data,
        legend=legend,
        outside=float(np.mean(ranked)) if ranked else None,
        provenance=_provenance(document),
    )


def _intro(document: Evaluation) -> str:
    recipe = document.recipe
    share = f"{100 * recipe.test_share:g}{THIN}%"
    blocks = (
        f"Square blocks of {recipe.block_km:g}{THIN}km that hold about {share} of the labelled parcels were set aside "
        f"before anything was learnt; no parcel of them, in any year, was used for training."
    )
    unit = document.protocol.removeprefix("cross-")
    if document.protocol == "holdout":
        return f"{blocks} The models then named the crop of every parcel inside them."
    return (
        f"{blocks} Each model learnt from one {unit} and named the crops of the blocks set aside in every {unit}: the "
        f"same parcels in every cell, so the cells of a matrix can be compared."
    )


def _entries(document: Evaluation, settings: tuple[Setting, ...]) -> tuple[Entry, ...]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in document.rows:
        groups.setdefault((row.model, row.labels), []).append(row)
    shifts = {(c.model, c.labels): c for c in document.contrasts if c.what == "shift"}
    entries = [
        Entry(
            model,
            rows[0].family,
            labels,
            len({r.seed for r in rows}),
            tuple(_line(rows, s) for s in settings),
            shifts.get((model, labels)),
            float(np.mean([r.seconds for r in rows])),
        )
        for (model, labels), rows in groups.items()
    ]
    return tuple(sorted(entries, key=_rank))


def _rank(entry: Entry) -> tuple[float, float]:
    known = [line.macro_f1.value for line in entry.lines if line is not None]
    return -float(np.mean(known)) if known else 1.0, entry.seconds


def _line(rows: list[Row], setting: Setting) -> Line | None:
    cells = summarise(r for r in rows if setting.holds(r))
    if not cells:
        return None
    scores = ("macro_f1", "macro_f1_low", "macro_f1_high", "accuracy", "accuracy_low", "accuracy_high", "nll", "ece")
    mean = {name: float(np.mean([cell[name] for cell in cells])) for name in scores}
    marks = [Mark(mean[m], mean[f"{m}_low"], mean[f"{m}_high"]) for m in ("macro_f1", "accuracy")]
    ranked = [c["auroc_out_of_legend"] for c in cells if c["auroc_out_of_legend"] is not None]
    outside = float(np.mean(ranked)) if ranked else None
    return Line(marks[0], marks[1], mean["nll"], mean["ece"], outside, len(cells))


def _chart(entries: tuple[Entry, ...], settings: tuple[Setting, ...], name: str) -> str:
    shares = {e.labels for e in entries}
    names = [e.model if len(shares) == 1 else f"{e.model}, {e.labels}" for e in entries]
    groups = []
    for position, setting in enumerate(settings):
        lines = [entry.lines[position] for entry in entries]
        groups.append((setting.name, setting.colour, [None if line is None else line.macro_f1 for line in lines]))
    return score_chart(names, groups, name)


def _matrices(document: Evaluation, entries: tuple[Entry, ...]) -> tuple[Matrix, ...]:
    names = tuple(sorted({name for row in document.rows for name in (row.train, row.test)}))
    cells = {
        (c["model"], c["labels"], c["train"], c["test"]): c["macro_f1"]
        for c in summarise(document.rows)
        if c["scope"] == "held-out"
    }
    return tuple(
        Matrix(
            e.model, e.labels, names, tuple(tuple(cells.get((e.model, e.labels, a, b)) for b in names) for a in names)
        )
        for e in entries
    )


def _pooled(details: Iterable[Detail], size: int) -> np.ndarray:
    """Confusion counts (size, size) in the positions of the document's legend, summed."""
    total = np.zeros((size, size), np.int64)
    for detail in details:
        total[np.ix_(detail.classes, detail.classes)] += np.array(detail.confusion)
    return total


def _confusion(title: str, counts: np.ndarray, legend: Legend) -> Confusion:
    used = np.flatnonzero(counts.sum(0) + counts.sum(1))
    counts = counts[np.ix_(used, used)]
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return Confusion(
        title,
        tuple(legend.classes[int(k)] for k in used),
        tuple(map(tuple, counts.tolist())),
        tuple(map(tuple, shares.tolist())),
    )


def _class_lines(pooled: list[np.ndarray], legend: Legend) -> tuple[ClassLine, ...]:
    scores = [class_scores(counts) for counts in pooled]
    lines = []
    for k, crop in enumerate(legend.classes):
        support = [int(s.support[k]) for s in scores]
        if any(support):
            each = [
                tuple(float(getattr(s, name)[k]) if n else None for s, n in zip(scores, support, strict=True))
                for name in ("precision", "recall", "f1")
            ]
            lines.append(ClassLine(crop, max(support), *each))
    return tuple(sorted(lines, key=lambda line: -line.support))


def _reliability(document: Evaluation, entries: tuple[Entry, ...], settings: tuple[Setting, ...], position: int) -> str:
    panels = []
    for entry in entries[:8]:
        curves = []
        for setting in settings:
            found = [d.reliability for r, d in zip(document.rows, document.details, strict=True)
                     if (r.model, r.labels) == (entry.model, entry.labels) and setting.holds(r)]  # fmt: skip
            if found:
                merged = merge_reliability(found)
                curves.append(Curve(setting.name, setting.colour, merged.confidence, merged.accuracy, merged.count))
        panels.append((entry.model if entry.labels == "100%" else f"{entry.model}, {entry.labels}", curves))
    return reliability_panels(panels, f"reliability{position}")


def merge_reliability(tables: list[dict[str, list[float]]]) -> Reliability:
    """Sum reliability tables with the same bins."""
    counts = np.array([t["count"] for t in tables])
    total = counts.sum(0)
    filled = np.maximum(total, 1)
    confidence, accuracy = ((np.array([t[name] for t in tables]) * counts).sum(0) / filled
                            for name in ("confidence", "accuracy"))  # fmt: skip
    return Reliability(np.array(tables[0]["edge"]), total, confidence, accuracy)


def _provenance(document: Evaluation) -> dict[str, str]:
    environment = document.provenance["environment"]
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    return {
        "command": command_line(document.recipe),
        "data fingerprint": document.provenance["data"],
        "recipe fingerprint": document.provenance["recipe"],
        "code fingerprint": environment["code"],
        "software": f"cropgen {environment['cropgen']}, Python {environment['python']}, {packages}",
        "system": environment["system"],
    }
