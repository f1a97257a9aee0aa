"""Tables of the report as plain values: cells with their intervals, one row per model, the best first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from cropgen.evaluation.document import Detail, Evaluation, Row
from cropgen.evaluation.plots import Mark
from cropgen.evaluation.summary import summarise
from cropgen.evaluation.words import (
    DASH,
    Setting,
    contrast_text,
    count,
    model_name,
    number,
    percent,
    season,
    signed,
    verdict,
)
from cropgen.series.legend import Legend
from cropgen.series.season import SeasonEnd


@dataclass(frozen=True)
class Cell:
    """Text, and below it its interval or what qualifies it."""

    text: str
    below: str = ""


@dataclass(frozen=True)
class Table:
    """A table whose first column names the rows.

    Arguments:
        chosen: positions of the rows that are marked.
    """

    title: str
    note: str
    head: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    chosen: tuple[int, ...] = ()


def table(
    title: str, note: str, head: Sequence[str], rows: Iterable[Sequence[Cell | str]], chosen: Sequence[int] = ()
) -> Table | None:
    """A table of cells or texts; None without rows."""
    made = tuple(tuple(c if isinstance(c, Cell) else Cell(c) for c in row) for row in rows)
    return Table(title, note, tuple(head), made, tuple(chosen)) if made else None


@dataclass(frozen=True)
class Line:
    """Scores of an entry in one setting, averaged over cells and seeds; None where no cell has it."""

    macro_f1: Mark
    equal_priors: Mark
    accuracy: Mark
    mean: dict[str, float | None]
    cells: int


@dataclass(frozen=True)
class Entry:
    """What is compared: a model with a variant and a label share, with or without unlabelled parcels of the target."""

    model: str
    variant: str
    family: str
    labels: str
    target: bool
    seeds: int
    lines: tuple[Line | None, ...]
    rows: tuple[Row, ...]

    @property
    def name(self) -> str:
        return model_name(self.model, self.variant, target=self.target)

    @property
    def key(self) -> tuple[str, str, str, bool]:
        return key_of(self.rows[0])


_AVERAGED = (
    "balanced_accuracy", "kappa", "nll", "tempered_nll", "brier", "ece", "classwise_ece", "aurc", "bits_per_value",
    "crps", "auroc_out_of_legend", "aupr_out_of_legend", "macro_f1_legend",
)  # fmt: skip


def key_of(row: Row) -> tuple[str, str, str, bool]:
    """What tells the entries of a table apart."""
    return row.model, row.variant, row.labels, row.target_unlabelled


def line_of(rows: Iterable[Row]) -> Line | None:
    """Averages over cells and seeds; interval ends are averaged too."""
    cells = summarise(rows)
    if not cells:
        return None

    def mean(name: str) -> float | None:
        known = [cell[name] for cell in cells if cell[name] is not None]
        return float(np.mean(known)) if known else None

    marks = [
        Mark(*(float(np.mean([cell[f"{name}{end}"] for cell in cells])) for end in ("", "_low", "_high")))
        for name in ("macro_f1", "accuracy")
    ]
    equal = Mark(*(float(np.mean([c[f"macro_f1_equal_priors{end}"] for c in _with_equal(rows)]))
                   for end in ("", "_low", "_high")))  # fmt: skip
    return Line(marks[0], equal, marks[1], {name: mean(name) for name in _AVERAGED}, len(cells))


def _with_equal(rows: Iterable[Row]) -> list[dict[str, float]]:
    return [row.model_dump(include={f"macro_f1_equal_priors{end}" for end in ("", "_low", "_high")}) for row in rows]


def entries_of(document: Evaluation, settings: Sequence[Setting]) -> tuple[Entry, ...]:
    """Every entry of an evaluation on whole seasons, the best on average over the settings first."""
    groups: dict[tuple[str, str, str, bool], list[Row]] = {}
    for row in document.rows:
        if not row.until:
            groups.setdefault(key_of(row), []).append(row)
    entries = [
        Entry(model, variant, rows[0].family, labels, target, len({r.seed for r in rows}),
              tuple(line_of([r for r in rows if s.holds(r)]) for s in settings), tuple(rows))
        for (model, variant, labels, target), rows in groups.items()
    ]  # fmt: skip
    return tuple(sorted(entries, key=_rank))


def _rank(entry: Entry) -> tuple[float, float]:
    last = next((line for line in reversed(entry.lines) if line is not None), None)
    return 1.0 if last is None else -last.macro_f1.value, float(np.mean([r.seconds for r in entry.rows]))


def mark_cell(mark: Mark) -> Cell:
    return Cell(percent(mark.value), f"{percent(mark.low)}–{percent(mark.high)}")


def score_table(entries: Sequence[Entry], place: int, setting: Setting, headline: Entry | None) -> Table | None:
    """How often each entry is right in a setting."""
    known = sorted([(e, line) for e in entries if (line := e.lines[place]) is not None],
                   key=lambda pair: -pair[1].macro_f1.value)  # fmt: skip
    over_legend = any(line.mean["macro_f1_legend"] is not None for _, line in known)
    head = ["model", "labels", "macro-F1 %", "at equal class shares %", "accuracy %", "balanced accuracy %", "kappa"]
    rows = [
        [Cell(e.name, e.family), e.labels, mark_cell(line.macro_f1), mark_cell(line.equal_priors),
         mark_cell(line.accuracy), percent(line.mean["balanced_accuracy"]), number(line.mean["kappa"]),
         *([percent(line.mean["macro_f1_legend"])] if over_legend else [])]
        for e, line in known
    ]  # fmt: skip
    head += ["macro-F1 over the whole legend %"] if over_legend else []
    chosen = [k for k, (e, _) in enumerate(known) if e is headline]
    return table(setting.name, f"Parcels {setting.sentence}. Beside each score its 95 % interval.", head, rows, chosen)


def probability_table(entries: Sequence[Entry], place: int, setting: Setting) -> Table | None:
    """How far stated probabilities, and densities, can be believed in a setting."""
    columns = (
        ("NLL", "nll", number), ("NLL, best temperature", "tempered_nll", number), ("Brier", "brier", number),
        ("ECE %", "ece", percent), ("class-wise ECE %", "classwise_ece", percent), ("AURC %", "aurc", percent),
        ("bits per value", "bits_per_value", number), ("CRPS", "crps", lambda v: number(v, 4)),
        ("unknown crops, AUROC %", "auroc_out_of_legend", percent),
    )  # fmt: skip
    known = [(e, line) for e in entries if (line := e.lines[place]) is not None]
    used = [c for c in columns if any(line.mean[c[1]] is not None for _, line in known)]
    rows = [[e.name, e.labels, *(form(line.mean[name]) for _, name, form in used)] for e, line in known]
    return table(setting.name, "", ["model", "labels", *(title for title, _, _ in used)], rows)


def calibration_table(document: Evaluation, settings: Sequence[Setting]) -> Table | None:
    """Scores with and without a correction of the probabilities on validation parcels."""
    groups: dict[tuple[tuple[str, str, str, bool], str], list[Row]] = {}
    for row in document.rows:
        if not row.until:
            groups.setdefault((key_of(row), row.calibration), []).append(row)
    corrected = {key for key, kind in groups if kind != "none"}
    rows = []
    for (key, kind), mine in groups.items():
        for setting in settings if key in corrected else ():
            line = line_of([r for r in mine if setting.holds(r)])
            if line is not None:
                name = model_name(key[0], key[1], target=key[3])
                rows.append([name, key[2], setting.name.lower(), kind.replace("none", "as stated"),
                             mark_cell(line.macro_f1), number(line.mean["nll"]),
                             percent(line.mean["ece"])])  # fmt: skip
    note = "Fitted on validation parcels only, never on the test."
    head = ("model", "labels", "tested on", "probabilities", "macro-F1 %", "NLL", "ECE %")
    return table("With and without calibration", note, head, rows)


def difference_table(document: Evaluation, unit: str) -> Table | None:
    """Every paired difference, wins and losses alike."""
    rows = [
        [contrast_text(c, unit), c.labels, *([season(c.until)] if document.recipe.until else []),
         Cell(signed(c.difference), f"{signed(c.low)} to {signed(c.high)}"), number(c.p_value, 3), verdict(c),
         f"{c.seeds} × {c.cells // max(c.seeds, 1)}"]
        for c in document.contrasts
    ]  # fmt: skip
    note = (
        "Differences of macro-F1 in points on the same test parcels. The interval is over ground and over seeds, of "
        "one seed over the ground alone; an interval that holds 0, or a p of 0.05 or more, tells nothing apart."
    )
    head = ("compared", "labels", *(["seen until"] if document.recipe.until else []), "points", "p", "verdict",
            "seeds × cells")  # fmt: skip
    return table("Paired differences", note, head, rows)


def ends_of(document: Evaluation) -> list[str]:
    """The ends of the season that were seen, the earliest first, and "" for the whole one."""
    any_year = np.array([2001])
    return [*sorted(document.recipe.until, key=lambda end: int(SeasonEnd.parse(end).last_day(any_year)[0])), ""]


def season_table(document: Evaluation, setting: Setting) -> Table | None:
    """Scores by the end of the season that was seen."""
    groups: dict[tuple[tuple[str, str, str, bool], bool], dict[str, list[Row]]] = {}
    ends = ends_of(document)
    for row in document.rows:
        if setting.holds(row):
            groups.setdefault((key_of(row), row.cut), {}).setdefault(row.until, []).append(row)
    if len(ends) < 2:
        return None
    rows = []
    for (key, cut), mine in groups.items():
        lines = [line_of(mine.get(until, ())) for until in ends]
        how = "whole seasons, cut at the test" if cut else "seasons as short"
        cells = [Cell(DASH) if line is None else mark_cell(line.macro_f1) for line in lines]
        rows.append([model_name(key[0], key[1], target=key[3]), key[2], how, *cells])
    return table(setting.name, "", ("model", "labels", "learnt from", *(season(end) for end in ends)), rows)


def unknown_table(document: Evaluation) -> Table | None:
    """How well parcels of a crop that was never taught are singled out."""
    groups: dict[tuple[tuple[str, str, str, bool], str], list[Row]] = {}
    for row in document.rows:
        if row.auroc_out_of_legend is not None and row.scope == "held-out" and not row.until:
            groups.setdefault((key_of(row), row.train), []).append(row)
    means = {
        what: [
            float(np.mean([getattr(r, name) for r in rows])) for name in ("auroc_out_of_legend", "aupr_out_of_legend")
        ]
        for what, rows in groups.items()
    }
    rows = [
        [model_name(key[0], key[1], target=key[3]), key[2], train, percent(means[key, train][0]),
         percent(means[key, train][1]), count(float(np.mean([r.n_out_of_legend for r in mine]))),
         str(mine[0].novelty_score)]
        for (key, train), mine in groups.items()
    ]  # fmt: skip
    note = (
        "AUROC is the chance that a parcel of a crop never taught looks stranger than one of a known crop: 50 % is "
        "guessing, below it the model is fooled."
    )
    head = ("model", "labels", "learnt from", "AUROC %", "AUPR %", "unknown parcels", "strange by")
    return table("Parcels of crops that were never taught", note, head, rows)


def dynamics_table(document: Evaluation) -> Table | None:
    """Errors of what dynamical models foresee over the season, and what their latent states were told."""
    rows = []
    for seen in document.exhibits.dynamics:
        short, far = (_root_mean_square(errors) for errors in (seen.one_step, seen.free_running))
        told = sum(value for value in seen.kl if value is not None)
        if short is not None and far is not None:
            rows.append([model_name(seen.model, seen.variant), seen.labels, f"{short:.4f}", f"{far:.4f}",
                         f"{told:.3f}", count(seen.parcels)])  # fmt: skip
    note = (
        "Root mean square errors in reflectance after the first third of the season: of each date foreseen from all "
        "dates before it, and of all dates foreseen from the first third alone; what lies between compounds. The KL is "
        "what a season tells the latent state beyond its past, under the true crop; near zero, the state carries "
        "nothing."
    )
    head = ("model", "labels", "one step ahead", "free running", "KL, nats a season", "parcels")
    return table("How well a season is followed", note, head, rows)


def _root_mean_square(errors: Sequence[float | None]) -> float | None:
    known = [error**2 for error in errors if error is not None]
    return float(np.sqrt(np.mean(known))) if known else None


def area_table(details: Sequence[Detail], legend: Legend, name: str) -> Table | None:
    """Shares of the test parcels by class, as mapped and as estimated, averaged over cells."""
    found: dict[int, list[tuple[float, float, float]]] = {}
    for detail in details:
        columns = (detail.area[column] for column in ("mapped", "adjusted", "standard_error"))
        for k, *shares in zip(detail.classes, *columns, strict=True):
            found.setdefault(k, []).append((shares[0], shares[1], shares[2]))
    means = {k: np.mean(shares, axis=0) for k, shares in found.items()}
    rows = [
        [legend.classes[k].name, percent(m[0]),
         Cell(percent(m[1]), f"{percent(max(m[1] - 1.96 * m[2], 0))}–{percent(min(m[1] + 1.96 * m[2], 1))}"),
         signed(m[0] - m[1])]
        for k, m in sorted(means.items(), key=lambda item: -item[1][1])
    ]  # fmt: skip
    note = (
        f"Share of the test parcels that {name} maps as each crop, the share estimated from their true crops with its "
        f"95 % interval, and what a map read as it stands gets wrong, in points."
    )
    return table("How much of each crop", note, ("crop", "mapped %", "estimated %", "mapped too much"), rows)


def cost_table(entries: Sequence[Entry]) -> Table | None:
    """What each entry costs, a training on the average and memory at its peak."""
    rows = []
    for entry in entries:
        peaks = [r.peak_mb for r in entry.rows if r.peak_mb is not None]
        per = [1000 * r.predict_seconds / max(r.n_test + r.n_out_of_legend, 1) for r in entry.rows]
        rows.append([entry.name, entry.labels, count(float(np.mean([r.n_labelled for r in entry.rows]))),
                     number(float(np.mean([r.seconds for r in entry.rows])), 1), number(float(np.mean(per)), 2),
                     count(max(peaks)) if peaks else DASH])  # fmt: skip
    head = ("model", "labels", "labelled parcels", "training s", "answer ms per parcel", "peak memory MB")
    return table("What it costs", "Time of one training on one thread; the memory is that of the process.", head, rows)


def check_table(document: Evaluation) -> Table | None:
    """What was verified about the parcels of every training."""
    rows = [
        [Cell(check.asks, check.name.replace("_", " ")), "passed" if check.passed else "failed",
         f"{check.trainings - check.failed} of {check.trainings}", count(check.found), count(check.left_out)]
        for check in document.checks
    ]  # fmt: skip
    head = ("what must hold", "result", "trainings that pass", "rows at fault", "rows left out")
    return table("Checks", "A training that fails a check is not run and has no score.", head, rows)


def failure_table(document: Evaluation) -> Table | None:
    """Trainings that did not come to an end."""
    rows = [[failure.training, failure.message] for failure in document.failed]
    return table("Trainings that failed", "They have no score above.", ("training", "why"), rows)


def tuning_table(document: Evaluation) -> Table | None:
    """How options were chosen."""
    rows = []
    for tuned in document.tuning:
        known = [trial.macro_f1 for trial in tuned.trials if trial.macro_f1 is not None]
        chosen = ", ".join(f"{name}={value}" for name, value in tuned.chosen.items()) or "defaults"
        rows.append([model_name(tuned.model, tuned.variant, target=tuned.target_unlabelled), tuned.labels,
                     f"{tuned.train}, seed {tuned.seed}", str(len(tuned.trials)), count(tuned.n_validation),
                     percent(known[0] if known else None), percent(max(known, default=None)), chosen])  # fmt: skip
    note = "Judged on validation parcels inside the training, never on the test. Macro-F1 there, in per cent."
    head = ("model", "labels", "training", "tried", "judges", "defaults", "best", "chosen")
    return table("How options were chosen", note, head, rows)
