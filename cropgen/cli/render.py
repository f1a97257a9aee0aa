"""How results look on a terminal: tables and short summaries, nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from cropgen import api


def plain_table(*columns: str, title: str | None = None, numeric: frozenset[int] = frozenset()) -> Table:
    """A table with one rule under its head; columns whose position is in `numeric` are right-aligned."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", header_style="bold")
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position in numeric else "left")
    return table


def facts_table(facts: dict[str, Any], title: str | None = None) -> Table:
    """Names and values in two columns."""
    table = Table(box=None, show_header=False, title=title, title_justify="left", title_style="bold", pad_edge=False)
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for name, value in facts.items():
        table.add_row(name, str(value))
    return table


def path_line(what: str, path: Path) -> Text:
    """`what  path`, the path never wrapped away from its beginning."""
    return Text.assemble((f"{what:<12}", "dim"), (str(path), "bold"))


def count(value: float) -> str:
    """A whole number with thin thousands."""
    return f"{value:,.0f}".replace(",", "\u202f")


def percent(value: float | None) -> str:
    """A share as a percentage with one decimal; a dash for nothing."""
    return "–" if value is None or value != value else f"{100 * value:.1f}"


def models_table(entries: tuple[api.Entry, ...]) -> Table:
    """The catalogue."""
    table = plain_table("model", "family", "p(x|y)", "unlabelled", "what it is")
    for entry in entries:
        table.add_row(
            entry.name, entry.family, "yes" if entry.generative else "", "yes" if entry.semi_supervised else "",
            entry.summary,
        )  # fmt: skip
    return table


def model_card(card: api.ModelCard) -> list[RenderableType]:
    """One model: what it is, its reference, its options."""
    facts = {"family": card.entry.family, "reference": card.entry.reference}
    if card.aliases:
        facts["also called"] = ", ".join(card.aliases)
    options = plain_table("--set", "type", "default", "what it does")
    for option in card.options:
        options.add_row(option.key, option.kind, str(option.default), option.description)
    return [Panel(Text(card.text), title=card.entry.name, title_align="left"), facts_table(facts), options]


def store_summary(result: api.StoreResult, following: str = "cropgen train --labels 10%") -> list[RenderableType]:
    """What went into a series store, what was left out, and a command that may follow."""
    facts = {"parcel seasons": count(result.rows), "years": ", ".join(str(y) for y in result.years)}
    facts |= {"bands": ", ".join(result.bands), "crops": str(result.classes)}
    lines: list[RenderableType] = [facts_table(facts)]
    for reason, ids in result.dropped.items():
        lines.append(Text(f"{reason}: {ids.told()}", "yellow"))
    if not result.dry_run:
        lines += [path_line("series", result.series), Text(f"next: {following}", "dim")]
    return lines


def train_summary(result: api.TrainResult) -> RenderableType:
    """What was learnt from what, and where it is."""
    facts = {
        "model": result.model, "classes": f"{len(result.classes)}: {', '.join(result.classes)}",
        "labelled": count(result.labelled), "unlabelled": count(result.unlabelled),
        "run": "not trained: --dry-run" if result.dry_run else str(result.run),
    }  # fmt: skip
    if not result.dry_run:
        facts["seconds"] = f"{result.seconds:.1f}"
    return facts_table(facts)


def predict_summary(result: api.PredictResult) -> list[RenderableType]:
    """How many parcels of which crop, what was flagged, and where the layer is."""
    facts = facts_table({"parcels": count(result.parcels), "run": result.run_id})
    if result.dry_run:
        return [facts, path_line("would write", result.output)]
    assumed = ("assumed %",) if result.shares else ()
    table = plain_table("crop", "parcels", "share %", *assumed, numeric=frozenset({1, 2, 3}))
    for name, number in sorted(result.crops.items(), key=lambda pair: -pair[1]):
        shown = [percent(result.shares[name])] if result.shares else []
        table.add_row(name, count(number), percent(number / max(result.parcels, 1)), *shown)
    lines: list[RenderableType] = [facts, table]
    if result.flags:
        lines.append(Text("flags: " + ", ".join(f"{name} {count(n)}" for name, n in result.flags.items()), "yellow"))
    for name, changed in result.smoothed.items():
        lines.append(Text(f"smoothed over neighbours ({name}): {count(changed)} parcels change their crop", "dim"))
    return [*lines, path_line("predictions", result.output)]


def evaluate_summary(result: api.EvaluateResult) -> list[RenderableType]:
    """Mean scores over seeds, a row per model, label share and split; every training that would be done."""
    if result.dry_run:
        return _planned(result)
    strange = ("AUROC",) if any(row["auroc_out_of_legend"] is not None for row in result.summary) else ()
    table = plain_table(
        "model", "labels", "train → test", "seeds", "macro-F1", "accuracy", "NLL", "ECE", *strange,
        numeric=frozenset(range(3, 9)),
    )  # fmt: skip
    for row in result.summary:
        table.add_row(
            _contender(row), row["labels"], f"{row['train']} → {row['test']}{_seen(row)}", str(row["seeds"]),
            _spread(row), percent(row["accuracy"]), f"{row['nll']:.2f}", percent(row["ece"]),
            *(percent(row["auroc_out_of_legend"]) for _ in strange),
        )  # fmt: skip
    return [table, path_line("evaluation", result.evaluation), Text("next: cropgen report", "dim")]


def _planned(result: api.EvaluateResult) -> list[RenderableType]:
    done = sum(training["done"] for training in result.planned)
    facts = {"cells": str(result.cells), "done already": str(done), "would write": str(result.evaluation)}
    table = plain_table("model", "labels", "seed", "train → test", "parcels", "", numeric=frozenset({2, 4}))
    for training in result.planned:
        held = [exam for exam in training["tests"] if not exam["cut"]]
        names = ", ".join(dict.fromkeys(exam["test"] for exam in held))
        parcels = max((exam["rows"] for exam in held), default=0)
        table.add_row(
            _contender(training), training["labels"], str(training["seed"]),
            f"{training['train']} → {names}{_seen(training)}", count(parcels), "done" if training["done"] else "",
        )  # fmt: skip
    return [table, facts_table(facts)]


def _contender(row: dict[str, Any]) -> str:
    calibration = row.get("calibration", "none")
    told = [row["variant"], "" if calibration == "none" else calibration]
    variant = ", ".join(part for part in told if part)
    return f"{row['model']} ({variant})" if variant else row["model"]


def _seen(row: dict[str, Any]) -> str:
    """What of the season and of the target was seen."""
    until = f", {'cut at' if row.get('cut') else 'until'} {row['until']}" if row["until"] else ""
    return f"{until}{', with unlabelled target' if row['target_unlabelled'] else ''}"


def _spread(row: dict[str, Any]) -> str:
    """Mean macro-F1, with its standard deviation where there are several seeds."""
    mean = percent(row["macro_f1"])
    return f"{mean} ± {percent(row['macro_f1_sd'])}" if row["seeds"] > 1 else mean


def info_panels(result: api.Info) -> list[RenderableType]:
    """What a path holds."""
    content = result.content
    head = {"path": str(result.path), "kind": result.kind}
    if result.kind == "store":
        return [facts_table(head | _store_facts(content)), *_store_tables(content)]
    if result.kind == "evaluation":
        return [facts_table(head | {"protocol": content["protocol"], "score sheets": len(content["rows"])})]
    if result.kind == "run":
        return [facts_table(head | _run_facts(content))]
    return [facts_table(head | {k: _short(v) for k, v in content.items()})]


def _run_facts(content: dict[str, Any]) -> dict[str, Any]:
    rows, spec = content["data"]["rows"], content["spec"]
    facts = {
        "status": content["status"], "model": content["model"], "seed": content["seed"],
        "series": content["data"]["series"], "labels": content["data"]["labels"],
        "labelled": count(rows["labelled"]), "unlabelled": count(rows["unlabelled"]),
        "classes": ", ".join(c["name"] for c in spec["legend"]["classes"]), "bands": ", ".join(spec["bands"]),
        **({"site": ", ".join(spec["site"])} if "site" in spec else {}),
        "calendar": f"{spec['calendar']['count']} slots, {spec['calendar']['kind']}", "begun": content["begun"],
    }  # fmt: skip
    if "seconds" in content:
        facts["seconds"] = f"{content['seconds']:.1f}"
    guard = content.get("facts", {}).get("tgem", {})
    return facts | {f"tgem {key}": _short(value) for key, value in guard.items() if not isinstance(value, dict)}


def _short(value: Any, limit: int = 100) -> str:
    text = ", ".join(str(v) for v in value) if isinstance(value, list) else str(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _store_facts(content: dict[str, Any]) -> dict[str, Any]:
    quantiles = content["clear_dates"]["quantiles"]
    facts = {
        "parcel seasons": count(content["rows"]), "parcels": count(content["parcels"]),
        "years": ", ".join(f"{year} ({count(n)})" for year, n in content["years"].items()),
        "regions": ", ".join(f"{name or '–'} ({count(n)})" for name, n in content["regions"].items()),
        "legend": content["legend"], "without label": count(content["unlabelled"]),
        "coordinates": _crs_name(content["crs"]),
    }  # fmt: skip
    if quantiles:
        span = f"90 % between {quantiles['0.05']:.0f} and {quantiles['0.95']:.0f}"
        facts["clear dates"] = f"median {quantiles['0.5']:.0f}, {span}"
    if inside := content.get("pixel_sets"):
        facts["pixel sets"] = f"{inside['pixels']} pixels of {', '.join(inside['bands'])}"
    return facts | {"fingerprint": content["fingerprint"][:16]}


def _crs_name(crs: str | None) -> str:
    """The name inside a WKT, or the text itself."""
    return crs.split('"')[1] if crs and '"' in crs else crs or "none"


def _store_tables(content: dict[str, Any]) -> list[RenderableType]:
    years = list(content["years"])
    crops = plain_table(
        "crop", "code", *years, "all", "prior %", title="Labels", numeric=frozenset(range(2, len(years) + 4))
    )
    for entry in sorted(content["classes"], key=lambda c: -c["count"]):
        crops.add_row(
            Text.assemble(("■ ", entry["colour"]), entry["name"]), entry["code"],
            *(count(entry["years"][y]["count"]) for y in years), count(entry["count"]), percent(entry["prior"]),
        )  # fmt: skip
    months = plain_table("month", "clear dates per parcel", "", title="Clear dates", numeric=frozenset({1}))
    top = max(content["clear_dates"]["months"].values(), default=0) or 1
    for month, mean in content["clear_dates"]["months"].items():
        months.add_row(month, f"{mean:.1f}", "▇" * round(24 * mean / top))
    bands = plain_table("band", "5 %", "median", "95 %", "mean", title="Bands", numeric=frozenset(range(1, 5)))
    for band in content["bands"]:
        if band["observations"]:
            bands.add_row(band["name"], *(f"{band[key]:.3f}" for key in ("q05", "q50", "q95", "mean")))
    return [crops, months, bands]


def doctor_table(result: api.Doctor) -> RenderableType:
    """The installation at a glance."""
    facts = result.versions | {"devices": ", ".join(result.devices)} | result.folders
    facts["state"] = "healthy" if result.healthy else "; ".join(result.problems)
    return facts_table(facts)


def demo_summary(result: api.DemoResult) -> list[RenderableType]:
    """What the demonstration made."""
    return [
        *evaluate_summary(result.evaluation)[:1],
        facts_table({"seconds": f"{result.seconds:.0f}"}),
        path_line("map", result.map),
        path_line("report", result.report),
    ]
