"""`cropgen aggregate`: scenes and polygons in, a series store out."""

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
    split_numbers,
    year_or_column,
)
from cropgen.cli.session import session_of


def aggregate(
    context: typer.Context,
    scenes: Annotated[Path, typer.Argument(help="Folder of scenes by date, a NetCDF or zarr cube, or several.")],
    parcels: Annotated[
        list[Path], typer.Argument(help="Polygons: any OGR format or GeoParquet; several files add up.")
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Data set: data/NAME/series.zarr. Default: that of the scenes' folder.")
    ] = None,
    output: StoreOutput = None,
    layer: Annotated[str | None, typer.Option("--layer", help="Layer of the parcel file.")] = None,
    id_column: IdColumn = None,
    label_column: LabelColumn = None,
    name_column: NameColumn = None,
    region_column: RegionColumn = None,
    year: YearOrColumn = None,
    crs: Annotated[str | None, typer.Option("--crs", help="Coordinate system of parcels that state none.")] = None,
    bands: Annotated[str | None, typer.Option("--bands", metavar="B,B", help="Bands read. Default: all.")] = None,
    statistics: Annotated[
        str | None,
        typer.Option("--statistics", metavar="S,S", help="Besides the mean: std, median, count, p10, p90, …"),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option("--method", help="centre: pixels whose centre lies inside; coverage: by the share covered."),
    ] = None,
    clear: Annotated[
        str | None, typer.Option("--clear", metavar="N,N", help="Clear SCL classes; 'none' uses no mask.")
    ] = None,
    cloud_probability: Annotated[
        float | None,
        typer.Option("--cloud-probability", min=0, max=100, help="Largest of a clear pixel, in percent."),
    ] = None,
    dilate: Annotated[
        float | None, typer.Option("--dilate", min=0, help="Metres that clouds and their shadows are grown by.")
    ] = None,
    buffer: Annotated[float | None, typer.Option("--buffer", min=0, help="Metres each parcel is shrunk by.")] = None,
    min_pixels: Annotated[
        int | None, typer.Option("--min-pixels", min=1, help="Clear pixels an observation needs.")
    ] = None,
    min_share: Annotated[
        float | None, typer.Option("--min-share", min=0, max=1, help="Share of a parcel's pixels that must be clear.")
    ] = None,
    pixels: Annotated[
        int | None,
        typer.Option("--pixels", min=1, metavar="N", help="Keep N pixels of each parcel too, for pse-ltae: e.g. 64."),
    ] = None,
    season: Annotated[
        str | None, typer.Option("--season", metavar="MM-DD,MM-DD", help="First and last day. Default: the year.")
    ] = None,
    scale: Annotated[float | None, typer.Option("--scale", help="Reflectance per stored unit.")] = None,
    offset: Annotated[float | None, typer.Option("--offset", help="Reflectance at stored 0.")] = None,
    nodata: Annotated[
        float | None, typer.Option("--nodata", help="Stored value that means missing, for scenes that state none.")
    ] = None,
    merge: Merge = None,
    crop_codes: CropCodes = None,
    to: To = None,
    encoding: Annotated[str | None, typer.Option("--encoding", help="Encoding of the parcels' text.")] = None,
    add: Annotated[
        list[str] | None,
        typer.Option("--add", metavar="KIND=PATH", help="Further channels: s1, s1-db, weather or dem. Repeatable."),
    ] = None,
    engine: Annotated[
        str | None, typer.Option("--engine", help="serial, processes or dask. Default: as --jobs and --scheduler say.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", help="Acquisitions at a time.")] = 1,
    scheduler: Annotated[
        str | None, typer.Option("--scheduler", metavar="ADDRESS", help="A dask scheduler that runs already.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Use what an unfinished or kept run left; an existing store is replaced.")
    ] = False,
    keep_work: Annotated[
        bool, typer.Option("--keep-work", help="Keep single dates, so that --resume later does only what changed.")
    ] = False,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Take the statistics of the clear pixels of every band over every parcel and date."""
    from cropgen import api

    session = session_of(context)
    chosen = {
        "bands": split_list(bands) or None, "buffer": buffer, "min_pixels": min_pixels, "pixels": pixels,
        "min_share": min_share, "season": split_list(season) or None, "scale": scale,
        "offset": offset, "nodata": nodata,
        "clear": () if clear == "none" else (split_numbers(clear, "--clear") or None),
        "statistics": split_list(statistics) or None, "method": method, "cloud_probability": cloud_probability,
        "dilate": dilate,
    }  # fmt: skip
    columns = {
        "layer": layer, "id": id_column, "label": label_column, "name": name_column, "region": region_column,
        "year": year_or_column(year), "crs": crs, "merge": parse_merge(merge),
        "crop_codes": None if crop_codes is None else str(crop_codes), "to": to, "encoding": encoding,
    }  # fmt: skip
    result = api.aggregate(
        session.workspace, scenes, parcels, name=name, output=output, columns=columns, options=chosen,
        engine=engine, jobs=jobs, scheduler=scheduler, resume=resume, keep_work=keep_work, add=add or (),
        overwrite=overwrite, dry_run=dry_run, report=session.report,
    )  # fmt: skip
    session.show("aggregate", result, *render.store_summary(result))


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(aggregate)
