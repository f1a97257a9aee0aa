"""`write_report`: evaluations, runs and predictions in, one self-contained HTML page out."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

import cropgen
from cropgen.core.errors import MissingInputError
from cropgen.core.files import write_text
from cropgen.core.run import RunFolder
from cropgen.evaluation.atlas import Atlas, make_atlas
from cropgen.evaluation.document import Evaluation, read_evaluation
from cropgen.evaluation.page import Chapter, chapter
from cropgen.evaluation.plots import learning_curves, themed
from cropgen.evaluation.tables import Cell, Table, mark_cell, table
from cropgen.evaluation.words import DASH, count, percent, signed
from cropgen.models.catalog import find
from cropgen.series.legend import Legend

_NO_TERMS = {"step", "rate", "seconds"}
_SHOWN_FACTS = 24


@dataclass(frozen=True)
class Training:
    """What the report shows of a run."""

    name: str
    model: str
    reference: str
    curves: str
    facts: dict[str, str]
    decisions: dict[str, str]
    provenance: dict[str, str]


@dataclass(frozen=True)
class Card:
    """A headline figure."""

    figure: str
    unit: str
    text: str
    range: str


def write_report(
    evaluations: list[Path], runs: list[Path], predictions: Path | None, output: Path, library: Path | None = None
) -> None:
    """Write the page. It needs no network and no other file, and equal inputs give equal bytes.

    Arguments:
        evaluations: evaluation.json files.
        runs: run folders; the model of the first is the one whose details are shown.
        predictions: a file made by `cropgen predict`.
        output: the HTML file.
        library: folder of runs, where the one that made the predictions is looked up if it is not among `runs`.

    Raises:
        MissingInputError: nothing was given, or a file is not there.
        DataError: an input cannot be read.
    """
    if not evaluations and not runs and predictions is None:
        raise MissingInputError("nothing to report", hint="run cropgen evaluate, train or predict first")
    folders = [RunFolder(path) for path in runs]
    manifests = [folder.read_manifest() for folder in folders]
    preferred = manifests[0]["model"] if manifests else None
    documents = sorted((read_evaluation(path) for path in evaluations), key=_place)
    chapters = [chapter(document, k, preferred) for k, document in enumerate(documents)]
    legends = [Legend.from_json(m["spec"]["legend"]) for m in manifests if "spec" in m]
    legends += [c.legend for c in chapters]
    atlas = None if predictions is None else make_atlas(predictions, folders, legends, library)
    trainings = [
        _training(folder, manifest, k) for k, (folder, manifest) in enumerate(zip(folders, manifests, strict=True))
    ]
    write_text(output, _render(chapters, trainings, atlas))


def _place(document: Evaluation) -> tuple[bool, bool]:
    """Evaluations without a score on whole seasons come last, and of the others the plain holdout."""
    return all(row.until for row in document.rows), document.protocol == "holdout"


def _render(chapters: list[Chapter], trainings: list[Training], atlas: Atlas | None) -> str:
    pages = Environment(
        loader=PackageLoader("cropgen.evaluation", "templates"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"percent": percent, "signed": signed, "count": count, "svg": Markup, "ink": ink_on}
    return pages.get_template("report.html").render(
        title=_title(chapters, atlas),
        version=cropgen.__version__,
        cards=list(_cards(chapters)),
        chapters=chapters,
        trainings=trainings,
        atlas=atlas,
        comparison=_comparison(chapters),
        datasets=list({json.dumps([c.data, c.provenance["data fingerprint"]]): c for c in chapters}.values()),
        themed=themed,
    )


def _title(chapters: list[Chapter], atlas: Atlas | None) -> str:
    names = list(dict.fromkeys(str(c.data["name"]) for c in chapters)) or ([atlas.file] if atlas else [])
    return f"Crop types: {', '.join(names)}" if names else "Training report"


def _cards(chapters: list[Chapter]) -> Iterable[Card]:
    """The figures a reader remembers: parcels right out of a hundred, macro-F1, and the loss to another year."""
    for part in chapters[:1]:
        for setting, line in zip(part.settings, part.headline.lines, strict=True) if part.headline else ():
            if line is not None:
                low, high = (100 * end for end in (line.accuracy.low, line.accuracy.high))
                yield Card(
                    f"{100 * line.accuracy.value:.0f}", "of 100", f"parcels right, {setting.sentence}",
                    f"{low:.0f} to {high:.0f}; macro-F1 {percent(line.macro_f1.value)} %",
                )  # fmt: skip
        if part.outside is not None:
            yield Card(
                percent(part.outside, 0), "%", "chance that a parcel of an unknown crop looks stranger than one of a "
                "known crop", "50 % would be guessing",
            )  # fmt: skip


def _comparison(chapters: list[Chapter]) -> Table | None:
    """Macro-F1 of every model in every evaluation, in its hardest setting, on whole seasons."""
    places: dict[tuple[str, str], dict[int, Cell]] = {}
    for position, part in enumerate(chapters):
        for entry in part.entries:
            line = next((line for line in reversed(entry.lines) if line is not None), None)
            if line is not None:
                places.setdefault((entry.name, entry.labels), {})[position] = mark_cell(line.macro_f1)
    several = len({part.data["name"] for part in chapters}) > 1
    heads = [f"{c.title}, {c.data['name']}" if several else c.title for c in chapters]
    rows = [
        [name, labels, *(cells.get(k, Cell(DASH)) for k in range(len(chapters)))]
        for (name, labels), cells in places.items()
    ]
    note = (
        "Macro-F1 in per cent with 95 % intervals. Where an evaluation has an easier and a harder setting, the harder "
        "is shown. Columns test different parcels: compare down a column, not along a row."
    )
    return table("Every model in every evaluation", note, ("model", "labels", *heads), rows)


def _training(folder: RunFolder, manifest: dict[str, Any], position: int) -> Training:
    entry = find(manifest["model"])
    data, environment = manifest["data"], manifest["environment"]
    rows = data["rows"]
    facts = {
        "labels": f"{data['labels']}: {count(rows['labelled'])} of {count(rows['labels_available'])} labelled parcels",
        "parcels without label": count(rows["unlabelled"]),
        "crops": str(len(manifest["spec"]["legend"]["classes"])),
        "bands": ", ".join(manifest["spec"]["bands"]),
        "calendar": f"{manifest['spec']['calendar']['count']} slots of one {manifest['spec']['calendar']['kind']}",
        "seed": str(manifest["seed"]),
        "time": f"{manifest.get('seconds', 0):.1f} s",
    }
    decisions = dict(islice(_flat(manifest.get("facts", {})), _SHOWN_FACTS))
    provenance = {
        "run": folder.run_id,
        "status": str(manifest.get("status", "unknown")),
        "command": f"cropgen train --recipe runs/{folder.run_id}/recipe.toml",
        "data": data["series"],
        "data fingerprint": data["fingerprint"],
        "code fingerprint": environment["code"],
        "finished": str(manifest.get("finished", "–")),
    }
    return Training(folder.run_id, entry.name, entry.reference, _curves(folder, position), facts, decisions, provenance)


def _flat(facts: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    """Names and short values of nested facts; long lists are left to the manifest."""
    for name, value in facts.items():
        label = f"{prefix}{name}".replace("_", " ")
        if isinstance(value, dict):
            yield from _flat(value, f"{label}: ")
        elif isinstance(value, bool):
            yield label, "yes" if value else "no"
        elif isinstance(value, float):
            yield label, f"{value:.4g}"
        elif isinstance(value, int | str):
            yield label, str(value)


def _curves(folder: RunFolder, position: int) -> str:
    """Learning curves of a run; "" for a model that learns in closed form."""
    if not folder.metrics.is_file():
        return ""
    logged = [line for text in folder.metrics.read_text(encoding="utf-8").splitlines() if (line := _logged(text))]
    names = [name for name in (logged[0] if logged else {}) if name not in _NO_TERMS]
    if len(logged) < 2:
        return ""
    terms = {name: np.array([line.get(name, np.nan) for line in logged], float) for name in names}
    return learning_curves(np.array([line["step"] for line in logged]), terms, f"learning{position}")


def _logged(text: str) -> dict[str, Any] | None:
    """A line of the metrics; None for one that a killed training left half written."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def ink_on(share: float) -> str:
    """Class of a shaded cell: which ink is readable on it."""
    return "deep" if share > 0.55 else "light"
