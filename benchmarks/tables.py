"""Write the generated tables of README.md, benchmarks/README.md and docs/shift.md from code and committed results.

python benchmarks/tables.py            # writes
python benchmarks/tables.py --check    # exit code 1 when a table is not what the code and the results say
"""

from __future__ import annotations

import argparse
import json
import math
import re
import sys
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from accuracy import LEADING_SEEDS, SHOWN, TARGET

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SHIFT = HERE / "results" / "shift.json"
PREPARE = HERE / "results" / "prepare.json"
ACCURACY = HERE / "results" / "accuracy.json"
NAMES = {
    "arkansas": "Arkansas, Sentinel-2, 5 crops",
    "fergana": "Fergana, 16-day NDVI",
    "modis": "Mato Grosso, MODIS",
    "bavaria": "Bavaria, Sentinel-2 with clouds, 301 parcels",
}
HEADLINE = tuple((data, labels) for labels in (0.01, 0.1) for data in ("arkansas", "fergana", "modis"))


def markdown(head: list[str], rows: list[list[str]], numeric: int = 99) -> str:
    """A table; columns from position `numeric` on are right-aligned."""
    rule = ["---:" if i >= numeric else "---" for i in range(len(head))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, rule, *rows])


def with_error(gaps: list[float]) -> str:
    """Mean gap ± standard error; without one where there is one training."""
    spread = f" ± {stdev(gaps) / len(gaps) ** 0.5:.1f}" if len(gaps) > 1 else ""
    return f"{fmean(gaps):+.1f}{spread}"


def gains(pairs: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[str]:
    """Cells of trainings above others, pair by pair: macro-F1 and accuracy with errors, and the mean NLL."""
    points = [with_error([100 * (new[s] - old[s]) for new, old in pairs]) for s in ("macro_f1", "accuracy")]
    return [*points, f"{fmean(new['nll'] - old['nll'] for new, old in pairs):+.3f}"]


def label_range(low: float, high: float) -> str:
    """How many labels a class a line of a table is of."""
    return f"{low:g} to {high:g}" if math.isfinite(high) else f"from {low:g}" if low else "all"


def training_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """The training on one part of a training side that a row comes from."""
    return row["data"], row["labels"], row["seed"]


def prediction_columns() -> str:
    from cropgen.prediction.columns import COLUMNS, PREFIX

    kinds = {"string": "text", "double": "real", "int32": "integer"}
    return markdown(
        ["column", "type", "what it holds"],
        [[f"`{PREFIX}{c.name}`", kinds.get(str(c.kind), str(c.kind)), c.text] for c in COLUMNS],
    )


def flag_list() -> str:
    from cropgen.prediction.columns import FLAGS

    return markdown(["flag", "meaning"], [[f"`{name}`", text] for name, text in FLAGS.items()])


FAMILIES = {
    "classical": "classical",
    "discriminative": "discriminative networks",
    "flow": "normalizing flows",
    "vae": "variational auto-encoders",
    "dvae": "dynamical variational auto-encoders",
    "pool": "the pool",
}


def family_table() -> str:
    """The models of each family by name."""
    from cropgen.models.catalog import CATALOG, aliases_of

    rows = []
    for family, words in FAMILIES.items():
        names = [
            f"`{e.name}`" + "".join(f" (`{a}`)" for a in aliases_of(e.name)) for e in CATALOG if e.family == family
        ]
        rows.append([words, ", ".join(names)])
    return markdown(["family", "models"], rows)


def model_table() -> str:
    from cropgen.models.catalog import CATALOG, aliases_of

    rows = []
    for entry in CATALOG:
        also = aliases_of(entry.name)
        names = f"`{entry.name}`" + (f" ({', '.join(f'`{a}`' for a in also)})" if also else "")
        marks = ["yes" if flag else "" for flag in (entry.generative, entry.semi_supervised)]
        rows.append([names, entry.family, *marks, entry.summary, entry.reference])
    return markdown(["model", "family", "p(x, y)", "uses unlabelled", "what it is", "reference"], rows)


def _spread(values: list[float], digits: int = 1, factor: float = 100.0) -> str:
    mean = f"{factor * fmean(values):.{digits}f}"
    return f"{mean} ± {factor * stdev(values):.{digits}f}" if len(values) > 1 else mean


def headline(rows: list[dict[str, Any]]) -> str:
    """Across regions and years: macro-F1 / accuracy of the strongest models, of the seeds that all of them have."""
    found: dict[tuple[str, float, str], dict[int, dict[str, Any]]] = {}
    for row in rows:
        if row["split"] == "cross" and not row["dates"]:
            name = row["model"] + (TARGET if row["target_unlabelled"] else "")
            found.setdefault((row["data"], row["labels"], name), {})[row["seed"]] = row
    head = ["model", *(f"{NAMES[data].partition(',')[0]}, {100 * labels:g} %" for data, labels in HEADLINE)]
    columns = [[found.get((*place, model), {}) for model in SHOWN] for place in HEADLINE]
    common = [set.intersection(*(set(one) for one in column)) for column in columns]
    lines = [
        [f"`{model}`", *(_headed([column[i][seed] for seed in sorted(seeds)])
                         for column, seeds in zip(columns, common, strict=True))]
        for i, model in enumerate(SHOWN)
    ]  # fmt: skip
    return markdown(head, lines, numeric=1)


def _headed(rows: list[dict[str, Any]]) -> str:
    """Macro-F1 / accuracy, and how many seeds where not all are in."""
    told = " / ".join(_spread([row[name] for row in rows]) for name in ("macro_f1", "accuracy") if rows)
    return f"{told} ({len(rows)} seeds)" if 0 < len(rows) < len(LEADING_SEEDS) else told or "–"


def preparation(document: dict[str, Any]) -> str:
    """Rates and memory of preparing BreizhCrops, by form of the files."""
    forms = {"h5": "h5 → store; h5 → tensors", "csv": "zip of csv → store; → h5"}
    lines = []
    for form, title in forms.items():
        summary = document[form]["summary"]
        rate, peak = summary["parcels_per_cpu_second"], summary["peak_mb"]
        lines.append(
            [title, f"{summary['parcels']:,}", f"{rate['ours']:,.0f} /s", f"{rate['breizhcrops']:,.0f} /s",
             f"{rate['faster']:g} ({rate['faster_at_least']:g})", *(f"{peak[size]} MB" for size in peak)]
        )  # fmt: skip
    version = document["versions"]["breizhcrops"]
    head = ["work", "parcels", "this project", f"`breizhcrops` {version}", "faster (at least)", "peak, one region",
            "peak, all regions"]  # fmt: skip
    return f"Command: `python benchmarks/prepare.py`. Machine: {document['machine']}.\n\n" + markdown(head, lines, 1)


def shifts(document: dict[str, Any]) -> str:
    """What each remedy against shift gives: macro-F1 / accuracy, mean over seeds, by data set and label share."""
    rows = document["rows"]
    columns = sorted({(row["data"], row["labels"]) for row in rows}, key=lambda c: (c[0], float(c[1].rstrip("%"))))
    lines = []
    for model, variant in dict.fromkeys((row["model"], row["variant"]) for row in rows):
        cells = []
        for data, labels in columns:
            wanted = (model, variant, data, labels)
            scored = [r for r in rows if (r["model"], r["variant"], r["data"], r["labels"]) == wanted]
            pair = [f"{100 * fmean(r[name] for r in scored):.1f}" for name in ("macro_f1", "accuracy") if scored]
            refused = sum(row.get("accepted") is False for row in scored)
            told = f" ({refused} of {len(scored)} refused)" if refused else f" ({len(scored)})"
            cells.append(" / ".join(pair) + told if scored else "–")
        lines.append([f"`{model}`", variant, *cells])
    lines.sort(key=lambda line: ("tgem", "realnvp", "pool").index(line[0].strip("`")))
    head = ["model", "", *(f"{NAMES.get(data, data).partition(',')[0]}, {labels}" for data, labels in columns)]
    told = f"Command: `{document['command']}`; {document['cells']} of {document['planned']} trainings are in."
    return told + "\n\n" + markdown(head, lines, 2)


def filled(text: str, name: str, content: str) -> str:
    """The text with what stands between the markers of `name` replaced."""
    pattern = re.compile(rf"(<!-- {name}:begin -->\n).*?(<!-- {name}:end -->)", re.DOTALL)
    if not pattern.search(text):
        raise SystemExit(f"no markers for {name}")
    return pattern.sub(lambda m: f"{m[1]}{content}\n{m[2]}", text)


def documents() -> dict[Path, str]:
    """Every generated document and what it must hold."""
    scores = json.loads(ACCURACY.read_text(encoding="utf-8"))
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    columns = prediction_columns() + "\n\nFlags:\n\n" + flag_list()
    for name, content in (
        ("columns", columns), ("models", family_table()), ("results", headline(scores["rows"])),
    ):  # fmt: skip
        text = filled(text, name, content)
    bench = HERE / "README.md"
    prepared = preparation(json.loads(PREPARE.read_text(encoding="utf-8")))
    told = filled(bench.read_text(encoding="utf-8"), "prepare", prepared)
    models = ROOT / "docs" / "models.md"
    listed = filled(models.read_text(encoding="utf-8"), "models", model_table())
    remedies = ROOT / "docs" / "shift.md"
    shown = filled(remedies.read_text(encoding="utf-8"), "shift", shifts(json.loads(SHIFT.read_text(encoding="utf-8"))))
    return {readme: text, bench: told, models: listed, remedies: shown}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a table is out of date")
    options = parser.parse_args()
    stale = []
    for path, content in documents().items():
        if path.read_text(encoding="utf-8") != content:
            stale.append(path)
            if not options.check:
                path.write_text(content, encoding="utf-8")
    for path in stale:
        print(f"{'out of date' if options.check else 'wrote'}: {path.relative_to(ROOT)}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
