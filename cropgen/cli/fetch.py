"""`cropgen fetch`: list the data sets, or bring one into the workspace."""

from __future__ import annotations

from typing import Annotated

import typer

from cropgen.cli import render
from cropgen.cli.options import GLOBAL_NOTE, DryRun, Overwrite
from cropgen.cli.session import session_of


def fetch(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="A data set; without it, list them.", show_default=False)] = None,
    parcels: Annotated[
        int | None, typer.Option("--parcels", min=50, help="Demo region: parcels simulated. Default: the full region.")
    ] = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """List the data sets, or bring one into the workspace."""
    from cropgen import api

    session = session_of(context)
    if name is None:
        listing = api.list_datasets(session.workspace)
        session.show("fetch", listing, render.datasets_table(listing))
        return
    result = api.fetch(
        session.workspace, name, parcels=parcels, overwrite=overwrite, dry_run=dry_run, report=session.report
    )
    session.show("fetch", result, *render.fetch_summary(result))


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(fetch)
