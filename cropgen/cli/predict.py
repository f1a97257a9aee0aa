"""`cropgen predict`: parcels and a run in, a styled GeoPackage of crops out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cropgen.cli import render
from cropgen.cli.options import GLOBAL_NOTE, DryRun, Overwrite, Run, Series
from cropgen.cli.session import session_of


def predict(
    context: typer.Context,
    parcels: Annotated[Path, typer.Argument(help="Parcels to classify: GeoPackage, shapefile, GeoJSON, GeoParquet.")],
    run: Run = None,
    data: Series = None,
    scenes: Annotated[
        Path | None,
        typer.Option(
            "--scenes", help="Aggregate these for the parcels, as the run's were, instead of reading a store."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="GeoPackage or GeoParquet. Default: predictions/<name of the input>.gpkg."),
    ] = None,
    year: Annotated[
        int | None, typer.Option("--year", help="Year of the parcels, when neither they nor the series settle it.")
    ] = None,
    id_column: Annotated[
        str | None, typer.Option("--id-column", help="Parcel id, several columns as A+B. Default: recognised.")
    ] = None,
    layer: Annotated[str | None, typer.Option("--layer", help="Layer of the parcel file.")] = None,
    crs: Annotated[
        str | None, typer.Option("--crs", help="Coordinate system of parcels that state none, with --scenes.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="MM-DD", help="Use only dates up to this day: early season.")
    ] = None,
    prior: Annotated[
        str | None,
        typer.Option(
            "--prior",
            metavar="em|uniform|CSV",
            help="Reweigh for other class shares: estimated from the parcels, equal, or a table crop_code,share.",
        ),
    ] = None,
    smooth_neighbours: Annotated[
        str | None,
        typer.Option(
            "--smooth-neighbours",
            metavar="STRENGTH|auto",
            help="Also give the crops smoothed over neighbours: 0.4 is mild, auto chooses by validation labels.",
        ),
    ] = None,
    neighbour_m: Annotated[
        float, typer.Option("--neighbour-m", min=0, help="Largest distance between the middles of neighbours, metres.")
    ] = 200.0,
    adapt: Annotated[
        bool,
        typer.Option("--adapt", help="First adapt the run to these parcels, without labels: a new season, region."),
    ] = False,
    min_probability: Annotated[
        float, typer.Option("--min-probability", min=0, max=1, help="Below it the flag low_confidence is set.")
    ] = 0.5,
    anomaly_level: Annotated[
        int | None,
        typer.Option(
            "--anomaly-level",
            min=0,
            help="Also tell how unusual a season is but for its finest levels of latents: lvae, biva, nvae, sdn-vae.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Write the crop of every parcel, with probabilities, likelihood and flags, styled for QGIS."""
    from cropgen import api

    session = session_of(context)
    request = api.PredictRequest(
        parcels=parcels, run=run, series=data, scenes=scenes, output=output, year=year, id_column=id_column,
        layer=layer, crs=crs, until=until, prior=prior, smooth_neighbours=smooth_neighbours, neighbour_m=neighbour_m,
        adapt=adapt, min_probability=min_probability, anomaly_level=anomaly_level,
    )  # fmt: skip
    result = api.predict(session.workspace, request, overwrite=overwrite, dry_run=dry_run, report=session.report)
    session.show("predict", result, *render.predict_summary(result))


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(predict)
