"""`cropgen info`: what is in a series store, a run, an evaluation or a prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cropgen.cli import render
from cropgen.cli.options import GLOBAL_NOTE
from cropgen.cli.session import session_of


def info(
    context: typer.Context,
    path: Annotated[
        Path | None,
        typer.Argument(help="Series store, run folder or predictions. Default: the newest store.", show_default=False),
    ] = None,
    hcat: Annotated[
        int | None,
        typer.Option("--hcat", metavar="LEVEL", help="Count classes at a level of the HCAT tree: 3 coarse, 6 fine."),
    ] = None,
) -> None:
    """Describe a series store (classes, years, clear dates), a run, or predictions."""
    from cropgen import api

    session = session_of(context)
    result = api.info(session.workspace, path, hcat_level=hcat)
    for line in result.content.get("remarks", ()):
        session.report.warn(line)
    session.show("info", result, *render.info_panels(result))


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(info)
