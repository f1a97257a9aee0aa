"""`cropgen report`: evaluations, runs and predictions in, one self-contained HTML page out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cropgen.cli import render
from cropgen.cli.options import GLOBAL_NOTE, Overwrite
from cropgen.cli.session import session_of


def report(
    context: typer.Context,
    evaluations: Annotated[
        list[Path] | None,
        typer.Argument(help="evaluation.json files or their folders. Default: all below reports/.", show_default=False),
    ] = None,
    runs: Annotated[
        list[Path] | None, typer.Option("--run", help="Runs, a folder or a name, repeatable. Default: the newest.")
    ] = None,
    predictions: Annotated[
        Path | None, typer.Option("--predictions", help="Predictions to draw as a map. Default: the newest.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Default: reports/report.html.")] = None,
    overwrite: Overwrite = False,
) -> None:
    """Write one HTML page with scores, plots and the map; it needs no network and no other file."""
    from cropgen import api

    session = session_of(context)
    result = api.write_page(
        session.workspace, evaluations=evaluations, runs=runs, predictions=predictions, output=output,
        overwrite=overwrite, report=session.report,
    )  # fmt: skip
    session.show("report", result, render.path_line("report", result.report))


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(report)
