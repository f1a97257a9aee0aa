"""How `cropgen info` looks: parcel layers and the coverage of stores, beside what `render` shows of the rest."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType

from cropgen.cli.render import count, facts_table, info_panels, plain_table

if TYPE_CHECKING:
    from cropgen import api

_CROPS = 30


def panels(result: api.Info) -> list[RenderableType]:
    """What a path holds."""
    content = dict(result.content)
    parcels = content.pop("parcels", None) if result.kind == "layer" else None
    content.pop("remarks", None)
    shown = info_panels(replace(result, content=content))
    return shown if parcels is None else [*shown, *_parcels(parcels)]


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
