"""`cropgen demo`: the whole chain on the embedded region, in a fresh folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cropgen.cli import render
from cropgen.cli.options import GLOBAL_NOTE, Overwrite
from cropgen.cli.session import session_of


def demo(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder made for the demonstration; a workspace of its own.")] = Path(
        "cropgen-demo"
    ),
    parcels: Annotated[int, typer.Option("--parcels", min=100, help="Parcels simulated.")] = 600,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Every random number derives from it.")] = 0,
    overwrite: Overwrite = False,
) -> None:
    """Simulate a region, aggregate, train, predict, evaluate across years, and write the map and the report."""
    from cropgen import api

    session = session_of(context)
    target = folder if folder.is_absolute() else session.workspace.root / folder
    result = api.demo(target, parcels=parcels, seed=seed, overwrite=overwrite, report=session.report)
    session.show("demo", result, *render.demo_summary(result))


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(demo)
