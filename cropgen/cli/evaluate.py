"""`cropgen evaluate`: models, label shares and seeds over a protocol in, evaluation.json out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cropgen.cli import render
from cropgen.cli.options import (
    GLOBAL_NOTE,
    DryRun,
    Overwrite,
    Regions,
    Series,
    Settings,
    Years,
    parse_settings,
    split_list,
    split_numbers,
)
from cropgen.cli.session import session_of


def evaluate(
    context: typer.Context,
    protocol: Annotated[str, typer.Option("--protocol", help="holdout, cross-year or cross-region.")] = "holdout",
    model: Annotated[str, typer.Option("--model", help="Models compared, comma-separated.")] = "pool",
    labels: Annotated[str, typer.Option("--labels", help="Label shares compared, comma-separated.")] = "100%",
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds, comma-separated.")] = "0,1,2",
    data: Series = None,
    years: Years = None,
    regions: Regions = None,
    calendar: Annotated[
        str, typer.Option("--calendar", help="auto, pentad, dekad, half-month, 16-day or month.")
    ] = "auto",
    settings: Settings = None,
    test_share: Annotated[
        float, typer.Option("--test-share", help="Share of the spatial blocks that is held out.")
    ] = 0.3,
    block_km: Annotated[float, typer.Option("--block-km", help="Side of the spatial blocks, kilometres.")] = 1.0,
    validation: Annotated[
        str | None,
        typer.Option("--validation", metavar="SHARE", help="Share of the labels kept for choices: 20%. Default: none."),
    ] = None,
    neighbour_m: Annotated[
        float, typer.Option("--neighbour-m", help="Parcels nearer than this, metres, must not be on both sides.")
    ] = 10.0,
    on_leak: Annotated[
        str, typer.Option("--on-leak", help="fail, or drop: leave leaking rows out of the training.")
    ] = "fail",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Folder of evaluation.json. Default: reports/<protocol>."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Keep the cells that are done.")] = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train and test on held-out parcels, years or regions, and score with intervals."""
    from cropgen import api

    session = session_of(context)
    request = api.EvaluateRequest(
        protocol=protocol, models=split_list(model), labels=split_list(labels), seeds=split_numbers(seeds, "--seeds"),
        series=data, years=split_numbers(years, "--years"), regions=split_list(regions), calendar=calendar,
        options=parse_settings(settings), test_share=test_share, block_km=block_km,
        validation=validation, neighbour_m=neighbour_m, on_leak=on_leak, output=output,
    )  # fmt: skip
    result = api.evaluate(
        session.workspace, request, resume=resume, overwrite=overwrite, dry_run=dry_run, report=session.report
    )
    session.show("evaluate", result, *render.evaluate_summary(result))


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(evaluate)
