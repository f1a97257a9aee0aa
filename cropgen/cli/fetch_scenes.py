"""`cropgen fetch scenes`: its own words among those of `fetch`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from cropgen.cli.fetch_tables import verify_table
from cropgen.cli.render import count, facts_table, path_line
from cropgen.cli.session import Session
from cropgen.core.errors import CropgenError, UsageError

if TYPE_CHECKING:
    from cropgen import api

SCENES = "scenes"
_EXAMPLE = "cropgen fetch scenes --parcels region.gpkg --from 2023-10-01 --to 2024-09-30"


def require_words(name: str | None, for_scenes: dict[str, Any], for_data_sets: dict[str, Any]) -> None:
    """Refuse options that say nothing here.

    Arguments:
        for_scenes, for_data_sets: option → its value; false or None where it was not given.

    Raises:
        UsageError: an option of the other kind was given.
    """
    wrong = for_data_sets if name == SCENES else for_scenes
    given = [flag for flag, value in wrong.items() if value]
    if not given:
        return
    if name == SCENES:
        raise UsageError(f"{given[0]} is for data sets, not for scenes", hint=f"for example: {_EXAMPLE}")
    raise UsageError(f"{given[0]} is for scenes, not for {name or 'the list of data sets'}", hint=_EXAMPLE)


def fetch_scenes(
    session: Session, parcels: list[str] | None, first: str | None, last: str | None, **options: Any
) -> None:
    """Search, tell what was found, and bring it."""
    from cropgen import api

    missing = [flag for flag, value in (("--parcels", parcels), ("--from", first), ("--to", last)) if not value]
    if not parcels or not first or not last:
        raise UsageError(f"fetch scenes needs {' and '.join(missing)}", hint=f"for example: {_EXAMPLE}")
    given = {key: value for key, value in options.items() if value is not None}
    request = api.ScenesRequest(tuple(Path(path) for path in parcels), first, last, **given)
    result = api.fetch_scenes(session.workspace, request, report=session.report)
    session.show("fetch", result, *_summary(result, parcels))


def verify_scenes(session: Session, name: str | None) -> None:
    """Read what was fetched again; a damaged file ends in exit code 1."""
    from cropgen import api

    result = api.verify_scenes(session.workspace, name, report=session.report)
    session.show("fetch", result, verify_table(result))
    if not result.sound:
        raise typer.Exit(CropgenError.exit_code)


def parcel_count(parcels: list[str] | None) -> int | None:
    """How many parcels the demo region has; None for the full region.

    Raises:
        UsageError: it is no number, or too small.
    """
    if not parcels:
        return None
    if len(parcels) > 1 or not parcels[0].isdigit() or int(parcels[0]) < 50:
        raise UsageError(
            f"--parcels {' '.join(parcels)}: expected a number from 50 on",
            hint=f"it is the size of the demo region, or a file for: {_EXAMPLE}",
        )
    return int(parcels[0])


def _summary(result: api.ScenesResult, parcels: list[str]) -> list[RenderableType]:
    facts = {
        "catalogue": result.catalog,
        "items": count(result.items),
        "dates": f"{len(result.dates)}, {result.dates[0]} to {result.dates[-1]}",
        "tiles": ", ".join(result.tiles),
        "files": f"{count(result.files)}, {count(result.here)} of them here before",
        "to fetch" if result.dry_run else "estimated": f"about {result.estimated_bytes / 1e6:,.1f} MB",
    }
    if result.dry_run:
        return [facts_table(facts)]
    step = f"next: cropgen aggregate {result.scenes} {' '.join(parcels)}"
    facts["fetched"] = f"{count(result.fetched)} files"
    return [facts_table(facts), path_line("scenes", result.scenes), Text(step, "dim")]
