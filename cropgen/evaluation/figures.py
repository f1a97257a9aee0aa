"""Figures of a chapter of the report, each a panel of its own: curves, reliability, growth of crops, and mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from cropgen.evaluation.document import Detail, Evaluation, Mistake, Phenology, Row
from cropgen.evaluation.panels import Style, Track, dynamics_panel, mistake_panel, phenology_panel, track_panel
from cropgen.evaluation.plots import Curve, Mark, reliability_panel
from cropgen.evaluation.tables import Entry, ends_of, key_of, line_of
from cropgen.evaluation.words import THIN, Setting, model_name, percent, season
from cropgen.metrics.calibration import Reliability
from cropgen.series.legend import Legend

_SHOWN_PANELS = 8


@dataclass(frozen=True)
class Case:
    """A confident mistake: its series and what there is to say."""

    svg: str
    heading: str
    text: str


def curves(
    document: Evaluation, entries: Sequence[Entry], settings: Sequence[Setting], key: dict[str, Style], position: int
) -> Iterator[str]:
    """Macro-F1 over labelled parcels and over the season, a panel per setting."""
    for place, setting in enumerate(settings):
        by_labels: dict[str, list[tuple[float, str, Mark]]] = {}
        for entry in entries:
            line = entry.lines[place]
            if line is not None:
                amount = float(np.mean([r.n_labelled for r in entry.rows]))
                by_labels.setdefault(entry.name, []).append((amount, entry.labels, line.macro_f1))
        if len({entry.labels for entry in entries}) > 1:
            ticks = {text: amount for points in by_labels.values() for amount, text, _ in points}
            tracks = [_track(key[name], [(a, mark) for a, _, mark in points]) for name, points in by_labels.items()]
            yield track_panel(
                f"{setting.name}: labels", tracks, f"labels{position}-{place}", across="labels used", up="macro-F1",
                ticks=[(amount, text) for text, amount in ticks.items()], logarithmic=True,
            )  # fmt: skip
        if document.recipe.until and document.rows:
            yield from _season_curves(document, setting, key, f"{position}-{place}")


def _season_curves(document: Evaluation, setting: Setting, key: dict[str, Style], place: str) -> Iterator[str]:
    ends = ends_of(document)
    most = max(r.n_labelled for r in document.rows)
    share = next(r.labels for r in document.rows if r.n_labelled == most)
    groups: dict[tuple[str, str, bool], list[Row]] = {}
    for row in document.rows:
        if row.labels == share and setting.holds(row):
            name = model_name(row.model, row.variant, target=row.target_unlabelled)
            groups.setdefault((name, row.until, row.cut), []).append(row)
    for cut, title in ((False, "learnt from as short"), (True, "cut at the test")):
        points: dict[str, list[tuple[float, Mark]]] = {}
        for (name, until, short), rows in groups.items():
            line = line_of(rows) if short == cut or not until else None
            if line is not None:
                points.setdefault(name, []).append((float(ends.index(until)), line.macro_f1))
        tracks = [_track(key[name], mine) for name, mine in points.items() if len(mine) > 1]
        if tracks:
            yield track_panel(
                f"{setting.name}: {title}", tracks, f"season{place}-{int(cut)}", across="seen until", up="macro-F1",
                ticks=[(float(k), season(end).removesuffix(" season")) for k, end in enumerate(ends)],
            )  # fmt: skip


def _track(style: Style, points: Sequence[tuple[float, Mark]]) -> Track:
    ordered = sorted(points, key=lambda point: point[0])
    value, low, high = (np.array([getattr(m, end) for _, m in ordered]) for end in ("value", "low", "high"))
    return Track(style, np.array([x for x, _ in ordered]), value, low, high)


def _details(document: Evaluation, entry: Entry, holds: Callable[[Row], bool]) -> list[Detail]:
    return [d for r, d in zip(document.rows, document.details, strict=True)
            if key_of(r) == entry.key and not r.until and holds(r)]  # fmt: skip


def reliability(
    document: Evaluation, entries: Sequence[Entry], settings: Sequence[Setting], position: int
) -> Iterator[str]:
    for number, entry in enumerate(entries[:_SHOWN_PANELS]):
        curves = []
        for setting in settings:
            found = [d.reliability for d in _details(document, entry, setting.holds)]
            if found:
                merged = merge_reliability(found)
                curves.append(Curve(setting.name, setting.colour, merged.confidence, merged.accuracy, merged.count))
        title = entry.name if len({e.labels for e in entries}) == 1 else f"{entry.name}, {entry.labels}"
        if any((curve.count >= 5).any() for curve in curves):
            yield reliability_panel(title, curves, f"reliability{position}-{number}")


def coverage(
    document: Evaluation, entries: Sequence[Entry], settings: Sequence[Setting], key: dict[str, Style], position: int
) -> Iterator[str]:
    """Share of errors where only the surest parcels are answered, a panel per setting, with the most labels."""
    most = max((e.rows[0].n_labelled for e in entries), default=0)
    for place, setting in enumerate(settings):
        tracks = []
        for entry in entries:
            found = [d.risk_coverage for d in _details(document, entry, setting.holds)]
            if found and entry.rows[0].n_labelled >= 0.9 * most:
                risk = np.mean([curve["risk"] for curve in found], axis=0)
                tracks.append(Track(key[entry.name], np.array(found[0]["coverage"]), risk))
        if tracks:
            yield track_panel(setting.name, tracks, f"coverage{position}-{place}", across="surest share answered",
                              up="errors among them", markers=False)  # fmt: skip


def merge_reliability(tables: list[dict[str, list[float]]]) -> Reliability:
    """Sum reliability tables with the same bins."""
    counts = np.array([t["count"] for t in tables])
    total = counts.sum(0)
    filled = np.maximum(total, 1)
    confidence, accuracy = ((np.array([t[name] for t in tables]) * counts).sum(0) / filled
                            for name in ("confidence", "accuracy"))  # fmt: skip
    return Reliability(np.array(tables[0]["edge"]), total, confidence, accuracy)


def _courses(document: Evaluation, headline: Entry) -> dict[int, Phenology]:
    """How crops grow, by class: of the headline's model where it can draw seasons, else of the first that can."""
    found: dict[tuple[str, str], dict[int, Phenology]] = {}
    for one in document.exhibits.phenology:
        found.setdefault((one.model, one.variant), {})[one.crop] = one
    return found.get((headline.model, headline.variant)) or next(iter(found.values()), {})


def phenology(document: Evaluation, headline: Entry, legend: Legend, position: int) -> tuple[str, list[str]]:
    courses = _courses(document, headline)
    if not courses:
        return "", []
    first = next(iter(courses.values()))
    learnt = "" if first.train == "all" else f" ({first.train})"
    drawn = [phenology_panel(legend.classes[k].name, course, f"growth{position}-{k}") for k, course in courses.items()]
    return f"{model_name(first.model, first.variant)}, trained{learnt} with {first.labels} of the labels", drawn


def dynamics(document: Evaluation, position: int) -> Iterator[str]:
    """How dynamical models follow a season, a panel each."""
    for number, seen in enumerate(document.exhibits.dynamics[:_SHOWN_PANELS]):
        yield dynamics_panel(model_name(seen.model, seen.variant), seen, f"dynamics{position}-{number}")


def cases(document: Evaluation, headline: Entry, legend: Legend, position: int) -> Iterator[Case]:
    courses = _courses(document, headline)
    mine = [m for m in document.exhibits.mistakes if (m.model, m.variant) == (headline.model, headline.variant)]
    for number, case in enumerate(mine):
        true, said = legend.classes[case.true].name, legend.classes[case.predicted].name
        usual = [(true, courses.get(case.true)), (said, courses.get(case.predicted))]
        yield Case(mistake_panel(case, usual, f"case{position}-{number}"), f"{true}, taken for {said}", _where(case))


def _where(case: Mistake) -> str:
    place = f"{case.region}, {case.year}" if case.region else str(case.year)
    trained = "" if case.train == "all" else f", training: {case.train}"
    sure = min(case.probability, 0.999)
    return f"Stated probability {percent(sure)}{THIN}%. Parcel {case.parcel_id}, {place}{trained}, seed {case.seed}."
