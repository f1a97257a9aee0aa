"""`cropgen transform`: a series store in, composites or smoothed series out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cropgen.cli import render
from cropgen.cli.options import GLOBAL_NOTE, DryRun, Overwrite, StoreOutput
from cropgen.cli.session import session_of


def transform(
    context: typer.Context,
    series: Annotated[Path, typer.Argument(help="Series store, or the folder it is in.")],
    composite: Annotated[
        str | None, typer.Option("--composite", metavar="10D|5D|month", help="One value per period of the season.")
    ] = None,
    statistic: Annotated[
        str | None, typer.Option("--statistic", help="Of a period: mean, median or max-ndvi. Default: mean.")
    ] = None,
    smooth: Annotated[
        str | None,
        typer.Option(
            "--smooth",
            metavar="whittaker:λ|savgol:W:P",
            help="Smooth each series: λ in days³, or polynomials of order P over W clear dates.",
        ),
    ] = None,
    interpolate: Annotated[
        str | None, typer.Option("--interpolate", help="Fill periods between observations: none or linear.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Data set: data/NAME/series.zarr.")] = None,
    output: StoreOutput = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Make composites of a period, smoothed or gap-filled series as a new series store."""
    from cropgen import api

    session = session_of(context)
    options = {"composite": composite, "statistic": statistic, "smooth": smooth, "interpolate": interpolate}
    result = api.transform(
        session.workspace, series, name=name, output=output, options=options, overwrite=overwrite, dry_run=dry_run,
        report=session.report,
    )  # fmt: skip
    session.show("transform", result, *render.store_summary(result))


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(transform)
