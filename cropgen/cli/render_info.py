"""How `cropgen info` looks: parcel layers and the coverage of stores, beside what `render` shows of the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from cropgen.cli.render import count, facts_table, info_panels, path_line, plain_table

if TYPE_CHECKING:
    from cropgen import api

_CROPS = 30


def panels(result: api.Info) -> list[RenderableType]:
    """What a path holds."""
    content = dict(result.content)
    parcels = content.pop("parcels", None) if result.kind == "layer" else None
    content.pop("remarks", None)
    shown = info_panels(replace(result, content=content))
    if result.kind == "store":
        shown.append(_coverage(content["coverage"]))
        shown += [path_line("map", Path(content["map"]))] if "map" in content else []
    return shown if parcels is None else [*shown, *_parcels(parcels)]


def _coverage(coverage: dict[str, Any]) -> RenderableType:
    """How often the parcels of each region and year were clearly seen."""
    title = "Coverage: clear dates per parcel"
    if coverage["filled"]:
        title += f" ({count(coverage['filled'])} filled dates do not count)"
    table = plain_table(
        "region", "year", "parcels", "never seen", "5 %", "median", "95 %", "longest gap", title=title,
        numeric=frozenset(range(1, 8)),
    )  # fmt: skip
    for group in coverage["region_years"]:
        quantiles = (str(group["quantiles"].get(q, 0)) for q in ("0.05", "0.5", "0.95"))
        table.add_row(
            group["region"] or "–", str(group["year"]), count(group["rows"]), count(group["unseen"]), *quantiles,
            f"{group['longest_gap']} d",
        )  # fmt: skip
    return table


def _parcels(parcels: dict[str, Any]) -> list[RenderableType]:
    """The columns a layer is read by, and its crops."""
    roles = {"register": parcels["register"] or "not a known one"}
    names = {"id": "parcel id", "label": "crop code", "name": "crop name", "region": "region", "year": "year"}
    roles |= {names[role]: column or "–" for role, column in parcels["columns"].items()}
    roles["parcel id"] = parcels["columns"]["id"] or "the row number"
    if parcels["years"]:
        roles["years"] = ", ".join(f"{year} ({count(n)})" for year, n in parcels["years"].items())
    crops = plain_table("code", "crop", "HCAT", "", "parcels", title="Crops", numeric=frozenset({4}))
    for crop in parcels["crops"][:_CROPS]:
        crops.add_row(crop["code"], crop["name"], crop["hcat"] or "–", crop["hcat_name"] or "", count(crop["parcels"]))
    facts = facts_table(roles, title="Read as parcels")
    return [facts, crops] if parcels["crops"] else [facts]
