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
    Site,
    Standardise,
    Years,
    parse_settings,
    parse_vary,
    split_list,
    split_numbers,
)
from cropgen.cli.session import session_of


def evaluate(
    context: typer.Context,
    protocol: Annotated[
        str,
        typer.Option(
            "--protocol",
            help="holdout, blocks, cross-year, cross-region, leave-one-year-out, leave-one-region-out, label-curve, "
            "early-season, out-of-legend, ablation, or one the data set was published with.",
        ),
    ] = "holdout",
    model: Annotated[str, typer.Option("--model", help="Models compared, comma-separated.")] = "pool",
    labels: Annotated[
        str | None,
        typer.Option("--labels", help="Label shares, comma-separated. Default: 100%, or 1 to 100% for label-curve."),
    ] = None,
    seeds: Annotated[str, typer.Option("--seeds", help="Seeds, comma-separated.")] = "0,1,2",
    data: Series = None,
    years: Years = None,
    regions: Regions = None,
    calendar: Annotated[
        str, typer.Option("--calendar", help="auto, pentad, dekad, half-month, 16-day or month.")
    ] = "auto",
    site: Site = None,
    standardise: Standardise = "none",
    settings: Settings = None,
    vary: Annotated[
        list[str] | None,
        typer.Option("--vary", metavar="KEY=A,B", help="Compare values of an option, repeatable; MODEL.KEY for one."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="D,D", help="Ends of the season too: MM-DD, or days after 1 January."),
    ] = None,
    unlabelled_target: Annotated[
        bool,
        typer.Option("--unlabelled-target", help="Train also with the unlabelled parcels of the test year or region."),
    ] = False,
    prior: Annotated[
        str, typer.Option("--prior", help="Class shares assumed at the test: training, em or uniform.")
    ] = "training",
    tune: Annotated[
        int, typer.Option("--tune", metavar="N", min=0, help="Option sets each model may try on validation blocks.")
    ] = 0,
    test_share: Annotated[
        float, typer.Option("--test-share", help="Share of the spatial blocks that is held out.")
    ] = 0.3,
    block_km: Annotated[float, typer.Option("--block-km", help="Side of the spatial blocks, kilometres.")] = 1.0,
    parts: Annotated[int, typer.Option("--parts", help="Parts of the protocol blocks, each held out once.")] = 5,
    validation: Annotated[
        str | None,
        typer.Option("--validation", metavar="SHARE", help="Share of the labels kept for choices: 20%. Default: none."),
    ] = None,
    calibrate: Annotated[
        str,
        typer.Option("--calibrate", metavar="KIND", help="Score with and without: temperature or dirichlet."),
    ] = "none",
    neighbour_m: Annotated[
        float, typer.Option("--neighbour-m", help="Parcels nearer than this, metres, must not be on both sides.")
    ] = 10.0,
    on_leak: Annotated[
        str, typer.Option("--on-leak", help="fail, or drop: leave leaking rows out of the training.")
    ] = "fail",
    engine: Annotated[
        str | None, typer.Option("--engine", help="serial, processes or dask. Default: as --jobs and --scheduler say.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", help="Trainings at a time.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="ADDRESS", help="A dask scheduler that runs already.")
    ] = None,
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
        site=split_list(site), standardise=standardise, prior=prior,
        options=parse_settings(settings), vary=parse_vary(vary), until=split_list(until),
        unlabelled_target=unlabelled_target, tune=tune, test_share=test_share, block_km=block_km, parts=parts,
        validation=validation, calibration=calibrate, neighbour_m=neighbour_m, on_leak=on_leak, engine=engine,
        jobs=jobs, scheduler=scheduler, output=output,
    )  # fmt: skip
    result = api.evaluate(
        session.workspace, request, resume=resume, overwrite=overwrite, dry_run=dry_run, report=session.report
    )
    session.show("evaluate", result, *render.evaluate_summary(result))


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(evaluate)
