"""`cropgen import`: a table of band values in, a series store out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cropgen.cli import render
from cropgen.cli.options import (
    GLOBAL_NOTE,
    CropCodes,
    DryRun,
    IdColumn,
    LabelColumn,
    Merge,
    NameColumn,
    Overwrite,
    RegionColumn,
    StoreOutput,
    To,
    YearOrColumn,
    parse_merge,
    split_list,
    year_or_column,
)
from cropgen.cli.session import session_of
from cropgen.core.errors import UsageError


def import_(
    context: typer.Context,
    table: Annotated[Path, typer.Argument(help="csv, parquet or xlsx; a row per parcel and date, or per parcel.")],
    parcels: Annotated[Path | None, typer.Option("--parcels", help="Polygons, joined by parcel id.")] = None,
    mapping: Annotated[
        Path | None, typer.Option("--mapping", metavar="TOML", help="Column mapping; the options here win over it.")
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", help="Data set: data/NAME/series.zarr. Default: that of the table.")
    ] = None,
    output: StoreOutput = None,
    layout: Annotated[str | None, typer.Option("--layout", help="long, wide or auto.")] = None,
    id_column: IdColumn = None,
    date_column: Annotated[str | None, typer.Option("--date-column", help="Date (long). Default: recognised.")] = None,
    date_format: Annotated[str | None, typer.Option("--date-format", help="strptime format of dates.")] = None,
    label_column: LabelColumn = None,
    name_column: NameColumn = None,
    region_column: RegionColumn = None,
    year: YearOrColumn = None,
    bands: Annotated[
        str | None, typer.Option("--bands", metavar="B=COL,…", help="Band = column. Default: recognised.")
    ] = None,
    pattern: Annotated[
        str | None, typer.Option("--pattern", help="Names of the value columns (wide), e.g. '{band}_{date}'.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option("--scale", help="Reflectance per unit (spectral bands), e.g. 0.0001.")
    ] = None,
    nodata: Annotated[float | None, typer.Option("--nodata", help="Value that means missing.")] = None,
    clear_column: Annotated[
        str | None, typer.Option("--clear-column", help="Column that says whether an observation is clear.")
    ] = None,
    attributes: Annotated[
        Path | None,
        typer.Option("--attributes", help="Second table with further columns, joined by id (and year) or row."),
    ] = None,
    merge: Merge = None,
    crop_codes: CropCodes = None,
    to: To = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Read a long or wide table of band values per parcel and date."""
    from cropgen import api

    session = session_of(context)
    options = {
        "layout": layout, "id": id_column, "date": date_column, "date_format": date_format, "label": label_column,
        "name": name_column, "region": region_column, "year": year_or_column(year),
        "bands": _band_columns(bands), "pattern": pattern, "scale": scale,
        "nodata": None if nodata is None else (nodata,), "clear": clear_column,
        "merge": parse_merge(merge), "attributes": None if attributes is None else str(attributes),
        "crop_codes": None if crop_codes is None else str(crop_codes), "to": to,
    }  # fmt: skip
    result = api.import_table(
        session.workspace, table, parcels=parcels, mapping=mapping, options=options, name=name, output=output,
        overwrite=overwrite, dry_run=dry_run, report=session.report,
    )  # fmt: skip
    session.show("import", result, *render.store_summary(result))


def _band_columns(text: str | None) -> dict[str, str] | None:
    """`B04=red,B08=nir` as a mapping; a part without `=` is a column of the band's own name."""
    if text is None:
        return None
    pairs = [part.partition("=") for part in split_list(text)]
    if any(not band for band, _, _ in pairs):
        raise UsageError(f"--bands {text!r}: expected BAND=COLUMN", hint="for example --bands B04=red,B08=nir")
    return {band: column or band for band, _, column in pairs}


def register(app: typer.Typer) -> None:
    app.command("import", epilog=GLOBAL_NOTE)(import_)
