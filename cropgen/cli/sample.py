"""`cropgen sample`: a run in, seasons drawn from its density out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cropgen.cli import render
from cropgen.cli.options import GLOBAL_NOTE, DryRun, Overwrite, Run, Seed, split_list
from cropgen.cli.session import session_of


def sample(
    context: typer.Context,
    run: Run = None,
    classes: Annotated[
        str | None, typer.Option("--classes", metavar="CODE,CODE", help="Crop codes. Default: all the model knows.")
    ] = None,
    count: Annotated[int, typer.Option("--count", min=1, help="Seasons of each crop.")] = 100,
    temperature: Annotated[
        float, typer.Option("--temperature", min=0, help="Scale of the noise; 0: what is expected.")
    ] = 1.0,
    year: Annotated[int | None, typer.Option("--year", help="Of the season. Default: the last learnt from.")] = None,
    seed: Seed = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Series store. Default: samples/<run>.zarr.")
    ] = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Draw seasons of crops from the density of a run, as a series store."""
    from cropgen import api

    session = session_of(context)
    request = api.SampleRequest(
        run=run, classes=split_list(classes), count=count, temperature=temperature, year=year, seed=seed, output=output
    )
    result = api.sample(session.workspace, request, overwrite=overwrite, dry_run=dry_run, report=session.report)
    session.show("sample", result, *render.store_summary(result, f"cropgen info {result.series}"))


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(sample)
