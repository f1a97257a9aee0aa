"""`cropgen train`: a series store in, a run folder out."""

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
    Seed,
    Series,
    Settings,
    Site,
    Standardise,
    Years,
    parse_settings,
    split_list,
    split_numbers,
)
from cropgen.cli.session import session_of


def train(
    context: typer.Context,
    model: Annotated[str, typer.Option("--model", help="A name of `cropgen models`.")] = "pool",
    labels: Annotated[str, typer.Option("--labels", help="Labels used: 10%, 0.1, or 50/class.")] = "100%",
    data: Series = None,
    years: Years = None,
    regions: Regions = None,
    unlabelled_years: Annotated[
        str | None, typer.Option("--unlabelled-years", metavar="Y,Y", help="Further years, used without labels.")
    ] = None,
    unlabelled_regions: Annotated[
        str | None, typer.Option("--unlabelled-regions", metavar="R,R", help="Further regions, used without labels.")
    ] = None,
    validation: Annotated[
        str | None,
        typer.Option("--validation", metavar="SHARE", help="Share of the labels kept for choices: 20%. Default: none."),
    ] = None,
    calibrate: Annotated[
        str, typer.Option("--calibrate", metavar="KIND", help="none, temperature or dirichlet; needs --validation.")
    ] = "none",
    bands: Annotated[str | None, typer.Option("--bands", metavar="B,B", help="Input bands. Default: all.")] = None,
    site: Site = None,
    calendar: Annotated[
        str, typer.Option("--calendar", help="auto, pentad, dekad, half-month, 16-day or month.")
    ] = "auto",
    standardise: Standardise = "none",
    pool: Annotated[
        str | None, typer.Option("--pool", metavar="NAME", help="Pool the model with this discriminative one.")
    ] = None,
    settings: Settings = None,
    kernel: Annotated[
        str | None, typer.Option("--kernel", help="Recurrence of dynamical models: auto, hoisted, reference or triton.")
    ] = None,
    seed: Seed = 0,
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu",
    name: Annotated[str | None, typer.Option("--name", help="Name of the run. Default: date, model, labels.")] = None,
    recipe: Annotated[
        Path | None, typer.Option("--recipe", metavar="TOML", help="Repeat this recipe; other choices are ignored.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run --name, or the newest unfinished one.")
    ] = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train a model on the labelled share of the parcels; models that can use the rest without labels do."""
    from cropgen import api

    session = session_of(context)
    request = api.TrainRequest(
        series=data, model=model, labels=labels, years=split_numbers(years, "--years"), regions=split_list(regions),
        unlabelled_years=split_numbers(unlabelled_years, "--unlabelled-years"),
        unlabelled_regions=split_list(unlabelled_regions), validation=validation, calibration=calibrate,
        bands=split_list(bands), site=split_list(site), calendar=calendar, standardise=standardise, pool=pool,
        options=parse_settings(settings) | ({"kernel": kernel} if kernel else {}), seed=seed,
        device=device, name=name, recipe=recipe,
    )  # fmt: skip
    result = api.train(
        session.workspace, request, resume=resume, overwrite=overwrite, dry_run=dry_run, report=session.report
    )
    session.show("train", result, render.train_summary(result))


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(train)
