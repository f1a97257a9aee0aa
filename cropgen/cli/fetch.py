"""`cropgen fetch`: list the data sets, bring one or scenes into the workspace, or verify what was brought."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from cropgen.cli import fetch_scenes, fetch_tables
from cropgen.cli.options import (
    GLOBAL_NOTE,
    DryRun,
    Overwrite,
    parse_settings,
    split_list,
    split_numbers,
)
from cropgen.cli.session import Session, session_of
from cropgen.core.errors import CropgenError, UsageError

_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9}
_LEAST_RATE = 1000.0

Years = Annotated[str | None, typer.Option("--year", "--years", metavar="Y,Y", help="Years. Default: the usual ones.")]
Regions = Annotated[str | None, typer.Option("--regions", metavar="R,R", help="Regions. Default: the usual ones.")]
Level = Annotated[str | None, typer.Option("--level", help="Processing level, such as L1C. Default: the usual one.")]
Brought = Annotated[
    str | None,
    typer.Option(
        "--from", metavar="DIR", help="Take the files from this folder, not from the network. Scenes: first date."
    ),
]
Rate = Annotated[
    str | None, typer.Option("--limit-rate", metavar="RATE", help="Bytes per second at most, all files together: 5M.")
]
Manifests = Annotated[
    Path | None,
    typer.Option("--manifests", metavar="DIR", help="Manifests of your own, such as mirrors inside an institute."),
]
Parcels = Annotated[
    list[str] | None,
    typer.Option("--parcels", metavar="FILE", help="Scenes: where; several add up. Demo region: a number of parcels."),
]
Last = Annotated[str | None, typer.Option("--to", metavar="DATE", help="Scenes: last date.")]
Cloud = Annotated[float | None, typer.Option("--max-cloud", min=0, max=100, help="Scenes: per cent. Default: 60.")]
Catalogue = Annotated[
    str | None,
    typer.Option(
        "--catalog", help="Scenes: earth-search (default), planetary-computer, cdse, an address, a catalog.json."
    ),
]
Collection = Annotated[str | None, typer.Option("--collection", help="Scenes: in place of the catalogue's usual one.")]
Endpoint = Annotated[
    str | None, typer.Option("--s3-endpoint", metavar="URL", help="Scenes: server of s3:// addresses.")
]
Bands = Annotated[
    str | None, typer.Option("--bands", metavar="B,B", help="Scenes: bands. Default: the ten of the land.")
]
ReaderSettings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="An option of the data set's reader, repeatable.")
]


def fetch(
    context: typer.Context,
    name: Annotated[
        str | None, typer.Argument(help="A data set, or scenes; without it, list the data sets.", show_default=False)
    ] = None,
    regions: Regions = None,
    years: Years = None,
    level: Level = None,
    brought: Brought = None,
    offline: Annotated[bool, typer.Option("--offline", help="Open no connection; use what is here.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read the files that are here again and judge them.")
    ] = False,
    files_only: Annotated[bool, typer.Option("--no-prepare", help="Stop when the files are here.")] = False,
    store: Annotated[str | None, typer.Option("--name", help="Folder in data/ for the result. Default: NAME.")] = None,
    settings: ReaderSettings = None,
    keep_archives: Annotated[bool, typer.Option("--keep-archives", help="Keep archives that were unpacked.")] = False,
    jobs: Annotated[int, typer.Option("--jobs", min=1, max=32, help="Files fetched side by side.")] = 4,
    limit_rate: Rate = None,
    retries: Annotated[int, typer.Option("--retries", min=0, help="Further attempts when a connection drops.")] = 5,
    timeout: Annotated[float, typer.Option("--timeout", min=0.1, help="Seconds of silence that are a drop.")] = 30.0,
    manifests: Manifests = None,
    insecure: Annotated[
        bool, typer.Option("--insecure-mirror", help="Let manifests of your own name plain http.")
    ] = False,
    parcels: Parcels = None,
    last: Last = None,
    max_cloud: Cloud = None,
    catalog: Catalogue = None,
    collection: Collection = None,
    endpoint: Endpoint = None,
    bands: Bands = None,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """List the data sets, bring one or scenes of Sentinel-2 into the workspace, or verify what was brought."""
    from cropgen import api

    session = session_of(context)
    fetch_scenes.require_words(
        name,
        {
            "--to": last, "--max-cloud": max_cloud is not None, "--catalog": catalog, "--collection": collection,
            "--s3-endpoint": endpoint, "--bands": bands,
        },
        {
            "--regions": regions, "--year": years, "--level": level, "--offline": offline, "--set": settings,
            "--no-prepare": files_only, "--keep-archives": keep_archives, "--limit-rate": limit_rate,
            "--manifests": manifests, "--insecure-mirror": insecure, "--overwrite": overwrite,
        },
    )  # fmt: skip
    if name == fetch_scenes.SCENES and verify:
        fetch_scenes.verify_scenes(session, store)
        return
    if name == fetch_scenes.SCENES:
        fetch_scenes.fetch_scenes(
            session, parcels, brought, last, max_cloud=max_cloud, catalog=catalog, collection=collection,
            endpoint=endpoint, bands=split_list(bands), name=store, jobs=jobs, retries=retries, timeout=timeout,
            dry_run=dry_run,
        )  # fmt: skip
        return
    if insecure and manifests is None:
        raise UsageError("--insecure-mirror needs --manifests", hint="the package's own manifests are https only")
    if verify:
        _verify(session, name, manifests, insecure)
        return
    if name is None:
        listing = api.list_datasets(session.workspace, manifests=manifests, insecure=insecure)
        session.show("fetch", listing, fetch_tables.datasets_table(listing))
        return
    request = api.FetchRequest(
        name, split_list(regions), split_numbers(years, "--year"), level, store, parse_settings(settings),
        Path(brought) if brought else None, offline, not files_only, keep_archives, jobs, retries, timeout,
        parse_rate(limit_rate), manifests, insecure, fetch_scenes.parcel_count(parcels), overwrite, dry_run,
    )  # fmt: skip
    result = api.fetch(session.workspace, request, report=session.report)
    session.show("fetch", result, *fetch_tables.fetch_summary(result))


def _verify(session: Session, name: str | None, manifests: Path | None, insecure: bool) -> None:
    from cropgen import api

    result = api.verify(session.workspace, name, manifests=manifests, insecure=insecure, report=session.report)
    session.show("fetch", result, fetch_tables.verify_table(result))
    if not result.sound:
        raise typer.Exit(CropgenError.exit_code)


def parse_rate(text: str | None) -> float | None:
    """Bytes per second of `500k`, `5M` or a plain number; None for None.

    Raises:
        UsageError: it is something else, or less than 1k.
    """
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)(?:b?(?:/s)?)", text.strip().lower())
    rate = float(match[1]) * _UNITS[match[2]] if match else 0.0
    if rate < _LEAST_RATE:
        raise UsageError(f"--limit-rate {text!r}: expected at least 1k", hint="for example --limit-rate 5M")
    return rate


def register(app: typer.Typer) -> None:
    app.command(epilog=GLOBAL_NOTE)(fetch)
