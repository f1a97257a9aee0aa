"""`cropgen info`: what is in a series store, a run, an evaluation or a prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cropgen.cli import render_info
from cropgen.cli.options import (
    GLOBAL_NOTE,
    CropCodes,
    IdColumn,
    LabelColumn,
    NameColumn,
    Overwrite,
    YearOrColumn,
    year_or_column,
)
from cropgen.cli.session import session_of


def info(
    context: typer.Context,
    path: Annotated[
        Path | None,
        typer.Argument(
            help="Series store, run folder, predictions or parcels. Default: the newest store.", show_default=False
        ),
    ] = None,
    hcat: Annotated[
        int | None,
        typer.Option("--hcat", metavar="LEVEL", help="Count classes at a level of the HCAT tree: 3 coarse, 6 fine."),
    ] = None,
    layer: Annotated[str | None, typer.Option("--layer", help="Layer of a parcel file.")] = None,
    id_column: IdColumn = None,
    label_column: LabelColumn = None,
    name_column: NameColumn = None,
    year: YearOrColumn = None,
    crop_codes: CropCodes = None,
    map_to: Annotated[
        Path | None,
        typer.Option("--map", metavar="FILE", help="Map of a store's clear dates: .gpkg, .html or .png."),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Describe a series store (classes, years, clear dates), a run, predictions, or a parcel layer."""
    from cropgen import api

    session = session_of(context)
    columns = {
        "layer": layer, "id": id_column, "label": label_column, "name": name_column, "year": year_or_column(year),
        "crop_codes": None if crop_codes is None else str(crop_codes),
    }  # fmt: skip
    result = api.info(
        session.workspace, path, hcat_level=hcat, columns=columns, map_to=map_to, overwrite=overwrite,
        report=session.report,
    )  # fmt: skip
    for line in result.content.get("remarks", ()):
        session.report.warn(line)
    session.show("info", result, *render_info.panels(result))


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(info)
