"""What the report says of one evaluation: sentences, tables and figures as plain values for the template."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cropgen.evaluation import figures, tables
from cropgen.evaluation.command import command_line
from cropgen.evaluation.document import Detail, Evaluation
from cropgen.evaluation.figures import Case
from cropgen.evaluation.panels import Style, styles
from cropgen.evaluation.plots import score_chart
from cropgen.evaluation.tables import Entry, Table, entries_of, key_of, line_of
from cropgen.evaluation.words import (
    PUBLISHED,
    THIN,
    Setting,
    contrast_text,
    intro_of,
    model_name,
    percent,
    settings_of,
    signed,
    title_of,
    verdict,
)
from cropgen.metrics.classification import class_scores
from cropgen.series.legend import CropClass, Legend

_SHOWN_SCORES = 24


@dataclass(frozen=True)
class Matrix:
    """Macro-F1 by training and test year or region of one entry."""

    name: str
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
    """One evaluation, ready to print.

    Arguments:
        headline: the entry whose details are shown; None where no training was scored on whole seasons.
        curves, coverage, reliability, phenology, dynamics: figures, each a panel of its own.
        key: the models as panels draw them.
    """

    protocol: str
    title: str
    intro: str
    answer: tuple[str, ...]
    settings: tuple[Setting, ...]
    entries: tuple[Entry, ...]
    headline: Entry | None
    key: tuple[Style, ...]
    chart: str
    scores: tuple[Table, ...]
    probabilities: tuple[Table, ...]
    curves: tuple[str, ...]
    seasons: tuple[Table, ...]
    further: tuple[Table, ...]
    matrices: tuple[Matrix, ...]
    confusions: tuple[Confusion, ...]
    classes: tuple[ClassLine, ...]
    reliability: tuple[str, ...]
    coverage: tuple[str, ...]
    area: Table | None
    grower: str
    phenology: tuple[str, ...]
    dynamics: tuple[str, ...]
    following: Table | None
    cases: tuple[Case, ...]
    proofs: tuple[Table, ...]
    published: bool
    data: dict[str, Any]
    legend: Legend
    outside: float | None
    provenance: dict[str, str]


def chapter(document: Evaluation, position: int, preferred: str | None) -> Chapter:
    """Make a chapter of an evaluation.

    Arguments:
        position: of the chapter on the page; keeps identifiers apart.
        preferred: the model whose details are shown; None or one that was not evaluated: the best.
    """
    whole, document = document, document.uncalibrated()
    settings, unit = settings_of(document.protocol), unit_of(document.protocol)
    entries = entries_of(document, settings)
    headline = _headline(entries, preferred)
    key = styles(_names(document))
    legend = Legend.from_json(document.legend)
    cells = [(r, d) for r, d in zip(document.rows, document.details, strict=True)
             if headline is not None and key_of(r) == headline.key and not r.until]  # fmt: skip
    mine = [[d for r, d in cells if s.holds(r)] for s in settings]
    pooled = [_pooled(details, len(legend)) for details in mine]
    unknown = [r.auroc_out_of_legend for r, _ in cells if r.auroc_out_of_legend is not None and r.scope == "held-out"]
    places = list(enumerate(settings))
    area, cases, grower, phenology = None, (), "", []
    if headline is not None:
        area = tables.area_table(next((d for d in reversed(mine) if d), []), legend, headline.name)
        cases = tuple(figures.cases(document, headline, legend, position))
        grower, phenology = figures.phenology(document, headline, legend, position)
    return Chapter(
        protocol=document.protocol,
        title=title_of(document),
        intro=intro_of(document),
        answer=tuple(_answer(document, entries, settings, unit)),
        settings=settings,
        entries=entries,
        headline=headline,
        key=tuple(key.values()),
        chart=_chart(entries[:_SHOWN_SCORES], settings, f"scores{position}"),
        scores=_some(tables.score_table(entries, k, s, headline) for k, s in places),
        probabilities=_some(tables.probability_table(entries, k, s) for k, s in places),
        curves=tuple(figures.curves(document, entries, settings, key, position)),
        seasons=_some(tables.season_table(document, s) for s in settings),
        further=_some([
            tables.difference_table(document, unit), tables.unknown_table(document),
            tables.calibration_table(whole, settings),
        ]),
        matrices=tuple(_matrices(document, entries)) if document.protocol.startswith("cross-") else (),
        confusions=tuple(
            _confusion(s.name, counts, legend) for s, counts in zip(settings, pooled, strict=True) if counts.any()
        ),
        classes=_class_lines(pooled, legend),
        reliability=tuple(figures.reliability(document, entries, settings, position)),
        coverage=tuple(figures.coverage(document, entries, settings, key, position)),
        area=area,
        grower=grower,
        phenology=tuple(phenology),
        dynamics=tuple(figures.dynamics(document, position)),
        following=tables.dynamics_table(document),
        cases=cases,
        proofs=_some([
            tables.cost_table(entries), tables.check_table(document), tables.tuning_table(document),
            tables.failure_table(document),
        ]),
        published=any(e.model.startswith(PUBLISHED) for e in entries),
        data=document.data,
        legend=legend,
        outside=float(np.mean(unknown)) if unknown else None,
        provenance=_provenance(document),
    )  # fmt: skip


def unit_of(protocol: str) -> str:
    """What domains differ in: year or region."""
    return "region" if "region" in protocol else "year"


def _some(made: Iterable[Table | None]) -> tuple[Table, ...]:
    return tuple(table for table in made if table is not None)


def _headline(entries: Sequence[Entry], preferred: str | None) -> Entry | None:
    """The best entry of the preferred model with the most labels, or of all; None of none."""
    if not entries:
        return None
    wanted = [e for e in entries if e.model == preferred] or list(entries)
    most = max(e.rows[0].n_labelled for e in wanted)
    return next(e for e in wanted if e.rows[0].n_labelled >= 0.9 * most)


def _names(document: Evaluation) -> list[str]:
    """What has a score, on whole seasons or shorter ones, in the order of the recipe, without the target first."""
    named = list(dict.fromkeys((row.model, row.variant) for row in document.rows))
    scored = {(row.model, row.variant, row.target_unlabelled) for row in document.rows}
    return [model_name(*name, target=target) for name in named for target in (False, True) if (*name, target) in scored]


def _answer(document: Evaluation, entries: Sequence[Entry], settings: Sequence[Setting], unit: str) -> Iterator[str]:
    """What came out, in sentences; what was lost is said as plainly as what was won."""
    most = max((e.rows[0].n_labelled for e in entries), default=0)
    full = [e for e in entries if e.rows[0].n_labelled >= 0.9 * most]
    if not any(line is not None for e in full for line in e.lines):
        yield (
            "No training on whole seasons has a score on held-out parcels; the tables below say what was checked, what "
            "failed, and what was scored."
        )
    for place, setting in enumerate(settings):
        ranked = sorted([(line.macro_f1.value, e, line) for e in full if (line := e.lines[place]) is not None],
                        key=lambda found: -found[0])  # fmt: skip
        if ranked:
            value, best, line = ranked[0]
            text = (
                f"{setting.name}: {best.name} scores highest with {percent(value)}{THIN}% macro-F1 "
                f"({percent(line.macro_f1.low)}–{percent(line.macro_f1.high)}) and names "
                f"{percent(line.accuracy.value, 0)} of 100 parcels correctly, {setting.sentence}"
            )
            yield text + (f"; lowest is {ranked[-1][1].name} with {percent(ranked[-1][0])}{THIN}%." if len(ranked) > 1
                          else ".")  # fmt: skip
    labels = {e.labels for e in full}
    for contrast in document.contrasts:
        if contrast.what in ("model", "shift") and contrast.labels in labels and not contrast.until:
            yield (
                f"{contrast_text(contrast, unit)}: {signed(contrast.difference)} points "
                f"({signed(contrast.low)} to {signed(contrast.high)}), {verdict(contrast)}."
            )


def _chart(entries: Sequence[Entry], settings: Sequence[Setting], name: str) -> str:
    """Macro-F1 of the entries; "" without one."""
    if not entries:
        return ""
    shares = {e.labels for e in entries}
    names = [e.name if len(shares) == 1 else f"{e.name}, {e.labels}" for e in entries]
    groups = []
    for position, setting in enumerate(settings):
        lines = [entry.lines[position] for entry in entries]
        groups.append((setting.name, setting.colour, [None if line is None else line.macro_f1 for line in lines]))
    return score_chart(names, groups, name)


def _matrices(document: Evaluation, entries: Sequence[Entry]) -> Iterator[Matrix]:
    names = tuple(sorted({name for row in document.rows for name in (row.train, row.test)}))
    for entry in entries:
        kept = [r for r in entry.rows if r.scope == "held-out"]
        lines = [[line_of([r for r in kept if (r.train, r.test) == (a, b)]) for b in names] for a in names]
        value = tuple(tuple(None if line is None else line.macro_f1.value for line in row) for row in lines)
        yield Matrix(entry.name, entry.labels, names, value)


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
    crops = tuple(legend.classes[int(k)] for k in used)
    return Confusion(title, crops, tuple(map(tuple, counts.tolist())), tuple(map(tuple, shares.tolist())))


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
